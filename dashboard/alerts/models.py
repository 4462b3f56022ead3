"""What is looked at, whom it is told to, what is wrong now, and which messages went out about it."""

from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from iafactory.common import clock
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.ids import uuid7
from iafactory.common.texts import Text, shipped

ERROR_LENGTH = 64


class Level(models.TextChoices):
    """How much an alert matters, least first."""

    INFO = "info", _("Info")
    WARNING = "warning", _("Warning")
    CRITICAL = "critical", _("Critical")


# Order of the levels.
RANK: dict[str, int] = {str(level): number for number, level in enumerate(Level.values)}


def validate_zone(value: str) -> None:
    if value not in available_timezones():
        raise ValidationError(_("%(value)s is no time zone."), params={"value": value})


class AlertTarget(models.Model):
    """Somewhere that alerts are sent: an e-mail address, or an address as Apprise writes them, kept encrypted."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=100, unique=True)
    address = EncryptedTextField(help_text=_("Stored encrypted, never shown after saving."))
    service = models.CharField(max_length=100, editable=False, help_text=_("What the address belongs to."))
    minimum_level = models.CharField(
        max_length=16, choices=Level, default=Level.INFO, help_text=_("Alerts below it are not sent here.")
    )
    is_default = models.BooleanField(_("default"), default=True, help_text=_("Gets the alerts of rules that name no targets."))
    is_enabled = models.BooleanField(_("enabled"), default=True)
    tested_at = models.DateTimeField(null=True, blank=True, editable=False)
    test_result = models.CharField(
        max_length=ERROR_LENGTH, blank=True, editable=False, help_text=_("Empty: the last test arrived.")
    )
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class AlertRule(models.Model):
    """What is looked at, from when on it matters, and who is told how often."""

    class Kind(models.TextChoices):
        BUDGET = "budget", _("Budget spent")
        ABUSE = "abuse", _("Abusive users")
        PROVIDER_DOWN = "provider_down", _("Provider down")
        BREAKER_OPEN = "breaker_open", _("Breaker open")
        PAYMENTS = "payments", _("Payments to look at")
        GATEWAY_WEBHOOKS = "gateway_webhooks", _("Webhooks of payment gateways")
        CUSTOMER_WEBHOOKS = "customer_webhooks", _("Webhooks to customers")
        BOOKS = "books", _("Books not verified")
        QUEUES = "queues", _("Queues grow")
        PLAN_MARGIN = "plan_margin", _("Plan can lose money")
        LOSSES = "losses", _("Losses borne by us")
        SCHEDULED_WORK = "scheduled_work", _("Scheduled work stands still")
        JOBS = "jobs", _("Job fails or is late")
        LEFT_UNDONE = "left_undone", _("Work given up or overdue")
        CREDENTIALS = "credentials", _("Provider credentials")
        CERTIFICATE = "certificate", _("Certificate of the public address")

    code = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=32, choices=Kind)
    level = models.CharField(max_length=16, choices=Level, default=Level.WARNING)
    thresholds = models.JSONField(
        default=dict, blank=True, help_text=_("From when on it matters; what is left out has the value shipped.")
    )
    repeat_minutes = models.PositiveIntegerField(
        default=240, help_text=_("While it lasts and nobody has acknowledged it, it is told again after this; 0: told once.")
    )
    quiet_from = models.TimeField(null=True, blank=True, help_text=_("Between these nothing is sent; it is told afterwards."))
    quiet_until = models.TimeField(null=True, blank=True)
    quiet_zone = models.CharField(max_length=64, default="Africa/Algiers", validators=[validate_zone])
    critical_passes = models.BooleanField(default=True, help_text=_("Critical alerts are sent in quiet hours too."))
    targets = models.ManyToManyField(
        AlertTarget, blank=True, related_name="rules", help_text=_("None: every default target of sufficient level.")
    )
    is_enabled = models.BooleanField(_("enabled"), default=True)
    looked_at = models.DateTimeField(null=True, blank=True, editable=False, help_text=_("When the last look began."))
    look_error = models.CharField(max_length=200, blank=True, editable=False, help_text=_("Why the last look failed."))

    class Meta:
        ordering = ["code"]
        constraints = [
            models.CheckConstraint(
                condition=Q(quiet_from__isnull=True, quiet_until__isnull=True)
                | Q(quiet_from__isnull=False, quiet_until__isnull=False),
                name="alertrule_quiet_hours_end",
                violation_error_message=_("Quiet hours have a beginning and an end."),
            ),
        ]

    def __str__(self) -> str:
        return shipped(self.name)


class Alert(models.Model):
    """Something that is wrong, or was: one open row per rule and subject.

    `title` and `text` are in the language of `ALERTS_LANGUAGE`, as they were sent; `shown_title` and `shown_text` in that of
    the reader.
    """

    class State(models.TextChoices):
        OPEN = "open", _("Open")
        RESOLVED = "resolved", _("Resolved")

    # What comes back is a new row.
    MOVES: dict[str, frozenset[str]] = {State.OPEN: frozenset({State.RESOLVED}), State.RESOLVED: frozenset()}

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rule = models.ForeignKey(AlertRule, on_delete=models.PROTECT, related_name="alerts")
    subject = models.CharField(max_length=200, help_text=_("What it is about, within the rule."))
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    level = models.CharField(max_length=16, choices=Level)
    step = models.PositiveSmallIntegerField(default=0, help_text=_("Which threshold is passed, where there are several."))
    title = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    words = models.JSONField(
        default=dict,
        # Processes of the release before write rows while this one is being rolled out.
        db_default=models.Value({}, output_field=models.JSONField()),
        blank=True,
        editable=False,
        help_text=_("Title and text with their figures, to be said in any language."),
    )
    figures = models.JSONField(default=dict, blank=True)
    link = models.CharField(max_length=500, blank=True, help_text=_("The console's page with the rows behind it."))
    opened_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    notified_at = models.DateTimeField(null=True, blank=True, help_text=_("When it was last told."))
    notices = models.PositiveIntegerField(default=0, help_text=_("How often it was told."))
    silenced_until = models.DateTimeField(null=True, blank=True, help_text=_("Acknowledged: not repeated before."))
    acknowledged_by = models.CharField(max_length=254, blank=True)
    acknowledged_reason = models.CharField(max_length=200, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-opened_at"]
        permissions = [("acknowledge_alert", "Can acknowledge alerts")]
        indexes = [models.Index(fields=["state", "-opened_at"], name="alert_state_opened")]
        constraints = [
            models.UniqueConstraint(fields=["rule", "subject"], condition=Q(state="open"), name="alert_one_open"),
            models.CheckConstraint(
                condition=Q(state="open", resolved_at__isnull=True) | Q(state="resolved", resolved_at__isnull=False),
                name="alert_resolved_has_a_time",
            ),
        ]

    def __str__(self) -> str:
        return self.shown_title

    @property
    def shown_title(self) -> str:
        """The title in the reader's language; as it was written down where only that is known."""
        return Text.restored(self.words["title"]).translated() if self.words else self.title

    @property
    def shown_text(self) -> str:
        """The text in the reader's language; as it was written down where only that is known."""
        return " ".join(Text.restored(text).translated() for text in self.words["text"]) if self.words else self.text


class AlertDelivery(models.Model):
    """One message for one target. `number` counts an alert's messages: each goes to a target once."""

    class State(models.TextChoices):
        PENDING = "pending", _("Pending: waits for its next attempt")
        SENT = "sent", _("Sent")
        FAILED = "failed", _("Failed: given up")
        CANCELED = "canceled", _("Canceled: it was over before it could be told")

    MOVES: dict[str, frozenset[str]] = {
        State.PENDING: frozenset({State.SENT, State.FAILED, State.CANCELED}),
        State.SENT: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELED: frozenset(),
    }

    class Occasion(models.TextChoices):
        OPENED = "opened", _("New")
        WORSE = "worse", _("Worse")
        REMINDER = "reminder", _("Still open")
        RESOLVED = "resolved", _("Resolved")
        TEST = "test", _("Test")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, null=True, blank=True, related_name="deliveries")
    target = models.ForeignKey(AlertTarget, on_delete=models.CASCADE, related_name="deliveries")
    occasion = models.CharField(max_length=16, choices=Occasion)
    number = models.PositiveIntegerField(default=0)
    level = models.CharField(max_length=16, choices=Level)
    title = models.CharField(max_length=250)
    body = models.TextField()
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(
        null=True, blank=True, help_text=_("A worker is sending it; afterwards it is taken for dead.")
    )
    last_error = models.CharField(max_length=ERROR_LENGTH, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = _("alert deliveries")
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["next_attempt_at"], condition=Q(state="pending"), name="alertdelivery_due"),
            models.Index(fields=["finished_at"], condition=Q(state="failed"), name="alertdelivery_failed"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["alert", "target", "number"], condition=Q(alert__isnull=False), name="alertdelivery_once"
            ),
            models.CheckConstraint(
                condition=Q(state="pending", next_attempt_at__isnull=False, finished_at__isnull=True)
                | ~Q(state="pending") & Q(next_attempt_at__isnull=True, finished_at__isnull=False, leased_until__isnull=True),
                name="alertdelivery_pending_has_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} → {self.target}"


def thresholds_of(rule: AlertRule, shipped: dict[str, int]) -> dict[str, int]:
    """The thresholds in force: the rule's own over those shipped for its kind."""
    own: dict[str, Any] = rule.thresholds if isinstance(rule.thresholds, dict) else {}
    return shipped | {name: value for name, value in own.items() if name in shipped}
