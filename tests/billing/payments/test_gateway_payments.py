"""Subscribing and topping up at every gateway, over real HTTP: the gateways are fakes, everything else is the product."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from freezegun import freeze_time

from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.models import GatewayWebhook, ManualMethod, Payment
from billing.payments.checkout import checkout_open
from billing.payments.polling import payment_poll
from tests.billing.subscriptions.selling import wrong

from .market import PRICES, Market

ALL = ["chargily", "stripe", "paypal", "razorpay", "payu"]
MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("slug", ALL)
def test_a_plan_that_is_paid_begins(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.subscribe()

    market.paid(payment)

    invoice = Invoice.objects.get(pk=payment.invoice_id)
    assert (payment.state, payment.received_amount, payment.unapplied_amount) == ("succeeded", market.price, Decimal(0))
    assert (invoice.state, market.live_plan(), market.credits()) == ("paid", f"pro-{slug}", Decimal(500))
    assert payment.gateway_payment_id
    assert market.webhook_states() == {"processed"}
    assert wrong() == []


@pytest.mark.parametrize("slug", ALL)
def test_a_pack_that_is_paid_brings_its_credits(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.top_up()

    market.paid(payment)

    assert (payment.state, market.credits(), market.lots()) == ("succeeded", Decimal(1050), 2)
    assert wrong() == []


@pytest.mark.parametrize("slug", ALL)
def test_every_webhook_twenty_times_by_twenty_threads_has_one_effect(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.top_up()
    market.act(payment)

    statuses = market.deliver(threads=20, seed=7)
    # PayPal tells of the capture that the first round made.
    statuses += market.deliver(threads=20, seed=8)
    rows = list(GatewayWebhook.objects.values_list("pk", flat=True))
    market.queue.waiting = [("billing.payments.webhook_work", str(pk)) for pk in rows]
    market.queue.work(threads=20, times=20, seed=9)

    payment.refresh_from_db()
    assert set(statuses) == {200}
    assert sum(GatewayWebhook.objects.values_list("deliveries", flat=True)) == len(statuses) == 20 * len(rows)
    assert (payment.state, market.credits(), market.lots()) == ("succeeded", Decimal(1050), 2)
    assert Payment.objects.count() == 1
    assert Invoice.objects.filter(state="paid").count() == 1
    assert wrong() == []


@pytest.mark.parametrize("slug", ALL)
def test_without_any_webhook_the_poll_finds_the_money(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.top_up()
    market.act(payment)

    polled = payment_poll(payment_id=payment.pk)

    assert (polled.state, market.credits()) == ("succeeded", Decimal(1050))
    assert not GatewayWebhook.objects.exists()


@pytest.mark.parametrize(
    ("slug", "action", "state"),
    [
        ("chargily", "decline", "failed"),
        ("chargily", "cancel", "canceled"),
        ("stripe", "decline", "pending"),
        ("stripe", "cancel", "pending"),
        ("paypal", "cancel", "pending"),
        ("razorpay", "decline", "pending"),
        ("razorpay", "cancel", "pending"),
        ("payu", "decline", "failed"),
        ("payu", "cancel", "canceled"),
    ],
)
def test_a_buyer_who_does_not_pay_gets_nothing(market_of: MarketOf, slug: str, action: str, state: str) -> None:
    market = market_of(slug)
    payment = market.subscribe()
    market.act(payment, action)

    market.deliver()

    payment.refresh_from_db()
    assert (payment.state, market.live_plan(), market.credits()) == (state, "free", Decimal(0))


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay"])
def test_an_attempt_whose_buyer_left_ends_when_its_time_is_over(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.subscribe()
    market.act(payment, "cancel")
    market.deliver()
    assert payment.expires_at is not None

    with freeze_time(payment.expires_at + timedelta(hours=25), real_asyncio=True):
        payment_poll(payment_id=payment.pk)

    payment.refresh_from_db()
    assert (payment.state, market.live_plan(), market.credits()) == ("expired", "free", Decimal(0))


def test_a_capture_that_paypal_declines_is_a_failure_and_may_still_come(market_of: MarketOf) -> None:
    market = market_of("paypal")
    payment = market.subscribe()
    market.fake.capture_status = "DECLINED"
    market.act(payment)

    market.deliver()
    market.deliver()
    payment.refresh_from_db()
    declined = (payment.state, market.live_plan(), market.credits())
    market.fake.settle_capture(payment.checkout_id, succeeded=True)
    market.deliver()

    payment.refresh_from_db()
    assert declined == ("failed", "free", Decimal(0))
    assert (payment.state, market.live_plan()) == ("succeeded", "pro-paypal")


@pytest.mark.parametrize("succeeded", [True, False])
def test_a_slow_bank_debit_at_stripe_ends_either_way(market_of: MarketOf, succeeded: bool) -> None:
    market = market_of("stripe")
    payment = market.subscribe()
    market.act(payment, "pay_slowly")
    market.deliver()
    payment.refresh_from_db()
    meanwhile = payment.state

    market.fake.settle_slow(payment.checkout_id, succeeded=succeeded)
    market.deliver()

    payment.refresh_from_db()
    ends = {True: ("succeeded", "pro-stripe"), False: ("failed", "free")}
    assert (meanwhile, (payment.state, market.live_plan())) == ("pending", ends[succeeded])


@pytest.mark.parametrize("slug", ["chargily", "stripe", "razorpay"])
def test_a_checkout_that_expires_ends_its_payment(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.subscribe()
    market.fake.expire(payment.checkout_id)

    market.deliver()

    payment.refresh_from_db()
    assert (payment.state, market.live_plan(), payment.next_poll_at) == ("expired", "free", None)


@pytest.mark.parametrize("slug", ["chargily", "razorpay"])
def test_money_after_a_failure_is_money(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.top_up()
    market.act(payment, "decline")
    market.deliver()

    market.fake.pay_late(payment.checkout_id)
    market.deliver()

    payment.refresh_from_db()
    assert (payment.state, market.credits()) == ("succeeded", Decimal(1050))


def test_news_in_any_order_ends_the_same(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment, "decline")
    market.fake.pay_late(payment.checkout_id)
    failed, succeeded = market.fake.outbox

    market.fake.outbox = [succeeded]
    market.deliver()
    market.fake.outbox = [failed]
    market.deliver()

    payment.refresh_from_db()
    assert (payment.state, market.credits()) == ("succeeded", Decimal(1050))


def test_an_invoice_paid_at_two_gateways_leaves_the_second_money_unapplied(market_of: MarketOf) -> None:
    market, other = market_of("razorpay"), market_of("payu")
    other.account = market.account
    first = market.top_up()
    assert first.invoice is not None
    second = other.open(first.invoice, "topup")

    market.paid(first)
    other.paid(second)

    assert (first.state, first.unapplied_amount) == ("succeeded", Decimal(0))
    assert (second.state, second.unapplied_amount) == ("succeeded", other.price)
    assert (market.credits(), market.lots()) == (Decimal(1050), 2)
    assert wrong() == []


def test_an_attempt_paid_twice_at_one_gateway_leaves_the_second_money_unapplied(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    body = dict(market.fake.checkouts[payment.checkout_id])
    # A lost answer made a second checkout under the same reference; the buyer paid both.
    market.fake.checkouts["01k9twin"] = body | {"id": "01k9twin"}
    market.paid(payment)
    market.fake.pay_late("01k9twin")

    market.deliver(threads=5)
    market.deliver()

    surplus = Payment.objects.exclude(pk=payment.pk).get()
    assert (surplus.state, surplus.unapplied_amount, surplus.gateway_payment_id) == ("succeeded", market.price, "01k9twin")
    assert (market.credits(), Payment.objects.count()) == (Decimal(1050), 2)
    assert wrong() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount": 100}, "amount: 100 DZD, not 2590 DZD; paid: 100 DZD, not 2590 DZD"),
        ({"currency": "eur"}, "amount: 2590 EUR, not 2590 DZD; paid: 2590 EUR, not 2590 DZD"),
        ({"livemode": True}, "mode: live, not test"),
        ({"metadata": {"payment_attempt": "pasomeoneelse"}}, None),
    ],
)
def test_money_that_is_not_what_was_asked_for_moves_nothing(
    market_of: MarketOf, change: dict[str, object], said: str | None
) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.checkouts[payment.checkout_id].update(change)

    market.deliver()

    payment.refresh_from_db()
    reason = said or f"reference: pasomeoneelse, not {payment.reference}"
    row = GatewayWebhook.objects.get()
    assert (payment.state, payment.review_reason, row.note) == ("review", reason, reason)
    assert (row.state, row.payment, row.truth["status"]) == ("processed", payment, "paid")
    assert (market.credits(), market.lots()) == (Decimal(0), 0)


@pytest.mark.parametrize(
    ("slug", "path"),
    [
        ("chargily", "/api/v2/"),
        ("stripe", "/v1/checkout"),
        ("paypal", "/v2/checkout"),
        ("razorpay", "/v1/payment_links"),
        ("payu", "/merchant/"),
    ],
)
def test_a_gateway_that_is_down_when_asked_is_asked_again(market_of: MarketOf, slug: str, path: str) -> None:
    market = market_of(slug)
    payment = market.top_up()
    market.act(payment)
    # Razorpay tells of a payment by two webhooks; one will do.
    market.fake.outbox = market.fake.outbox[-1:]
    market.fake.fail("error", path, times=30)

    market.deliver()
    waiting = GatewayWebhook.objects.get()
    before = (Payment.objects.get(pk=payment.pk).state, market.credits())
    market.queue.waiting = [("billing.payments.webhook_work", str(waiting.pk))]
    market.fake.faults.clear()
    market.queue.work()

    payment.refresh_from_db()
    assert (waiting.state, waiting.note) == ("failed", f"{slug}: http_500: failed on their side")
    assert before == ("pending", Decimal(0))
    assert waiting.next_attempt_at is not None
    assert (payment.state, market.credits()) == ("succeeded", Decimal(1050))
    assert market.webhook_states() == {"processed"}


def test_a_webhook_about_nothing_of_ours_is_ignored(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    payment = market.top_up()
    market.act(payment)
    Payment.objects.filter(pk=payment.pk).update(reference="paother", checkout_id="plink_other")

    market.deliver()

    assert market.webhook_states() == {"ignored"}
    assert market.credits() == Decimal(0)


@pytest.mark.parametrize(
    ("slug", "next_slug", "path"),
    [
        ("razorpay", "payu", "/v1/payment_links"),
        ("chargily", "stripe", "/api/v2/checkouts"),
        ("stripe", "paypal", "/v1/checkout/sessions"),
        ("paypal", "stripe", "/v2/checkout/orders"),
    ],
)
def test_a_gateway_that_does_not_answer_is_replaced_by_the_next(
    market_of: MarketOf, slug: str, next_slug: str, path: str
) -> None:
    market, other = market_of(slug), market_of(next_slug)
    market.fake.fail("busy", path)

    payment = market.top_up()

    failed = Payment.objects.exclude(pk=payment.pk).get()
    assert (failed.gateway, failed.state, failed.failure_code) == (slug, "failed", "rate_limited")
    assert (payment.gateway, payment.state) == (next_slug, "pending")
    other.paid(payment)
    assert (payment.state, market.credits()) == ("succeeded", Decimal(1050))


def test_an_unknown_outcome_is_remembered_and_the_next_gateway_offered(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    market_of("payu")
    market.fake.fail("drop_after", "/v1/payment_links")

    payment = market.top_up()

    unknown = Payment.objects.exclude(pk=payment.pk).get()
    assert (unknown.gateway, unknown.state, unknown.failure_code) == ("razorpay", "unknown", "no_answer")
    assert unknown.next_poll_at is not None
    assert (payment.gateway, payment.state) == ("payu", "pending")


def test_when_no_gateway_answers_a_dinar_customer_pays_by_hand(market_of: MarketOf) -> None:
    market = market_of("chargily")
    market.fake.fail("busy")

    payment = market.top_up()

    assert (payment.gateway, payment.state, payment.checkout_url) == ("manual", "pending", "")


def test_a_repeated_request_gets_the_same_payment(market_of: MarketOf) -> None:
    market = market_of("stripe")
    first = market.top_up(idempotency_key="order-1")
    assert first.invoice is not None

    again = checkout_open(invoice=first.invoice, purpose="topup", actor=SYSTEM, idempotency_key="order-1")

    assert again == first
    assert len(market.fake.sessions) == 1


def test_an_earlier_checkout_that_expires_does_not_end_the_payment(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    # A lost answer made another checkout under the same reference before.
    twin = market.fake.checkouts[payment.checkout_id] | {"id": "01k9twin"}
    market.fake.checkouts["01k9twin"] = twin
    market.fake.expire("01k9twin")

    market.deliver()

    payment.refresh_from_db()
    row = GatewayWebhook.objects.get()
    assert (payment.state, row.state) == ("pending", "processed")
    assert row.note == "an earlier checkout, 01k9twin, which came to nothing"


def logged_in(market: Market) -> dict[str, str]:
    """The headers of the customer's session."""
    login = {"email": market.account.personal_of.email, "password": "correct horse battery"}  # type: ignore[union-attr]
    token = Client().post("/api/auth/login", data=login, content_type="application/json").json()["access_token"]
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("slug", ALL)
def test_by_the_api_a_customer_subscribes_pays_and_is_served(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    session = logged_in(market)
    wish = {"currency": PRICES[slug][0], "gateway": slug}

    begun = Client().post(f"/api/payment/subscribe/pro-{slug}", data=wish, content_type="application/json", headers=session)
    payment = Payment.objects.get()
    market.paid(payment)
    status = Client().get("/api/payment/status", headers=session).json()

    assert begun.status_code == 201
    assert (begun.json()["checkout_url"], begun.json()["amount"]) == (payment.checkout_url, float(market.price))
    assert (status["tier"], status["is_active"], status["to_pay"]) == (f"pro-{slug}", True, [])
    assert market.credits() == Decimal(500)


def test_by_the_api_a_customer_tops_up_once_however_often_the_request_comes(market_of: MarketOf) -> None:
    market = market_of("stripe")
    headers = logged_in(market) | {"idempotency-key": "order-7"}
    wish = {"pack": "pack-stripe", "currency": "USD"}

    answers = [
        Client().post("/api/payment/topup", data=wish, content_type="application/json", headers=headers).json()
        for _ in range(3)
    ]
    market.paid(Payment.objects.get())

    assert len({answer["checkout_url"] for answer in answers}) == 1
    assert (len(market.fake.sessions), market.credits()) == (1, Decimal(1050))


def test_the_gateways_of_an_account_are_those_of_its_currency(market_of: MarketOf) -> None:
    market = market_of("chargily")
    market_of("razorpay")
    market_of("stripe")

    answer = Client().get("/api/payment/gateways", headers=logged_in(market)).json()

    assert [one["gateway"] for one in answer["results"] if one["gateway"] != "manual"] == ["chargily", "stripe"]


def test_a_request_repeated_after_its_payment_gets_that_payment(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    first = market.paid(market.top_up(idempotency_key="order-1"))
    assert first.invoice is not None
    first.invoice.refresh_from_db()
    ManualMethod.objects.update(is_enabled=False)

    again = checkout_open(invoice=first.invoice, purpose="topup", actor=SYSTEM, idempotency_key="order-1")

    assert (again, again.state, Payment.objects.count()) == (first, "succeeded", 1)
