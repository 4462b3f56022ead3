"""How the panel's templates write numbers, money, instants and states."""

from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from iafactory.common import formats

register = template.Library()

# The words and the colour of every state that customers see.
STATES: dict[str, tuple[Any, str]] = {
    "active": (_("Active"), "good"),
    "blocked": (_("Blocked"), "bad"),
    "canceled": (_("Canceled"), ""),
    "client_gone": (_("Client left"), "warn"),
    "complete": (_("Complete"), "good"),
    "created": (_("Being prepared"), "warn"),
    "credit_note": (_("Credit note"), ""),
    "cut_off": (_("Cut off"), "warn"),
    "delivered": (_("Delivered"), "good"),
    "disabled": (_("Switched off"), "bad"),
    "enabled": (_("Switched on"), "good"),
    "expired": (_("Expired"), ""),
    "failed": (_("Failed"), "bad"),
    "incomplete": (_("Not paid yet"), "warn"),
    "open": (_("To be paid"), "warn"),
    "paid": (_("Paid"), "good"),
    "past_due": (_("Payment overdue"), "bad"),
    "paused": (_("Paused"), "warn"),
    "pending": (_("Waiting"), "warn"),
    "process_died": (_("Interrupted"), "bad"),
    "provider_error": (_("Provider failed"), "bad"),
    "refused": (_("Refused"), "bad"),
    "review": (_("Being checked"), "warn"),
    "revoked": (_("Revoked"), "bad"),
    "succeeded": (_("Received"), "good"),
    "trialing": (_("On trial"), "good"),
    "uncollectible": (_("Given up"), "bad"),
    "unknown": (_("Waiting"), "warn"),
    "upstream_dropped": (_("Broken off"), "warn"),
    "void": (_("Void"), ""),
}


@register.filter
def credits(value: Any) -> str:
    return "" if value is None else formats.credits_text(value)


@register.filter
def number(value: Any) -> str:
    return "" if value is None else formats.number_text(value)


@register.filter
def money(value: Any, currency: str) -> str:
    return "" if value is None else formats.money_text(value, currency)


@register.filter
def percent(value: Any) -> str:
    return "" if value is None else formats.percent_text(value)


@register.filter
def instant(value: Any) -> SafeString:
    """A time of day in the account's zone, with the exact instant for machines."""
    at = formats.instant_of(value)
    if at is None:
        return SafeString("")
    text = formats.instant_text(at, timezone.get_current_timezone())
    return format_html('<time datetime="{}">{}</time>', at.isoformat(), text)


@register.filter
def day(value: Any) -> str:
    return formats.day_text(value, timezone.get_current_timezone())


@register.filter
def ago(value: Any) -> str:
    return formats.ago_text(value)


@register.filter
def state(value: Any) -> SafeString:
    """A state as a badge."""
    words, colour = STATES.get(str(value), (value, ""))
    return format_html('<span class="badge{}">{}</span>', f" badge-{colour}" if colour else "", words)


# Features of plans that have a name of their own; others are shown as an operator wrote them.
FEATURES: dict[str, Any] = {
    "api": _("API"),
    "custom_models": _("Custom models"),
    "fiscal": _("Tax assistant"),
    "legal": _("Legal assistant"),
    "rag": _("Answers from your documents"),
    "voice": _("Voice"),
    "park": _("Fleet"),
    "premium_fast": _("Premium: served first"),
    "priority_support": _("Support with priority"),
    "support_24_7": _("Support day and night"),
    "sla_99_9": _("99.9 % availability"),
    "todo_list": _("To-do list"),
    "context_1m": _("Context of a million tokens"),
}


@register.filter
def feature(value: Any) -> str:
    """A plan's feature in words."""
    return str(FEATURES.get(str(value), value))


@register.filter
def shipped(value: Any) -> str:
    """The name or description of something on sale: translated as it was shipped, else as an operator wrote it."""
    text = str(value or "")
    # The translation of the empty text is the catalogue's own head.
    return gettext(text) if text else ""


# What the ledger writes before the code of what was bought.
_SOURCES = {"Plan": _("Plan"), "Pack": _("Pack")}


@register.filter
def lot_source(source: str) -> str:
    """Where credits came from: "Plan pro" in the reader's language, other sources as they were written."""
    kind, _space, code = source.partition(" ")
    return f"{_SOURCES[kind]} {code}" if kind in _SOURCES and " " not in code else source


@register.filter
def get(mapping: Any, key: Any) -> Any:
    """`mapping[key]`, empty where there is none."""
    return mapping.get(key, "") if mapping else ""


@register.simple_tag(takes_context=True)
def here(context: Any, *names: str) -> SafeString:
    """`aria-current` for the entry of the menu whose pages `names` are."""
    match = context["request"].resolver_match
    current = match is not None and match.namespace == "panel" and match.url_name in names
    return SafeString('aria-current="page"' if current else "")


@register.simple_tag(takes_context=True)
def with_query(context: Any, **changes: Any) -> str:
    """The page's own query with these changes, as `?…`."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        if value in (None, ""):
            query.pop(name, None)
        else:
            query[name] = str(value)
    return f"?{query.urlencode()}"
