"""`reset-monthly` grants a period's credits once, and takes nothing."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.events.models import Event
from billing.ledger.models import Lot
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from iafactory.common import clock

from .conftest import post, wallet_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books")]

D = Decimal


def renewed(account: Account) -> None:
    """A new period began, and its credits were not granted yet."""
    subscription = Subscription.objects.get(account=account)
    subscription.current_period_start = clock.now() - timedelta(seconds=1)
    subscription.current_period_end = clock.now() + timedelta(days=30)
    subscription.save()


def test_a_period_that_has_its_credits_gets_no_more(
    service: APIClient, customer: Callable[..., Account], limited: Plan
) -> None:
    account = customer(plan=limited)

    body = post(service, "reset-monthly", {}).json()

    assert body == {"checked": 1, "granted": 0, "granted_before": 1, "credits": 0}
    assert wallet_of(account) == (D(100), D(0))


def test_due_periods_are_granted_once(service: APIClient, customer: Callable[..., Account], limited: Plan) -> None:
    due, other, payg = customer(plan=limited), customer(plan=limited), customer(7)
    renewed(due)

    first = post(service, "reset-monthly", {}).json()
    again = post(service, "reset-monthly", {}).json()

    assert first == {"checked": 2, "granted": 1, "granted_before": 1, "credits": 100}
    assert again == {"checked": 2, "granted": 0, "granted_before": 2, "credits": 0}
    assert [wallet_of(account)[0] for account in (due, other, payg)] == [D(200), D(100), D(7)]
    lot = Lot.objects.filter(wallet=due.pk).latest("created_at")
    subscription = Subscription.objects.get(account=due)
    assert (lot.kind, lot.expires_at) == ("plan", subscription.current_period_end)
    assert Event.objects.filter(object_id=str(lot.pk)).get().actor_kind == "service"


def test_one_account(service: APIClient, customer: Callable[..., Account], limited: Plan) -> None:
    one, other = customer(plan=limited), customer(plan=limited)
    renewed(one)
    renewed(other)

    body = post(service, "reset-monthly", {"user_id": str(one.personal_of_id)}).json()

    assert body == {"checked": 1, "granted": 1, "granted_before": 0, "credits": 100}
    assert [wallet_of(account)[0] for account in (one, other)] == [D(200), D(100)]


def test_one_account_named_in_the_header(service: APIClient, customer: Callable[..., Account], limited: Plan) -> None:
    one, other = customer(plan=limited), customer(plan=limited)
    renewed(one)
    renewed(other)

    post(service, "reset-monthly", {}, HTTP_X_USER_ID=str(other.pk))

    assert [wallet_of(account)[0] for account in (one, other)] == [D(100), D(200)]


@pytest.mark.parametrize("state", ["past_due", "paused", "canceled"])
def test_what_is_not_in_force_gets_nothing(
    service: APIClient, customer: Callable[..., Account], limited: Plan, state: str
) -> None:
    account = customer(plan=limited)
    renewed(account)
    Subscription.objects.filter(account=account).update(state=state)

    body = post(service, "reset-monthly", {}).json()

    assert body["checked"] == 0
    assert wallet_of(account)[0] == D(100)


def test_a_period_that_is_over_gets_nothing(service: APIClient, customer: Callable[..., Account], limited: Plan) -> None:
    account = customer(plan=limited)
    Subscription.objects.filter(account=account).update(
        current_period_start=clock.now() - timedelta(days=40), current_period_end=clock.now() - timedelta(days=10)
    )

    assert post(service, "reset-monthly", {}).json()["checked"] == 0
    assert wallet_of(account)[0] == D(100)
