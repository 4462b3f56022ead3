"""A gateway's day compared with our books, over real HTTP: what it lists, what only we have, and a gateway that is away."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db.models import F
from freezegun import freeze_time
from pytest_django.fixtures import Settings

from billing.models import Payment, Reconciliation, ReconciliationRow, Refund
from billing.payments.confirmation import payment_confirm
from billing.payments.reconciliation import tasks
from billing.payments.reconciliation.comparing import days_plan, reconciliation_run, reconciliations_due
from billing.payments.reconciliation.selectors import findings_open, reconciliation_standing
from billing.payments.refunds import refund_ask, refund_request
from tests.billing.payments.inbox.test_refunds_and_disputes import refunded
from tests.billing.payments.market import Market, in_threads
from tests.billing.subscriptions.selling import OPERATOR

from .days import compared, next_day, unheard

MarketOf = Callable[[str], Market]
pytestmark = pytest.mark.django_db(transaction=True)
ALL = ["chargily", "stripe", "paypal", "razorpay", "payu"]
# Where each fake keeps what was paid.
KEPT = {
    "chargily": ["checkouts"],
    "stripe": ["intents"],
    "paypal": ["orders", "captures"],
    "razorpay": ["links", "payments"],
    "payu": ["transactions"],
}


@pytest.fixture(autouse=True)
def no_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REFUND_SECOND_OPERATOR_ABOVE_USD = None
    monkeypatch.setattr("billing.payments.refunds.task_enqueue", lambda *arguments: None)


@pytest.mark.parametrize("slug", ALL)
def test_what_both_sides_have_is_expected(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())

    [row] = compared()

    run = Reconciliation.objects.get(day=datetime.now(UTC).date())
    assert (row.outcome, row.state, row.payment, row.key) == ("expected", "agreed", payment, payment.gateway_payment_id)
    assert (row.our_amount, row.their_amount, row.their_currency) == (market.price, market.price, payment.currency)
    assert (run.state, run.listed, run.note, findings_open()) == ("complete", True, "", 0)


@pytest.mark.parametrize("slug", ALL)
def test_money_that_nobody_told_us_of_is_missing(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = unheard(market, market.top_up())

    [row] = compared()

    assert (row.outcome, row.state, row.payment, row.note) == ("missing", "open", payment, "Here it is expired.")
    assert (row.our_amount, row.their_amount, row.ours["state"]) == (None, market.price, "expired")
    assert (row.theirs["state"], findings_open(), market.credits()) == ("paid", 1, Decimal(0))


def test_money_of_no_payment_of_ours_is_missing(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = unheard(market, market.top_up())
    Payment.objects.filter(pk=payment.pk).update(reference="pasomebodyelse", checkout_id="cs_other")

    [row] = compared()

    assert (row.outcome, row.payment, row.note) == ("missing", None, "It belongs to no payment of ours.")


@pytest.mark.parametrize(("amount", "outcome"), [(3000, "over"), (2000, "under")])
def test_another_amount_than_was_asked_for(market_of: MarketOf, amount: int, outcome: str) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.checkouts[payment.checkout_id]["amount"] = amount
    market.deliver()

    [row] = compared()

    assert (row.outcome, row.state, row.our_amount, row.their_amount) == (outcome, "open", None, Decimal(amount))
    assert row.note.startswith("Here it is review: amount:")


@pytest.mark.parametrize(("amount", "outcome"), [("19.95", "over"), ("19.85", "under")])
def test_another_amount_than_was_booked(market_of: MarketOf, amount: str, outcome: str) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    intent = market.fake.intents[payment.gateway_payment_id]
    intent["amount_received"] = int(Decimal(amount) * 100)

    [row] = compared()

    assert (row.outcome, row.our_amount, row.their_amount) == (outcome, Decimal("19.90"), Decimal(amount))


def test_another_currency(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.checkouts[payment.checkout_id]["currency"] = "eur"
    market.deliver()

    [row] = compared()

    assert (row.outcome, row.state, row.their_amount, row.their_currency) == ("currency", "open", Decimal(2590), "EUR")


def test_a_second_payment_of_one_attempt_is_a_duplicate(market_of: MarketOf) -> None:
    market = market_of("chargily")
    payment = market.top_up()
    market.fake.checkouts["01k9twin"] = market.fake.checkouts[payment.checkout_id] | {"id": "01k9twin"}
    market.paid(payment)
    market.fake.pay_late("01k9twin")
    market.fake.outbox.clear()

    first, second = compared()

    assert (first.outcome, first.key) == ("duplicate", "01k9twin")
    assert first.note == f"A second payment for {payment.reference}, which {payment.gateway_payment_id} paid."
    assert (second.outcome, second.key) == ("expected", payment.gateway_payment_id)


def test_an_invoice_that_two_gateways_were_paid_for_is_a_duplicate(market_of: MarketOf) -> None:
    market, other = market_of("razorpay"), market_of("payu")
    other.account = market.account
    first = market.top_up()
    assert first.invoice is not None
    second = other.open(first.invoice, "topup")
    market.paid(first)
    other.paid(second)

    duplicate, expected = compared()

    assert (duplicate.outcome, duplicate.payment, duplicate.our_amount) == ("duplicate", second, other.price)
    assert duplicate.note == f"{first.reference} paid the invoice; this money is unapplied."
    assert (expected.outcome, expected.payment) == ("expected", first)


@pytest.mark.parametrize("slug", ALL)
def test_money_that_the_gateway_does_not_have_is_under(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    for kept in KEPT[slug]:
        getattr(market.fake, kept).clear()

    [row] = compared()

    assert (row.outcome, row.state, row.payment) == ("under", "open", payment)
    assert (row.our_amount, row.their_amount, row.note) == (market.price, None, "The gateway knows no such payment.")


def test_a_payment_that_began_before_midnight_and_ended_after_it_agrees_once(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    Payment.objects.filter(pk=payment.pk).update(paid_at=F("paid_at") + timedelta(days=1))

    rows = compared(days=2)

    assert [(row.outcome, row.reconciliation.day) for row in rows] == [("expected", datetime.now(UTC).date())]
    assert Reconciliation.objects.filter(state="complete").count() == 2


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay", "payu"])
def test_refunds_of_ours_agree(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    refund = refund_ask(refund_id=refund_request(payment=payment, reason="asked", actor=OPERATOR).pk)
    if slug == "payu":
        market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)
    market.deliver()

    rows = compared()

    assert [(row.subject, row.outcome) for row in rows] == [("payment", "expected"), ("refund", "expected")]
    assert (rows[1].refund, rows[1].their_amount) == (refund, market.price)


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay"])
def test_a_refund_from_the_gateways_console_is_missing(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    begun = refunded(market, payment, "fromtheirconsole00000")
    market.fake.outbox.clear()

    rows = compared()

    assert [(row.subject, row.outcome, row.state) for row in rows] == [
        ("payment", "expected", "agreed"),
        ("refund", "missing", "open"),
    ]
    assert (rows[1].payment, rows[1].key, rows[1].their_amount) == (payment, begun.refund_id, begun.money.amount)
    assert rows[1].note == "Nobody asked for it here."


@pytest.mark.parametrize("slug", ["stripe", "paypal", "razorpay", "payu"])
def test_a_refund_that_a_bank_sends_back_days_later_is_found(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    payment = market.paid(market.top_up())
    refund = refund_ask(refund_id=refund_request(payment=payment, reason="asked", actor=OPERATOR).pk)
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)
    market.deliver()
    compared()
    # PayPal tells nobody; the others' word was lost.
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=False)
    market.fake.outbox.clear()

    rows = compared(days=4)

    assert [(row.subject, row.outcome, row.state) for row in rows] == [
        ("payment", "expected", "agreed"),
        ("refund", "under", "open"),
    ]
    assert rows[1].note.startswith("It failed there")


def test_money_that_went_back_though_the_refund_failed_here_is_missing(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.fake.refund_status = "pending"
    payment = market.paid(market.top_up())
    refund = refund_ask(refund_id=refund_request(payment=payment, reason="asked", actor=OPERATOR).pk)
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=False)
    market.deliver()
    market.fake.finish_refund(refund.gateway_refund_id, succeeded=True)

    rows = compared()

    assert Refund.objects.get().state == "failed"
    assert [(row.outcome, row.note) for row in rows if row.subject == "refund"] == [("missing", "Here it is failed.")]


def test_without_the_right_to_list_what_we_know_is_looked_up(market_of: MarketOf) -> None:
    market = market_of("paypal")
    market.fake.may_search = False
    known = market.paid(market.top_up())
    market_b = market.top_up()
    unheard(market, market_b)

    rows = compared()

    run = Reconciliation.objects.get(day=datetime.now(UTC).date())
    assert [(row.payment, row.outcome) for row in rows] == [(known, "expected"), (market_b, "missing")]
    assert (run.state, run.listed) == ("complete", False)
    assert run.note == "not listed: NOT_AUTHORIZED: Authorization failed due to insufficient permissions."


@pytest.mark.parametrize("slug", ALL)
def test_a_gateway_that_is_down_leaves_the_day_waiting_and_it_is_completed_later(market_of: MarketOf, slug: str) -> None:
    market = market_of(slug)
    unheard(market, market.top_up())
    market.fake.fail("error", times=1000)

    assert compared() == []
    waiting = Reconciliation.objects.get(day=datetime.now(UTC).date())
    standing = reconciliation_standing()
    market.fake.faults.clear()
    with next_day():
        too_early = reconciliations_due()
    with next_day(later=timedelta(minutes=16)):
        for run_id in reconciliations_due():
            reconciliation_run(reconciliation_id=run_id)

    waiting_note = f"{slug}: http_500: failed on their side"
    assert (waiting.state, waiting.note, waiting.attempts) == ("waiting", waiting_note, 1)
    assert (standing.unfinished_days, standing.oldest_unfinished, too_early) == (1, waiting.day, [])
    waiting.refresh_from_db()
    assert (waiting.state, waiting.note, waiting.attempts) == ("complete", "", 2)
    assert reconciliation_standing().open_by_outcome == {"missing": 1}


def test_after_three_days_of_downtime_every_missed_day_is_compared(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.top_up())
    today = datetime.now(UTC).date()
    compared()

    compared(days=5)

    days = Reconciliation.objects.order_by("day").values_list("day", "state")
    assert list(days) == [(today + timedelta(days=number), "complete") for number in range(5)]


def test_the_first_comparison_begins_with_the_first_payment_but_not_in_the_far_past(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    Payment.objects.filter(pk=payment.pk).update(created_at=F("created_at") - timedelta(days=90))

    with next_day():
        planned = days_plan()
        again = days_plan()

    assert (planned, again, Reconciliation.objects.count()) == (31, 0, 31)


def test_a_day_is_over_three_hours_after_midnight(market_of: MarketOf) -> None:
    market_of("stripe")

    with freeze_time("2026-11-21T02:59:00Z", real_asyncio=True):
        days_plan()
    early = [f"{run.day}" for run in Reconciliation.objects.all()]
    with freeze_time("2026-11-21T03:00:00Z", real_asyncio=True):
        days_plan()

    assert early == ["2026-11-19"]
    assert [f"{run.day}" for run in Reconciliation.objects.order_by("day")] == ["2026-11-19", "2026-11-20"]


def test_ten_workers_at_once_compare_a_day_once(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.top_up())
    with next_day():
        in_threads([days_plan] * 10)
        [run_id] = reconciliations_due()
        before = len(market.fake.calls("GET", "/v1/payment_intents"))

        in_threads([lambda: reconciliation_run(reconciliation_id=run_id)] * 10)

    listed = [call for call in market.fake.calls("GET", "/v1/payment_intents") if call.path == "/v1/payment_intents"]
    assert len(listed) - before <= 1
    assert (ReconciliationRow.objects.count(), Reconciliation.objects.get().attempts) == (1, 1)


def test_two_who_both_work_on_a_day_leave_the_same_rows(market_of: MarketOf) -> None:
    market = market_of("stripe")
    unheard(market, market.top_up())
    market.paid(market.top_up())
    compared()
    Reconciliation.objects.update(state="waiting", next_attempt_at=datetime.now(UTC), finished_at=None)

    rows = compared()

    assert [(row.outcome, row.state) for row in rows] == [("expected", "agreed"), ("missing", "open")]


def test_a_run_whose_worker_died_is_taken_up_after_its_lease(market_of: MarketOf) -> None:
    market = market_of("stripe")
    market.paid(market.top_up())
    with next_day():
        days_plan()
        Reconciliation.objects.update(state="running", next_attempt_at=datetime.now(UTC) + timedelta(minutes=30))
        during = reconciliations_due()
    with next_day(later=timedelta(hours=1)):
        for run_id in reconciliations_due():
            reconciliation_run(reconciliation_id=run_id)

    assert during == []
    assert (Reconciliation.objects.get().state, ReconciliationRow.objects.count()) == ("complete", 1)


def test_payments_of_the_other_mode_are_left_alone(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = market.paid(market.top_up())
    Payment.objects.filter(pk=payment.pk).update(mode="live")
    market.fake.intents.clear()

    assert compared() == []


def test_a_difference_that_went_away_agrees(market_of: MarketOf) -> None:
    market = market_of("stripe")
    payment = unheard(market, market.top_up())
    [row] = compared()
    payment_confirm(payment=payment)
    Reconciliation.objects.update(state="waiting", next_attempt_at=datetime.now(UTC), finished_at=None)

    [again] = compared()

    assert (row.state, again.pk, again.outcome, again.state) == ("open", row.pk, "missing", "resolved")
    assert (again.closed_by, again.reason) == ("system", "Both sides agree by now.")


def test_the_nightly_task_plans_the_day_and_hands_it_over(market_of: MarketOf, monkeypatch: pytest.MonkeyPatch) -> None:
    market_of("stripe")
    handed: list[tuple[str, ...]] = []
    monkeypatch.setattr("billing.payments.reconciliation.tasks.task_enqueue", lambda *task: handed.append(task))

    with next_day():
        planned = tasks.reconcile()
        waiting = tasks.reconcile_waiting()
        tasks.reconciliation_run(handed[0][1])
        after = tasks.reconcile_waiting()

    run = Reconciliation.objects.get()
    assert (planned, waiting, after) == (1, 1, 0)
    assert handed == [("billing.payments.reconciliation_run", str(run.pk))] * 2
    assert run.state == "complete"
