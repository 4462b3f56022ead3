"""An invoice or credit note as it is printed: every particular in one frozen value, in no language's wording yet.

Amounts are in the document's currency at its minor unit, and positive on credit notes too: the title says which way the money
goes. Text comes from sellers, customers and operators and is only ever data.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum

LANGUAGES = ("fr", "ar", "en")


class DocumentKind(StrEnum):
    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


class DocumentMark(StrEnum):
    """What is stamped across every page."""

    NONE = "none"
    DRAFT = "draft"
    """Has no number and claims nothing."""
    PAID = "paid"
    VOID = "void"
    """Its number stays in the series, and is worth nothing."""
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Party:
    """Seller or customer. `identifiers` are (code, value) pairs in printing order: rc, nif, ai, nis, gstin, lut."""

    name: str
    legal_form: str = ""
    activity: str = ""
    capital: str = ""
    address: str = ""
    postal_code: str = ""
    city: str = ""
    region: str = ""
    """Name of the state, with its code where the law wants it."""
    country: str = ""
    """ISO 3166 code."""
    phone: str = ""
    email: str = ""
    website: str = ""
    identifiers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """What is sold, without tax; `amount` is quantity times unit price, negative for a discount on an invoice.

    `first_day` and `last_day` (included) bound the period served.
    """

    description: str
    quantity: Decimal
    unit_price: Decimal
    amount: Decimal
    tax_rate: Decimal | None = None
    """All its taxes together, a fraction; None where none is charged."""
    sac: str = ""
    first_day: date | None = None
    last_day: date | None = None


@dataclass(frozen=True, slots=True)
class DocumentTax:
    """One tax on all lines of one rate: `code` is TVA, CGST ..., `base` the taxable value."""

    code: str
    label: str
    rate: Decimal
    base: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class InvoiceDocument:
    """Everything one document says; `total` is net, taxes, stamp duty and rounding together and is what the words say."""

    kind: DocumentKind
    language: str
    currency: str
    number: str
    issue_date: date
    seller: Party
    customer: Party
    lines: tuple[DocumentLine, ...]
    net: Decimal
    taxes: tuple[DocumentTax, ...]
    total: Decimal
    stamp_duty: Decimal = Decimal(0)
    rounding: Decimal = Decimal(0)
    balance_applied: Decimal = Decimal(0)
    """Paid from money the customer had in hand."""
    amount_paid: Decimal = Decimal(0)
    due_date: date | None = None
    payment_means: str = ""
    """A known code (see the wording) or the operator's own words."""
    payment_date: date | None = None
    bank_details: str = ""
    mentions: tuple[str, ...] = ()
    """Sentences the law wants, in the document's language."""
    place_of_supply: str = ""
    reverse_charge: bool | None = None
    """Whether the customer owes the tax; None where the law does not ask to say so."""
    is_tax_invoice: bool = False
    """India: a registered seller's taxed invoice bears that title."""
    corrected_number: str = ""
    corrected_date: date | None = None
    mark: DocumentMark = DocumentMark.NONE

    def __post_init__(self) -> None:
        taxes = sum((tax.amount for tax in self.taxes), Decimal(0))
        if self.language not in LANGUAGES:
            raise ValueError(f"no wording in the language {self.language!r}")
        if sum((line.amount for line in self.lines), Decimal(0)) != self.net:
            raise ValueError(f"the lines of {self.number} do not add up to {self.net}")
        if self.net + taxes + self.stamp_duty + self.rounding != self.total:
            raise ValueError(f"the parts of {self.number} do not add up to {self.total}")

    @property
    def amount_due(self) -> Decimal:
        """What is still to be paid."""
        return self.total - self.balance_applied - self.amount_paid
