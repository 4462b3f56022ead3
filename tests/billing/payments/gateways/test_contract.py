"""What every gateway owes, against its fake over real HTTP."""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from billing.payments.gateways.base import (
    Checkout,
    GatewayMisconfigured,
    GatewayPayment,
    GatewayRefused,
    GatewayUnavailable,
    Mode,
    Money,
    MoneyNotAccepted,
    ObjectNotFound,
    OutcomeUnknown,
    PaymentState,
    RefundRequest,
    RefundState,
    Rejection,
    Subject,
    WebhookEvent,
    WebhookRejected,
    differences,
)
from billing.payments.gateways.registry import GATEWAYS, register
from tests.fakes.server import Delivery, Landing

from .conftest import Pair
from .setups import REFERENCE, REFUND_KEY, SETUPS, TOKEN, now, request_for

PairOf = Callable[..., Pair]
ALL = list(SETUPS)
# PayU's create call asks nobody.
CALLED = ["chargily", "stripe", "paypal", "razorpay"]
REFUNDING = ["stripe", "paypal", "razorpay", "payu"]
DISPUTED = ["stripe", "paypal", "razorpay"]


def buy(pair: Pair, checkout: Checkout, action: str = "pay") -> Landing:
    """The buyer goes to the gateway's page and does `action`."""
    landing: Landing = pair.fake.act(checkout.url, action, form_action=checkout.form_action, form=checkout.form_fields)
    return landing


def fetch(pair: Pair, checkout: Checkout) -> GatewayPayment:
    payment: GatewayPayment = pair.adapter.fetch_payment(checkout_id=checkout.checkout_id)
    return payment


def captured(pair: Pair, checkout: Checkout) -> GatewayPayment:
    """The payment after the buyer paid, captured where the gateway waits for that."""
    payment = fetch(pair, checkout)
    return pair.adapter.capture_payment(payment) if payment.state is PaymentState.AUTHORISED else payment


def paid(pair: Pair) -> GatewayPayment:
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    buy(pair, checkout)
    return captured(pair, checkout)


def read(pair: Pair, delivery: Delivery, **changes: Any) -> WebhookEvent:
    event: WebhookEvent = pair.adapter.read_webhook(
        delivery.body, delivery.signed(), **{"now": now(), "token": TOKEN} | changes
    )
    return event


def test_all_five_are_registered_and_none_twice() -> None:
    assert list(GATEWAYS) == ["chargily", "stripe", "paypal", "razorpay", "payu"]
    with pytest.raises(ValueError, match="chargily already"):
        register(GATEWAYS["chargily"])


@pytest.mark.parametrize("slug", ALL)
def test_a_paid_checkout_is_the_payment_we_asked_for(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)

    payment = paid(pair)

    assert (payment.gateway, payment.state, payment.reference) == (slug, PaymentState.PAID, REFERENCE)
    assert (payment.money, payment.paid, payment.refunded) == (pair.setup.money, pair.setup.money, Decimal(0))
    assert payment.payment_id
    assert differences(payment, reference=REFERENCE, money=pair.setup.money, mode=Mode.TEST) == []


@pytest.mark.parametrize("slug", ALL)
def test_a_payment_is_found_by_its_own_id_too(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)

    found = pair.adapter.fetch_payment(payment_id=payment.payment_id)

    assert (found.reference, found.state, found.paid) == (REFERENCE, PaymentState.PAID, pair.setup.money)


@pytest.mark.parametrize("slug", ALL)
def test_the_amount_stands_on_the_wire_in_the_gateways_own_unit(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    path, written = pair.setup.on_the_wire

    buy(pair, pair.adapter.create_checkout(request_for(pair.setup)))

    [call] = pair.fake.calls("POST", path)[:1]
    assert written in call.body.decode()


@pytest.mark.parametrize("slug", CALLED)
def test_a_new_checkout_is_open_and_has_an_address(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)

    checkout = pair.adapter.create_checkout(request_for(pair.setup))

    assert checkout.url.startswith(pair.fake.url)
    payment = fetch(pair, checkout)
    assert (payment.state, payment.reference, payment.paid) == (PaymentState.OPEN, REFERENCE, None)


def test_payus_form_is_known_to_nobody_until_the_browser_posts_it(pair_of: PairOf) -> None:
    pair = pair_of("payu")

    checkout = pair.adapter.create_checkout(request_for(pair.setup))

    assert pair.fake.requests == []
    assert (checkout.checkout_id, checkout.form_fields["firstname"]) == (REFERENCE, "Inès / Böhm")
    with pytest.raises(ObjectNotFound):
        fetch(pair, checkout)


@pytest.mark.parametrize(
    ("slug", "action", "state"),
    [
        ("chargily", "decline", PaymentState.FAILED),
        ("chargily", "cancel", PaymentState.CANCELED),
        ("stripe", "decline", PaymentState.OPEN),
        ("stripe", "cancel", PaymentState.OPEN),
        ("stripe", "pay_slowly", PaymentState.PROCESSING),
        ("paypal", "cancel", PaymentState.OPEN),
        ("paypal", "pay", PaymentState.AUTHORISED),
        ("razorpay", "decline", PaymentState.OPEN),
        ("razorpay", "cancel", PaymentState.OPEN),
        ("payu", "decline", PaymentState.FAILED),
        ("payu", "cancel", PaymentState.CANCELED),
        ("payu", "pay_slowly", PaymentState.PROCESSING),
    ],
)
def test_what_the_buyer_does_besides_paying(pair_of: PairOf, slug: str, action: str, state: PaymentState) -> None:
    pair = pair_of(slug)
    checkout = pair.adapter.create_checkout(request_for(pair.setup))

    buy(pair, checkout, action)

    payment = fetch(pair, checkout)
    assert (payment.state, payment.paid) == (state, None)


@pytest.mark.parametrize("slug", ["chargily", "stripe", "razorpay"])
def test_a_checkout_expires(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    checkout = pair.adapter.create_checkout(request_for(pair.setup))

    pair.fake.expire(checkout.checkout_id)

    assert fetch(pair, checkout).state is PaymentState.EXPIRED


@pytest.mark.parametrize("slug", ["stripe", "payu"])
@pytest.mark.parametrize(("succeeded", "state"), [(True, PaymentState.PAID), (False, PaymentState.FAILED)])
def test_a_slow_payment_ends_either_way(pair_of: PairOf, slug: str, succeeded: bool, state: PaymentState) -> None:
    pair = pair_of(slug)
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    buy(pair, checkout, "pay_slowly")

    pair.fake.settle_slow(checkout.checkout_id, succeeded=succeeded)

    assert fetch(pair, checkout).state is state


@pytest.mark.parametrize(("succeeded", "state"), [(True, PaymentState.PAID), (False, PaymentState.FAILED)])
def test_paypals_pending_capture_ends_either_way(pair_of: PairOf, succeeded: bool, state: PaymentState) -> None:
    pair = pair_of("paypal")
    pair.fake.capture_status = "PENDING"
    payment = paid(pair)

    pair.fake.settle_capture(payment.checkout_id, succeeded=succeeded)

    assert payment.state is PaymentState.PROCESSING
    assert pair.adapter.fetch_payment(checkout_id=payment.checkout_id).state is state


@pytest.mark.parametrize("slug", ["chargily", "razorpay"])
def test_a_payment_that_failed_may_still_arrive(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    checkout = pair.adapter.create_checkout(request_for(pair.setup))
    buy(pair, checkout, "decline")

    pair.fake.pay_late(checkout.checkout_id)

    assert fetch(pair, checkout).state is PaymentState.PAID


@pytest.mark.parametrize("slug", ["chargily", "stripe", "razorpay"])
def test_a_checkout_is_closed_once_and_never_when_paid(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    open_one = pair.adapter.create_checkout(request_for(pair.setup))
    paid_one = pair.adapter.create_checkout(request_for(pair.setup, reference="pa9999999999abcdef0123"))
    buy(pair, paid_one)

    pair.adapter.cancel_checkout(open_one.checkout_id)
    pair.adapter.cancel_checkout(open_one.checkout_id)

    assert fetch(pair, open_one).state in (PaymentState.EXPIRED, PaymentState.CANCELED)
    with pytest.raises(GatewayRefused):
        pair.adapter.cancel_checkout(paid_one.checkout_id)
    assert fetch(pair, paid_one).state is PaymentState.PAID


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay", "payu"])
def test_the_same_request_leads_to_the_same_checkout(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    first = pair.adapter.create_checkout(request_for(pair.setup))

    again = pair.adapter.create_checkout(request_for(pair.setup))

    assert again == first


@pytest.mark.parametrize("slug", CALLED)
@pytest.mark.parametrize("fault", ["drop_after", "error_after", "garbage", "slow"])
def test_a_create_without_answer_is_unknown_and_repeating_it_makes_no_second(pair_of: PairOf, slug: str, fault: str) -> None:
    pair = pair_of(slug, total_seconds=1)
    pair.fake.fail(fault, pair.setup.on_the_wire[0], method="POST")

    with pytest.raises(OutcomeUnknown):
        pair.adapter.create_checkout(request_for(pair.setup))
    repeated = pair.build().create_checkout(request_for(pair.setup), after_unknown=True)

    made = {"chargily": "checkouts", "stripe": "sessions", "paypal": "orders", "razorpay": "links"}[slug]
    assert list(getattr(pair.fake, made)) == [repeated.checkout_id]


@pytest.mark.parametrize("slug", CALLED)
def test_a_busy_gateway_did_nothing(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    pair.fake.fail("busy")

    with pytest.raises(GatewayUnavailable) as refused:
        pair.adapter.create_checkout(request_for(pair.setup))

    assert refused.value.code == "rate_limited"
    assert pair.fake.requests == []


@pytest.mark.parametrize("slug", CALLED)
def test_an_unreachable_gateway_did_nothing(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug, api_url="http://127.0.0.1:1")

    with pytest.raises(GatewayUnavailable) as refused:
        pair.adapter.create_checkout(request_for(pair.setup))

    assert refused.value.code == "unreachable"


@pytest.mark.parametrize("slug", ALL)
@pytest.mark.parametrize("fault", ["drop_after", "error", "garbage", "busy", "slow"])
def test_a_fetch_that_fails_only_means_try_again(pair_of: PairOf, slug: str, fault: str) -> None:
    pair = pair_of(slug, total_seconds=1)
    payment = paid(pair)
    pair.fake.fail(fault, times=3)

    with pytest.raises(GatewayUnavailable):
        pair.adapter.fetch_payment(checkout_id=payment.checkout_id)


@pytest.mark.parametrize("slug", ALL)
def test_an_answer_that_trickles_in_is_given_up_in_time(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug, total_seconds=1)
    payment = paid(pair)
    pair.fake.fail("drip", times=3)
    started = time.monotonic()

    with pytest.raises(GatewayUnavailable):
        pair.adapter.fetch_payment(checkout_id=payment.checkout_id)

    assert time.monotonic() - started < 10


@pytest.mark.parametrize("slug", ALL)
def test_an_object_that_is_not_there(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)

    with pytest.raises(ObjectNotFound):
        pair.adapter.fetch_payment(checkout_id="nosuchobject01")


@pytest.mark.parametrize("slug", ALL)
@pytest.mark.parametrize("hostile", ["../../v1/balance", "a b", "a|b", "a?b=c", "é", "x" * 300])
def test_what_is_no_id_is_never_asked_for(pair_of: PairOf, slug: str, hostile: str) -> None:
    pair = pair_of(slug)

    with pytest.raises(ObjectNotFound):
        pair.adapter.fetch_payment(checkout_id=hostile)
    with pytest.raises(ObjectNotFound):
        pair.adapter.fetch_payment(payment_id=hostile)

    assert pair.fake.requests == []


@pytest.mark.parametrize(
    ("slug", "wrong"),
    [
        ("chargily", {"secret_key": "test_sk_wrong"}),
        ("stripe", {"secret_key": "sk_test_wrong"}),
        ("paypal", {"client_secret": "wrong"}),
        ("razorpay", {"key_secret": "wrong"}),
    ],
)
def test_wrong_credentials_are_told_apart_and_never_repeated(pair_of: PairOf, slug: str, wrong: dict[str, str]) -> None:
    pair = pair_of(slug, **wrong)

    with pytest.raises(GatewayMisconfigured) as refused:
        pair.adapter.create_checkout(request_for(pair.setup))

    assert (
        next(iter(wrong.values())).removeprefix("test_sk_").removeprefix("sk_test_")
        not in f"{refused.value} {refused.value.trace}"
    )


@pytest.mark.parametrize(
    ("slug", "money"),
    [
        ("chargily", Money(Decimal("100.50"), "DZD")),
        ("chargily", Money(Decimal(10), "DZD")),
        ("chargily", Money(Decimal(100), "USD")),
        ("stripe", Money(Decimal("1.005"), "USD")),
        ("stripe", Money(Decimal("100.5"), "JPY")),
        ("stripe", Money(Decimal(100), "KWD")),
        ("stripe", Money(Decimal(1_000_000), "USD")),
        ("paypal", Money(Decimal(100), "DZD")),
        ("paypal", Money(Decimal(100), "INR")),
        ("paypal", Money(Decimal("1.005"), "USD")),
        ("paypal", Money(Decimal("100.5"), "JPY")),
        ("razorpay", Money(Decimal("0.99"), "INR")),
        ("razorpay", Money(Decimal("9.999"), "INR")),
        ("razorpay", Money(Decimal(100), "USD")),
        ("payu", Money(Decimal("0.99"), "INR")),
        ("payu", Money(Decimal("9.999"), "INR")),
        ("payu", Money(Decimal(100), "EUR")),
    ],
)
def test_money_that_a_gateway_cannot_take_is_refused_before_asking(pair_of: PairOf, slug: str, money: Money) -> None:
    pair = pair_of(slug)

    with pytest.raises(MoneyNotAccepted):
        pair.adapter.create_checkout(request_for(pair.setup, money=money))

    assert pair.fake.requests == []


@pytest.mark.parametrize("slug", ALL)
def test_webhooks_of_a_payment_are_read_and_lead_to_it(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)

    events = [read(pair, delivery) for delivery in pair.fake.outbox]

    assert events
    assert {(event.gateway, event.subject) for event in events} == {(slug, Subject.PAYMENT)}
    assert len({event.event_id for event in events}) == len(events)
    assert all(payment.checkout_id == event.checkout_id or payment.payment_id == event.payment_id for event in events)
    assert REFERENCE in {event.reference for event in events}


@pytest.mark.parametrize("slug", ALL)
def test_a_changed_body_is_rejected(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    paid(pair)
    delivery = pair.fake.outbox[-1]

    with pytest.raises(WebhookRejected) as rejected:
        pair.adapter.read_webhook(delivery.body.replace(b"0", b"9"), delivery.signed(), now=now(), token="")

    # PayU's JSON is guarded by the token, its forms by the hash inside them.
    assert rejected.value.reason is Rejection.BAD_SIGNATURE


@pytest.mark.parametrize("slug", CALLED)
def test_a_webhook_without_signature_or_with_a_strange_one_is_rejected(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    paid(pair)
    delivery = pair.fake.outbox[-1]
    strange = {name: f"{value[:9]}é\udcff\x00{value[9:]}" for name, value in delivery.signed().items()}

    with pytest.raises(WebhookRejected) as absent:
        pair.adapter.read_webhook(delivery.body, {}, now=now())
    with pytest.raises(WebhookRejected) as odd:
        pair.adapter.read_webhook(delivery.body, strange, now=now())

    assert absent.value.reason is Rejection.NO_SIGNATURE
    assert odd.value.reason in (Rejection.BAD_SIGNATURE, Rejection.NO_SIGNATURE)


@pytest.mark.parametrize(
    ("slug", "emptied"),
    [
        ("chargily", {"secret_key": ""}),
        ("stripe", {"webhook_secrets": [""]}),
        ("stripe", {"webhook_secrets": []}),
        ("paypal", {"webhook_ids": [""]}),
        ("razorpay", {"webhook_secrets": [""]}),
        ("payu", {"salts": [""]}),
    ],
)
def test_without_a_secret_nothing_is_believed(pair_of: PairOf, slug: str, emptied: dict[str, Any]) -> None:
    pair = pair_of(slug)
    paid(pair)
    delivery = pair.fake.outbox[-1]

    with pytest.raises(WebhookRejected) as rejected:
        pair.build(**emptied).read_webhook(delivery.body, delivery.signed(), now=now())

    assert rejected.value.reason is Rejection.NO_SECRET


@pytest.mark.parametrize(
    ("slug", "both"),
    [
        ("chargily", {"secret_key": "test_sk_next", "earlier_secret_keys": ["test_sk_fakeChargilySecret"]}),
        ("stripe", {"webhook_secrets": ["whsec_next", "whsec_fake"]}),
        ("paypal", {"webhook_ids": ["8PTNEXT", "8PT597110X687430L"]}),
        ("razorpay", {"webhook_secrets": ["next", "fake-webhook-secret"]}),
        ("payu", {"salts": ["next", "fakeSalt"]}),
    ],
)
def test_an_earlier_secret_is_believed_while_it_is_replaced(pair_of: PairOf, slug: str, both: dict[str, Any]) -> None:
    pair = pair_of(slug)
    paid(pair)
    delivery = pair.fake.outbox[-1]

    event = pair.build(**both).read_webhook(delivery.body, delivery.signed(), now=now())

    assert event.gateway == slug


@pytest.mark.parametrize("slug", REFUNDING)
def test_parts_go_back_until_nothing_is_left(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)
    rest = Money(pair.setup.money.amount - pair.setup.part.amount, pair.setup.money.currency)

    first = pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part, "Plan downgrade"))
    second = pair.adapter.refund(RefundRequest(f"{REFUND_KEY[:-1]}z", payment.payment_id, rest))

    assert (first.payment_id, first.money, first.key) == (payment.payment_id, pair.setup.part, REFUND_KEY)
    assert second.money == rest
    with pytest.raises(GatewayRefused):
        pair.adapter.refund(RefundRequest(f"{REFUND_KEY[:-1]}y", payment.payment_id, pair.setup.part))


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay"])
def test_what_went_back_shows_on_the_payment(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)

    pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part))

    again = pair.adapter.fetch_payment(checkout_id=payment.checkout_id)
    assert (again.state, again.paid, again.refunded) == (PaymentState.PAID, pair.setup.money, pair.setup.part.amount)


@pytest.mark.parametrize("slug", REFUNDING)
def test_more_than_was_paid_does_not_go_back(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)
    more = Money(pair.setup.money.amount + 1, pair.setup.money.currency)

    with pytest.raises(GatewayRefused):
        pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, more))

    assert pair.fake.refunds == {}


@pytest.mark.parametrize("slug", REFUNDING)
@pytest.mark.parametrize("fault", ["drop_after", "error_after", "garbage"])
def test_a_refund_without_answer_is_unknown_and_repeating_it_pays_once(pair_of: PairOf, slug: str, fault: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)
    request = RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part)
    pair.fake.fail(fault, "postservice" if slug == "payu" else "refund", method="POST")

    with pytest.raises(OutcomeUnknown):
        pair.adapter.refund(request)
    repeated = pair.adapter.refund(request)

    assert list(pair.fake.refunds) == [repeated.refund_id]
    assert (repeated.money, repeated.key) == (pair.setup.part, REFUND_KEY)


@pytest.mark.parametrize("slug", REFUNDING)
@pytest.mark.parametrize(("succeeded", "state"), [(True, RefundState.SUCCEEDED), (False, RefundState.FAILED)])
def test_a_slow_refund_ends_either_way(pair_of: PairOf, slug: str, succeeded: bool, state: RefundState) -> None:
    pair = pair_of(slug)
    pair.fake.refund_status = {"stripe": "pending", "paypal": "PENDING", "razorpay": "pending", "payu": "queued"}[slug]
    payment = paid(pair)
    begun = pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part))

    pair.fake.finish_refund(begun.refund_id, succeeded=succeeded)

    ended = pair.adapter.fetch_refund(begun.refund_id)
    assert (begun.state, ended.state) == (RefundState.PENDING, state)
    assert (ended.money, ended.payment_id, ended.key) == (pair.setup.part, payment.payment_id, REFUND_KEY)


@pytest.mark.parametrize("slug", ["stripe", "razorpay"])
def test_a_refund_may_fail_after_it_succeeded(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)
    refund = pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part))

    pair.fake.finish_refund(refund.refund_id, succeeded=False)

    assert refund.state is RefundState.SUCCEEDED
    assert pair.adapter.fetch_refund(refund.refund_id).state is RefundState.FAILED
    assert pair.adapter.fetch_payment(checkout_id=payment.checkout_id).refunded == 0


@pytest.mark.parametrize("slug", REFUNDING)
def test_a_refunds_webhook_leads_to_the_refund(pair_of: PairOf, slug: str) -> None:
    pair = pair_of(slug)
    pair.fake.refund_url = pair.fake.webhook_url
    pair.fake.refund_status = "pending" if slug != "paypal" else "PENDING"
    payment = paid(pair)
    refund = pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part))
    pair.fake.finish_refund(refund.refund_id, succeeded=True)

    event = read(pair, pair.fake.outbox[-1])

    assert (event.subject, event.refund_id, event.payment_id) == (Subject.REFUND, refund.refund_id, payment.payment_id)
    assert event.signed is (slug != "payu")


def test_what_payu_does_not_sign_needs_the_token_of_the_address(pair_of: PairOf) -> None:
    pair = pair_of("payu")
    pair.fake.refund_url = pair.fake.webhook_url
    payment = paid(pair)
    refund = pair.adapter.refund(RefundRequest(REFUND_KEY, payment.payment_id, pair.setup.part))
    pair.fake.finish_refund(refund.refund_id, succeeded=True)
    notice = pair.fake.outbox[-1]

    reasons = []
    for adapter, token in ((pair.adapter, ""), (pair.adapter, "guess"), (pair.build(webhook_tokens=[]), TOKEN)):
        with pytest.raises(WebhookRejected) as rejected:
            adapter.read_webhook(notice.body, {}, now=now(), token=token)
        reasons.append(rejected.value.reason)

    assert reasons == [Rejection.NO_SIGNATURE, Rejection.BAD_SIGNATURE, Rejection.NO_SECRET]


@pytest.mark.parametrize("slug", DISPUTED)
@pytest.mark.parametrize(("won", "state"), [(True, "won"), (False, "lost")])
def test_a_dispute_is_told_and_ends(pair_of: PairOf, slug: str, won: bool, state: str) -> None:
    pair = pair_of(slug)
    payment = paid(pair)
    dispute_id = pair.fake.open_dispute(payment.payment_id)
    opened = read(pair, pair.fake.outbox[-1])
    before = pair.adapter.fetch_dispute(dispute_id)

    pair.fake.close_dispute(dispute_id, won=won)

    after = pair.adapter.fetch_dispute(dispute_id)
    assert (opened.subject, opened.dispute_id, opened.payment_id) == (Subject.DISPUTE, dispute_id, payment.payment_id)
    assert (before.state, after.state, after.money) == ("open", state, pair.setup.money)
    assert read(pair, pair.fake.outbox[-1]).dispute_id == dispute_id
