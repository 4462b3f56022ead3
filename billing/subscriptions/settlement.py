"""What a paid invoice brings about: a plan begins, goes on, or changes, in the transaction that pays."""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_UP, Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from billing.events.services import Actor
from billing.invoices import services as invoices
from billing.invoices.models import Invoice, InvoiceLine
from billing.invoices.selectors import sold_gross, sold_value
from billing.ledger.models import Wallet
from billing.plans.models import Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import CREDIT, ZERO

from . import selectors
from .models import Subscription
from .moves import instant_text, subscription_event, subscription_lock, subscription_moved
from .periods import period_end
from .plan_lots import (
    PaidWith,
    next_period_grant,
    overage_lots_void,
    plan_lots_void,
    share_of,
    stretch_credits,
    stretch_grant,
    stretch_of,
    unspent_share,
)

State = Subscription.State


def invoice_settled(*, invoice: Invoice, actor: Actor, payment_id: UUID | None = None) -> None:
    """Do what a paid invoice of a subscription is for. Call it once, in the transaction that paid, with the account locked."""
    if invoice.state != Invoice.State.PAID or invoice.kind != Invoice.Kind.INVOICE or invoice.subscription_id is None:
        return
    match invoice.purpose:
        case Invoice.Purpose.PERIOD:
            _period_paid(subscription_lock(invoice.subscription_id), invoice, actor, payment_id)
        case Invoice.Purpose.CHANGE:
            _change_paid(subscription_lock(invoice.subscription_id), invoice, actor, payment_id)


def replace_live(subscription: Subscription, live: Subscription | None, actor: Actor, at: datetime) -> None:
    """End the plan that `subscription` replaces; the replaced plan's unspent credits end with it."""
    if live is not None:
        live = subscription_lock(live.pk)
        subscription_moved(live, State.CANCELED, actor=actor, reason="Replaced by another plan", at=at)
        plan_lots_void(live, actor, reason="The plan was replaced", key=f"switch:{live.pk}")


def _period_paid(subscription: Subscription, invoice: Invoice, actor: Actor, payment_id: UUID | None) -> None:
    paid = PaidWith(sold_gross(invoice), invoice.currency, payment_id)
    reduced = invoice.lines.filter(kind=InvoiceLine.Kind.DISCOUNT).exists()
    after: dict[str, Any] = {"invoice": invoice.number, "paid_through": instant_text(invoice.period_end)}
    if subscription.state == State.INCOMPLETE:
        live = selectors.subscription_live(subscription.account)
        replace_live(subscription, live, actor, subscription.current_period_start)
        subscription.previous = live or subscription.previous
    elif subscription.state not in (State.ACTIVE, State.TRIALING, State.PAST_DUE):
        return
    subscription.coupon_periods_used += reduced
    if invoice.period_start == subscription.current_period_end and subscription.state != State.INCOMPLETE:
        # The next period, before it begins.
        subscription.paid_through = invoice.period_end
        subscription.save()
        subscription_event("next_period_paid", subscription, actor, after=after)
        assert invoice.period_start is not None
        assert invoice.period_end is not None
        plan = subscription.next_plan or subscription.plan
        period = (invoice.period_start, invoice.period_end)
        next_period_grant(subscription, actor, plan=plan, period=period, paid=paid)
        return
    subscription.paid_through = subscription.current_period_end
    subscription.period_value = sold_value(invoice)
    subscription.past_due_since = subscription.grace_until = None
    if subscription.state in (State.INCOMPLETE, State.PAST_DUE):
        what = "activated" if subscription.state == State.INCOMPLETE else "renewed"
        subscription_moved(subscription, State.ACTIVE, actor=actor, what=what, after={"plan": subscription.plan.code} | after)
    else:
        subscription.save()
        subscription_event("renewed", subscription, actor, after=after)
    stretch_grant(subscription, actor, paid=paid)


@dataclass(frozen=True, slots=True)
class PlanChange:
    """A change of plan as it was offered: what is charged for the new plan, and which part of the old one is given back."""

    plan: Plan
    price: PlanPrice | None
    keeps_period: bool
    charge: Decimal
    unused: Decimal
    unused_share: Fraction

    def write(self, subscription: Subscription) -> dict[str, Any]:
        """The facts that a draft keeps, with those that must still hold when it is paid."""
        start, end = stretch_of(subscription)
        return {
            "plan": self.plan.code,
            "price": str(self.price.pk) if self.price else None,
            "keeps_period": self.keeps_period,
            "charge": str(self.charge),
            "unused": str(self.unused),
            "unused_share": str(self.unused_share),
            "subscription": str(subscription.pk),
            "from_plan": subscription.plan.code,
            "stretch_start": instant_text(start),
            "period_end": instant_text(end),
        }


def change_read(facts: dict[str, Any]) -> PlanChange:
    """The change that a draft keeps."""
    return PlanChange(
        plan=Plan.objects.get(code=facts["plan"]),
        price=PlanPrice.objects.get(pk=facts["price"]) if facts["price"] else None,
        keeps_period=facts["keeps_period"],
        charge=Decimal(facts["charge"]),
        unused=Decimal(facts["unused"]),
        unused_share=Fraction(facts["unused_share"]),
    )


def change_still_valid(invoice: Invoice) -> bool:
    """Whether the change that a draft sells can still be made as offered: same stretch, and credits that were promised back
    and spent since can be made good out of the new plan's."""
    assert invoice.subscription_id is not None
    subscription = subscription_lock(invoice.subscription_id)
    facts = invoice.checkout
    start, end = stretch_of(subscription)
    same = (
        subscription.state == State.ACTIVE
        and subscription.plan.code == facts["from_plan"]
        and (instant_text(start), instant_text(end)) == (facts["stretch_start"], facts["period_end"])
        and (end is None or end > clock.now())
        and (end is None or subscription.paid_through is None or subscription.paid_through <= end)
    )
    return same and _spent_since(subscription, change_read(facts)) is not None


def _spent_since(subscription: Subscription, change: PlanChange) -> Decimal | None:
    """Credits of the new plan that make good what was spent of the old one after the offer; None where they do not suffice.

    An old credit is worth what was to be given back for it, a new one what is charged for it.
    """
    share = unspent_share(subscription)
    if share >= change.unused_share or not change.unused or subscription.plan.period_credits <= 0:
        return ZERO
    owed = Fraction(change.unused) * (change.unused_share - share) / change.unused_share
    credits = _credits_of(subscription, change)
    if credits <= 0 or change.charge <= 0:
        return None
    exact = owed * Fraction(credits) / Fraction(change.charge)
    missing = (Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(CREDIT, ROUND_UP)
    return missing if missing <= credits else None


def _credits_of(subscription: Subscription, change: PlanChange) -> Decimal:
    """Credits that the new plan would grant now."""
    start, end, now = subscription.current_period_start, subscription.current_period_end, clock.now()
    if not change.keeps_period or end is None:
        return change.plan.period_credits
    return stretch_credits(change.plan, share_of(now, end, start, end))


def _change_paid(subscription: Subscription, invoice: Invoice, actor: Actor, payment_id: UUID | None) -> None:
    next_invoice_withdraw(subscription, actor, "The plan was changed")
    change_apply(
        subscription,
        change_read(invoice.checkout),
        actor=actor,
        currency=invoice.currency,
        payment_id=payment_id,
        after={"invoice": invoice.number},
    )


def change_apply(
    subscription: Subscription,
    change: PlanChange,
    *,
    actor: Actor,
    currency: str,
    payment_id: UUID | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> Subscription:
    """Put a locked subscription on its new plan now; the old plan's unspent credits are voided, the new one's granted.

    With the wallet locked first, so that nobody spends credits between the reckoning and the voiding.
    """
    Wallet.objects.select_for_update(no_key=True).filter(account=subscription.account_id).first()
    now = clock.now()
    less = _spent_since(subscription, change) or ZERO
    before = {
        "plan": subscription.plan.code,
        "price": str(subscription.price) if subscription.price else None,
        "current_period_end": instant_text(subscription.current_period_end),
    }
    voided, _ = plan_lots_void(
        subscription, actor, reason="The plan was changed", key=f"change:{subscription.pk}:{now.isoformat()}"
    )
    overage_lots_void(subscription, actor, reason="The plan was changed", key=f"change:{subscription.pk}:{now.isoformat()}")
    subscription.plan, subscription.price = change.plan, change.price
    if change.keeps_period:
        subscription.plan_since = now
    else:
        subscription.plan_since = None
        subscription.current_period_start = subscription.billing_anchor = now
        subscription.current_period_end = period_end(plan=change.plan, start=now, anchor=now, zone=subscription.account.zone)
    subscription.paid_through = subscription.current_period_end
    subscription.period_value = change.charge
    subscription.next_plan = subscription.next_price = None
    subscription.cancel_at_period_end = False
    coupon = subscription.coupon
    if coupon is not None and coupon.plans.exists() and not coupon.plans.filter(pk=change.plan.pk).exists():
        subscription.coupon = None
    subscription.save()
    subscription_event(
        "plan_changed",
        subscription,
        actor,
        before=before,
        after={
            "plan": change.plan.code,
            "price": str(change.price) if change.price else None,
            "current_period_end": instant_text(subscription.current_period_end),
            "credits_voided": str(voided),
            "charge": str(change.charge),
            "unused": str(change.unused),
        }
        | (after or {}),
        reason=reason,
    )
    stretch_grant(subscription, actor, paid=PaidWith(change.charge, currency, payment_id), less=less)
    return subscription


def next_invoice_withdraw(subscription: Subscription, actor: Actor, reason: str) -> None:
    """Void the unpaid invoice of the period that has not begun: it will not, or not like this.

    ApiError 409 `period_already_paid` where money was paid on it.
    """
    upcoming = Invoice.objects.filter(
        subscription_id=subscription.pk,
        purpose=Invoice.Purpose.PERIOD,
        state=Invoice.State.OPEN,
        period_start=subscription.current_period_end,
    )
    for invoice in upcoming:
        if invoice.amount_paid:
            raise ApiError(409, "period_already_paid", "The next period is paid in part: wait until it has begun.")
        invoices.invoice_void(invoice=invoice, reason=reason, actor=actor)


def open_invoices_close(subscription: Subscription, actor: Actor, reason: str) -> None:
    """Nobody owes periods that will not be: their invoices are voided; those paid in part are given up."""
    unpaid = Invoice.objects.filter(subscription_id=subscription.pk, purpose=Invoice.Purpose.PERIOD, state=Invoice.State.OPEN)
    for invoice in unpaid:
        if invoice.amount_paid:
            invoices.invoice_give_up(invoice=invoice, reason=reason, actor=actor)
        else:
            invoices.invoice_void(invoice=invoice, reason=reason, actor=actor)
