"""How a customer begins a plan: at once when nothing is to be paid, else by paying a frozen draft."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from billing.accounts.models import Account
from billing.accounts.services import account_refusal
from billing.events.services import Actor, event_record
from billing.invoices import services as invoices
from billing.invoices.models import Invoice
from billing.invoices.parties import profile_of
from billing.plans.models import Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.errors import ApiError

from . import selectors
from .coupons import coupon_check, coupon_in_force, coupon_redeem, coupon_release
from .models import Subscription
from .moves import account_lock, instant_text, subscription_event, subscription_exists, subscription_lock, subscription_moved
from .periods import period_end
from .plan_lots import stretch_grant
from .pricing import WHOLE_UNIT_CURRENCIES, period_items
from .services import plan_open_to, price_for, subscription_switch
from .settlement import change_still_valid, invoice_settled, replace_live

# What a checkout froze is offered this long; a transfer takes days.
INCOMPLETE_DAYS = 7


@dataclass(frozen=True, slots=True)
class Begun:
    """A subscription, and the draft that has to be paid before it begins; None when it has begun."""

    subscription: Subscription
    to_pay: Invoice | None = None


def subscription_begin(
    *,
    account: Account,
    plan: Plan,
    actor: Actor,
    currency: str | None = None,
    coupon: str = "",
    trial: bool = True,
    in_cash: bool = False,
) -> Begun:
    """Begin `plan` for a customer: free plans and trials at once, others when the draft in the answer is paid.

    Asking again replaces a checkout that was not paid. ApiError 409 `subscription_exists` where a plan that costs money runs:
    it is changed, not replaced; 404 `plan_not_found`, `coupon_not_found`; 409 `plan_archived`, `plan_not_sold_in_currency`,
    `coupon_not_valid`; 403 `account_closed`.
    """
    plan_open_to(plan, account)
    if plan.visibility == Plan.Visibility.HIDDEN and plan.only_account_id != account.pk:
        raise ApiError(404, "plan_not_found", "There is no such plan.")
    with transaction.atomic():
        account = account_lock(account.pk)
        if account.status == Account.Status.CLOSED:
            raise account_refusal(account)
        now = clock.now()
        price = price_for(plan, account, currency, now)
        live = selectors.subscription_live(account)
        if live is not None and (costs_money(live) or live.plan_id == plan.pk):
            raise subscription_exists()
        found = coupon_check(code=coupon, account=account, plan=plan, price=price, lock=True) if coupon else None
        for abandoned in Subscription.objects.filter(account=account, state=Subscription.State.INCOMPLETE):
            incomplete_expire(subscription=abandoned, actor=actor, reason="Another checkout began")
        if price is None or price.amount == 0:
            return Begun(subscription_switch(account=account, plan=plan, actor=actor, currency=currency))
        subscription = Subscription(
            account=account,
            plan=plan,
            price=price,
            state=Subscription.State.INCOMPLETE,
            coupon=found,
            previous=live,
            created_at=now,
        )
        if trial and trial_available(account=account, plan=plan):
            return Begun(_trial_start(subscription, live, actor, now))
        _period_set(subscription, now)
        subscription.save()
        coupon_redeem(subscription)
        invoice = _draft(subscription, in_cash=in_cash)
        after = {"plan": plan.code, "price": str(price), "coupon": found.code if found else None, "due": str(invoice.due)}
        subscription_event("checkout_began", subscription, actor, after=after)
        if invoice.due > 0:
            return Begun(subscription, invoice)
        paid = invoices.invoice_finalise(invoice=invoice, actor=actor, use_balance=False)
        invoice_settled(invoice=paid, actor=actor)
        subscription.refresh_from_db()
    return Begun(subscription)


def billing_email_set(*, account: Account, email: str, actor: Actor) -> None:
    """Where the account's invoices and reminders go; no event where nothing changes."""
    with transaction.atomic():
        locked = account_lock(account.pk)
        if locked.billing_email == email:
            return
        before, locked.billing_email = locked.billing_email, email
        locked.save(update_fields=["billing_email"])
        event_record(
            kind="account.billing_email_changed",
            object_type="account",
            object_id=account.pk,
            account_id=account.pk,
            actor=actor,
            before={"billing_email": before},
            after={"billing_email": email},
        )


def costs_money(subscription: Subscription) -> bool:
    """Whether holding this subscription costs anything, now or after its trial."""
    return subscription.price is not None and subscription.price.amount > 0


def trial_available(*, account: Account, plan: Plan) -> bool:
    """Whether `account` may try `plan`: one trial per family of plans, ever."""
    if plan.trial_days == 0:
        return False
    tried = Subscription.objects.filter(account=account, plan__family=plan.family, trial_ends_at__isnull=False)
    return not tried.exists()


def checkout_prepare(*, invoice: Invoice, actor: Actor) -> bool:
    """Whether paying the draft `invoice` now still brings about what it sells; the period then begins now.

    Runs in the payment's transaction, with the account locked, before the draft is issued. Not any more when another plan that
    costs money runs meanwhile, or when the plan to be changed is not what it was.
    """
    if invoice.purpose == Invoice.Purpose.CHANGE:
        return change_still_valid(invoice)
    if invoice.purpose != Invoice.Purpose.PERIOD or invoice.subscription_id is None:
        return True
    subscription = subscription_lock(invoice.subscription_id)
    live = selectors.subscription_live(subscription.account)
    if live is not None and costs_money(live):
        return False
    if subscription.state not in (Subscription.State.INCOMPLETE, Subscription.State.EXPIRED) or subscription.paid_through:
        return False
    now = clock.now()
    if subscription.state == Subscription.State.EXPIRED:
        # Late money is money: the checkout was given up, its offer is kept in a row of its own.
        subscription = Subscription(
            account=subscription.account,
            plan=subscription.plan,
            price=subscription.price,
            state=Subscription.State.INCOMPLETE,
            coupon=subscription.coupon,
            previous=subscription,
            created_at=now,
        )
        _period_set(subscription, now)
        subscription.save(force_insert=True)
        after = {"plan": subscription.plan.code, "previous": str(subscription.previous_id)}
        subscription_event("checkout_resumed", subscription, actor, after=after, reason="Its payment came late")
    else:
        _period_set(subscription, now)
        subscription.save()
    period = (subscription.current_period_start, subscription.current_period_end)
    invoices.invoice_draft_period_set(invoice=invoice, subscription_id=subscription.pk, period=period)
    return True


def incomplete_expire(*, subscription: Subscription, actor: Actor, reason: str) -> None:
    """Give up a checkout that nobody paid: its coupon is free again, money put aside returns. Money that comes late still
    begins the plan, unless money in hand was part of the price."""
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        if subscription.state != Subscription.State.INCOMPLETE:
            return
        coupon_release(subscription)
        subscription_moved(subscription, Subscription.State.EXPIRED, actor=actor, reason=reason)
        for draft in Invoice.objects.filter(subscription_id=subscription.pk, state=Invoice.State.DRAFT):
            if draft.balance_applied:
                invoices.invoice_draft_discard(invoice=draft, reason=reason)


def _trial_start(subscription: Subscription, live: Subscription | None, actor: Actor, now: datetime) -> Subscription:
    zone = subscription.account.zone
    days = Plan(interval=Plan.Interval.DAY, interval_count=subscription.plan.trial_days)
    end = period_end(plan=days, start=now, anchor=now, zone=zone)
    assert end is not None
    replace_live(subscription, live, actor, now)
    subscription.state = Subscription.State.TRIALING
    subscription.current_period_start, subscription.current_period_end = now, end
    # The first paid period begins where the trial ends.
    subscription.billing_anchor = subscription.trial_ends_at = subscription.paid_through = end
    subscription.save(force_insert=True)
    coupon_redeem(subscription)
    after = {"plan": subscription.plan.code, "price": str(subscription.price), "trial_ends_at": instant_text(end)}
    subscription_event("trial_started", subscription, actor, after=after)
    stretch_grant(subscription, actor)
    return subscription


def _period_set(subscription: Subscription, start: datetime) -> None:
    end = period_end(plan=subscription.plan, start=start, anchor=start, zone=subscription.account.zone)
    subscription.current_period_start = subscription.billing_anchor = start
    subscription.current_period_end = end


def _draft(subscription: Subscription, *, in_cash: bool) -> Invoice:
    price: PlanPrice | None = subscription.price
    assert price is not None
    start, end = subscription.current_period_start, subscription.current_period_end
    return invoices.invoice_draft(
        account=subscription.account,
        purpose=Invoice.Purpose.PERIOD,
        items=period_items(
            plan=subscription.plan,
            price=price,
            coupon=coupon_in_force(subscription),
            start=start,
            end=end,
            language=profile_of(subscription.account).language,
        ),
        currency=price.currency,
        subscription_id=subscription.pk,
        period=(start, end) if end is not None else None,
        whole_units=price.currency in WHOLE_UNIT_CURRENCIES,
        in_cash=in_cash,
        use_balance=True,
    )
