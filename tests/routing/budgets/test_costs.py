"""What calls have cost, broken down; every sum agrees with every other."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.accounts.models import Account
from routing.costs import CostLine, cost_breakdown

from .conftest import NOW, spent

pytestmark = pytest.mark.django_db

MONTH = {"since": date(2026, 11, 1), "until": date(2026, 11, 30)}


@pytest.fixture
def calls(account: Account) -> None:
    """Five calls of November at two providers, and others that do not belong to it."""
    first, last = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    paid = {"input_tokens": 100, "output_tokens": 10, "list_cost_usd": Decimal("0.5"), "credits_charged": Decimal("1.5")}
    spent(account, "openrouter", "0.5", first, model="deepseek", plan="student", **paid)
    spent(account, "openrouter", "0.25", NOW, model="gpt", plan="pro", **paid)
    spent(account, "openrouter", "0.125", NOW, model="gpt", plan="student", end="provider_error")
    spent(account, "groq", "0", NOW, model="llama", plan="student")
    spent(account, "groq", "0", last, model="llama", plan="free")
    spent(account, "groq", "9", datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC), model="llama", plan="free")
    spent(account, "groq", "9", datetime(2026, 12, 1, tzinfo=UTC), model="llama", plan="free")
    spent(account, "", "9", NOW, plan="free")


def costs(lines: list[tuple[str, CostLine]]) -> list[tuple[str, int, str]]:
    return [(key, line.calls, f"{line.cost_usd.normalize():f}") for key, line in lines]


def test_every_dimension_and_the_totals_in_two_queries(calls: None) -> None:
    with CaptureQueriesContext(connection) as queries:
        found = cost_breakdown(**MONTH)

    assert len(queries) == 2
    assert costs(found.by["provider"]) == [("openrouter", 3, "0.875"), ("groq", 2, "0")]
    assert costs(found.by["model"]) == [("deepseek", 1, "0.5"), ("gpt", 2, "0.375"), ("llama", 2, "0")]
    assert costs(found.by["plan"]) == [("student", 3, "0.625"), ("pro", 1, "0.25"), ("free", 1, "0")]
    assert costs(found.by["day"]) == [("2026-11-01", 1, "0.5"), ("2026-11-20", 3, "0.375"), ("2026-11-30", 1, "0")]
    assert found.totals == CostLine(5, 4, 200, 20, Decimal(1), Decimal("0.875"), Decimal(3))


@pytest.mark.parametrize("dimension", ["provider", "model", "plan", "day"])
def test_each_dimension_adds_up_to_the_totals(calls: None, dimension: str) -> None:
    found = cost_breakdown(**MONTH, dimensions=(dimension,))

    [(name, lines)] = found.by.items()
    assert name == dimension
    assert sum(line.cost_usd for _, line in lines) == found.totals.cost_usd
    assert sum(line.calls for _, line in lines) == found.totals.calls


def test_filters_compare_exactly(calls: None) -> None:
    found = cost_breakdown(**MONTH, filters={"provider": "openrouter", "plan": "student"})

    assert costs(found.by["model"]) == [("deepseek", 1, "0.5"), ("gpt", 1, "0.125")]
    assert cost_breakdown(**MONTH, filters={"model": "GPT"}).totals == CostLine()


def test_one_day(calls: None) -> None:
    found = cost_breakdown(since=date(2026, 11, 20), until=date(2026, 11, 20))

    assert (found.totals.calls, found.totals.cost_usd) == (3, Decimal("0.375"))


def test_nothing_in_the_range(calls: None) -> None:
    found = cost_breakdown(since=date(2025, 1, 1), until=date(2025, 1, 31))

    assert (found.totals, found.by) == (CostLine(), {"provider": [], "model": [], "plan": [], "day": []})
