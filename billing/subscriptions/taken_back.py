"""Plans whose money a bank took back: they end, and come back with what was left of them when the bank returns the money."""

from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any
from uuid import UUID

from django.db import transaction

from billing.accounts.models import Account
from billing.events.services import Actor
from iafactory.common import clock
from iafactory.common.money import ZERO

from . import selectors
from .changes import subscription_cancel_now
from .models import Subscription
from .moves import account_lock, instant_text, subscription_event, subscription_lock
from .plan_lots import overage_lots_void, plan_lots_void, stretch_of
from .services import FREE_PLAN, subscription_end

State = Subscription.State


def subscription_take_back(*, subscription_id: UUID, actor: Actor, reason: str) -> dict[str, Any] | None:
    """End a live subscription because its money was taken back; its account falls to `free`. None for one that has ended.

    Returns facts for `subscription_give_back`: how much paid time was left, in seconds (None: without end).
    """
    with transaction.atomic():
        subscription = subscription_lock(subscription_id)
        if subscription.state not in Subscription.LIVE:
            return None
        now = clock.now()
        left = _time_left(subscription, now)
        key = f"taken-back:{subscription.pk}"
        plan_lots_void(subscription, actor, reason=reason, key=key)
        overage_lots_void(subscription, actor, reason=reason, key=key)
        subscription_cancel_now(subscription, actor=actor, reason=reason, at=now)
    return {
        "subscription": str(subscription.pk),
        "plan": subscription.plan.code,
        "left_seconds": None if left is None else str(left.total_seconds()),
    }


def subscription_give_back(*, facts: dict[str, Any], actor: Actor, reason: str) -> Subscription | None:
    """Begin the plan anew that `subscription_take_back` ended, for the time that was left of it.

    None where nothing was left, or the account has another plan than `free` by now: an operator decides what it gets.
    """
    with transaction.atomic():
        ended = Subscription.objects.select_related("plan", "price").get(pk=facts["subscription"])
        account = account_lock(ended.account_id)
        live = selectors.subscription_live(account)
        seconds = facts["left_seconds"]
        left = None if seconds is None else timedelta(microseconds=int(Decimal(seconds) * 1_000_000))
        replaceable = live is None or live.plan.code == FREE_PLAN
        if not replaceable or account.status == Account.Status.CLOSED or (left is not None and left <= timedelta(0)):
            return None
        if live is not None:
            live = subscription_end(subscription=live, actor=actor, reason=reason)
            plan_lots_void(live, actor, reason="The plan was replaced", key=f"switch:{live.pk}")
        return _begin_anew(ended, account, left, live, actor, reason)


def _time_left(subscription: Subscription, now: datetime) -> timedelta | None:
    """The paid time that a subscription has before it; None: without end."""
    end = subscription.current_period_end
    if end is None:
        return None
    if subscription.paused_at is not None:
        return end - subscription.paused_at
    return max((subscription.paid_through or now) - now, timedelta(0))


def _begin_anew(
    ended: Subscription, account: Account, left: timedelta | None, live: Subscription | None, actor: Actor, reason: str
) -> Subscription:
    now = clock.now()
    end = None if left is None else now + left
    subscription = Subscription.objects.create(
        account=account,
        plan=ended.plan,
        price=ended.price,
        state=State.ACTIVE,
        current_period_start=now,
        current_period_end=end,
        billing_anchor=end or now,
        paid_through=end,
        period_value=_value_left(ended, left),
        previous=live or ended,
    )
    after = {
        "plan": ended.plan.code,
        "price": str(ended.price) if ended.price else None,
        "state": subscription.state,
        "current_period_end": instant_text(end),
        "previous": str(subscription.previous_id),
    }
    subscription_event("started", subscription, actor, after=after, reason=reason)
    return subscription


def _value_left(ended: Subscription, left: timedelta | None) -> Decimal:
    """What was paid for the time that is left."""
    start, end = stretch_of(ended)
    if left is None or end is None or end <= start:
        return ended.period_value
    microsecond = timedelta(microseconds=1)
    share = Decimal(left // microsecond) / Decimal((end - start) // microsecond)
    return max(ZERO, (ended.period_value * share).quantize(Decimal("0.0001"), ROUND_DOWN))
