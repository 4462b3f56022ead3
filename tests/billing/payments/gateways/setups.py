"""How each gateway is brought together with its fake, and what it sells in."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from billing.payments.gateways.base import CheckoutRequest, Gateway, Mode, Money
from billing.payments.gateways.chargily import Chargily
from billing.payments.gateways.paypal import PayPal
from billing.payments.gateways.payu import PayU
from billing.payments.gateways.razorpay import Razorpay
from billing.payments.gateways.stripe import Stripe
from tests.fakes.chargily import FakeChargily
from tests.fakes.paypal import ROOT, FakePayPal
from tests.fakes.payu import FakePayU
from tests.fakes.razorpay import FakeRazorpay
from tests.fakes.server import FakeGateway
from tests.fakes.stripe import FakeStripe

REFERENCE = "pa0123456789abcdef0123"
REFUND_KEY = "re0123456789abcdef0123"
TOKEN = "payu-webhook-token"


def now() -> datetime:
    return datetime.now(UTC)


def chargily(fake: FakeChargily, **changes: Any) -> Chargily:
    return Chargily(**{"mode": Mode.TEST, "secret_key": fake.secret_key, "api_url": f"{fake.url}/api/v2"} | changes)


def stripe(fake: FakeStripe, **changes: Any) -> Stripe:
    given = {"secret_key": fake.secret_key, "webhook_secrets": ["whsec_next", fake.webhook_secret], "api_url": fake.url}
    return Stripe(**{"mode": Mode.TEST} | given | changes)


def paypal(fake: FakePayPal, **changes: Any) -> PayPal:
    given = {"client_id": fake.client_id, "client_secret": fake.client_secret, "webhook_ids": [fake.webhook_id]}
    urls = {"api_url": fake.url, "certificate_origin": fake.url, "certificate_authorities": ROOT}
    return PayPal(**{"mode": Mode.TEST} | given | urls | changes)


def razorpay(fake: FakeRazorpay, **changes: Any) -> Razorpay:
    given = {
        "key_id": fake.key_id,
        "key_secret": fake.key_secret,
        "webhook_secrets": [fake.webhook_secret],
        "api_url": fake.url,
    }
    return Razorpay(**{"mode": Mode.TEST} | given | changes)


def payu(fake: FakePayU, **changes: Any) -> PayU:
    urls = {"api_url": f"{fake.url}/merchant/postservice.php", "pay_url": f"{fake.url}/_payment"}
    given = {"merchant_key": fake.merchant_key, "salts": [fake.salt], "webhook_tokens": [TOKEN]}
    return PayU(**{"mode": Mode.TEST} | given | urls | changes)


@dataclass(frozen=True)
class Setup:
    fake: Callable[..., FakeGateway]
    adapter: Callable[..., Gateway]
    money: Money
    part: Money
    on_the_wire: tuple[str, str]
    """Where the create call stands, and how the amount is written in it."""
    create_path: str = ""


SETUPS = {
    "chargily": Setup(
        FakeChargily, chargily, Money(Decimal(2590), "DZD"), Money(Decimal(590), "DZD"), ("/api/v2/checkouts", '"amount":2590,')
    ),
    "stripe": Setup(
        FakeStripe,
        stripe,
        Money(Decimal("49.90"), "USD"),
        Money(Decimal("15.05"), "USD"),
        ("/v1/checkout/sessions", "line_items%5B0%5D%5Bprice_data%5D%5Bunit_amount%5D=4990&"),
    ),
    "paypal": Setup(
        FakePayPal,
        paypal,
        Money(Decimal("49.9"), "USD"),
        Money(Decimal("15.05"), "USD"),
        ("/v2/checkout/orders", '"amount":{"currency_code":"USD","value":"49.90"}'),
    ),
    "razorpay": Setup(
        FakeRazorpay,
        razorpay,
        Money(Decimal("999.5"), "INR"),
        Money(Decimal("100.05"), "INR"),
        ("/v1/payment_links", '"amount":99950,'),
    ),
    "payu": Setup(
        FakePayU, payu, Money(Decimal("999.5"), "INR"), Money(Decimal("100.05"), "INR"), ("/_payment", "&amount=999.50&")
    ),
}


def request_for(setup: Setup, **changes: Any) -> CheckoutRequest:
    given: dict[str, Any] = {
        "reference": REFERENCE,
        "money": setup.money,
        "description": "Facture FAC-2026-000042",
        "success_url": "https://billing.example/return",
        "cancel_url": "https://billing.example/cancel",
        "webhook_url": "http://127.0.0.1:9/nobody",
        "invoice_number": "FAC-2026-000042",
        "email": "ines@example.com",
        "name": "Inès | Böhm",
        "phone": "+91 98765 43210",
        "language": "fr",
    }
    return CheckoutRequest(**given | changes)
