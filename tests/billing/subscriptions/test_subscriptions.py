"""Starting, moving, ending and switching subscriptions; onboarding."""

import itertools
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from freezegun import freeze_time

from billing.accounts.models import Account, User
from billing.events.models import Event
from billing.events.services import SYSTEM, Actor
from billing.ledger.models import Lot, Wallet
from billing.plans.models import Plan, PlanPrice
from billing.subscriptions import selectors
from billing.subscriptions.models import Subscription
from billing.subscriptions.onboarding import customer_register
from billing.subscriptions.services import (
    SubscriptionMoveRefused,
    subscription_end,
    subscription_move,
    subscription_start,
    subscription_switch,
)
from iafactory.common.errors import ApiError
from tests.factories import account_make

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
PAIRS = list(itertools.product(Subscription.State.values, Subscription.State.values))
ALLOWED = [(state, to) for state, to in PAIRS if to in Subscription.MOVES[state]]
REFUSED = [pair for pair in PAIRS if pair not in ALLOWED]
CREDITS = Decimal(100)
CUSTOMER = Actor(Event.ActorKind.USER, label="amina@example.com")


@pytest.fixture
def account(db: None) -> Account:
    return account_make()


@pytest.fixture
def free(db: None) -> Plan:
    return Plan.objects.create(code="free", family="requests", name="Free", interval="none", billing_mode="quota")


@pytest.fixture
def pro(db: None) -> Plan:
    plan = Plan.objects.create(code="pro", family="requests", name="Pro", interval="month", billing_mode="quota")
    price(plan, "DZD", "2590")
    return plan


def price(plan: Plan, currency: str, amount: str, since: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> PlanPrice:
    return PlanPrice.objects.create(plan=plan, currency=currency, amount=Decimal(amount), effective_from=since)


def events() -> list[str]:
    return list(Event.objects.filter(object_type="subscription").order_by("id").values_list("kind", flat=True))


def in_state(account: Account, plan: Plan, state: str) -> Subscription:
    return Subscription.objects.create(account=account, plan=plan, state=state, current_period_start=NOON, billing_anchor=NOON)


# --- Start ---


def test_plan_without_price_starts_active_and_without_end(account: Account, free: Plan) -> None:
    with freeze_time(NOON):
        subscription = subscription_start(account=account, plan=free, actor=CUSTOMER)

    assert (subscription.state, subscription.price) == ("active", None)
    assert (subscription.current_period_start, subscription.current_period_end) == (NOON, None)
    assert (subscription.billing_anchor, subscription.previous) == (NOON, None)
    assert selectors.subscription_live(account) == subscription
    event = Event.objects.get(object_id=str(subscription.pk))
    assert (event.kind, event.account_id, event.actor_label) == (
        "subscription.started",
        account.pk,
        "amina@example.com",
    )


def test_price_and_period_are_those_of_the_start(account: Account, pro: Plan) -> None:
    price(pro, "DZD", "9999", since=NOON + timedelta(seconds=1))

    subscription = subscription_start(account=account, plan=pro, actor=SYSTEM, at=NOON)

    assert subscription.price.amount == Decimal("2590")
    assert subscription.current_period_end == datetime(2026, 2, 28, 12, tzinfo=UTC)


def test_customer_does_not_get_a_priced_plan_without_paying(account: Account, pro: Plan) -> None:
    with pytest.raises(ApiError) as refused:
        subscription_start(account=account, plan=pro, actor=CUSTOMER)

    assert (refused.value.status, refused.value.code) == (402, "payment_required")
    assert not Subscription.objects.exists()
    assert events() == []


def test_customer_gets_a_plan_whose_price_is_zero(account: Account, free: Plan) -> None:
    price(free, "DZD", "0")

    assert subscription_start(account=account, plan=free, actor=CUSTOMER).price.amount == 0


def test_currency_that_is_asked_for_must_have_a_price(account: Account, pro: Plan) -> None:
    with pytest.raises(ApiError) as refused:
        subscription_start(account=account, plan=pro, actor=SYSTEM, currency="USD", at=NOON)

    assert (refused.value.status, refused.value.code) == (409, "plan_not_sold_in_currency")
    assert not Subscription.objects.exists()


def test_plan_sold_elsewhere_keeps_its_currency(account: Account) -> None:
    trial = Plan.objects.create(code="t", family="t", name="T", interval="day", billing_mode="quota")
    price(trial, "INR", "199")

    subscription = subscription_start(account=account, plan=trial, actor=SYSTEM, at=NOON)

    assert (subscription.price.currency, subscription.price.amount) == ("INR", Decimal("199"))
    assert subscription.current_period_end == NOON + timedelta(days=1)


def test_archived_plan_takes_nobody(account: Account, free: Plan) -> None:
    free.visibility = Plan.Visibility.ARCHIVED
    free.save()

    with pytest.raises(ApiError) as refused:
        subscription_start(account=account, plan=free, actor=SYSTEM)

    assert (refused.value.status, refused.value.code) == (409, "plan_archived")
    assert not Subscription.objects.exists()


def test_closed_account_starts_nothing(account: Account, free: Plan) -> None:
    Account.objects.update(status="closed")

    with pytest.raises(ApiError) as refused:
        subscription_start(account=account, plan=free, actor=SYSTEM)

    assert (refused.value.status, refused.value.code) == (403, "account_closed")
    assert not Subscription.objects.exists()


def test_account_has_one_live_subscription(account: Account, free: Plan, pro: Plan) -> None:
    subscription_start(account=account, plan=free, actor=SYSTEM)

    with pytest.raises(ApiError) as refused:
        subscription_start(account=account, plan=pro, actor=SYSTEM)

    assert (refused.value.status, refused.value.code) == (409, "subscription_exists")
    assert Subscription.objects.count() == 1
    assert events() == ["subscription.started"]


@pytest.mark.django_db(transaction=True)
def test_one_of_many_parallel_starts_wins(account: Account, free: Plan) -> None:
    barrier = threading.Barrier(6)
    results: list[str] = []

    def run() -> None:
        barrier.wait()
        try:
            results.append(subscription_start(account=account, plan=free, actor=SYSTEM).state)
        except ApiError as error:
            results.append(error.code)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(results) == ["active", *["subscription_exists"] * 5]


def test_period_credits_come_with_the_period(account: Account) -> None:
    plan = Plan.objects.create(
        code="credits-free",
        family="credits",
        name="C",
        interval="day",
        interval_count=30,
        billing_mode="credits",
        period_credits=CREDITS,
    )
    start = datetime.now(UTC)

    subscription_start(account=account, plan=plan, actor=CUSTOMER, at=start)

    lot = Lot.objects.get()
    assert (lot.kind, lot.amount, lot.remaining, lot.paid_amount) == ("plan", CREDITS, CREDITS, Decimal(0))
    assert (lot.effective_at, lot.expires_at) == (start, start + timedelta(days=30))
    assert Wallet.objects.get().balance == CREDITS


def test_period_that_is_over_grants_nothing(account: Account) -> None:
    plan = Plan.objects.create(
        code="credits-free", family="credits", name="C", interval="day", billing_mode="credits", period_credits=CREDITS
    )

    with freeze_time(NOON):
        subscription_start(account=account, plan=plan, actor=SYSTEM, at=NOON - timedelta(days=1))

    assert not Lot.objects.exists()


# --- Moves ---


@pytest.mark.parametrize(("state", "to"), ALLOWED)
def test_allowed_move(account: Account, free: Plan, state: str, to: str) -> None:
    subscription = in_state(account, free, state)

    moved = subscription_move(subscription=subscription, to=to, actor=SYSTEM, reason="test", at=NOON)

    subscription.refresh_from_db()
    event = Event.objects.get(object_id=str(subscription.pk))
    assert moved.state == subscription.state == to
    assert subscription.ended_at == {"canceled": NOON, "expired": NOON}.get(to)
    assert (event.kind, event.before["state"], event.after["state"]) == (f"subscription.{to}", state, to)
    assert event.reason == "test"


@pytest.mark.parametrize(("state", "to"), REFUSED)
def test_refused_move(account: Account, free: Plan, state: str, to: str) -> None:
    subscription = in_state(account, free, state)

    with pytest.raises(SubscriptionMoveRefused) as refused:
        subscription_move(subscription=subscription, to=to, actor=SYSTEM)

    subscription.refresh_from_db()
    assert (refused.value.status, refused.value.code) == (409, "subscription_move_refused")
    assert (refused.value.state, refused.value.to) == (state, to)
    assert (subscription.state, subscription.ended_at) == (state, None)
    assert events() == []


def test_table_is_the_one_of_the_design() -> None:
    moves = {str(state): {str(to) for to in tos} for state, tos in Subscription.MOVES.items()}

    assert (len(ALLOWED), len(REFUSED)) == (17, 32)
    assert moves == {
        "incomplete": {"trialing", "active", "expired"},
        "trialing": {"active", "past_due", "canceled", "expired"},
        "active": {"past_due", "paused", "canceled", "expired"},
        "past_due": {"active", "canceled", "expired"},
        "paused": {"active", "canceled", "expired"},
        "canceled": set(),
        "expired": set(),
    }


def test_move_sees_what_another_did_meanwhile(account: Account, free: Plan) -> None:
    subscription = in_state(account, free, "active")
    stale = Subscription.objects.get(pk=subscription.pk)
    subscription_move(subscription=subscription, to="canceled", actor=SYSTEM)

    with pytest.raises(SubscriptionMoveRefused):
        subscription_move(subscription=stale, to="past_due", actor=SYSTEM)

    assert Subscription.objects.get().state == "canceled"


def test_second_one_cannot_become_live(account: Account, free: Plan) -> None:
    in_state(account, free, "active")
    incomplete = in_state(account, free, "incomplete")

    with pytest.raises(ApiError) as refused:
        subscription_move(subscription=incomplete, to="active", actor=SYSTEM)

    incomplete.refresh_from_db()
    assert (refused.value.status, refused.value.code) == (409, "subscription_exists")
    assert incomplete.state == "incomplete"
    assert events() == []


@pytest.mark.parametrize(("state", "end"), [("incomplete", "expired"), ("trialing", "canceled"), ("paused", "canceled")])
def test_end_is_final(account: Account, free: Plan, state: str, end: str) -> None:
    ended = subscription_end(subscription=in_state(account, free, state), actor=SYSTEM, reason="asked", at=NOON)

    assert (ended.state, ended.ended_at) == (end, NOON)
    assert selectors.subscription_live(account) is None
    with pytest.raises(SubscriptionMoveRefused):
        subscription_end(subscription=ended, actor=SYSTEM)


# --- Switch ---


def test_switch_ends_the_one_and_starts_the_other(account: Account, free: Plan, pro: Plan) -> None:
    first = subscription_start(account=account, plan=free, actor=SYSTEM, at=NOON - timedelta(days=3))

    second = subscription_switch(account=account, plan=pro, actor=SYSTEM, at=NOON, reason="demo")

    first.refresh_from_db()
    assert (first.state, first.ended_at) == ("canceled", NOON)
    assert (second.state, second.plan, second.previous) == ("active", pro, first)
    assert second.current_period_start == NOON
    assert events() == ["subscription.started", "subscription.canceled", "subscription.started"]


def test_switch_without_a_live_one_starts(account: Account, pro: Plan) -> None:
    subscription = subscription_switch(account=account, plan=pro, actor=SYSTEM)

    assert (subscription.state, subscription.previous) == ("active", None)


def test_switch_to_the_same_plan_changes_nothing(account: Account, pro: Plan) -> None:
    first = subscription_switch(account=account, plan=pro, actor=SYSTEM)

    again = subscription_switch(account=account, plan=pro, actor=SYSTEM)

    assert again == first
    assert events() == ["subscription.started"]


def test_refused_switch_leaves_the_old_one(account: Account, free: Plan, pro: Plan) -> None:
    first = subscription_start(account=account, plan=free, actor=SYSTEM)

    with pytest.raises(ApiError, match="payment"):
        subscription_switch(account=account, plan=pro, actor=CUSTOMER)

    assert selectors.subscription_live(account) == first
    assert events() == ["subscription.started"]


# --- Reading ---


@pytest.mark.parametrize("wanted", ["nonsense", "0199e1a0-0000-7000-8000-000000000000"])
def test_id_of_nothing_is_not_found(account: Account, wanted: str) -> None:
    with pytest.raises(ApiError) as refused:
        selectors.subscription_of_account(account=account, subscription_id=wanted)

    assert (refused.value.status, refused.value.code) == (404, "not_found")


def test_somebody_elses_subscription_is_not_found(account: Account, free: Plan) -> None:
    other = subscription_start(account=account_make(), plan=free, actor=SYSTEM)
    own = subscription_start(account=account, plan=free, actor=SYSTEM)

    with pytest.raises(ApiError) as refused:
        selectors.subscription_of_account(account=account, subscription_id=other.pk)

    assert refused.value.status == 404
    assert selectors.subscription_of_account(account=account, subscription_id=str(own.pk)) == own


# --- Onboarding ---


def test_customer_gets_everything_at_once(free: Plan) -> None:
    registration = customer_register(email="amina@example.com", password="correct horse battery")

    assert registration.wallet.account == registration.account
    assert registration.subscription.plan == free
    assert registration.user.personal_account == registration.account


def test_customer_is_registered_whole_or_not_at_all(free: Plan) -> None:
    free.visibility = Plan.Visibility.ARCHIVED
    free.save()

    with pytest.raises(ApiError, match="takes no new subscriptions"):
        customer_register(email="amina@example.com", password="correct horse battery")

    assert not User.objects.exists()
    assert not Account.objects.exists()
    assert not Wallet.objects.exists()
    assert not Event.objects.exists()


def test_mail_is_queued_only_after_the_commit(free: Plan, django_capture_on_commit_callbacks: Callable[..., Any]) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        customer_register(email="amina@example.com", password="correct horse battery")

    assert len(callbacks) == 1
