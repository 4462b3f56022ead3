"""Noticing that credits run low or out, of a wallet or of one key's budget. One event per crossing; `webhooks` passes it on.

The detectors read what the ledger wrote and write nothing there.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction

from billing.accounts.models import Account
from billing.events.services import SYSTEM, Actor, event_record
from iafactory.common.errors import ApiError
from iafactory.common.money import credits_quantise

from .mails import notice_write
from .models import CreditNotice, KeyBudgetNotice, NoticeKind
from .rows import plain, rows

# What the level becomes. Worse is believed at once. Better only after credits arrived: the balance is above the one at which
# the level was reached, and half as much again above the threshold, so that a balance that hovers there is told once.
_LEVELS = """
    WITH seen AS (
        SELECT w.account_id, w.balance, n.account_id IS NULL OR n.level IS NULL AS first_look, coalesce(n.level, 'ok') AS level,
               coalesce(n.level_balance, 0) AS level_balance, l.began,
               CASE WHEN n.low_credits IS NOT NULL THEN n.low_credits
                    ELSE l.began * coalesce(n.low_percent, 10) / 100 END AS threshold
        FROM billing_wallet w
        LEFT JOIN billing_creditnotice n ON n.account_id = w.account_id
        LEFT JOIN LATERAL (
            SELECT coalesce(sum(amount), 0) AS began FROM billing_lot
            WHERE account_id = w.account_id AND closed_at IS NULL AND booked_at IS NOT NULL AND remaining > 0
        ) l ON true
        WHERE (w.balance > 0 OR n.account_id IS NOT NULL) AND (%(account)s::uuid IS NULL OR w.account_id = %(account)s)
    ), judged AS (
        SELECT *, CASE WHEN balance < 1 THEN 'exhausted' WHEN balance <= threshold THEN 'low' ELSE 'ok' END AS raw FROM seen
    ), moved AS (
        SELECT *, CASE
            WHEN first_look THEN raw
            WHEN array_position(ARRAY['ok', 'low', 'exhausted'], raw) >= array_position(ARRAY['ok', 'low', 'exhausted'], level)
                THEN raw
            WHEN balance > level_balance AND balance > threshold * 3 / 2 AND raw = 'ok' THEN 'ok'
            WHEN balance > level_balance AND level = 'exhausted' THEN 'low'
            ELSE level
        END AS next_level FROM judged
    )
    SELECT account_id, balance, threshold, first_look, level, next_level FROM moved
    WHERE first_look OR level <> next_level
"""
_WORSE = {("ok", "low"), ("ok", "exhausted"), ("low", "exhausted")}


def credits_notice(*, now: datetime) -> int:
    """Compare every wallet with its account's threshold; how many accounts were told that credits are low or exhausted.

    Running twice, or at once, tells once: each account is judged again under the lock of its row.
    """
    told = 0
    for row in _levels(None):
        with transaction.atomic():
            told += _credits_move(row["account_id"], now)
    return told


def _credits_move(account_id: UUID, now: datetime) -> bool:
    CreditNotice.objects.get_or_create(account_id=account_id)
    CreditNotice.objects.select_for_update(no_key=True).get(pk=account_id)
    for row in _levels(account_id):
        level, before = row["next_level"], row["level"]
        CreditNotice.objects.filter(pk=account_id).update(level=level, level_balance=row["balance"], level_at=now)
        # What is found at the first look was so before anybody watched.
        if row["first_look"] or (before, level) not in _WORSE:
            return False
        after = {"balance": _plain(row["balance"]), "threshold": _plain(row["threshold"])}
        event = event_record(
            kind="credits.exhausted" if level == CreditNotice.Level.EXHAUSTED else "credits.low",
            object_type="wallet",
            object_id=account_id,
            account_id=account_id,
            actor=SYSTEM,
            before={"previous_level": before},
            after=after,
        )
        # The level's own row makes it once; the event names the crossing.
        notice_write(
            account_id=account_id,
            kind=NoticeKind.CREDITS,
            level=level,
            key=str(event.pk),
            facts={"balance": after["balance"]},
            now=now,
        )
        return True
    return False


def _levels(account_id: UUID | None) -> list[dict[str, Any]]:
    return rows(_LEVELS, {"account": account_id})


_BUDGETS = """
    WITH keys AS (
        SELECT k.id, k.name, k.account_id, w.name AS window, w.credit_limit,
               date_trunc(w.name, %(now)s AT TIME ZONE a.time_zone) AT TIME ZONE a.time_zone AS window_start
        FROM billing_apikey k JOIN billing_account a ON a.id = k.account_id
        CROSS JOIN LATERAL (VALUES ('day', k.daily_credits), ('month', k.monthly_credits)) AS w (name, credit_limit)
        WHERE w.credit_limit > 0 AND k.revoked_at IS NULL AND k.last_used_at >= %(now)s - interval '1 hour'
    )
    SELECT k.id, k.name, k.account_id, k.window, k.credit_limit, k.window_start, u.spent,
           CASE WHEN u.spent >= k.credit_limit THEN 'exhausted' ELSE 'low' END AS level
    FROM keys k CROSS JOIN LATERAL (
        SELECT coalesce(sum(credits_charged), 0) AS spent FROM billing_usagerecord u
        WHERE u.account_id = k.account_id AND u.api_key_id = k.id AND u.started_at >= k.window_start
    ) u
    WHERE u.spent >= k.credit_limit * 8 / 10 AND NOT EXISTS (
        SELECT 1 FROM billing_keybudgetnotice n
        WHERE n.api_key_id = k.id AND n.window = k.window AND n.window_start = k.window_start
          AND n.credit_limit = k.credit_limit AND (n.level = 'exhausted' OR u.spent < k.credit_limit)
    )
"""


def budgets_notice(*, now: datetime) -> int:
    """Tell of keys used within the hour that spent four fifths, or all, of their credits of the day or month; how many times.

    Each key, window and limit has one of each at most; spent at once, only `exhausted` is told.
    """
    told = 0
    for row in rows(_BUDGETS, {"now": now}):
        with transaction.atomic():
            _, new = KeyBudgetNotice.objects.get_or_create(
                api_key_id=row["id"],
                window=row["window"],
                window_start=row["window_start"],
                level=row["level"],
                credit_limit=row["credit_limit"],
                defaults={"at": now},
            )
            if not new:
                continue
            after = {
                "name": row["name"],
                "window": row["window"],
                "window_start": row["window_start"].isoformat(),
                "limit": _plain(row["credit_limit"]),
                "spent": _plain(row["spent"]),
            }
            event = event_record(
                kind="budget.exhausted" if row["level"] == KeyBudgetNotice.Level.EXHAUSTED else "budget.low",
                object_type="api_key",
                object_id=row["id"],
                account_id=row["account_id"],
                actor=SYSTEM,
                after=after,
            )
            notice_write(
                account_id=row["account_id"],
                kind=NoticeKind.KEY_BUDGET,
                level=row["level"],
                key=str(event.pk),
                facts={name: after[name] for name in ("name", "window", "limit", "spent")},
                now=now,
            )
            told += 1
    return told


def credit_notice_set(*, account: Account, low_percent: int, low_credits: Decimal | None, actor: Actor) -> CreditNotice:
    """From when on the account's balance counts as low. Setting what is there writes nothing.

    ApiError 400 `invalid_request` for a share outside 0 to 99 or a negative number of credits.
    """
    if not 0 <= low_percent <= 99:
        raise ApiError(400, "invalid_request", "A share from 0 to 99 percent.", param="low_percent")
    if low_credits is not None and low_credits < 0:
        raise ApiError(400, "invalid_request", "A number of credits from 0.", param="low_credits")
    low_credits = None if low_credits is None else credits_quantise(low_credits)
    with transaction.atomic():
        CreditNotice.objects.get_or_create(account=account)
        notice = CreditNotice.objects.select_for_update(no_key=True).get(account=account)
        before = {"low_percent": notice.low_percent, "low_credits": _plain(notice.low_credits)}
        after = {"low_percent": low_percent, "low_credits": _plain(low_credits)}
        if before != after:
            notice.low_percent, notice.low_credits = low_percent, low_credits
            notice.save(update_fields=["low_percent", "low_credits"])
            event_record(
                kind="account.credit_notice_changed",
                object_type="account",
                object_id=account.pk,
                account_id=account.pk,
                actor=actor,
                before=before,
                after=after,
            )
    return notice


def _plain(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)
