"""Reports on usage: exact sums by every dimension, whether days are summed up or still in the log."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pytest_django import DjangoAssertNumQueries

from billing.accounts.models import Account, ApiKey
from billing.accounts.services import api_key_create
from billing.events.services import SYSTEM
from billing.ledger.models import UsageDay, UsageDayOfAccount, UsageDayOfAll, UsageDayState
from billing.ledger.rollups import usage_day_sum, usage_days_sum
from billing.ledger.usage_reports import (
    NOTHING,
    By,
    Order,
    UsageLine,
    UsageScope,
    UsageSums,
    usage_by,
    usage_by_account,
    usage_by_day,
    usage_by_key,
    usage_by_model,
    usage_by_provider,
    usage_report,
    usage_totals,
)
from tests.billing.ledger.test_rollups import call
from tests.factories import account_make

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
FIRST, LAST = date(2026, 11, 16), date(2026, 11, 20)
D = Decimal


@pytest.fixture(params=["log", "sums", "sums and a tail"])
def company(request: pytest.FixtureRequest, db: None) -> tuple[Account, Account, ApiKey]:
    """Two accounts; calls on four of the five days to today, in the log, in sums, or in both."""
    first, second = account_make(credits=1000), account_make(credits=1000)
    key, _ = api_key_create(account=first, name="Laptop", created_by=None, actor=SYSTEM)
    call(first, NOW - timedelta(days=4), model="a", provider="x", api_key_id=key.pk)
    call(first, NOW - timedelta(days=3), model="b", provider="x", end="provider_error", latency_ms=None)
    call(second, NOW - timedelta(days=3), model="b", provider="y", plan="pro", latency_ms=301)
    call(second, NOW - timedelta(days=1), model="b", provider="y", plan="pro", fallback=True)
    call(second, NOW, model="b", provider="y", plan="pro")
    call(second, NOW, model="", provider="")
    if request.param == "sums":
        usage_days_sum(now=NOW)
    if request.param == "sums and a tail":
        usage_day_sum(date(2026, 11, 17), now=NOW)
    return first, second, key


def told(lines: list[UsageLine]) -> list[tuple[Any, int]]:
    """Keys and numbers of calls."""
    return [(line.key, line.sums.calls) for line in lines]


def test_totals_of_a_range(company: Any) -> None:
    found = usage_totals(since=FIRST, until=LAST)

    assert (found.calls, found.calls_complete, found.calls_failed, found.calls_fallback) == (6, 5, 1, 1)
    assert (found.input_tokens, found.cost_usd, found.list_cost_usd) == (42, D("0.006"), D("0.012"))
    assert (found.credits_charged, found.latency_ms, found.latency_calls) == (D(6), 701, 5)
    assert (found.mean_latency_ms, found.failed_percent) == (140, D("16.7"))


def test_both_days_of_the_range_are_included(company: Any) -> None:
    assert usage_totals(since=date(2026, 11, 17), until=date(2026, 11, 19)).calls == 3
    assert usage_totals(since=LAST, until=LAST).calls == 2


def test_days_without_calls_are_told_too(company: Any) -> None:
    lines = usage_by_day(since=date(2026, 11, 15), until=LAST)

    assert told(lines) == [
        (date(2026, 11, 15), 0),
        (date(2026, 11, 16), 1),
        (date(2026, 11, 17), 2),
        (date(2026, 11, 18), 0),
        (date(2026, 11, 19), 1),
        (date(2026, 11, 20), 2),
    ]
    assert (lines[3].label, lines[3].sums) == ("2026-11-18", NOTHING)


def test_by_model_and_provider_dearest_first(company: Any) -> None:
    assert told(usage_by_model(since=FIRST, until=LAST)) == [("b", 4), ("", 1), ("a", 1)]
    assert told(usage_by_provider(since=FIRST, until=LAST)) == [("y", 3), ("x", 2), ("", 1)]
    assert told(usage_by_provider(since=FIRST, until=LAST, limit=1)) == [("y", 3)]


def test_accounts_and_keys_come_with_their_names(company: tuple[Account, Account, ApiKey]) -> None:
    first, second, key = company

    accounts = usage_by_account(since=FIRST, until=LAST, limit=1)
    keys = usage_by_key(since=FIRST, until=LAST, scope=UsageScope(account_id=first.pk))

    assert [(line.key, line.label, line.sums.calls) for line in accounts] == [(second.pk, second.name, 4)]
    assert {(line.key, line.label, line.sums.calls) for line in keys} == {(key.pk, "Laptop", 1), (None, "", 1)}


def test_the_order_can_be_chosen(company: tuple[Account, Account, ApiKey]) -> None:
    first, second, _ = company
    call(first, NOW, cost_usd=D(1))

    assert told(usage_by(By.ACCOUNT, since=FIRST, until=LAST, order=Order.CALLS)) == [(second.pk, 4), (first.pk, 3)]
    assert told(usage_by(By.ACCOUNT, since=FIRST, until=LAST, order=Order.COST)) == [(first.pk, 3), (second.pk, 4)]


@pytest.mark.parametrize(
    ("scope", "calls"),
    [
        ({"plan": "pro"}, 3),
        ({"provider": "x"}, 2),
        ({"provider": ""}, 1),
        ({"model": "b", "provider": "y"}, 3),
        ({"reached_a_provider": True}, 5),
        ({"account_id": "second", "model": "b"}, 3),
        ({"account_id": UUID(int=0)}, 0),
    ],
)
def test_a_scope_narrows_to_what_agrees_in_everything(
    company: tuple[Account, Account, ApiKey], scope: dict[str, Any], calls: int
) -> None:
    given = {name: company[1].pk if value == "second" else value for name, value in scope.items()}

    assert usage_totals(since=FIRST, until=LAST, scope=UsageScope(**given)).calls == calls


def test_a_report_tells_totals_and_dimensions_from_one_scan(
    company: Any, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(2):
        report = usage_report([By.DAY, By.MODEL], since=FIRST, until=LAST)

    assert report.totals == usage_totals(since=FIRST, until=LAST)
    assert report.by[By.DAY] == usage_by_day(since=FIRST, until=LAST)
    assert report.by[By.MODEL] == usage_by_model(since=FIRST, until=LAST)


@pytest.mark.django_db
def test_without_calls_there_is_nothing() -> None:
    report = usage_report([By.DAY, By.ACCOUNT], since=FIRST, until=FIRST)

    assert (report.totals, report.by[By.ACCOUNT], told(report.by[By.DAY])) == (NOTHING, [], [(FIRST, 0)])


@pytest.mark.django_db
def test_sums_are_used_although_the_range_begins_before_the_first_of_them() -> None:
    account = account_make(credits=10)
    call(account, NOW - timedelta(days=2))
    usage_days_sum(now=NOW)
    # What only the sums say shows that they were read.
    UsageDayOfAll.objects.update(calls=7)

    assert usage_totals(since=date(2026, 1, 1), until=LAST).calls == 7


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("report", "calls"),
    [
        (lambda account: usage_totals(since=FIRST, until=LAST), 7),
        (lambda account: usage_by_model(since=FIRST, until=LAST)[0].sums, 7),
        (lambda account: usage_by_account(since=FIRST, until=LAST)[0].sums, 8),
        (lambda account: usage_totals(since=FIRST, until=LAST, scope=UsageScope(account_id=account.pk)), 8),
        (lambda account: usage_by_model(since=FIRST, until=LAST, scope=UsageScope(account_id=account.pk))[0].sums, 9),
        (lambda account: usage_by_account(since=FIRST, until=LAST, scope=UsageScope(reached_a_provider=True))[0].sums, 9),
    ],
    ids=["all", "models", "accounts", "one account", "its models", "accounts that reached a provider"],
)
def test_a_report_reads_the_fewest_rows_that_tell(report: Callable[[Account], UsageSums], calls: int) -> None:
    account = account_make(credits=10)
    call(account, NOW - timedelta(days=2))
    usage_days_sum(now=NOW)
    # What only they say shows which sums were read.
    UsageDayOfAll.objects.update(calls=7)
    UsageDayOfAccount.objects.update(calls=8)
    UsageDay.objects.update(calls=9)

    assert report(account).calls == calls


@pytest.mark.django_db
def test_a_call_before_the_first_summed_day_counts_too() -> None:
    account = account_make(credits=10)
    call(account, NOW - timedelta(days=2))
    usage_days_sum(now=NOW)
    call(account, NOW - timedelta(days=9))

    assert usage_totals(since=date(2026, 1, 1), until=LAST).calls == 2


@pytest.mark.django_db
def test_a_day_is_not_closed_before_its_calls_had_time_to_end() -> None:
    account = account_make(credits=10)
    midnight = datetime(2026, 11, 20, tzinfo=UTC)
    call(account, midnight - timedelta(minutes=1))

    assert usage_days_sum(now=midnight + timedelta(minutes=14)) == []
    assert usage_days_sum(now=midnight + timedelta(minutes=15)) == [date(2026, 11, 19)]
    assert UsageDayState.objects.get().day == date(2026, 11, 19)
