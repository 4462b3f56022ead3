"""The passing of time: invoices for the next period, new periods, grace, and the end of what nobody pays.

`subscription_advance` brings one subscription up to date; the jobs call it for each that is due. It may come late, twice or
from two workers at once: the account's lock orders them, and each step looks at the row anew.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from billing.accounts.models import Account
from billing.events.services import SYSTEM, Actor
from billing.invoices import services as invoices
from billing.invoices.models import Invoice
from billing.invoices.parties import profile_of
from billing.invoices.selectors import sold_value
from billing.plans.models import Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.money import ZERO

from .coupons import coupon_in_force
from .dunning import EXPIRED, notice_queue
from .models import Subscription
from .moves import instant_text, subscription_event, subscription_lock, subscription_moved
from .periods import period_end
from .plan_lots import overage_lots_void, stretch_grant
from .pricing import WHOLE_UNIT_CURRENCIES, period_items
from .services import free_start
from .settlement import invoice_settled, open_invoices_close

State = Subscription.State

# A renewal is invoiced this long before its period, at most a fifth of the period.
INVOICE_LEAD = timedelta(hours=72)
INVOICE_LEAD_PARTS = 5
# How long an unpaid period is served: this part of it.
GRACE_PARTS = 10
# After a failure a subscription is tried again this much later.
RETRY_AFTER = timedelta(minutes=15)

_DUE = """
    SELECT s.id FROM billing_subscription s
    JOIN billing_plan p ON p.id = s.plan_id
    LEFT JOIN billing_planprice r ON r.id = coalesce(s.next_price_id, s.price_id)
    WHERE (%(among)s::uuid[] IS NULL OR s.id = ANY (%(among)s)) AND (s.next_attempt_at IS NULL OR s.next_attempt_at <= %(now)s)
      AND (s.state IN ('trialing', 'active') AND s.current_period_end <= %(now)s
           OR s.state = 'past_due' AND s.grace_until <= %(now)s
           OR s.state IN ('trialing', 'active') AND s.current_period_end <= %(now)s + %(lead)s
              AND s.current_period_end
                  - least(%(lead)s, (s.current_period_end - s.current_period_start) / %(parts)s) <= %(now)s
              AND NOT s.cancel_at_period_end AND (p.renews OR s.next_plan_id IS NOT NULL) AND r.amount > 0
              AND NOT EXISTS (SELECT 1 FROM billing_invoice i
                              WHERE i.subscription_id = s.id AND i.period_start = s.current_period_end
                                AND i.kind = 'invoice' AND i.purpose = 'period' AND i.state <> 'void'))
    ORDER BY s.current_period_end, s.id
    LIMIT %(limit)s
"""


def subscriptions_due(*, now: datetime, limit: int = 100_000, among: Sequence[UUID] | None = None) -> list[UUID]:
    """Ids of subscriptions, all or those `among`, for which something is to be done at `now`, the oldest first."""
    parameters: dict[str, Any] = {"now": now, "lead": INVOICE_LEAD, "parts": INVOICE_LEAD_PARTS, "limit": limit}
    parameters["among"] = None if among is None else list(among)
    with connection.cursor() as cursor:
        cursor.execute(_DUE, parameters)
        return [row[0] for row in cursor.fetchall()]


def subscription_advance(*, subscription: Subscription, actor: Actor = SYSTEM) -> Subscription:
    """Do everything that is due for one subscription, in one transaction; nothing where nothing is."""
    with transaction.atomic():
        subscription = subscription_lock(subscription.pk)
        now = clock.now()
        if subscription.next_attempt_at is not None or subscription.last_error:
            subscription.next_attempt_at, subscription.last_error = None, ""
            subscription.save(update_fields=["next_attempt_at", "last_error"])
        while _step(subscription, now, actor):
            pass
    return subscription


def _step(subscription: Subscription, now: datetime, actor: Actor) -> bool:
    """The next thing that is due; whether there may be more."""
    if subscription.state == State.PAST_DUE:
        if subscription.grace_until is None or now < subscription.grace_until:
            return False
        _expire(subscription, actor, at=subscription.grace_until, reason="Not paid within the grace time")
        return False
    end = subscription.current_period_end
    if subscription.state not in (State.ACTIVE, State.TRIALING) or end is None:
        return False
    prepaid = subscription.paid_through is not None and subscription.paid_through > end
    ends = not prepaid and (
        subscription.cancel_at_period_end or (not subscription.plan.renews and subscription.next_plan is None)
    )
    if now < end:
        lead = min(INVOICE_LEAD, (end - subscription.current_period_start) / INVOICE_LEAD_PARTS)
        if not ends and not prepaid and now >= end - lead:
            next_invoice_issue(subscription, actor)
        return False
    if ends:
        if subscription.cancel_at_period_end:
            open_invoices_close(subscription, actor, "The subscription was canceled")
            subscription_moved(subscription, State.CANCELED, actor=actor, reason="Canceled at the period's end", at=end)
            free_start(account=subscription.account, previous=subscription, actor=actor, at=end)
        else:
            _expire(subscription, actor, at=end, reason="The plan does not renew")
        return False
    _roll(subscription, now, actor)
    return True


def next_invoice_issue(subscription: Subscription, actor: Actor) -> Invoice | None:
    """Issue the invoice of the next period of a locked subscription, once; None for what costs nothing.

    Money in hand pays it as far as it goes; paid in full, the period is paid before it begins.
    """
    plan, price = next_terms(subscription)
    start = subscription.current_period_end
    if price is None or price.amount == 0 or start is None:
        return None
    made = Invoice.objects.filter(
        subscription_id=subscription.pk, period_start=start, kind=Invoice.Kind.INVOICE, purpose=Invoice.Purpose.PERIOD
    )
    existing = made.exclude(state=Invoice.State.VOID).first()
    if existing is not None:
        return existing
    end = period_end(plan=plan, start=start, anchor=subscription.billing_anchor, zone=subscription.account.zone)
    invoice = invoices.invoice_draft(
        account=subscription.account,
        purpose=Invoice.Purpose.PERIOD,
        items=period_items(
            plan=plan,
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
    )
    invoice = invoices.invoice_finalise(invoice=invoice, actor=actor, due_at=start)
    invoice_settled(invoice=invoice, actor=actor)
    if invoice.state == Invoice.State.PAID:
        subscription.refresh_from_db()
    return invoice


def next_terms(subscription: Subscription) -> tuple[Plan, PlanPrice | None]:
    """The plan and the price of the next period: as pinned, unless something else was agreed."""
    if subscription.next_plan is not None:
        return subscription.next_plan, subscription.next_price
    return subscription.plan, subscription.next_price or subscription.price


def _roll(subscription: Subscription, now: datetime, actor: Actor) -> None:
    """Begin the next period of a locked subscription, on the terms agreed for it; past due where it is not paid."""
    start = subscription.current_period_end
    assert start is not None
    plan, price = next_terms(subscription)
    free = price is None or price.amount == 0
    end = period_end(plan=plan, start=start, anchor=subscription.billing_anchor, zone=subscription.account.zone)
    missed = end is not None and end <= now and not _next_invoice_exists(subscription)
    if not free and not missed:
        # Late jobs come here without an invoice.
        next_invoice_issue(subscription, actor)
    before = {"plan": subscription.plan.code, "current_period_end": instant_text(start)}
    subscription.plan, subscription.price = plan, price
    subscription.next_plan = subscription.next_price = None
    subscription.current_period_start, subscription.current_period_end = start, end
    subscription.plan_since = None
    invoice = _period_invoice(subscription)
    subscription.period_value = sold_value(invoice) if invoice is not None and invoice.state == Invoice.State.PAID else ZERO
    after = {"plan": plan.code, "current_period_start": instant_text(start), "current_period_end": instant_text(end)}
    if free or missed or end is None:
        # A period that passed while no job ran was neither offered nor billed.
        subscription.paid_through = end
    if subscription.paid_through is not None and (end is None or subscription.paid_through >= end):
        if subscription.state == State.TRIALING:
            subscription_moved(subscription, State.ACTIVE, actor=actor, what="renewed", after=after)
        else:
            subscription.save()
            subscription_event("renewed", subscription, actor, before=before, after=after | {"missed": missed})
        stretch_grant(subscription, actor)
        return
    assert invoice is not None
    assert invoice.issued_at is not None
    subscription.past_due_since = start
    subscription.grace_until = max(start, invoice.issued_at) + grace_of(start, end)
    after |= {"invoice": invoice.number, "grace_until": instant_text(subscription.grace_until)}
    subscription_moved(subscription, State.PAST_DUE, actor=actor, reason="The period began unpaid", after=after)


def grace_of(start: datetime, end: datetime | None) -> timedelta:
    """How long an unpaid period is served: a tenth of it, in whole seconds."""
    if end is None:
        return timedelta(0)
    return timedelta(seconds=(end - start) // timedelta(seconds=1) // GRACE_PARTS)


def _period_invoice(subscription: Subscription) -> Invoice | None:
    """The invoice of the running period, voided ones aside."""
    made = Invoice.objects.filter(
        subscription_id=subscription.pk,
        period_start=subscription.current_period_start,
        kind=Invoice.Kind.INVOICE,
        purpose=Invoice.Purpose.PERIOD,
    )
    return made.exclude(state=Invoice.State.VOID).first()


def _next_invoice_exists(subscription: Subscription) -> bool:
    return (
        Invoice.objects.filter(
            subscription_id=subscription.pk,
            period_start=subscription.current_period_end,
            kind=Invoice.Kind.INVOICE,
            purpose=Invoice.Purpose.PERIOD,
        )
        .exclude(state=Invoice.State.VOID)
        .exists()
    )


def _expire(subscription: Subscription, actor: Actor, *, at: datetime, reason: str) -> None:
    """End a locked subscription that nobody pays for any more; its account falls back to `free`."""
    unpaid = Invoice.objects.filter(
        subscription_id=subscription.pk, purpose=Invoice.Purpose.PERIOD, state=Invoice.State.OPEN
    ).first()
    open_invoices_close(subscription, actor, reason)
    if unpaid is not None:
        notice_queue(subscription=subscription, invoice_id=unpaid.pk, template=EXPIRED)
    overage_lots_void(subscription, actor, reason=reason, key=f"expired:{subscription.pk}")
    subscription_moved(subscription, State.EXPIRED, actor=actor, reason=reason, at=at)
    free_start(account=subscription.account, previous=subscription, actor=actor, at=at)


def subscription_failed(*, subscription_id: UUID, error: str) -> None:
    """Remember why a subscription could not be brought up to date, and try it again later."""
    Subscription.objects.filter(pk=subscription_id).update(next_attempt_at=clock.now() + RETRY_AFTER, last_error=error[:500])


def account_free_to_work_on(subscription_id: UUID) -> bool:
    """Whether nobody else works on the subscription's account; locks it until the transaction ends if so."""
    account = Account.objects.filter(subscriptions=subscription_id).select_for_update(
        no_key=True, of=("self",), skip_locked=True
    )
    return account.first() is not None
