"""Reading invoices, always of one account."""

from decimal import Decimal

from django.db.models import QuerySet

from billing.accounts.models import Account
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO

from .models import Invoice, InvoiceLine


def invoices_of_account(account: Account) -> QuerySet[Invoice]:
    """What was issued to `account`, newest first; drafts are nobody's business yet."""
    return Invoice.objects.filter(account=account).exclude(state=Invoice.State.DRAFT).order_by("-issued_at", "-id")


def invoice_of_account(*, account: Account, number: str) -> Invoice:
    """One issued document of `account` by its number; ApiError 404 `not_found` for another's and for none."""
    invoice = invoices_of_account(account).select_related("account", "seller").filter(number=number).first()
    if invoice is None:
        raise ApiError(404, "not_found", "There is no such object.")
    return invoice


def creditable(invoice: Invoice) -> Decimal:
    """What of an invoice can still be credited, tax included: what was sold, without stamp duty and rounding."""
    return min(sold_gross(invoice), invoice.total) - invoice.credited_total


def sold_value(invoice: Invoice) -> Decimal:
    """What its lines sell, discounts taken off, as the prices have it: with tax where they include it, without where not."""
    lines = [line for line in invoice.lines.all() if line.kind in InvoiceLine.SOLD]
    return sum((line.gross if line.tax_included else line.amount for line in lines), ZERO)


def sold_gross(invoice: Invoice) -> Decimal:
    """What its lines sell, discounts taken off, tax included."""
    return sum((line.gross for line in invoice.lines.all() if line.kind in InvoiceLine.SOLD), ZERO)
