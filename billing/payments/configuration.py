"""The payment gateways as the settings describe them."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.core.cache import cache
from django.core.signals import setting_changed
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError

from iafactory.common.crypto import decrypt, encrypt, secret_hash

from .gateways.base import Gateway, Mode
from .gateways.chargily import Chargily
from .gateways.paypal import PayPal, ProcessTokens, Token
from .gateways.payu import PayU
from .gateways.razorpay import Razorpay
from .gateways.stripe import Stripe

logger = logging.getLogger(__name__)

# Settings about gateways begin with these.
_PREFIXES = ("PAYMENT_", "CHARGILY_", "STRIPE_", "PAYPAL_", "RAZORPAY_", "PAYU_")


class SharedTokens:
    """PayPal's access tokens, shared by all processes through the cache, encrypted; without Redis each process has its own."""

    def __init__(self) -> None:
        self._own = ProcessTokens()

    def get(self, key: str) -> Token | None:
        try:
            kept = cache.get(self._name(key))
            return Token(**json.loads(decrypt(kept))) if kept else None
        except (ConnectionInterrupted, RedisError, InvalidToken):
            return self._own.get(key)

    def set(self, key: str, token: Token) -> None:
        self._own.set(key, token)
        kept = encrypt(json.dumps({"value": token.value, "expires_at": token.expires_at}))
        try:
            # Its own time is checked when it is used; this only cleans up.
            cache.set(self._name(key), kept, 24 * 3600)
        except (ConnectionInterrupted, RedisError):
            logger.warning("PayPal's access token is kept by this process alone")

    def _name(self, key: str) -> str:
        return f"payments:paypal-token:{settings.PAYMENT_MODE}:{secret_hash(key)[:32]}"


def _chargily(mode: Mode) -> Gateway:
    return Chargily(
        mode=mode,
        secret_key=settings.CHARGILY_SECRET_KEY,
        earlier_secret_keys=settings.CHARGILY_EARLIER_SECRET_KEYS,
        api_url=settings.CHARGILY_API_URL,
    )


def _stripe(mode: Mode) -> Gateway:
    return Stripe(
        mode=mode,
        secret_key=settings.STRIPE_SECRET_KEY,
        webhook_secrets=settings.STRIPE_WEBHOOK_SECRETS,
        api_url=settings.STRIPE_API_URL,
    )


def _paypal(mode: Mode) -> Gateway:
    elsewhere: dict[str, Any] = {}
    if settings.PAYPAL_API_URL and not settings.PRODUCTION:
        elsewhere["certificate_origin"] = settings.PAYPAL_API_URL
        if settings.PAYPAL_CERTIFICATE_AUTHORITIES:
            elsewhere["certificate_authorities"] = Path(settings.PAYPAL_CERTIFICATE_AUTHORITIES).read_bytes()
    return PayPal(
        mode=mode,
        client_id=settings.PAYPAL_CLIENT_ID,
        client_secret=settings.PAYPAL_CLIENT_SECRET,
        webhook_ids=settings.PAYPAL_WEBHOOK_IDS,
        api_url=settings.PAYPAL_API_URL,
        tokens=SharedTokens(),
        **elsewhere,
    )


def _razorpay(mode: Mode) -> Gateway:
    return Razorpay(
        mode=mode,
        key_id=settings.RAZORPAY_KEY_ID,
        key_secret=settings.RAZORPAY_KEY_SECRET,
        webhook_secrets=settings.RAZORPAY_WEBHOOK_SECRETS,
        api_url=settings.RAZORPAY_API_URL,
    )


def _payu(mode: Mode) -> Gateway:
    return PayU(
        mode=mode,
        merchant_key=settings.PAYU_MERCHANT_KEY,
        salts=settings.PAYU_SALTS,
        webhook_tokens=settings.PAYU_WEBHOOK_TOKENS,
        api_url=settings.PAYU_API_URL,
        pay_url=settings.PAYU_PAY_URL,
    )


BUILDERS: Mapping[str, Callable[[Mode], Gateway]] = {
    "chargily": _chargily,
    "stripe": _stripe,
    "paypal": _paypal,
    "razorpay": _razorpay,
    "payu": _payu,
}


@functools.cache
def gateway_build(slug: str) -> Gateway:
    """The gateway `slug` with whatever credentials the settings have; KeyError for an unknown one."""
    return BUILDERS[slug](Mode(settings.PAYMENT_MODE))


def gateway_configured(slug: str) -> Gateway | None:
    """The gateway, if it exists and has its key. One that is not offered any more still receives webhooks and refunds."""
    if slug not in BUILDERS:
        return None
    gateway = gateway_build(slug)
    return None if any(problem.kind == "no_key" for problem in gateway.problems()) else gateway


def gateways_offered() -> list[Gateway]:
    """The gateways that new payments may use, the preferred one first: those enabled whose settings have no problem."""
    known = [gateway_build(slug) for slug in settings.PAYMENT_GATEWAYS if slug in BUILDERS]
    return [gateway for gateway in known if not gateway.problems()]


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting.startswith(_PREFIXES):
        gateway_build.cache_clear()


setting_changed.connect(_forget)
