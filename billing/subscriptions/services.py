"""Everything that begins, changes or ends a subscription.

Lock order: account, subscription, then what the ledger locks. Each function writes its event in the transaction of the change.
"""

from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction

from billing.accounts.models import Account
from billing.accounts.services import account_refusal
from billing.events.models import Event
from billing.events.services import Actor, event_record
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant, wallet_open
from billing.plans.models import Plan, PlanPrice, plan_price_at
from iafactory.common import clock
from iafactory.common.errors import ApiError

from . import selectors
from .models import Subscription
from .periods import period_end

FINAL = frozenset(state for state, moves in Subscription.MOVES.items() if not moves)


class SubscriptionMoveRefused(ApiError):
    """The state table has no such move: 409 `subscription_move_refused`."""

    def __init__(self, state: str, to: str) -> None:
        super().__init__(409, "subscription_move_refused", f"A subscription that is {state} cannot become {to}.")
        self.state = state
        self.to = to


def subscription_start(
    *,
    account: Account,
    plan: Plan,
    actor: Actor,
    currency: str | None = None,
    at: datetime | None = None,
    previous: Subscription | None = None,
    reason: str = "",
) -> Subscription:
    """Begin an active subscription at `at` (now), its anchor, and grant the first period's credits.

    The price is the one in force then. Operators and the system may start any plan without a payment; for a customer
    a plan that costs money is ApiError 402 `payment_required`. `currency` defaults to the account's, then to one the
    plan is sold in. Others: 409 `subscription_exists`, `plan_archived`, `plan_not_sold_in_currency`, 403 `account_closed`.
    """
    start = at or clock.now()
    if plan.visibility == Plan.Visibility.ARCHIVED:
        raise ApiError(409, "plan_archived", "This plan takes no new subscriptions.")
    price = _price(plan, account, currency, start)
    by_customer = actor.kind in (Event.ActorKind.USER, Event.ActorKind.SERVICE)
    if by_customer and price is not None and price.amount > 0:
        raise ApiError(402, "payment_required", "This plan begins with a payment.")
    with transaction.atomic():
        account = _account_lock(account)
        if account.status == Account.Status.CLOSED:
            raise account_refusal(account)
        if selectors.subscription_live(account) is not None:
            raise _subscription_exists()
        subscription = Subscription.objects.create(
            account=account,
            plan=plan,
            price=price,
            state=Subscription.State.ACTIVE,
            current_period_start=start,
            current_period_end=period_end(plan=plan, start=start, anchor=start, zone=account.zone),
            billing_anchor=start,
            previous=previous,
        )
        after = {
            "plan": plan.code,
            "price": str(price) if price else None,
            "state": subscription.state,
            "current_period_end": _text(subscription.current_period_end),
            "previous": str(previous.pk) if previous else None,
        }
        _event("subscription.started", subscription, actor, after=after, reason=reason)
        period_credits_grant(subscription, actor)
    return subscription


def subscription_move(
    *, subscription: Subscription, to: str, actor: Actor, reason: str = "", at: datetime | None = None
) -> Subscription:
    """Move to the state `to` under the row's lock. Final states set `ended_at` to `at` (now).

    Raises SubscriptionMoveRefused for a move that `Subscription.MOVES` does not have, 409 `subscription_exists` where a
    move would make a second one live.
    """
    with transaction.atomic():
        _account_lock(subscription.account)
        subscription = Subscription.objects.select_for_update(no_key=True).get(pk=subscription.pk)
        before = subscription.state
        if to not in Subscription.MOVES[before]:
            raise SubscriptionMoveRefused(before, to)
        subscription.state = to
        if to in FINAL:
            subscription.ended_at = at or clock.now()
        try:
            with transaction.atomic():
                subscription.save(update_fields=["state", "ended_at"])
        except IntegrityError as error:
            if "subscription_one_live" not in str(error):
                raise
            raise _subscription_exists() from None
        after = {"state": to, "ended_at": _text(subscription.ended_at)}
        _event(f"subscription.{to}", subscription, actor, before={"state": before}, after=after, reason=reason)
    return subscription


def subscription_end(*, subscription: Subscription, actor: Actor, reason: str = "", at: datetime | None = None) -> Subscription:
    """End a subscription now and for good: one never paid expires, others are canceled. Raises SubscriptionMoveRefused
    where it has ended before."""
    incomplete = subscription.state == Subscription.State.INCOMPLETE
    to = Subscription.State.EXPIRED if incomplete else Subscription.State.CANCELED
    return subscription_move(subscription=subscription, to=to, actor=actor, reason=reason, at=at)


def subscription_switch(
    *,
    account: Account,
    plan: Plan,
    actor: Actor,
    currency: str | None = None,
    at: datetime | None = None,
    reason: str = "",
) -> Subscription:
    """End the live subscription, if any, and start `plan` in its place, both or neither. On `plan` already: no change.

    Raises as `subscription_start`.
    """
    at = at or clock.now()
    with transaction.atomic():
        account = _account_lock(account)
        live = selectors.subscription_live(account)
        if live is not None and live.plan_id == plan.pk:
            return live
        if live is not None:
            subscription_end(subscription=live, actor=actor, reason=reason, at=at)
        return subscription_start(
            account=account, plan=plan, actor=actor, currency=currency, at=at, previous=live, reason=reason
        )


def period_credits_grant(subscription: Subscription, actor: Actor) -> None:
    """The plan's credits for the current period, once; they expire with it. A period that is over grants none."""
    plan, start, end = subscription.plan, subscription.current_period_start, subscription.current_period_end
    if plan.period_credits <= 0 or (end is not None and end <= clock.now()):
        return
    wallet_open(account=subscription.account)
    credits_grant(
        account_id=subscription.account_id,
        amount=plan.period_credits,
        kind=Lot.Kind.PLAN,
        source=f"Plan {plan.code}",
        reason="Period begins",
        actor=actor,
        idempotency_key=f"subscription:{subscription.pk}:{start.isoformat()}",
        effective_at=start,
        expires_at=end,
    )


def _price(plan: Plan, account: Account, currency: str | None, at: datetime) -> PlanPrice | None:
    if currency is not None:
        price = plan_price_at(plan, currency, at)
        if price is None:
            raise ApiError(409, "plan_not_sold_in_currency", f"This plan is not sold in {currency}.")
        return price
    price = plan_price_at(plan, account.currency, at)
    if price is not None:
        return price
    # Without any price the plan is free to hold: what is used of it costs (pay as you go).
    sold_in = plan.prices.filter(effective_from__lte=at).order_by("currency").values_list("currency", flat=True).first()
    return plan_price_at(plan, sold_in, at) if sold_in else None


def _account_lock(account: Account) -> Account:
    # NO KEY: rows that point to the account (holds, usage) are inserted meanwhile.
    return Account.objects.select_for_update(no_key=True).get(pk=account.pk)


def _subscription_exists() -> ApiError:
    return ApiError(409, "subscription_exists", "The account has a live subscription.")


def _event(
    kind: str,
    subscription: Subscription,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any],
    reason: str,
) -> None:
    event_record(
        kind=kind,
        object_type="subscription",
        object_id=subscription.pk,
        account_id=subscription.account_id,
        actor=actor,
        before=before,
        after=after,
        reason=reason,
    )


def _text(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
