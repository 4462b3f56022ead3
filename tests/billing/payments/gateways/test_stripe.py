"""What only Stripe has: saved cards, declines in the answer, a window for signatures."""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.payments.gateways.base import (
    GatewayRefused,
    Mode,
    Money,
    PaymentState,
    Rejection,
    SavedCardCharge,
    Subject,
    WebhookRejected,
)

from .conftest import Pair
from .setups import now, request_for

NEXT_REFERENCE = "pa1111111111abcdef0123"


@pytest.fixture
def pair(pair_of: Callable[..., Pair]) -> Pair:
    return pair_of("stripe")


def with_saved_card(pair: Pair) -> Any:
    checkout = pair.adapter.create_checkout(request_for(pair.setup, save_card=True))
    pair.fake.act(checkout.url, "pay")
    return pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)


def charge(payment: Any, reference: str = NEXT_REFERENCE) -> SavedCardCharge:
    return SavedCardCharge(reference, Money(Decimal(20), "USD"), payment.customer_id, payment.card_id, "Next month", "INV-2")


def test_a_saved_card_is_charged_once_per_reference(pair: Pair) -> None:
    first = with_saved_card(pair)

    charged = pair.adapter.charge_saved_card(charge(first))
    again = pair.adapter.charge_saved_card(charge(first))

    assert (charged.state, charged.reference, charged.paid) == (PaymentState.PAID, NEXT_REFERENCE, Money(Decimal(20), "USD"))
    assert again.payment_id == charged.payment_id
    assert len(pair.fake.charges) == 2
    assert pair.adapter.fetch_payment(payment_id=charged.payment_id).paid == Money(Decimal(20), "USD")


def test_a_card_is_saved_only_when_asked(pair: Pair) -> None:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act(checkout.url, "pay")

    payment = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)

    assert (payment.customer_id, payment.card_id, pair.fake.cards) == ("", "", {})


def test_a_declined_saved_card_is_a_failed_payment(pair: Pair) -> None:
    first = with_saved_card(pair)
    pair.fake.declining_cards.add(first.card_id)

    declined = pair.adapter.charge_saved_card(charge(first))

    assert (declined.state, declined.reference, declined.paid) == (PaymentState.FAILED, NEXT_REFERENCE, None)
    assert declined.failure == "insufficient_funds: Declined."


def test_a_forgotten_card_is_charged_no_more(pair: Pair) -> None:
    first = with_saved_card(pair)

    pair.adapter.forget_card(first.card_id)
    pair.adapter.forget_card(first.card_id)

    with pytest.raises(Exception, match="resource_missing"):
        pair.adapter.charge_saved_card(charge(first))
    assert len(pair.fake.charges) == 1


def test_a_charge_leads_back_from_its_webhook(pair: Pair) -> None:
    charged = pair.adapter.charge_saved_card(charge(with_saved_card(pair)))
    delivery = pair.fake.outbox[-1]

    event = pair.adapter.read_webhook(delivery.body, delivery.signed(), now=now())

    assert (event.subject, event.payment_id, event.reference) == (Subject.PAYMENT, charged.payment_id, NEXT_REFERENCE)
    assert event.mode is Mode.TEST


def test_every_call_names_the_version(pair: Pair) -> None:
    with_saved_card(pair)

    assert {call.headers["stripe-version"] for call in pair.fake.requests if call.path.startswith("/v1/")} == {
        "2026-10-28.endive"
    }


def test_the_same_key_with_another_amount_is_refused(pair: Pair) -> None:
    pair.adapter.create_checkout(request_for(pair.setup))

    with pytest.raises(GatewayRefused, match="idempotency_error"):
        pair.adapter.create_checkout(request_for(pair.setup, money=Money(Decimal(1), "USD")))


@pytest.mark.parametrize("away", [timedelta(seconds=302), timedelta(seconds=-302)])
def test_a_signature_counts_five_minutes_both_ways(pair: Pair, away: timedelta) -> None:
    with_saved_card(pair)
    delivery = pair.fake.outbox[-1]
    signed = delivery.signed()

    with pytest.raises(WebhookRejected) as rejected:
        pair.adapter.read_webhook(delivery.body, signed, now=now() + away)

    assert rejected.value.reason is Rejection.STALE


@pytest.mark.parametrize("header", ["t=,v1=aa", "t=1,t=2,v1=aa", "t=²,v1=aa", "v1=aa", "t=9999999999999999999,v1=aa", "t", ","])
def test_a_header_that_is_none(pair: Pair, header: str) -> None:
    with pytest.raises(WebhookRejected) as rejected:
        pair.adapter.read_webhook(b"{}", {"stripe-signature": header}, now=now())

    assert rejected.value.reason in (Rejection.BAD_SIGNATURE, Rejection.NO_SIGNATURE)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b"\xff", b'{"object":"v2.core.event","id":"evt_1"}', b'{"object":"event"}']
)
def test_signed_bytes_that_are_no_event(pair: Pair, body: bytes) -> None:
    signed = pair.fake._signature(body)

    with pytest.raises(WebhookRejected) as rejected:
        pair.adapter.read_webhook(body, signed, now=now())

    assert rejected.value.reason is Rejection.BAD_BODY


def test_an_event_that_does_not_concern_us(pair: Pair) -> None:
    body = json.dumps(
        {"object": "event", "id": "evt_1", "type": "customer.created", "data": {"object": {"id": "cus_1"}}}
    ).encode()

    event = pair.adapter.read_webhook(body, pair.fake._signature(body), now=now())

    assert (event.subject, event.checkout_id, event.payment_id) == (Subject.OTHER, "", "")
