"""How a subscription begins without a payment, moves, ends and gives way to another: what operators and the system do.

What customers pay for is in `checkout`, `changes` and `renewal`. Each function writes its event in the change's transaction.
"""

from datetime import datetime

from django.db import transaction

from billing.accounts.models import Account
from billing.accounts.services import account_refusal
from billing.events.models import Event
from billing.events.services import Actor
from billing.plans.models import Plan, PlanPrice, plan_price_at
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from . import selectors
from .models import Subscription
from .moves import (
    SubscriptionMoveRefused,
    account_lock,
    instant_text,
    subscription_event,
    subscription_exists,
    subscription_lock,
    subscription_moved,
)
from .periods import period_end
from .plan_lots import plan_lots_void, stretch_grant
from .settlement import open_invoices_close

__all__ = (
    "FREE_PLAN",
    "SubscriptionMoveRefused",
    "free_start",
    "is_paid",
    "period_credits_grant",
    "plan_open_to",
    "price_for",
    "subscription_end",
    "subscription_move",
    "subscription_start",
    "subscription_switch",
)

# What an account falls back to when the plan it paid for ends.
FREE_PLAN = "free"


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
    plan_open_to(plan, account)
    price = price_for(plan, account, currency, start)
    by_customer = actor.kind in (Event.ActorKind.USER, Event.ActorKind.SERVICE)
    if by_customer and price is not None and price.amount > 0:
        raise ApiError(402, "payment_required", "This plan begins with a payment.")
    with transaction.atomic():
        account = account_lock(account.pk)
        if account.status == Account.Status.CLOSED:
            raise account_refusal(account)
        if selectors.subscription_live(account) is not None:
            raise subscription_exists()
        end = period_end(plan=plan, start=start, anchor=start, zone=account.zone)
        subscription = Subscription.objects.create(
            account=account,
            plan=plan,
            price=price,
            state=Subscription.State.ACTIVE,
            current_period_start=start,
            current_period_end=end,
            billing_anchor=start,
            paid_through=end,
            previous=previous,
        )
        after = {
            "plan": plan.code,
            "price": str(price) if price else None,
            "state": subscription.state,
            "current_period_end": instant_text(subscription.current_period_end),
            "previous": str(previous.pk) if previous else None,
        }
        subscription_event("started", subscription, actor, after=after, reason=reason)
        stretch_grant(subscription, actor)
    return subscription


def subscription_move(
    *, subscription: Subscription, to: str, actor: Actor, reason: str = "", at: datetime | None = None
) -> Subscription:
    """Move to the state `to` under the row's lock. Final states set `ended_at` to `at` (now).

    Raises SubscriptionMoveRefused for a move that `Subscription.MOVES` does not have, 409 `subscription_exists` where a
    move would make a second one live.
    """
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        return subscription_moved(subscription, to, actor=actor, reason=reason, at=at)


def subscription_end(*, subscription: Subscription, actor: Actor, reason: str = "", at: datetime | None = None) -> Subscription:
    """End a subscription now and for good: one never paid expires, others are canceled. Raises SubscriptionMoveRefused
    where it has ended before."""
    incomplete = subscription.state == Subscription.State.INCOMPLETE
    to = Subscription.State.EXPIRED if incomplete else Subscription.State.CANCELED
    with transaction.atomic():
        ended = subscription_move(subscription=subscription, to=to, actor=actor, reason=reason, at=at)
        # Nobody owes periods that will not be.
        open_invoices_close(ended, actor, reason or "The subscription ended")
    return ended


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

    The old plan's unspent credits end with it; bought ones stay. Raises as `subscription_start`.
    """
    at = at or clock.now()
    with transaction.atomic():
        account = account_lock(account.pk)
        live = selectors.subscription_live(account)
        if live is not None and live.plan_id == plan.pk:
            return live
        if live is not None:
            live = subscription_end(subscription=live, actor=actor, reason=reason, at=at)
            plan_lots_void(live, actor, reason="The plan was replaced", key=f"switch:{live.pk}")
        return subscription_start(
            account=account, plan=plan, actor=actor, currency=currency, at=at, previous=live, reason=reason
        )


def free_start(*, account: Account, previous: Subscription, actor: Actor, at: datetime) -> Subscription | None:
    """Put an account whose plan ended on the plan `free`; None where there is none, or something is live already."""
    plan = Plan.objects.filter(code=FREE_PLAN).exclude(visibility=Plan.Visibility.ARCHIVED).first()
    if plan is None or account.status == Account.Status.CLOSED or selectors.subscription_live(account) is not None:
        return None
    return subscription_start(account=account, plan=plan, actor=actor, at=at, previous=previous, reason="The plan ended")


def is_paid(subscription: Subscription) -> bool:
    """Whether the running period was paid, or needs no payment."""
    if subscription.price is None or subscription.price.amount == 0 or subscription.current_period_end is None:
        return True
    return subscription.paid_through is not None and subscription.paid_through >= subscription.current_period_end


def period_credits_grant(subscription: Subscription, actor: Actor) -> None:
    """The plan's credits for the current period, once; they expire with it. None for a period that is over or not paid."""
    if is_paid(subscription):
        stretch_grant(subscription, actor)


def plan_open_to(plan: Plan, account: Account) -> None:
    """ApiError 409 `plan_archived`, 404 `plan_not_found` for a plan made for somebody else."""
    if plan.only_account_id is not None and plan.only_account_id != account.pk:
        raise ApiError(404, "plan_not_found", "There is no such plan.")
    if plan.visibility == Plan.Visibility.ARCHIVED:
        raise ApiError(409, "plan_archived", "This plan takes no new subscriptions.")


def price_for(plan: Plan, account: Account, currency: str | None, at: datetime) -> PlanPrice | None:
    """The price at which `account` gets `plan` at `at`: in `currency`, else its own, else one the plan is sold in.

    None for a plan without prices. ApiError 409 `plan_not_sold_in_currency`.
    """
    if currency is not None:
        price = plan_price_at(plan, currency, at)
        if price is None:
            raise ApiError(409, "plan_not_sold_in_currency", Text("This plan is not sold in %(currency)s.", currency=currency))
        return price
    price = plan_price_at(plan, account.currency, at)
    if price is not None:
        return price
    # Without any price the plan is free to hold: what is used of it costs (pay as you go).
    sold_in = plan.prices.filter(effective_from__lte=at).order_by("currency").values_list("currency", flat=True).first()
    return plan_price_at(plan, sold_in, at) if sold_in else None
