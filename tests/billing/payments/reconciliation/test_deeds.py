"""What operators do about differences with a gateway: booked through the services that book it whoever tells, once."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from billing.models import Dispute, Event, Invoice, Payment, Reconciliation, ReconciliationRow, Refund, Wallet
from billing.payments.reconciliation.deeds import (
    reconciliation_again,
    row_apply,
    row_explain,
    row_keep,
    row_recheck,
    row_refund,
)
from billing.payments.reconciliation.selectors import findings_open
from billing.payments.refunds import refund_ask, refund_request
from iafactory.common.errors import ApiError
from tests.billing.payments.inbox.test_refunds_and_disputes import refunded
from tests.billing.payments.market import Market, in_threads
from tests.billing.payments.test_refunds import booked
from tests.billing.subscriptions.selling import OPERATOR, spend, wrong
from tests.factories import account_make

from .days import compared, unheard

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
ALL = ["chargily", "stripe", "paypal", "razorpay", "payu"]
BY: Any = {"actor": OPERATOR, "reason": "seen at the gateway"}


@pytest.fixture(autouse=True)
def alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    monkeypatch.setattr("billing.payments.refunds.task_enqueue", lambda *arguments: None)
    monkeypatch.setattr("billing.payments.reconciliation.deeds.task_enqueue", lambda *arguments: None)


def finding(outcome: str) -> ReconciliationRow:
    return ReconciliationRow.objects.get(outcome=outcome)


def events() -> list[tuple[str, str]]:
    told = Event.objects.filter(kind__startswith="reconciliation.").order_by("pk")
    return list(told.values_list("kind", "reason"))


@pytest.mark.parametrize("slug", ALL)
def test_a_missing_payment_is_applied_and_brings_what_was_bought(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = unheard(market, market.subscribe())
    [row] = compared()

    row = row_apply(row=row, **BY)

    payment.refresh_from_db()
    assert (payment.state, payment.received_amount, payment.unapplied_amount) == ("succeeded", market.price, 0)
    assert (market.live_plan(), market.credits()) == (f"pro-{slug}", Decimal(500))
    assert (row.state, row.outcome, row.closed_by, row.reason) == ("resolved", "missing", OPERATOR.label, BY["reason"])
    assert (events(), findings_open(), wrong()) == ([("reconciliation.applied", BY["reason"])], 0, [])
    Reconciliation.objects.update(state="waiting", next_attempt_at=row.checked_at, finished_at=None)
    assert [(again.pk, again.state) for again in compared()] == [(row.pk, "resolved")]


def test_twenty_operators_apply_a_missing_payment_once(market_of: MarketOf) -> None:
    market = market_of("stripe")
    unheard(market, market.top_up())
    [row] = compared()
    refusals: list[str] = []

    def once() -> None:
        try:
            row_apply(row=row, **BY)
        except ApiError as error:
            refusals.append(error.code)

    in_threads([once] * 20)

    assert set(refusals) <= {"reconciliation_move_refused", "reconciliation_not_applicable"}
    assert len(refusals) == 19
    assert (market.credits(), market.lots(), len(events()), wrong()) == (Decimal(1050), 2, 1, [])


def test_money_of_nobody_goes_to_the_account_that_is_named(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = unheard(market, market.top_up())
    Payment.objects.filter(pk=payment.pk).update(reference="pasomebodyelse", checkout_id="cs_other")
    [row] = compared()
    owner = account_make()

    with pytest.raises(ApiError) as unnamed:
        row_apply(row=row, **BY)
    row = row_apply(row=row, account=str(owner.pk), **BY)

    found = Payment.objects.get(account=owner)
    assert (unnamed.value.code, unnamed.value.param) == ("invalid_request", "account")
    assert (found.state, found.unapplied_amount, found.gateway_payment_id) == ("succeeded", market.price, row.key)
    assert (row.state, booked("unapplied", "USD"), wrong()) == ("resolved", -market.price, [])


@pytest.mark.parametrize("deed", [row_keep, row_apply])
def test_what_is_too_much_of_a_payment_under_review_stays_unapplied(market_of: MarketOf, deed: Callable[..., Any]) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.checkouts[payment.checkout_id]["amount"] = 3000
    market.deliver()
    [row] = compared()

    deed(row=row, **BY)

    payment.refresh_from_db()
    assert (payment.state, payment.received_amount, payment.unapplied_amount) == ("succeeded", Decimal(3000), Decimal(410))
    assert (market.credits(), findings_open(), wrong()) == (Decimal(1050), 0, [])


def test_what_is_too_much_of_a_booked_payment_is_kept_once(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    market.fake.intents[payment.gateway_payment_id]["amount_received"] = 2500
    [row] = compared()

    row_keep(row=row, **BY)
    with pytest.raises(ApiError) as again:
        row_keep(row=row, **BY)

    payment.refresh_from_db()
    assert (payment.received_amount, payment.unapplied_amount) == (Decimal(25), Decimal("5.1"))
    assert (again.value.code, booked("cash", "USD"), wrong()) == ("reconciliation_move_refused", Decimal(25), [])


def test_a_second_payment_is_sent_back(market_of: MarketOf) -> None:
    market = market_of("razorpay")
    first = market.top_up()
    market.paid(first)
    assert first.invoice is not None
    link = market.fake.links[first.checkout_id]
    again = market.fake._attempt(link)
    market.fake._captured(again)
    market.fake.outbox.clear()
    rows = compared()
    assert [(row.outcome, row.key) for row in rows] == [
        ("duplicate", again["id"]),
        ("expected", first.gateway_payment_id),
    ]

    refund = refund_ask(refund_id=row_refund(row=rows[0], **BY).pk)

    found = Payment.objects.get(gateway_payment_id=again["id"])
    assert (found.account, found.unapplied_amount, found.refunded_amount) == (market.account, 0, market.price)
    assert (refund.state, refund.amount, again["amount_refunded"]) == ("succeeded", market.price, 149950)
    assert (market.credits(), findings_open(), wrong()) == (Decimal(1050), 0, [])


def test_a_duplicate_that_is_booked_is_sent_back(market_of: MarketOf) -> None:
    market, other = market_of("razorpay"), market_of("payu")
    other.account = market.account
    first = market.top_up()
    assert first.invoice is not None
    second = other.open(first.invoice, "topup")
    market.paid(first)
    other.paid(second)
    compared()

    refund = row_refund(row=finding("duplicate"), **BY)

    second.refresh_from_db()
    assert (refund.payment, refund.amount, second.unapplied_amount) == (second, other.price, 0)
    assert (findings_open(), wrong()) == (0, [])


def test_money_in_another_currency_is_kept_apart_and_the_payment_ends(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.checkouts[payment.checkout_id]["currency"] = "eur"
    market.deliver()
    [row] = compared()

    with pytest.raises(ApiError) as refused:
        row_apply(row=row, **BY)
    row_keep(row=row, **BY)

    payment.refresh_from_db()
    kept = Payment.objects.exclude(pk=payment.pk).get()
    assert refused.value.code == "payment_currency_differs"
    assert (payment.state, payment.failure_code) == ("failed", "kept_apart")
    assert (kept.currency, kept.unapplied_amount, kept.invoice) == ("EUR", Decimal(2590), None)
    assert (market.credits(), booked("unapplied", "EUR"), wrong()) == (0, Decimal(-2590), [])
    assert Invoice.objects.filter(state="paid").count() == 0


def test_too_little_money_is_sent_back_and_buys_nothing(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.top_up()
    market.act(payment)
    session = market.fake.sessions[payment.checkout_id]
    session["amount_total"] = 1000
    intent = market.fake.intents[session["payment_intent"]]
    intent.update(amount=1000, amount_received=1000)
    market.fake.charges[intent["latest_charge"]]["amount"] = 1000
    market.deliver()
    [row] = compared()

    refund = refund_ask(refund_id=row_refund(row=row, **BY).pk)

    payment.refresh_from_db()
    assert (row.outcome, payment.state, refund.state, refund.amount) == ("under", "failed", "succeeded", Decimal(10))
    assert (market.credits(), booked("cash", "USD"), wrong()) == (0, 0, [])


def test_money_that_never_came_is_taken_back_with_what_it_bought(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    spend(market.account, "250")
    market.fake.intents.clear()
    [row] = compared()

    row_apply(row=row, **BY)

    payment.refresh_from_db()
    wallet = Wallet.objects.get(pk=market.account.pk)
    assert (Dispute.objects.get().state, payment.refunded_amount) == ("lost", market.price)
    assert (wallet.balance, wallet.debt, booked("cash", "USD"), wrong()) == (0, Decimal(200), 0, [])


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay"])
def test_a_refund_from_the_gateways_console_is_booked_once(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    begun = refunded(market, payment, "fromtheirconsole00000")
    market.fake.outbox.clear()
    compared()

    row_apply(row=finding("missing"), **BY)

    refund = Refund.objects.get()
    assert (refund.state, refund.amount, refund.gateway_refund_id) == ("succeeded", begun.money.amount, begun.refund_id)
    assert (refund.credit_note is not None, refund.by_hand, len(market.fake.refunds)) == (True, False, 1)
    assert (market.credits() < Decimal(1050), findings_open(), wrong()) == (True, 0, [])
    assert all(row.state in ("agreed", "resolved") for row in compared())


def test_a_refund_of_credits_that_are_spent_is_refused_in_words(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    spend(market.account, "900")
    refunded(market, payment, "fromtheirconsole00000")
    compared()

    with pytest.raises(ApiError) as refused:
        row_apply(row=finding("missing"), **BY)

    assert (refused.value.code, Refund.objects.count(), findings_open()) == ("refund_too_large", 0, 1)
    assert events() == []


def test_a_refund_whose_success_nobody_told_is_booked(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.fake.refund_status = "pending"
    payment = market.paid(market.top_up())
    refund = refund_ask(refund_id=refund_request(payment=payment, reason="asked", actor=OPERATOR).pk)
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)
    market.fake.outbox.clear()
    compared()

    row_apply(row=finding("missing"), **BY)

    refund.refresh_from_db()
    assert (refund.state, market.credits(), booked("cash", "USD"), wrong()) == ("succeeded", 0, 0, [])


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay", "payu"])
def test_a_refund_that_a_bank_sent_back_is_undone(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    refund = refund_ask(refund_id=refund_request(payment=payment, reason="asked", actor=OPERATOR).pk)
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)
    market.deliver()
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=False)
    market.fake.outbox.clear()
    compared()

    row_apply(row=finding("under"), **BY)

    refund.refresh_from_db()
    payment.refresh_from_db()
    assert (refund.state, market.credits(), payment.refunded_amount) == ("failed", Decimal(1050), 0)
    assert (booked("cash", payment.currency), wrong()) == (market.price, [])


def test_money_that_went_back_after_the_refund_failed_here_is_booked(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.fake.refund_status = "pending"
    payment = market.paid(market.top_up())
    refund = refund_ask(refund_id=refund_request(payment=payment, reason="asked", actor=OPERATOR).pk)
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=False)
    market.deliver()
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)
    compared()

    row_apply(row=finding("missing"), **BY)

    states = sorted(Refund.objects.values_list("state", "gateway_refund_id"))
    assert states == [("failed", ""), ("succeeded", refund.gateway_refund_id)]
    assert (market.credits(), booked("cash", "USD"), wrong()) == (0, 0, [])


def test_a_difference_that_is_explained_stays_so_until_its_figures_change(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    intent = market.fake.intents[payment.gateway_payment_id]
    intent["amount_received"] = 2500
    [row] = compared()

    row_explain(row=row, actor=OPERATOR, reason="a tip")
    Reconciliation.objects.update(state="waiting", next_attempt_at=row.checked_at, finished_at=None)
    [same] = compared()
    intent["amount_received"] = 2600
    Reconciliation.objects.update(state="waiting", next_attempt_at=row.checked_at, finished_at=None)
    [changed] = compared()

    assert (same.state, same.reason, changed.state) == ("explained", "a tip", "open")
    assert events() == [("reconciliation.explained", "a tip")]


def test_looking_again_sees_what_is_true_now(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    intent = market.fake.intents[payment.gateway_payment_id]
    intent["amount_received"] = 2500
    [row] = compared()

    intent["amount_received"] = 2600
    more = row_recheck(row=row, **BY)
    intent["amount_received"] = 1990
    none = row_recheck(row=row, **BY)

    assert (more.state, more.their_amount) == ("open", Decimal(26))
    assert (none.state, none.outcome, none.closed_by) == ("resolved", "over", "system")
    assert [kind for kind, _reason in events()] == ["reconciliation.rechecked"] * 2


def test_what_went_back_meanwhile_is_not_applied(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = unheard(market, market.top_up())
    [row] = compared()
    market.fake.checkouts[payment.checkout_id]["status"] = "failed"

    with pytest.raises(ApiError) as refused:
        row_apply(row=row, **BY)

    payment.refresh_from_db()
    assert (refused.value.code, payment.state, market.credits()) == ("reconciliation_not_applicable", "expired", 0)
    assert (findings_open(), events()) == (1, [])


@pytest.mark.parametrize("deed", [row_apply, row_keep, row_refund, row_recheck])
def test_a_gateway_that_is_away_changes_nothing(market_of: MarketOf, deed: Callable[..., Any]) -> None:
    market = market_of("stripe")
    unheard(market, market.top_up())
    [row] = compared()
    market.fake.fail("error", times=9)

    with pytest.raises(ApiError) as refused:
        deed(row=row, **BY)

    assert (refused.value.status, refused.value.code) == (503, "gateways_unavailable")
    assert (findings_open(), events(), market.credits()) == (1, [], 0)


def test_a_day_is_compared_again_where_an_operator_asks(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.top_up())
    compared()
    run = Reconciliation.objects.get()

    asked = reconciliation_again(reconciliation=run, **BY)
    Reconciliation.objects.update(state="running")
    with pytest.raises(ApiError) as busy:
        reconciliation_again(reconciliation=run, **BY)

    assert (run.state, asked.state, asked.attempts) == ("complete", "waiting", 0)
    assert busy.value.code == "reconciliation_move_refused"
    assert events() == [("reconciliation.asked_again", BY["reason"])]
