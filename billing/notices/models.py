"""What was already told to customers, so that each crossing is told once, and what they want to be told by mail."""

from decimal import Decimal

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account, ApiKey
from iafactory.common import clock
from iafactory.common.ids import uuid7


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


class NoticeKind(models.TextChoices):
    """What customers are told of; each can be switched on and off."""

    CREDITS = "credits", _("Credits run low or out")
    KEY_BUDGET = "key_budget", _("A key's own credits run low or out")
    QUOTA = "quota", _("The plan's day is nearly, or wholly, used")
    PLAN_ENDING = "plan_ending", _("A trial or a plan ends soon")
    CREDITS_EXPIRING = "credits_expiring", _("Bought or given credits expire soon")
    PRICE_CHANGE = "price_change", _("The plan renews at another price")


class NoticePreference(models.Model):
    """What one account wants to be mailed, where it differs from what everybody is."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="notice_preferences")
    kind = models.CharField(max_length=32, choices=NoticeKind)
    mail = models.BooleanField(null=True, blank=True, help_text=_("Empty: as usual."))
    threshold = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text=_("Percent or days, as the kind has it; empty: as usual.")
    )

    class Meta:
        ordering = ["account", "kind"]
        constraints = [models.UniqueConstraint(fields=["account", "kind"], name="noticepreference_once")]

    def __str__(self) -> str:
        return f"{self.account} {self.get_kind_display()}"


class CustomerNotice(models.Model):
    """Something a customer was told, once: `key` names the crossing. Whether a mail about it goes out, and when it did."""

    class Level(models.TextChoices):
        LOW = "low", _("Nearly used up")
        EXHAUSTED = "exhausted", _("Used up")
        ENDING = "ending", _("Ends soon")
        EXPIRING = "expiring", _("Expire soon")
        PLANNED = "planned", _("Planned")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="notices")
    kind = models.CharField(max_length=32, choices=NoticeKind)
    level = models.CharField(max_length=16, choices=Level, help_text=_("How far it has come."))
    key = models.CharField(max_length=200, help_text=_("Which crossing: each is told once."))
    facts = models.JSONField(default=dict, help_text=_("What the mail says."))
    is_mailed = models.BooleanField(default=True, help_text=_("Off: the account does not want mails of this kind."))
    created_at = models.DateTimeField(default=clock.now)
    sent_at = models.DateTimeField(null=True, blank=True, help_text=_("When the mail went out."))

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["created_at"], condition=Q(is_mailed=True, sent_at__isnull=True), name="customernotice_unsent"
            ),
            models.Index(fields=["-created_at"], name="customernotice_created"),
        ]
        constraints = [models.UniqueConstraint(fields=["account", "kind", "key"], name="customernotice_once")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} ({self.get_level_display()})"
