"""What an account has bought and until when."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.plans.models import Plan, PlanPrice
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
    previous = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="next")
    created_at = models.DateTimeField(default=clock.now, editable=False)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
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
        return f"{self.plan} ({self.state})"
