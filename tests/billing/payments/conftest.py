"""The five fake gateways, wired to the product through its settings."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from billing.events.services import SYSTEM
from billing.ledger.foundations import foundations_ensure
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from billing.plans.models import CreditPack, Plan
from billing.subscriptions.services import subscription_start
from tests.billing.subscriptions.selling import plan_make
from tests.factories import account_make
from tests.fakes.chargily import FakeChargily
from tests.fakes.paypal import ROOT, FakePayPal
from tests.fakes.payu import FakePayU
from tests.fakes.razorpay import FakeRazorpay
from tests.fakes.server import FakeGateway, serve
from tests.fakes.stripe import FakeStripe

from .market import PRICES, Market, Queue

PAYU_TOKEN = "payu-webhook-token"


def settings_of(fake: Any, folder: Path) -> dict[str, Any]:
    """What the settings say about a gateway so that it is found at its fake."""
    match fake:
        case FakeChargily():
            return {"CHARGILY_SECRET_KEY": fake.secret_key, "CHARGILY_API_URL": f"{fake.url}/api/v2"}
        case FakeStripe():
            secrets = {"STRIPE_SECRET_KEY": fake.secret_key, "STRIPE_WEBHOOK_SECRETS": [fake.webhook_secret]}
            return secrets | {"STRIPE_API_URL": fake.url}
        case FakePayPal():
            authorities = folder / "authorities.pem"
            authorities.write_bytes(ROOT)
            return {
                "PAYPAL_CLIENT_ID": fake.client_id,
                "PAYPAL_CLIENT_SECRET": fake.client_secret,
                "PAYPAL_WEBHOOK_IDS": [fake.webhook_id],
                "PAYPAL_API_URL": fake.url,
                "PAYPAL_CERTIFICATE_AUTHORITIES": str(authorities),
            }
        case FakeRazorpay():
            key = {"RAZORPAY_KEY_ID": fake.key_id, "RAZORPAY_KEY_SECRET": fake.key_secret}
            return key | {"RAZORPAY_WEBHOOK_SECRETS": [fake.webhook_secret], "RAZORPAY_API_URL": fake.url}
        case FakePayU():
            return {
                "PAYU_MERCHANT_KEY": fake.merchant_key,
                "PAYU_SALTS": [fake.salt],
                "PAYU_WEBHOOK_TOKENS": [PAYU_TOKEN],
                "PAYU_API_URL": f"{fake.url}/merchant/postservice.php",
                "PAYU_PAY_URL": f"{fake.url}/_payment",
            }
        case _:
            raise TypeError(fake)


FAKES: dict[str, type[FakeGateway]] = {
    "chargily": FakeChargily,
    "stripe": FakeStripe,
    "paypal": FakePayPal,
    "razorpay": FakeRazorpay,
    "payu": FakePayU,
}


@pytest.fixture
def fake_of(settings: Settings, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Starts the fake of a gateway, enables the gateway, and points the product to it."""
    stops = []
    settings.PAYMENT_MODE = "test"
    settings.PAYMENT_GATEWAYS = []

    def start(slug: str) -> Any:
        fake = FAKES[slug]()
        stops.append(serve(fake))
        for name, value in settings_of(fake, tmp_path).items():
            setattr(settings, name, value)
        settings.PAYMENT_GATEWAYS = [*settings.PAYMENT_GATEWAYS, slug]
        return fake

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    waiting = Queue()
    monkeypatch.setattr("billing.payments.inbox.receiving.task_enqueue", waiting)
    monkeypatch.setattr("billing.payments.inbox.working.task_enqueue", waiting)
    return waiting


@pytest.fixture
def market_of(fake_of: Callable[[str], Any], queue: Queue, live_server: Any, settings: Settings) -> Callable[..., Market]:
    """A customer on `free`, a plan and a pack to buy at a gateway, and the product on a real address."""
    settings.PUBLIC_URL = live_server.url

    def make(slug: str) -> Market:
        fake = fake_of(slug)
        token = f"?token={PAYU_TOKEN}" if slug == "payu" else ""
        fake.webhook_url = fake.refund_url = f"{live_server.url}/api/payment/webhook/{slug}{token}"
        currency, amount = PRICES[slug]
        if not Plan.objects.filter(code="free").exists():
            foundations_ensure()
            with catalog_writing() as writer:
                selling_write(writer)
            plan_make("free", None, family="free", interval="none", daily_limit=3)
        plan = plan_make(f"pro-{slug}", amount, currency=currency, billing_mode="credits", period_credits=500)
        contents = {"credits": Decimal(1000), "bonus_credits": Decimal(50)}
        pack = CreditPack.objects.create(
            code=f"pack-{slug}", name="Credits", amount=Decimal(amount), currency=currency, **contents
        )
        account = account_make()
        subscription_start(account=account, plan=Plan.objects.get(code="free"), actor=SYSTEM)
        return Market(slug, fake, account, plan, pack, queue, live_server.url)

    return make
