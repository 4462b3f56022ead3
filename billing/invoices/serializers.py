"""Invoices as the API answers them, and the questions it takes."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

from django.urls import reverse
from rest_framework import serializers

from billing.accounts.serializers import LANGUAGE_CHOICES
from iafactory.common.errors import ApiError
from iafactory.common.money import plain

from .models import Invoice, InvoiceLine
from .rounding import money_quantise

# Of the seller as an invoice copied it; the rest is how numbers are made and taxes chosen.
_SELLER_FIELDS = (
    *("legal_name", "legal_form", "activity", "capital", "address", "city", "postal_code", "country", "region", "phone"),
    *("email", "website", "identifiers"),
)


class MoneyField(serializers.DecimalField):
    """Money in the invoice's currency, a JSON number at its minor unit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=18, decimal_places=4, coerce_to_string=False, **kwargs)


class ExactField(serializers.DecimalField):
    """A quantity, a price or a rate as a JSON number, exact."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=20, decimal_places=8, coerce_to_string=False, **kwargs)


class InvoiceQuerySerializer(serializers.Serializer):
    """Filters of the list."""

    state = serializers.ChoiceField(choices=[state for state in Invoice.State.values if state != "draft"], required=False)
    kind = serializers.ChoiceField(choices=Invoice.Kind.choices, required=False)
    purpose = serializers.ChoiceField(choices=Invoice.Purpose.choices, required=False)
    currency = serializers.RegexField("^[A-Z]{3}$", required=False, help_text="ISO 4217 code.")
    subscription_id = serializers.UUIDField(required=False)
    to = serializers.DateField(required=False, help_text="Issued on this day or before.")
    page_size = serializers.IntegerField(min_value=1, max_value=200, default=50)
    cursor = serializers.CharField(max_length=200, required=False, help_text="`next_cursor` of the page before.")

    def get_fields(self) -> dict[str, Any]:
        # `from` is a word of Python's own.
        first = {"from": serializers.DateField(required=False, help_text="Issued on this day or later.")}
        return {**first, **super().get_fields()}


class InvoiceSerializer(serializers.Serializer):
    """One issued document."""

    id = serializers.UUIDField()
    number = serializers.CharField()
    kind = serializers.ChoiceField(choices=Invoice.Kind.choices)
    state = serializers.ChoiceField(choices=Invoice.State.choices)
    purpose = serializers.ChoiceField(choices=Invoice.Purpose.choices)
    currency = serializers.CharField(help_text="ISO 4217 code.")
    net = MoneyField(help_text="Without tax.")
    tax = MoneyField()
    stamp_duty = MoneyField()
    rounding = MoneyField()
    total = MoneyField()
    balance_applied = MoneyField(help_text="Paid from money the account had in hand.")
    amount_paid = MoneyField(help_text="Paid by payments.")
    amount_due = MoneyField(help_text="Still to be paid; 0 where nothing is owed any more.")
    amount_credited = MoneyField(help_text="Taken back by credit notes.")
    issue_date = serializers.DateField(help_text="In the seller's time zone.")
    issued_at = serializers.DateTimeField()
    due_at = serializers.DateTimeField(allow_null=True)
    paid_at = serializers.DateTimeField(allow_null=True)
    payment_means = serializers.CharField(allow_null=True)
    corrects = serializers.CharField(allow_null=True, help_text="A credit note's invoice.")
    subscription_id = serializers.UUIDField(allow_null=True)
    period_start = serializers.DateTimeField(allow_null=True)
    period_end = serializers.DateTimeField(allow_null=True, help_text="Exclusive.")
    language = serializers.CharField()
    pdf_url = serializers.CharField(help_text="Path of the document.")


class InvoicePageSerializer(serializers.Serializer):
    results = InvoiceSerializer(many=True)
    next = serializers.URLField(allow_null=True)
    next_cursor = serializers.CharField(allow_null=True)


class TaxSerializer(serializers.Serializer):
    """One tax on all lines of one rate."""

    code = serializers.CharField(help_text="`TVA`, `CGST`, `SGST`, `IGST` …")
    label = serializers.CharField()
    rate = ExactField(help_text="A fraction: 0.19 is 19 %.")
    base = MoneyField()
    amount = MoneyField()


class InvoiceLineSerializer(serializers.Serializer):
    kind = serializers.CharField()
    description = serializers.CharField()
    quantity = ExactField()
    unit_price = ExactField(help_text="As sold: with tax where `tax_included`.")
    tax_included = serializers.BooleanField()
    net = MoneyField()
    tax = MoneyField()
    gross = MoneyField()
    tax_rate = ExactField(allow_null=True)
    sac = serializers.CharField(allow_null=True, help_text="India: service accounting code.")
    period_start = serializers.DateTimeField(allow_null=True)
    period_end = serializers.DateTimeField(allow_null=True, help_text="Exclusive.")
    usage_url = serializers.CharField(allow_null=True, help_text="Path of the calls behind what the line bills.")


class PartySerializer(serializers.Serializer):
    """Seller or customer as the document copied them."""

    name = serializers.CharField()
    legal_form = serializers.CharField()
    activity = serializers.CharField()
    address = serializers.CharField()
    city = serializers.CharField()
    postal_code = serializers.CharField()
    country = serializers.CharField()
    region = serializers.CharField()
    phone = serializers.CharField()
    email = serializers.CharField()
    identifiers = serializers.DictField(child=serializers.CharField(), help_text="rc, nif, ai, nis, gstin …")


class InvoiceDetailSerializer(InvoiceSerializer):
    seller = PartySerializer()
    customer = PartySerializer()
    lines = InvoiceLineSerializer(many=True)
    taxes = TaxSerializer(many=True)
    credit_notes = serializers.ListField(child=serializers.CharField(), help_text="Numbers.")


class UpcomingLineSerializer(serializers.Serializer):
    kind = serializers.CharField()
    description = serializers.CharField()
    quantity = ExactField()
    unit_price = ExactField()
    tax_included = serializers.BooleanField()
    net = MoneyField()
    tax = MoneyField()
    gross = MoneyField()
    usage_url = serializers.CharField(allow_null=True)


class UpcomingInvoiceSerializer(serializers.Serializer):
    """An invoice that will be issued if nothing changes."""

    purpose = serializers.ChoiceField(choices=Invoice.Purpose.choices)
    final = serializers.BooleanField(help_text="False: more may be used until the period ends.")
    plan = serializers.CharField()
    expected_at = serializers.DateTimeField(help_text="When it will be issued, at the earliest.")
    due_at = serializers.DateTimeField()
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField(allow_null=True, help_text="Exclusive.")
    currency = serializers.CharField()
    lines = UpcomingLineSerializer(many=True)
    taxes = TaxSerializer(many=True)
    net = MoneyField()
    tax = MoneyField()
    total = MoneyField()
    balance_applied = MoneyField(help_text="What money in hand will pay of it.")
    amount_due = MoneyField()


class UpcomingInvoicesSerializer(serializers.Serializer):
    results = UpcomingInvoiceSerializer(many=True)


class PdfQuerySerializer(serializers.Serializer):
    language = serializers.ChoiceField(choices=LANGUAGE_CHOICES, required=False, help_text="By default the document's own.")


def invoice_body(invoice: Invoice) -> dict[str, Any]:
    """An issued document in a list; `corrects` must be selected with it."""
    return {
        "id": invoice.pk,
        "number": invoice.number,
        "kind": invoice.kind,
        "state": invoice.state,
        "purpose": invoice.purpose,
        "currency": invoice.currency,
        "net": _money(invoice.net, invoice),
        "tax": _money(invoice.tax_total, invoice),
        "stamp_duty": _money(invoice.stamp_total, invoice),
        "rounding": _money(invoice.rounding_total, invoice),
        "total": _money(invoice.total, invoice),
        "balance_applied": _money(invoice.balance_applied, invoice),
        "amount_paid": _money(invoice.amount_paid, invoice),
        "amount_due": _money(amount_due(invoice), invoice),
        "amount_credited": _money(invoice.credited_total, invoice),
        "issue_date": invoice.issue_date,
        "issued_at": _instant(invoice.issued_at),
        "due_at": _instant(invoice.due_at),
        "paid_at": _instant(invoice.paid_at),
        "payment_means": invoice.payment_means or None,
        "corrects": invoice.corrects.number if invoice.corrects else None,
        "subscription_id": invoice.subscription_id,
        "period_start": _instant(invoice.period_start),
        "period_end": _instant(invoice.period_end),
        "language": invoice.language,
        "pdf_url": reverse("billing-invoice-pdf", args=[invoice.number]),
    }


def amount_due(invoice: Invoice) -> Decimal:
    """What the customer still has to pay: nothing of credit notes and of what was voided."""
    owed = invoice.kind == Invoice.Kind.INVOICE and invoice.state in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE)
    return invoice.due if owed else Decimal(0)


def invoice_detail(invoice: Invoice) -> dict[str, Any]:
    """An issued document with its parties, lines and taxes."""
    seller, customer = invoice.seller_snapshot, invoice.customer_snapshot
    sold = [line for line in invoice.lines.all() if line.kind in InvoiceLine.SOLD]
    return {
        **invoice_body(invoice),
        "seller": {"name": seller.get("legal_name", ""), **{name: seller.get(name, "") for name in _SELLER_FIELDS[1:]}},
        "customer": {name: customer.get(name, {} if name == "identifiers" else "") for name in PartySerializer().fields},
        "lines": [_line(line, invoice) for line in sold],
        "taxes": [
            {
                "code": tax["code"],
                "label": tax["label"],
                "rate": plain(Decimal(tax["rate"])),
                "base": _money(Decimal(entry["net"]), invoice),
                "amount": _money(Decimal(tax["amount"]), invoice),
            }
            for entry in invoice.tax_snapshot
            for tax in entry["taxes"]
        ],
        "credit_notes": [note.number for note in invoice.credit_notes.all() if note.number],
    }


def _line(line: InvoiceLine, invoice: Invoice) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "description": line.description,
        "quantity": plain(line.quantity),
        "unit_price": plain(line.unit_price),
        "tax_included": line.tax_included,
        "net": _money(line.amount, invoice),
        "tax": _money(line.tax_amount, invoice),
        "gross": _money(line.gross, invoice),
        "tax_rate": plain(line.tax_rate) if line.taxes and line.tax_rate is not None else None,
        "sac": line.sac or None,
        "period_start": _instant(line.period_start),
        "period_end": _instant(line.period_end),
        "usage_url": usage_url(line.kind, line.period_start, line.period_end),
    }


def usage_url(kind: str, start: datetime | None, end: datetime | None) -> str | None:
    """Path of the calls in the period a line bills; None for lines that bill no use."""
    if kind not in (InvoiceLine.Kind.PLAN, InvoiceLine.Kind.OVERAGE) or start is None:
        return None
    bounds = {"from": _instant(start)} | ({"to": _instant(end)} if end else {})
    return f"{reverse('billing-usage')}?{urlencode(bounds, quote_via=quote)}"


def cursor_write(invoice: Invoice) -> str:
    """Where a list goes on after `invoice`; read by the usage log's `cursor_read`."""
    if invoice.issued_at is None:
        raise ApiError(409, "invoice_not_issued", "A draft has no place in a list.")
    return f"{invoice.issued_at.astimezone(UTC):%Y%m%dT%H%M%S.%f}-{invoice.pk.hex}"


def _money(amount: Decimal, invoice: Invoice) -> Decimal:
    return money_quantise(amount, invoice.currency)


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
