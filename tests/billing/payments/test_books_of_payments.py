"""The rules of the books about payments notice what does not add up."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from billing.models import Dispute, Payment, Refund
from tests.billing.subscriptions.selling import wrong

from .market import Market

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
WENT_BACK = "what went back of a payment is what its refunds and lost disputes took"
CASH = "cash is what payments brought, less what refunds and lost disputes took"
RECEIVED = "every payment that succeeded is in the books with what was received"


@pytest.fixture
def paid(market_of: MarketOf) -> Payment:
    market = market_of("stripe")
    return market.paid(market.top_up())


def broken() -> dict[str, Any]:
    return {name: [[str(part) for part in row] for row in rows] for name, rows in wrong()}


def test_what_was_paid_and_stayed_adds_up(paid: Payment) -> None:
    assert broken() == {}


def test_money_that_went_back_by_no_refund_is_noticed(paid: Payment) -> None:
    Payment.objects.filter(pk=paid.pk).update(refunded_amount=Decimal(5))

    assert broken() == {WENT_BACK: [[paid.reference, "0", "5.0000"]]}


def test_a_refund_that_moved_no_cash_is_noticed(paid: Payment) -> None:
    Refund.objects.create(
        payment=paid,
        state="succeeded",
        amount=5,
        currency="USD",
        reason="x",
        requested_at=timezone.now(),
        facts={"invoice": "x"},
    )
    Payment.objects.filter(pk=paid.pk).update(refunded_amount=Decimal(5))

    assert broken() == {CASH: [["USD", "14.9000", "19.900000000"]]}


def test_a_lost_dispute_that_moved_no_cash_is_noticed(paid: Payment) -> None:
    Dispute.objects.create(
        payment=paid, state="lost", gateway_dispute_id="dp_1", amount=5, currency="USD", opened_at=timezone.now()
    )
    Payment.objects.filter(pk=paid.pk).update(refunded_amount=Decimal(5))

    assert broken() == {CASH: [["USD", "14.9000", "19.900000000"]]}


def test_more_money_than_was_booked_is_noticed(paid: Payment) -> None:
    Payment.objects.filter(pk=paid.pk).update(received_amount=Decimal(25))

    found = broken()

    assert found[RECEIVED] == [[paid.reference, "25.0000", "19.900000000"]]
    assert found[CASH] == [["USD", "25.0000", "19.900000000"]]
