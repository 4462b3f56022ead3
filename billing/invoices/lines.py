"""From what is sold to an invoice's lines and totals, exact to the minor unit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from iafactory.common.money import ZERO

from .models import Invoice, InvoiceLine
from .rounding import whole_unit_rounding
from .tax import STANDARD, TaxableLine, TaxAmount, TaxedAmount, TaxRule, tax_rule_read, tax_rule_write, taxes_compute
from .wording import words


@dataclass(frozen=True, slots=True, kw_only=True)
class LineItem:
    """Something sold, or taken off: `amount` at the currency's minor unit, with or without tax as `tax_included` says."""

    kind: str
    description: str
    amount: Decimal
    quantity: Decimal = Decimal(1)
    unit_price: Decimal | None = None
    tax_included: bool = True
    category: str = STANDARD
    sac: str = ""
    period_start: datetime | None = None
    period_end: datetime | None = None
    lot_id: UUID | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PricedInvoice:
    """Items with their taxes, and the totals: `total == net + tax + stamp + rounding`."""

    items: tuple[LineItem, ...]
    taxed: tuple[TaxedAmount, ...]
    totals: tuple[TaxedAmount, ...]
    net: Decimal
    tax: Decimal
    rounding: Decimal
    stamp: Decimal

    @property
    def total(self) -> Decimal:
        return self.net + self.tax + self.rounding + self.stamp


def items_price(
    items: Iterable[LineItem],
    *,
    rule_of: Callable[[str], TaxRule],
    currency: str,
    whole_units: bool = False,
    stamp_of: Callable[[Decimal], Decimal] | None = None,
) -> PricedInvoice:
    """Taxes and totals of `items`; `rule_of` gives the tax rule of a category.

    `whole_units` rounds what is to be paid to whole units of the currency, on a line of its own (Chargily takes no centimes).
    `stamp_of` gives the stamp duty on an amount paid in cash; it is added last. ValueError for amounts finer than the minor
    unit.
    """
    items = tuple(items)
    rules = {category: rule_of(category) for category in {item.category for item in items}}
    taxed = taxes_compute(
        [TaxableLine(item.amount, rules[item.category], item.tax_included) for item in items], currency=currency
    )
    rounding = whole_unit_rounding(taxed.gross, currency) if whole_units else ZERO
    stamp = stamp_of(taxed.gross + rounding) if stamp_of is not None else ZERO
    return PricedInvoice(items, taxed.lines, taxed.totals, taxed.net, taxed.tax, rounding, stamp)


def lines_make(invoice: Invoice, priced: PricedInvoice) -> list[InvoiceLine]:
    """The rows of a priced invoice: what is sold, its taxes once per component, rounding, stamp duty. Not saved."""
    say = words(invoice.language)
    lines = [
        InvoiceLine(
            kind=item.kind,
            description=item.description[:300],
            quantity=item.quantity,
            unit_price=item.amount if item.unit_price is None else item.unit_price,
            amount=taxed.net,
            tax_included=item.tax_included,
            tax_amount=taxed.tax,
            gross=taxed.gross,
            taxes=taxes_write(taxed.taxes),
            tax_code=taxed.rule.code,
            tax_rate=taxed.rule.rate,
            sac=item.sac,
            period_start=item.period_start,
            period_end=item.period_end,
            lot_id=item.lot_id,
            facts=item.facts,
        )
        for item, taxed in zip(priced.items, priced.taxed, strict=True)
    ]
    lines += tax_lines(priced.totals)
    extras = (
        (InvoiceLine.Kind.ROUNDING, priced.rounding, say.rounding),
        (InvoiceLine.Kind.STAMP, priced.stamp, say.stamp_duty),
    )
    lines += [
        InvoiceLine(kind=kind, description=text, unit_price=amount, amount=amount, gross=amount)
        for kind, amount, text in extras
        if amount
    ]
    return lines_number(invoice, lines)


def tax_lines(totals: Sequence[TaxedAmount]) -> list[InvoiceLine]:
    """One line per component and rule, those of rate zero included: the law wants them shown."""
    return [
        InvoiceLine(
            kind=InvoiceLine.Kind.TAX,
            description=f"{tax.label} {percent_text(tax.rate)}",
            unit_price=tax.amount,
            amount=tax.amount,
            gross=tax.amount,
            tax_code=tax.code,
            tax_rate=tax.rate,
            facts={"base": str(total.net), "rule": total.rule.code},
        )
        for total in totals
        for tax in total.taxes
    ]


def lines_number(invoice: Invoice, lines: list[InvoiceLine]) -> list[InvoiceLine]:
    """`lines` as those of `invoice`, in their order."""
    for position, line in enumerate(lines, 1):
        line.invoice = invoice
        line.position = position
    return lines


def totals_write(totals: Sequence[TaxedAmount]) -> list[dict[str, Any]]:
    """The taxes of an invoice as its snapshot keeps them."""
    return [
        {
            "rule": tax_rule_write(total.rule),
            "net": str(total.net),
            "taxes": taxes_write(total.taxes),
            "gross": str(total.gross),
        }
        for total in totals
    ]


def taxes_write(taxes: Iterable[TaxAmount]) -> list[dict[str, str]]:
    return [{"code": tax.code, "label": tax.label, "rate": str(tax.rate), "amount": str(tax.amount)} for tax in taxes]


def taxed_read(line: InvoiceLine, invoice: Invoice) -> TaxedAmount:
    """An invoiced line as it was taxed then, whatever rules say today."""
    rules = {entry["rule"]["code"]: tax_rule_read(entry["rule"]) for entry in invoice.tax_snapshot}
    taxes = tuple(TaxAmount(tax["code"], tax["label"], Decimal(tax["rate"]), Decimal(tax["amount"])) for tax in line.taxes)
    return TaxedAmount(rules[line.tax_code], line.amount, taxes, line.gross)


def percent_text(rate: Decimal) -> str:
    """A fraction as people write it: 0.19 is `19 %`."""
    percent = (rate * 100).normalize()
    return f"{percent:f} %"
