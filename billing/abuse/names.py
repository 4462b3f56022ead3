"""What signals of abuse and the figures behind them are called for people; rows keep the codes."""

from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ratelimit.models import SIGNAL_NAMES

SIGNALS: dict[str, Any] = {
    "burst_after_signup": _("Many calls right after signing up"),
    "key_networks": _("One key from many networks"),
    "lost_calls": _("Calls broken off again and again"),
    "many_accounts": _("Many accounts from one address"),
    "messages_a_day": _("More messages than the plan allows"),
    "refused_payments": _("Payments refused again and again"),
    "repeated_prompts": _("The same prompt again and again"),
    "spend_velocity": _("Sudden spending"),
}
SIGNAL_NAMES.update(SIGNALS)
FIGURES: dict[str, Any] = {
    "accounts": _("accounts"),
    "age_minutes": _("age in minutes"),
    "amounts": _("different amounts"),
    "borne_by_us_usd": _("borne by us, USD"),
    "calls": _("calls"),
    "client_gone": _("left by the client"),
    "credits_an_hour_normally": _("credits an hour, usually"),
    "credits_last_hour": _("credits of the last hour"),
    "credits_seven_days": _("credits of seven days"),
    "examples": _("examples"),
    "floor": _("looked at from"),
    "gateways": _("gateways"),
    "hours": _("hours"),
    "limit": _("limit"),
    "messages": _("messages"),
    "networks": _("networks"),
    "percent": _("percent"),
    "provider_error": _("failed at the provider"),
    "reasons": _("reasons"),
    "refused": _("refused"),
    "registrations": _("accounts opened"),
    "repetitions": _("repetitions"),
    "succeeded": _("succeeded"),
    "threshold": _("threshold"),
    "times": _("times the usual"),
    "upstream_dropped": _("dropped by the provider"),
}


def figure_label(name: str) -> str:
    """A figure of the evidence."""
    return str(FIGURES.get(name) or gettext(name.replace("_", " ")))
