"""Money that goes back, over real HTTP: credits parked, money sent once, credit notes and books; failures restore it all."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import translation
from freezegun import freeze_time
from pytest_django.fixtures import Settings

from billing.accounts.models import User
from billing.events.services import Actor
from billing.models import Event, GatewayWebhook, Invoice, LedgerEntry, Payment, Refund
from billing.payments.manual import manual_confirm
from billing.payments.refunds import (
    refund_approve,
    refund_ask,
    refund_confirm,
    refund_reject,
    refund_request,
    refundables,
    refunds_due,
)
from billing.payments.services import unapplied_to_balance
from iafactory.common import clock
from iafactory.common.errors import ApiError
from tests.billing.subscriptions.selling import OPERATOR, spend, wrong
from tests.fakes.server import Delivery

from .market import Market, in_threads

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
REFUNDING = ["stripe", "paypal", "razorpay", "payu"]
PENDING = {"stripe": "pending", "paypal": "PENDING", "razorpay": "pending", "payu": "queued"}


@pytest.fixture(autouse=True)
def no_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    monkeypatch.setattr("billing.payments.refunds.task_enqueue", lambda *arguments: None)


def booked(kind: str, currency: str) -> Decimal:
    entries = LedgerEntry.objects.filter(ledger_account__kind=kind, unit=currency)
    return sum((entry.amount for entry in entries), Decimal(0))


def ask(payment: Payment, **fields: Any) -> Refund:
    return refund_request(payment=payment, reason="not what was wanted", actor=OPERATOR, **fields)


def sent(payment: Payment, **fields: Any) -> Refund:
    return refund_ask(refund_id=ask(payment, **fields).pk)


def finish(market: Market, refund: Refund, *, succeeded: bool = True) -> Refund:
    """What was pending at the gateway ends there, and we are told."""
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=succeeded)
    market.deliver()
    refund.refresh_from_db()
    return refund


def kinds() -> list[str]:
    return list(Event.objects.filter(kind__startswith="refund.").order_by("pk").values_list("kind", flat=True))


@pytest.mark.parametrize("slug", REFUNDING)
def test_a_whole_refund_takes_its_credits_and_settles_a_credit_note(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    market.fake.refund_status = PENDING[slug]
    payment = market.paid(market.top_up())

    refund = sent(payment)
    assert (refund.state, refund.amount, market.credits()) == ("pending", market.price, Decimal(0))
    assert Invoice.objects.filter(kind="credit_note").count() == 0
    finish(market, refund)

    payment.refresh_from_db()
    note = Invoice.objects.get(kind="credit_note")
    assert (refund.state, refund.credit_note, refund.credits) == ("succeeded", note, Decimal(1050))
    assert (note.state, note.total, note.payment_means) == ("paid", market.price, slug)
    assert (payment.refunded_amount, market.credits(), booked("cash", payment.currency)) == (market.price, 0, 0)
    assert kinds() == ["refund.requested", "refund.pending", "refund.succeeded"]
    assert GatewayWebhook.objects.filter(subject="refund").latest("received_at").state == "processed"
    assert wrong() == []


@pytest.mark.parametrize("slug", REFUNDING)
def test_a_refund_of_part_takes_that_share_of_credits_and_bonus(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    half = market.price / 2

    refund = sent(payment, amount=half)
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)
    market.deliver()

    refund.refresh_from_db()
    payment.refresh_from_db()
    [left] = refundables(payment)
    assert (refund.state, refund.amount, market.credits()) == ("succeeded", half, Decimal(525))
    assert (payment.refunded_amount, left.amount, booked("cash", payment.currency)) == (half, half, half)
    assert wrong() == []


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", "Razorpay takes 1 rupee at least."),
        ("fr", "Razorpay accepte 1 roupie au minimum."),
        ("ar", "الحد الأدنى لدى Razorpay روبية واحدة."),
    ],
)
def test_what_the_gateway_cannot_send_is_refused_in_the_operators_language(
    market_of: MarketOf, language: str, told: str
) -> None:
    market = market_of("razorpay")
    paid = market.paid(market.top_up())

    with pytest.raises(ApiError) as refused, translation.override(language):
        ask(paid, amount=Decimal("0.50"))

    with translation.override(language):
        assert (refused.value.code, refused.value.text) == ("payment_not_refundable", told)
    assert refused.value.message == "Razorpay takes 1 rupee at least."
    assert Refund.objects.count() == 0


@pytest.mark.parametrize("slug", REFUNDING)
def test_a_refund_that_fails_restores_the_credits(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    market.fake.refund_status = PENDING[slug]
    payment = market.paid(market.top_up())
    refund = sent(payment)

    market.fake.finish_refund(refund.gateway_refund_id, succeeded=False)
    market.deliver()
    # PayPal tells nobody of it: the poll asks.
    with freeze_time(clock.now() + timedelta(minutes=3), real_asyncio=True):
        refund_ask(refund_id=refund.pk)

    refund.refresh_from_db()
    payment.refresh_from_db()
    assert (refund.state, refund.failure_code, market.credits()) == ("failed", "gateway_failed", Decimal(1050))
    assert (payment.refunded_amount, Invoice.objects.filter(kind="credit_note").count()) == (0, 0)
    assert booked("cash", payment.currency) == market.price
    assert wrong() == []


def test_a_refund_that_fails_after_it_succeeded_is_taken_back_and_its_credit_note_serves_the_next(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    refund = sent(payment)
    market.deliver()
    assert (refund.state, market.credits()) == ("succeeded", Decimal(0))

    finish(market, refund, succeeded=False)
    payment.refresh_from_db()
    assert (refund.state, market.credits(), payment.refunded_amount) == ("failed", Decimal(1050), 0)
    assert (booked("cash", "USD"), booked("refunds", "USD")) == (market.price, 0)
    assert wrong() == []
    again = ask(payment, by_hand=True)
    again = refund_confirm(refund=again, actor=OPERATOR, reason="sent by transfer")

    refund.refresh_from_db()
    assert (again.state, market.credits()) == ("succeeded", Decimal(0))
    assert (again.credit_note, refund.credit_note) == (Invoice.objects.get(kind="credit_note"), None)
    assert (booked("cash", "USD"), booked("refunds", "USD")) == (0, market.price)
    assert wrong() == []


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay", "payu"])
def test_an_unknown_outcome_stays_pending_and_is_asked_again_with_the_same_key(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    market.fake.fail("drop_after", "postservice" if slug == "payu" else "refund")
    refund = sent(payment)
    assert (refund.state, refund.gateway_refund_id, market.credits()) == ("pending", "", Decimal(0))
    assert refunds_due() == []

    with freeze_time(clock.now() + timedelta(minutes=3), real_asyncio=True):
        assert refunds_due() == [refund.pk]
        refund_ask(refund_id=refund.pk)

    refund.refresh_from_db()
    assert len(market.fake.refunds) == 1
    assert refund.gateway_refund_id == next(iter(market.fake.refunds))
    assert refund.state == ("pending" if slug == "payu" else "succeeded")
    assert wrong() == []


def test_a_gateway_that_is_away_is_asked_later_and_one_that_refuses_ends_the_refund(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    payment = market.paid(market.top_up())
    market.fake.fail("busy", "/refund")
    refund = sent(payment)
    assert (refund.state, refund.failure_code, market.credits()) == ("requested", "rate_limited", Decimal(0))

    market.fake.payments[payment.gateway_payment_id]["amount_refunded"] = 149950
    with freeze_time(clock.now() + timedelta(minutes=3), real_asyncio=True):
        refund = refund_ask(refund_id=refund.pk)

    payment.refresh_from_db()
    assert (refund.state, market.credits(), payment.refunded_amount) == ("failed", Decimal(1050), 0)
    assert wrong() == []


def test_a_refusal_after_an_unknown_outcome_is_an_operators_to_decide(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    market.fake.fail("drop_after", "/v1/refunds")
    refund = sent(payment)
    # The gateway forgot the key after a day, not the refund.
    market.fake._replays.clear()

    with freeze_time(clock.now() + timedelta(hours=25), real_asyncio=True):
        refund = refund_ask(refund_id=refund.pk)
    assert (refund.state, refund.failure_code, market.credits()) == ("pending", "charge_already_refunded", Decimal(0))
    refund = refund_confirm(refund=refund, actor=OPERATOR, reason="seen at the gateway")

    assert (refund.state, market.credits(), booked("cash", "USD")) == ("succeeded", 0, 0)
    assert wrong() == []


def test_spent_credits_are_not_refundable(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    spend(market.account, "550")

    [part] = refundables(payment)
    with pytest.raises(ApiError) as refused:
        ask(payment, amount=Decimal("9.96"))

    # The bonus burns first: 500 of the 1,000 bought are left.
    assert part.amount == Decimal("9.95")
    assert (refused.value.code, refused.value.message) == ("refund_too_large", "9.95 USD can go back.")
    assert (Refund.objects.count(), market.credits()) == (0, Decimal(500))


def test_a_plans_credits_go_back_too(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.subscribe())
    spend(market.account, "100")

    refund = sent(payment)

    assert (refund.state, refund.amount, market.credits()) == ("succeeded", Decimal("15.92"), Decimal(0))
    assert wrong() == []


@pytest.mark.parametrize("amount", ["0", "-1", "0.001", "19.91"])
def test_amounts_that_cannot_go_back_move_nothing(market_of: MarketOf, amount: str) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())

    with pytest.raises(ApiError):
        ask(payment, amount=Decimal(amount))

    assert (Refund.objects.count(), market.credits(), len(market.fake.refunds)) == (0, Decimal(1050), 0)


def test_twenty_threads_send_one_refund(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    payment = market.paid(market.top_up())
    refusals: list[str] = []

    def once() -> None:
        try:
            refund_ask(refund_id=ask(payment).pk)
        except ApiError as error:
            refusals.append(error.code)

    in_threads([once] * 20)
    refund = Refund.objects.get()
    in_threads([lambda: refund_ask(refund_id=refund.pk)] * 20)
    told = [*market.fake.outbox]
    market.deliver(threads=20, seed=3)

    payment.refresh_from_db()
    refund.refresh_from_db()
    assert refusals == ["payment_not_refundable"] * 19
    assert (len(market.fake.calls("POST", "/refund")), len(told)) == (1, 1)
    assert isinstance(told[0], Delivery)
    assert (refund.state, market.credits(), payment.refunded_amount) == ("succeeded", 0, market.price)
    assert Invoice.objects.filter(kind="credit_note").count() == 1
    assert kinds() == ["refund.requested", "refund.succeeded"]
    assert wrong() == []


def test_twenty_workers_at_once_ask_the_gateway_once(market_of: MarketOf) -> None:
    market = market_of("payu")
    payment = market.paid(market.top_up())
    refund = ask(payment)

    in_threads([lambda: refund_ask(refund_id=refund.pk)] * 20)

    refund.refresh_from_db()
    asked = [call for call in market.fake.requests if b"cancel_refund_transaction" in call.body]
    assert (refund.state, len(asked), len(market.fake.refunds)) == ("pending", 1, 1)


def test_the_webhook_may_come_before_the_gateways_answer(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    market.fake.fail("drop_after", "/v1/refunds")
    refund = sent(payment)

    market.deliver()

    refund.refresh_from_db()
    assert (refund.state, refund.gateway_refund_id) == ("succeeded", next(iter(market.fake.refunds)))
    assert refund_ask(refund_id=refund.pk).state == "succeeded"
    assert len(market.fake.calls("POST", "/v1/refunds")) == 1
    assert wrong() == []


def test_money_at_a_gateway_that_cannot_refund_is_sent_and_confirmed_by_hand(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())

    refund = ask(payment, amount=Decimal(1295))
    assert (refund.by_hand, refund.state, market.credits(), refunds_due()) == (True, "requested", Decimal(525), [])
    refund = refund_confirm(refund=refund, actor=OPERATOR, reason="transfer 17")

    assert (refund.state, booked("cash", "DZD")) == ("succeeded", Decimal(1295))
    assert (Invoice.objects.get(kind="credit_note").payment_means, wrong()) == ("manual", [])


def test_money_that_was_not_sent_by_hand_is_rejected(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.paid(market.top_up())
    refund = ask(payment)

    refund = refund_reject(refund=refund, actor=OPERATOR, reason="the account is closed")
    with pytest.raises(ApiError) as late:
        refund_confirm(refund=refund, actor=OPERATOR, reason="again")

    assert (refund.state, refund.failure_code, market.credits()) == ("failed", "rejected", Decimal(1050))
    assert late.value.code == "refund_move_refused"
    assert wrong() == []


def test_what_the_gateway_may_be_sending_is_not_rejected(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.fake.refund_status = "pending"
    payment = market.paid(market.top_up())
    refund = sent(payment)

    with pytest.raises(ApiError) as refused:
        refund_reject(refund=refund, actor=OPERATOR, reason="changed my mind")

    assert (refused.value.code, market.credits()) == ("refund_move_refused", Decimal(0))


def test_money_without_an_invoice_goes_back_and_nobody_else_can_use_it_meanwhile(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    Payment.objects.filter(pk=payment.pk).update(gateway="manual")
    payment.refresh_from_db()
    payment = manual_confirm(payment=payment, actor=OPERATOR, reason="seen", received=Decimal(3000))
    _sold, unapplied = refundables(payment)
    assert (unapplied.invoice, unapplied.amount) == (None, Decimal(410))

    refund = ask(payment, amount=Decimal(2590))
    rest = ask(payment)
    assert (rest.amount, rest.facts["invoice"], wrong()) == (Decimal(410), None, [])
    with pytest.raises(ApiError) as nothing:
        unapplied_to_balance(payment=payment, actor=OPERATOR, reason="keep")
    refund_confirm(refund=rest, actor=OPERATOR, reason="sent")
    refund_reject(refund=refund, actor=OPERATOR, reason="not sent")

    payment.refresh_from_db()
    assert nothing.value.code == "nothing_unapplied"
    assert (payment.refunded_amount, payment.unapplied_amount) == (Decimal(410), 0)
    assert (booked("cash", "DZD"), booked("unapplied", "DZD")) == (Decimal(2590), 0)
    assert wrong() == []


def test_a_refund_above_the_limit_waits_for_a_second_operator(market_of: MarketOf, settings: Settings) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = Decimal("19.89")
    first = User.objects.create_user("first@example.com", "correct horse battery", is_staff=True)
    asking = Actor(Event.ActorKind.OPERATOR, id=first.pk, label=first.email)
    market = market_of("stripe")
    payment = market.paid(market.top_up())

    refund = refund_request(payment=payment, reason="too much", actor=asking)
    refund_ask(refund_id=refund.pk)
    with pytest.raises(ApiError) as alone:
        refund_approve(refund=refund, actor=Actor(asking.kind, id=first.pk, label="first@example.com (key)"), reason="yes")
    assert (alone.value.code, len(market.fake.refunds), market.credits()) == ("second_operator_needed", 0, 0)
    refund_approve(refund=refund, actor=OPERATOR, reason="agreed")
    refund = refund_ask(refund_id=refund.pk)

    assert (refund.state, refund.confirmed_by) == ("succeeded", OPERATOR.label)
    assert wrong() == []


def test_a_repeated_request_gets_the_same_refund(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())

    first = ask(payment, amount=Decimal(5), idempotency_key="once")
    again = ask(payment, amount=Decimal(5), idempotency_key="once")

    assert (again, Refund.objects.count()) == (first, 1)
