"""What is sold: plans with immutable effective-dated prices, credit packs, fixed service prices, exchange rates."""

from datetime import datetime
from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Upper
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from iafactory.common import clock
from iafactory.common.ids import uuid7


class Plan(models.Model):
    """An offer as data. Prices are rows of their own; what a subscription bought is pinned there."""

    class Visibility(models.TextChoices):
        PUBLIC = "public", _("Public")
        HIDDEN = "hidden", _("Hidden: by invitation only")
        ARCHIVED = "archived", _("Archived: no new subscriptions")

    class Interval(models.TextChoices):
        NONE = "none", _("No period")
        DAY = "day", _("Days")
        MONTH = "month", _("Months")

    class BillingMode(models.TextChoices):
        QUOTA = "quota", _("Quota: requests per day")
        CREDITS = "credits", _("Credits: each call costs")
        METERED = "metered", _("Metered: billed afterwards")

    class Rounding(models.TextChoices):
        WHOLE = "whole", _("Whole credits, at least 1")
        EXACT = "exact", _("To the millionth")

    code = models.SlugField(max_length=64, unique=True)
    family = models.CharField(max_length=64, help_text=_("Plans of one family replace each other by upgrade or downgrade."))
    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    visibility = models.CharField(max_length=16, choices=Visibility, default=Visibility.HIDDEN)
    sort_order = models.PositiveSmallIntegerField(default=100)
    interval = models.CharField(max_length=8, choices=Interval, default=Interval.MONTH)
    interval_count = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])
    renews = models.BooleanField(default=True, help_text=_("Switched off, the plan ends after one period."))
    billing_mode = models.CharField(max_length=8, choices=BillingMode)
    rounding = models.CharField(max_length=8, choices=Rounding, default=Rounding.WHOLE)
    period_credits = models.DecimalField(max_digits=20, decimal_places=6, default=Decimal(0))
    daily_limit = models.DecimalField(
        max_digits=20,
        decimal_places=6,
        null=True,
        blank=True,
        help_text=_("Per day: requests on quota plans, credits on credits plans. Empty: no limit."),
    )
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    requests_per_hour = models.PositiveIntegerField(null=True, blank=True)
    requests_per_day = models.PositiveIntegerField(
        null=True, blank=True, help_text=_("A ceiling beside the daily limit, which counts credits on credits plans.")
    )
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_calls = models.PositiveIntegerField(null=True, blank=True)
    priority = models.PositiveSmallIntegerField(default=0, help_text=_("Who is served first when capacity is short."))
    trial_days = models.PositiveSmallIntegerField(default=0)
    overage_ceiling = models.DecimalField(
        max_digits=20,
        decimal_places=6,
        null=True,
        blank=True,
        help_text=_("Metered plans: credits a period may use beyond those included, billed afterwards."),
    )
    features = models.JSONField(default=list, blank=True, help_text=_("Codes of modules and labels the plan includes."))
    only_account = models.ForeignKey(
        Account,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="custom_plans",
        help_text=_("A plan made for this account: nobody else sees or buys it."),
    )
    created_at = models.DateTimeField(default=clock.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["sort_order", "code"]
        constraints = [
            models.CheckConstraint(condition=Q(period_credits__gte=0), name="plan_period_credits_not_negative"),
            models.CheckConstraint(
                condition=Q(daily_limit__isnull=True) | Q(daily_limit__gte=0), name="plan_daily_limit_not_negative"
            ),
            models.CheckConstraint(condition=Q(interval_count__gte=1), name="plan_interval_count_positive"),
            models.CheckConstraint(
                condition=~Q(billing_mode="metered") | Q(overage_ceiling__gt=0), name="plan_metered_has_ceiling"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class PlanPrice(models.Model):
    """What a plan costs from an instant on. Rows are never changed or deleted: a new price is a new row."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="prices")
    currency = models.CharField(max_length=3, help_text=_("ISO 4217 code."))
    amount = models.DecimalField(max_digits=18, decimal_places=4, help_text=_("Per period."))
    tax_included = models.BooleanField(default=True)
    overage_amount = models.DecimalField(
        max_digits=18,
        decimal_places=8,
        null=True,
        blank=True,
        help_text=_("Metered plans: price of one credit beyond those included."),
    )
    effective_from = models.DateTimeField()
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["plan", "currency", "-effective_from"]
        constraints = [
            models.UniqueConstraint(fields=["plan", "currency", "effective_from"], name="planprice_unique"),
            models.CheckConstraint(condition=Q(amount__gte=0), name="planprice_not_negative"),
            models.CheckConstraint(
                condition=Q(overage_amount__isnull=True) | Q(overage_amount__gte=0), name="planprice_overage_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.currency}"


def plan_price_at(plan: Plan, currency: str, at: datetime) -> PlanPrice | None:
    """The price of `plan` in `currency` in force at `at`."""
    return plan.prices.filter(currency=currency, effective_from__lte=at).order_by("-effective_from").first()


class CreditPack(models.Model):
    """Credits sold outside of a plan."""

    code = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=100)
    credits = models.DecimalField(max_digits=20, decimal_places=6)
    bonus_credits = models.DecimalField(max_digits=20, decimal_places=6, default=Decimal(0))
    currency = models.CharField(max_length=3, default="USD")
    amount = models.DecimalField(max_digits=18, decimal_places=4)
    is_public = models.BooleanField(default=True)
    sort_order = models.PositiveSmallIntegerField(default=100)

    class Meta:
        ordering = ["sort_order", "code"]
        constraints = [
            models.CheckConstraint(condition=Q(credits__gt=0, bonus_credits__gte=0, amount__gte=0), name="creditpack_amounts")
        ]

    def __str__(self) -> str:
        return self.name


class Coupon(models.Model):
    """A reduction for whoever knows its code, on the first periods of a subscription."""

    class Kind(models.TextChoices):
        PERCENT = "percent", _("Percent of the price")
        FIXED = "fixed", _("Fixed amount")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    code = models.CharField(max_length=64, unique=True, help_text=_("What customers type; kept in capitals."))
    name = models.CharField(max_length=100, help_text=_("Printed on the invoice's discount line."))
    kind = models.CharField(max_length=8, choices=Kind)
    percent = models.DecimalField(max_digits=5, decimal_places=2, null=True, blank=True)
    amount = models.DecimalField(max_digits=18, decimal_places=4, null=True, blank=True, help_text=_("Per period."))
    currency = models.CharField(max_length=3, blank=True, help_text=_("ISO 4217 code of a fixed amount."))
    periods = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("How many first periods it reduces; empty: every one."),
    )
    max_redemptions = models.PositiveIntegerField(null=True, blank=True, help_text=_("By everybody; empty: no limit."))
    max_per_account = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])
    valid_from = models.DateTimeField(default=clock.now)
    valid_until = models.DateTimeField(null=True, blank=True, help_text=_("Exclusive; empty: no end."))
    is_active = models.BooleanField(default=True)
    plans = models.ManyToManyField(Plan, blank=True, related_name="coupons", help_text=_("None: valid for every plan."))
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="percent", percent__gt=0, percent__lte=100, amount__isnull=True, currency="")
                | Q(kind="fixed", amount__gt=0, percent__isnull=True) & ~Q(currency=""),
                name="coupon_value",
            ),
            models.CheckConstraint(condition=Q(code=Upper("code")), name="coupon_code_upper_case"),
        ]

    def __str__(self) -> str:
        return self.code


class ServicePrice(models.Model):
    """The fixed price in credits of one use of a service outside the gateway."""

    code = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=100)
    credits = models.DecimalField(max_digits=20, decimal_places=6)

    class Meta:
        ordering = ["code"]
        constraints = [models.CheckConstraint(condition=Q(credits__gte=0), name="serviceprice_not_negative")]

    def __str__(self) -> str:
        return self.name


class FxRate(models.Model):
    """How much of `quote` one unit of `base` is, from an instant on. Immutable."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    base = models.CharField(max_length=3)
    quote = models.CharField(max_length=3)
    rate = models.DecimalField(max_digits=20, decimal_places=8)
    effective_from = models.DateTimeField()
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        verbose_name = _("exchange rate")
        ordering = ["base", "quote", "-effective_from"]
        constraints = [
            models.UniqueConstraint(fields=["base", "quote", "effective_from"], name="fxrate_unique"),
            models.CheckConstraint(condition=Q(rate__gt=0), name="fxrate_positive"),
        ]

    def __str__(self) -> str:
        return f"1 {self.base} = {self.rate.normalize():f} {self.quote}"


class CatalogRecord(models.Model):
    """What the shipped catalogue last wrote for one object, so that loading it again never undoes an operator's edit."""

    kind = models.CharField(max_length=64)
    key = models.CharField(max_length=200)
    fields = models.JSONField(default=dict)
    loaded_at = models.DateTimeField()

    class Meta:
        ordering = ["kind", "key"]
        constraints = [models.UniqueConstraint(fields=["kind", "key"], name="catalogrecord_unique")]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"
