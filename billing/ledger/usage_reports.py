"""What the usage log sums up to over a range of UTC days: in all, by day, account, key, plan, endpoint, provider or model.

For the console, the customers' pages and the APIs. Closed days come from their sums, the days since then from the log, so that
figures are exact up to the last settled call and cost the same however large the log is. Archived months keep their sums.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import connection

from billing.accounts.models import Account, ApiKey

from .rollups import LOG_BEGIN, SUMS, TABLES, usage_parameters


class By(StrEnum):
    """What figures can be grouped by: columns of the sums."""

    DAY = "day"
    ACCOUNT = "account_id"
    KEY = "api_key_id"
    SUBSCRIPTION = "subscription_id"
    PLAN = "plan"
    ENDPOINT = "endpoint"
    PROVIDER = "provider"
    MODEL = "model"


class Order(StrEnum):
    """What the first lines have most of."""

    COST = "cost_usd"
    CREDITS = "credits_charged"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class UsageScope:
    """Which calls count: those that agree with everything given here; the empty text is a value, None is not asked."""

    account_id: UUID | None = None
    api_key_id: UUID | None = None
    subscription_id: UUID | None = None
    plan: str | None = None
    endpoint: str | None = None
    provider: str | None = None
    model: str | None = None
    # Leaves out what never reached a provider: services, refusals.
    reached_a_provider: bool = False

    def conditions(self) -> dict[str, Any]:
        """Columns and the values they must have."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "reached_a_provider"}
        return {name: value for name, value in given.items() if value is not None}


ALL = UsageScope()


@dataclass(frozen=True, slots=True)
class UsageSums:
    """Sums over some calls. Costs in USD; latencies in milliseconds, over those calls that have one."""

    calls: int = 0
    calls_complete: int = 0
    calls_failed: int = 0
    calls_fallback: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    list_cost_usd: Decimal = Decimal(0)
    cost_usd: Decimal = Decimal(0)
    credits_charged: Decimal = Decimal(0)
    quota_units: int = 0
    latency_ms: int = 0
    latency_calls: int = 0

    @property
    def mean_latency_ms(self) -> int | None:
        """Whole milliseconds, None without a call that has a latency."""
        if not self.latency_calls:
            return None
        return int((Decimal(self.latency_ms) / self.latency_calls).quantize(Decimal(1), ROUND_HALF_UP))

    @property
    def failed_percent(self) -> Decimal | None:
        """Share of calls whose provider failed or whose process died, to a tenth of a percent; None without calls."""
        if not self.calls:
            return None
        return (Decimal(self.calls_failed * 100) / self.calls).quantize(Decimal("0.1"), ROUND_HALF_UP)


NOTHING = UsageSums()
_UNITED = ", ".join(
    f"sum({name})::bigint" if name.startswith(("calls", "latency", "quota")) or "tokens" in name else f"sum({name})"
    for name in SUMS
)


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The sums of one value of a dimension. `label` is for reading: an account's or key's name, else the value itself."""

    key: Any
    label: str
    sums: UsageSums


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Totals of the UTC days `since` to `until`, both included, and what each dimension asked for adds to them.

    Days are in order and complete, empty ones included; everything else dearest first.
    """

    since: date
    until: date
    totals: UsageSums
    by: Mapping[By, list[UsageLine]]


def usage_totals(*, since: date, until: date, scope: UsageScope = ALL) -> UsageSums:
    """Sums over the UTC days `since` to `until`, both included; two queries."""
    rows = _read((), since=since, until=until, scope=scope)
    return rows[0][1] if rows else NOTHING


def usage_by(
    dimension: By,
    *,
    since: date,
    until: date,
    scope: UsageScope = ALL,
    order: Order = Order.COST,
    limit: int | None = None,
) -> list[UsageLine]:
    """The sums by one dimension, largest by `order` first, at most `limit` lines; accounts and keys with their names.

    Two queries, one more for names. Days come in order, empty ones included, and heed no limit.
    """
    if dimension is By.DAY:
        return usage_by_day(since=since, until=until, scope=scope)
    rows = _read((dimension,), since=since, until=until, scope=scope, order=order, limit=limit)
    return _named(dimension, [(keys[0], sums) for keys, sums in rows])


def usage_by_day(*, since: date, until: date, scope: UsageScope = ALL) -> list[UsageLine]:
    """One line per UTC day from `since` to `until`, both included, those without calls too: what a chart needs."""
    found = {keys[0]: sums for keys, sums in _read((By.DAY,), since=since, until=until, scope=scope)}
    return _days(found, since, until)


def usage_by_model(*, since: date, until: date, scope: UsageScope = ALL, limit: int | None = None) -> list[UsageLine]:
    """By public model name, dearest first."""
    return usage_by(By.MODEL, since=since, until=until, scope=scope, limit=limit)


def usage_by_provider(*, since: date, until: date, scope: UsageScope = ALL, limit: int | None = None) -> list[UsageLine]:
    """By provider's slug, dearest first; the empty slug are calls that reached none."""
    return usage_by(By.PROVIDER, since=since, until=until, scope=scope, limit=limit)


def usage_by_account(
    *, since: date, until: date, scope: UsageScope = ALL, order: Order = Order.COST, limit: int | None = 10
) -> list[UsageLine]:
    """The accounts with most cost, credits or calls, by name."""
    return usage_by(By.ACCOUNT, since=since, until=until, scope=scope, order=order, limit=limit)


def usage_by_key(
    *, since: date, until: date, scope: UsageScope = ALL, order: Order = Order.CREDITS, limit: int | None = None
) -> list[UsageLine]:
    """By API key, by name; the key None are calls with a session's token."""
    return usage_by(By.KEY, since=since, until=until, scope=scope, order=order, limit=limit)


def usage_report(
    dimensions: Iterable[By], *, since: date, until: date, scope: UsageScope = ALL, order: Order = Order.COST
) -> UsageReport:
    """Totals and several dimensions of one range at once, from one scan: cheaper than one `usage_by` for each."""
    asked = tuple(dict.fromkeys(dimensions))
    totals = NOTHING
    found: dict[By, list[tuple[Any, UsageSums]]] = {dimension: [] for dimension in asked}
    for keys, sums in _read(asked, since=since, until=until, scope=scope, order=order, apart=True):
        position = next((number for number, key in enumerate(keys) if key is not _ROLLED_UP), None)
        if position is None:
            totals = sums
        else:
            found[asked[position]].append((keys[position], sums))
    by = {
        dimension: _days(dict(rows), since, until) if dimension is By.DAY else _named(dimension, rows)
        for dimension, rows in found.items()
    }
    return UsageReport(since, until, totals, by)


_ROLLED_UP = object()


def _read(
    dimensions: tuple[By, ...],
    *,
    since: date,
    until: date,
    scope: UsageScope,
    order: Order = Order.COST,
    limit: int | None = None,
    apart: bool = False,
) -> list[tuple[tuple[Any, ...], UsageSums]]:
    """Rows of (values of `dimensions`, sums), grouped by all of them together, or `apart`: by each alone and in all.

    What is not asked for is summed up inside each source already, so that few rows meet.
    """
    conditions = scope.conditions()
    asked = {*dimensions, *conditions, *(["provider"] if scope.reached_a_provider else [])}
    table = next(table for table, told_apart in TABLES.items() if asked <= set(told_apart))
    where = "".join(f" AND {name} = %({name})s" for name in conditions)
    if scope.reached_a_provider:
        where += " AND provider <> ''"
    names = [dimension.value for dimension in dimensions]
    logged = ["(started_at AT TIME ZONE 'UTC')::date" if name == By.DAY else name for name in names]
    log = " UNION ALL ".join(
        f"""SELECT {", ".join([f"{sql} AS {name}" for sql, name in zip(logged, names, strict=True)] + _named_sums(SUMS))}
            FROM billing_usagerecord WHERE started_at >= {begin} AND started_at < %({part}_end)s{where}
            {_group(logged)}"""  # noqa: S608  column names
        for part, begin in (("early", "%(early_begin)s"), ("log", LOG_BEGIN))
    )
    keys = ", ".join(names)
    grouping = f"grouping({keys})" if apart and names else "0"
    groups = f"GROUP BY GROUPING SETS ({', '.join([f'({name})' for name in names] + ['()'])})" if apart else _group(names)
    sql = f"""
        SELECT {", ".join([grouping, *names])}, {_UNITED} FROM (
            SELECT {", ".join(names + _named_sums({name: f"sum({name})" for name in SUMS}))}
            FROM {table}
            WHERE day >= %(since)s AND day <= %(until)s AND day <= %(closed)s{where} {_group(names)}
            UNION ALL {log}
        ) AS parts {groups} HAVING sum(calls) > 0
        ORDER BY sum({order.value}) DESC, sum(calls) DESC{", " + keys if names else ""} LIMIT %(limit)s
    """  # noqa: S608  column names
    parameters = {**usage_parameters(since=since, until=until), **conditions, "limit": limit}
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows = cursor.fetchall()
    count = len(names)
    read = []
    for mask, *values in rows:
        told = tuple(_ROLLED_UP if mask & 1 << (count - 1 - number) else value for number, value in enumerate(values[:count]))
        read.append((told, UsageSums(*values[count:])))
    return read


def _named_sums(sums: Mapping[str, str]) -> list[str]:
    return [f"{sql} AS {name}" for name, sql in sums.items()]


def _group(names: list[str]) -> str:
    return f"GROUP BY {', '.join(names)}" if names else ""


def _days(found: Mapping[date, UsageSums], since: date, until: date) -> list[UsageLine]:
    days = (since + timedelta(days=number) for number in range((until - since).days + 1))
    return [UsageLine(day, day.isoformat(), found.get(day, NOTHING)) for day in days]


def _named(dimension: By, rows: list[tuple[Any, UsageSums]]) -> list[UsageLine]:
    names: dict[Any, str] = {}
    keys = [key for key, _ in rows if key is not None]
    if dimension is By.ACCOUNT and keys:
        names = dict(Account.objects.filter(pk__in=keys).values_list("pk", "name"))
    elif dimension is By.KEY and keys:
        names = dict(ApiKey.objects.filter(pk__in=keys).values_list("pk", "name"))
    return [UsageLine(key, names.get(key, "" if key is None else str(key)), sums) for key, sums in rows]
