"""What a period, a change of plan or use beyond a plan costs: arithmetic only, with its lines for the invoice."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from billing.invoices.lines import LineItem
from billing.invoices.models import InvoiceLine
from billing.invoices.rounding import money_quantise
from billing.invoices.wording import shipped_name, words
from billing.plans.models import Coupon, Plan, PlanPrice
from iafactory.common.money import ZERO

# Nobody pays centimes, and Chargily takes whole dinars: such invoices end in whole units, by a rounding line.
WHOLE_UNIT_CURRENCIES = frozenset({"DZD"})


@dataclass(frozen=True, slots=True)
class Proration:
    """A change of plan in the middle of a period, in the price's currency, each rounded to the minor unit.

    `charge` is the new plan for the time left, `unused` what is given back of the old one; `net` may be negative.
    """

    charge: Decimal
    unused: Decimal
    time_share: Fraction
    unused_share: Fraction

    @property
    def net(self) -> Decimal:
        return self.charge - self.unused


def prorate(
    *,
    new_amount: Decimal,
    new_share: Fraction,
    old_value: Decimal,
    time_share: Fraction,
    unspent_share: Fraction,
    currency: str,
) -> Proration:
    """`new_share` of a period's price for the new plan, less `min(time_share, unspent_share)` of what was paid for the old."""
    unused_share = max(min(time_share, unspent_share), Fraction(0))
    return Proration(
        charge=money_quantise(Fraction(new_amount) * new_share, currency),
        unused=money_quantise(Fraction(old_value) * unused_share, currency),
        time_share=time_share,
        unused_share=unused_share,
    )


def discount_of(amount: Decimal, coupon: Coupon | None, currency: str) -> Decimal:
    """What `coupon` takes off `amount`: never more than all of it, and nothing in another currency than its own."""
    if coupon is None:
        return ZERO
    if coupon.kind == Coupon.Kind.PERCENT:
        assert coupon.percent is not None
        return money_quantise(Fraction(amount) * Fraction(coupon.percent) / 100, currency)
    assert coupon.amount is not None
    return min(money_quantise(coupon.amount, currency), amount) if coupon.currency == currency else ZERO


def period_items(
    *, plan: Plan, price: PlanPrice, coupon: Coupon | None, start: datetime, end: datetime | None, language: str
) -> list[LineItem]:
    """The lines of one period of a plan, with the coupon's discount."""
    say = words(language)
    amount = money_quantise(price.amount, price.currency)
    items = [
        LineItem(
            kind=InvoiceLine.Kind.PLAN,
            description=say.plan.format(plan=shipped_name(plan.name, language)),
            amount=amount,
            tax_included=price.tax_included,
            period_start=start,
            period_end=end,
            facts={"plan": plan.code, "price": str(price.pk)},
        )
    ]
    discount = discount_of(amount, coupon, price.currency)
    if coupon is not None and discount:
        items.append(
            LineItem(
                kind=InvoiceLine.Kind.DISCOUNT,
                description=say.discount.format(coupon=coupon.name),
                amount=-discount,
                tax_included=price.tax_included,
                period_start=start,
                period_end=end,
                facts={"coupon": coupon.code},
            )
        )
    return items


def change_items(
    *,
    proration: Proration,
    old_plan: Plan,
    new_plan: Plan,
    price: PlanPrice,
    old_tax_included: bool,
    start: datetime,
    end: datetime | None,
    language: str,
) -> list[LineItem]:
    """The lines of a change of plan: the new one for the time left, and the old one's unused part taken off."""
    say = words(language)
    items = [
        LineItem(
            kind=InvoiceLine.Kind.PRORATION,
            description=say.upgrade_new.format(plan=shipped_name(new_plan.name, language)),
            amount=proration.charge,
            tax_included=price.tax_included,
            period_start=start,
            period_end=end,
            facts={"plan": new_plan.code, "price": str(price.pk)},
        )
    ]
    if proration.unused:
        items.append(
            LineItem(
                kind=InvoiceLine.Kind.PRORATION,
                description=say.upgrade_unused.format(plan=shipped_name(old_plan.name, language)),
                amount=-proration.unused,
                tax_included=old_tax_included,
                period_start=start,
                period_end=end,
                facts={"plan": old_plan.code, "unused_share": str(proration.unused_share)},
            )
        )
    return items


def overage_items(
    *, plan: Plan, price: PlanPrice, burnt: Decimal, lot_id: UUID, start: datetime, end: datetime, language: str
) -> list[LineItem]:
    """The line of what was used beyond a metered plan: credits times the price of one, rounded once."""
    assert price.overage_amount is not None
    return [
        LineItem(
            kind=InvoiceLine.Kind.OVERAGE,
            description=words(language).overage.format(plan=shipped_name(plan.name, language)),
            quantity=burnt,
            unit_price=price.overage_amount,
            amount=money_quantise(Fraction(burnt) * Fraction(price.overage_amount), price.currency),
            tax_included=price.tax_included,
            period_start=start,
            period_end=end,
            lot_id=lot_id,
            facts={"plan": plan.code, "price": str(price.pk)},
        )
    ]
