"""What a purchase would come to: made for real by the services that sell, read, and rolled back. So an offer is never reckoned
in another way than its invoice."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import transaction

from billing.invoices.models import Invoice, InvoiceLine
from billing.invoices.rounding import money_quantise
from iafactory.common.money import ZERO, plain


@dataclass(frozen=True, slots=True)
class QuoteLine:
    """One thing sold, tax included as `gross`."""

    description: str
    net: Decimal
    gross: Decimal


@dataclass(frozen=True, slots=True)
class Quote:
    """A purchase as its invoice would have it; `due` is what remains after money in hand."""

    currency: str
    lines: list[QuoteLine]
    taxes: list[dict[str, Any]]
    net: Decimal
    tax: Decimal
    stamp_duty: Decimal
    rounding: Decimal
    total: Decimal
    balance_applied: Decimal
    due: Decimal


def quote_of(sell: Callable[[], Invoice | None]) -> Quote | None:
    """What the draft that `sell` makes comes to; None where nothing is to be paid. Nothing of it stays.

    Raises whatever `sell` raises.
    """
    with transaction.atomic():
        draft = sell()
        quote = None if draft is None else _read(draft)
        transaction.set_rollback(True)
    return quote


def _read(draft: Invoice) -> Quote:
    def money(amount: Decimal) -> Decimal:
        return money_quantise(amount, draft.currency)

    sold = [line for line in draft.lines.all() if line.kind in InvoiceLine.SOLD]
    taxes = [
        {
            "code": tax["code"],
            "label": tax["label"],
            "rate": plain(Decimal(tax["rate"])),
            "base": money(Decimal(entry["net"])),
            "amount": money(Decimal(tax["amount"])),
        }
        for entry in draft.tax_snapshot
        for tax in entry["taxes"]
    ]
    return Quote(
        currency=draft.currency,
        lines=[QuoteLine(line.description, money(line.amount), money(line.gross)) for line in sold],
        taxes=taxes,
        net=money(draft.net),
        tax=money(draft.tax_total),
        stamp_duty=money(draft.stamp_total),
        rounding=money(draft.rounding_total),
        total=money(draft.total),
        balance_applied=money(draft.balance_applied or ZERO),
        due=money(draft.due),
    )
