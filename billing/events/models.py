"""The one append-only record of what happened to whom, by whom and why."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from iafactory.common.ids import uuid7

from .names import kind_label


class Event(models.Model):
    """A fact written in the same transaction as the change it tells. The timeline, the audit trail and webhooks read it.

    `account_id` is a plain id: events lie below accounts.
    """

    class ActorKind(models.TextChoices):
        USER = "user", _("User")
        OPERATOR = "operator", _("Operator")
        SERVICE = "service", _("Service")
        SYSTEM = "system", _("System")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField(help_text=_("When it happened, UTC."))
    actor_kind = models.CharField(max_length=16, choices=ActorKind)
    actor_id = models.UUIDField(null=True, help_text=_("The user or operator; empty for the system."))
    actor_label = models.CharField(max_length=254, blank=True, help_text=_("The actor's e-mail or name at that time."))
    # An operator who was logged in as a customer: the customer for whom they did it.
    on_behalf_of_id = models.UUIDField(null=True, help_text=_("The customer as whom an operator was logged in."))
    on_behalf_of_label = models.CharField(
        max_length=254, blank=True, default="", db_default="", help_text=_("That customer's e-mail at that time.")
    )
    account_id = models.UUIDField(null=True, db_index=True, help_text=_("The account concerned."))
    object_type = models.CharField(max_length=64, help_text=_("Kind of the object, such as `api_key`."))
    object_id = models.CharField(max_length=64)
    kind = models.CharField(max_length=64, help_text=_("What happened, such as `api_key.revoked`."))
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)
    reason = models.TextField(blank=True)
    request_id = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["account_id", "-at"], name="event_account_at"),
            models.Index(fields=["object_type", "object_id", "-at"], name="event_object_at"),
            models.Index(fields=["kind", "-at"], name="event_kind_at"),
        ]

    def __str__(self) -> str:
        return f"{kind_label(self.kind)} {self.object_id}"


class OperatorForm(models.Model):
    """A form of the console that was acted on: sent again, by a second click or a reload, it does nothing."""

    id = models.UUIDField(primary_key=True, editable=False, help_text=_("Drawn when the form was shown."))
    at = models.DateTimeField(help_text=_("When it was acted on, UTC."))

    def __str__(self) -> str:
        return str(self.pk)
