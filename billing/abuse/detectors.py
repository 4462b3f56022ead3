"""What looks like abuse, each detector a query with its threshold. They only tell; operators act.

A detector takes the time and returns what it found; `detect` raises it all as signals. Evidence is figures, never prompts.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django_redis import get_redis_connection

from ratelimit.signals import signal_raise, signals_fade

logger = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NORMAL_DAYS = 7
# How much of a long list goes into the evidence.
EXAMPLES = 20
_REDIS_BATCH = 500

# Usage rows that are messages to models: charges of other services are none.
_MESSAGE = "u.endpoint <> 'credits' AND u.endpoint NOT LIKE 'service:%%'"


@dataclass(frozen=True, slots=True)
class Finding:
    """One strange thing about one subject, which matters `until` unless seen again."""

    subject: str
    signal: str
    evidence: dict[str, Any]
    until: datetime


def _rows(sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _amount(value: Decimal) -> str:
    return f"{value.normalize():f}"


# Where a message too many begins. The plan's own limit is what it promises a day: requests on quota plans, credits on the
# others, where each message costs some; what an operator set for the account wins. A plan that promises no number: paid calls
# pay for themselves and none is too many (NULL); on quota plans, whose calls nobody pays one by one, the floor says it.
_OWN_LIMIT = "coalesce(l.daily_limit, l.requests_per_day, p.daily_limit, p.requests_per_day)"
_LIMIT = f"""CASE WHEN p.billing_mode <> 'quota' AND {_OWN_LIMIT} IS NULL THEN NULL
    ELSE greatest(%(floor)s, ceil(coalesce({_OWN_LIMIT}, 0)))::bigint END"""
_TERMS = """
    LEFT JOIN billing_subscription s ON s.account_id = a.id AND s.state IN ('trialing', 'active', 'past_due', 'paused')
    LEFT JOIN billing_plan p ON p.id = s.plan_id
    LEFT JOIN billing_accountlimits l ON l.account_id = a.id AND (l.until IS NULL OR l.until > %(now)s)
"""
# A day in the account's time zone, never longer than 26 hours.
_TODAY = """u.started_at > %(now)s - interval '26 hours' AND u.started_at <= %(now)s
        AND u.started_at >= date_trunc('day', %(now)s AT TIME ZONE a.time_zone) AT TIME ZONE a.time_zone"""

_MESSAGES_TODAY = f"""
    SELECT a.id, count(*), {_LIMIT},
        (date_trunc('day', %(now)s AT TIME ZONE a.time_zone) + interval '1 day') AT TIME ZONE a.time_zone
    FROM billing_usagerecord u JOIN billing_account a ON a.id = u.account_id {_TERMS}
    WHERE {_TODAY} AND {_MESSAGE}
    GROUP BY a.id, p.id, l.account_id HAVING count(*) > {_LIMIT}
"""  # noqa: S608  constant text

_MESSAGES_OF_ACCOUNTS = f"""
    SELECT a.id, (SELECT count(*) FROM billing_usagerecord u WHERE u.account_id = a.id AND {_TODAY} AND {_MESSAGE}), {_LIMIT}
    FROM billing_account a {_TERMS} WHERE a.id = ANY(%(accounts)s)
"""  # noqa: S608  constant text


def messages_a_day(now: datetime) -> list[Finding]:
    """Accounts that sent more messages since their midnight than their plan promises, and more than `ABUSE_MESSAGES_A_DAY`."""
    rows = _rows(_MESSAGES_TODAY, {"now": now, "floor": settings.ABUSE_MESSAGES_A_DAY})
    return [
        Finding(f"account:{account_id}", "messages_a_day", {"messages": count, "limit": limit}, day_end)
        for account_id, count, limit, day_end in rows
    ]


def messages_today(accounts: Sequence[UUID], now: datetime) -> dict[UUID, tuple[int, int | None]]:
    """Of each account its messages since its midnight, and how many are not too many (None: any number)."""
    parameters = {"now": now, "floor": settings.ABUSE_MESSAGES_A_DAY, "accounts": list(accounts)}
    return {account_id: (count, limit) for account_id, count, limit in _rows(_MESSAGES_OF_ACCOUNTS, parameters)}


_REGISTRATIONS = """
    SELECT house::text, count(*), max(date_joined),
        (array_agg(account_id ORDER BY date_joined))[:%(examples)s]
    FROM (
        SELECT u.date_joined, a.id AS account_id, CASE family(u.registered_from)
            WHEN 6 THEN network(set_masklen(u.registered_from, 64)) ELSE u.registered_from END AS house
        FROM billing_user u JOIN billing_account a ON a.personal_of_id = u.id
        WHERE u.registered_from IS NOT NULL AND u.date_joined > %(now)s - interval '24 hours' AND u.date_joined <= %(now)s
    ) registrations
    GROUP BY house HAVING count(*) >= %(threshold)s
"""


def many_accounts(now: datetime) -> list[Finding]:
    """Addresses (IPv6: /64) from which `ABUSE_REGISTRATIONS_PER_ADDRESS` accounts or more were opened in 24 hours."""
    threshold = settings.ABUSE_REGISTRATIONS_PER_ADDRESS
    rows = _rows(_REGISTRATIONS, {"now": now, "threshold": threshold, "examples": EXAMPLES})
    return [
        Finding(
            # PostgreSQL writes one address as a network of its own length.
            f"address:{house.removesuffix('/32')}",
            "many_accounts",
            {"registrations": count, "threshold": threshold, "hours": 24, "accounts": [str(found) for found in accounts]},
            newest + DAY,
        )
        for house, count, newest, accounts in rows
    ]


_BURSTS = f"""
    SELECT a.id, count(*), a.created_at
    FROM billing_usagerecord u JOIN billing_account a ON a.id = u.account_id
    WHERE u.started_at > %(now)s - interval '1 hour' AND u.started_at <= %(now)s
        AND a.created_at > %(now)s - interval '24 hours' AND {_MESSAGE}
    GROUP BY a.id HAVING count(*) > %(limit)s
"""  # noqa: S608  constant text


def burst_after_signup(now: datetime) -> list[Finding]:
    """Accounts younger than 24 hours with more than `ABUSE_NEW_ACCOUNT_CALLS_AN_HOUR` calls in the last hour."""
    limit = settings.ABUSE_NEW_ACCOUNT_CALLS_AN_HOUR
    return [
        Finding(
            f"account:{account_id}",
            "burst_after_signup",
            {"calls": count, "limit": limit, "age_minutes": int((now - created_at).total_seconds()) // 60},
            created_at + DAY,
        )
        for account_id, count, created_at in _rows(_BURSTS, {"now": now, "limit": limit})
    ]


# What a call cost us is on its ledger transaction, which has the call's id.
_LOST_CALLS = f"""
    WITH calls AS (
        SELECT u.id, u.account_id, u.end
        FROM billing_usagerecord u
        WHERE u.started_at > %(now)s - interval '1 hour' AND u.started_at <= %(now)s AND {_MESSAGE}
    ), suspects AS (
        SELECT account_id, count(*) AS total,
            count(*) FILTER (WHERE "end" = 'client_gone') AS client_gone,
            count(*) FILTER (WHERE "end" = 'upstream_dropped') AS upstream_dropped,
            count(*) FILTER (WHERE "end" = 'provider_error') AS provider_error
        FROM calls GROUP BY account_id
    )
    SELECT s.*, (
        SELECT coalesce(sum(e.amount), 0)
        FROM calls c
        JOIN billing_ledgerentry e ON e.transaction_id = c.id
        JOIN billing_ledgeraccount b ON b.id = e.ledger_account_id
        WHERE c.account_id = s.account_id AND b.unit = 'USD' AND b.kind IN ('operator_loss', 'unknown_cost')
    )
    FROM suspects s
    WHERE s.client_gone + s.upstream_dropped + s.provider_error >= %(count)s
        AND 100 * (s.client_gone + s.upstream_dropped + s.provider_error) >= %(percent)s * s.total
"""  # noqa: S608  constant text


def lost_calls(now: datetime) -> list[Finding]:
    """Accounts whose calls of the last hour ended without a whole answer, `ABUSE_LOST_CALLS_AN_HOUR` times or more and in
    `ABUSE_LOST_CALLS_PERCENT` of all of them or more; with what those calls cost the operator."""
    parameters = {"now": now, "count": settings.ABUSE_LOST_CALLS_AN_HOUR, "percent": settings.ABUSE_LOST_CALLS_PERCENT}
    return [
        Finding(
            f"account:{account_id}",
            "lost_calls",
            {
                "calls": total,
                "client_gone": gone,
                "upstream_dropped": dropped,
                "provider_error": failed,
                "percent": 100 * (gone + dropped + failed) // total,
                "borne_by_us_usd": _amount(borne),
            },
            now + HOUR,
        )
        for account_id, total, gone, dropped, failed, borne in _rows(_LOST_CALLS, parameters)
    ]


_SPENDING = """
    SELECT u.account_id,
        sum(u.credits_charged) FILTER (WHERE u.started_at > %(now)s - interval '1 hour') AS last_hour,
        coalesce(sum(u.credits_charged) FILTER (WHERE u.started_at <= %(now)s - interval '1 hour'), 0)
    FROM billing_usagerecord u
    WHERE u.started_at > %(now)s - interval '1 hour' - %(days)s * interval '1 day' AND u.started_at <= %(now)s
        AND u.account_id IN (
            SELECT account_id FROM billing_usagerecord
            WHERE started_at > %(now)s - interval '1 hour' AND started_at <= %(now)s
            GROUP BY account_id HAVING sum(credits_charged) > %(floor)s
        )
    GROUP BY u.account_id
"""


def spend_velocity(now: datetime) -> list[Finding]:
    """Accounts that spent more than `ABUSE_SPEND_FLOOR_CREDITS` in the last hour, and more than `ABUSE_SPEND_TIMES_NORMAL`
    times the hourly mean of the seven days before it."""
    times, floor = settings.ABUSE_SPEND_TIMES_NORMAL, settings.ABUSE_SPEND_FLOOR_CREDITS
    hours = NORMAL_DAYS * 24
    return [
        Finding(
            f"account:{account_id}",
            "spend_velocity",
            {
                "credits_last_hour": _amount(last_hour),
                "credits_seven_days": _amount(before),
                "credits_an_hour_normally": _amount(round(before / hours, 6)),
                "times": times,
                "floor": floor,
            },
            now + HOUR,
        )
        for account_id, last_hour, before in _rows(_SPENDING, {"now": now, "floor": floor, "days": NORMAL_DAYS})
        # last hour > times * before / hours, without a rounded quotient
        if last_hour * hours > times * before
    ]


# An attempt that ended without money: refused by the bank or the gateway, not given up by the customer.
_REFUSED_PAYMENTS = """
    SELECT account_id, count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'succeeded'),
        count(DISTINCT amount) FILTER (WHERE state = 'failed'),
        array_agg(DISTINCT gateway ORDER BY gateway) FILTER (WHERE state = 'failed'),
        (array_agg(DISTINCT failure_code) FILTER (WHERE state = 'failed' AND failure_code <> ''))[:%(examples)s],
        max(created_at) FILTER (WHERE state = 'failed')
    FROM billing_payment
    WHERE created_at > %(now)s - interval '24 hours' AND created_at <= %(now)s
    GROUP BY account_id
    HAVING count(*) FILTER (WHERE state = 'failed') >= %(threshold)s
        AND count(*) FILTER (WHERE state = 'failed') > count(*) FILTER (WHERE state = 'succeeded')
"""


def refused_payments(now: datetime) -> list[Finding]:
    """Accounts of whose payments `ABUSE_REFUSED_PAYMENTS_A_DAY` or more were refused in 24 hours, and more than succeeded: what
    trying stolen cards looks like."""
    threshold = settings.ABUSE_REFUSED_PAYMENTS_A_DAY
    rows = _rows(_REFUSED_PAYMENTS, {"now": now, "threshold": threshold, "examples": EXAMPLES})
    return [
        Finding(
            f"account:{account_id}",
            "refused_payments",
            {
                "refused": refused,
                "succeeded": succeeded,
                "amounts": amounts,
                "gateways": gateways,
                "reasons": reasons or [],
                "threshold": threshold,
                "hours": 24,
            },
            newest + DAY,
        )
        for account_id, refused, succeeded, amounts, gateways, reasons, newest in rows
    ]


# --- What the gateway counts in Redis, per UTC day ---


def use_key(kind: str, *parts: str) -> str:
    """The Redis key of one count of a day's use; the gateway writes them, each ends with the UTC date."""
    return ":".join(("{iaf}:use", kind, *parts))


def _day_end(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + DAY


def _in_batches(redis: Any, members: Iterable[bytes], ask: Callable[[Any, str], Any]) -> Iterable[tuple[str, Any]]:
    """(member, answer) of one command for each member, many in one round trip."""
    names = sorted(member.decode() for member in members)
    for first in range(0, len(names), _REDIS_BATCH):
        batch = names[first : first + _REDIS_BATCH]
        with redis.pipeline(transaction=False) as pipeline:
            for name in batch:
                ask(pipeline, name)
            yield from zip(batch, pipeline.execute(), strict=True)


def key_networks(now: datetime) -> list[Finding]:
    """Keys used from more than `ABUSE_KEY_NETWORKS_A_DAY` networks (/24, /48) in this UTC day."""
    threshold = settings.ABUSE_KEY_NETWORKS_A_DAY
    day = now.astimezone(UTC).date().isoformat()
    redis = get_redis_connection("default")
    findings = []
    counts = _in_batches(
        redis, redis.smembers(use_key("seen", day)), lambda pipe, key_id: pipe.scard(use_key("nets", key_id, day))
    )
    for key_id, count in counts:
        if count > threshold:
            networks = sorted(member.decode() for member in redis.smembers(use_key("nets", key_id, day)))
            evidence = {"networks": count, "limit": threshold, "examples": networks[:EXAMPLES]}
            findings.append(Finding(f"key:{key_id}", "key_networks", evidence, _day_end(now)))
    return findings


def repeated_prompts(now: datetime) -> list[Finding]:
    """Accounts that sent one prompt more than `ABUSE_REPEATED_PROMPTS_A_DAY` times in this UTC day. Only its count is known."""
    threshold = settings.ABUSE_REPEATED_PROMPTS_A_DAY
    day = now.astimezone(UTC).date().isoformat()
    redis = get_redis_connection("default")
    most = _in_batches(
        redis,
        redis.smembers(use_key("accounts", day)),
        lambda pipe, account_id: pipe.zrevrange(use_key("prompts", account_id, day), 0, 0, withscores=True),
    )
    return [
        Finding(
            f"account:{account_id}",
            "repeated_prompts",
            {"repetitions": int(found[0][1]), "limit": threshold},
            _day_end(now),
        )
        for account_id, found in most
        if found and found[0][1] > threshold
    ]


DETECTORS: tuple[Callable[[datetime], list[Finding]], ...] = (
    messages_a_day,
    many_accounts,
    burst_after_signup,
    lost_calls,
    spend_velocity,
    refused_payments,
    key_networks,
    repeated_prompts,
)


def detect(now: datetime) -> int:
    """Ask every detector, raise what they found, and dismiss what has passed; how many signals are new.

    One that fails is logged and does not keep the others from looking.
    """
    new = 0
    for detector in DETECTORS:
        try:
            findings = detector(now)
        except Exception:
            logger.exception("the detector %s failed", detector.__name__)
            continue
        for found in findings:
            raised = signal_raise(
                subject=found.subject, signal=found.signal, evidence=found.evidence, until=found.until, now=now
            )
            if raised is not None and raised.is_new:
                logger.warning("abuse signal %s about %s: %s", found.signal, found.subject, found.evidence)
                new += 1
    signals_fade(now=now)
    return new
