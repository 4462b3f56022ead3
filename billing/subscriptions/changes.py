"""What customers and operators do to a running subscription: change its plan, cancel, pause, resume."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from django.db import transaction

from billing.events.services import Actor
from billing.invoices import services as invoices
from billing.invoices.balance import money_balance
from billing.invoices.models import Invoice
from billing.invoices.parties import profile_of
from billing.invoices.rounding import money_quantise
from billing.invoices.selectors import creditable, sold_gross, sold_value
from billing.ledger.models import Wallet
from billing.plans.models import Plan, PlanPrice, plan_price_at
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO
from iafactory.common.texts import Text

from .checkout import incomplete_expire
from .models import Subscription
from .moves import SubscriptionMoveRefused, instant_text, subscription_event, subscription_lock, subscription_moved
from .periods import period_end
from .plan_lots import credits_put_back, plan_lots_void, share_of, stretch_credits, stretch_of, unspent_share
from .pricing import WHOLE_UNIT_CURRENCIES, Proration, change_items, prorate
from .services import free_start, plan_open_to
from .settlement import PlanChange, change_apply, invoice_settled, next_invoice_withdraw, open_invoices_close

State = Subscription.State


@dataclass(frozen=True, slots=True)
class ChangeOffer:
    """What a change of plan comes to: for customers to see before, and for the change itself."""

    plan: Plan
    price: PlanPrice | None
    at_period_end: bool
    effective_at: datetime
    period_end: datetime | None
    keeps_period: bool
    proration: Proration
    currency: str
    balance: Decimal
    credits: Decimal

    @property
    def to_balance(self) -> Decimal:
        """Money that comes into the account's hand because more is given back than charged."""
        return max(-self.proration.net, ZERO)


@dataclass(frozen=True, slots=True)
class Changed:
    """A subscription after a change, or the draft that has to be paid before it."""

    subscription: Subscription
    offer: ChangeOffer
    to_pay: Invoice | None = None


def change_offer(*, subscription: Subscription, plan: Plan, when: str = "", now: datetime | None = None) -> ChangeOffer:
    """What changing to `plan` would come to, nothing changed. `when` is `now`, `period_end` or empty: dearer plans now, others
    at the period's end.

    ApiError 404 `plan_not_found`; 409 `plan_archived`, `plan_not_sold_in_currency`, `plan_unchanged`,
    `subscription_not_active`, `period_already_paid`.
    """
    now = now or clock.now()
    plan_open_to(plan, subscription.account)
    if plan.visibility == Plan.Visibility.HIDDEN and plan.only_account_id != subscription.account_id:
        raise ApiError(404, "plan_not_found", "There is no such plan.")
    if plan.pk == subscription.plan_id:
        raise ApiError(409, "plan_unchanged", "The subscription is on this plan.")
    if subscription.state != State.ACTIVE:
        raise ApiError(
            409,
            "subscription_not_active",
            Text("A subscription that is %(state)s does not change its plan.", state=subscription.state),
        )
    old_price = subscription.price
    currency = old_price.currency if old_price else subscription.account.currency
    price = plan_price_at(plan, currency, now)
    if price is None and plan.prices.filter(effective_from__lte=now).exists():
        raise ApiError(409, "plan_not_sold_in_currency", Text("This plan is not sold in %(currency)s.", currency=currency))
    if (
        price is not None
        and old_price is not None
        and price.tax_included != old_price.tax_included
        and subscription.period_value
    ):
        raise ApiError(409, "tax_terms_differ", "One price includes tax, the other does not: cancel and subscribe anew.")
    end = subscription.current_period_end
    if end is not None and subscription.paid_through is not None and subscription.paid_through > end:
        raise ApiError(409, "period_already_paid", "The next period is paid: change the plan when it has begun.")
    new_amount = price.amount if price else ZERO
    dearer = _a_day(plan, new_amount) > _a_day(subscription.plan, old_price.amount if old_price else ZERO)
    at_period_end = when == "period_end" or (not when and not dearer)
    if at_period_end and end is not None:
        nothing = Proration(ZERO, ZERO, Fraction(0), Fraction(0))
        next_end = period_end(plan=plan, start=end, anchor=subscription.billing_anchor, zone=subscription.account.zone)
        return ChangeOffer(
            plan, price, True, end, next_end, False, nothing, currency, money_balance(subscription.account_id, currency), ZERO
        )
    same_interval = (plan.interval, plan.interval_count) == (subscription.plan.interval, subscription.plan.interval_count)
    keeps_period = same_interval and end is not None
    start, _ = stretch_of(subscription)
    left = share_of(now, end, start, end) if end is not None else Fraction(0)
    new_share = Fraction(1)
    new_end = period_end(plan=plan, start=now, anchor=now, zone=subscription.account.zone)
    if keeps_period and end is not None:
        new_share, new_end = share_of(now, end, subscription.current_period_start, end), end
    proration = prorate(
        new_amount=new_amount,
        new_share=new_share,
        old_value=subscription.period_value,
        time_share=left,
        unspent_share=unspent_share(subscription),
        currency=currency,
    )
    return ChangeOffer(
        plan=plan,
        price=price,
        at_period_end=False,
        effective_at=now,
        period_end=new_end,
        keeps_period=keeps_period,
        proration=proration,
        currency=currency,
        balance=money_balance(subscription.account_id, currency),
        credits=stretch_credits(plan, new_share),
    )


def plan_change(
    *,
    subscription: Subscription,
    plan: Plan,
    actor: Actor,
    when: str = "",
    in_cash: bool = False,
    reason: str = "",
) -> Changed:
    """Change the plan: at the period's end, now without a payment, or now when the draft in the answer is paid.

    What is given back of the old plan is taken off the new one; more than that comes into the account's hand, by credit notes.
    Raises as `change_offer`.
    """
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        # Nobody spends credits between the reckoning and the change.
        Wallet.objects.select_for_update(no_key=True).filter(account=subscription.account_id).first()
        offer = change_offer(subscription=subscription, plan=plan, when=when)
        if offer.at_period_end:
            return Changed(_change_scheduled(subscription, offer, actor, reason), offer)
        change = PlanChange(
            plan=plan,
            price=offer.price,
            keeps_period=offer.keeps_period,
            charge=offer.proration.charge,
            unused=offer.proration.unused,
            unused_share=offer.proration.unused_share,
        )
        if offer.proration.net <= 0 or offer.price is None:
            next_invoice_withdraw(subscription, actor, "The plan was changed")
            if offer.to_balance:
                _give_back(subscription, offer.to_balance, offer.currency, f"Change to {plan.name}", actor)
            subscription = change_apply(subscription, change, actor=actor, currency=offer.currency, reason=reason)
            return Changed(subscription, offer)
        draft = _change_draft(subscription, offer, change, in_cash=in_cash)
        if draft.due > 0:
            return Changed(subscription, offer, draft)
        next_invoice_withdraw(subscription, actor, "The plan was changed")
        paid = invoices.invoice_finalise(invoice=draft, actor=actor, use_balance=False)
        invoice_settled(invoice=paid, actor=actor)
        subscription.refresh_from_db()
    return Changed(subscription, offer)


def change_forget(*, subscription: Subscription, actor: Actor, reason: str = "") -> Subscription:
    """Stay on the present plan: what was to change at the period's end does not. ApiError 409 `nothing_scheduled`,
    `period_already_paid`."""
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        if subscription.next_plan is None:
            raise ApiError(409, "nothing_scheduled", "No change is scheduled.")
        end = subscription.current_period_end
        if end is not None and subscription.paid_through is not None and subscription.paid_through > end:
            raise ApiError(409, "period_already_paid", "The next period is paid: change the plan when it has begun.")
        next_invoice_withdraw(subscription, actor, "The change was taken back")
        before = {"next_plan": subscription.next_plan.code}
        subscription.next_plan = subscription.next_price = None
        subscription.save(update_fields=["next_plan", "next_price"])
        subscription_event("change_forgotten", subscription, actor, before=before, after={"next_plan": None}, reason=reason)
    return subscription


def subscription_cancel(
    *, subscription: Subscription, actor: Actor, at_period_end: bool = True, reason: str = ""
) -> Subscription:
    """Cancel at the end of what is paid, or now; then the account is on the plan `free`.

    Now: nothing is given back, credits of the running period stay until it ends. A checkout that was not paid just ends.
    Raises SubscriptionMoveRefused where it has ended.
    """
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        if subscription.state == State.INCOMPLETE:
            incomplete_expire(subscription=subscription, actor=actor, reason=reason)
            subscription.refresh_from_db()
            return subscription
        can_wait = subscription.state in (State.ACTIVE, State.TRIALING) and subscription.current_period_end is not None
        if at_period_end and can_wait:
            if not subscription.cancel_at_period_end:
                next_invoice_withdraw(subscription, actor, "The subscription was canceled")
                subscription.cancel_at_period_end = True
                subscription.save(update_fields=["cancel_at_period_end"])
                after = {
                    "ends_at": instant_text(max(filter(None, (subscription.current_period_end, subscription.paid_through))))
                }
                subscription_event("cancel_scheduled", subscription, actor, after=after, reason=reason)
            return subscription
        return subscription_cancel_now(subscription, actor=actor, reason=reason)


def subscription_cancel_now(
    subscription: Subscription, *, actor: Actor, reason: str, at: datetime | None = None
) -> Subscription:
    """End a locked subscription at `at` (now) and put its account on `free`. What was not paid yet is not owed any more."""
    at = at or clock.now()
    open_invoices_close(subscription, actor, reason or "The subscription was canceled")
    subscription_moved(subscription, State.CANCELED, actor=actor, reason=reason, at=at)
    free_start(account=subscription.account, previous=subscription, actor=actor, at=at)
    return subscription


def subscription_pause(*, subscription: Subscription, actor: Actor, reason: str = "") -> Subscription:
    """Stop the time of a paid period; its rest, in time and credits, comes back with `subscription_resume`.

    ApiError 409 `subscription_not_pausable` for plans without a period, metered ones and such as end by themselves,
    `period_already_paid`; SubscriptionMoveRefused for one that is not active.
    """
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        if State.PAUSED not in Subscription.MOVES[subscription.state]:
            raise SubscriptionMoveRefused(subscription.state, State.PAUSED)
        now, end = clock.now(), subscription.current_period_end
        plan = subscription.plan
        if end is None or end <= now or plan.billing_mode == Plan.BillingMode.METERED or subscription.price is None:
            raise ApiError(409, "subscription_not_pausable", "This plan cannot be paused.")
        if subscription.paid_through is not None and subscription.paid_through > end:
            raise ApiError(409, "period_already_paid", "The next period is paid: pause when it has begun.")
        next_invoice_withdraw(subscription, actor, "The subscription was paused")
        credits, value = plan_lots_void(
            subscription, actor, reason="The subscription was paused", key=f"pause:{subscription.pk}:{now.isoformat()}"
        )
        subscription.paused_at, subscription.paused_credits, subscription.paused_value = now, credits, value
        after = {"credits_put_aside": str(credits), "time_left_seconds": int((end - now).total_seconds())}
        return subscription_moved(subscription, State.PAUSED, actor=actor, reason=reason, after=after)


def subscription_resume(*, subscription: Subscription, actor: Actor, reason: str = "") -> Subscription:
    """Go on: a paused period gets its rest, a scheduled cancellation is taken back. ApiError 409 `nothing_to_resume`."""
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        if subscription.state == State.PAUSED:
            return _unpause(subscription, actor, reason)
        if not subscription.cancel_at_period_end or subscription.state not in Subscription.LIVE:
            raise ApiError(409, "nothing_to_resume", "The subscription is neither paused nor about to end.")
        subscription.cancel_at_period_end = False
        subscription.save(update_fields=["cancel_at_period_end"])
        subscription_event("cancel_taken_back", subscription, actor, after={"cancel_at_period_end": False}, reason=reason)
    return subscription


def _unpause(subscription: Subscription, actor: Actor, reason: str) -> Subscription:
    now = clock.now()
    assert subscription.paused_at is not None
    assert subscription.current_period_end is not None
    end = subscription.current_period_end + (now - subscription.paused_at)
    credits, value = subscription.paused_credits, subscription.paused_value
    key = f"subscription:{subscription.pk}:resumed:{subscription.paused_at.isoformat()}"
    if subscription.paid_through is not None:
        subscription.paid_through = end
    subscription.current_period_end = subscription.billing_anchor = end
    subscription.paused_at, subscription.paused_credits, subscription.paused_value = None, ZERO, ZERO
    subscription_moved(
        subscription, State.ACTIVE, actor=actor, what="resumed", reason=reason, after={"current_period_end": instant_text(end)}
    )
    currency = subscription.price.currency if subscription.price else ""
    credits_put_back(subscription, actor, credits=credits, value=value, currency=currency, key=key)
    return subscription


def _change_scheduled(subscription: Subscription, offer: ChangeOffer, actor: Actor, reason: str) -> Subscription:
    next_invoice_withdraw(subscription, actor, "The plan changes at the period's end")
    subscription.next_plan, subscription.next_price = offer.plan, offer.price
    subscription.cancel_at_period_end = False
    subscription.save(update_fields=["next_plan", "next_price", "cancel_at_period_end"])
    after = {"next_plan": offer.plan.code, "effective_at": instant_text(offer.effective_at)}
    subscription_event("change_scheduled", subscription, actor, after=after, reason=reason)
    return subscription


def _change_draft(subscription: Subscription, offer: ChangeOffer, change: PlanChange, *, in_cash: bool) -> Invoice:
    assert offer.price is not None
    for old in Invoice.objects.filter(
        subscription_id=subscription.pk, purpose=Invoice.Purpose.CHANGE, state=Invoice.State.DRAFT, balance_applied__gt=0
    ):
        invoices.invoice_draft_discard(invoice=old, reason="Another change was asked for")
    old_price = subscription.price
    return invoices.invoice_draft(
        account=subscription.account,
        purpose=Invoice.Purpose.CHANGE,
        items=change_items(
            proration=offer.proration,
            old_plan=subscription.plan,
            new_plan=offer.plan,
            price=offer.price,
            old_tax_included=old_price.tax_included if old_price else True,
            start=offer.effective_at,
            end=offer.period_end,
            language=profile_of(subscription.account).language,
        ),
        currency=offer.currency,
        subscription_id=subscription.pk,
        period=(offer.effective_at, offer.period_end) if offer.period_end else None,
        checkout=change.write(subscription),
        whole_units=offer.currency in WHOLE_UNIT_CURRENCIES,
        in_cash=in_cash,
        use_balance=True,
    )


def _give_back(subscription: Subscription, amount: Decimal, currency: str, reason: str, actor: Actor) -> None:
    """Credit `amount` of what was paid for the running period, newest invoice first, into the account's hand."""
    rest = amount
    paid = Invoice.objects.filter(
        subscription_id=subscription.pk,
        kind=Invoice.Kind.INVOICE,
        state=Invoice.State.PAID,
        currency=currency,
        period_end__gt=subscription.current_period_start,
    )
    with_tax = False
    for invoice in paid.order_by("-issued_at", "-id"):
        value = sold_value(invoice)
        if not with_tax and value > 0:
            # Where prices are without tax the invoice knows what it adds.
            rest, with_tax = money_quantise(Fraction(rest) * Fraction(sold_gross(invoice)) / Fraction(value), currency), True
        part = min(rest, creditable(invoice))
        if part <= 0:
            continue
        invoices.credit_note_issue(
            invoice=invoice,
            amount=part,
            reason=reason,
            actor=actor,
            key=f"unused:{subscription.pk}:{clock.now().isoformat()}:{invoice.pk}",
            to_balance=True,
        )
        rest -= part
        if rest == 0:
            return


def _a_day(plan: Plan, amount: Decimal) -> Fraction:
    """A price by the day, to compare plans of different intervals."""
    days = {Plan.Interval.DAY: 1, Plan.Interval.MONTH: 30}.get(Plan.Interval(plan.interval), 0) * plan.interval_count
    return Fraction(amount) / days if days else Fraction(amount)
