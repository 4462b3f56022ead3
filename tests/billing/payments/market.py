"""A customer who pays at a fake gateway, and the worker that the product's queue stands for."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.db import connection

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.ledger.models import Lot, Wallet
from billing.payments.checkout import checkout_open
from billing.payments.inbox.models import GatewayWebhook
from billing.payments.inbox.working import webhook_work
from billing.payments.models import Payment
from billing.payments.topup import topup_draft
from billing.plans.models import CreditPack, Plan
from billing.subscriptions import selectors
from billing.subscriptions.checkout import subscription_begin
from tests.fakes.server import Delivery, Landing, post

# What each gateway is paid in, and the price that is asked.
PRICES = {
    "chargily": ("DZD", "2590"),
    "stripe": ("USD", "19.90"),
    "paypal": ("EUR", "19.90"),
    "razorpay": ("INR", "1499.50"),
    "payu": ("INR", "1499.50"),
}


@dataclass
class Queue:
    """Stands for broker and workers: tasks wait until `work`, which runs them in threads, shuffled."""

    waiting: list[tuple[Any, ...]] = field(default_factory=list)

    def __call__(self, name: str, *arguments: Any) -> None:
        self.waiting.append((name, *arguments))

    def work(self, *, threads: int = 4, times: int = 1, seed: int = 1) -> None:
        ids = [task[1] for task in self.waiting if task[0] == "billing.payments.webhook_work"] * times
        self.waiting.clear()
        random.Random(seed).shuffle(ids)
        shares = [ids[start::threads] for start in range(threads)]
        in_threads([lambda share=share: [webhook_work(webhook_id=one) for one in share] for share in shares if share])  # type: ignore[misc]


def in_threads(jobs: list[Callable[[], Any]]) -> None:
    """Runs every job in a thread of its own; the first failure is raised."""
    failures: list[BaseException] = []

    def run(job: Callable[[], Any]) -> None:
        try:
            job()
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@dataclass
class Market:
    """A gateway with its fake, a customer with something to buy, and the product's own address."""

    slug: str
    fake: Any
    account: Account
    plan: Plan
    pack: CreditPack
    queue: Queue
    url: str

    @property
    def price(self) -> Decimal:
        return Decimal(PRICES[self.slug][1])

    def subscribe(self, **options: Any) -> Payment:
        """The customer asks for the plan; the payment waits for it at the gateway."""
        begun = subscription_begin(account=self.account, plan=self.plan, actor=SYSTEM, currency=PRICES[self.slug][0])
        assert begun.to_pay is not None
        return self.open(begun.to_pay, Payment.Purpose.SUBSCRIBE, **options)

    def top_up(self, **options: Any) -> Payment:
        """The customer asks for the pack."""
        draft = topup_draft(account=self.account, pack=self.pack, currency=PRICES[self.slug][0])
        return self.open(draft, Payment.Purpose.TOPUP, **options)

    def open(self, invoice: Invoice, purpose: str, **options: Any) -> Payment:
        return checkout_open(invoice=invoice, purpose=purpose, actor=SYSTEM, **{"gateway": self.slug} | options)

    def act(self, payment: Payment, action: str = "pay") -> Landing:
        """The buyer goes to the gateway's page, through ours where it needs a form, and does `action`."""
        landing: Landing = self.fake.act(
            payment.checkout_url, action, form_action=payment.form_action, form=payment.form_fields
        )
        return landing

    def deliver(self, *, times: int = 1, threads: int = 1, seed: int = 1) -> list[int]:
        """Every webhook that waits is sent `times` by each thread, shuffled, over HTTP; then the queue is worked."""
        waiting, self.fake.outbox = self.fake.outbox, []
        statuses = self.send(waiting, times=times, threads=threads, seed=seed)
        self.queue.work(seed=seed)
        return statuses

    def send(self, deliveries: list[Delivery], *, times: int = 1, threads: int = 1, seed: int = 1) -> list[int]:
        signed = [(delivery.url, delivery.body, delivery.signed()) for delivery in deliveries] * times
        statuses: list[int] = []

        def run(number: int) -> None:
            for url, body, headers in random.Random(seed + number).sample(signed, len(signed)):
                statuses.append(post(url, body, headers))

        in_threads([lambda number=number: run(number) for number in range(threads)])  # type: ignore[misc]
        return statuses

    def paid(self, payment: Payment) -> Payment:
        """The buyer paid and every webhook was worked, PayPal's second round after the capture too."""
        self.act(payment)
        self.deliver()
        self.deliver()
        payment.refresh_from_db()
        return payment

    def live_plan(self) -> str:
        live = selectors.subscription_live(self.account)
        return live.plan.code if live else ""

    def credits(self) -> Decimal:
        return Wallet.objects.get(pk=self.account.pk).balance

    def lots(self) -> int:
        return Lot.objects.filter(wallet=self.account.pk).count()

    def webhook_states(self) -> set[str]:
        return set(GatewayWebhook.objects.values_list("state", flat=True))
