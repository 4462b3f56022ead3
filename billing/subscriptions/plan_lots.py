"""The credits that come with a plan: granted with each paid period, taken back when the plan is replaced or paused."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from uuid import UUID

from django.db.models import Q

from billing.events.services import Actor
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant, lot_void, wallet_open
from billing.plans.models import Plan
from iafactory.common import clock
from iafactory.common.money import CREDIT, ZERO

from .models import Subscription
from .periods import period_end


@dataclass(frozen=True, slots=True)
class PaidWith:
    """What paid for a plan's credits: the money, tax included, and the payment that brought it."""

    amount: Decimal = ZERO
    currency: str = ""
    payment_id: UUID | None = None


NOTHING_PAID = PaidWith()


def stretch_of(subscription: Subscription) -> tuple[datetime, datetime | None]:
    """The part of the running period on its present plan: from the last change of plan, or from the period's start."""
    start = subscription.current_period_start
    if subscription.plan_since is not None and subscription.plan_since > start:
        start = subscription.plan_since
    return start, subscription.current_period_end


def share_of(part_start: datetime, part_end: datetime, whole_start: datetime, whole_end: datetime) -> Fraction:
    """How much of a time another is, by microseconds, exactly."""
    microsecond = timedelta(microseconds=1)
    return Fraction((part_end - part_start) // microsecond, (whole_end - whole_start) // microsecond)


def grant_key(subscription: Subscription) -> str:
    """Idempotency key of the credits of the running stretch."""
    start, _ = stretch_of(subscription)
    replaced = start != subscription.current_period_start or subscription.plan_since == start
    suffix = f":{subscription.plan.code}" if replaced else ""
    return f"subscription:{subscription.pk}:{start.isoformat()}{suffix}"


def stretch_credits(plan: Plan, share: Fraction) -> Decimal:
    """A plan's credits for `share` of a period, rounded down to the millionth."""
    exact = Fraction(plan.period_credits) * share
    return (Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(CREDIT, ROUND_DOWN)


def stretch_share(subscription: Subscription) -> Fraction:
    """Which part of a period the running stretch is: 1 for a plan that runs from the period's start; a trial is a part too."""
    start, end = stretch_of(subscription)
    if end is not None and subscription.trial_ends_at == end:
        whole = period_end(plan=subscription.plan, start=start, anchor=start, zone=subscription.account.zone)
        return min(share_of(start, end, start, whole), Fraction(1)) if whole is not None else Fraction(1)
    if end is None or start == subscription.current_period_start:
        return Fraction(1)
    return share_of(start, end, subscription.current_period_start, end)


def stretch_grant(subscription: Subscription, actor: Actor, *, paid: PaidWith = NOTHING_PAID, less: Decimal = ZERO) -> None:
    """The plan's credits for the running stretch, once; they expire with the period. A period that is over grants none.

    `less` credits are left out: those of the plan before that were spent after their money was promised back.
    """
    plan = subscription.plan
    start, end = stretch_of(subscription)
    if end is not None and end <= clock.now():
        return
    amount = stretch_credits(plan, stretch_share(subscription)) - less
    if plan.period_credits > 0 and amount > 0:
        _grant(subscription, actor, Lot.Kind.PLAN, amount, grant_key(subscription), start, end, paid)
    if plan.billing_mode == Plan.BillingMode.METERED and plan.overage_ceiling and end is not None:
        key = f"overage:{subscription.pk}:{start.isoformat()}:{subscription.price_id or ''}"
        _grant(subscription, actor, Lot.Kind.OVERAGE, plan.overage_ceiling, key, start, end, NOTHING_PAID)


def next_period_grant(
    subscription: Subscription, actor: Actor, *, plan: Plan, period: tuple[datetime, datetime], paid: PaidWith
) -> None:
    """The credits of a period that was paid before it begins: they enter the balance when it does."""
    start, end = period
    if plan.period_credits > 0:
        key = f"subscription:{subscription.pk}:{start.isoformat()}"
        _grant(subscription, actor, Lot.Kind.PLAN, plan.period_credits, key, start, end, paid)


def credits_put_back(
    subscription: Subscription, actor: Actor, *, credits: Decimal, value: Decimal, currency: str, key: str
) -> None:
    """Credits that were put aside while the subscription was paused; they expire with its period."""
    if credits > 0:
        _grant(
            subscription,
            actor,
            Lot.Kind.PLAN,
            credits,
            key,
            clock.now(),
            subscription.current_period_end,
            PaidWith(value, currency if value else ""),
        )


def _grant(
    subscription: Subscription,
    actor: Actor,
    kind: str,
    amount: Decimal,
    key: str,
    start: datetime,
    end: datetime | None,
    paid: PaidWith,
) -> None:
    wallet_open(account=subscription.account)
    credits_grant(
        account_id=subscription.account_id,
        amount=amount,
        kind=kind,
        source=f"Plan {subscription.plan.code}",
        reason="Period begins",
        actor=actor,
        idempotency_key=key,
        effective_at=start,
        expires_at=end,
        paid_amount=paid.amount,
        paid_currency=paid.currency,
        payment_id=paid.payment_id,
    )


def plan_lots(subscription: Subscription) -> list[Lot]:
    """The lots of the subscription's plans that are alive now, oldest first."""
    now = clock.now()
    named = Lot.objects.filter(wallet=subscription.account_id, grant_key__startswith=f"subscription:{subscription.pk}:")
    alive = named.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now), closed_at__isnull=True, effective_at__lte=now)
    return list(alive.filter(kind=Lot.Kind.PLAN).order_by("created_at", "id"))


def unspent_share(subscription: Subscription) -> Fraction:
    """Which part of the running stretch's credits is neither spent nor held; 1 for a plan without credits."""
    if subscription.plan.period_credits <= 0:
        return Fraction(1)
    lots = plan_lots(subscription)
    amount = sum((lot.amount for lot in lots), ZERO)
    if amount <= 0:
        return Fraction(0)
    return Fraction(sum((lot.remaining - lot.held for lot in lots), ZERO)) / Fraction(amount)


def plan_lots_void(subscription: Subscription, actor: Actor, *, reason: str, key: str) -> tuple[Decimal, Decimal]:
    """Take the unheld rest of the subscription's plan credits; returns (credits, what was paid for them).

    What open holds pinned stays with them. Bought credits are other lots and never touched.
    """
    credits, value = ZERO, ZERO
    for lot in plan_lots(subscription):
        taken = lot_void(lot=lot, reason=reason, actor=actor, idempotency_key=f"{key}:{lot.pk}")
        credits += taken
        value += lot.paid_amount * taken / lot.amount
    return credits, value.quantize(Decimal("0.0001"), ROUND_DOWN)


def overage_lots_void(subscription: Subscription, actor: Actor, *, reason: str, key: str) -> None:
    """End what may still be used beyond the plan: what was burnt so far is billed when the lot closes."""
    named = Lot.objects.filter(wallet=subscription.account_id, grant_key__startswith=f"overage:{subscription.pk}:")
    for lot in named.filter(kind=Lot.Kind.OVERAGE, closed_at__isnull=True):
        lot_void(lot=lot, reason=reason, actor=actor, idempotency_key=f"{key}:{lot.pk}")
