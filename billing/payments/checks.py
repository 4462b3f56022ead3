"""System checks for payment settings that would otherwise be wrong in silence."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from .configuration import BUILDERS, gateway_build

_IDS = {"no_key": "billing.E001", "live_key": "billing.E002", "test_key": "billing.E003", "no_webhook_secret": "billing.E004"}
_URLS = ("CHARGILY_API_URL", "STRIPE_API_URL", "PAYPAL_API_URL", "RAZORPAY_API_URL", "PAYU_API_URL", "PAYU_PAY_URL")


@register(Tags.security)
def gateways_are_usable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Enabled gateways exist and have their secrets, of the mode that payments run in; a live key never stands in test mode."""
    problems: list[CheckMessage] = []
    for slug in settings.PAYMENT_GATEWAYS:
        if slug not in BUILDERS:
            known = ", ".join(BUILDERS)
            problems.append(Error(f"PAYMENT_GATEWAYS names {slug!r}", hint=f"There are: {known}.", id="billing.E005"))
    for slug in BUILDERS:
        # The keys of a gateway that is switched off matter only when they could move real money.
        kinds = set(_IDS) if slug in settings.PAYMENT_GATEWAYS else {"live_key"}
        found = [problem for problem in gateway_build(slug).problems() if problem.kind in kinds]
        problems += [Error(problem.message, id=_IDS[problem.kind]) for problem in found]
    if settings.PRODUCTION:
        plain = [name for name in _URLS if urlsplit(getattr(settings, name)).scheme not in ("", "https")]
        problems += [Error(f"{name} is not an HTTPS address", id="billing.E006") for name in plain]
    if "payu" in settings.PAYMENT_GATEWAYS and not settings.PAYU_WEBHOOK_TOKENS:
        hint = "PayU signs neither refunds nor disputes: put a random token there, and at the end of the webhook's address."
        problems.append(Warning("PAYU_WEBHOOK_TOKENS is empty", hint=hint, id="billing.W001"))
    return problems
