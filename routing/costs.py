"""What calls have cost us, broken down: by provider, model, plan and UTC day, from the days' sums."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from decimal import Decimal
from typing import Any

from django.db import connection

from billing.ledger.rollups import USAGE_DAYS_OF_ALL, usage_parameters

DIMENSIONS = ("provider", "model", "plan", "day")
FILTERS = ("provider", "model", "plan")
# A year, leap or not: beyond it an answer would read too much of the log at once.
MOST_DAYS = 366

_SUMS = """
    coalesce(sum(calls), 0)::bigint, coalesce(sum(calls_complete), 0)::bigint, coalesce(sum(input_tokens), 0)::bigint,
    coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(list_cost_usd), 0), coalesce(sum(cost_usd), 0),
    coalesce(sum(credits_charged), 0)
"""
_QUERY = """
    SELECT grouping({keys}), {keys}, {sums} FROM ({days}) AS days
    WHERE provider <> ''{narrowed} GROUP BY GROUPING SETS ({groups})
"""


@dataclass(frozen=True, slots=True)
class CostLine:
    """Sums over some calls that reached a provider; amounts in USD and credits."""

    calls: int = 0
    calls_complete: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    list_cost_usd: Decimal = Decimal(0)
    cost_usd: Decimal = Decimal(0)
    credits_charged: Decimal = Decimal(0)


COLUMNS = tuple(f.name for f in fields(CostLine))


@dataclass(frozen=True, slots=True)
class CostBreakdown:
    """Costs of the UTC days `since` to `until`, both included: in all, and per value of each dimension asked for.

    Days come in their order, everything else dearest first.
    """

    since: date
    until: date
    totals: CostLine
    by: Mapping[str, list[tuple[str, CostLine]]] = field(default_factory=dict)


def cost_breakdown(
    *, since: date, until: date, dimensions: tuple[str, ...] = DIMENSIONS, filters: Mapping[str, str] | None = None
) -> CostBreakdown:
    """Break down the costs of a range of UTC days by some of `DIMENSIONS`; `filters` compares exactly."""
    narrowed = {name: value for name, value in (filters or {}).items() if name in FILTERS}
    sql = _QUERY.format(
        days=USAGE_DAYS_OF_ALL,
        narrowed="".join(f" AND {name} = %({name})s" for name in narrowed),
        keys=", ".join(dimensions),
        sums=_SUMS,
        groups=", ".join([*(f"({name})" for name in dimensions), "()"]),
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, {**usage_parameters(since=since, until=until), **narrowed})
        rows = cursor.fetchall()
    totals = CostLine()
    by: dict[str, list[tuple[str, CostLine]]] = {name: [] for name in dimensions}
    for mask, *values in rows:
        keys, line = values[: len(dimensions)], CostLine(*values[len(dimensions) :])
        position = _grouped(mask, len(dimensions))
        if position is None:
            totals = line
        else:
            by[dimensions[position]].append((_text(keys[position]), line))
    for name, lines in by.items():
        lines.sort(key=lambda pair: pair[0] if name == "day" else (-pair[1].cost_usd, -pair[1].calls, pair[0]))
    return CostBreakdown(since, until, totals, by)


def _grouped(mask: int, count: int) -> int | None:
    """Which of `count` dimensions a row's `grouping()` did not roll up, None for the row of all."""
    for position in range(count):
        if not mask & 1 << (count - 1 - position):
            return position
    return None


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)
