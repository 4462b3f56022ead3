"""Where periods end."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.plans.models import Plan
from billing.subscriptions.periods import period_end

ALGIERS = ZoneInfo("Africa/Algiers")
PARIS = ZoneInfo("Europe/Paris")


def monthly(count: int = 1) -> Plan:
    return Plan(code="m", interval=Plan.Interval.MONTH, interval_count=count)


def daily(count: int = 1) -> Plan:
    return Plan(code="d", interval=Plan.Interval.DAY, interval_count=count)


def at(text: str, zone: ZoneInfo = ALGIERS) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def test_plan_without_periods_has_no_end() -> None:
    plan = Plan(code="free", interval=Plan.Interval.NONE)

    assert period_end(plan=plan, start=at("2026-01-31T10:00"), anchor=at("2026-01-31T10:00"), zone=ALGIERS) is None


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-01-31T23:30", "2026-02-28T23:30"),
        ("2026-02-28T23:30", "2026-03-31T23:30"),
        ("2026-03-31T23:30", "2026-04-30T23:30"),
        ("2026-04-30T23:30", "2026-05-31T23:30"),
        ("2026-12-31T23:30", "2027-01-31T23:30"),
        ("2028-01-31T23:30", "2028-02-29T23:30"),
    ],
)
def test_month_end_anchor_keeps_its_day(start: str, end: str) -> None:
    result = period_end(plan=monthly(), start=at(start), anchor=at("2026-01-31T23:30"), zone=ALGIERS)

    assert result == at(end)
    assert result.tzinfo is UTC


def test_day_is_the_accounts_day_not_utcs() -> None:
    start = datetime(2026, 1, 30, 23, 30, tzinfo=UTC)  # half past midnight on the 31st in Algiers

    result = period_end(plan=monthly(), start=start, anchor=start, zone=ALGIERS)

    assert result == datetime(2026, 2, 27, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(("count", "end"), [(3, "2026-02-28T10:00"), (12, "2026-11-30T10:00"), (27, "2028-02-29T10:00")])
def test_several_months(count: int, end: str) -> None:
    start = at("2025-11-30T10:00")

    assert period_end(plan=monthly(count), start=start, anchor=start, zone=ALGIERS) == at(end)


@pytest.mark.parametrize(("count", "end"), [(1, "2026-03-01T10:00"), (15, "2026-03-15T10:00")])
def test_days(count: int, end: str) -> None:
    start = at("2026-02-28T10:00")

    assert period_end(plan=daily(count), start=start, anchor=start, zone=ALGIERS) == at(end)


def test_day_with_a_clock_change_is_23_or_25_hours() -> None:
    spring, autumn = at("2026-03-28T12:00", PARIS), at("2026-10-24T12:00", PARIS)

    spring_end = period_end(plan=daily(), start=spring, anchor=spring, zone=PARIS)
    autumn_end = period_end(plan=daily(), start=autumn, anchor=autumn, zone=PARIS)

    assert (spring_end - spring).total_seconds() == 23 * 3600
    assert (autumn_end - autumn).total_seconds() == 25 * 3600


def test_time_of_day_that_a_clock_change_skips_comes_back() -> None:
    anchor = at("2026-02-28T02:30", PARIS)

    skipped = period_end(plan=daily(29), start=anchor, anchor=anchor, zone=PARIS)
    next_end = period_end(plan=daily(29), start=skipped, anchor=anchor, zone=PARIS)

    assert skipped == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert next_end == at("2026-04-27T02:30", PARIS)


@given(
    start=st.integers(1_577_836_800, 2_208_988_800).map(lambda value: datetime.fromtimestamp(value, UTC)),
    count=st.integers(1, 24),
    interval=st.sampled_from([Plan.Interval.DAY, Plan.Interval.MONTH]),
    zones=st.lists(
        st.sampled_from(["Africa/Algiers", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/New_York"]),
        min_size=4,
        max_size=4,
    ),
)
def test_period_always_moves_on_whatever_zone_the_account_takes(
    start: datetime, count: int, interval: str, zones: list[str]
) -> None:
    plan = Plan(code="x", interval=interval, interval_count=count)

    first = period_end(plan=plan, start=start, anchor=start, zone=ZoneInfo(zones[0]))
    second = period_end(plan=plan, start=first, anchor=start, zone=ZoneInfo(zones[1]))
    third = period_end(plan=plan, start=second, anchor=start, zone=ZoneInfo(zones[2]))
    fourth = period_end(plan=plan, start=third, anchor=start, zone=ZoneInfo(zones[3]))

    assert start < first < second < third < fourth
