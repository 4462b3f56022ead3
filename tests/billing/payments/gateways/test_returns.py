"""What the buyer's browser brings back."""

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import pytest

from billing.payments.gateways.base import PaymentState, Rejection, Subject, WebhookRejected

from .conftest import Pair
from .setups import REFERENCE, now, request_for

PairOf = Callable[..., Pair]


def test_razorpays_return_leads_to_the_payment(pair_of: PairOf) -> None:
    pair = pair_of("razorpay")
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    landing = pair.fake.act(checkout.url, "pay")
    fields = dict(parse_qsl(urlsplit(landing.location).query))

    event = pair.adapter.read_return(fields)

    assert (event.subject, event.checkout_id, event.reference) == (Subject.PAYMENT, checkout.checkout_id, REFERENCE)
    assert pair.adapter.fetch_payment(checkout_id=event.checkout_id).state is PaymentState.PAID


@pytest.mark.parametrize(("action", "status"), [("pay", "success"), ("decline", "failure"), ("cancel", "failure")])
def test_payus_return_is_the_webhook_again(pair_of: PairOf, action: str, status: str) -> None:
    pair = pair_of("payu")
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    landing = pair.fake.act("", action, form_action=checkout.form_action, form=checkout.form_fields)
    address, fields = landing.form

    event = pair.adapter.read_return(fields)

    assert address == {"success": "https://billing.example/return", "failure": "https://billing.example/cancel"}[status]
    assert (event.reference, event.type) == (REFERENCE, f"payment.{status}")
    assert event == pair.adapter.read_webhook(pair.fake.outbox[-1].body, {}, now=now())


@pytest.mark.parametrize(
    ("slug", "fields", "reason"),
    [
        ("razorpay", {}, Rejection.BAD_BODY),
        ("razorpay", {"razorpay_payment_id": "pay_1", "razorpay_order_id": "order_1"}, Rejection.NO_SIGNATURE),
        (
            "razorpay",
            {"razorpay_payment_id": "pay_1", "razorpay_order_id": "\udcff", "razorpay_signature": "é"},
            Rejection.BAD_SIGNATURE,
        ),
        ("payu", {}, Rejection.NO_SIGNATURE),
        ("payu", {"hash": "é\udcff", "status": "success", "txnid": "\udcff"}, Rejection.BAD_SIGNATURE),
    ],
)
def test_a_return_made_by_hand(pair_of: PairOf, slug: str, fields: dict[str, str], reason: Rejection) -> None:
    with pytest.raises(WebhookRejected) as rejected:
        pair_of(slug).adapter.read_return(fields)

    assert rejected.value.reason is reason


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"a=1&a=2&hash=x", b"{", b"{}", b"x" * 1000, b"&".join([b"a=1"] * 500)])
def test_bodies_that_payu_never_sends(pair_of: PairOf, body: bytes) -> None:
    with pytest.raises(WebhookRejected):
        pair_of("payu").adapter.read_webhook(body, {}, now=now(), token="payu-webhook-token")


def test_a_key_of_another_merchant_is_not_ours(pair_of: PairOf) -> None:
    pair = pair_of("payu")
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    pair.fake.act("", "pay", form_action=checkout.form_action, form=checkout.form_fields)
    body = pair.fake.outbox[-1].body.replace(b"key=gTkTst", b"key=other1")

    with pytest.raises(WebhookRejected) as rejected:
        pair.adapter.read_webhook(body, {}, now=now())

    assert rejected.value.reason is Rejection.BAD_BODY
