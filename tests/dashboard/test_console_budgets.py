"""Budgets in the console: set with a reason, shown with what is spent of them."""

from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.accounts.models import Account
from billing.events.models import Event
from iafactory.common import clock
from routing.models import Budget, Provider
from tests.routing.budgets.conftest import groq, openrouter, spent

__all__ = ["groq", "openrouter"]

pytestmark = pytest.mark.django_db

ADD = reverse("admin:routing_budget_add")
LIST = reverse("admin:routing_budget_changelist")


def page_of(budget: Budget) -> str:
    return reverse("admin:routing_budget_change", args=[budget.pk])


def data(**changes: str) -> dict[str, str]:
    return {"provider": "", "daily_limit_usd": "50", "monthly_limit_usd": "", "reason": "a start"} | changes


def test_a_budget_is_set_with_a_reason(console: Client) -> None:
    without = console.post(ADD, data(reason=""))
    none = Budget.objects.count()
    added = console.post(ADD, data())
    budget = Budget.objects.get()
    changed = console.post(page_of(budget), data(daily_limit_usd="60", monthly_limit_usd="900", reason="a busy day"))

    budget.refresh_from_db()
    assert (without.status_code, none, added.status_code, changed.status_code) == (200, 0, 302, 302)
    assert (budget.daily_limit_usd, budget.monthly_limit_usd) == (60, 900)
    events = Event.objects.order_by("id").values_list("kind", "reason", "actor_label")
    assert list(events) == [
        ("budget.changed", "a start", "operator@example.com"),
        ("budget.changed", "a busy day", "operator@example.com"),
    ]


@pytest.mark.parametrize(
    "changes", [{"daily_limit_usd": ""}, {"daily_limit_usd": "-1"}, {"daily_limit_usd": "x"}, {"provider": "999999"}]
)
def test_wrong_budgets_are_refused(console: Client, changes: dict[str, str]) -> None:
    assert console.post(ADD, data(**changes)).status_code == 200
    assert not Budget.objects.exists()


def test_a_second_budget_of_the_same_provider_is_refused(console: Client, groq: Provider) -> None:
    console.post(ADD, data(provider=str(groq.pk)))

    again = console.post(ADD, data(provider=str(groq.pk), daily_limit_usd="7"))

    assert (again.status_code, Budget.objects.get().daily_limit_usd) == (200, 50)


def test_what_is_spent_stands_beside_the_limit(console: Client, account: Account, openrouter: Provider) -> None:
    budget = Budget.objects.create(provider=openrouter, daily_limit_usd=10, monthly_limit_usd=1000)
    spent(account, "openrouter", "9.5", clock.now())

    lists, page = (console.get(address).content.decode() for address in (LIST, page_of(budget)))

    assert "9.50 USD" in lists
    assert '<span class="state state-failed">95 %</span>' in lists
    assert "0.50 USD" in page
    assert '<span class="state state-failed">95 %</span>' in page


def test_the_list_takes_the_same_queries_for_many(console: Client, groq: Provider, openrouter: Provider) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            console.get(LIST)
        return len(captured)

    Budget.objects.create(daily_limit_usd=1)
    console.get(LIST)
    one = queries()
    Budget.objects.create(provider=groq, daily_limit_usd=Decimal(1))
    Budget.objects.create(provider=openrouter, monthly_limit_usd=Decimal(1))

    assert queries() == one


def test_the_home_shows_no_limit_where_there_is_none(console: Client) -> None:
    Budget.objects.create(monthly_limit_usd=900)

    home = console.get(reverse("admin:index"))

    assert home.status_code == 200
    assert (home.context["budget"].limit_usd, home.context["budget"].percent) == (None, None)
    assert "no limit" in home.content.decode()
