"""Our books beside what gateways say: one comparison per gateway and day, one row per payment or refund it looked at."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from billing.invoices.models import MONEY_DIGITS
from billing.payments.models import GatewayName, Payment, Refund
from iafactory.common import clock
from iafactory.common.ids import uuid7


class Reconciliation(models.Model):
    """What one gateway says of one day (UTC), compared with our books."""

    class State(models.TextChoices):
        PLANNED = "planned", _("Planned")
        RUNNING = "running", _("Running")
        WAITING = "waiting", _("Waiting: to be asked again")
        COMPLETE = "complete", _("Complete")

    MOVES: dict[str, frozenset[str]] = {
        State.PLANNED: frozenset({State.RUNNING}),
        State.RUNNING: frozenset({State.COMPLETE, State.WAITING}),
        State.WAITING: frozenset({State.RUNNING}),
        # An operator has the day looked at again.
        State.COMPLETE: frozenset({State.WAITING}),
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    gateway = models.CharField(max_length=32, choices=GatewayName)
    mode = models.CharField(max_length=8, choices=Payment.Mode)
    day = models.DateField(help_text=_("UTC."))
    state = models.CharField(max_length=16, choices=State, default=State.PLANNED)
    listed = models.BooleanField(
        default=False, help_text=_("The gateway listed the day. Off: only what we know of was looked up there.")
    )
    note = models.CharField(max_length=500, blank=True, help_text=_("What went wrong, or what could not be compared."))
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["-day", "gateway"]
        verbose_name = _("reconciliation")
        constraints = [
            models.UniqueConstraint(fields=["gateway", "mode", "day"], name="reconciliation_once_a_day"),
            models.CheckConstraint(
                condition=~Q(state="complete") | Q(finished_at__isnull=False), name="reconciliation_complete_has_end"
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(state__in=("planned", "running", "waiting")),
                name="reconciliation_due",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_gateway_display()} {self.day:%Y-%m-%d}"


class ReconciliationRow(models.Model):
    """One payment or refund in our books and at its gateway. It belongs to the day on which it was first looked at."""

    class Subject(models.TextChoices):
        PAYMENT = "payment", _("Payment")
        REFUND = "refund", _("Refund")

    class Outcome(models.TextChoices):
        EXPECTED = "expected", _("Expected")
        MISSING = "missing", _("Missing: not in our books")
        OVER = "over", _("Over: the gateway has more than our books")
        UNDER = "under", _("Under: the gateway has less than our books")
        CURRENCY = "currency", _("Currency mismatch")
        DUPLICATE = "duplicate", _("Duplicate: paid or sent twice")

    class State(models.TextChoices):
        AGREED = "agreed", _("Agreed")
        OPEN = "open", _("Open: an operator has to look")
        RESOLVED = "resolved", _("Resolved")
        EXPLAINED = "explained", _("Explained")

    # A later look may find that what agreed, or was put right, differs after all; or that a difference went away.
    MOVES: dict[str, frozenset[str]] = {
        State.AGREED: frozenset({State.OPEN}),
        State.OPEN: frozenset({State.RESOLVED, State.EXPLAINED}),
        State.RESOLVED: frozenset({State.OPEN}),
        State.EXPLAINED: frozenset({State.OPEN}),
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    reconciliation = models.ForeignKey(Reconciliation, on_delete=models.PROTECT, related_name="rows")
    gateway = models.CharField(max_length=32, choices=GatewayName)
    mode = models.CharField(max_length=8, choices=Payment.Mode)
    subject = models.CharField(max_length=16, choices=Subject)
    key = models.CharField(max_length=128, help_text=_("The gateway's id of the money, else our reference."))
    outcome = models.CharField(max_length=16, choices=Outcome)
    state = models.CharField(max_length=16, choices=State)
    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, null=True, blank=True, related_name="reconciliation_rows")
    refund = models.ForeignKey(Refund, on_delete=models.PROTECT, null=True, blank=True, related_name="reconciliation_rows")
    our_amount = models.DecimalField(**MONEY_DIGITS, null=True, blank=True, help_text=_("In our books; empty: not there."))
    our_currency = models.CharField(max_length=3, blank=True)
    their_amount = models.DecimalField(**MONEY_DIGITS, null=True, blank=True, help_text=_("At the gateway; empty: not there."))
    their_currency = models.CharField(max_length=3, blank=True)
    ours = models.JSONField(default=dict, blank=True, help_text=_("What our books say."))
    theirs = models.JSONField(default=dict, blank=True, help_text=_("What the gateway says."))
    note = models.CharField(max_length=500, blank=True)
    checked_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_by = models.CharField(max_length=254, blank=True)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-checked_at"]
        verbose_name = _("reconciliation row")
        permissions = [("resolve_reconciliationrow", "Can put differences with gateways right")]
        constraints = [
            models.UniqueConstraint(fields=["gateway", "mode", "subject", "key"], name="reconciliationrow_once"),
            models.CheckConstraint(
                condition=Q(outcome="expected", state="agreed") | (~Q(outcome="expected") & ~Q(state="agreed")),
                name="reconciliationrow_expected_agrees",
            ),
        ]
        indexes = [
            models.Index(fields=["-checked_at"], name="reconciliationrow_checked"),
            models.Index(fields=["checked_at"], condition=Q(state="open"), name="reconciliationrow_open"),
        ]

    def __str__(self) -> str:
        return f"{self.get_gateway_display()} {self.get_subject_display()} {self.key}"
