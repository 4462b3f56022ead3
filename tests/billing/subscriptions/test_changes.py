"""Changing the plan, canceling, pausing, resuming, moving to another price."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account
from billing.invoices.balance import money_balance
from billing.invoices.models import Invoice
from billing.ledger.models import Lot
from billing.ledger.services import hold_open
from billing.payments.services import payment_move
from billing.plans.models import Plan
from billing.subscriptions import jobs
from billing.subscriptions.changes import (
    change_forget,
    change_offer,
    plan_change,
    subscription_cancel,
    subscription_pause,
    subscription_resume,
)
from billing.subscriptions.models import Subscription
from billing.subscriptions.price_migration import price_migrate, price_migration_preview
from billing.subscriptions.services import period_credits_grant
from iafactory.common.errors import ApiError
from tests.billing.ledger.calls import hold_item_for
from tests.billing.subscriptions.selling import (
    CUSTOMER,
    OPERATOR,
    attempt,
    event_kinds,
    live,
    open_invoice,
    pay,
    plan_credits,
    plan_make,
    price_make,
    spend,
    subscribe,
    wrong,
)
from tests.factories import account_make, lot_make

# Half of the period from 31 January to 28 February.
HALF = "2026-02-14T12:00:00Z"
PERIOD_END = datetime(2026, 2, 28, 12, tzinfo=UTC)


@pytest.fixture
def plus(shop: object) -> Plan:
    return plan_make("plus", "6000")


def change(account: Account, plan: Plan, **fields: object):  # type: ignore[no-untyped-def]
    return plan_change(subscription=live(account), plan=plan, actor=CUSTOMER, **fields)


# --- Upgrade now ---


def test_upgrade_charges_the_difference_for_the_time_left(customer: Account, plus: Plan, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    time.move_to(HALF)

    changed = change(customer, plus)
    before_payment = live(customer).plan.code
    pay(changed.to_pay)

    invoice = Invoice.objects.get(purpose="change")
    after = live(customer)
    lines = [(line.kind, line.gross) for line in invoice.lines.all()]
    assert before_payment == "pro"
    assert lines == [("proration", Decimal(3000)), ("proration", Decimal(-1500))]
    assert (invoice.total, invoice.state) == (Decimal(1500), "paid")
    assert (after.pk, after.plan, after.current_period_end) == (subscription.pk, plus, PERIOD_END)
    assert (after.plan_since, after.period_value) == (datetime(2026, 2, 14, 12, tzinfo=UTC), Decimal(3000))
    assert event_kinds(after) == ["checkout_began", "activated", "plan_changed"]
    assert wrong() == []


def test_preview_changes_nothing(customer: Account, plus: Plan, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    time.move_to(HALF)

    offer = change_offer(subscription=live(customer), plan=plus)

    assert (offer.proration.charge, offer.proration.unused, offer.proration.net) == (
        Decimal(3000),
        Decimal(1500),
        Decimal(1500),
    )
    assert (offer.at_period_end, offer.period_end, offer.to_balance) == (False, PERIOD_END, Decimal(0))
    assert live(customer).plan == subscription.plan
    assert Invoice.objects.count() == 1


def test_spent_credits_are_not_given_back(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("c1", "2000", billing_mode="credits", period_credits=500))
    c2 = plan_make("c2", "5000", billing_mode="credits", period_credits=2000)
    spend(customer, "400")  # a fifth is left, of the time one half
    time.move_to(HALF)

    changed = change(customer, c2)
    pay(changed.to_pay)

    assert (changed.offer.proration.charge, changed.offer.proration.unused) == (Decimal(2500), Decimal(400))
    assert plan_credits(customer) == Decimal(1000)  # half of the new plan's; the hundred left were given back as money
    assert wrong() == []


def test_held_credits_are_not_given_back_either(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("c1", "2000", billing_mode="credits", period_credits=500))
    c2 = plan_make("c2", "5000", billing_mode="credits", period_credits=2000)
    time.move_to(HALF)
    hold_open(hold_item_for(customer.pk, "450"))

    changed = change(customer, c2)
    pay(changed.to_pay)

    assert changed.offer.proration.unused == Decimal(200)  # 50 of 500 credits are free
    assert wrong() == []


def test_credits_spent_after_the_offer_are_made_good_out_of_the_new_ones(
    customer: Account, time: FrozenDateTimeFactory
) -> None:
    subscribe(customer, plan_make("c1", "2000", billing_mode="credits", period_credits=500))
    c2 = plan_make("c2", "5000", billing_mode="credits", period_credits=2000)
    time.move_to(HALF)
    changed = change(customer, c2)  # gives back 1000 for half of the time
    spend(customer, "450")  # leaves 50 of 500: only 200 were left to give back

    pay(changed.to_pay)

    # 800 dinars too much were given back; a new credit costs 2500 / 1000, so 320 of them are kept.
    assert plan_credits(customer) == Decimal(1000) - Decimal(320)
    assert live(customer).plan == c2
    assert wrong() == []


def test_offer_that_cannot_be_made_good_leaves_the_money_unapplied(
    customer: Account, plus: Plan, time: FrozenDateTimeFactory
) -> None:
    subscribe(customer, plan_make("c1", "2000", billing_mode="credits", period_credits=500))
    time.move_to(HALF)
    changed = change(customer, plus)
    spend(customer, "500")

    payment = pay(changed.to_pay)

    assert (live(customer).plan.code, payment.unapplied_amount) == ("c1", Decimal(2000))
    assert wrong() == []


def test_offer_of_a_period_that_is_over_leaves_the_money_unapplied(
    customer: Account, plus: Plan, time: FrozenDateTimeFactory
) -> None:
    subscribe(customer, plan_make("pro", "3000"))
    time.move_to(HALF)
    changed = change(customer, plus)
    time.move_to("2026-02-28T12:00:00Z")
    jobs.renewals_run()

    payment = pay(changed.to_pay)

    assert (live(customer).plan.code, payment.unapplied_amount) == ("pro", Decimal(1500))
    assert wrong() == []


def test_more_given_back_than_charged_is_money_in_hand_for_the_next_invoice(
    customer: Account, plus: Plan, time: FrozenDateTimeFactory
) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, plus)
    time.move_to(HALF)

    changed = change(customer, pro, when="now")
    in_hand = money_balance(customer.pk, "DZD")
    time.move_to("2026-02-26T12:00:00Z")
    jobs.renewals_run()

    note, renewal = Invoice.objects.get(kind="credit_note"), open_invoice(customer)
    assert (changed.to_pay, in_hand, note.total) == (None, Decimal(1500), Decimal(1500))
    assert (live(customer).plan, renewal.total, renewal.due) == (pro, Decimal(3000), Decimal(1500))
    assert wrong() == []


def test_other_interval_begins_a_period_of_its_own(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro", "3000"))
    yearly = plan_make("yearly", "30000", interval_count=12)
    time.move_to(HALF)

    changed = change(customer, yearly, when="now")
    pay(changed.to_pay)

    after = live(customer)
    assert changed.to_pay.due == Decimal(28500)
    assert (after.current_period_start, after.billing_anchor) == (datetime(2026, 2, 14, 12, tzinfo=UTC),) * 2
    assert (after.current_period_end, after.plan_since) == (datetime(2027, 2, 14, 12, tzinfo=UTC), None)


def test_second_upgrade_gives_back_what_the_first_one_charged(
    customer: Account, plus: Plan, time: FrozenDateTimeFactory
) -> None:
    subscribe(customer, plan_make("pro", "3000"))
    time.move_to(HALF)
    pay(change(customer, plus).to_pay)
    time.move_to("2026-02-21T12:00:00Z")

    changed = change(customer, plan_make("max", "12000"))

    # A quarter of 12000, less half of the 3000 that paid for the second half.
    assert (changed.offer.proration.charge, changed.offer.proration.unused) == (Decimal(3000), Decimal(1500))


def test_credits_of_a_stretch_are_granted_once(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plan_make("pro", "3000"))
    time.move_to(HALF)
    pay(change(customer, plan_make("c2", "8000", billing_mode="credits", period_credits=2000)).to_pay)

    period_credits_grant(live(customer), OPERATOR)

    assert plan_credits(customer) == Decimal(1000)
    assert Lot.objects.count() == 1


@pytest.mark.parametrize("state", ["past_due", "paused"])
def test_plan_of_a_subscription_that_is_not_active_is_not_changed(customer: Account, plus: Plan, state: str) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000"))
    Subscription.objects.filter(pk=subscription.pk).update(state=state)

    with pytest.raises(ApiError) as refused:
        change(customer, plus)

    assert refused.value.code == "subscription_not_active"


def test_same_plan_is_no_change(customer: Account) -> None:
    pro = plan_make("pro")
    subscribe(customer, pro)

    with pytest.raises(ApiError) as refused:
        change(customer, pro)

    assert refused.value.code == "plan_unchanged"


# --- Downgrade at the period's end ---


def test_cheaper_plan_comes_at_the_periods_end(customer: Account, plus: Plan, time: FrozenDateTimeFactory) -> None:
    pro = plan_make("pro", "3000")
    subscription = subscribe(customer, plus)
    time.move_to(HALF)

    changed = change(customer, pro)
    until_then = live(customer).plan
    time.move_to("2026-02-26T12:00:00Z")
    jobs.renewals_run()
    pay(open_invoice(customer))
    time.move_to("2026-02-28T12:00:00Z")
    jobs.renewals_run()

    after = live(customer)
    assert (changed.to_pay, changed.offer.at_period_end, until_then) == (None, True, plus)
    assert (after.pk, after.plan, after.next_plan, after.state) == (subscription.pk, pro, None, "active")
    assert after.current_period_end == datetime(2026, 3, 31, 12, tzinfo=UTC)
    assert Invoice.objects.filter(purpose="period").order_by("issued_at").last().total == Decimal(3000)
    assert wrong() == []


def test_change_decided_after_the_next_invoice_replaces_it(customer: Account, plus: Plan, time: FrozenDateTimeFactory) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, plus)
    time.move_to("2026-02-26T12:00:00Z")
    jobs.renewals_run()
    first = open_invoice(customer)

    change(customer, pro)
    jobs.renewals_run()

    first.refresh_from_db()
    assert (first.state, open_invoice(customer).total) == ("void", Decimal(3000))
    assert wrong() == []


def test_scheduled_change_can_be_forgotten(customer: Account, plus: Plan) -> None:
    subscribe(customer, plus)
    change(customer, plan_make("pro", "3000"))

    change_forget(subscription=live(customer), actor=CUSTOMER)

    assert live(customer).next_plan is None
    with pytest.raises(ApiError, match="No change"):
        change_forget(subscription=live(customer), actor=CUSTOMER)


def test_a_change_whose_period_is_paid_is_not_forgotten(customer: Account, plus: Plan, time: FrozenDateTimeFactory) -> None:
    subscribe(customer, plus)
    change(customer, plan_make("small", "1000"))
    time.move_to(live(customer).current_period_end - timedelta(hours=71))  # type: ignore[operator]
    jobs.renewals_run()
    pay(open_invoice(customer))

    with pytest.raises(ApiError, match="is paid"):
        change_forget(subscription=live(customer), actor=CUSTOMER)

    assert live(customer).next_plan.code == "small"  # type: ignore[union-attr]


# --- Cancel ---


def test_cancel_at_the_periods_end_falls_back_to_free(customer: Account, time: FrozenDateTimeFactory) -> None:
    lot = lot_make(customer.pk, 100)
    subscription = subscribe(customer, plan_make("pro"))
    subscription_cancel(subscription=subscription, actor=CUSTOMER, reason="too dear")
    time.move_to("2026-02-27T12:00:00Z")
    jobs.renewals_run()
    until_then = live(customer).plan.code
    time.move_to("2026-02-28T12:00:00Z")

    jobs.renewals_run()

    subscription.refresh_from_db()
    lot.refresh_from_db()
    free = live(customer)
    assert until_then == "pro"
    assert (subscription.state, subscription.ended_at) == ("canceled", PERIOD_END)
    assert (free.plan.code, free.previous, free.current_period_start) == ("free", subscription, PERIOD_END)
    assert Invoice.objects.count() == 1
    assert lot.remaining == Decimal(100)


def test_cancel_after_the_next_invoice_voids_it(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro"))
    time.move_to("2026-02-26T12:00:00Z")
    jobs.renewals_run()

    subscription_cancel(subscription=subscription, actor=CUSTOMER)
    jobs.renewals_run()

    assert sorted(Invoice.objects.values_list("state", flat=True)) == ["paid", "void"]
    assert wrong() == []


def test_cancel_after_the_next_period_was_paid_ends_after_that(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro"))
    time.move_to("2026-02-26T12:00:00Z")
    jobs.renewals_run()
    pay(open_invoice(customer))
    subscription_cancel(subscription=subscription, actor=CUSTOMER)

    time.move_to("2026-02-28T12:00:00Z")
    jobs.renewals_run()
    in_march = live(customer).plan.code
    time.move_to("2026-03-31T12:00:00Z")
    jobs.renewals_run()

    subscription.refresh_from_db()
    assert (in_march, live(customer).plan.code) == ("pro", "free")
    assert subscription.ended_at == datetime(2026, 3, 31, 12, tzinfo=UTC)


def test_cancel_now_ends_now_and_keeps_what_was_paid_for(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro", billing_mode="credits", period_credits=500))
    time.move_to(HALF)

    subscription_cancel(subscription=subscription, actor=CUSTOMER, at_period_end=False)

    subscription.refresh_from_db()
    assert (subscription.state, live(customer).plan.code) == ("canceled", "free")
    assert plan_credits(customer) == Decimal(500)


def test_cancellation_can_be_taken_back(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro"))
    subscription_cancel(subscription=subscription, actor=CUSTOMER)

    subscription_resume(subscription=subscription, actor=CUSTOMER)
    time.move_to("2026-02-26T12:00:00Z")
    jobs.renewals_run()

    assert not live(customer).cancel_at_period_end
    assert open_invoice(customer).total == Decimal(3000)


def test_reactivation_is_a_new_row_that_names_the_previous(customer: Account, time: FrozenDateTimeFactory) -> None:
    pro = plan_make("pro")
    first = subscribe(customer, pro)
    subscription_cancel(subscription=first, actor=CUSTOMER, at_period_end=False)
    free = live(customer)
    time.move_to("2026-05-05T12:00:00Z")

    second = subscribe(customer, pro)

    assert (second.previous, free.previous) == (free, first)
    assert second.pk != first.pk


# --- Pause ---


def test_pause_keeps_time_and_credits(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro", "3000", billing_mode="credits", period_credits=500))
    spend(customer, "100")
    time.move_to(HALF)

    subscription_pause(subscription=subscription, actor=CUSTOMER)
    while_paused = (live(customer).state, plan_credits(customer))
    time.move_to("2026-06-01T00:00:00Z")
    idle = jobs.renewals_run()
    subscription_resume(subscription=subscription, actor=CUSTOMER)

    after = live(customer)
    lot = Lot.objects.get(closed_at__isnull=True, expires_at__gt=datetime(2026, 6, 1, tzinfo=UTC))
    assert while_paused == ("paused", Decimal(0))
    assert idle is None
    assert (after.state, after.current_period_end) == ("active", datetime(2026, 6, 15, tzinfo=UTC))
    assert after.billing_anchor == after.paid_through == after.current_period_end
    assert (lot.amount, lot.paid_amount, lot.expires_at) == (Decimal(400), Decimal(2400), after.current_period_end)
    assert wrong() == []


def test_paused_and_resumed_subscription_renews_from_its_new_end(customer: Account, time: FrozenDateTimeFactory) -> None:
    subscription = subscribe(customer, plan_make("pro"))
    time.move_to(HALF)
    subscription_pause(subscription=subscription, actor=CUSTOMER)
    time.move_to("2026-02-24T12:00:00Z")
    subscription_resume(subscription=subscription, actor=CUSTOMER)
    time.move_to("2026-03-10T12:00:00Z")
    jobs.renewals_run()

    invoice = open_invoice(customer)

    assert (invoice.period_start, invoice.period_end) == (
        datetime(2026, 3, 10, 12, tzinfo=UTC),
        datetime(2026, 4, 10, 12, tzinfo=UTC),
    )


def test_free_plan_is_not_paused(customer: Account) -> None:
    with pytest.raises(ApiError) as refused:
        subscription_pause(subscription=live(customer), actor=CUSTOMER)

    assert refused.value.code == "subscription_not_pausable"


def test_what_is_not_paused_is_not_resumed(customer: Account) -> None:
    with pytest.raises(ApiError) as refused:
        subscription_resume(subscription=live(customer), actor=CUSTOMER)

    assert refused.value.code == "nothing_to_resume"


# --- Prices ---


def test_raised_price_leaves_running_subscriptions_until_an_operator_migrates_them(
    customer: Account, time: FrozenDateTimeFactory
) -> None:
    pro = plan_make("pro", "3000")
    subscribe(customer, pro)
    other = subscribe(account_make(), pro)
    raised = price_make(pro, "4000", at=datetime(2026, 2, 1, tzinfo=UTC))
    subscription_cancel(subscription=other, actor=CUSTOMER)
    time.move_to("2026-02-25T12:00:00Z")
    jobs.renewals_run()
    at_old_price = open_invoice(customer).total

    preview = price_migration_preview(raised)
    moved = price_migrate(price=raised, actor=OPERATOR, reason="costs rose")
    again = price_migrate(price=raised, actor=OPERATOR, reason="costs rose")
    jobs.renewals_run()

    assert at_old_price == Decimal(3000)
    assert (preview.subscriptions, preview.paid_now, preview.paid_then) == (1, Decimal(3000), Decimal(4000))
    assert (moved, again) == (1, 0)
    assert open_invoice(customer).total == Decimal(4000)
    assert live(customer).price.amount == Decimal(3000)
    assert wrong() == []


def test_rejected_payment_changes_nothing(customer: Account, plus: Plan) -> None:
    subscribe(customer, plan_make("pro"))
    payment = attempt(change(customer, plus).to_pay)

    payment_move(payment=payment, to="failed", actor=OPERATOR, reason="no such transfer", failure_code="rejected")

    assert live(customer).plan.code == "pro"
    assert wrong() == []
