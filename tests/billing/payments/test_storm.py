"""Every webhook of a gateway twenty times by twenty threads, shuffled, and worked twenty times: one effect of each."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from pytest_django.fixtures import Settings

from billing.models import Event, GatewayWebhook, Invoice, Lot, Payment, Refund
from billing.payments.refunds import refund_ask, refund_confirm, refund_request
from tests.billing.subscriptions.selling import OPERATOR, wrong
from tests.factories import account_make

from .market import Market

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
PENDING = {"stripe": "pending", "paypal": "PENDING", "razorpay": "pending", "payu": "queued"}
# What buyers do at each, besides paying, that its gateway tells of.
DEEDS = {
    "chargily": {"decline": "failed", "cancel": "canceled", "expire": "expired"},
    "stripe": {"pay_slowly": "failed", "expire": "expired"},
    "paypal": {"cancel": "pending"},
    "razorpay": {"decline": "pending", "expire": "expired"},
    "payu": {"decline": "failed", "cancel": "canceled"},
}


@pytest.fixture(autouse=True)
def alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    monkeypatch.setattr("billing.payments.refunds.task_enqueue", lambda *arguments: None)


def do(market: Market, payment: Payment, what: str) -> None:
    if what == "expire":
        market.fake.expire(payment.checkout_id)
        return
    market.act(payment, what)
    if what == "pay_slowly":
        market.fake.settle_slow(payment.checkout_id, succeeded=False)


def storm(market: Market, seed: int) -> list[int]:
    """What waits is sent by twenty threads, each in an order of its own."""
    return market.deliver(threads=20, seed=seed)


@pytest.mark.parametrize("slug", list(DEEDS))
def test_twenty_threads_tell_everything_twenty_times_and_each_thing_happens_once(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    subscribed, topped_up, sent_back = market.subscribe(), market.top_up(), market.top_up()
    payers = (subscribed, topped_up, sent_back)
    others = {what: other_customer(market) for what in DEEDS[slug]}
    [market.act(payment) for payment in payers]
    [do(market, payment, what) for what, payment in others.items()]

    # PayPal tells of captures that the first round made.
    statuses = storm(market, 1) + storm(market, 2)
    market.fake.refund_status = PENDING.get(slug, "")
    refund = refund_ask(refund_id=refund_request(payment=sent_back, reason="not wanted", actor=OPERATOR).pk)
    finish(market, refund)
    statuses += storm(market, 3)
    rows = [str(pk) for pk in GatewayWebhook.objects.values_list("pk", flat=True)]
    market.queue.waiting = [("billing.payments.webhook_work", pk) for pk in rows]
    market.queue.work(threads=20, times=20, seed=4)

    refund.refresh_from_db()
    states = {what: Payment.objects.get(pk=payment.pk).state for what, payment in others.items()}
    assert set(statuses) == {200}
    assert set(GatewayWebhook.objects.values_list("deliveries", flat=True)) == {20}
    assert set(GatewayWebhook.objects.values_list("state", flat=True)) == {"processed"}
    assert (states, refund.state) == (DEEDS[slug], "succeeded")
    assert [Payment.objects.get(pk=payment.pk).state for payment in payers] == ["succeeded"] * 3
    # 500 of the plan, 1,050 of the one pack that stays.
    assert (market.live_plan(), market.credits()) == (f"pro-{slug}", Decimal(1550))
    assert Lot.objects.filter(wallet=market.account.pk).count() == 5
    assert Invoice.objects.filter(kind="invoice", state="paid").count() == 3
    assert (Invoice.objects.filter(kind="credit_note").count(), Refund.objects.count()) == (1, 1)
    assert Event.objects.filter(kind="payment.succeeded").count() == 3
    assert Payment.objects.count() == 3 + len(others)
    assert wrong() == []


def other_customer(market: Market) -> Payment:
    """Somebody else who asks for the pack."""
    first, market.account = market.account, account_make()
    try:
        return market.top_up()
    finally:
        market.account = first


def finish(market: Market, refund: Refund) -> None:
    """The gateway's refund ends; one by hand is confirmed."""
    if refund.by_hand:
        refund_confirm(refund=refund, actor=OPERATOR, reason="sent")
    else:
        market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)
