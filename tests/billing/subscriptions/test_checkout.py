"""Beginning a plan: free ones and trials at once, others when their draft is paid."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account
from billing.invoices.balance import money_balance
from billing.invoices.models import Invoice, NumberSeries
from billing.ledger.models import Lot
from billing.payments.manual import manual_confirm
from billing.payments.models import Payment
from billing.payments.services import unapplied_to_balance
from billing.plans.models import Coupon
from billing.subscriptions import jobs
from billing.subscriptions.coupons import coupon_check
from billing.subscriptions.models import CouponRedemption, Subscription
from iafactory.common.errors import ApiError
from tests.billing.subscriptions.conftest import START
from tests.billing.subscriptions.selling import (
    OPERATOR,
    attempt,
    begin,
    event_kinds,
    live,
    pay,
    plan_credits,
    plan_make,
    subscribe,
    wrong,
)
from tests.factories import account_make, lot_make


def test_paid_draft_begins_the_plan(customer: Account) -> None:
    pro = plan_make("pro", "3000", billing_mode="credits", period_credits=500)
    free = live(customer)

    begun = begin(customer, pro)
    waiting = (begun.subscription.state, begun.to_pay.state, begun.to_pay.number, live(customer))
    payment = pay(begun.to_pay)

    subscription, invoice = live(customer), Invoice.objects.get()
    free.refresh_from_db()
    assert waiting == ("incomplete", "draft", None, free)
    assert (subscription.pk, subscription.state, subscription.previous) == (begun.subscription.pk, "active", free)
    assert (subscription.current_period_start, subscription.current_period_end) == (
        START,
        datetime(2026, 2, 28, 12, tzinfo=UTC),
    )
    assert (subscription.paid_through, subscription.period_value) == (subscription.current_period_end, Decimal(3000))
    assert (free.state, free.ended_at) == ("canceled", START)
    assert (invoice.state, invoice.number, invoice.payment_means) == ("paid", "FAC-2026-000001", "bank_transfer")
    assert (payment.state, payment.applied_amount, payment.unapplied_amount) == ("succeeded", Decimal(3000), Decimal(0))
    lot = Lot.objects.get()
    assert (lot.kind, lot.amount, lot.paid_amount, lot.payment_id) == ("plan", Decimal(500), Decimal(3000), payment.pk)
    assert lot.expires_at == subscription.current_period_end
    assert event_kinds(subscription) == ["checkout_began", "activated"]
    assert wrong() == []


def test_abandoned_checkout_burns_no_number_and_grants_nothing(customer: Account, time: FrozenDateTimeFactory) -> None:
    begun = begin(customer, plan_make("pro"))
    time.move_to("2026-02-07T12:00:00Z")

    expired = jobs.incompletes_expire()

    begun.subscription.refresh_from_db()
    assert (expired, begun.subscription.state, live(customer).plan.code) == (1, "expired", "free")
    assert not NumberSeries.objects.exists()
    assert not Lot.objects.exists()


def test_period_begins_when_the_money_comes(customer: Account, time: FrozenDateTimeFactory) -> None:
    begun = begin(customer, plan_make("pro"))
    time.move_to("2026-02-03T08:00:00Z")

    pay(begun.to_pay)

    subscription = live(customer)
    assert (subscription.current_period_start, subscription.billing_anchor) == (datetime(2026, 2, 3, 8, tzinfo=UTC),) * 2
    assert subscription.current_period_end == datetime(2026, 3, 3, 8, tzinfo=UTC)
    assert Invoice.objects.get().period_end == subscription.current_period_end


def test_money_that_comes_after_the_checkout_was_given_up_begins_it_all_the_same(
    customer: Account, time: FrozenDateTimeFactory
) -> None:
    begun = begin(customer, plan_make("pro"))
    payment = attempt(begun.to_pay)
    time.move_to("2026-02-20T12:00:00Z")
    jobs.incompletes_expire()

    manual_confirm(payment=payment, actor=OPERATOR, reason="came late")

    subscription = live(customer)
    assert (subscription.plan.code, subscription.state) == ("pro", "active")
    assert subscription.pk != begun.subscription.pk
    assert Invoice.objects.get().subscription_id == subscription.pk
    assert wrong() == []


def test_second_checkout_that_is_paid_too_is_unapplied_money(customer: Account) -> None:
    pro, plus = plan_make("pro", "3000"), plan_make("plus", "5000")
    first, second = begin(customer, pro), begin(customer, plus)
    pay(second.to_pay)

    payment = pay(first.to_pay)

    assert live(customer).plan == plus
    assert (payment.state, payment.applied_amount, payment.unapplied_amount) == ("succeeded", Decimal(0), Decimal(3000))
    assert list(Invoice.objects.exclude(state="draft").values_list("total", flat=True)) == [Decimal(5000)]
    assert wrong() == []


def test_same_payment_confirmed_again_changes_nothing(customer: Account) -> None:

    payment = pay(begin(customer, plan_make("pro", billing_mode="credits", period_credits=500)).to_pay)

    manual_confirm(payment=payment, actor=OPERATOR, reason="again", received=Decimal(1))

    payment.refresh_from_db()
    assert (payment.received_amount, Payment.objects.count(), Invoice.objects.count()) == (Decimal(3000), 1, 1)
    assert plan_credits(customer) == Decimal(500)
    assert wrong() == []


def test_too_little_money_is_unapplied_and_begins_nothing(customer: Account) -> None:
    begun = begin(customer, plan_make("pro"))

    payment = pay(begun.to_pay, received=Decimal("2999.99"))

    assert (payment.applied_amount, payment.unapplied_amount) == (Decimal(0), Decimal("2999.99"))
    assert live(customer).plan.code == "free"
    assert wrong() == []


def test_more_money_than_due_leaves_the_rest_unapplied(customer: Account) -> None:
    payment = pay(begin(customer, plan_make("pro")).to_pay, received=Decimal("3500"))

    assert (payment.applied_amount, payment.unapplied_amount) == (Decimal(3000), Decimal(500))
    assert live(customer).state == "active"
    assert wrong() == []


def test_unapplied_money_can_be_kept_in_hand_and_pays_the_next_checkout(customer: Account) -> None:

    pro = plan_make("pro")
    payment = pay(begin(customer, pro).to_pay, received=Decimal("2000"))
    unapplied_to_balance(payment=payment, actor=OPERATOR, reason="asked by phone")

    begun = begin(customer, pro)
    reserved = money_balance(customer.pk, "DZD")
    pay(begun.to_pay)

    invoice = Invoice.objects.get(state="paid")
    assert (begun.to_pay.due, reserved) == (Decimal(1000), Decimal(0))
    assert (invoice.balance_applied, invoice.amount_paid) == (Decimal(2000), Decimal(1000))
    assert live(customer).plan == pro
    assert wrong() == []


def test_replaced_checkout_gives_back_money_in_hand(customer: Account) -> None:

    pro = plan_make("pro")
    unapplied_to_balance(payment=pay(begin(customer, pro).to_pay, received=Decimal("2000")), actor=OPERATOR, reason="x")
    first = begin(customer, pro)

    second = begin(customer, pro)

    first.subscription.refresh_from_db()
    assert (first.subscription.state, second.to_pay.due, money_balance(customer.pk, "DZD")) == ("expired", Decimal(1000), 0)
    assert wrong() == []


def test_plan_that_costs_money_is_changed_not_replaced(customer: Account) -> None:
    subscribe(customer, plan_make("pro"))

    with pytest.raises(ApiError) as refused:
        begin(customer, plan_make("plus"))

    assert (refused.value.status, refused.value.code) == (409, "subscription_exists")


@pytest.mark.parametrize("fields", [{"visibility": "hidden"}, {"only_account": True, "visibility": "hidden"}])
def test_plan_of_others_is_not_found(customer: Account, fields: dict[str, object]) -> None:
    plan = plan_make("secret", **{**fields, **({"only_account": account_make()} if "only_account" in fields else {})})

    with pytest.raises(ApiError) as refused:
        begin(customer, plan)

    assert (refused.value.status, refused.value.code) == (404, "plan_not_found")
    assert Subscription.objects.filter(plan=plan).count() == 0


def test_plan_made_for_one_account_is_sold_to_it(customer: Account) -> None:
    plan = plan_make("custom", "7000", visibility="hidden", only_account=customer)

    assert subscribe(customer, plan).plan == plan


def test_free_plan_begins_at_once(customer: Account) -> None:
    begun = begin(customer, plan_make("credits-free", "0", billing_mode="credits", period_credits=100))

    assert (begun.subscription.state, begun.to_pay) == ("active", None)
    assert plan_credits(customer) == Decimal(100)
    assert not Invoice.objects.exists()


def test_bought_credits_are_untouched_when_the_plan_is_replaced(customer: Account) -> None:
    lot = lot_make(customer.pk, 250)
    begin(customer, plan_make("credits-free", "0", billing_mode="credits", period_credits=100))

    subscribe(customer, plan_make("pro", billing_mode="credits", period_credits=500))

    lot.refresh_from_db()
    assert (lot.remaining, plan_credits(customer)) == (Decimal(250), Decimal(500))
    assert wrong() == []


# --- Trials ---


def test_trial_begins_at_once_once_per_family(customer: Account, time: FrozenDateTimeFactory) -> None:
    pro = plan_make("pro", trial_days=7, billing_mode="credits", period_credits=280)

    begun = begin(customer, pro)

    subscription = live(customer)
    assert (begun.to_pay, subscription.state) == (None, "trialing")
    assert subscription.trial_ends_at == subscription.current_period_end == datetime(2026, 2, 7, 12, tzinfo=UTC)
    assert plan_credits(customer) == Decimal("70")  # 7 of the 28 days from 31 January to 28 February
    assert not Invoice.objects.exists()


def test_second_trial_of_a_family_is_paid(customer: Account, time: FrozenDateTimeFactory) -> None:
    begin(customer, plan_make("pro", trial_days=7))
    time.move_to("2026-02-07T12:00:00Z")
    jobs.renewals_run()
    time.move_to("2026-02-11T12:00:00Z")
    jobs.renewals_run()

    begun = begin(customer, plan_make("plus", trial_days=7))

    assert (live(customer).plan.code, begun.subscription.state, begun.to_pay.due) == ("free", "incomplete", Decimal(3000))


# --- Coupons ---


def coupon_make(**fields: object) -> Coupon:
    values = {"code": "WELCOME", "name": "Bienvenue", "kind": "percent", "percent": Decimal(25), "valid_from": START, **fields}
    return Coupon.objects.create(**values)


def test_coupon_reduces_the_draft_and_is_counted(customer: Account) -> None:
    coupon = coupon_make()

    begun = begin(customer, plan_make("pro", "3000"), coupon=" welcome ")
    pay(begun.to_pay)

    subscription = live(customer)
    lines = [(line.kind, line.gross) for line in Invoice.objects.get().lines.all()]
    assert lines == [("plan", Decimal(3000)), ("discount", Decimal(-750))]
    assert (subscription.coupon, subscription.coupon_periods_used, subscription.period_value) == (coupon, 1, Decimal(2250))
    assert CouponRedemption.objects.get().account == customer


def test_coupon_over_everything_needs_no_payment(customer: Account) -> None:
    coupon_make(percent=Decimal(100))

    begun = begin(customer, plan_make("pro"), coupon="WELCOME")

    assert (begun.to_pay, live(customer).plan.code, Invoice.objects.get().state) == (None, "pro", "paid")
    assert not Payment.objects.exists()
    assert wrong() == []


def test_abandoned_checkout_gives_the_coupon_back(customer: Account, time: FrozenDateTimeFactory) -> None:
    coupon_make(max_redemptions=1)
    begin(customer, plan_make("pro"), coupon="WELCOME")
    time.move_to("2026-02-08T12:00:00Z")

    jobs.incompletes_expire()

    assert not CouponRedemption.objects.exists()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"code": "OTHER"}, "coupon_not_found"),
        ({"is_active": False}, "coupon_not_valid"),
        ({"valid_from": datetime(2026, 2, 1, tzinfo=UTC)}, "coupon_not_valid"),
        ({"valid_until": START}, "coupon_not_valid"),
        ({"kind": "fixed", "percent": None, "amount": Decimal(100), "currency": "USD"}, "coupon_not_valid"),
        ({"max_redemptions": 0}, "coupon_not_valid"),
    ],
)
def test_coupon_that_does_not_hold_is_refused(customer: Account, fields: dict[str, object], code: str) -> None:
    coupon_make(**fields)

    with pytest.raises(ApiError) as refused:
        begin(customer, plan_make("pro"), coupon="WELCOME")

    assert refused.value.code == code
    assert live(customer).plan.code == "free"
    assert not Invoice.objects.exists()


def test_coupon_for_other_plans_and_used_before_is_refused(customer: Account) -> None:
    pro, plus = plan_make("pro"), plan_make("plus")
    coupon_make().plans.add(plus)
    subscribe(customer, plus, coupon="WELCOME")
    other = account_make()

    with pytest.raises(ApiError, match="other plans"):
        begin(other, pro, coupon="WELCOME")

    with pytest.raises(ApiError, match="used"):
        coupon_check(code="WELCOME", account=customer, plan=plus, price=plus.prices.get())
