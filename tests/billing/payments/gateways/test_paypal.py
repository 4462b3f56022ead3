"""What only PayPal has: tokens, captures, certificates."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from billing.payments.gateways.base import (
    GatewayRefused,
    GatewayUnavailable,
    OutcomeUnknown,
    PaymentState,
    Rejection,
    WebhookRejected,
)
from billing.payments.gateways.paypal_certificates import is_paypals

from .conftest import Pair
from .setups import now, request_for


@pytest.fixture
def pair(pair_of: Callable[..., Pair]) -> Pair:
    return pair_of("paypal")


def test_one_token_serves_many_calls(pair: Pair) -> None:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)
    pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)

    assert len(pair.fake.calls("POST", "/v1/oauth2/token")) == 1


def test_a_token_that_ended_early_is_replaced_once(pair: Pair) -> None:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.tokens.clear()

    payment = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)

    assert payment.state is PaymentState.OPEN
    assert len(pair.fake.calls("POST", "/v1/oauth2/token")) == 2


def test_an_approved_order_is_captured_once(pair: Pair) -> None:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act(checkout.url, "pay")
    approved = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)

    first = pair.adapter.capture_payment(approved)
    second = pair.adapter.capture_payment(approved)

    assert (approved.state, first.state) == (PaymentState.AUTHORISED, PaymentState.PAID)
    assert second.payment_id == first.payment_id
    assert len(pair.fake.captures) == 1


def test_a_capture_that_somebody_else_made_is_as_good(pair: Pair) -> None:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act(checkout.url, "pay")
    approved = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)
    pair.adapter.capture_payment(approved)
    pair.fake._replays.clear()

    again = pair.adapter.capture_payment(approved)

    assert again.state is PaymentState.PAID
    assert len(pair.fake.captures) == 1


@pytest.mark.parametrize("fault", ["drop_after", "error_after"])
def test_a_capture_without_answer_is_unknown_and_repeating_it_takes_once(pair: Pair, fault: str) -> None:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act(checkout.url, "pay")
    approved = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)
    pair.fake.fail(fault, "/capture")

    with pytest.raises(OutcomeUnknown):
        pair.adapter.capture_payment(approved)
    repeated = pair.adapter.capture_payment(approved)

    assert repeated.state is PaymentState.PAID
    assert len(pair.fake.captures) == 1


def test_a_declined_instrument_takes_nothing_and_the_buyer_may_choose_another(pair: Pair) -> None:
    pair.fake.instrument_declined = 1
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act(checkout.url, "pay")
    approved = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)

    with pytest.raises(GatewayRefused, match="INSTRUMENT_DECLINED"):
        pair.adapter.capture_payment(approved)

    assert pair.fake.captures == {}
    assert pair.adapter.capture_payment(approved).state is PaymentState.PAID


def test_an_order_that_is_not_approved_is_not_captured(pair: Pair) -> None:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))

    with pytest.raises(GatewayRefused, match="ORDER_NOT_APPROVED"):
        pair.adapter.capture_payment(pair.adapter.fetch_payment(checkout_id=checkout.checkout_id))


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-8e1d6c11", True),
        ("https://api.sandbox.paypal.com:443/v1/notifications/certs/CERT-1", True),
        ("https://paypal.com/v1/notifications/certs/CERT-1", True),
        ("http://api.paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com.evil.example/v1/notifications/certs/CERT-1", False),
        ("https://evilpaypal.com/v1/notifications/certs/CERT-1", False),
        ("https://evil.example/paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com@evil.example/v1/notifications/certs/CERT-1", False),
        ("https://evil.example#@api.paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://evil.example\\@api.paypal.com/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com:8443/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com:99999/v1/notifications/certs/CERT-1", False),
        ("https://api.paypal.com/v1/notifications/certs/../../redirect", False),
        ("https://api.paypal.com/v1/notifications/certs/CERT-1?to=x", False),
        ("https://api.paypal.com/elsewhere/CERT-1", False),
        ("https://аpi.paypаl.com/v1/notifications/certs/CERT-1", False),
        ("https://[::1/v1/notifications/certs/CERT-1", False),
        ("", False),
    ],
)
def test_where_certificates_may_come_from(url: str, ours: bool) -> None:
    assert is_paypals(url) is ours


def delivered(pair: Pair) -> tuple[bytes, dict[str, str]]:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act(checkout.url, "pay")
    delivery = pair.fake.outbox[-1]
    return delivery.body, delivery.signed()


def test_a_certificate_is_fetched_once(pair: Pair) -> None:
    body, headers = delivered(pair)

    pair.adapter.read_webhook(body, headers, now=now())
    pair.adapter.read_webhook(body, headers, now=now())

    assert len(pair.fake.calls("GET", "/certs/")) == 1


def test_an_address_without_certificate_is_asked_once_a_minute(pair: Pair) -> None:
    body, headers = delivered(pair)
    headers["paypal-cert-url"] = f"{pair.fake.url}/v1/notifications/certs/CERT-made-up"

    for _ in range(3):
        with pytest.raises(WebhookRejected) as rejected:
            pair.adapter.read_webhook(body, headers, now=now())

    assert rejected.value.reason is Rejection.FOREIGN_CERTIFICATE
    assert len(pair.fake.calls("GET", "/certs/")) == 1


def test_a_certificate_that_cannot_be_had_now_is_no_verdict(pair: Pair) -> None:
    body, headers = delivered(pair)
    pair.fake.fail("error", "/certs/")

    with pytest.raises(GatewayUnavailable):
        pair.adapter.read_webhook(body, headers, now=now())

    assert pair.adapter.read_webhook(body, headers, now=now()).gateway == "paypal"


@pytest.mark.parametrize(
    ("changes", "when"),
    [
        ({"certificate_authorities": b""}, datetime(2026, 11, 20, tzinfo=UTC)),
        ({}, datetime(2025, 12, 31, tzinfo=UTC)),
        ({}, datetime(2046, 1, 2, tzinfo=UTC)),
    ],
)
def test_a_certificate_needs_an_authority_and_its_time(pair: Pair, changes: dict[str, bytes], when: datetime) -> None:
    body, headers = delivered(pair)

    with pytest.raises(WebhookRejected) as rejected:
        pair.build(**changes).read_webhook(body, headers, now=when)

    assert rejected.value.reason is Rejection.FOREIGN_CERTIFICATE


def test_only_rsa_with_sha256_counts(pair: Pair) -> None:
    body, headers = delivered(pair)
    headers["paypal-auth-algo"] = "SHA1withRSA"

    with pytest.raises(WebhookRejected) as rejected:
        pair.adapter.read_webhook(body, headers, now=now())

    assert rejected.value.reason is Rejection.BAD_SIGNATURE
