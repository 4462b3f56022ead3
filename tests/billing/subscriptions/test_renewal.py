"""The passing of time: next invoices, new periods, grace, expiry, reminders, metered use; late, twice and at once."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core import mail
from django.db import connection
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account
from billing.invoices.models import Invoice, SellerProfile
from billing.ledger.models import Lot
from billing.ledger.services import call_settle, due_wallets_roll, hold_open
from billing.payments.services import payment_succeeded
from billing.plans.models import Coupon, Plan
from billing.subscriptions import dunning, jobs, metered
from billing.subscriptions.models import DunningNotice, JobRun, Subscription
from billing.subscriptions.pricing import period_items
from billing.subscriptions.services import subscription_switch
from tests.billing.ledger.calls import call_item_for, hold_item_for
from tests.billing.subscriptions.conftest import START
from tests.billing.subscriptions.selling import (
    OPERATOR,
    attempt,
    begin,
    event_kinds,
    live,
    open_invoice,
    pay,
    plan_credits,
    plan_make,
    spend,
    subscribe,
    wrong,
)
from tests.factories import account_make, lot_make

FEB = datetime(2026, 2, 28, 12, tzinfo=UTC)
MARCH = datetime(2026, 3, 31, 12, tzinfo=UTC)
LEAD = FEB - timedelta(hours=72)


def run_at(time: FrozenDateTimeFactory, *moments: datetime) -> None:
    """The renewal job at these moments."""
    for moment in moments:
        time.move_to(moment)
        jobs.renewals_run()


# --- Renewal ---


def test_next_period_is_invoiced_three_days_before(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro"))

    run_at(time, LEAD - timedelta(seconds=1))
    too_early = Invoice.objects.count()
    run_at(time, LEAD, LEAD + timedelta(hours=1))

    invoice = open_invoice(customer)
    assert too_early == 1
    assert (invoice.number, invoice.due_at, invoice.issue_date.isoformat()) == ("FAC-2026-000002", FEB, "2026-02-25")
    assert (invoice.subscription_id, invoice.period_start, invoice.period_end) == (subscription.pk, FEB, MARCH)


def test_period_paid_before_it_begins_goes_on_without_a_break(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro", billing_mode="credits", period_credits=500))
    spend(customer, "100")
    run_at(time, LEAD)
    pay(open_invoice(customer))
    in_february = plan_credits(customer)

    run_at(time, FEB)
    due_wallets_roll(now=FEB)

    subscription = live(customer)
    assert in_february == Decimal(400)
    assert (subscription.state, subscription.current_period_start, subscription.current_period_end) == ("active", FEB, MARCH)
    assert plan_credits(customer) == Decimal(500)
    assert event_kinds(subscription) == ["checkout_began", "activated", "next_period_paid", "renewed"]
    assert wrong() == []


def test_unpaid_period_is_served_in_grace_and_paid_late_keeps_its_anchor(
    customer: Account, time: FrozenDateTimeFactory
) -> None:
    subscribe(customer, plan_make("pro", billing_mode="credits", period_credits=500))
    run_at(time, LEAD, FEB)
    subscription = live(customer)
    overdue = (subscription.state, subscription.past_due_since, subscription.grace_until, plan_credits(customer))

    time.move_to(FEB + timedelta(days=3))
    pay(open_invoice(customer))

    subscription = live(customer)
    # A tenth of the 31 days from 28 February to 31 March.
    assert overdue == ("past_due", FEB, FEB + timedelta(days=3, hours=2, minutes=24), Decimal(0))
    assert (subscription.state, subscription.current_period_end, subscription.grace_until) == ("active", MARCH, None)
    assert plan_credits(customer) == Decimal(500)
    assert Lot.objects.get(closed_at__isnull=True).expires_at == MARCH
    assert wrong() == []


def test_period_that_nobody_pays_ends_with_the_grace(customer: Account, time: FrozenDateTimeFactory) -> None:
    lot = lot_make(customer.pk, 75)
    subscription = subscribe(customer, plan_make("pro"))
    run_at(time, LEAD, FEB, FEB + timedelta(days=3, hours=2))
    in_grace = live(customer).state

    run_at(time, FEB + timedelta(days=3, hours=3))

    subscription.refresh_from_db()
    lot.refresh_from_db()
    assert in_grace == "past_due"
    assert (subscription.state, subscription.ended_at) == ("expired", FEB + timedelta(days=3, hours=2, minutes=24))
    assert (live(customer).plan.code, live(customer).previous) == ("free", subscription)
    assert list(Invoice.objects.order_by("sequence").values_list("state", flat=True)) == ["paid", "void"]
    assert lot.remaining == Decimal(75)
    assert wrong() == []


def test_money_for_a_voided_renewal_is_unapplied(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro"))
    run_at(time, LEAD, FEB)
    payment = attempt(open_invoice(customer), "renew")
    run_at(time, FEB + timedelta(days=4))

    payment = payment_succeeded(payment=payment, actor=OPERATOR)

    assert (payment.applied_amount, payment.unapplied_amount, live(customer).plan.code) == (Decimal(0), Decimal(3000), "free")
    assert wrong() == []


def test_free_plan_with_periods_goes_on_by_itself(customer: Account, time: FrozenDateTimeFactory) -> None:
    begin(customer, plan_make("credits-free", "0", billing_mode="credits", period_credits=100))
    spend(customer, "30")

    run_at(time, FEB)
    due_wallets_roll(now=FEB)

    assert (live(customer).current_period_end, plan_credits(customer)) == (MARCH, Decimal(100))
    assert not Invoice.objects.exists()


def test_plan_that_does_not_renew_expires(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("day", "199", interval="day", renews=False))

    run_at(time, START + timedelta(hours=23), START + timedelta(days=1))

    subscription.refresh_from_db()
    assert (subscription.state, subscription.ended_at) == ("expired", START + timedelta(days=1))
    assert live(customer).plan.code == "free"
    assert Invoice.objects.count() == 1


def test_trial_becomes_the_plan_when_it_is_paid(customer: Account, time: FrozenDateTimeFactory) -> None:
    begin(customer, plan_make("pro", trial_days=10))
    trial_end = START + timedelta(days=10)
    run_at(time, trial_end - timedelta(days=2))
    pay(open_invoice(customer))

    run_at(time, trial_end)

    subscription = live(customer)
    assert (subscription.state, subscription.billing_anchor) == ("active", trial_end)
    assert (subscription.current_period_start, subscription.current_period_end) == (
        trial_end,
        datetime(2026, 3, 10, 12, tzinfo=UTC),
    )
    assert wrong() == []


def test_trial_that_nobody_pays_ends_after_its_grace(customer: Account, time: FrozenDateTimeFactory) -> None:
    begun = begin(customer, plan_make("pro", trial_days=10))
    trial_end = START + timedelta(days=10)

    run_at(time, trial_end - timedelta(days=2), trial_end, trial_end + timedelta(days=3))

    begun.subscription.refresh_from_db()
    assert (begun.subscription.state, live(customer).plan.code) == ("expired", "free")


def test_coupon_reduces_its_number_of_periods(customer: Account, time: FrozenDateTimeFactory) -> None:
    Coupon.objects.create(
        code="TWO", name="Deux mois", kind="fixed", amount=Decimal(500), currency="DZD", periods=2, valid_from=START
    )
    subscribe(customer, plan_make("pro"), coupon="TWO")
    run_at(time, LEAD)
    pay(open_invoice(customer))
    run_at(time, FEB, MARCH - timedelta(days=1))
    pay(open_invoice(customer))

    totals = list(Invoice.objects.order_by("sequence").values_list("total", flat=True))

    assert totals == [Decimal(2500), Decimal(2500), Decimal(3000)]


def test_operator_who_switches_the_plan_leaves_no_unpaid_period(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro"))
    run_at(time, LEAD)

    subscription_switch(account=customer, plan=plan_make("gift", "9000"), actor=OPERATOR, reason="a gift")

    assert sorted(Invoice.objects.values_list("state", flat=True)) == ["paid", "void"]
    assert wrong() == []


# --- Late, twice, at once ---


def test_run_after_downtime_bills_the_running_period_only(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro"))

    run_at(time, datetime(2026, 5, 5, tzinfo=UTC))

    subscription, invoice = live(customer), open_invoice(customer)
    assert (subscription.state, subscription.current_period_start) == ("past_due", datetime(2026, 4, 30, 12, tzinfo=UTC))
    assert invoice.period_start == subscription.current_period_start
    # The grace time begins when the customer could first pay.
    assert subscription.grace_until == datetime(2026, 5, 5, tzinfo=UTC) + timedelta(days=3, hours=2, minutes=24)
    assert Invoice.objects.count() == 2


def test_second_run_finds_nothing(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro"))
    run_at(time, LEAD)

    again = jobs.renewals_run()

    assert again is None
    assert JobRun.objects.count() == 1


def test_one_that_fails_does_not_stop_the_others(
    customer: Account, time: FrozenDateTimeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pro = plan_make("pro")
    broken, other = subscribe(customer, pro), subscribe(account_make(), pro)
    Subscription.objects.filter(pk=broken.pk).update(price=plan_make("alien", "10", currency="XXX").prices.get())
    SellerProfile.objects.update(is_default=True)
    monkeypatch.setattr("billing.subscriptions.renewal.period_items", _broken_for(broken))
    time.move_to(LEAD)

    run = jobs.renewals_run()
    monkeypatch.undo()
    tried_at_once = jobs.renewals_run()
    time.move_to(LEAD + timedelta(minutes=15))
    retried = jobs.renewals_run()

    broken.refresh_from_db()
    assert (run.due, run.done, run.failed, run.finished_at) == (2, 1, 1, LEAD)
    assert "no lines" in run.last_error
    assert tried_at_once is None
    assert (retried.done, broken.last_error, broken.next_attempt_at) == (1, "", None)
    assert Invoice.objects.filter(subscription_id=other.pk, state="open").count() == 1


def _broken_for(subscription: Subscription):  # type: ignore[no-untyped-def]
    def items(**fields):  # type: ignore[no-untyped-def]
        if fields["price"].currency == "XXX":
            raise RuntimeError("no lines")
        return period_items(**fields)

    return items


@pytest.mark.django_db(transaction=True)
def test_two_runs_at_once_invoice_everything_once(shop: object, time: FrozenDateTimeFactory) -> None:
    pro = plan_make("pro")
    subscriptions = [subscribe(account_make(), pro) for _ in range(12)]
    barrier = threading.Barrier(3)

    def run() -> None:
        barrier.wait()
        jobs.renewals_run(now=LEAD)
        connection.close()

    with freeze_time(LEAD):
        threads = [threading.Thread(target=run) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        jobs.renewals_run()

    renewals = Invoice.objects.filter(state="open")
    assert sorted(renewals.values_list("subscription_id", flat=True)) == sorted(s.pk for s in subscriptions)
    assert sorted(Invoice.objects.values_list("sequence", flat=True)) == list(range(1, 25))
    assert wrong() == []


# --- Reminders ---


def test_reminders_go_out_once_each_in_the_accounts_language(customer: Account, time: FrozenDateTimeFactory) -> None:
    Account.objects.filter(pk=customer.pk).update(billing_email="compta@example.dz", language="fr")
    subscribe(customer, plan_make("pro", "3000"))

    for moment in (LEAD, FEB, FEB + timedelta(hours=48), FEB + timedelta(days=4)):
        time.move_to(moment)
        jobs.renewals_run()
        dunning.dunning_run()
        dunning.dunning_run()
        for notice in DunningNotice.objects.filter(sent_at__isnull=True, skipped=False):
            dunning.dunning_mail_send(notice_id=notice.pk)
            dunning.dunning_mail_send(notice_id=notice.pk)

    assert [message.subject for message in mail.outbox] == [
        "Votre offre Pro se renouvelle le 28 févr. 2026",
        "La facture FAC-2026-000002 est à régler",
        "Dernier rappel : Pro prend bientôt fin",
        "Votre offre Pro a pris fin",
    ]
    assert {tuple(message.to) for message in mail.outbox} == {("compta@example.dz",)}
    assert "3\N{NARROW NO-BREAK SPACE}000\N{NO-BREAK SPACE}DZD" in mail.outbox[1].body
    assert "3 mars 2026, 15:24" in mail.outbox[1].body  # the end of grace in Algiers


def test_reminders_that_fell_due_together_are_one_mail(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro"))
    run_at(time, LEAD, FEB)
    time.move_to(FEB + timedelta(hours=49))

    queued = dunning.dunning_run()

    notices = dict(DunningNotice.objects.values_list("template", "skipped"))
    assert queued == 1
    assert notices == {"renewal_upcoming": True, "renewal_overdue": True, "renewal_last_warning": False}


def test_reminder_of_an_invoice_that_was_paid_meanwhile_is_not_sent(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro"))
    run_at(time, LEAD)
    dunning.dunning_run()
    pay(open_invoice(customer))

    sent = dunning.dunning_mail_send(notice_id=DunningNotice.objects.get().pk)

    assert (sent, mail.outbox) == (False, [])


def test_reminder_beyond_the_grace_time_is_left_out(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("week", "900", interval="day", interval_count=7))  # 16.8 hours of grace
    end = START + timedelta(days=7)
    run_at(time, end - timedelta(days=1), end)
    time.move_to(end + timedelta(hours=50))

    dunning.dunning_run()

    assert not DunningNotice.objects.filter(template="renewal_last_warning").exists()


# --- Metered plans ---


def test_use_beyond_a_metered_plan_is_billed_from_its_lot(customer: Account, time: FrozenDateTimeFactory) -> None:
    plan = plan_make(
        "metered",
        "1000",
        billing_mode="metered",
        period_credits=100,
        overage_ceiling=Decimal(50),
        overage_amount=Decimal("2.5"),
    )
    subscription = subscribe(customer, plan)
    bought = lot_make(customer.pk, 10)
    spend(customer, "100", subscription=subscription)
    spend(customer, "10", subscription=subscription)
    spend(customer, "33.333333", subscription=subscription)
    refused = hold_open(hold_item_for(customer.pk, "16.666668")).verdict
    run_at(time, LEAD, FEB)
    due_wallets_roll(now=FEB)

    made = metered.overage_run()
    again = metered.overage_run()

    bought.refresh_from_db()
    invoice = Invoice.objects.get(purpose="overage")
    line = invoice.lines.get(kind="overage")
    assert (refused, bought.remaining) == ("insufficient", Decimal(0))
    assert (made, again, invoice.state) == (1, 0, "open")
    # 33.333333 credits at 2.50: 83.33333250, so 83.33; in whole dinars 83.
    assert (line.quantity, line.unit_price, invoice.total) == (Decimal("33.333333"), Decimal("2.5"), Decimal("83"))
    assert (invoice.period_start, invoice.period_end) == (START, FEB)
    assert Lot.objects.get(pk=line.lot_id).kind == "overage"
    assert wrong() == []


def test_unpaid_use_beyond_a_plan_is_reminded_of_even_after_the_plan(customer: Account, time: FrozenDateTimeFactory) -> None:
    plan = plan_make("metered", "1000", billing_mode="metered", overage_ceiling=Decimal(50), overage_amount=Decimal(2))
    subscription = subscribe(customer, plan)
    spend(customer, "5", subscription=subscription)
    run_at(time, FEB)
    due_wallets_roll(now=FEB)
    metered.overage_run()
    invoice = Invoice.objects.get(purpose="overage")
    subscription_switch(account=customer, plan=Plan.objects.get(code="free"), actor=OPERATOR)
    DunningNotice.objects.all().delete()
    mail.outbox.clear()

    told = []
    for moment in (invoice.due_at - timedelta(seconds=1), invoice.due_at, invoice.due_at + timedelta(hours=48)):
        time.move_to(moment)
        dunning.dunning_run()
        dunning.dunning_run()
        told.append([notice.template for notice in DunningNotice.objects.order_by("id") if not notice.skipped])
    for notice in DunningNotice.objects.order_by("id"):
        dunning.dunning_mail_send(notice_id=notice.pk)

    assert told == [[], ["overage_overdue"], ["overage_overdue", "overage_last_warning"]]
    assert [message.subject for message in mail.outbox] == [
        f"Invoice {invoice.number} is due",
        f"Last reminder: invoice {invoice.number} is due",
    ]
    assert "/payment/invoice/" in mail.outbox[0].body


def test_overage_is_billed_when_the_last_hold_has_closed(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(
        customer, plan_make("metered", "1000", billing_mode="metered", overage_ceiling=Decimal(50), overage_amount=Decimal(2))
    )
    spend(customer, "5")
    time.move_to(FEB - timedelta(minutes=1))
    held = hold_item_for(customer.pk, "10")
    hold_open(held)
    time.move_to(FEB + timedelta(minutes=1))
    due_wallets_roll(now=FEB + timedelta(minutes=1))
    while_held = metered.overage_run()
    call_settle(call_item_for(held, "7"))

    made = metered.overage_run()

    assert (while_held, made) == (0, 1)
    assert Invoice.objects.get(purpose="overage").total == Decimal(24)
    assert wrong() == []


def test_nothing_used_beyond_is_nothing_billed(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(
        customer,
        plan_make(
            "metered", "1000", billing_mode="metered", period_credits=5, overage_ceiling=Decimal(50), overage_amount=Decimal(2)
        ),
    )
    time.move_to(FEB)
    due_wallets_roll(now=FEB)

    assert metered.overage_run() == 0
    assert not Invoice.objects.filter(purpose="overage").exists()
