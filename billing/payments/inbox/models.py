"""What gateways told us: every webhook as it arrived, and what became of it."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from billing.payments.models import GatewayName, Payment
from iafactory.common import clock
from iafactory.common.ids import uuid7


class GatewayWebhook(models.Model):
    """One webhook, stored before anything is believed of it. Its event counts once: unique among the verified."""

    class State(models.TextChoices):
        RECEIVED = "received", _("Received: to be worked")
        PROCESSED = "processed", _("Processed")
        IGNORED = "ignored", _("Ignored: nothing to do")
        FAILED = "failed", _("Failed: to be tried again, or looked at")
        REJECTED = "rejected", _("Rejected: not the gateway's word")
        REPLAYED = "replayed", _("Replayed: to be worked again")

    # An operator may have any but a rejected one worked again: its effects happen once all the same.
    MOVES: dict[str, frozenset[str]] = {
        State.RECEIVED: frozenset({State.PROCESSED, State.IGNORED, State.FAILED, State.REJECTED}),
        State.PROCESSED: frozenset({State.REPLAYED}),
        State.IGNORED: frozenset({State.REPLAYED}),
        State.FAILED: frozenset({State.PROCESSED, State.IGNORED, State.REPLAYED}),
        State.REJECTED: frozenset(),
        State.REPLAYED: frozenset({State.PROCESSED, State.IGNORED, State.FAILED}),
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    gateway = models.CharField(max_length=32, choices=GatewayName)
    mode = models.CharField(max_length=8, choices=Payment.Mode)
    state = models.CharField(max_length=16, choices=State, default=State.RECEIVED)
    received_at = models.DateTimeField(default=clock.now, editable=False)
    source_address = models.GenericIPAddressField(null=True, blank=True)
    headers = models.JSONField(default=dict, blank=True, help_text=_("Those that its signature needs, and a few more."))
    body = models.BinaryField(help_text=_("Exactly as it arrived."))
    body_sha256 = models.CharField(max_length=64)
    verified_at = models.DateTimeField(null=True, blank=True)
    signed = models.BooleanField(default=True, help_text=_("Off: the gateway signs no such event; only the address knew."))
    rejection = models.CharField(max_length=32, blank=True)
    event_id = models.CharField(max_length=255, blank=True)
    event_type = models.CharField(max_length=100, blank=True)
    subject = models.CharField(max_length=16, blank=True)
    reference = models.CharField(max_length=64, blank=True)
    checkout_id = models.CharField(max_length=128, blank=True)
    gateway_payment_id = models.CharField(max_length=128, blank=True)
    refund_id = models.CharField(max_length=128, blank=True)
    dispute_id = models.CharField(max_length=128, blank=True)
    payment = models.ForeignKey(
        Payment, on_delete=models.PROTECT, null=True, blank=True, related_name="webhooks", help_text=_("Whom it concerns.")
    )
    truth = models.JSONField(default=dict, blank=True, help_text=_("What the gateway said when asked."))
    note = models.CharField(max_length=500, blank=True, help_text=_("Why it was ignored, failed or went to review."))
    deliveries = models.PositiveIntegerField(default=1, help_text=_("How often the gateway sent it."))
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    worked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-received_at"]
        permissions = [("replay_gatewaywebhook", "Can have a webhook worked again")]
        indexes = [
            models.Index(fields=["-received_at"], name="gatewaywebhook_received"),
            models.Index(fields=["gateway", "gateway_payment_id"], name="gatewaywebhook_payment_id"),
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(state__in=("received", "failed", "replayed")),
                name="gatewaywebhook_next_attempt",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "event_id"], condition=Q(verified_at__isnull=False), name="gatewaywebhook_event_once"
            ),
            models.CheckConstraint(
                condition=Q(verified_at__isnull=True) | ~Q(event_id=""), name="gatewaywebhook_verified_has_event"
            ),
            models.CheckConstraint(
                condition=Q(state__in=("received", "rejected")) | Q(verified_at__isnull=False),
                name="gatewaywebhook_worked_is_verified",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_gateway_display()} {self.event_type or self.get_state_display()}"
