"""Daily sums of the usage log: the same figures as the log itself, however late a call is settled."""

import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from billing.ledger import rollups
from billing.ledger.items import CallItem, UsageItem
from billing.ledger.models import UsageDay, UsageDayOfAccount, UsageDayOfAll, UsageDayState, UsageRecord
from billing.ledger.rollups import SUMS, USAGE_DAYS_OF_ACCOUNTS, usage_days_sum, usage_parameters
from billing.ledger.services import call_settle
from billing.ledger.usage_reports import usage_totals
from iafactory.common.ids import uuid7
from tests.factories import account_make

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
D = Decimal


def call(account: Any, at: datetime, settled_at: datetime | None = None, **fields: Any) -> None:
    """A settled call of 1 credit that cost us 0.001 USD."""
    values = {"model": "m", "provider": "p", "plan": "payg", "end": "complete", "latency_ms": 100, "input_tokens": 7}
    values |= {"cost_usd": D("0.001"), **fields}
    usage = UsageItem(
        id=uuid7(),
        started_at=at,
        finished_at=at,
        account_id=account.pk,
        endpoint="/v1/chat/completions",
        list_cost_usd=D("0.002"),
        credits_charged=D(1),
        **values,
    )
    call_settle(CallItem(usage=usage, held=D(0), charge=D(1), loss_usd=D(0)), now=settled_at or at)


def sums(since: date, until: date) -> dict[str, Any]:
    """All columns of `USAGE_DAYS_OF_ACCOUNTS` over a range of days."""
    columns = ", ".join(f"sum({name})" for name in SUMS)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM ({USAGE_DAYS_OF_ACCOUNTS}) AS days", usage_parameters(since=since, until=until))
        return dict(zip(SUMS, cursor.fetchone(), strict=True))


@pytest.mark.django_db
def test_closed_days_are_summed_by_everything_they_are_asked_for() -> None:
    account = account_make(credits=100)
    yesterday = NOW - timedelta(days=1)
    call(account, yesterday)
    call(account, yesterday, end="upstream_dropped", fallback=True)
    call(account, yesterday, end="provider_error", latency_ms=None)
    call(account, yesterday, model="other")
    call(account, NOW)

    summed = usage_days_sum(now=NOW)

    assert summed == [date(2026, 11, 19)]
    row = UsageDay.objects.get(model="m")
    assert (row.day, row.account_id, row.provider, row.plan) == (date(2026, 11, 19), account.pk, "p", "payg")
    assert (row.calls, row.calls_complete, row.calls_failed, row.calls_fallback) == (3, 1, 1, 1)
    assert (row.latency_ms, row.latency_calls, row.input_tokens) == (200, 2, 21)
    assert (row.cost_usd, row.list_cost_usd, row.credits_charged) == (D("0.003"), D("0.006"), D(3))
    assert UsageDay.objects.get(model="other").calls == 1
    assert UsageDayOfAll.objects.get(model="m").calls == 3
    of_account = UsageDayOfAccount.objects.get()
    assert (of_account.day, of_account.account_id, of_account.calls) == (date(2026, 11, 19), account.pk, 4)
    assert (of_account.latency_ms, of_account.latency_calls, of_account.cost_usd) == (300, 3, D("0.004"))
    assert UsageDayState.objects.get().calls == 4


@pytest.mark.django_db
def test_the_day_is_utc_and_half_open() -> None:
    account = account_make(credits=100)
    midnight = datetime(2026, 11, 19, tzinfo=UTC)
    call(account, midnight)
    call(account, midnight + timedelta(days=1) - timedelta(microseconds=1))
    call(account, midnight - timedelta(microseconds=1))

    usage_days_sum(now=NOW)

    assert dict(UsageDay.objects.values_list("day", "calls")) == {date(2026, 11, 18): 1, date(2026, 11, 19): 2}


@pytest.mark.django_db
def test_a_late_settle_is_in_the_sums_of_the_next_run() -> None:
    account = account_make(credits=100)
    call(account, NOW - timedelta(days=2))
    usage_days_sum(now=NOW)
    call(account, NOW - timedelta(days=2))

    usage_days_sum(now=NOW)

    assert UsageDay.objects.get().calls == 2


@pytest.mark.django_db
def test_days_that_cannot_change_any_more_are_left_alone() -> None:
    account = account_make(credits=100)
    for days in range(1, 8):
        call(account, NOW - timedelta(days=days))
    first = usage_days_sum(now=NOW)

    second = usage_days_sum(now=NOW)

    assert first == [date(2026, 11, day) for day in range(13, 20)]
    assert second == [date(2026, 11, 17), date(2026, 11, 18), date(2026, 11, 19)]


@pytest.mark.django_db
@pytest.mark.parametrize("summed_before", [None, NOW - timedelta(days=3), NOW])
def test_reports_are_the_same_whether_days_are_summed_or_not(summed_before: datetime | None) -> None:
    account = account_make(credits=1000)
    for hours in range(0, 24 * 6, 7):
        call(account, NOW - timedelta(hours=hours), provider=f"p{hours % 3}")
    if summed_before is not None:
        usage_days_sum(now=summed_before)

    found = sums(date(2026, 11, 15), date(2026, 11, 20))

    rows = UsageRecord.objects.filter(started_at__gte=datetime(2026, 11, 15, tzinfo=UTC))
    assert found["calls"] == rows.count() > 15
    assert found["cost_usd"] == D("0.001") * rows.count()
    assert found["input_tokens"] == 7 * rows.count()


@pytest.mark.django_db
def test_a_gap_in_the_sums_sends_the_report_to_the_log() -> None:
    account = account_make(credits=100)
    for days in range(1, 5):
        call(account, NOW - timedelta(days=days))
    usage_days_sum(now=NOW)
    UsageDayState.objects.filter(day=date(2026, 11, 17)).delete()
    UsageDayOfAccount.objects.filter(day=date(2026, 11, 17)).delete()

    assert sums(date(2026, 11, 16), date(2026, 11, 20))["calls"] == 4


@pytest.mark.django_db
def test_without_calls_there_is_nothing_to_sum() -> None:
    assert usage_days_sum(now=NOW) == []
    assert sums(date(2026, 11, 1), date(2026, 11, 20))["calls"] is None


@pytest.mark.django_db(transaction=True)
def test_several_at_once_sum_once() -> None:
    account = account_make(credits=100)
    for _ in range(20):
        call(account, NOW - timedelta(days=1))

    def run() -> None:
        try:
            usage_days_sum(now=NOW)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(UsageDay.objects.values_list("calls", flat=True)) == [20]


@pytest.mark.django_db
def test_a_running_day_with_many_calls_is_summed_up_as_far_as_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "RUNNING_DAY_FROM", 3)
    account = account_make(credits=100)
    for minutes in (600, 300, 16, 15, 1):
        call(account, NOW - timedelta(minutes=minutes))
    today = NOW.date()

    assert usage_days_sum(now=NOW) == []

    assert UsageDay.objects.get().calls == 3
    assert UsageDayState.objects.get().summed_until == NOW - timedelta(minutes=15)
    assert sums(today, today)["calls"] == usage_totals(since=today, until=today).calls == 5
    # What the sums say beyond the log shows that they were read.
    UsageDayOfAccount.objects.update(calls=10)
    UsageDayOfAll.objects.update(calls=20)
    assert (sums(today, today)["calls"], usage_totals(since=today, until=today).calls) == (12, 22)
    assert usage_totals(since=today - timedelta(days=1), until=today - timedelta(days=1)).calls == 0


@pytest.mark.django_db
def test_a_day_that_was_summed_up_in_part_becomes_whole_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "RUNNING_DAY_FROM", 1)
    account = account_make(credits=100)
    call(account, NOW - timedelta(minutes=30))
    usage_days_sum(now=NOW)
    call(account, NOW)
    assert sums(NOW.date(), NOW.date() + timedelta(days=9))["calls"] == 2

    later = usage_days_sum(now=NOW + timedelta(days=10))

    assert NOW.date() in later
    state = UsageDayState.objects.get(day=NOW.date())
    assert (state.calls, state.summed_until) == (2, None)
    assert sums(NOW.date(), NOW.date() + timedelta(days=9))["calls"] == 2


@pytest.mark.django_db
def test_a_quiet_running_day_is_left_to_the_log() -> None:
    call(account_make(credits=5), NOW - timedelta(hours=2))

    usage_days_sum(now=NOW)

    assert not UsageDayState.objects.exists()
