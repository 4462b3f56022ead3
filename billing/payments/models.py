"""Attempts to pay, what became of them, and money that went back.

A row exists before a gateway is called. `PaymentEffect` makes each effect of a payment happen once, whoever tells us first.
"""

import secrets
from datetime import datetime
from decimal import Decimal

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, OuterRef, Q, Subquery
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.events.names import MEANS, means_label
from billing.invoices.models import MONEY_DIGITS, Invoice
from iafactory.common import clock
from iafactory.common.ids import uuid7


def payment_reference() -> str:
    """Our name for a payment at every gateway: unique, 22 letters and digits (PayU takes 25)."""
    return f"pa{secrets.token_hex(10)}"


def refund_reference() -> str:
    """Our name for a refund, 22 letters and digits; it doubles as the gateway's idempotency key."""
    return f"re{secrets.token_hex(10)}"


class ManualMethod(models.Model):
    """A way to pay without a gateway: the customer pays, names the reference, and an operator confirms."""

    code = models.SlugField(max_length=32, unique=True)
    name = models.CharField(max_length=100)
    instructions = models.TextField(help_text=_("Shown to the customer: account number, address, opening hours."))
    currencies = ArrayField(models.CharField(max_length=3), default=list, help_text=_("ISO 4217 codes."))
    countries = ArrayField(
        models.CharField(max_length=2), default=list, blank=True, help_text=_("ISO 3166 codes; none: everywhere.")
    )
    is_cash = models.BooleanField(default=False, help_text=_("Algeria: stamp duty is added to the invoice."))
    is_enabled = models.BooleanField(default=True)
    sort_order = models.PositiveSmallIntegerField(default=100)

    class Meta:
        ordering = ["sort_order", "code"]

    def __str__(self) -> str:
        return self.name


class GatewayName(models.TextChoices):
    """Every gateway there is, and paying without one."""

    CHARGILY = "chargily", _("Chargily")
    PAYPAL = "paypal", _("PayPal")
    PAYU = "payu", _("PayU")
    RAZORPAY = "razorpay", _("Razorpay")
    STRIPE = "stripe", _("Stripe")
    MANUAL = "manual", _("By hand")


class SavedCard(models.Model):
    """A card that a customer let us keep at a gateway: what names it there, and what its owner knows it by. Never its number.

    One that was taken back stays as a row; `detached_at` says when the gateway forgot it too.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="saved_cards")
    gateway = models.CharField(max_length=32, choices=GatewayName)
    mode = models.CharField(max_length=8)
    gateway_customer_id = models.CharField(max_length=128)
    gateway_card_id = models.CharField(max_length=128)
    brand = models.CharField(max_length=32, blank=True)
    last4 = models.CharField(max_length=4, blank=True)
    exp_month = models.PositiveSmallIntegerField(null=True, blank=True)
    exp_year = models.PositiveSmallIntegerField(null=True, blank=True)
    saved_at = models.DateTimeField()
    removed_at = models.DateTimeField(null=True, blank=True, help_text=_("From then on it is never charged."))
    removed_reason = models.CharField(max_length=300, blank=True)
    detached_at = models.DateTimeField(null=True, blank=True, help_text=_("When the gateway forgot it."))

    class Meta:
        ordering = ["-saved_at"]
        indexes = [
            models.Index(
                fields=["removed_at"],
                condition=Q(removed_at__isnull=False, detached_at__isnull=True),
                name="savedcard_to_detach",
            )
        ]
        constraints = [
            models.UniqueConstraint(fields=["gateway", "mode", "gateway_card_id"], name="savedcard_unique"),
            models.CheckConstraint(
                condition=Q(detached_at__isnull=True) | Q(removed_at__isnull=False), name="savedcard_removed_before_detached"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.brand} •••• {self.last4}".strip() if self.last4 else self.gateway_card_id

    def expired_at(self, at: datetime) -> bool:
        """Whether its last month is over; False where the gateway does not tell."""
        return bool(self.exp_year and self.exp_month) and (self.exp_year, self.exp_month) < (at.year, at.month)


class Payment(models.Model):
    """One attempt to pay a fixed amount, at one gateway."""

    class State(models.TextChoices):
        CREATED = "created", _("Created: the gateway was not reached yet")
        PENDING = "pending", _("Pending: the customer may pay")
        UNKNOWN = "unknown", _("Unknown: the gateway did not say whether it exists")
        REVIEW = "review", _("Review: an operator has to look")
        SUCCEEDED = "succeeded", _("Succeeded")
        FAILED = "failed", _("Failed")
        EXPIRED = "expired", _("Expired")
        CANCELED = "canceled", _("Canceled")

    # Late money is money: what ended without any may still succeed.
    MOVES: dict[str, frozenset[str]] = {
        State.CREATED: frozenset({State.PENDING, State.UNKNOWN, State.FAILED, State.CANCELED, State.SUCCEEDED, State.REVIEW}),
        State.PENDING: frozenset({State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELED, State.REVIEW}),
        State.UNKNOWN: frozenset({State.PENDING, State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELED, State.REVIEW}),
        State.REVIEW: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED}),
        State.FAILED: frozenset({State.SUCCEEDED, State.REVIEW}),
        State.EXPIRED: frozenset({State.SUCCEEDED, State.REVIEW}),
        State.CANCELED: frozenset({State.SUCCEEDED, State.REVIEW}),
        State.SUCCEEDED: frozenset(),
    }

    class Purpose(models.TextChoices):
        SUBSCRIBE = "subscribe", _("Begin a subscription")
        CHANGE = "change", _("Change the plan")
        RENEW = "renew", _("Next period")
        TOPUP = "topup", _("Buy credits")
        INVOICE = "invoice", _("Pay an invoice")

    class Mode(models.TextChoices):
        TEST = "test", _("Test")
        LIVE = "live", _("Live")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    reference = models.CharField(max_length=40, unique=True, default=payment_reference, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="payments")
    invoice = models.ForeignKey(
        Invoice,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="payments",
        help_text=_("What it is meant to pay."),
    )
    purpose = models.CharField(max_length=16, choices=Purpose)
    state = models.CharField(max_length=16, choices=State, default=State.CREATED)
    gateway = models.CharField(max_length=32, choices=GatewayName, help_text=_("Whose money it is, or by hand."))
    mode = models.CharField(max_length=8, choices=Mode, default=Mode.LIVE)
    method = models.CharField(max_length=32, blank=True, help_text=_("Bank transfer, card, CIB …"))
    amount = models.DecimalField(**MONEY_DIGITS)
    currency = models.CharField(max_length=3)
    saved_card = models.ForeignKey(
        SavedCard,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="payments",
        help_text=_("Charged without the customer, who agreed to it."),
    )
    fx_rate = models.DecimalField(
        max_digits=20, decimal_places=8, null=True, blank=True, help_text=_("Units of its currency per USD when it was made.")
    )
    checkout_id = models.CharField(max_length=128, blank=True, help_text=_("The gateway's checkout, session, order or link."))
    gateway_payment_id = models.CharField(max_length=128, blank=True, help_text=_("The gateway's payment, once money moved."))
    checkout_url = models.URLField(max_length=2000, blank=True)
    form_action = models.URLField(max_length=2000, blank=True, help_text=_("Where the browser posts `form_fields` (PayU)."))
    form_fields = models.JSONField(default=dict, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    paid_at = models.DateTimeField(null=True, blank=True)
    received_amount = models.DecimalField(**MONEY_DIGITS, null=True, blank=True, help_text=_("What really came."))
    fee_amount = models.DecimalField(**MONEY_DIGITS, null=True, blank=True, help_text=_("What the gateway kept."))
    applied_amount = models.DecimalField(**MONEY_DIGITS, default=Decimal(0), help_text=_("What of it paid invoices."))
    unapplied_amount = models.DecimalField(
        **MONEY_DIGITS, default=Decimal(0), help_text=_("What of it has no open invoice; an operator decides.")
    )
    refunded_amount = models.DecimalField(**MONEY_DIGITS, default=Decimal(0), help_text=_("What went back or is on its way."))
    customer_reference = models.CharField(
        max_length=200, blank=True, help_text=_("Manual: the transfer's number as the customer gave it.")
    )
    failure_code = models.CharField(max_length=100, blank=True)
    failure_message = models.CharField(max_length=500, blank=True)
    review_reason = models.CharField(max_length=500, blank=True)
    gateway_facts = models.JSONField(default=dict, blank=True, help_text=_("What the gateway last said, without secrets."))
    next_poll_at = models.DateTimeField(null=True, blank=True)
    polls = models.PositiveSmallIntegerField(default=0)
    idempotency_key = models.CharField(max_length=200, null=True, blank=True, help_text=_("Of the request that made it."))
    created_at = models.DateTimeField(default=clock.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["account", "-created_at"], name="payment_account_created"),
            models.Index(
                fields=["next_poll_at"], condition=Q(state__in=("created", "pending", "unknown")), name="payment_next_poll"
            ),
            models.Index(fields=["state", "-created_at"], name="payment_state_created"),
            models.Index(fields=["currency"], condition=Q(unapplied_amount__gt=0), name="payment_unapplied"),
            models.Index(
                fields=["invoice", "-created_at"], condition=Q(saved_card__isnull=False), name="payment_saved_card_charges"
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "mode", "checkout_id"], condition=~Q(checkout_id=""), name="payment_checkout_unique"
            ),
            models.UniqueConstraint(
                fields=["gateway", "mode", "gateway_payment_id"],
                condition=~Q(gateway_payment_id=""),
                name="payment_gateway_payment_unique",
            ),
            models.UniqueConstraint(
                fields=["account", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="payment_idempotency_key_unique",
            ),
            models.CheckConstraint(condition=Q(amount__gt=0), name="payment_amount_positive"),
            models.CheckConstraint(
                condition=Q(applied_amount__gte=0, unapplied_amount__gte=0, refunded_amount__gte=0),
                name="payment_amounts_not_negative",
            ),
            models.CheckConstraint(
                condition=~Q(state="succeeded") | Q(paid_at__isnull=False, received_amount__isnull=False),
                name="payment_succeeded_has_money",
            ),
            models.CheckConstraint(
                condition=Q(received_amount__isnull=True) | Q(applied_amount__lte=F("received_amount") - F("unapplied_amount")),
                name="payment_applied_within_received",
            ),
        ]

    def __str__(self) -> str:
        return self.reference

    @property
    def means_name(self) -> str:
        """How it is paid in the reader's language: the gateway, by hand the way that was chosen."""
        if self.gateway == GatewayName.MANUAL:
            return means_label(self.printed_means)
        return " · ".join(means_label(code) for code in (self.gateway, self.method) if code)

    @property
    def printed_means(self) -> str:
        """How it is paid, as an invoice keeps it: a code that documents have words for, else the name of an operator's way."""
        code = self.method or self.gateway
        if self.gateway != GatewayName.MANUAL or code in MEANS:
            return code
        # Lists bring it along (`method_names`).
        if "method_name" in self.__dict__:
            name = self.__dict__["method_name"]
        else:
            name = ManualMethod.objects.filter(code=code).values_list("name", flat=True).first()
        return (name or code)[:64]


def method_names(payments: models.QuerySet[Payment]) -> models.QuerySet[Payment]:
    """`payments` that know the names of their ways of paying by hand: for lists, which would ask for each."""
    return payments.annotate(method_name=Subquery(ManualMethod.objects.filter(code=OuterRef("method")).values("name")[:1]))


class AutoRenewalConsent(models.Model):
    """A customer's word that renewals may be charged to their card: when, to which wording, and when it was taken back.

    Given at a checkout it waits for the card of that payment (`card` empty); only with one, and not withdrawn, is it in force.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="auto_renewal_consents")
    payment = models.OneToOneField(
        Payment,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="consent",
        help_text=_("At whose checkout it was given."),
    )
    card = models.ForeignKey(SavedCard, on_delete=models.PROTECT, null=True, blank=True, related_name="consents")
    wording_version = models.CharField(max_length=32, help_text=_("Which text was agreed to."))
    language = models.CharField(max_length=8)
    agreed_at = models.DateTimeField()
    agreed_by = models.CharField(max_length=254, blank=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    withdrawn_by = models.CharField(max_length=254, blank=True)
    withdrawn_reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-agreed_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(withdrawn_at__isnull=True, card__isnull=False),
                name="autorenewalconsent_one_in_force",
            )
        ]

    def __str__(self) -> str:
        return f"{self.account} {self.wording_version}"


class PaymentAllocation(models.Model):
    """What of a payment paid which invoice. Append-only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="allocations")
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="allocations")
    amount = models.DecimalField(**MONEY_DIGITS)
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at"]
        constraints = [
            models.UniqueConstraint(fields=["payment", "invoice"], name="paymentallocation_unique"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="paymentallocation_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.payment} → {self.invoice}"


class PaymentEffect(models.Model):
    """Something a payment brought about, once. Append-only."""

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="effects")
    gateway = models.CharField(max_length=32, choices=GatewayName)
    effect = models.CharField(max_length=64, help_text=_("`succeeded`, `refund:<reference>`, `dispute:<id>` …"))
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at"]
        constraints = [models.UniqueConstraint(fields=["gateway", "payment", "effect"], name="paymenteffect_once")]

    def __str__(self) -> str:
        return f"{self.payment} {self.effect}"


class PaymentProof(models.Model):
    """A picture or PDF that a customer sends to show that they paid."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="proofs")
    file_name = models.CharField(max_length=200)
    content_type = models.CharField(max_length=64)
    content = models.BinaryField()
    size = models.PositiveIntegerField(help_text=_("Bytes."))
    sha256 = models.CharField(max_length=64)
    uploaded_by = models.CharField(max_length=254, blank=True)
    uploaded_at = models.DateTimeField()

    class Meta:
        ordering = ["-uploaded_at"]
        constraints = [models.UniqueConstraint(fields=["payment", "sha256"], name="paymentproof_unique")]

    def __str__(self) -> str:
        return self.file_name


class Refund(models.Model):
    """Money of a payment that goes back. Where its credits are parked meanwhile: `lot_id`, `credits`."""

    class State(models.TextChoices):
        REQUESTED = "requested", _("Requested")
        PENDING = "pending", _("Pending")
        SUCCEEDED = "succeeded", _("Succeeded")
        FAILED = "failed", _("Failed")

    # Gateways sometimes report a failure after they reported success.
    MOVES: dict[str, frozenset[str]] = {
        State.REQUESTED: frozenset({State.PENDING, State.SUCCEEDED, State.FAILED}),
        State.PENDING: frozenset({State.SUCCEEDED, State.FAILED}),
        State.SUCCEEDED: frozenset({State.FAILED}),
        State.FAILED: frozenset(),
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    reference = models.CharField(max_length=40, unique=True, default=refund_reference, editable=False)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="refunds")
    state = models.CharField(max_length=16, choices=State, default=State.REQUESTED)
    amount = models.DecimalField(**MONEY_DIGITS)
    currency = models.CharField(max_length=3)
    credit_note = models.ForeignKey(Invoice, on_delete=models.PROTECT, null=True, blank=True, related_name="refunds")
    lot_id = models.UUIDField(null=True, blank=True)
    credits = models.DecimalField(
        max_digits=20, decimal_places=6, default=Decimal(0), help_text=_("Credits taken out of the lot for it.")
    )
    facts = models.JSONField(default=dict, blank=True, help_text=_("Lots and keys of everything that was parked."))
    gateway_refund_id = models.CharField(max_length=128, blank=True)
    by_hand = models.BooleanField(default=False, help_text=_("The gateway cannot refund: money was sent by other means."))
    reason = models.CharField(max_length=300)
    requested_by = models.CharField(max_length=254)
    confirmed_by = models.CharField(max_length=254, blank=True, help_text=_("Second operator, above the limit."))
    failure_code = models.CharField(max_length=100, blank=True)
    failure_message = models.CharField(max_length=500, blank=True)
    next_poll_at = models.DateTimeField(null=True, blank=True)
    requested_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-requested_at"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="refund_amount_positive"),
            models.UniqueConstraint(
                fields=["payment", "gateway_refund_id"], condition=~Q(gateway_refund_id=""), name="refund_gateway_refund_unique"
            ),
        ]

    def __str__(self) -> str:
        return self.reference


class Dispute(models.Model):
    """A customer's bank takes, or wants to take, a payment back."""

    class State(models.TextChoices):
        OPEN = "open", _("Open")
        WON = "won", _("Won")
        LOST = "lost", _("Lost")

    # Some gateways give a lost one back after an appeal.
    MOVES: dict[str, frozenset[str]] = {
        State.OPEN: frozenset({State.WON, State.LOST}),
        State.WON: frozenset(),
        State.LOST: frozenset({State.WON}),
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="disputes")
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    gateway_dispute_id = models.CharField(max_length=128)
    amount = models.DecimalField(**MONEY_DIGITS)
    currency = models.CharField(max_length=3)
    reason = models.CharField(max_length=200, blank=True)
    respond_by = models.DateTimeField(null=True, blank=True)
    facts = models.JSONField(default=dict, blank=True, help_text=_("Lots and keys of what a loss took."))
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-opened_at"]
        constraints = [
            models.UniqueConstraint(fields=["payment", "gateway_dispute_id"], name="dispute_gateway_dispute_unique"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="dispute_amount_positive"),
        ]

    def __str__(self) -> str:
        return self.gateway_dispute_id
