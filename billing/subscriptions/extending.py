"""Time that an operator gives to a running subscription without a payment."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from uuid import UUID

from django.db import transaction

from billing.events.services import Actor, form_first_use
from billing.ledger.services import lots_prolong
from billing.plans.models import Plan
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO
from iafactory.common.texts import Text

from .models import Subscription
from .moves import instant_text, subscription_event, subscription_lock
from .plan_lots import plan_lots, share_of, stretch_of
from .settlement import next_invoice_withdraw

State = Subscription.State
MOST_DAYS = 366


@dataclass(frozen=True, slots=True)
class Extension:
    """What `days` more come to. `worth` is the plan's price of them, in `currency`; `credits` live on until the new end."""

    days: int
    ends: datetime
    new_end: datetime
    worth: Decimal
    currency: str
    credits: Decimal
    value_before: Decimal
    value_after: Decimal


def extendable(subscription: Subscription, now: datetime) -> bool:
    """Whether a subscription has a running period that can be made longer."""
    end = subscription.current_period_end
    runs = subscription.state in (State.ACTIVE, State.TRIALING) and end is not None and end > now
    return runs and subscription.plan.billing_mode != Plan.BillingMode.METERED


def extension_offer(*, subscription: Subscription, days: int, now: datetime | None = None) -> Extension:
    """What making the running period `days` longer would come to, nothing changed.

    What was paid for the time left is spread over the longer time: a gift is not given back as money when the plan changes.
    ApiError 409 `subscription_not_extendable` (no running period, or a metered plan), `period_already_paid`, 400
    `invalid_request`.
    """
    now = now or clock.now()
    if not 1 <= days <= MOST_DAYS:
        raise ApiError(400, "invalid_request", Text("From 1 to %(days)s days.", days=MOST_DAYS), param="days")
    start, end = stretch_of(subscription)
    if end is None or not extendable(subscription, now):
        raise ApiError(409, "subscription_not_extendable", "This subscription has no running period that can be made longer.")
    if subscription.paid_through is not None and subscription.paid_through > end:
        raise ApiError(409, "period_already_paid", "The next period is paid: extend it when it has begun.")
    added = timedelta(days=days)
    price = subscription.price
    before, after = share_of(now, end, start, end), share_of(now, end + added, start, end + added)
    whole = share_of(end, end + added, subscription.current_period_start, end)
    value = Fraction(subscription.period_value)
    return Extension(
        days=days,
        ends=end,
        new_end=end + added,
        worth=_rounded(Fraction(price.amount) * whole) if price is not None else ZERO,
        currency=price.currency if price is not None else subscription.account.currency,
        credits=sum((lot.remaining - lot.held for lot in plan_lots(subscription)), ZERO),
        value_before=subscription.period_value,
        value_after=_rounded(value * before / after),
    )


def period_extend(
    *, subscription: Subscription, days: int, actor: Actor, reason: str, form_id: UUID | None = None
) -> Extension | None:
    """Make the running period `days` longer, its credits with it; what is charged next begins later. None for a used `form_id`.

    The next period's unpaid invoice is voided: it is issued again when it is due. Raises as `extension_offer`.
    """
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        if form_id is not None and not form_first_use(form_id):
            return None
        offer = extension_offer(subscription=subscription, days=days)
        next_invoice_withdraw(subscription, actor, "The running period was made longer")
        if subscription.paid_through is not None:
            subscription.paid_through = offer.new_end
        if subscription.trial_ends_at == offer.ends:
            subscription.trial_ends_at = offer.new_end
        subscription.current_period_end = subscription.billing_anchor = offer.new_end
        subscription.period_value = offer.value_after
        subscription.save(
            update_fields=["current_period_end", "billing_anchor", "paid_through", "trial_ends_at", "period_value"]
        )
        lots_prolong(lots=plan_lots(subscription), ends=offer.ends, until=offer.new_end)
        subscription_event(
            "extended",
            subscription,
            actor,
            before={"current_period_end": instant_text(offer.ends), "period_value": str(offer.value_before)},
            after={
                "current_period_end": instant_text(offer.new_end),
                "period_value": str(offer.value_after),
                "days": days,
                "worth": f"{offer.worth} {offer.currency}",
            },
            reason=reason,
        )
    return offer


def _rounded(amount: Fraction) -> Decimal:
    exact = Decimal(amount.numerator) / Decimal(amount.denominator)
    return exact.quantize(Decimal("0.0001"), ROUND_DOWN)
