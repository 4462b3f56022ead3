"""What an account has bought and until when; coupons it used, reminders it got, and the jobs that keep it going."""

from decimal import Decimal
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.plans.models import Coupon, Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.ids import uuid7


class Subscription(models.Model):
    """An account's plan, with the price it was sold at. At most one of an account is live.

    Ends are final: coming back is a new row that names the previous one.
    """

    class State(models.TextChoices):
        INCOMPLETE = "incomplete", _("Incomplete: not paid yet")
        TRIALING = "trialing", _("Trialing")
        ACTIVE = "active", _("Active")
        PAST_DUE = "past_due", _("Past due")
        PAUSED = "paused", _("Paused")
        CANCELED = "canceled", _("Canceled")
        EXPIRED = "expired", _("Expired")

    # Rows in these states take the account's one place.
    LIVE = (State.TRIALING, State.ACTIVE, State.PAST_DUE, State.PAUSED)

    MOVES: dict[str, frozenset[str]] = {
        State.INCOMPLETE: frozenset({State.TRIALING, State.ACTIVE, State.EXPIRED}),
        State.TRIALING: frozenset({State.ACTIVE, State.PAST_DUE, State.CANCELED, State.EXPIRED}),
        State.ACTIVE: frozenset({State.PAST_DUE, State.PAUSED, State.CANCELED, State.EXPIRED}),
        State.PAST_DUE: frozenset({State.ACTIVE, State.CANCELED, State.EXPIRED}),
        State.PAUSED: frozenset({State.ACTIVE, State.CANCELED, State.EXPIRED}),
        State.CANCELED: frozenset(),
        State.EXPIRED: frozenset(),
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="subscriptions")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="subscriptions")
    price = models.ForeignKey(PlanPrice, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    state = models.CharField(max_length=16, choices=State)
    current_period_start = models.DateTimeField()
    current_period_end = models.DateTimeField(null=True, blank=True, help_text=_("Exclusive; empty: no end."))
    billing_anchor = models.DateTimeField(help_text=_("The instant whose day of month renewals keep."))
    cancel_at_period_end = models.BooleanField(default=False)
    paid_through = models.DateTimeField(
        null=True, blank=True, help_text=_("End of the last period that was paid, or granted without a payment.")
    )
    period_value = models.DecimalField(
        max_digits=18,
        decimal_places=4,
        default=Decimal(0),
        help_text=_("What was paid for the plan's running stretch, as its price has it: with or without tax."),
    )
    plan_since = models.DateTimeField(
        null=True, blank=True, help_text=_("When the plan replaced another within the running period.")
    )
    trial_ends_at = models.DateTimeField(null=True, blank=True)
    past_due_since = models.DateTimeField(null=True, blank=True)
    grace_until = models.DateTimeField(
        null=True, blank=True, help_text=_("Past due: when it expires unless paid; at most a tenth of the interval.")
    )
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_credits = models.DecimalField(
        max_digits=20, decimal_places=6, default=Decimal(0), help_text=_("Plan credits put aside while it is paused.")
    )
    paused_value = models.DecimalField(
        max_digits=18, decimal_places=4, default=Decimal(0), help_text=_("What was paid for the credits put aside.")
    )
    next_plan = models.ForeignKey(
        Plan,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text=_("The plan it changes to when the period ends."),
    )
    next_price = models.ForeignKey(
        PlanPrice,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text=_("The price it renews at, where that is another one."),
    )
    coupon = models.ForeignKey(Coupon, on_delete=models.PROTECT, null=True, blank=True, related_name="subscriptions")
    coupon_periods_used = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(
        null=True, blank=True, help_text=_("After a failure: when the renewal job tries again.")
    )
    last_error = models.CharField(max_length=500, blank=True)
    previous = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="next")
    created_at = models.DateTimeField(default=clock.now, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        permissions = [("extend_subscription", "Can give subscriptions time without a payment")]
        indexes = [
            models.Index(
                fields=["current_period_end"],
                condition=Q(state__in=("trialing", "active", "past_due", "paused")),
                name="subscription_due",
            ),
            models.Index(fields=["grace_until"], condition=Q(state="past_due"), name="subscription_grace"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(state__in=("trialing", "active", "past_due", "paused")),
                name="subscription_one_live",
            ),
            models.CheckConstraint(
                condition=Q(current_period_end__isnull=True) | Q(current_period_end__gt=F("current_period_start")),
                name="subscription_period_order",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.plan} ({self.get_state_display()})"


class PriceMove(models.Model):
    """That running subscriptions renew at a price: each from its first period that begins when the price is in force.

    Open until everybody is moved; whoever renews before the price is in force follows afterwards.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    price = models.OneToOneField(PlanPrice, on_delete=models.PROTECT, related_name="move")
    reason = models.CharField(max_length=200)
    requested_by = models.CharField(max_length=200, blank=True, help_text=_("The operator."))
    moved = models.PositiveIntegerField(default=0, help_text=_("Subscriptions that renew at the price because of this."))
    created_at = models.DateTimeField(default=clock.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True, help_text=_("When nobody was left, or it was stopped."))
    is_stopped = models.BooleanField(default=False, help_text=_("Ended by an operator: who is moved stays so."))

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.price.plan}: {self.price}"


class CouponRedemption(models.Model):
    """One use of a coupon. It is taken when a checkout begins and given back when that checkout comes to nothing."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    coupon = models.ForeignKey(Coupon, on_delete=models.PROTECT, related_name="redemptions")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="coupon_redemptions")
    subscription = models.OneToOneField(Subscription, on_delete=models.CASCADE, related_name="coupon_redemption")
    redeemed_at = models.DateTimeField(default=clock.now)

    class Meta:
        ordering = ["-redeemed_at"]
        indexes = [models.Index(fields=["coupon", "account"], name="redemption_coupon_account")]

    def __str__(self) -> str:
        return f"{self.coupon} ({self.account})"


class DunningStep(models.Model):
    """A mail on the way of an unpaid renewal, so many hours after (negative: before) its period begins."""

    class Template(models.TextChoices):
        UPCOMING = "renewal_upcoming", _("Invoice and payment link, before the period begins")
        OVERDUE = "renewal_overdue", _("Payment is overdue")
        LAST_WARNING = "renewal_last_warning", _("Last warning before the plan ends")

    offset_hours = models.SmallIntegerField(
        unique=True, help_text=_("Hours after the period began; negative: before. Steps beyond the grace time are left out.")
    )
    template = models.CharField(max_length=32, choices=Template)
    is_enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["offset_hours"]

    def __str__(self) -> str:
        return f"{self.offset_hours:+d} h {self.get_template_display()}"


# What mails about an invoice say: those of the steps, and those that come by themselves.
MAILS: dict[str, Any] = {
    **dict(DunningStep.Template.choices),
    "overage_overdue": _("Payment of what was used beyond the plan is overdue"),
    "overage_last_warning": _("Last warning about what was used beyond the plan"),
    "plan_expired": _("The plan has ended unpaid"),
    "renewal_card_confirm": _("The bank wants the card's payment confirmed"),
    "renewal_card_expired": _("The saved card has expired"),
    "renewal_card_failed": _("The saved card was declined"),
}


class DunningNotice(models.Model):
    """A reminder that was queued for an invoice: each step once."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="dunning_notices")
    invoice_id = models.UUIDField()
    template = models.CharField(max_length=32, help_text=_("What the mail says."))
    facts = models.JSONField(default=dict, blank=True, help_text=_("What the mail tells beside the invoice."))
    created_at = models.DateTimeField(default=clock.now)
    skipped = models.BooleanField(default=False, help_text=_("A later one was due already: this was never sent."))
    sent_at = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["invoice_id", "template"], name="dunningnotice_once")]

    def __str__(self) -> str:
        return f"{self.template_name} {self.invoice_id}"

    @property
    def template_name(self) -> str:
        """What the mail says, in the reader's language."""
        return str(MAILS.get(self.template, self.template))


class JobRun(models.Model):
    """One run of a job over many rows, with its progress. The rows it works on are the truth; this only tells of them."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    job = models.CharField(max_length=64)
    started_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    due = models.PositiveIntegerField(default=0, help_text=_("Rows that were due when it began."))
    done = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    last_error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-started_at"]
        indexes = [models.Index(fields=["job", "-started_at"], name="jobrun_job_started")]

    def __str__(self) -> str:
        return f"{self.job} {self.started_at:%Y-%m-%d %H:%M}"
