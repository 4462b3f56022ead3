"""A payment through web, broker and worker as processes of their own; a gateway's fake on the other side; kills in between."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from billing.events.services import SYSTEM
from billing.models import CreditPack, GatewayWebhook, Payment
from billing.payments.checkout import checkout_open
from billing.payments.topup import topup_draft
from iafactory.celery import app
from iafactory.local.processes import spawn
from tests.factories import account_make
from tests.fakes.server import browse, serve
from tests.fakes.stripe import FakeStripe

from .conftest import PROJECT, Live, _database_url, free_port, start_web, wait_until


@pytest.fixture
def stripe() -> Iterator[FakeStripe]:
    fake = FakeStripe()
    stop = serve(fake)
    yield fake
    stop()


class Shop:
    """Web and worker processes that know the fake gateway; each can be killed and started again."""

    def __init__(self, stripe: FakeStripe, folder: Path) -> None:
        self.stripe = stripe
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings: dict[str, str] = {
            "PUBLIC_URL": self.url,
            "PAYMENT_MODE": "test",
            "PAYMENT_GATEWAYS": "stripe",
            "STRIPE_SECRET_KEY": stripe.secret_key,
            "STRIPE_WEBHOOK_SECRETS": stripe.webhook_secret,
            "STRIPE_API_URL": stripe.url,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        stripe.webhook_url = f"{self.url}/api/payment/webhook/stripe"

    def start_web(self) -> None:
        self.processes["web"] = start_web(self.port, "", self.folder / "web.log", **self.settings)

    def start_worker(self) -> None:
        log = self.folder / "worker.log"
        environment = os.environ | self.settings | {"DATABASE_URL": _database_url()}
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "iafactory",
            "worker",
            "-l",
            "info",
            "--concurrency",
            "1",
            "-Q",
            "celery",
        ]
        self.processes["worker"] = spawn(command, environment=environment, folder=PROJECT, log=log)
        wait_until(lambda: "ready." in log.read_text(), what="worker answers", seconds=40)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(15)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(30)


@pytest.fixture
def shop(live: Live, stripe: FakeStripe, tmp_path: Path, settings: Settings) -> Iterator[Shop]:
    made = Shop(stripe, tmp_path)
    for name, value in made.settings.items():
        setattr(settings, name, [value] if name in ("PAYMENT_GATEWAYS", "STRIPE_WEBHOOK_SECRETS") else value)
    yield made
    made.stop()


def top_up() -> Payment:
    """A new customer asks for a pack; the payment waits at the gateway."""
    pack, _ = CreditPack.objects.get_or_create(
        code="live", defaults={"name": "Credits", "credits": Decimal(1000), "amount": Decimal(10), "currency": "USD"}
    )
    pack.refresh_from_db()
    account = account_make()
    draft = topup_draft(account=account, pack=pack, currency="USD")
    return checkout_open(invoice=draft, purpose="topup", actor=SYSTEM)


def balance(payment: Payment) -> Decimal:
    wallet: Any = payment.account.wallet
    wallet.refresh_from_db()
    return Decimal(wallet.balance)


def succeeded(payment: Payment) -> Callable[[], bool]:
    return lambda: Payment.objects.get(pk=payment.pk).state == "succeeded"


def test_a_buyer_pays_and_the_worker_books_it(shop: Shop) -> None:
    shop.start_web()
    shop.start_worker()
    payment = top_up()
    shop.stripe.send_at_once = True

    shop.stripe.act(payment.checkout_url, "pay")
    wait_until(succeeded(payment), what="payment succeeded", seconds=30)
    page = browse("GET", f"{shop.url}/payment/return/{payment.reference}")

    assert balance(payment) == Decimal(1000)
    assert 'data-state="succeeded"' in page.body


def test_processes_killed_between_store_and_work_lose_and_double_nothing(shop: Shop) -> None:
    shop.start_web()
    payment = top_up()
    shop.stripe.act(payment.checkout_url, "pay")
    [delivery] = shop.stripe.outbox
    first = shop.stripe.send(delivery)
    # Nobody has worked it; the broker forgets the task, and the web process dies.
    app.control.purge()
    shop.kill("web")
    stored = GatewayWebhook.objects.get(reference=payment.reference)
    before = (stored.state, balance(payment))

    shop.start_worker()
    GatewayWebhook.objects.filter(pk=stored.pk).update(next_attempt_at=stored.received_at)
    app.send_task("billing.payments.webhooks_sweep")
    wait_until(succeeded(payment), what="payment succeeded", seconds=30)
    shop.kill("worker")
    shop.start_web()
    again = shop.stripe.send(delivery)
    shop.start_worker()
    app.send_task("billing.payments.webhook_work", args=[str(stored.pk)])
    wait_until(
        lambda: GatewayWebhook.objects.get(reference=payment.reference).state == "processed", what="webhook worked", seconds=30
    )

    assert (first, before, again) == (200, ("received", Decimal(0)), 200)
    assert balance(payment) == Decimal(1000)
    assert GatewayWebhook.objects.get(reference=payment.reference).state == "processed"
