"""What an issued invoice prints: from its own copies of seller, customer and taxes alone, so that it never changes."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from iafactory.common.money import ZERO

from .document import LANGUAGES, DocumentKind, DocumentLine, DocumentMark, DocumentTax, InvoiceDocument, Party
from .identifiers import IDENTIFIERS, INDIAN_STATES
from .models import Invoice, InvoiceLine, InvoicePdf
from .pdf.formatting import country_name
from .rounding import is_quantised, minor_unit, money_quantise
from .tax import TaxScope

_Edition = InvoicePdf.Edition

# The places of a unit price that has no exact one: a price with tax divided by a quantity.
UNIT_PRICE = Decimal("0.000001")
_PRINTING_ORDER = [name for identifiers in IDENTIFIERS.values() for name in identifiers]
_MARKS = {_Edition.PAID: DocumentMark.PAID, _Edition.VOID: DocumentMark.VOID}


def edition_of(invoice: Invoice) -> InvoicePdf.Edition:
    """What has become of an issued invoice, as far as paper shows it."""
    if invoice.state == Invoice.State.VOID:
        return _Edition.VOID
    return _Edition.PAID if invoice.state == Invoice.State.PAID else _Edition.ISSUED


def language_of(invoice: Invoice) -> str:
    """The language an invoice is printed in: its own, English for one that documents are not written in."""
    return invoice.language if invoice.language in LANGUAGES else "en"


def document_of(invoice: Invoice, *, edition: InvoicePdf.Edition, language: str = "") -> InvoiceDocument:
    """The document of an issued invoice, by default in its own language.

    The issued edition says what was owed then: later payments are told by the paid one. ValueError for a draft.
    """
    if invoice.number is None or invoice.issue_date is None:
        raise ValueError("a draft is not printed")
    language = language or language_of(invoice)
    zone = invoice.seller.zone
    is_paid = edition == _Edition.PAID
    owed = edition == _Edition.ISSUED and invoice.kind == Invoice.Kind.INVOICE
    scopes = {entry["rule"]["scope"] for entry in invoice.tax_snapshot}
    seller, customer = invoice.seller_snapshot, invoice.customer_snapshot
    taxes = _taxes(invoice)
    is_indian = seller.get("country") == "IN" and bool(seller.get("tax_registered"))
    corrects = invoice.corrects
    return InvoiceDocument(
        kind=DocumentKind(invoice.kind),
        language=language,
        currency=invoice.currency,
        number=invoice.number,
        issue_date=invoice.issue_date,
        seller=_party(seller, name=str(seller.get("legal_name", ""))),
        customer=_party(customer, name=str(customer.get("name", ""))),
        lines=tuple(_line(line, invoice, zone) for line in invoice.lines.all() if line.kind in InvoiceLine.SOLD),
        net=_minor(invoice.net, invoice),
        taxes=taxes,
        total=_minor(invoice.total, invoice),
        stamp_duty=_minor(invoice.stamp_total, invoice),
        rounding=_minor(invoice.rounding_total, invoice),
        balance_applied=_minor(invoice.balance_applied, invoice) if invoice.kind == Invoice.Kind.INVOICE else ZERO,
        amount_paid=_minor(invoice.amount_paid, invoice) if is_paid and invoice.kind == Invoice.Kind.INVOICE else ZERO,
        due_date=_day(invoice.due_at, zone) if owed else None,
        payment_means=invoice.payment_means if is_paid else "",
        payment_date=_day(invoice.paid_at, zone) if is_paid and invoice.total else None,
        bank_details=str(seller.get("bank_details", "")) if owed and invoice.total > invoice.balance_applied else "",
        mentions=_mentions(invoice, language),
        place_of_supply=_place(seller, customer, language) if is_indian else "",
        reverse_charge=TaxScope.REVERSE_CHARGE in scopes if is_indian else None,
        is_tax_invoice=is_indian and bool(taxes) and invoice.kind == Invoice.Kind.INVOICE,
        corrected_number=(corrects.number or "") if corrects else "",
        corrected_date=corrects.issue_date if corrects else None,
        mark=_MARKS.get(edition, DocumentMark.NONE),
    )


def _minor(amount: Decimal, invoice: Invoice) -> Decimal:
    """Stored money has four places; paper shows the currency's."""
    if not is_quantised(amount, invoice.currency):
        raise ValueError(f"{invoice.number}: {amount} {invoice.currency} is finer than the currency's minor unit")
    return money_quantise(amount, invoice.currency)


def _day(at: datetime | None, zone: ZoneInfo) -> date | None:
    return at.astimezone(zone).date() if at is not None else None


def _party(snapshot: dict[str, Any], *, name: str) -> Party:
    known = snapshot.get("identifiers") or {}
    # JSON in the database forgets the order.
    names = [code for code in _PRINTING_ORDER if code in known] + sorted(set(known) - set(_PRINTING_ORDER))
    plain = ("legal_form", "activity", "capital", "address", "postal_code", "city", "country", "phone", "email", "website")
    texts = {field: str(snapshot.get(field) or "") for field in plain}
    return Party(
        name=name,
        region=_region(str(snapshot.get("region") or ""), texts["country"]),
        identifiers=tuple((code, str(known[code])) for code in names if known[code]),
        **texts,
    )


def _region(code: str, country: str) -> str:
    """Indian states by name and code, as rule 46 wants them; elsewhere what was entered."""
    return f"{INDIAN_STATES[code]} ({code})" if country == "IN" and code in INDIAN_STATES else code


def _place(seller: dict[str, Any], customer: dict[str, Any], language: str) -> str:
    """Place of supply: the customer's state, the seller's when none is on record, the country of an export."""
    country = str(customer.get("country") or "")
    if country != "IN":
        return country_name(country, language)
    return _region(str(customer.get("region") or seller.get("region") or ""), "IN")


def _line(line: InvoiceLine, invoice: Invoice, zone: ZoneInfo) -> DocumentLine:
    amount = _minor(line.amount, invoice)
    exact = amount / line.quantity if line.quantity else amount
    # What was sold without tax keeps the price it was sold at.
    unit_price = line.unit_price if not line.tax_included else exact.quantize(UNIT_PRICE)
    last = line.period_end - timedelta(microseconds=1) if line.period_end else None
    return DocumentLine(
        description=line.description,
        quantity=line.quantity,
        unit_price=money_quantise(unit_price, invoice.currency) if is_quantised(unit_price, invoice.currency) else unit_price,
        amount=amount,
        tax_rate=line.tax_rate if line.taxes else None,
        sac=line.sac,
        first_day=_day(line.period_start, zone) if last else None,
        last_day=_day(last, zone),
    )


def _taxes(invoice: Invoice) -> tuple[DocumentTax, ...]:
    unit = minor_unit(invoice.currency)
    return tuple(
        DocumentTax(
            code=tax["code"],
            label=tax["label"],
            rate=Decimal(tax["rate"]),
            base=Decimal(entry["net"]).quantize(unit),
            amount=Decimal(tax["amount"]).quantize(unit),
        )
        for entry in invoice.tax_snapshot
        for tax in entry["taxes"]
    )


def _mentions(invoice: Invoice, language: str) -> tuple[str, ...]:
    """What the law wants said: the seller's own words where there are some, and the customer's exemption."""
    own = str(invoice.seller_snapshot.get("tax_mention") or "")
    mentions = [own or entry["rule"]["mention"].get(language, "") for entry in invoice.tax_snapshot if entry["rule"]["mention"]]
    exempt = any(entry["rule"]["scope"] == TaxScope.EXEMPT for entry in invoice.tax_snapshot)
    if exempt and invoice.customer_snapshot.get("exemption"):
        mentions.append(str(invoice.customer_snapshot["exemption"]))
    return tuple(dict.fromkeys(mention for mention in mentions if mention))
