"""Calls of a made-up past, written in bulk as the ledger's functions would have booked them one by one: for demo data only.

Everything of a call follows from a hash of its number and the seed, so that the same seed makes the same calls. A day's rows
are written by one statement with the tables' triggers off; `verify_books` holds for what comes out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import connection, transaction

from .rollups import day_begin

# Services of the demo's day work before, so that its entries come first.
FIRST_CALL = timedelta(minutes=20)
LAST_CALL = timedelta(hours=23, minutes=55)


@dataclass(frozen=True, slots=True)
class DemoRoute:
    """What serves calls: names, USD per million tokens, our share of the list price, and the price's facts."""

    provider: str
    model: str
    profile: str
    input_usd: Decimal
    output_usd: Decimal
    cost_factor: Decimal
    latency_ms: int
    price: dict[str, str]


@dataclass(frozen=True, slots=True)
class DemoCaller:
    """An account's calls of one day: with `credits` each costs what its price says, else it counts as a request."""

    number: int
    account_id: UUID
    keys: Sequence[UUID]
    subscription_id: UUID | None
    plan: str
    credits: bool
    whole_credits: bool
    calls: int


_CALLS = """
    CREATE TEMP TABLE demo_route (
        n integer PRIMARY KEY, provider text, model text, profile text, p_in numeric, p_out numeric, factor numeric,
        latency integer, price jsonb);
    CREATE TEMP TABLE demo_caller (
        n integer PRIMARY KEY, account_id uuid, keys uuid[], subscription_id uuid, plan text, credits boolean, whole boolean,
        calls integer);
"""
# Credits come from the lot that burns first, as long as it lasts beyond the day and nothing is held in it; calls that it does
# not cover are left out.
_WRITE = """
WITH lot AS (
    SELECT DISTINCT ON (l.account_id) l.account_id, l.id, l.remaining - l.held AS free
    FROM billing_lot l JOIN demo_caller c USING (account_id)
    WHERE l.booked_at IS NOT NULL AND l.closed_at IS NULL AND l.remaining > l.held
      AND (l.expires_at IS NULL OR l.expires_at >= %(day_end)s)
    ORDER BY l.account_id, l.priority, l.expires_at NULLS LAST, l.paid_amount, l.created_at, l.id
), drawn AS (
    SELECT c.n, c.account_id, c.keys, c.subscription_id, c.plan, c.credits, c.whole, i,
           md5(%(seed)s || ' ' || %(day)s || ' ' || c.n || ' ' || i) AS h
    FROM demo_caller c CROSS JOIN LATERAL generate_series(1, c.calls) AS i
), rolled AS (
    SELECT d.*, ('x' || substr(h, 1, 7))::bit(28)::int AS h1, ('x' || substr(h, 8, 4))::bit(16)::int AS h2,
           ('x' || substr(h, 12, 4))::bit(16)::int AS h3, ('x' || substr(h, 16, 4))::bit(16)::int AS h4,
           ('x' || substr(h, 20, 4))::bit(16)::int AS h5, ('x' || substr(h, 24, 4))::bit(16)::int AS h6
    FROM drawn d
), timed AS (
    SELECT r.*, %(begin)s + make_interval(secs => h1 %% %(span_ms)s / 1000.0) AS at,
           CASE WHEN h2 %% 1000 < 972 THEN 'complete' WHEN h2 %% 1000 < 984 THEN 'client_gone'
                WHEN h2 %% 1000 < 995 THEN 'provider_error' ELSE 'upstream_dropped' END AS ended,
           20 + h3 %% 1500 AS tokens_in, 10 + h4 %% 700 AS tokens_out, (n * 7 + h5 %% 4 * 3) %% %(routes)s AS route
    FROM rolled r
), priced AS (
    SELECT t.*, o.provider, o.model, o.profile, o.factor, o.price, o.latency + h6 %% 2000 AS ms,
           ended <> 'provider_error' AS served,
           CASE WHEN ended = 'provider_error' THEN 0
                ELSE round((tokens_in * o.p_in + tokens_out * o.p_out) / 1000000, 9) END AS list_cost
    FROM timed t JOIN demo_route o ON o.n = t.route
), charged AS (
    SELECT p.*, CASE WHEN NOT credits OR NOT served OR list_cost = 0 THEN 0::numeric(20, 6)
                     WHEN whole THEN greatest(1, round(list_cost * 180))
                     ELSE greatest(0.000001, round(list_cost * 180, 6)) END::numeric(20, 6) AS charge
    FROM priced p
), summed AS (
    SELECT c.*, sum(charge) OVER (PARTITION BY account_id ORDER BY at, i) AS spent FROM charged c
), call AS MATERIALIZED (
    SELECT s.*, l.id AS lot_id, w.balance - spent AS balance_after,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15)
           )::uuid AS id, at + make_interval(secs => ms / 1000.0) AS done
    FROM summed s
    JOIN billing_wallet w ON w.account_id = s.account_id
    LEFT JOIN lot l ON l.account_id = s.account_id
    WHERE NOT s.credits OR spent <= l.free
), booked AS (
    INSERT INTO billing_ledgertransaction (id, kind, at, account_id, reason, actor)
    SELECT id, 'call', done, account_id, '', '' FROM call ORDER BY at
), entries AS (
    INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
    SELECT e.* FROM call CROSS JOIN LATERAL (VALUES
        (call.id, account_id, 'credit', -charge, call.balance_after, ARRAY[lot_id], ARRAY[charge]),
        (call.id, %(consumed)s::uuid, 'credit', charge, NULL, NULL, NULL)) AS e
    WHERE charge > 0 ORDER BY at, i, e.column4
), usages AS (
    INSERT INTO billing_usagerecord (
        id, started_at, finished_at, account_id, api_key_id, subscription_id, plan, endpoint, "end", error_code,
        requested_model, model, provider, profile, streamed, attempts, fallback, budget_fallback,
        input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, estimated, list_cost_usd,
        cost_usd, credits_held, credits_charged, credits_lost, quota_units, price, latency_ms, first_byte_ms)
    SELECT id, at, done, account_id, keys[1 + h6 %% cardinality(keys)], subscription_id, plan,
           CASE WHEN h5 %% 10 < 8 THEN '/v1/chat/completions' ELSE '/v1/messages' END, ended,
           CASE WHEN served THEN '' ELSE 'provider_error' END, model, model, provider, profile, h4 %% 2 = 0, 1, h2 %% 50 = 0,
           false, tokens_in, 0, 0, CASE WHEN served THEN tokens_out ELSE 0 END, 0, false, list_cost,
           round(list_cost * factor, 9), charge, charge, 0, CASE WHEN credits OR NOT served THEN 0 ELSE 1 END,
           CASE WHEN credits THEN price || jsonb_build_object('charged', true, 'margin_multiplier', '1.8', 'usd_per_credit',
                                                              '0.01', 'rounding', CASE WHEN whole THEN 'whole' ELSE 'exact' END)
                ELSE price END, ms, ms / 3
    FROM call ORDER BY at
), lots AS (
    UPDATE billing_lot l SET remaining = remaining - s.total
    FROM (SELECT lot_id, sum(charge) AS total FROM call WHERE charge > 0 GROUP BY lot_id) s WHERE l.id = s.lot_id
), wallets AS (
    UPDATE billing_wallet w SET balance = balance - s.total
    FROM (SELECT account_id, sum(charge) AS total FROM call WHERE charge > 0 GROUP BY account_id) s
    WHERE w.account_id = s.account_id
)
SELECT count(*) FROM call
"""


def demo_routes_set(routes: Sequence[DemoRoute]) -> None:
    """Which routes the calls of this connection are served by."""
    with connection.cursor() as cursor:
        cursor.execute(_CALLS)
        cursor.executemany(
            "INSERT INTO demo_route VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    number,
                    route.provider,
                    route.model,
                    route.profile,
                    route.input_usd,
                    route.output_usd,
                    route.cost_factor,
                    route.latency_ms,
                    json.dumps(route.price),
                )
                for number, route in enumerate(routes)
            ],
        )


def demo_day_write(callers: Sequence[DemoCaller], *, day: date, until: datetime, seed: str, routes: int) -> int:
    """Write one day's calls, none of them after `until`; returns how many there were credits for.

    Each costs its list price at the shipped margin of 1.8 and 0.01 USD a credit. Needs the right to switch triggers off.
    """
    begin = day_begin(day) + FIRST_CALL
    span = min(day_begin(day) + LAST_CALL, until) - begin
    if span <= timedelta(minutes=1):
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("SET LOCAL work_mem = '256MB'")
        cursor.execute("TRUNCATE demo_caller")
        with cursor.cursor.copy("COPY demo_caller FROM STDIN") as copy:
            for caller in callers:
                copy.write_row(
                    (
                        caller.number,
                        caller.account_id,
                        list(caller.keys),
                        caller.subscription_id,
                        caller.plan,
                        caller.credits,
                        caller.whole_credits,
                        caller.calls,
                    )
                )
        cursor.execute("SELECT ledger_account('consumed', 'credit')")
        consumed = cursor.fetchone()[0]
        cursor.execute(
            _WRITE,
            {
                "seed": seed,
                "day": day.isoformat(),
                "day_end": day_begin(day + timedelta(days=1)),
                "begin": begin,
                "span_ms": int(span / timedelta(milliseconds=1)),
                "routes": routes,
                "consumed": consumed,
            },
        )
        written: int = cursor.fetchone()[0]
    return written
