"""Documents of two sellers, as full as the law wants them."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

from billing.invoices.document import DocumentKind, DocumentLine, DocumentMark, DocumentTax, InvoiceDocument, Party

ALGIERS = Party(
    name="IA Factory Algérie",
    legal_form="SARL",
    activity="Services informatiques",
    capital="5 000 000,00 DA",
    address="12, rue Didouche Mourad",
    postal_code="16000",
    city="Alger",
    country="DZ",
    phone="+213 21 00 00 00",
    email="facturation@iafactory.example",
    identifiers=(
        ("rc", "16/00-1234567 B 18"),
        ("nif", "001216209012345"),
        ("ai", "16012345678"),
        ("nis", "001216010012345"),
    ),
)
BENALI = Party(
    name="Cabinet Benali & Fils",
    legal_form="SPA",
    address="Cité des 200 logements, Bt. 4\nHydra",
    postal_code="16035",
    city="Alger",
    country="DZ",
    identifiers=(("rc", "16/00-7654321 B 15"), ("nif", "000916001122334")),
)
MUMBAI = Party(
    name="IA Factory India Private Limited",
    address="4th Floor, Prestige Towers",
    postal_code="400051",
    city="Mumbai",
    region="Maharashtra (27)",
    country="IN",
    identifiers=(("gstin", "27AAPFU0939F1ZV"),),
)


def french(**changes: object) -> InvoiceDocument:
    """10,000.00 at 19 % and 6,000.00 at 9 %, a discount, stamp duty: 20,127.50 DZD paid in cash."""
    document = InvoiceDocument(
        kind=DocumentKind.INVOICE,
        language="fr",
        currency="DZD",
        number="2026-000123",
        issue_date=date(2026, 11, 20),
        seller=ALGIERS,
        customer=BENALI,
        lines=(
            DocumentLine(
                description="Abonnement Pro",
                quantity=Decimal(1),
                unit_price=Decimal("12500.00"),
                amount=Decimal("12500.00"),
                tax_rate=Decimal("0.19"),
                first_day=date(2026, 11, 20),
                last_day=date(2026, 12, 19),
            ),
            DocumentLine("Formation", Decimal("1.5"), Decimal("4000"), Decimal("6000.00"), Decimal("0.09")),
            DocumentLine("Remise", Decimal(1), Decimal("-1250.00"), Decimal("-1250.00"), Decimal("0.19")),
        ),
        net=Decimal("17250.00"),
        taxes=(
            DocumentTax("TVA", "TVA", Decimal("0.19"), Decimal("11250.00"), Decimal("2137.50")),
            DocumentTax("TVA", "TVA", Decimal("0.09"), Decimal("6000.00"), Decimal("540.00")),
        ),
        total=Decimal("20127.50"),
        stamp_duty=Decimal("200.00"),
        payment_means="cash",
        payment_date=date(2026, 11, 20),
    )
    return replace(document, **changes)  # type: ignore[arg-type]


def arabic(**changes: object) -> InvoiceDocument:
    """The same without stamp duty, in Arabic, for a customer with an Arabic name: 19,927.50 DZD, paid by card."""
    document = french(
        language="ar",
        customer=replace(BENALI, name="شركة النور للاستشارات", legal_form=""),
        lines=(
            replace(french().lines[0], description="اشتراك Pro"),
            replace(french().lines[1], description="رصيد إضافي 1 000 credits"),
            replace(french().lines[2], description="تخفيض ترحيبي"),
        ),
        stamp_duty=Decimal(0),
        total=Decimal("19927.50"),
        amount_paid=Decimal("19927.50"),
        payment_means="edahabia",
        mark=DocumentMark.PAID,
        mentions=("الدفع عند الاستلام.",),
    )
    return replace(document, **changes)  # type: ignore[arg-type]


def english(**changes: object) -> InvoiceDocument:
    """1,00,000.00 INR with CGST and SGST, rounded to 1,18,000.00."""
    document = InvoiceDocument(
        kind=DocumentKind.INVOICE,
        language="en",
        currency="INR",
        number="IAF/26-27/000042",
        issue_date=date(2026, 11, 20),
        seller=MUMBAI,
        customer=Party(name="Kaveri Analytics LLP", city="Pune", region="Maharashtra (27)", country="IN"),
        lines=(
            DocumentLine("Unlimited plan", Decimal(1), Decimal("99999.73"), Decimal("99999.73"), Decimal("0.18"), "998315"),
        ),
        net=Decimal("99999.73"),
        taxes=(
            DocumentTax("CGST", "CGST", Decimal("0.09"), Decimal("99999.73"), Decimal("8999.98")),
            DocumentTax("SGST", "SGST", Decimal("0.09"), Decimal("99999.73"), Decimal("8999.98")),
        ),
        total=Decimal("118000.00"),
        rounding=Decimal("0.31"),
        due_date=date(2026, 12, 5),
        place_of_supply="Maharashtra (27)",
        reverse_charge=False,
        is_tax_invoice=True,
    )
    return replace(document, **changes)  # type: ignore[arg-type]
