"""Customers' own endpoints, what is to be told to them, and how each attempt went."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.events.models import Event
from iafactory.common import clock
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.ids import uuid7


class WebhookEndpoint(models.Model):
    """An address of a customer that is told of the chosen events, signed as Standard Webhooks says.

    The secret is shown once. After a rotation the one before signs too, until `previous_secret_until`.
    """

    class DisabledBy(models.TextChoices):
        CUSTOMER = "customer", _("The customer")
        OPERATOR = "operator", _("An operator")
        SYSTEM = "system", _("Failures")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="webhook_endpoints")
    url = models.CharField(max_length=2000)
    description = models.CharField(max_length=200, blank=True)
    event_types = ArrayField(models.CharField(max_length=64), help_text=_("Names of the catalogue of events."))
    secret = EncryptedTextField()
    previous_secret = EncryptedTextField(null=True, blank=True)
    previous_secret_until = models.DateTimeField(null=True, blank=True)
    is_enabled = models.BooleanField(_("enabled"), default=True)
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_by = models.CharField(max_length=16, choices=DisabledBy, blank=True)
    disabled_reason = models.CharField(max_length=300, blank=True)
    notice_due_at = models.DateTimeField(
        null=True, blank=True, help_text=_("Since when a mail about the disabling waits to be sent.")
    )
    failing_since = models.DateTimeField(null=True, blank=True, help_text=_("First failure since the last success."))
    last_success_at = models.DateTimeField(null=True, blank=True)
    last_failure_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["-created_at"]
        permissions = [("disable_webhookendpoint", "Can disable and enable webhook endpoints")]
        indexes = [
            models.Index(fields=["account", "-created_at"], name="webhookendpoint_account"),
            models.Index(fields=["notice_due_at"], condition=Q(notice_due_at__isnull=False), name="webhookendpoint_notice_due"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(is_enabled=True, disabled_at__isnull=True, disabled_by="")
                | Q(is_enabled=False, disabled_at__isnull=False) & ~Q(disabled_by=""),
                name="webhookendpoint_disabled_by_somebody",
            ),
            models.CheckConstraint(
                condition=Q(previous_secret__isnull=True, previous_secret_until__isnull=True)
                | Q(previous_secret__isnull=False, previous_secret_until__isnull=False),
                name="webhookendpoint_previous_secret_ends",
            ),
        ]

    def __str__(self) -> str:
        return self.url


class WebhookQueueItem(models.Model):
    """An event that has not been turned into deliveries yet.

    A trigger writes it with the event, in the event's transaction, for accounts that have an endpoint: whoever commits late is
    not missed, as a cursor over ids would miss them, and a restored database goes on where it was.
    """

    event = models.OneToOneField(Event, on_delete=models.CASCADE, primary_key=True, related_name="+")

    def __str__(self) -> str:
        return str(self.pk)


class WebhookDelivery(models.Model):
    """One message for one endpoint: an event's first delivery (once), a replay of one, or a test."""

    class State(models.TextChoices):
        PENDING = "pending", _("Pending: waits for its next attempt")
        DELIVERED = "delivered", _("Delivered")
        FAILED = "failed", _("Failed: given up")
        CANCELED = "canceled", _("Canceled: the endpoint was disabled")

    # Ends are final: a replay is a new row.
    MOVES: dict[str, frozenset[str]] = {
        State.PENDING: frozenset({State.DELIVERED, State.FAILED, State.CANCELED}),
        State.DELIVERED: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELED: frozenset(),
    }

    class Kind(models.TextChoices):
        EVENT = "event", _("Event")
        REPLAY = "replay", _("Replay")
        TEST = "test", _("Test")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries")
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.EVENT)
    event = models.ForeignKey(Event, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    replay_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="replays")
    message_id = models.CharField(max_length=64, help_text=_("`webhook-id`: the same in every attempt and replay."))
    event_type = models.CharField(max_length=64)
    body = models.TextField(help_text=_("What is sent, to the byte."))
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(
        null=True, blank=True, help_text=_("A worker is sending it; afterwards it is taken for dead.")
    )
    last_status = models.PositiveSmallIntegerField(null=True, blank=True, help_text=_("HTTP status of the last attempt."))
    last_error = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = _("webhook deliveries")
        ordering = ["-created_at"]
        permissions = [("replay_webhookdelivery", "Can replay webhook deliveries")]
        indexes = [
            models.Index(fields=["endpoint", "next_attempt_at"], condition=Q(state="pending"), name="webhookdelivery_due"),
            models.Index(fields=["leased_until"], condition=Q(leased_until__isnull=False), name="webhookdelivery_leased"),
            models.Index(fields=["endpoint", "-created_at"], name="webhookdelivery_endpoint"),
            models.Index(fields=["-created_at"], name="webhookdelivery_created"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "event"], condition=Q(kind="event"), name="webhookdelivery_event_once"),
            models.UniqueConstraint(
                fields=["replay_of"], condition=Q(kind="replay", state="pending"), name="webhookdelivery_one_replay_at_once"
            ),
            models.CheckConstraint(
                condition=Q(state="pending", next_attempt_at__isnull=False, finished_at__isnull=True)
                | ~Q(state="pending") & Q(next_attempt_at__isnull=True, finished_at__isnull=False, leased_until__isnull=True),
                name="webhookdelivery_pending_has_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event_type} {self.message_id}"


class WebhookAttempt(models.Model):
    """One request to an endpoint, and the beginning of its answer."""

    delivery = models.ForeignKey(WebhookDelivery, on_delete=models.CASCADE, related_name="log")
    number = models.PositiveSmallIntegerField()
    at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField()
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text=_("HTTP status; empty: no answer came."))
    error = models.CharField(max_length=64, blank=True, help_text=_("Empty: the endpoint took it."))
    response = models.TextField(blank=True, help_text=_("The first bytes of the answer."))

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["delivery", "number"], name="webhookattempt_number_unique")]

    def __str__(self) -> str:
        return f"{self.number}: {self.status or self.error}"
