"""How the panel's templates write numbers, money, instants and states."""

from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.names import kind_label
from billing.webhooks.catalogue import CATALOGUE
from iafactory.common import formats, texts

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
def duration(value: Any) -> str:
    return "" if value is None else formats.duration_text(value)


@register.filter
def country(value: Any) -> str:
    return formats.country_text(str(value))


@register.filter
def currency(value: Any) -> str:
    return formats.currency_text(str(value))


@register.filter
def whole(value: Any) -> int:
    """A whole number as languages count by it: the words beside "3" or "1,000" depend on it."""
    return int(value)


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


# What a key may do.
SCOPES: dict[str, Any] = {"inference": _("Call models"), "billing:read": _("Read balance and usage")}


@register.filter
def scope(value: Any) -> str:
    """What a key may do, in words."""
    return str(SCOPES.get(str(value), value))


# Why a message did not arrive; any other reason is a status of HTTP.
_NOT_DELIVERED: dict[str, Any] = {
    "address_forbidden": _("This address may not be called"),
    "address_invalid": _("The address is not valid"),
    "connection_broken": _("The connection broke off"),
    "connection_failed": _("No connection"),
    "gone": _("The server says: gone for good"),
    "name_not_resolved": _("No server has this name"),
    "redirect": _("It leads elsewhere, which is not followed"),
    "timeout": _("No answer in time"),
    "tls_failed": _("The certificate is not valid"),
}


@register.simple_tag
def server_answer(status: Any, error: Any) -> str:
    """What a customer's server answered to a message, or why it could not."""
    words = str(_NOT_DELIVERED.get(str(error), ""))
    return " ".join(part for part in (str(status or ""), words) if part)


@register.filter
def event_words(name: Any) -> str:
    """What an event of webhooks tells, in words beside its code."""
    known = CATALOGUE.get(str(name))
    return "" if known is None else kind_label(known.kind)


@register.filter
def feature(value: Any) -> str:
    """A plan's feature in words."""
    return str(FEATURES.get(str(value), value))


@register.filter
def shipped(value: Any) -> str:
    """The name or description of something on sale: translated as it was shipped, else as an operator wrote it."""
    return texts.shipped(str(value or ""))


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
