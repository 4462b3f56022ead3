"""Who is kept out, and who behaves strangely: addresses and plain subjects, never accounts or plans."""

import ipaddress
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from iafactory.common import clock
from iafactory.common.ids import uuid7


def validate_network(value: str) -> None:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValidationError(_("%(value)s is not an address or CIDR network."), params={"value": value}) from error


class NetworkBlock(models.Model):
    """Addresses that get no answer but a refusal, on every path."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    network = models.CharField(
        max_length=43, unique=True, validators=[validate_network], help_text=_("An address or a CIDR network, v4 or v6.")
    )
    reason = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text=_("Empty: until removed."))
    created_by = models.CharField(max_length=254, blank=True, editable=False)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.network


# What signals are called. Whoever raises them knows them and adds their names.
SIGNAL_NAMES: dict[str, Any] = {}


class AbuseSignal(models.Model):
    """Something about a subject that an operator should look at. One row per subject and kind while it is open."""

    class State(models.TextChoices):
        OPEN = "open", _("Open")
        ACTED = "acted", _("Acted on")
        DISMISSED = "dismissed", _("Dismissed")

    MOVES: dict[str, frozenset[str]] = {
        State.OPEN: frozenset({State.ACTED, State.DISMISSED}),
        State.ACTED: frozenset(),
        State.DISMISSED: frozenset(),
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    subject = models.CharField(max_length=100, help_text=_("`account:<id>`, `key:<id>` or `address:<ip>`."))
    signal = models.CharField(max_length=64, help_text=_("What was seen, such as `messages_a_day`."))
    evidence = models.JSONField(default=dict, help_text=_("The figures behind it; never a prompt."))
    first_seen_at = models.DateTimeField(default=clock.now)
    last_seen_at = models.DateTimeField(default=clock.now)
    until = models.DateTimeField(null=True, blank=True, help_text=_("When it stops to matter unless seen again."))
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_reason = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-last_seen_at"]
        constraints = [
            models.UniqueConstraint(fields=["subject", "signal"], condition=models.Q(state="open"), name="abusesignal_one_open")
        ]
        indexes = [models.Index(fields=["state", "-last_seen_at"], name="abusesignal_state_seen")]

    def __str__(self) -> str:
        return f"{self.name} {self.subject}"

    @property
    def name(self) -> str:
        """What was seen, in words; the code's own where nobody named it."""
        return str(SIGNAL_NAMES.get(self.signal) or self.signal.replace("_", " "))
