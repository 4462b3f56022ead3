"""Webhooks about money that goes back: made sure of at the gateway, and shown to operators where nobody here asked for it."""

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from billing.models import GatewayWebhook, Payment, Refund
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


def test_a_refund_of_another_amount_is_an_operators(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    ours = Refund.objects.create(
        payment=payment, amount=1, currency=payment.currency, reason="x", requested_at=timezone.now(), facts={"invoice": None}
    )
    begun = refunded(market, payment, ours.reference)

    market.deliver()

    ours.refresh_from_db()
    row = latest()
    assert (row.state, row.payment, row.next_attempt_at) == ("failed", payment, None)
    assert row.note == f"refund {begun.refund_id}: {begun.money} succeeded, not 1.0000 USD"
    assert ours.state == "requested"
