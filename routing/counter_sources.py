"""What Redis' counters must hold at least, recomputed from the usage log and the open holds: for when Redis lost its data."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from psycopg_pool import AsyncConnectionPool

from iafactory.common.money import MICRO_PER_CREDIT, NANO_PER_USD
from ratelimit.recovery import RebuildSources
from ratelimit.scopes import CounterRow

from . import limits

# The running day of each account: the one of its own zone. Calls of the last 26 hours cover every zone's day.
_ACCOUNT_DAYS = """
    WITH calls AS (
        SELECT account_id, started_at, quota_units AS requests, credits_charged AS credits,
               CASE WHEN "end" = 'complete' OR credits_charged > 0 OR quota_units > 0 THEN 1 ELSE 0 END AS calls
        FROM billing_usagerecord WHERE started_at > %(now)s - interval '26 hours'
        UNION ALL
        SELECT account_id, opened_at, coalesce((quota ->> 'requests')::int, 0), credits, 1 FROM billing_hold
    ), days AS (
        SELECT id, date_trunc('day', %(now)s AT TIME ZONE time_zone) AS today, time_zone FROM billing_account
        WHERE id IN (SELECT account_id FROM calls)
    )
    SELECT d.id, extract(epoch FROM (d.today + interval '1 day') AT TIME ZONE d.time_zone) * 1000,
           sum(c.requests), sum(c.credits), sum(c.calls)
    FROM days d JOIN calls c ON c.account_id = d.id AND c.started_at >= d.today AT TIME ZONE d.time_zone
    GROUP BY d.id, d.today, d.time_zone
"""

_PROVIDER_COSTS = """
    SELECT provider, coalesce(sum(cost) FILTER (WHERE at >= date_trunc('day', %(now)s, 'UTC')), 0), sum(cost) FROM (
        SELECT provider, started_at AS at, cost_usd AS cost FROM billing_usagerecord
        WHERE started_at >= date_trunc('month', %(now)s, 'UTC')
        UNION ALL
        SELECT provider, %(now)s, worst_cost_usd FROM billing_hold
    ) AS calls GROUP BY provider
"""

_ALLOWANCES = """
    WITH periods AS (
        SELECT s.id, s.account_id, s.current_period_start AS period_start, CASE
                   WHEN s.current_period_end > %(now)s THEN s.current_period_end
                   ELSE (date_trunc('month', %(now)s AT TIME ZONE a.time_zone) + interval '1 month') AT TIME ZONE a.time_zone
               END AS period_end,
               date_trunc('month', %(now)s AT TIME ZONE a.time_zone) AT TIME ZONE a.time_zone AS month_start,
               s.current_period_end > %(now)s AS has_period
        FROM billing_subscription s
        JOIN billing_account a ON a.id = s.account_id
        JOIN routing_planrouting r ON r.plan_id = s.plan_id AND r.cost_allowance_usd IS NOT NULL
        WHERE s.state IN ('trialing', 'active', 'past_due', 'paused')
    )
    SELECT p.id, extract(epoch FROM p.period_end) * 1000, sum(c.cost)
    FROM periods p
    JOIN LATERAL (
        SELECT cost_usd AS cost FROM billing_usagerecord u
        WHERE u.account_id = p.account_id AND u.subscription_id = p.id
          AND u.started_at >= CASE WHEN p.has_period THEN p.period_start ELSE p.month_start END
        UNION ALL
        SELECT worst_cost_usd FROM billing_hold h WHERE h.account_id = p.account_id AND h.subscription_id = p.id
    ) c ON true
    GROUP BY p.id, p.period_end
"""


_KEY_SPENDING = """
    WITH keys AS (
        SELECT k.id, k.account_id, a.time_zone AS zone, date_trunc('day', %(now)s AT TIME ZONE a.time_zone) AS day,
               date_trunc('month', %(now)s AT TIME ZONE a.time_zone) AS month
        FROM billing_apikey k JOIN billing_account a ON a.id = k.account_id
        WHERE (k.daily_credits IS NOT NULL OR k.monthly_credits IS NOT NULL) AND k.revoked_at IS NULL
    )
    SELECT k.id, extract(epoch FROM (k.day + interval '1 day') AT TIME ZONE k.zone) * 1000,
           extract(epoch FROM (k.month + interval '1 month') AT TIME ZONE k.zone) * 1000,
           coalesce(sum(c.credits) FILTER (WHERE c.at >= k.day AT TIME ZONE k.zone), 0), sum(c.credits)
    FROM keys k
    JOIN LATERAL (
        SELECT started_at AS at, credits_charged AS credits FROM billing_usagerecord u
        WHERE u.account_id = k.account_id AND u.api_key_id = k.id AND u.started_at >= k.month AT TIME ZONE k.zone
        UNION ALL
        SELECT opened_at, credits FROM billing_hold h WHERE h.account_id = k.account_id AND h.api_key_id = k.id
    ) c ON true
    GROUP BY k.id, k.day, k.month, k.zone
"""


def _nano(amount: Decimal | None) -> int:
    return int((amount or 0) * NANO_PER_USD)


def counter_sources(pool: AsyncConnectionPool[Any], now: Callable[[], Any]) -> RebuildSources:
    """The sources of this process's limiter; `now` is the clock."""

    async def rows(sql: str) -> list[tuple[Any, ...]]:
        async with pool.connection() as connection:
            cursor = await connection.execute(sql, {"now": now()})
            found: list[tuple[Any, ...]] = await cursor.fetchall()
            return found

    async def account_days(now_ms: int) -> list[CounterRow]:
        found = []
        for account_id, end_ms, requests, credits, calls in await rows(_ACCOUNT_DAYS):
            found.append(CounterRow(f"q:{account_id}", int(requests), int(end_ms)))
            found.append(CounterRow(f"d:{account_id}", int(calls), int(end_ms)))
            found.append(CounterRow(f"c:{account_id}", int(credits * MICRO_PER_CREDIT), int(end_ms)))
        return [row for row in found if row.value]

    async def budgets(now_ms: int) -> list[CounterRow]:
        at = now()
        day_end_ms, month_end_ms = limits.budget_day_end_ms(at), limits.budget_month_end_ms(at)
        spent = {provider: (_nano(today), _nano(month)) for provider, today, month in await rows(_PROVIDER_COSTS)}
        spent |= {"all": (sum(today for today, _ in spent.values()), sum(month for _, month in spent.values()))}
        found = []
        for owner, (today, this_month) in spent.items():
            if owner:
                found.append(CounterRow(f"b:{owner}", today, day_end_ms))
                found.append(CounterRow(f"bm:{owner}", this_month, month_end_ms))
        return found

    async def allowances(now_ms: int) -> list[CounterRow]:
        return [
            CounterRow(f"a:{subscription}", _nano(cost), int(end_ms)) for subscription, end_ms, cost in await rows(_ALLOWANCES)
        ]

    async def key_spending(now_ms: int) -> list[CounterRow]:
        found = []
        for key_id, day_end_ms, month_end_ms, today, this_month in await rows(_KEY_SPENDING):
            found.append(CounterRow(f"kd:{key_id}", int(today * MICRO_PER_CREDIT), int(day_end_ms)))
            found.append(CounterRow(f"km:{key_id}", int(this_month * MICRO_PER_CREDIT), int(month_end_ms)))
        return found

    sources = RebuildSources()
    sources.register("account days", account_days)
    sources.register("provider budgets", budgets)
    sources.register("plan allowances", allowances)
    sources.register("key spending", key_spending)
    return sources
