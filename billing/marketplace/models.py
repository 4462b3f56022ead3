"""Customers who come through a marketplace: their accounts here, and the plans that their subscriptions there stand for."""

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.plans.models import Plan
from iafactory.common import clock
from iafactory.common.ids import uuid7


class Marketplace(models.TextChoices):
    RAPIDAPI = "rapidapi", _("RapidAPI")


def subscription_normalise(text: str) -> str:
    """The one spelling of a marketplace's subscription: `BASIC`, `PRO` …; empty for none."""
    return text.strip().upper()[:100]


class MarketplacePlan(models.Model):
    """The plan here that a subscription of the marketplace stands for. Without one it stands for the plan `free`."""

    marketplace = models.CharField(max_length=16, choices=Marketplace, default=Marketplace.RAPIDAPI)
    subscription = models.CharField(
        max_length=100, help_text=_("Its name at the marketplace: BASIC, PRO, ULTRA, MEGA, or CUSTOM.")
    )
    plan = models.ForeignKey(
        Plan,
        on_delete=models.PROTECT,
        related_name="marketplace_plans",
        help_text=_("The marketplace collects the money: no invoice is written here, whatever the plan's price."),
    )

    class Meta:
        ordering = ["marketplace", "subscription"]
        constraints = [models.UniqueConstraint(fields=["marketplace", "subscription"], name="marketplaceplan_unique")]

    def __str__(self) -> str:
        return f"{self.get_marketplace_display()} {self.subscription}"

    def clean(self) -> None:
        self.subscription = subscription_normalise(self.subscription)
        if not self.subscription.isascii() or not self.subscription.isprintable():
            raise ValidationError({"subscription": _("Printable ASCII characters only.")})


class MarketplaceAccount(models.Model):
    """The account of one user of the marketplace. It has no users of ours, no keys and no passwords."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    marketplace = models.CharField(max_length=16, choices=Marketplace, default=Marketplace.RAPIDAPI)
    external_user = models.CharField(max_length=200, help_text=_("The user's name at the marketplace."))
    account = models.OneToOneField(Account, on_delete=models.PROTECT, related_name="marketplace")
    subscription = models.CharField(max_length=100, blank=True, help_text=_("Its subscription there, as last told."))
    previous_subscription = models.CharField(max_length=100, null=True, blank=True)
    subscription_since = models.DateTimeField(help_text=_("When it was first told."))
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["marketplace", "external_user"], name="marketplaceaccount_user_unique")]

    def __str__(self) -> str:
        return f"{self.get_marketplace_display()} {self.external_user}"
