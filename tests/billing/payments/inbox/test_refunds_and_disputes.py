"""Webhooks about money that goes back: made sure of at the gateway, and shown to operators where our rows say otherwise."""

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from billing.models import Dispute, GatewayWebhook, Payment, Refund
from billing.payments.configuration import gateway_build
from billing.payments.gateways.base import Money, RefundRequest
from tests.billing.payments.market import Market

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
REFUNDING = ["stripe", "paypal", "razorpay", "payu"]
PENDING = {"stripe": "pending", "paypal": "PENDING", "razorpay": "pending", "payu": "queued"}


def refunded(market: Market, payment: Payment, key: str) -> Any:
    """Half of a payment goes back, by the gateway's API."""
    adapter: Any = gateway_build(market.slug)
    part = Money(payment.amount.quantize(market.price) / 2, payment.currency)
    refund = adapter.refund(RefundRequest(key, payment.gateway_payment_id, Money(round(part.amount, 2), part.currency)))
    return refund


def latest() -> GatewayWebhook:
    found = GatewayWebhook.objects.order_by("-received_at").first()
    assert found is not None
    return found


@pytest.mark.parametrize("slug", REFUNDING)
def test_a_refund_that_stands_as_ours_is_done(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    market.fake.refund_status = PENDING[slug]
    payment = market.paid(market.top_up())
    ours = Refund.objects.create(
        payment=payment, state="succeeded", amount=1, currency=payment.currency, reason="x", requested_at=timezone.now()
    )
    begun = refunded(market, payment, ours.reference)
    Refund.objects.filter(pk=ours.pk).update(amount=begun.money.amount)
    market.fake.finish_refund(begun.refund_id, succeeded=True)

    market.deliver()

    row = latest()
    assert (row.state, row.payment, row.refund_id) == ("processed", payment, begun.refund_id)
    assert row.note == f"refund {begun.refund_id}: {begun.money} succeeded"


@pytest.mark.parametrize("slug", REFUNDING)
def test_a_refund_that_nobody_asked_for_here_is_an_operators(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    market.fake.refund_status = PENDING[slug]
    payment = market.paid(market.top_up())
    begun = refunded(market, payment, "fromtheirconsole00000")
    market.fake.finish_refund(begun.refund_id, succeeded=True)

    market.deliver()

    row = latest()
    assert (row.state, row.payment, row.next_attempt_at) == ("failed", payment, None)
    assert row.note == f"refund {begun.refund_id}: {begun.money} succeeded, which nobody asked for here"


def test_a_refund_that_failed_after_it_succeeded_is_tried_until_our_row_says_so(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    ours = Refund.objects.create(
        payment=payment, state="succeeded", amount=1, currency=payment.currency, reason="x", requested_at=timezone.now()
    )
    begun = refunded(market, payment, ours.reference)
    Refund.objects.filter(pk=ours.pk).update(amount=begun.money.amount)
    market.deliver()
    market.fake.finish_refund(begun.refund_id, succeeded=False)

    market.deliver()
    waiting = latest()
    Refund.objects.filter(pk=ours.pk).update(state="failed")
    market.queue.waiting = [("billing.payments.webhook_work", str(waiting.pk))]
    market.queue.work()

    assert (waiting.state, waiting.note) == ("failed", f"refund {begun.refund_id}: {begun.money} failed, here succeeded")
    assert waiting.next_attempt_at is not None
    assert latest().state == "processed"


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay"])
def test_a_dispute_is_shown_until_our_row_agrees(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    dispute_id = market.fake.open_dispute(payment.gateway_payment_id)

    market.deliver()
    unknown = latest()
    Dispute.objects.create(
        payment=payment,
        gateway_dispute_id=dispute_id,
        amount=payment.amount,
        currency=payment.currency,
        opened_at=timezone.now(),
    )
    market.queue.waiting = [("billing.payments.webhook_work", str(unknown.pk))]
    market.queue.work()

    assert (unknown.state, unknown.payment) == ("failed", payment)
    assert unknown.note == f"dispute {dispute_id}: {Money(payment.amount, payment.currency)} open, here unknown"
    assert latest().state == "processed"
