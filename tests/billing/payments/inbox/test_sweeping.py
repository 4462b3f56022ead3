"""What nobody worked, what could not be verified, and payments that nobody told us about: time brings them to an end."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from billing.models import GatewayWebhook, Payment
from billing.payments.inbox.working import rejected_forget, webhook_work, webhooks_sweep
from billing.payments.polling import payment_poll, payments_due
from tests.billing.payments.market import Market

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)


def later(**span: int) -> Any:
    """The product's clock that much ahead; the gateway's clock does not move."""
    return freeze_time(datetime.now(UTC) + timedelta(**span), real_asyncio=True)


def test_a_webhook_whose_process_died_before_its_work_is_worked(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.top_up()
    market.act(payment)
    market.send(market.fake.outbox)
    market.queue.waiting.clear()

    early = webhooks_sweep()
    with later(seconds=31):
        swept = webhooks_sweep()
        again = webhooks_sweep()
        market.queue.work()

    payment.refresh_from_db()
    assert (early, swept, again) == (0, 1, 0)
    assert (payment.state, market.credits(), market.webhook_states()) == ("succeeded", 1050, {"processed"})


def test_a_webhook_whose_process_died_before_its_verification_is_verified(
    market_of: MarketOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = market_of("stripe")
    payment = market.top_up()
    market.act(payment)
    with monkeypatch.context() as broken:
        broken.setattr("billing.payments.inbox.receiving.webhook_verify", lambda row, **_: row)
        market.send(market.fake.outbox)
    unverified = GatewayWebhook.objects.get().verified_at

    # Much later than Stripe's five minutes: what counts is when it arrived.
    with later(hours=2):
        webhooks_sweep()
        market.queue.work()

    payment.refresh_from_db()
    assert (unverified, payment.state, market.credits()) == (None, "succeeded", 1050)


def test_a_forged_webhook_that_was_not_verified_at_once_is_rejected_later(
    market_of: MarketOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = market_of("stripe")
    market.act(market.top_up())
    [delivery] = market.fake.outbox
    delivery.body = delivery.body.replace(b"cs_test", b"cs_tost")
    signed = delivery.signed() | {"stripe-signature": "t=1,v1=00"}
    delivery.headers = lambda body: signed
    with monkeypatch.context() as broken:
        broken.setattr("billing.payments.inbox.receiving.webhook_verify", lambda row, **_: row)
        market.send([delivery])

    with later(seconds=31):
        webhooks_sweep()

    assert (market.webhook_states(), market.queue.waiting) == ({"rejected"}, [])


def test_a_certificate_that_comes_late_still_counts(market_of: MarketOf) -> None:
    market = market_of("paypal")
    payment = market.top_up()
    market.act(payment)
    market.fake.fail("error", "/certs/")
    market.deliver()
    waiting = market.webhook_states()

    with later(seconds=31):
        webhooks_sweep()
        market.queue.work()

    payment.refresh_from_db()
    assert (waiting, payment.state, market.credits()) == ({"received"}, "succeeded", 1050)


def test_a_failure_is_tried_again_at_growing_distances_and_in_the_end_looked_at(market_of: MarketOf) -> None:
    market = market_of("chargily")
    market.act(market.top_up())
    market.fake.fail("error", "/api/v2/", times=1000)
    market.deliver()
    row = GatewayWebhook.objects.get()
    waits = []

    for _ in range(23):
        row.refresh_from_db()
        assert row.next_attempt_at is not None
        waits.append(round((row.next_attempt_at - (row.worked_at or row.received_at)).total_seconds() / 60))
        webhook_work(webhook_id=row.pk)
    row.refresh_from_db()

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, *[360] * 14]
    assert (row.state, row.attempts, row.next_attempt_at) == ("failed", 24, None)


def test_a_bug_is_written_down_and_tried_again(market_of: MarketOf, monkeypatch: pytest.MonkeyPatch) -> None:
    market = market_of("chargily")
    market.act(market.top_up())
    market.send(market.fake.outbox)
    row = GatewayWebhook.objects.get()
    monkeypatch.setattr("billing.payments.inbox.working.payment_confirm", lambda **_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        webhook_work(webhook_id=row.pk)

    row.refresh_from_db()
    assert (row.state, row.note) == ("failed", "ZeroDivisionError: division by zero")
    assert row.next_attempt_at is not None


def test_rejected_webhooks_are_forgotten_others_stay(market_of: MarketOf) -> None:
    market = market_of("chargily")
    market.paid(market.top_up())
    kept = GatewayWebhook.objects.get()
    GatewayWebhook.objects.create(gateway="stripe", mode="test", state="rejected", body=b"x", body_sha256="a" * 64)

    forgotten = rejected_forget(before=datetime.now(UTC) + timedelta(seconds=1))

    assert (forgotten, GatewayWebhook.objects.get()) == (1, kept)


def test_open_payments_are_asked_about_at_two_ten_thirty_minutes_then_hourly(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.top_up()
    asked = []

    for minute in range(0, 200):
        with freeze_time(payment.created_at + timedelta(minutes=minute, seconds=1), real_asyncio=True):
            for due in payments_due():
                asked.append(minute)
                payment_poll(payment_id=due)

    assert asked == [2, 10, 30, 90, 150]
    assert len(market.fake.calls("GET", "/v1/checkout/sessions/")) == 5


def test_a_payment_that_its_gateway_calls_open_for_days_is_given_up(market_of: MarketOf) -> None:
    market = market_of("paypal")
    payment = market.top_up()
    assert payment.expires_at is not None

    with freeze_time(payment.expires_at + timedelta(hours=23), real_asyncio=True):
        before = payment_poll(payment_id=payment.pk).state
    with freeze_time(payment.expires_at + timedelta(hours=25), real_asyncio=True):
        after = payment_poll(payment_id=payment.pk)
        left = payments_due()

    assert (before, after.state, after.failure_code, left) == ("pending", "expired", "not_paid_in_time", [])


def test_a_form_that_nobody_posted_is_given_up(market_of: MarketOf) -> None:
    market = market_of("payu")
    payment = market.top_up()
    assert payment.expires_at is not None

    early = payment_poll(payment_id=payment.pk).state
    with freeze_time(payment.expires_at + timedelta(hours=25), real_asyncio=True):
        late = payment_poll(payment_id=payment.pk)

    assert (early, late.state, late.failure_code) == ("pending", "expired", "not_found")


def test_an_attempt_whose_process_died_is_found_and_given_up_after_half_an_hour(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.top_up()
    Payment.objects.filter(pk=payment.pk).update(state="created", checkout_id="", checkout_url="", next_poll_at=None)

    at_once = payments_due()
    with later(minutes=3):
        due = payments_due()
        early = payment_poll(payment_id=payment.pk).state
    with later(minutes=31):
        late = payment_poll(payment_id=payment.pk)

    assert (at_once, due, early) == ([], [payment.pk], "created")
    assert (late.state, late.failure_code) == ("failed", "resource_missing")


def test_an_unknown_attempt_that_was_paid_after_all_is_money(market_of: MarketOf) -> None:
    market, _other = market_of("razorpay"), market_of("payu")
    market.fake.fail("drop_after", "/v1/payment_links")
    market.top_up()
    unknown = Payment.objects.get(state="unknown")
    [link_id] = market.fake.links
    market.fake.act(market.fake.links[link_id]["short_url"], "pay")

    market.deliver()

    unknown.refresh_from_db()
    assert (unknown.state, market.credits(), unknown.received_amount) == ("succeeded", 1050, market.price)


def test_a_gateway_that_does_not_answer_a_poll_is_asked_again(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.fail("error", times=1)

    first = payment_poll(payment_id=payment.pk)
    second = payment_poll(payment_id=payment.pk)

    assert (first.state, first.polls, second.state) == ("pending", 1, "succeeded")
