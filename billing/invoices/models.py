"""Who sells, who is billed and at which taxes; invoices as full copies of all that; the money customers have in hand.

An invoice that left the draft state is never edited: the database refuses it. Credit notes correct. Subscriptions stand above
invoices, so an invoice knows one by its id only.
"""

from datetime import date
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account, validate_time_zone
from iafactory.common import clock
from iafactory.common.ids import uuid7

MONEY_DIGITS: dict[str, Any] = {"max_digits": 18, "decimal_places": 4}


class SellerProfile(models.Model):
    """Who sells, as printed on invoices, for a time: a change of law or address is a new row with a later `valid_from`.

    Rows of one `code` are one seller and share their number series. Issued invoices keep a copy.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    code = models.SlugField(max_length=32, default="main", help_text=_("One seller through all its rows."))
    is_default = models.BooleanField(default=False, help_text=_("Sells to customers whose country has no seller of its own."))
    valid_from = models.DateField(default=date.min, help_text=_("First day."))
    valid_until = models.DateField(null=True, blank=True, help_text=_("Exclusive; empty: no end."))
    legal_name = models.CharField(max_length=200)
    legal_form = models.CharField(max_length=100, blank=True, help_text=_("SARL, EURL, Pvt Ltd …"))
    activity = models.CharField(max_length=200, blank=True)
    capital = models.CharField(max_length=64, blank=True, help_text=_("Share capital, as printed."))
    address = models.TextField(blank=True)
    city = models.CharField(max_length=100, blank=True)
    postal_code = models.CharField(max_length=16, blank=True)
    country = models.CharField(max_length=2, default="DZ", help_text=_("ISO 3166 code."))
    region = models.CharField(max_length=8, blank=True, help_text=_("State code; India: two digits."))
    phone = models.CharField(max_length=64, blank=True)
    email = models.EmailField(blank=True)
    website = models.URLField(blank=True)
    identifiers = models.JSONField(default=dict, blank=True, help_text=_("rc, nif, nis, ai, gstin, lut …"))
    bank_details = models.TextField(blank=True, help_text=_("Printed on open invoices."))
    tax_registered = models.BooleanField(default=False, help_text=_("Switched off, no tax is charged."))
    tax_mention = models.CharField(max_length=300, blank=True, help_text=_("Instead of the rule's own legal mention."))
    exports_untaxed = models.BooleanField(default=True, help_text=_("Exports bear no tax (India: with an LUT)."))
    default_sac = models.CharField(max_length=8, blank=True, help_text=_("India: SAC of what is sold."))
    invoice_prefix = models.CharField(max_length=8, default="FAC", blank=True)
    credit_note_prefix = models.CharField(max_length=8, default="AV", blank=True)
    time_zone = models.CharField(
        max_length=64, default="Africa/Algiers", validators=[validate_time_zone], help_text=_("Decides the date of an invoice.")
    )
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["code", "-valid_from"]
        constraints = [
            models.UniqueConstraint(fields=["code", "valid_from"], name="sellerprofile_unique"),
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")), name="sellerprofile_validity"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.legal_name} ({self.code})"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


class TaxRate(models.Model):
    """A tax rule of a country, for a time. Rules end and begin; one that was used is never changed.

    `components` is a list of {code, rate, label}: each is computed and rounded on its own; `rate` is a fraction as text.
    """

    class Scope(models.TextChoices):
        DOMESTIC = "domestic", _("Domestic")
        INTRA_STATE = "intra_state", _("Within the seller's state")
        INTER_STATE = "inter_state", _("Into another state")
        EXPORT = "export", _("Export")
        EXPORT_TAXED = "export_taxed", _("Export by a seller who may not export untaxed")
        REVERSE_CHARGE = "reverse_charge", _("Reverse charge: the customer owes the tax")
        EXEMPT = "exempt", _("Customer with an exemption")
        NOT_REGISTERED = "not_registered", _("Seller who may not charge tax")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    country = models.CharField(max_length=2, help_text=_("Of the seller, ISO 3166; `*`: any."))
    code = models.CharField(max_length=32)
    scope = models.CharField(max_length=16, choices=Scope)
    category = models.CharField(max_length=32, default="standard", help_text=_("What is sold."))
    regions = ArrayField(
        models.CharField(max_length=8), default=list, blank=True, help_text=_("States or countries; none: all others.")
    )
    label = models.CharField(max_length=100)
    components = models.JSONField(default=list, blank=True)
    mention = models.JSONField(default=dict, blank=True, help_text=_("The sentence the law wants, by language."))
    valid_from = models.DateField()
    valid_until = models.DateField(null=True, blank=True, help_text=_("Exclusive; empty: no end."))

    class Meta:
        ordering = ["country", "scope", "-valid_from"]
        constraints = [
            models.UniqueConstraint(fields=["country", "code", "valid_from"], name="taxrate_unique"),
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")), name="taxrate_validity"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.country} {self.label}"


class BillingProfile(models.Model):
    """Whom an account's invoices are made out to. Issued invoices keep a copy."""

    class TaxStatus(models.TextChoices):
        CONSUMER = "consumer", _("Consumer")
        BUSINESS = "business", _("Business")
        EXEMPT = "exempt", _("Exempt from tax")

    account = models.OneToOneField(Account, on_delete=models.PROTECT, primary_key=True, related_name="billing_profile")
    name = models.CharField(max_length=200, help_text=_("Person or company."))
    legal_form = models.CharField(max_length=100, blank=True)
    activity = models.CharField(max_length=200, blank=True)
    address = models.TextField(blank=True)
    city = models.CharField(max_length=100, blank=True)
    postal_code = models.CharField(max_length=16, blank=True)
    country = models.CharField(max_length=2, default="DZ", help_text=_("ISO 3166 code."))
    region = models.CharField(max_length=8, blank=True, help_text=_("State code; India: two digits."))
    email = models.EmailField(blank=True, help_text=_("Invoices go here; empty: the account's billing e-mail."))
    phone = models.CharField(max_length=64, blank=True)
    language = models.CharField(max_length=8, default="fr", help_text=_("Of invoices: fr, ar or en."))
    identifiers = models.JSONField(default=dict, blank=True, help_text=_("rc, nif, nis, ai, gstin …"))
    tax_status = models.CharField(max_length=16, choices=TaxStatus, default=TaxStatus.CONSUMER)
    exemption = models.CharField(max_length=200, blank=True, help_text=_("Number and date of the exemption."))
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.name


class NumberSeries(models.Model):
    """The next number of one seller's documents of one kind in one fiscal year. Its lock makes numbers gapless."""

    seller = models.CharField(max_length=32, help_text=_("Code of the seller."))
    kind = models.CharField(max_length=16)
    fiscal_year = models.PositiveSmallIntegerField(help_text=_("The calendar year in which it begins."))
    next_number = models.PositiveIntegerField(default=1)
    last_date = models.DateField(null=True, blank=True, help_text=_("Date of the last number: dates never go back."))

    class Meta:
        verbose_name_plural = _("number series")
        ordering = ["seller", "kind", "-fiscal_year"]
        constraints = [models.UniqueConstraint(fields=["seller", "kind", "fiscal_year"], name="numberseries_unique")]

    def __str__(self) -> str:
        return f"{self.seller} {self.kind} {self.fiscal_year}"


class Invoice(models.Model):
    """What an account owes or is credited. A draft is an offer that a checkout froze; its number comes when it is issued.

    total = net + tax_total + stamp_total + rounding_total; due = total - balance_applied - amount_paid.
    """

    class State(models.TextChoices):
        DRAFT = "draft", _("Draft")
        OPEN = "open", _("Open")
        PAID = "paid", _("Paid")
        VOID = "void", _("Void")
        UNCOLLECTIBLE = "uncollectible", _("Uncollectible")

    MOVES: dict[str, frozenset[str]] = {
        State.DRAFT: frozenset({State.OPEN}),
        State.OPEN: frozenset({State.PAID, State.VOID, State.UNCOLLECTIBLE}),
        State.PAID: frozenset(),
        State.VOID: frozenset(),
        State.UNCOLLECTIBLE: frozenset({State.PAID}),
    }

    class Kind(models.TextChoices):
        INVOICE = "invoice", _("Invoice")
        CREDIT_NOTE = "credit_note", _("Credit note")

    class Purpose(models.TextChoices):
        PERIOD = "period", _("A period of a subscription")
        CHANGE = "change", _("A change of plan within a period")
        TOPUP = "topup", _("Credits")
        OVERAGE = "overage", _("Use beyond what a plan includes")
        OTHER = "other", _("Other")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.INVOICE)
    state = models.CharField(max_length=16, choices=State, default=State.DRAFT)
    purpose = models.CharField(max_length=16, choices=Purpose)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="invoices")
    seller = models.ForeignKey(SellerProfile, on_delete=models.PROTECT, related_name="invoices")
    seller_code = models.CharField(max_length=32)
    number = models.CharField(max_length=32, null=True, blank=True, editable=False)
    fiscal_year = models.PositiveSmallIntegerField(null=True, blank=True)
    sequence = models.PositiveIntegerField(null=True, blank=True, help_text=_("Place in its series."))
    corrects = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="credit_notes",
        help_text=_("The invoice a credit note corrects."),
    )
    subscription_id = models.UUIDField(null=True, blank=True, db_index=True)
    period_start = models.DateTimeField(null=True, blank=True)
    period_end = models.DateTimeField(null=True, blank=True, help_text=_("Exclusive."))
    currency = models.CharField(max_length=3)
    net = models.DecimalField(**MONEY_DIGITS, help_text=_("Without tax, discounts taken off."))
    tax_total = models.DecimalField(**MONEY_DIGITS, default=Decimal(0))
    stamp_total = models.DecimalField(**MONEY_DIGITS, default=Decimal(0), help_text=_("Stamp duty of a payment in cash."))
    rounding_total = models.DecimalField(**MONEY_DIGITS, default=Decimal(0))
    total = models.DecimalField(**MONEY_DIGITS)
    balance_applied = models.DecimalField(
        **MONEY_DIGITS, default=Decimal(0), help_text=_("Paid from money the account had in hand.")
    )
    amount_paid = models.DecimalField(**MONEY_DIGITS, default=Decimal(0), help_text=_("Paid by payments."))
    credited_total = models.DecimalField(**MONEY_DIGITS, default=Decimal(0), help_text=_("Taken back by credit notes."))
    fx_rate = models.DecimalField(
        max_digits=20, decimal_places=8, null=True, blank=True, help_text=_("Units of its currency per USD when it was made.")
    )
    language = models.CharField(max_length=8, default="fr")
    seller_snapshot = models.JSONField(default=dict, blank=True)
    customer_snapshot = models.JSONField(default=dict, blank=True)
    tax_snapshot = models.JSONField(
        default=list, blank=True, help_text=_("Per rule: the rule, its net, its taxes by component and its gross.")
    )
    checkout = models.JSONField(
        default=dict, blank=True, help_text=_("What its payment brings about: facts frozen when the checkout began.")
    )
    reason = models.CharField(max_length=300, blank=True, help_text=_("Why it was credited or voided."))
    origin_key = models.CharField(
        max_length=200, null=True, blank=True, unique=True, help_text=_("Idempotency key of what it was made for.")
    )
    payment_means = models.CharField(max_length=64, blank=True, help_text=_("How it was paid, as printed."))
    created_at = models.DateTimeField(default=clock.now, editable=False)
    issued_at = models.DateTimeField(null=True, blank=True)
    issue_date = models.DateField(null=True, blank=True, help_text=_("In the seller's time zone."))
    due_at = models.DateTimeField(null=True, blank=True)
    paid_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True, help_text=_("When it was voided or given up."))
    mailed_at = models.DateTimeField(null=True, blank=True, help_text=_("When it was mailed to the customer."))

    class Meta:
        ordering = ["-created_at"]
        permissions = [
            ("finalise_invoice", "Can finalise drafts of invoices"),
            ("void_invoice", "Can void invoices"),
            ("writeoff_invoice", "Can write invoices off"),
            ("credit_invoice", "Can issue credit notes"),
            ("mail_invoice", "Can have invoices mailed again"),
        ]
        indexes = [
            models.Index(fields=["account", "-created_at"], name="invoice_account_created"),
            models.Index(fields=["state", "due_at"], condition=Q(state="open"), name="invoice_open_due"),
            models.Index(fields=["-issued_at"], name="invoice_issued"),
            models.Index(fields=["paid_at"], condition=Q(state="paid"), name="invoice_paid"),
            models.Index(
                fields=["issued_at"], condition=Q(mailed_at__isnull=True, issued_at__isnull=False), name="invoice_unmailed"
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["seller_code", "kind", "number"], condition=Q(number__isnull=False), name="invoice_number_unique"
            ),
            models.UniqueConstraint(
                fields=["seller_code", "kind", "fiscal_year", "sequence"],
                condition=Q(sequence__isnull=False),
                name="invoice_sequence_unique",
            ),
            models.UniqueConstraint(
                fields=["subscription_id", "period_start"],
                condition=Q(kind="invoice", purpose="period") & ~Q(state="void"),
                name="invoice_one_per_period",
            ),
            models.UniqueConstraint(
                fields=["subscription_id", "period_start"],
                condition=Q(kind="invoice", purpose="overage") & ~Q(state="void"),
                name="invoice_one_overage_per_period",
            ),
            models.CheckConstraint(
                condition=Q(total=F("net") + F("tax_total") + F("stamp_total") + F("rounding_total")), name="invoice_sums_up"
            ),
            models.CheckConstraint(
                condition=Q(total__gte=0, balance_applied__gte=0, amount_paid__gte=0), name="invoice_amounts_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(balance_applied__lte=F("total") - F("amount_paid")), name="invoice_not_paid_twice"
            ),
            models.CheckConstraint(
                condition=Q(credited_total__gte=0, credited_total__lte=F("total")), name="invoice_credited_within_total"
            ),
            models.CheckConstraint(
                condition=Q(state="draft", number__isnull=True, issued_at__isnull=True)
                | ~Q(state="draft")
                & Q(number__isnull=False, sequence__isnull=False, fiscal_year__isnull=False)
                & Q(issued_at__isnull=False, issue_date__isnull=False),
                name="invoice_issued_has_number",
            ),
            models.CheckConstraint(
                condition=~Q(state="paid") | Q(paid_at__isnull=False, amount_paid=F("total") - F("balance_applied")),
                name="invoice_paid_in_full",
            ),
            models.CheckConstraint(
                condition=Q(kind="credit_note", corrects__isnull=False) | Q(kind="invoice", corrects__isnull=True),
                name="invoice_credit_note_corrects",
            ),
            models.CheckConstraint(
                condition=Q(period_start__isnull=True) | Q(period_end__gt=F("period_start")), name="invoice_period_order"
            ),
        ]

    def __str__(self) -> str:
        return self.number or gettext("draft") + f" {str(self.pk)[-8:]}"

    @property
    def due(self) -> Decimal:
        """What is still to be paid."""
        return self.total - self.balance_applied - self.amount_paid


class InvoiceLine(models.Model):
    """One line. `amount` is its part of the invoice's total; a tax line carries the tax of the lines above it.

    For what is sold: `amount` is without tax, `tax_amount` its share of the taxes, `gross` their sum.
    """

    class Kind(models.TextChoices):
        PLAN = "plan", _("Plan")
        PRORATION = "proration", _("Proration")
        OVERAGE = "overage", _("Use beyond the plan")
        TOPUP = "topup", _("Credits")
        DISCOUNT = "discount", _("Discount")
        OTHER = "other", _("Other")
        TAX = "tax", _("Tax")
        STAMP = "stamp", _("Stamp duty")
        ROUNDING = "rounding", _("Rounding")

    # Lines that bear tax: their `amount`s add up to the invoice's `net`.
    SOLD = (Kind.PLAN, Kind.PRORATION, Kind.OVERAGE, Kind.TOPUP, Kind.DISCOUNT, Kind.OTHER)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines")
    position = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=16, choices=Kind)
    description = models.CharField(max_length=300)
    quantity = models.DecimalField(max_digits=20, decimal_places=6, default=Decimal(1))
    unit_price = models.DecimalField(
        max_digits=20, decimal_places=8, help_text=_("As sold, with or without tax as `tax_included` says.")
    )
    amount = models.DecimalField(**MONEY_DIGITS, help_text=_("Its part of the total."))
    tax_included = models.BooleanField(default=True)
    tax_amount = models.DecimalField(**MONEY_DIGITS, default=Decimal(0))
    gross = models.DecimalField(**MONEY_DIGITS, default=Decimal(0))
    taxes = models.JSONField(default=list, blank=True, help_text=_("Its share of each tax: code, label, rate, amount."))
    tax_code = models.CharField(max_length=32, blank=True, help_text=_("Rule of a sold line, component of a tax line."))
    tax_rate = models.DecimalField(max_digits=9, decimal_places=6, null=True, blank=True, help_text=_("Fraction: 0.19."))
    sac = models.CharField(max_length=8, blank=True)
    period_start = models.DateTimeField(null=True, blank=True)
    period_end = models.DateTimeField(null=True, blank=True, help_text=_("Exclusive."))
    lot_id = models.UUIDField(null=True, blank=True, help_text=_("The lot whose use it bills."))
    facts = models.JSONField(default=dict, blank=True, help_text=_("How it was reckoned."))
    corrects = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="corrected_by", help_text=_("Line it takes back.")
    )

    class Meta:
        ordering = ["invoice", "position"]
        constraints = [models.UniqueConstraint(fields=["invoice", "position"], name="invoiceline_position_unique")]

    def __str__(self) -> str:
        return self.description


class InvoicePdf(models.Model):
    """An issued invoice as it was rendered, the same bytes for good: once as issued, once more when paid or voided."""

    class Edition(models.TextChoices):
        ISSUED = "issued", _("As issued")
        PAID = "paid", _("Paid: with means and date of the payment")
        VOID = "void", _("Voided: marked as worth nothing")

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="pdfs")
    language = models.CharField(max_length=8)
    edition = models.CharField(max_length=8, choices=Edition, default=Edition.ISSUED)
    content = models.BinaryField()
    sha256 = models.CharField(max_length=64)
    rendered_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["invoice", "language", "edition"], name="invoicepdf_unique")]

    def __str__(self) -> str:
        return f"{self.invoice_id} {self.language} {self.edition}"


class MoneyBalance(models.Model):
    """Money an account has in hand for its next invoice: the sum of its entries. Its lock orders them."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="money_balances")
    currency = models.CharField(max_length=3)
    amount = models.DecimalField(**MONEY_DIGITS, default=Decimal(0))

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "currency"], name="moneybalance_unique"),
            models.CheckConstraint(condition=Q(amount__gte=0), name="moneybalance_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.currency}"


class MoneyBalanceEntry(models.Model):
    """Money that came to or left an account's hand. Append-only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    balance = models.ForeignKey(MoneyBalance, on_delete=models.PROTECT, related_name="entries")
    amount = models.DecimalField(**MONEY_DIGITS, help_text=_("Signed."))
    balance_after = models.DecimalField(**MONEY_DIGITS)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, null=True, blank=True, related_name="balance_entries")
    key = models.CharField(max_length=200, unique=True, help_text=_("Idempotency key."))
    reason = models.CharField(max_length=300)
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.amount.normalize():+f}"
