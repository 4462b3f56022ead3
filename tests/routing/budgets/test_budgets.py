"""Ceilings on provider cost: what is spent and reserved of each, what an alert says, and setting them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.rollups import usage_days_sum
from iafactory.common.errors import ApiError
from routing.budgets import BudgetState, Level, Period, budget_set, budget_states
from routing.models import Budget, Provider

from .conftest import NOW, spent, under_way

pytestmark = pytest.mark.django_db


def figures(state: BudgetState) -> tuple[str | None, str, Decimal | None, Decimal, Decimal, Decimal | None]:
    return state.provider, state.period, state.limit_usd, state.spent_usd, state.reserved_usd, state.remaining_usd


def usd(text: str) -> Decimal:
    return Decimal(text)


def test_spent_and_reserved_by_day_and_month_together_and_per_provider(
    account: Account, groq: Provider, openrouter: Provider
) -> None:
    Budget.objects.create(daily_limit_usd=50, monthly_limit_usd=1000)
    Budget.objects.create(provider=openrouter, daily_limit_usd=10)
    spent(account, "openrouter", "2.5")
    spent(account, "openrouter", "1", datetime(2026, 11, 20, 0, 0, tzinfo=UTC))
    spent(account, "openrouter", "4", datetime(2026, 11, 19, 23, 59, 59, tzinfo=UTC))
    spent(account, "groq", "0.25", datetime(2026, 11, 1, 0, 0, tzinfo=UTC))
    spent(account, "groq", "7", datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC))
    spent(account, "", "9")
    under_way(account, "openrouter", "0.125")
    under_way(account, "groq", "0.5")

    states = budget_states(now=NOW)

    assert [figures(state) for state in states] == [
        (None, "day", usd("50"), usd("3.5"), usd("0.625"), usd("45.875")),
        (None, "month", usd("1000"), usd("7.75"), usd("0.625"), usd("991.625")),
        ("openrouter", "day", usd("10"), usd("3.5"), usd("0.125"), usd("6.375")),
        ("openrouter", "month", None, usd("7.5"), usd("0.125"), None),
    ]


def test_summed_up_days_count_once(account: Account) -> None:
    spent(account, "groq", "2.5", datetime(2026, 11, 3, tzinfo=UTC))
    spent(account, "groq", "1", NOW)
    before = budget_states(now=NOW)

    usage_days_sum(now=NOW)

    assert [state.spent_usd for state in before] == [1, Decimal("3.5")]
    assert budget_states(now=NOW) == before


def test_without_budgets_there_is_still_what_was_spent(account: Account) -> None:
    spent(account, "groq", "1.5")

    states = budget_states(now=NOW)

    assert [figures(state) for state in states] == [
        (None, "day", None, usd("1.5"), 0, None),
        (None, "month", None, usd("1.5"), 0, None),
    ]
    assert [(state.percent, state.level) for state in states] == [(None, "ok")] * 2


def test_providers_asked_for_are_told_whether_limited_or_not(account: Account, groq: Provider) -> None:
    spent(account, "groq", "1.5")

    states = budget_states(now=NOW, providers=["groq"])

    assert [(state.provider, state.period, state.spent_usd) for state in states] == [
        ("groq", "day", usd("1.5")),
        ("groq", "month", usd("1.5")),
    ]


def test_it_takes_four_queries(account: Account, groq: Provider, openrouter: Provider) -> None:
    Budget.objects.create(provider=groq, daily_limit_usd=1)
    Budget.objects.create(provider=openrouter, daily_limit_usd=1)

    with CaptureQueriesContext(connection) as queries:
        budget_states(now=NOW)

    assert len(queries) == 4


@pytest.mark.parametrize(
    ("spent_usd", "percent", "level"),
    [
        ("0", 0, "ok"),
        ("37.49", 74, "ok"),
        ("37.5", 75, "warning"),
        ("44.99", 89, "warning"),
        ("45", 90, "critical"),
        ("49.999999999", 99, "critical"),
        ("50", 100, "exhausted"),
        ("51", 102, "exhausted"),
    ],
)
def test_levels_follow_what_is_spent(spent_usd: str, percent: int, level: str) -> None:
    state = BudgetState(None, Period.DAY, usd("50"), usd(spent_usd), usd("40"))

    assert (state.percent, state.level) == (percent, level)


@pytest.mark.parametrize(
    ("spent_usd", "reserved_usd", "remaining"), [("30", "19.999999999", "0.000000001"), ("30", "20", "0"), ("51", "0", "0")]
)
def test_what_is_reserved_does_not_remain(spent_usd: str, reserved_usd: str, remaining: str) -> None:
    state = BudgetState(None, Period.DAY, usd("50"), usd(spent_usd), usd(reserved_usd))

    assert state.remaining_usd == usd(remaining)


def test_a_limit_of_nothing_is_exhausted() -> None:
    state = BudgetState(None, Period.DAY, usd("0"), usd("0"), usd("0"))

    assert (state.percent, state.level) == (100, Level.EXHAUSTED)


# --- Setting ---


def test_limits_named_are_set_others_stay_and_the_event_tells_both_sides(groq: Provider) -> None:
    budget_set(provider=groq, daily_limit_usd=usd("5"), actor=SYSTEM, reason="first")
    budget_set(provider=groq, monthly_limit_usd=usd("80.5"), actor=SYSTEM, reason="second")

    row = Budget.objects.get()
    assert (row.provider, row.daily_limit_usd, row.monthly_limit_usd) == (groq, usd("5"), usd("80.5"))
    event = Event.objects.order_by("-id")[0]
    assert (event.kind, event.object_type, event.object_id, event.reason) == ("budget.changed", "budget", str(row.pk), "second")
    assert event.before == {"daily_limit_usd": "5", "monthly_limit_usd": None}
    assert event.after == {"provider": "groq", "daily_limit_usd": "5", "monthly_limit_usd": "80.5"}


def test_the_same_again_writes_nothing() -> None:
    budget_set(provider=None, daily_limit_usd=usd("50"), actor=SYSTEM, reason="x")
    budget_set(provider=None, daily_limit_usd=usd("50.00"), actor=SYSTEM, reason="x")

    assert (Budget.objects.count(), Event.objects.count()) == (1, 1)


def test_a_budget_without_limits_is_gone() -> None:
    budget_set(provider=None, daily_limit_usd=usd("50"), actor=SYSTEM, reason="x")

    assert budget_set(provider=None, daily_limit_usd=None, actor=SYSTEM, reason="x") is None
    assert not Budget.objects.exists()
    assert Event.objects.count() == 2


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"reason": " ", "daily_limit_usd": Decimal(5)}, "reason"),
        ({"daily_limit_usd": Decimal(-1)}, "daily_limit_usd"),
        ({"monthly_limit_usd": Decimal("0.0000000001")}, "monthly_limit_usd"),
        ({"monthly_limit_usd": Decimal(10) ** 12}, "monthly_limit_usd"),
    ],
)
def test_wrong_limits_are_refused(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        budget_set(provider=None, actor=SYSTEM, **{"reason": "x", **changes})

    assert (refusal.value.code, refusal.value.param) == ("invalid_request", param)
    assert not Budget.objects.exists()
    assert not Event.objects.exists()
