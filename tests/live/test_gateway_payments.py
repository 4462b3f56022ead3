"""A payment through web, broker and worker as processes of their own; a gateway's fake on the other side; kills in between."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F
from pytest_django.fixtures import Settings

from billing.events.services import SYSTEM
from billing.models import CreditPack, GatewayWebhook, Payment
from billing.payments.checkout import checkout_open
from billing.payments.topup import topup_draft
from iafactory.celery import app
from iafactory.local.processes import spawn
from tests.billing.payments.conftest import FAKES, PAYU_TOKEN, settings_of
from tests.billing.payments.market import PRICES
from tests.factories import account_make
from tests.fakes.server import browse, serve
from tests.fakes.stripe import FakeStripe

from .conftest import PROJECT, Live, _database_url, free_port, start_web, wait_until


class Shop:
    """Web and worker processes that know the fake gateways; each can be killed and started again."""

    def __init__(self, fakes: Mapping[str, Any], folder: Path) -> None:
        self.fakes = fakes
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings: dict[str, Any] = {"PUBLIC_URL": self.url, "PAYMENT_MODE": "test", "PAYMENT_GATEWAYS": list(fakes)}
        for slug, fake in fakes.items():
            self.settings |= settings_of(fake, folder)
            token = f"?token={PAYU_TOKEN}" if slug == "payu" else ""
            fake.webhook_url = fake.refund_url = f"{self.url}/api/payment/webhook/{slug}{token}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def stripe(self) -> FakeStripe:
        found: FakeStripe = self.fakes["stripe"]
        return found

    @property
    def environment(self) -> dict[str, str]:
        given = self.settings.items()
        return {name: ",".join(value) if isinstance(value, list) else value for name, value in given}

    def start_web(self) -> None:
        self.processes["web"] = start_web(self.port, "", self.folder / "web.log", **self.environment)

    def start_worker(self) -> None:
        log = self.folder / "worker.log"
        environment = os.environ | self.environment | {"DATABASE_URL": _database_url()}
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
        process.wait(60)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(60)


@pytest.fixture
def shop_of(live: Live, tmp_path: Path, settings: Settings) -> Iterator[Callable[..., Shop]]:
    stops: list[Callable[[], None]] = []

    def make(*slugs: str) -> Shop:
        fakes = {slug: FAKES[slug]() for slug in slugs}
        stops.extend(serve(fake) for fake in fakes.values())
        made = Shop(fakes, tmp_path)
        stops.insert(0, made.stop)
        for name, value in made.settings.items():
            setattr(settings, name, value)
        return made

    yield make
    for stop in stops:
        stop()


@pytest.fixture
def shop(shop_of: Callable[..., Shop]) -> Shop:
    return shop_of("stripe")


def top_up(slug: str = "stripe") -> Payment:
    """A new customer asks for a pack; the payment waits at the gateway."""
    currency, amount = PRICES[slug]
    pack, _ = CreditPack.objects.get_or_create(
        code=f"live-{slug}",
        defaults={"name": "Credits", "credits": Decimal(1000), "amount": Decimal(amount), "currency": currency},
    )
    pack.refresh_from_db()
    account = account_make()
    draft = topup_draft(account=account, pack=pack, currency=currency)
    return checkout_open(invoice=draft, purpose="topup", actor=SYSTEM, gateway=slug)


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


def test_every_gateways_webhooks_survive_a_kill_between_store_and_work(shop_of: Callable[..., Shop]) -> None:
    shop = shop_of(*FAKES)
    shop.start_web()
    payments = {slug: top_up(slug) for slug in FAKES}
    for slug, payment in payments.items():
        shop.fakes[slug].act(payment.checkout_url, "pay", form_action=payment.form_action, form=payment.form_fields)
    told = [(fake, delivery) for fake in shop.fakes.values() for delivery in fake.outbox]
    first = {fake.send(delivery) for fake, delivery in told}
    # Nobody has worked them; the broker forgets the tasks, and the web process dies.
    app.control.purge()
    shop.kill("web")
    before = {slug: (Payment.objects.get(pk=payment.pk).state, balance(payment)) for slug, payment in payments.items()}

    shop.start_worker()
    stored = GatewayWebhook.objects.filter(reference__in=[payment.reference for payment in payments.values()])
    stored.update(next_attempt_at=F("received_at"))
    app.send_task("billing.payments.webhooks_sweep")
    wait_until(lambda: all(succeeded(payment)() for payment in payments.values()), what="all succeeded", seconds=60)
    shop.kill("worker")
    shop.start_web()
    again = {fake.send(delivery) for fake, delivery in told}

    assert (first, again) == ({200}, {200})
    assert before == dict.fromkeys(FAKES, ("pending", Decimal(0)))
    assert {slug: balance(payment) for slug, payment in payments.items()} == dict.fromkeys(FAKES, Decimal(1000))
