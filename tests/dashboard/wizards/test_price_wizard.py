"""Changing a price: who it concerns is shown first, a price is only ever added, running subscriptions stay or follow."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account
from billing.events.models import Event
from billing.plans.models import FxRate, Plan, PlanPrice
from billing.subscriptions.models import PriceMove, Subscription
from billing.subscriptions.price_migration import price_moves_run
from routing.models import PlanRouting
from tests.billing.subscriptions.conftest import customer, shop, time
from tests.billing.subscriptions.selling import live, plan_make, subscribe
from tests.factories import account_make

__all__ = ["customer", "shop", "time"]

pytestmark = pytest.mark.django_db

START = reverse("admin:billing_planprice_change_price")


@pytest.fixture
def pro(time: FrozenDateTimeFactory, customer: Account) -> Plan:
    """A plan for 3,000 DZD with two subscriptions until 28 February."""
    plan = plan_make("pro", "3000")
    subscribe(customer, plan)
    subscribe(account_make(), plan)
    return plan


@pytest.fixture
def console(console: Client, time: FrozenDateTimeFactory) -> Client:
    """Logged in at the time at which the clock stands."""
    from billing.accounts.models import User

    console.force_login(User.objects.get(email="operator@example.com"))
    return console


def price(plan: Plan, **changes: Any) -> dict[str, Any]:
    return {
        "plan": plan.pk,
        "currency": "dzd",
        "amount": "4000",
        "tax_included": "on",
        "overage_amount": "",
        "effective_from_0": "",
        "effective_from_1": "",
        "running": "move",
    } | changes


def facts(page: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in page.context["facts"]}


def test_who_it_concerns_is_shown_and_nothing_is_written(console: Client, pro: Plan) -> None:
    page = console.get(console.post(START, price(pro))["location"])

    assert facts(page) == {
        "Plan": "Pro",
        "Price now": "3,000 DZD",
        "New price": "4,000 DZD",
        "In force": "at once",
        "Running subscriptions in this currency": "2",
        "Renew at the new price with their next period": "2",
        "All of them together, per period": "6,000 → 8,000 DZD",
        "Customers": "are told by mail before their first period at the new price",
    }
    assert [str(now) for _account, now, _at in page.context["named"]] == ["3000 DZD", "3000 DZD"]
    assert (PlanPrice.objects.filter(plan=pro).count(), PriceMove.objects.count()) == (1, 0)


def test_running_subscriptions_follow_with_their_next_period(console: Client, pro: Plan, customer: Account) -> None:
    last = console.post(START, price(pro))["location"]

    answer = console.post(last, {"reason": "costs rose"})
    again = console.post(last, {"reason": "costs rose"})
    price_moves_run()

    new = PlanPrice.objects.get(plan=pro, amount=4000)
    move = PriceMove.objects.get()
    subscription = live(customer)
    assert answer["location"] == again["location"] == reverse("admin:billing_pricemove_change", args=[move.pk])
    assert (new.currency, new.effective_from, new.tax_included) == ("DZD", datetime(2026, 1, 31, 12, tzinfo=UTC), True)
    assert subscription.price is not None
    assert (subscription.price.amount, subscription.next_price) == (Decimal(3000), new)
    assert (move.moved, move.reason, move.requested_by) == (2, "costs rose", "operator@example.com")
    created = Event.objects.get(kind="plan_price.created", actor_kind="operator")
    assert (created.reason, created.after["amount"]) == ("costs rose", "4000")


def test_running_subscriptions_keep_their_price(console: Client, pro: Plan, customer: Account) -> None:
    page = console.post(START, price(pro, running="keep"))["location"]
    told = facts(console.get(page))

    answer = console.post(page, {"reason": "costs rose"})
    price_moves_run()

    new = PlanPrice.objects.get(plan=pro, amount=4000)
    assert told["All of them together, per period"] == "6,000 DZD, as before"
    assert told["Customers"] == "who have the plan keep their price and are not told"
    assert answer["location"] == reverse("admin:billing_planprice_change", args=[new.pk])
    assert (PriceMove.objects.count(), live(customer).next_price) == (0, None)


def test_a_price_to_come_concerns_first_who_renews_after_it(console: Client, pro: Plan, customer: Account) -> None:
    Subscription.objects.filter(pk=live(customer).pk).update(current_period_end=datetime(2026, 3, 10, tzinfo=UTC))

    page = console.get(console.post(START, price(pro, effective_from_0="2026-03-05", effective_from_1="00:00:00"))["location"])

    assert facts(page)["In force"] == "2026-03-05 00:00 UTC"
    assert facts(page)["Running subscriptions in this currency"] == "2"
    assert facts(page)["Renew at the new price with their next period"] == "1"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"effective_from_0": "2026-01-30", "effective_from_1": "00:00:00"}, "effective_from"),
        ({"effective_from_0": "2036-01-30", "effective_from_1": "00:00:00"}, "effective_from"),
        ({"amount": "3000"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "1.23456"}, "amount"),
        ({"currency": "dinar"}, "currency"),
        ({"currency": "D1"}, "currency"),
        ({"overage_amount": "1"}, "overage_amount"),
        ({"running": "both"}, "running"),
    ],
)
def test_what_cannot_be_is_refused(console: Client, pro: Plan, changes: dict[str, str], field: str) -> None:
    page = console.post(START, price(pro, **changes))

    assert page.status_code == 200
    assert list(page.context["form"].errors) == [field]


def test_a_second_move_waits_for_the_first(console: Client, pro: Plan) -> None:
    PriceMove.objects.create(price=pro.prices.get(), reason="before")

    page = console.post(START, price(pro))

    assert page.context["form"].errors["running"] == [
        "Subscriptions of this plan are being moved to another price: stop that first."
    ]


def test_a_price_at_which_a_plan_on_sale_loses_money_needs_a_word(console: Client, pro: Plan) -> None:
    FxRate.objects.create(base="USD", quote="DZD", rate=200, effective_from=datetime(2026, 1, 1, tzinfo=UTC))
    Plan.objects.filter(pk=pro.pk).update(visibility="public")
    PlanRouting.objects.create(plan=pro, strategy="split", split={"groq": 1}, models_allowed=["*"], cost_allowance_usd=5)
    Plan.objects.filter(pk=pro.pk).update(billing_mode="quota")
    last = console.post(START, price(pro, amount="800"))["location"]
    page = console.get(last)
    refused = console.post(last, {"reason": "cheap"})
    before = PlanPrice.objects.filter(plan=pro).count()

    console.post(last, {"reason": "cheap", "accept_risk": "on"})

    assert page.context["warnings"] == ["A period earns 4.00 USD and may cost 5.00 USD: its cost allowance."]
    assert refused.context["form"].errors["accept_risk"] == [
        "At this price the plan can lose money: confirm that you have seen it."
    ]
    assert (before, PlanPrice.objects.filter(plan=pro).count()) == (1, 2)
    assert Event.objects.get(kind="plan.risk_accepted").reason == "cheap"
