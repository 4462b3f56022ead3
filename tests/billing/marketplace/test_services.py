"""Accounts of the marketplace's users: made once, on the plan that their subscription there stands for."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.test import Client
from django.urls import reverse

from billing.accounts.models import Account, ApiKey, Membership, User
from billing.events.models import Event
from billing.ledger.models import Wallet
from billing.marketplace.door import secret_known
from billing.marketplace.models import MarketplaceAccount, MarketplacePlan
from billing.marketplace.services import account_follow
from billing.plans.models import Plan, PlanPrice
from billing.subscriptions.models import Subscription
from billing.subscriptions.selectors import subscription_live
from iafactory.common import clock
from iafactory.common.errors import ApiError

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "0d6f2c9a-1b7e-4f0a-9d55-71a0cafe1234"


def plan_make(code: str, **fields: object) -> Plan:
    wanted = {"family": "x", "name": code, "interval": "month", "billing_mode": "quota", "daily_limit": 3} | fields
    return Plan.objects.create(code=code, **wanted)


@pytest.fixture
def free(db: None) -> Plan:
    return plan_make("free", interval="none")


@pytest.fixture
def pro(free: Plan) -> Plan:
    plan = plan_make("pro", daily_limit=400)
    PlanPrice.objects.create(plan=plan, currency="USD", amount=20, effective_from=NOON - timedelta(days=1))
    MarketplacePlan.objects.create(subscription="PRO", plan=plan)
    return plan


def follow(user: str = "sara", subscription: str = "BASIC", at: datetime = NOON) -> Account:
    return account_follow(external_user=user, subscription=subscription, now=at).account


def live_plan(account: Account) -> str:
    live = subscription_live(account)
    assert live is not None
    return live.plan.code


def test_the_first_call_makes_an_account_with_a_wallet_and_the_plan_free(free: Plan) -> None:
    account = follow()

    assert (account.kind, account.name, account.currency) == ("organisation", "RapidAPI sara", "USD")
    assert Wallet.objects.get(account=account).balance == 0
    assert live_plan(account) == "free"
    assert Membership.objects.filter(account=account).count() == ApiKey.objects.filter(account=account).count() == 0
    [event] = Event.objects.filter(kind="account.created", account_id=account.pk)
    assert (event.after["marketplace"], event.after["user"], event.actor_label) == ("rapidapi", "sara", "RapidAPI")


def test_the_next_call_finds_it_and_writes_nothing(free: Plan) -> None:
    account = follow()
    before = Event.objects.count()

    again = follow(at=NOON + timedelta(days=1))

    assert again == account
    assert (Event.objects.count(), Account.objects.count()) == (before, 1)


def test_a_subscription_stands_for_its_plan_whose_price_is_not_ours_to_collect(pro: Plan) -> None:
    account = follow(subscription=" pro ")

    live = subscription_live(account)
    assert live is not None
    assert (live.plan, live.price, live.state) == (pro, None, "active")


def test_a_change_there_is_a_change_here_and_stragglers_undo_nothing(pro: Plan) -> None:
    account = follow()

    follow(subscription="PRO", at=NOON + timedelta(hours=1))
    follow(subscription="BASIC", at=NOON + timedelta(hours=1, seconds=59))
    during = live_plan(account)
    follow(subscription="BASIC", at=NOON + timedelta(hours=1, seconds=60))

    assert during == "pro"
    assert live_plan(account) == "free"
    kinds = Event.objects.filter(kind="marketplace_account.subscription_changed").order_by("id")
    assert [event.after for event in kinds] == [
        {"subscription": "PRO", "plan": "pro"},
        {"subscription": "BASIC", "plan": "free"},
    ]
    assert Subscription.objects.filter(account=account).count() == 3


def test_an_edit_of_the_table_applies_with_the_next_call(pro: Plan) -> None:
    account = follow(subscription="PRO")
    MarketplacePlan.objects.update(plan=plan_make("ultra"))

    follow(subscription="PRO")

    assert live_plan(account) == "ultra"


def test_an_archived_plan_keeps_who_has_it_and_takes_nobody_new(pro: Plan) -> None:
    old = follow(subscription="PRO")
    Plan.objects.filter(pk=pro.pk).update(visibility=Plan.Visibility.ARCHIVED)

    follow(subscription="PRO")
    new = follow("amina", "PRO")

    assert (live_plan(old), live_plan(new)) == ("pro", "free")


def test_a_subscription_that_ended_here_begins_again(free: Plan) -> None:
    account = follow()
    Subscription.objects.update(state="expired", ended_at=NOON)

    follow()

    assert live_plan(account) == "free"


def test_without_plans_nobody_is_let_in_and_nothing_is_left() -> None:
    with pytest.raises(ApiError) as refused:
        follow()

    assert (refused.value.status, refused.value.code) == (503, "catalogue_missing")
    assert (Account.objects.count(), MarketplaceAccount.objects.count()) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_twenty_first_calls_make_one_account_and_one_change_of_plan(pro: Plan) -> None:
    barrier = threading.Barrier(20)

    def call(subscription: str) -> Account:
        barrier.wait()
        account = account_follow(external_user="sara", subscription=subscription, now=clock.now()).account
        connection.close()
        return account

    def rush(subscription: str) -> set[object]:
        with ThreadPoolExecutor(20) as pool:
            return {future.result().pk for future in [pool.submit(call, subscription) for _ in range(20)]}

    first = rush("BASIC")
    second = rush("PRO")

    assert len(first | second) == 1
    assert Account.objects.count() == Wallet.objects.count() == MarketplaceAccount.objects.count() == 1
    assert sorted(Subscription.objects.values_list("plan__code", "state")) == [("free", "canceled"), ("pro", "active")]


@pytest.mark.parametrize(
    ("secrets", "given", "known"),
    [
        ([], "", False),
        ([], SECRET, False),
        ([""], "", False),
        ([SECRET], SECRET, True),
        ([SECRET], SECRET[:-1], False),
        ([SECRET], SECRET + "4", False),
        ([SECRET], SECRET.upper(), False),
        ([SECRET], "", False),
        (["x" * 36, SECRET], SECRET, True),
        ([SECRET, "x" * 36], SECRET, True),
        ([SECRET], "é", False),
    ],
)
def test_only_a_secret_of_ours_opens_the_door(settings: object, secrets: list[str], given: str, known: bool) -> None:
    settings.RAPIDAPI_PROXY_SECRETS = secrets  # type: ignore[attr-defined]

    assert secret_known(given) is known


def test_a_secret_that_can_be_guessed_does_not_pass_the_checks(settings: object) -> None:
    settings.RAPIDAPI_PROXY_SECRETS = [SECRET, "short"]  # type: ignore[attr-defined]

    with pytest.raises(SystemCheckError, match="billing.E020"):
        call_command("check")


def test_operators_edit_the_table_and_the_edit_is_an_event(pro: Plan) -> None:
    operator = User.objects.create_superuser("operator@example.com", "correct horse battery")
    console = Client()
    console.force_login(operator)
    form = {"marketplace": "rapidapi", "subscription": " mega ", "plan": pro.pk}

    made = console.post(reverse("admin:billing_marketplaceplan_add"), form)
    twice = console.post(reverse("admin:billing_marketplaceplan_add"), form)

    assert (made.status_code, twice.status_code) == (302, 200)
    assert MarketplacePlan.objects.get(subscription="MEGA").plan == pro
    [event] = Event.objects.filter(kind="marketplace_plan.created")
    assert event.after["subscription"] == "MEGA"
