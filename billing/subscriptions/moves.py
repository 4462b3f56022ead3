"""Locks, moves and events of subscriptions: what every other module of the lifecycle is made of.

Lock order: account, subscription, invoice, number series, money in hand, then what the ledger locks.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from billing.accounts.models import Account
from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError

from .models import Subscription

FINAL = frozenset(state for state, moves in Subscription.MOVES.items() if not moves)


class SubscriptionMoveRefused(ApiError):
    """The state table has no such move: 409 `subscription_move_refused`."""

    def __init__(self, state: str, to: str) -> None:
        super().__init__(409, "subscription_move_refused", f"A subscription that is {state} cannot become {to}.")
        self.state = state
        self.to = to


def subscription_exists() -> ApiError:
    return ApiError(409, "subscription_exists", "The account has a live subscription.")


def account_lock(account_id: UUID) -> Account:
    """The account, locked: everything about its money and its plan is done one after the other."""
    # NO KEY: rows that point to the account (holds, usage) are inserted meanwhile.
    return Account.objects.select_for_update(no_key=True).get(pk=account_id)


def subscription_lock(subscription_id: UUID) -> Subscription:
    """The subscription as it is now, with its account and then its own row locked."""
    account_id = Subscription.objects.values_list("account_id", flat=True).get(pk=subscription_id)
    account = account_lock(account_id)
    subscription = (
        Subscription.objects.select_for_update(no_key=True, of=("self",))
        .select_related("plan", "price", "next_plan", "next_price", "coupon")
        .get(pk=subscription_id)
    )
    subscription.account = account
    return subscription


def subscription_moved(
    subscription: Subscription,
    to: str,
    *,
    actor: Actor,
    reason: str = "",
    at: datetime | None = None,
    what: str = "",
    after: dict[str, Any] | None = None,
) -> Subscription:
    """Move a locked subscription to the state `to`, save it whole and tell it as `subscription.<what>` (the state's name).

    Final states set `ended_at` to `at` (now). Raises SubscriptionMoveRefused for a move that `Subscription.MOVES` does not
    have, ApiError 409 `subscription_exists` where a move would make a second one live.
    """
    before = subscription.state
    if to not in Subscription.MOVES[before]:
        raise SubscriptionMoveRefused(before, to)
    subscription.state = to
    if to in FINAL:
        subscription.ended_at = at or clock.now()
    try:
        with transaction.atomic():
            subscription.save()
    except IntegrityError as error:
        if "subscription_one_live" not in str(error):
            raise
        raise subscription_exists() from None
    subscription_event(
        what or to,
        subscription,
        actor,
        before={"state": before},
        after={"state": to, "ended_at": instant_text(subscription.ended_at)} | (after or {}),
        reason=reason,
    )
    return subscription


def subscription_event(
    what: str,
    subscription: Subscription,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any],
    reason: str = "",
) -> None:
    """Tell something about a subscription in its account's timeline."""
    event_record(
        kind=f"subscription.{what}",
        object_type="subscription",
        object_id=subscription.pk,
        account_id=subscription.account_id,
        actor=actor,
        before=before,
        after=after,
        reason=reason,
    )


def instant_text(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
