"""Time that an operator gives: what moves, what does not, and that it never comes back as money."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account
from billing.events.models import Event
from billing.invoices.models import Invoice
from billing.ledger.models import Lot, Wallet
from billing.ledger.services import hold_open
from billing.plans.models import Plan
from billing.subscriptions import jobs
from billing.subscriptions.changes import change_offer, subscription_cancel_now, subscription_pause
from billing.subscriptions.extending import extension_offer, period_extend
from billing.subscriptions.models import Subscription
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7
from tests.billing.ledger.calls import hold_item_for
from tests.billing.subscriptions.selling import (
    CUSTOMER,
    OPERATOR,
    begin,
    live,
    open_invoice,
    plan_credits,
    plan_make,
    subscribe,
    wrong,
)

# Half of the period from 31 January to 28 February.
HALF = "2026-02-14T12:00:00Z"
PERIOD_END = datetime(2026, 2, 28, 12, tzinfo=UTC)
FORTNIGHT_LATER = datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.fixture
def sold(customer: Account, time: FrozenDateTimeFactory) -> Subscription:
    """On a plan of 3,000 DZD with 300 credits, half of its period gone."""
    plan = plan_make("pro", "3000", billing_mode="credits", period_credits=300)
    subscribe(customer, plan)
    time.move_to(HALF)
    return live(customer)


def extend(subscription: Subscription, days: int = 14, **fields: object):  # type: ignore[no-untyped-def]
    return period_extend(subscription=subscription, days=days, actor=OPERATOR, reason="outage", **fields)


def test_the_period_its_credits_and_its_renewal_move_together(sold: Subscription, customer: Account) -> None:
    offer = extend(sold)

    row = live(customer)
    lot = Lot.objects.get(wallet=customer.pk, kind="plan")
    assert (offer.ends, offer.new_end, offer.worth, offer.credits) == (PERIOD_END, FORTNIGHT_LATER, Decimal(1500), Decimal(300))
    assert (row.current_period_end, row.billing_anchor, row.paid_through) == (FORTNIGHT_LATER,) * 3
    assert (lot.expires_at, lot.remaining, lot.paid_amount) == (FORTNIGHT_LATER, Decimal(300), Decimal(3000))
    assert Wallet.objects.get(pk=customer.pk).next_change_at == FORTNIGHT_LATER
    assert wrong() == []


def test_it_is_on_record_with_before_and_after(sold: Subscription) -> None:
    extend(sold)

    told = Event.objects.get(kind="subscription.extended")
    assert (told.actor_label, told.reason, told.object_id) == ("operator@example.com", "outage", str(sold.pk))
    assert told.before == {"current_period_end": PERIOD_END.isoformat(), "period_value": "3000.0000"}
    assert told.after == {
        "current_period_end": FORTNIGHT_LATER.isoformat(),
        "period_value": "2250.0000",
        "days": 14,
        "worth": "1500.0000 DZD",
    }


def test_the_credits_are_spendable_until_the_new_end_and_no_longer(
    sold: Subscription, customer: Account, time: FrozenDateTimeFactory
) -> None:
    extend(sold)

    time.move_to("2026-03-14T11:59:00Z")
    before = plan_credits(customer)
    time.move_to("2026-03-14T12:00:01Z")

    assert (before, plan_credits(customer)) == (Decimal(300), Decimal(0))


def test_credits_that_calls_hold_live_on_too(sold: Subscription, customer: Account) -> None:
    assert hold_open(hold_item_for(customer.pk, credits=Decimal(20))).verdict == "held"

    extend(sold)

    lot = Lot.objects.get(wallet=customer.pk, kind="plan")
    assert (lot.expires_at, lot.remaining, lot.held) == (FORTNIGHT_LATER, Decimal(300), Decimal(20))


def test_a_trial_lasts_longer(customer: Account, time: FrozenDateTimeFactory) -> None:
    begin(customer, plan_make("pro", trial_days=7))

    extend(live(customer), days=3)

    row = live(customer)
    # Begun at noon on 31 January.
    assert row.trial_ends_at == row.current_period_end == datetime(2026, 2, 10, 12, tzinfo=UTC)
    time.move_to("2026-02-09T12:00:00Z")
    jobs.renewals_run()
    assert live(customer).state == "trialing"


def test_given_days_are_not_given_back_as_money(sold: Subscription) -> None:
    small = plan_make("small", "1000", billing_mode="credits", period_credits=100)
    before = change_offer(subscription=sold, plan=small, when="now").proration.unused

    extend(sold)

    sold.refresh_from_db()
    after = change_offer(subscription=sold, plan=small, when="now").proration.unused
    assert (before, after) == (Decimal("1500.00"), Decimal("1500.00"))


def test_bought_credits_do_not_move(sold: Subscription, customer: Account) -> None:
    lots = Lot.objects.filter(wallet=customer.pk).count()

    extend(sold)

    assert Lot.objects.filter(wallet=customer.pk).count() == lots


def test_the_next_invoice_waits_for_the_new_end(sold: Subscription, customer: Account, time: FrozenDateTimeFactory) -> None:
    time.move_to("2026-02-26T12:00:00Z")
    jobs.renewals_run()
    issued = open_invoice(customer)

    extend(live(customer))
    jobs.renewals_run()
    time.move_to("2026-03-12T12:00:00Z")
    jobs.renewals_run()

    issued.refresh_from_db()
    assert issued.state == Invoice.State.VOID
    assert open_invoice(customer).period_start == FORTNIGHT_LATER


def test_the_same_form_extends_once(sold: Subscription, customer: Account) -> None:
    form = uuid7()

    answers = [extend(sold, form_id=form) for _ in range(2)]

    assert (answers[0].new_end, answers[1]) == (FORTNIGHT_LATER, None)
    assert live(customer).current_period_end == FORTNIGHT_LATER


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("paused", "subscription_not_extendable"),
        ("canceled", "subscription_not_extendable"),
        ("paid ahead", "period_already_paid"),
        ("metered", "subscription_not_extendable"),
    ],
)
def test_what_cannot_be_extended_stays_as_it_is(sold: Subscription, state: str, code: str) -> None:
    prepare = {
        "paused": lambda: subscription_pause(subscription=sold, actor=CUSTOMER),
        "canceled": lambda: subscription_cancel_now(sold, actor=CUSTOMER, reason="x"),
        "paid ahead": lambda: Subscription.objects.filter(pk=sold.pk).update(paid_through=FORTNIGHT_LATER),
        "metered": lambda: Plan.objects.filter(pk=sold.plan_id).update(billing_mode="metered"),
    }
    prepare[state]()
    events = Event.objects.count()

    with pytest.raises(ApiError) as refused:
        extend(Subscription.objects.get(pk=sold.pk))

    assert refused.value.code == code
    assert (Event.objects.count(), Subscription.objects.get(pk=sold.pk).current_period_end) == (events, PERIOD_END)


def test_a_plan_without_a_period_is_not_extended(customer: Account) -> None:
    with pytest.raises(ApiError) as refused:
        extend(live(customer))

    assert refused.value.code == "subscription_not_extendable"


@pytest.mark.parametrize("days", [0, -1, 367])
def test_from_one_day_to_a_year(sold: Subscription, days: int) -> None:
    with pytest.raises(ApiError) as refused:
        extension_offer(subscription=sold, days=days)

    assert (refused.value.code, refused.value.param) == ("invalid_request", "days")
