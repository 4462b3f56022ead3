"""What was already said about an account's credits and about its keys' budgets, so that each crossing is told once."""

from decimal import Decimal

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account, ApiKey
from iafactory.common import clock


class CreditNotice(models.Model):
    """From when on an account's balance counts as low, and what was told last.

    The threshold is a share of what the lots still in use began with, or a fixed number of credits.
    """

    class Level(models.TextChoices):
        OK = "ok", _("Enough")
        LOW = "low", _("Low")
        EXHAUSTED = "exhausted", _("Exhausted: less than one credit")

    account = models.OneToOneField(Account, on_delete=models.CASCADE, primary_key=True, related_name="credit_notice")
    low_percent = models.PositiveSmallIntegerField(
        default=10,
        validators=[MaxValueValidator(99)],
        help_text=_("Low at this share of the credits that lots still in use began with; 0: never low."),
    )
    low_credits = models.DecimalField(
        max_digits=20, decimal_places=6, null=True, blank=True, help_text=_("Low at this many credits, whatever the share.")
    )
    level = models.CharField(max_length=16, choices=Level, null=True, blank=True, help_text=_("Empty: not looked at yet."))
    level_balance = models.DecimalField(
        max_digits=20, decimal_places=6, default=Decimal(0), help_text=_("The balance at which the level was reached.")
    )
    level_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(low_percent__lte=99), name="creditnotice_percent_range"),
            models.CheckConstraint(
                condition=Q(low_credits__isnull=True) | Q(low_credits__gte=0), name="creditnotice_credits_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return str(self.account)


class KeyBudgetNotice(models.Model):
    """That a key reached a level of its credits of one day or month was told."""

    class Window(models.TextChoices):
        DAY = "day", _("Day")
        MONTH = "month", _("Month")

    class Level(models.TextChoices):
        LOW = "low", _("Four fifths spent")
        EXHAUSTED = "exhausted", _("Spent")

    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="budget_notices")
    window = models.CharField(max_length=8, choices=Window)
    window_start = models.DateTimeField()
    level = models.CharField(max_length=16, choices=Level)
    credit_limit = models.DecimalField(max_digits=20, decimal_places=6)
    at = models.DateTimeField(default=clock.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["api_key", "window", "window_start", "level", "credit_limit"], name="keybudgetnotice_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.api_key} {self.window} {self.level}"
