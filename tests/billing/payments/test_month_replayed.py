"""A month's webhooks of many customers in fifty random orders, repeated, while gateways know more or less: one end state."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Q

from billing.invoices.models import Invoice
from billing.ledger.models import Lot, Wallet
from billing.models import Dispute, GatewayWebhook, Payment
from billing.payments.configuration import gateway_build
from billing.payments.gateways.base import Money, RefundRequest
from billing.payments.inbox.receiving import webhook_receive
from billing.payments.inbox.working import webhook_work
from billing.payments.polling import OPEN, payment_poll
from tests.billing.subscriptions.selling import wrong
from tests.factories import account_make
from tests.fakes.server import Delivery

from .conftest import PAYU_TOKEN
from .market import Market

ORDERS = 50
# What buyers did, in turn; each is a customer of its own.
STORIES = (
    *("pay", "decline", "cancel", "decline late", "expire", "nothing", "pay twice", "two gateways"),
    *("dispute lost", "dispute won", "refund at the gateway"),
)


def story(market: Market, other: Market, what: str) -> None:
    """One customer's dealings with the gateways."""
    market.account = other.account = account_make()
    if what.startswith(("dispute", "refund")):
        taken_back(other, what)
        return
    payment = market.top_up()
    match what:
        case "pay" | "decline" | "cancel":
            market.act(payment, what)
        case "decline late":
            market.act(payment, "decline")
            market.fake.pay_late(payment.checkout_id)
        case "expire":
            market.fake.expire(payment.checkout_id)
        case "pay twice":
            twin = f"{payment.checkout_id}twin"
            market.fake.checkouts[twin] = dict(market.fake.checkouts[payment.checkout_id]) | {"id": twin}
            market.act(payment)
            market.fake.pay_late(twin)
        case "two gateways":
            assert payment.invoice is not None
            second = other.open(payment.invoice, "topup")
            market.act(payment)
            other.act(second)


def taken_back(market: Market, what: str) -> None:
    """A customer pays, and the money goes back without our doing."""
    payment = market.top_up()
    market.act(payment)
    intent_id = market.fake.sessions[payment.checkout_id]["payment_intent"]
    if what.startswith("refund"):
        gateway: Any = gateway_build(market.slug)
        gateway.refund(RefundRequest("fromtheirconsole00000", intent_id, Money(Decimal(5), payment.currency)))
        return
    dispute_id = market.fake.open_dispute(intent_id)
    market.fake.close_dispute(dispute_id, won=what == "dispute won")


def snapshot() -> dict[str, Any]:
    """Everything that money did, without what only the order decides: numbers of invoices, and which of two came first."""
    payments = Payment.objects.values_list("account_id", "gateway_payment_id", "state", "received_amount", "currency")
    return {
        "payments": sorted(map(str, payments)),
        "unapplied": sum(Payment.objects.values_list("unapplied_amount", flat=True)),
        "wallets": sorted(map(str, Wallet.objects.values_list("account_id", "balance", "debt"))),
        "disputes": sorted(map(str, Dispute.objects.values_list("gateway_dispute_id", "state", "amount"))),
        "lots": sorted(map(str, Lot.objects.values_list("wallet_id", "kind", "amount"))),
        "invoices": sorted(map(str, Invoice.objects.values_list("account_id", "state", "total"))),
        "webhooks": sorted(map(str, GatewayWebhook.objects.values_list("event_id", "state"))),
    }


def replay(
    deliveries: list[tuple[str, Delivery]], histories: dict[str, list[str]], checkouts: dict[str, Any], seed: int
) -> None:
    """Deliver everything in an order of its own, some of it again; the gateway's knowledge grows as its events come."""
    chance = random.Random(seed)
    order = chance.sample(deliveries, len(deliveries))
    order += chance.choices(order, k=len(order) // 2)
    known = dict.fromkeys(histories, 0)
    for slug, delivery in order:
        for checkout_id, states in histories.items():
            if checkout_id.encode() in delivery.body:
                known[checkout_id] = chance.randrange(known[checkout_id], len(states))
                checkouts[checkout_id]["status"] = states[known[checkout_id]]
        row = webhook_receive(
            gateway=slug, body=delivery.body, headers=delivery.signed(), token=PAYU_TOKEN, address=None, at=datetime.now(UTC)
        )
        webhook_work(webhook_id=row.pk)
    for checkout_id, states in histories.items():
        checkouts[checkout_id]["status"] = states[-1]
    # Whatever webhooks said too early, the polls set right.
    for payment_id in Payment.objects.filter(state__in=OPEN).exclude(gateway="manual").values_list("pk", flat=True):
        payment_poll(payment_id=payment_id)
    # What failed is tried again, as the sweeper does; what a gateway said before it knew better, an operator has worked again.
    again = GatewayWebhook.objects.filter(Q(state="failed") | Q(gateway="chargily"))
    for row in again:
        GatewayWebhook.objects.filter(pk=row.pk).update(state="replayed")
        webhook_work(webhook_id=row.pk)


def histories_of(deliveries: list[tuple[str, Delivery]], checkouts: dict[str, Any]) -> dict[str, list[str]]:
    """The states that each checkout went through, the first before anything happened."""
    found = {checkout_id: ["pending"] for checkout_id in checkouts}
    for slug, delivery in deliveries:
        for checkout_id, states in found.items():
            if slug == "chargily" and f'"id":"{checkout_id}"'.encode() in delivery.body:
                states.append(delivery.kind.partition(".")[2])
    return found


@pytest.mark.django_db(transaction=True)
def test_fifty_orders_of_a_month_end_the_same(market_of: Callable[[str], Market]) -> None:
    market, other = market_of("chargily"), market_of("stripe")
    # Stripe takes dinars too: both can pay one invoice.
    market.queue.waiting.clear()
    for what in STORIES:
        story(market, other, what)
    deliveries = [(one.slug, delivery) for one in (market, other) for delivery in one.fake.outbox]
    histories = histories_of(deliveries, market.fake.checkouts)
    ends = []

    for seed in range(ORDERS):
        with transaction.atomic():
            replay(deliveries, histories, market.fake.checkouts, seed)
            ends.append(snapshot())
            problems = wrong()
            transaction.set_rollback(True)

    assert connection.in_atomic_block is False
    assert problems == []
    assert ends[0]["unapplied"] > Decimal(0)
    assert sorted(end.split("'")[3] for end in ends[0]["disputes"]) == ["lost", "won"]
    assert [seed for seed, end in enumerate(ends) if end != ends[0]] == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("attempts", "state"), [(0, "failed"), (11, "ignored")])
def test_a_dispute_told_before_its_payment_is_looked_for_again(
    market_of: Callable[[str], Market], attempts: int, state: str
) -> None:
    market = market_of("stripe")
    payment = market.top_up()
    market.queue.waiting.clear()
    market.act(payment)
    paid = list(market.fake.outbox)
    intent_id = market.fake.sessions[payment.checkout_id]["payment_intent"]
    market.fake.close_dispute(market.fake.open_dispute(intent_id), won=False)
    told = [delivery for delivery in market.fake.outbox if delivery not in paid]

    rows = [received(delivery) for delivery in told]
    GatewayWebhook.objects.update(attempts=attempts)
    early = {webhook_work(webhook_id=row.pk).state for row in rows}
    for delivery in paid:
        webhook_work(webhook_id=received(delivery).pk)
    later = {webhook_work(webhook_id=row.pk).state for row in rows}

    assert early == {state}
    assert later == ({"processed"} if state == "failed" else {state})
    assert [dispute.state for dispute in Dispute.objects.all()] == (["lost"] if state == "failed" else [])


def received(delivery: Delivery) -> GatewayWebhook:
    return webhook_receive(
        gateway="stripe", body=delivery.body, headers=delivery.signed(), token=PAYU_TOKEN, address=None, at=datetime.now(UTC)
    )
