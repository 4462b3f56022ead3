"""Noticing that a plan's day is used, that a plan or trial ends, that credits expire. One event and one notice per crossing.

The detectors read what others wrote and write nothing there. Running twice, or at once, tells once.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import transaction

from billing.events.services import SYSTEM, event_record

from .mails import TERMS, notice_write
from .models import CustomerNotice, NoticeKind
from .rows import plain, rows

# Accounts with calls within the hour, so that nobody else's day is added up. A limit of requests counts what the quota took,
# one of credits what was charged; an operator's limit for the account wins over the plan's.
_QUOTAS = """
    WITH recent AS (
        SELECT DISTINCT account_id FROM billing_usagerecord
        WHERE started_at > %(now)s - interval '1 hour' AND started_at <= %(now)s
    ), terms AS (
        SELECT a.id, p.code, p.billing_mode, coalesce(l.daily_limit, p.daily_limit) AS daily_limit,
               coalesce(n.threshold, %(percent)s) AS percent,
               date_trunc('day', %(now)s AT TIME ZONE a.time_zone) AS day,
               date_trunc('day', %(now)s AT TIME ZONE a.time_zone) AT TIME ZONE a.time_zone AS day_start,
               (date_trunc('day', %(now)s AT TIME ZONE a.time_zone) + interval '1 day') AT TIME ZONE a.time_zone AS day_end
        FROM recent r JOIN billing_account a ON a.id = r.account_id
        JOIN billing_subscription s ON s.account_id = a.id AND s.state IN ('trialing', 'active', 'past_due')
        JOIN billing_plan p ON p.id = s.plan_id
        LEFT JOIN billing_accountlimits l ON l.account_id = a.id AND (l.until IS NULL OR l.until > %(now)s)
        LEFT JOIN billing_noticepreference n ON n.account_id = a.id AND n.kind = 'quota'
    )
    SELECT t.id, t.code, t.billing_mode, t.daily_limit, t.day::date AS day, t.day_end, u.used,
           CASE WHEN u.used >= t.daily_limit THEN 'exhausted' ELSE 'low' END AS level
    FROM terms t CROSS JOIN LATERAL (
        SELECT coalesce(sum(CASE WHEN t.billing_mode = 'quota' THEN quota_units ELSE credits_charged END), 0) AS used
        FROM billing_usagerecord u
        WHERE u.account_id = t.id AND u.started_at >= t.day_start AND u.started_at <= %(now)s
    ) u
    WHERE t.daily_limit > 0 AND u.used * 100 >= t.daily_limit * t.percent
    ORDER BY t.id
"""


def quotas_notice(*, now: datetime) -> int:
    """Tell of accounts that used four fifths (or their own share), or all, of their plan's day; how many were told.

    Each day, limit and level is told once; what is used up at once is told as used up only.
    """
    told = 0
    for row in rows(_QUOTAS, {"now": now, "percent": TERMS[NoticeKind.QUOTA].usual}):
        unit = "requests" if row["billing_mode"] == "quota" else "credits"
        facts = {
            "plan": row["code"],
            "unit": unit,
            "used": plain(Decimal(row["used"])),
            "limit": plain(row["daily_limit"]),
            "resets_at": row["day_end"].isoformat(),
        }
        crossing = f"{row['day']}:{facts['limit']}"
        with transaction.atomic():
            if row["level"] == "low" and _was_told(row["id"], f"{crossing}:exhausted"):
                continue
            new = notice_write(
                account_id=row["id"],
                kind=NoticeKind.QUOTA,
                level=row["level"],
                key=f"{crossing}:{row['level']}",
                facts=facts,
                now=now,
            )
            if new:
                _event(f"quota.{row['level']}", "account", row["id"], row["id"], facts)
                told += 1
    return told


def _was_told(account_id: Any, key: str) -> bool:
    return CustomerNotice.objects.filter(account_id=account_id, kind=NoticeKind.QUOTA, key=key).exists()


# What ends by itself: trials, plans that were canceled, and plans of one period. Renewals are reminded of elsewhere. Short ones
# are told of when a fifth of them is left.
_ENDINGS = """
    WITH endings AS (
        SELECT s.id, s.account_id, p.code, p.name, s.state, s.current_period_start AS began,
               CASE WHEN s.state = 'trialing' THEN coalesce(s.trial_ends_at, s.current_period_end)
                    ELSE s.current_period_end END AS ends_at,
               make_interval(days => coalesce(n.threshold, %(days)s)) AS notice
        FROM billing_subscription s JOIN billing_plan p ON p.id = s.plan_id
        LEFT JOIN billing_noticepreference n ON n.account_id = s.account_id AND n.kind = 'plan_ending'
        WHERE s.state = 'trialing' OR (s.state = 'active' AND (s.cancel_at_period_end OR NOT p.renews))
    )
    SELECT * FROM endings
    WHERE ends_at > %(now)s AND ends_at <= %(now)s + least(notice, (ends_at - began) / 5) ORDER BY account_id
"""


def endings_notice(*, now: datetime) -> int:
    """Tell of trials and plans that end within three days, or as many as the account wants; how many. Each end is told once."""
    told = 0
    for row in rows(_ENDINGS, {"now": now, "days": TERMS[NoticeKind.PLAN_ENDING].usual}):
        facts = {"plan": row["name"], "is_trial": row["state"] == "trialing", "ends_at": row["ends_at"].isoformat()}
        with transaction.atomic():
            new = notice_write(
                account_id=row["account_id"],
                kind=NoticeKind.PLAN_ENDING,
                level="ending",
                key=f"{row['id']}:{row['ends_at'].isoformat()}",
                facts=facts,
                now=now,
            )
            if new:
                after = {"plan": row["code"], "state": row["state"], "current_period_end": facts["ends_at"]}
                _event("subscription.ending", "subscription", row["id"], row["account_id"], after)
                told += 1
    return told


# Bought and given credits; a plan's own end with its period. What expires on one day is told together.
_EXPIRIES = """
    SELECT l.account_id, min(l.expires_at) AS expires_at, sum(l.remaining) AS credits,
           (l.expires_at AT TIME ZONE a.time_zone)::date AS day
    FROM billing_lot l JOIN billing_account a ON a.id = l.account_id
    LEFT JOIN billing_noticepreference n ON n.account_id = a.id AND n.kind = 'credits_expiring'
    WHERE l.closed_at IS NULL AND l.booked_at IS NOT NULL AND l.remaining > 0 AND l.kind IN ('purchase', 'bonus', 'refund')
      AND l.expires_at > %(now)s AND l.expires_at <= %(now)s + make_interval(days => coalesce(n.threshold, %(days)s))
      AND l.expires_at - l.effective_at > interval '2 days'
    GROUP BY l.account_id, day ORDER BY l.account_id, day
"""


def expiries_notice(*, now: datetime) -> int:
    """Tell of credits that expire within a week, or as many days as the account wants; how many times. A day is told once."""
    told = 0
    for row in rows(_EXPIRIES, {"now": now, "days": TERMS[NoticeKind.CREDITS_EXPIRING].usual}):
        facts = {"credits": plain(row["credits"]), "expires_at": row["expires_at"].isoformat()}
        with transaction.atomic():
            new = notice_write(
                account_id=row["account_id"],
                kind=NoticeKind.CREDITS_EXPIRING,
                level="expiring",
                key=row["day"].isoformat(),
                facts=facts,
                now=now,
            )
            if new:
                _event("credits.expiring", "wallet", row["account_id"], row["account_id"], facts)
                told += 1
    return told


# Whose plan stays and whose price changes with the next period, by an operator's move.
_PRICES = """
    SELECT s.id, s.account_id, p.name, s.current_period_end AS changes_at, n.id AS price_id,
           o.amount AS before, n.amount AS after, n.currency
    FROM billing_subscription s JOIN billing_plan p ON p.id = s.plan_id
    JOIN billing_planprice o ON o.id = s.price_id JOIN billing_planprice n ON n.id = s.next_price_id
    WHERE s.state IN ('trialing', 'active', 'past_due', 'paused') AND s.next_plan_id IS NULL AND NOT s.cancel_at_period_end
      AND n.amount <> o.amount AND s.current_period_end > %(now)s
      AND NOT EXISTS (SELECT 1 FROM billing_customernotice c WHERE c.account_id = s.account_id AND c.kind = 'price_change'
                        AND c.key = s.id || ':' || n.id)
    ORDER BY s.account_id
"""


def prices_notice(*, now: datetime) -> int:
    """Tell of plans that renew at another price; how many. Each price is told a subscription once."""
    told = 0
    for row in rows(_PRICES, {"now": now}):
        facts = {
            "plan": row["name"],
            "before": f"{plain(row['before'])} {row['currency']}",
            "after": f"{plain(row['after'])} {row['currency']}",
            "changes_at": row["changes_at"].isoformat(),
        }
        with transaction.atomic():
            told += notice_write(
                account_id=row["account_id"],
                kind=NoticeKind.PRICE_CHANGE,
                level="planned",
                key=f"{row['id']}:{row['price_id']}",
                facts=facts,
                now=now,
            )
    return told


def _event(kind: str, object_type: str, object_id: Any, account_id: Any, after: dict[str, Any]) -> None:
    event_record(kind=kind, object_type=object_type, object_id=object_id, account_id=account_id, actor=SYSTEM, after=after)
