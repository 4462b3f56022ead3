"""Daily sums of the usage log, so that reports over weeks read thousands of rows and not millions.

A day is summed up anew while its calls may still change: a late settle replaces the row of a call whose process died. Closed
days come from `UsageDay` and from what is summed up of it further, and so do the closed hours of a running day with many calls;
the log itself gives the rest, so that figures are never behind. `usage_reports` asks for what reports need.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection, transaction

from .models import UsageDayState

# A call may run for its timeout, and its settle may be late by as long as a process stays away.
DAYS_THAT_CHANGE = 3
# A day is read from the log until calls that began before its end have had the time to end too.
CLOSING_MARGIN = timedelta(minutes=15)
# From so many calls on the running day is summed up as far as it is closed: below, the log is as fast.
RUNNING_DAY_FROM = 5000
# How many days one run catches up at most: the next one goes on.
MOST_DAYS_AT_ONCE = 40

DIMENSIONS = ("day", "account_id", "api_key_id", "subscription_id", "plan", "endpoint", "provider", "model")
DIMENSIONS_OF_ALL = ("day", "plan", "endpoint", "provider", "model")
DIMENSIONS_OF_ACCOUNTS = ("day", "account_id")
SUMS: Mapping[str, str] = {
    "calls": "count(*)",
    "calls_complete": """count(*) FILTER (WHERE "end" = 'complete')""",
    "calls_failed": """count(*) FILTER (WHERE "end" IN ('provider_error', 'process_died'))""",
    "calls_fallback": "count(*) FILTER (WHERE fallback)",
    "input_tokens": "coalesce(sum(input_tokens), 0)",
    "cache_read_tokens": "coalesce(sum(cache_read_tokens), 0)",
    "output_tokens": "coalesce(sum(output_tokens), 0)",
    "list_cost_usd": "coalesce(sum(list_cost_usd), 0)",
    "cost_usd": "coalesce(sum(cost_usd), 0)",
    "credits_charged": "coalesce(sum(credits_charged), 0)",
    "quota_units": "coalesce(sum(quota_units), 0)",
    "latency_ms": "coalesce(sum(latency_ms), 0)",
    "latency_calls": "count(latency_ms)",
}

_WRITE = f"""
    INSERT INTO billing_usageday ({", ".join((*DIMENSIONS, *SUMS))})
    SELECT %(day)s, {", ".join(DIMENSIONS[1:])}, {", ".join(SUMS.values())}
    FROM billing_usagerecord WHERE started_at >= %(begin)s AND started_at < %(end)s
    GROUP BY {", ".join(DIMENSIONS[1:])}
"""  # noqa: S608  constant text
# Which sums a report reads: the fewest rows that tell its dimensions apart.
TABLES: Mapping[str, Sequence[str]] = {
    "billing_usagedayofall": DIMENSIONS_OF_ALL,
    "billing_usagedayofaccount": DIMENSIONS_OF_ACCOUNTS,
    "billing_usageday": DIMENSIONS,
}
_WRITE_FURTHER = [
    f"""
    INSERT INTO {table} ({", ".join((*dimensions, *SUMS))})
    SELECT {", ".join(dimensions)}, {", ".join(f"sum({name})" for name in SUMS)}
    FROM billing_usageday WHERE day = %(day)s GROUP BY {", ".join(dimensions)}
    """  # noqa: S608  constant text
    for table, dimensions in TABLES.items()
    if dimensions is not DIMENSIONS
]
_NOTE = """
    INSERT INTO billing_usagedaystate (day, calls, summed_at, summed_until)
    SELECT %(day)s, coalesce(sum(calls), 0), %(now)s, %(until)s FROM billing_usageday WHERE day = %(day)s
    ON CONFLICT (day) DO UPDATE
    SET calls = excluded.calls, summed_at = excluded.summed_at, summed_until = excluded.summed_until
"""


# From when on the log is read. It is looked up by the statement that reads the sums, so that both are of one instant.
LOG_BEGIN = """coalesce((SELECT coalesce(summed_until, (day + 1)::timestamp AT TIME ZONE 'UTC') FROM billing_usagedaystate
                         WHERE day = %(closed)s), %(log_begin)s)"""


def _usage_days(table: str, dimensions: Sequence[str]) -> str:
    """The calls of a range of days: closed days summed up, the rest from the log, by `dimensions`, the first of them `day`."""
    names = ", ".join(dimensions[1:])
    log = f"""
        SELECT (started_at AT TIME ZONE 'UTC')::date AS day, {names}, {", ".join(SUMS.values())} FROM billing_usagerecord
        WHERE started_at >= {{0}} AND started_at < %({{1}}_end)s
        GROUP BY (started_at AT TIME ZONE 'UTC')::date, {names}
    """  # noqa: S608  constant text
    return f"""
        SELECT day, {names}, {", ".join(SUMS)} FROM {table}
        WHERE day >= %(since)s AND day <= %(until)s AND day <= %(closed)s
        UNION ALL {log.format("%(early_begin)s", "early")} UNION ALL {log.format(LOG_BEGIN, "log")}
    """  # noqa: S608  constant text


# In the columns of `UsageDayOfAccount`, and of `UsageDayOfAll`; both take `usage_parameters`.
USAGE_DAYS_OF_ACCOUNTS = _usage_days("billing_usagedayofaccount", DIMENSIONS_OF_ACCOUNTS)
USAGE_DAYS_OF_ALL = _usage_days("billing_usagedayofall", DIMENSIONS_OF_ALL)


def day_begin(day: date) -> datetime:
    """Midnight UTC."""
    return datetime.combine(day, time.min, UTC)


def usage_days_sum(*, now: datetime) -> list[date]:
    """Sum up every day that is not yet, and those whose calls may still change; returns which. Safe at once and twice.

    A day's sums are replaced in one transaction under a lock of their own; the running day is left to the log.
    """
    today = (now - CLOSING_MARGIN).astimezone(UTC).date()
    done = set(UsageDayState.objects.filter(summed_until__isnull=True).values_list("day", flat=True))
    wanted = [day for day in _days_with_calls(today) if day not in done or (today - day).days <= DAYS_THAT_CHANGE]
    for day in wanted[:MOST_DAYS_AT_ONCE]:
        usage_day_sum(day, now=now)
    if len(wanted) <= MOST_DAYS_AT_ONCE and _many_calls(today, until=now - CLOSING_MARGIN):
        usage_day_sum(today, now=now, until=now - CLOSING_MARGIN)
    return wanted[:MOST_DAYS_AT_ONCE]


def _many_calls(day: date, *, until: datetime) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM (SELECT 1 FROM billing_usagerecord WHERE started_at >= %s AND started_at < %s LIMIT %s) c",
            [day_begin(day), until, RUNNING_DAY_FROM],
        )
        return bool(cursor.fetchone()[0] >= RUNNING_DAY_FROM)


def usage_day_sum(day: date, *, now: datetime, until: datetime | None = None) -> None:
    """Replace the sums of a UTC day by what the log says: of a closed one, or of a running one up to `until`."""
    parameters = {
        "day": day,
        "begin": day_begin(day),
        "end": until or day_begin(day + timedelta(days=1)),
        "now": now,
        "until": until,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('usage_days_sum'))")
        for table in TABLES:
            cursor.execute(f"DELETE FROM {table} WHERE day = %(day)s", parameters)  # noqa: S608  constant text
        for statement in (_WRITE, *_WRITE_FURTHER):
            cursor.execute(statement, parameters)
        cursor.execute(_NOTE, parameters)


def _days_with_calls(today: date) -> Sequence[date]:
    """Closed days from the first call on, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(started_at) FROM billing_usagerecord")
        first = cursor.fetchone()[0]
    if first is None:
        return []
    begin = first.astimezone(UTC).date()
    return [begin + timedelta(days=number) for number in range((today - begin).days)]


def usage_parameters(*, since: date, until: date) -> dict[str, date | datetime]:
    """What `USAGE_DAYS_OF_ALL` and its like need for the UTC days `since` to `until`, both included.

    The sums are used from the first summed day of the range on, up to the first gap; the log gives the days before and after.
    """
    whole = UsageDayState.objects.filter(day__gte=since, day__lte=until, summed_until__isnull=True)
    states = set(whole.values_list("day", flat=True))
    first = closed = min(states, default=since)
    while closed in states:
        closed += timedelta(days=1)
    return {
        "since": since,
        "until": until,
        "closed": closed,
        "early_begin": day_begin(since),
        "early_end": day_begin(first),
        "log_begin": day_begin(closed),
        "log_end": day_begin(max(until + timedelta(days=1), closed)),
    }
