"""Invoices as a table: one row per document, amounts as plain decimals, for accountants and their programs."""

from collections.abc import Iterator
from typing import Any

from django.db.models import Q, QuerySet

from iafactory.common.csv_tables import csv_chunk

from .models import Invoice
from .serializers import invoice_body

ROWS_AT_ONCE = 1000
COLUMNS = (
    *("number", "kind", "state", "purpose", "issue_date", "due_at", "paid_at", "currency", "net", "tax", "stamp_duty"),
    *("rounding", "total", "balance_applied", "amount_paid", "amount_due", "amount_credited", "payment_means", "corrects"),
    *("period_start", "period_end", "subscription_id"),
)
# What an operator's table has besides.
OPERATOR_COLUMNS = ("seller", "account_id", "customer", "customer_country", "customer_identifiers", "fx_rate", "id")


def invoices_after(invoices: QuerySet[Invoice], start: tuple[Any, Any] | None) -> QuerySet[Invoice]:
    """`invoices`, which are ordered newest first, after the (instant of issue, id) that a cursor names."""
    if start is None:
        return invoices
    at, invoice_id = start
    return invoices.filter(Q(issued_at__lt=at) | Q(issued_at=at, id__lt=invoice_id), issued_at__lte=at)


def csv_chunks(invoices: QuerySet[Invoice], *, for_operator: bool = False) -> Iterator[bytes]:
    """The table of issued documents, newest first, a thousand rows at a time: memory stays small."""
    columns = COLUMNS + OPERATOR_COLUMNS if for_operator else COLUMNS
    ordered = invoices.exclude(state=Invoice.State.DRAFT).select_related("corrects").order_by("-issued_at", "-id")
    head: list[Any] = [columns]
    start: tuple[Any, Any] | None = None
    while True:
        rows = list(invoices_after(ordered, start)[:ROWS_AT_ONCE])
        yield csv_chunk([*head, *([_row(invoice)[column] for column in columns] for invoice in rows)])
        if len(rows) < ROWS_AT_ONCE:
            return
        head, start = [], (rows[-1].issued_at, rows[-1].pk)


def _row(invoice: Invoice) -> dict[str, Any]:
    customer = invoice.customer_snapshot
    known = customer.get("identifiers") or {}
    return {
        **invoice_body(invoice),
        "seller": invoice.seller_code,
        "account_id": invoice.account_id,
        "customer": customer.get("name", ""),
        "customer_country": customer.get("country", ""),
        "customer_identifiers": ", ".join(f"{name} {known[name]}" for name in sorted(known)),
        "fx_rate": invoice.fx_rate,
    }
