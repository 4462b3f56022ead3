"""The invoices that come next if nothing changes: reckoned like the real ones, written nowhere."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from billing.accounts.models import Account
from billing.invoices.balance import money_balance
from billing.invoices.lines import LineItem, items_price
from billing.invoices.models import Invoice, SellerProfile
from billing.invoices.parties import profile_of, rule_chooser, seller_for
from billing.invoices.rounding import money_quantise
from billing.invoices.serializers import usage_url
from billing.ledger.serializers import instant_text
from billing.plans.models import Plan
from iafactory.common import clock
from iafactory.common.money import ZERO, plain

from .coupons import coupon_in_force
from .metered import OVERAGE_DUE_AFTER, subscription_overage
from .models import Subscription
from .periods import period_end
from .pricing import WHOLE_UNIT_CURRENCIES, overage_items, period_items
from .renewal import INVOICE_LEAD, INVOICE_LEAD_PARTS, next_terms
from .selectors import subscription_live


def invoices_upcoming(account: Account) -> list[dict[str, Any]]:
    """What will be billed to `account`: use beyond its plan so far, then the next period. Empty where nothing will be.

    A next period whose invoice was issued already is no longer upcoming.
    """
    subscription = subscription_live(account)
    if subscription is None or subscription.current_period_end is None:
        return []
    now = clock.now()
    in_hand: dict[str, Decimal] = {}
    found = (_overage(subscription, now, in_hand), _next_period(subscription, now, in_hand))
    return [invoice for invoice in found if invoice is not None]


def _overage(subscription: Subscription, now: datetime, in_hand: dict[str, Decimal]) -> dict[str, Any] | None:
    price, end = subscription.price, subscription.current_period_end
    if price is None or not price.overage_amount or end is None:
        return None
    burnt = subscription_overage(subscription)
    if burnt <= 0:
        return None
    items = overage_items(
        plan=subscription.plan,
        price=price,
        burnt=burnt,
        lot_id=subscription.pk,
        start=subscription.current_period_start,
        end=end,
        language=profile_of(subscription.account).language,
    )
    return _body(
        subscription.account,
        items,
        currency=price.currency,
        in_hand=in_hand,
        purpose=Invoice.Purpose.OVERAGE,
        final=False,
        plan=subscription.plan,
        expected_at=end,
        due_at=end + OVERAGE_DUE_AFTER,
        period=(subscription.current_period_start, end),
        now=now,
    )


def _next_period(subscription: Subscription, now: datetime, in_hand: dict[str, Decimal]) -> dict[str, Any] | None:
    plan, price = next_terms(subscription)
    start = subscription.current_period_end
    renews = plan.renews or subscription.next_plan is not None
    prepaid = subscription.paid_through is not None and start is not None and subscription.paid_through > start
    if price is None or not price.amount or start is None or prepaid or subscription.cancel_at_period_end or not renews:
        return None
    made = Invoice.objects.filter(
        subscription_id=subscription.pk, period_start=start, kind=Invoice.Kind.INVOICE, purpose=Invoice.Purpose.PERIOD
    )
    if made.exclude(state=Invoice.State.VOID).exists():
        return None
    end = period_end(plan=plan, start=start, anchor=subscription.billing_anchor, zone=subscription.account.zone)
    items = period_items(
        plan=plan,
        price=price,
        coupon=coupon_in_force(subscription),
        start=start,
        end=end,
        language=profile_of(subscription.account).language,
    )
    lead = min(INVOICE_LEAD, (start - subscription.current_period_start) / INVOICE_LEAD_PARTS)
    return _body(
        subscription.account,
        items,
        currency=price.currency,
        in_hand=in_hand,
        purpose=Invoice.Purpose.PERIOD,
        final=True,
        plan=plan,
        expected_at=max(start - lead, now),
        due_at=start,
        period=(start, end),
        now=now,
    )


def _body(
    account: Account,
    items: list[LineItem],
    *,
    currency: str,
    in_hand: dict[str, Decimal],
    purpose: str,
    final: bool,
    plan: Plan,
    expected_at: datetime,
    due_at: datetime,
    period: tuple[datetime, datetime | None],
    now: datetime,
) -> dict[str, Any]:
    profile = profile_of(account)
    seller: SellerProfile = seller_for(country=profile.country, day=now.date())
    rule_of = rule_chooser(seller, profile, now.astimezone(seller.zone).date())
    priced = items_price(items, rule_of=rule_of, currency=currency, whole_units=currency in WHOLE_UNIT_CURRENCIES)
    balance = in_hand.setdefault(currency, money_balance(account.pk, currency))
    applied = min(balance, priced.total)
    in_hand[currency] = balance - applied

    def money(amount: Decimal) -> Decimal:
        return money_quantise(amount, currency)

    return {
        "purpose": purpose,
        "final": final,
        "plan": plan.code,
        "expected_at": instant_text(expected_at),
        "due_at": instant_text(due_at),
        "period_start": instant_text(period[0]),
        "period_end": instant_text(period[1]) if period[1] is not None else None,
        "currency": currency,
        "lines": [
            {
                "kind": item.kind,
                "description": item.description,
                "quantity": plain(item.quantity),
                "unit_price": plain(item.amount if item.unit_price is None else item.unit_price),
                "tax_included": item.tax_included,
                "net": money(taxed.net),
                "tax": money(taxed.tax),
                "gross": money(taxed.gross),
                "usage_url": usage_url(item.kind, item.period_start, item.period_end) if not final else None,
            }
            for item, taxed in zip(priced.items, priced.taxed, strict=True)
        ],
        "taxes": [
            {"code": tax.code, "label": tax.label, "rate": plain(tax.rate), "base": total.net, "amount": tax.amount}
            for total in priced.totals
            for tax in total.taxes
        ],
        "net": money(priced.net),
        "tax": money(priced.tax),
        "total": money(priced.total),
        "balance_applied": money(max(applied, ZERO)),
        "amount_due": money(priced.total - max(applied, ZERO)),
    }
