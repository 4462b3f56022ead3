"""Every gateway that there is an adapter for, by slug."""

from collections.abc import Mapping
from types import MappingProxyType

from .base import Gateway
from .chargily import Chargily
from .paypal import PayPal
from .payu import PayU
from .razorpay import Razorpay
from .stripe import Stripe

_gateways: dict[str, type[Gateway]] = {}
GATEWAYS: Mapping[str, type[Gateway]] = MappingProxyType(_gateways)


def register(gateway: type[Gateway]) -> None:
    """Adds an adapter; ValueError when its slug is taken."""
    if gateway.slug in _gateways:
        raise ValueError(f"there is a gateway {gateway.slug} already")
    _gateways[gateway.slug] = gateway


for _gateway in (Chargily, Stripe, PayPal, Razorpay, PayU):
    register(_gateway)
