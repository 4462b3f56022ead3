"""Billing what was used beyond a metered plan: what was burnt from a period's overage lot, once its last hold has closed."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import connection, transaction

from billing.events.services import SYSTEM, Actor
from billing.invoices import services as invoices
from billing.invoices.models import Invoice
from billing.invoices.parties import profile_of
from billing.ledger.models import LedgerTransaction, Lot
from billing.plans.models import PlanPrice
from iafactory.common import clock
from iafactory.common.money import ZERO

from .models import Subscription
from .moves import subscription_lock
from .pricing import WHOLE_UNIT_CURRENCIES, overage_items

# Lots that closed longer ago were billed, or had nothing to bill.
LOOK_BACK = timedelta(days=60)
OVERAGE_DUE_AFTER = timedelta(days=7)

_BURNT = """
    SELECT coalesce(sum(p.amount), 0) FROM billing_ledgertransaction t
    JOIN billing_ledgerentry e ON e.transaction_id = t.id
    CROSS JOIN LATERAL unnest(e.lot_ids, e.lot_amounts) AS p (lot_id, amount)
    WHERE t.account_id = %s AND t.kind = ANY (%s) AND e.amount < 0 AND p.lot_id = %s AND t.at >= %s
"""


def burnt_of(lot: Lot) -> Decimal:
    """Credits that calls and services took out of a lot: what the books say, down to the requests."""
    kinds = [LedgerTransaction.Kind.CALL, LedgerTransaction.Kind.REAPED, LedgerTransaction.Kind.CONSUME]
    with connection.cursor() as cursor:
        cursor.execute(_BURNT, [lot.wallet_id, [str(kind) for kind in kinds], lot.pk, lot.created_at])
        [burnt] = cursor.fetchone()
    return Decimal(burnt)


def overage_lots_due(*, now: datetime) -> Iterable[Lot]:
    """Overage lots that ended, hold nothing any more, and were used but not billed yet."""
    ended = Lot.objects.filter(
        kind=Lot.Kind.OVERAGE, expires_at__lte=now, expires_at__gt=now - LOOK_BACK, held=0, closed_at__isnull=False
    )
    billed = Invoice.objects.filter(purpose=Invoice.Purpose.OVERAGE).exclude(state=Invoice.State.VOID)
    known = set(billed.filter(created_at__gt=now - LOOK_BACK).values_list("origin_key", flat=True))
    return [lot for lot in ended.order_by("expires_at", "id") if _origin(lot) not in known]


def overage_bill(*, lot: Lot, actor: Actor = SYSTEM) -> Invoice | None:
    """Issue the invoice of what was burnt from a lot, once; None where nothing was, or its price asks nothing."""
    subscription_id, start, price_id = _lot_facts(lot)
    with transaction.atomic():
        subscription = subscription_lock(subscription_id)
        first = Invoice.objects.filter(origin_key=_origin(lot)).first()
        if first is not None:
            return first
        price = PlanPrice.objects.select_related("plan").filter(pk=price_id).first() if price_id else None
        burnt = burnt_of(lot)
        if price is None or not price.overage_amount or burnt <= 0:
            return None
        assert lot.expires_at is not None
        items = overage_items(
            plan=price.plan,
            price=price,
            burnt=burnt,
            lot_id=lot.pk,
            start=start,
            end=lot.expires_at,
            language=profile_of(subscription.account).language,
        )
        if items[0].amount == ZERO:
            return None
        draft = invoices.invoice_draft(
            account=subscription.account,
            purpose=Invoice.Purpose.OVERAGE,
            items=items,
            currency=price.currency,
            subscription_id=subscription.pk,
            period=(start, lot.expires_at),
            origin_key=_origin(lot),
            whole_units=price.currency in WHOLE_UNIT_CURRENCIES,
        )
        return invoices.invoice_finalise(invoice=draft, actor=actor, due_at=clock.now() + OVERAGE_DUE_AFTER)


def overage_run(*, now: datetime | None = None) -> int:
    """Bill every overage lot that is due; returns how many invoices were issued. Safe to repeat and at once."""
    now = now or clock.now()
    before = Invoice.objects.filter(purpose=Invoice.Purpose.OVERAGE).count()
    for lot in overage_lots_due(now=now):
        overage_bill(lot=lot)
    return Invoice.objects.filter(purpose=Invoice.Purpose.OVERAGE).count() - before


def _origin(lot: Lot) -> str:
    return f"overage:{lot.pk}"


def _lot_facts(lot: Lot) -> tuple[UUID, datetime, str]:
    """Subscription, beginning and price of an overage lot, from the key it was granted under."""
    _, subscription_id, rest = lot.grant_key.split(":", 2)
    start, _, price_id = rest.rpartition(":")
    return UUID(subscription_id), datetime.fromisoformat(start), price_id


def subscription_overage(subscription: Subscription) -> Decimal:
    """Credits used so far beyond the plan in the running period."""
    named = Lot.objects.filter(
        wallet=subscription.account_id,
        kind=Lot.Kind.OVERAGE,
        grant_key__startswith=f"overage:{subscription.pk}:",
        expires_at=subscription.current_period_end,
    )
    return sum((burnt_of(lot) for lot in named), ZERO)
