"""Lists of what happened at a gateway, against its fake over real HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.payments.gateways.base import (
    GatewayRefused,
    GatewayUnavailable,
    ListsPayments,
    ListsRefunds,
    Money,
    PaymentState,
    RefundRequest,
)

from .conftest import Pair
from .setups import REFERENCE, REFUND_KEY, SETUPS, request_for
from .test_contract import buy, captured

PairOf = Callable[..., Pair]
ALL = list(SETUPS)
LISTING_REFUNDS = ["stripe", "paypal", "razorpay"]
OTHER = "pa99999999999999999999"


def today() -> dict[str, datetime]:
    now = datetime.now(UTC)
    return {"since": now - timedelta(hours=2), "until": now + timedelta(minutes=1)}


def paid(pair: Pair, reference: str = REFERENCE) -> Any:
    checkout = pair.adapter.create_checkout(request_for(pair.setup, reference=reference))
    buy(pair, checkout)
    return captured(pair, checkout)


@pytest.mark.parametrize("slug", ALL)
def test_what_was_paid_is_listed_under_a_name_we_know(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    first, second = paid(pair), paid(pair, OTHER)

    assert isinstance(pair.adapter, ListsPayments)
    listed = {one.payment_id: one for one in pair.adapter.list_payments(**today()) if one.state is PaymentState.PAID}

    assert set(listed) == {first.payment_id, second.payment_id}
    found = listed[first.payment_id]
    assert found.paid == pair.setup.money
    assert found.reference == REFERENCE or found.checkout_id == first.checkout_id


@pytest.mark.parametrize("slug", ["chargily", "stripe", "razorpay", "payu"])
def test_what_failed_is_no_money(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    buy(pair, pair.adapter.create_checkout(request_for(pair.setup)), "decline")

    listed = pair.adapter.list_payments(**today())

    assert [one.paid for one in listed] == [None]
    assert listed[0].state is not PaymentState.PAID


@pytest.mark.parametrize("slug", ALL)
@pytest.mark.parametrize("days", [-1, 1])
def test_other_days_are_not_listed(pair_of: PairOf, slug: str, days: int) -> None:
    pair = pair_of(slug)
    paid(pair)
    start = datetime.now(UTC) + timedelta(days=days)

    listed = pair.adapter.list_payments(since=start, until=start + timedelta(hours=12))

    assert listed == []


@pytest.mark.parametrize(
    ("slug", "size"),
    [("chargily", "SEARCH_PAGE_SIZE"), ("razorpay", "LIST_SIZE"), ("stripe", "LIST_SIZE"), ("paypal", "LIST_SIZE")],
)
def test_lists_are_read_to_their_end(pair_of: PairOf, monkeypatch: pytest.MonkeyPatch, slug: str, size: str) -> None:
    pair = pair_of(slug)
    monkeypatch.setattr(f"billing.payments.gateways.{slug}.{size}", 2)
    made = {paid(pair, f"pa{number:020d}").payment_id for number in range(5)}

    listed = pair.adapter.list_payments(**today())

    assert {one.payment_id for one in listed} == made
    assert len(listed) == 5


@pytest.mark.parametrize("slug", LISTING_REFUNDS)
def test_refunds_are_listed(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)
    refund = pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part))

    assert isinstance(pair.adapter, ListsRefunds)
    [listed] = pair.adapter.list_refunds(**today())

    assert (listed.refund_id, listed.payment_id, listed.money) == (refund.refund_id, payment.payment_id, pair.setup.part)
    assert listed.state == refund.state


@pytest.mark.parametrize("slug", ALL)
def test_a_list_that_fails_only_means_try_again(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    pair.fake.fail("error", times=9)

    with pytest.raises(GatewayUnavailable):
        pair.adapter.list_payments(**today())


def test_a_list_that_is_cut_off_is_no_list(pair_of: PairOf, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of("stripe")
    monkeypatch.setattr("billing.payments.gateways.stripe.LIST_SIZE", 1)
    paid(pair)
    paid(pair, OTHER)
    monkeypatch.setattr("billing.payments.gateways.stripe.LIST_PAGES", 1)

    with pytest.raises(GatewayUnavailable) as cut:
        pair.adapter.list_payments(**today())

    assert cut.value.code == "too_many"


def test_without_the_right_to_search_paypal_lists_nothing(pair_of: PairOf) -> None:
    pair = pair_of("paypal")
    pair.fake.may_search = False

    with pytest.raises(GatewayRefused) as refused:
        pair.adapter.list_payments(**today())

    assert refused.value.code == "NOT_AUTHORIZED"


def test_money_that_paypal_says_we_sent_is_no_payment(pair_of: PairOf) -> None:
    pair = pair_of("paypal")
    payment = paid(pair)
    pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part))

    listed = pair.adapter.list_payments(**today())

    assert [one.payment_id for one in listed] == [payment.payment_id]


def test_razorpays_payments_in_other_currencies_are_listed_as_they_are(pair_of: PairOf) -> None:
    pair = pair_of("razorpay")
    payment = paid(pair)
    pair.fake.payments[payment.payment_id]["currency"] = "USD"

    [listed] = pair.adapter.list_payments(**today())

    assert listed.paid == Money(Decimal("999.5"), "USD")


def test_payu_that_lists_nothing_it_can_say_so_about_is_not_believed(pair_of: PairOf) -> None:
    pair = pair_of("payu", salts=["wrong"])

    with pytest.raises(GatewayRefused) as refused:
        pair.adapter.list_payments(**today())

    assert (refused.value.code, refused.value.message) == ("not_listed", "Invalid Hash.")
