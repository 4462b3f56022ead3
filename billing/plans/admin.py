"""What is sold, in the console. Prices and rates are added, never changed."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.core.validators import RegexValidator
from django.db.models import Count
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin, operator_actor
from billing.events.services import event_record
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReadOnlyInline,
    WriteOnceAdmin,
    decimal_column,
    json_block,
    link_column,
    list_link,
    text_filter,
    viewer_may,
)

from .models import CatalogRecord, Coupon, CreditPack, FxRate, Plan, PlanPrice, ServicePrice


class CurrencyField(forms.CharField):
    """An ISO 4217 code, made upper case."""

    default_validators: list[Callable[[Any], None]] = [RegexValidator(r"^[A-Z]{3}\Z", _("Three letters, such as DZD."))]

    def to_python(self, value: Any) -> str:
        return (super().to_python(value) or "").upper()


class CurrencyMixin:
    """Reads the currency fields of a form as ISO codes."""

    currency_fields: tuple[str, ...] = ("currency",)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name in self.currency_fields:
            label = capfirst(db_field.verbose_name)
            return CurrencyField(max_length=3, help_text=_("ISO 4217 code."), label=label, initial=None)
        return super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]


class NewRowMixin:
    """Write-once rows that operators add: in force from now on unless said otherwise, with an event."""

    event_object_type = ""

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        now = clock.now().replace(microsecond=0)
        return {"effective_from": now, **super().get_changeform_initial_data(request)}  # type: ignore[misc]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)  # type: ignore[misc]
        event_record(
            kind=f"{self.event_object_type}.created",
            object_type=self.event_object_type,
            object_id=obj.pk,
            actor=operator_actor(request),
            after={name: str(value) for name, value in form.cleaned_data.items() if value not in (None, "")},
        )


class PlanPriceInline(ReadOnlyInline):
    """The history of a plan's prices."""

    model = PlanPrice
    fields = ("currency", "price", "tax_included", "effective_from")
    readonly_fields = fields
    ordering = ("currency", "-effective_from")

    price = decimal_column("amount", _("price"))


@admin.register(Plan)
class PlanAdmin(AuditedModelAdmin):
    """Offers. What was sold stays as it was sold: prices are pinned to subscriptions."""

    list_display = (
        "name",
        "code",
        "family",
        "visibility",
        "billing_mode",
        "period",
        "credits",
        "limit",
        "priority",
    )
    list_filter = ("visibility", "billing_mode", "interval", "renews")
    search_fields = ("code", "name", "family")
    inlines = (PlanPriceInline,)
    autocomplete_fields = ("only_account",)
    readonly_fields = ("created_at", "updated_at", "explore")
    fieldsets = (
        (None, {"fields": ("code", "family", "name", "description", "visibility", "only_account", "sort_order", "explore")}),
        (_("Period"), {"fields": ("interval", "interval_count", "renews", "trial_days")}),
        (_("Billing"), {"fields": ("billing_mode", "rounding", "period_credits", "daily_limit", "overage_ceiling")}),
        (
            _("Speed"),
            {"fields": ("requests_per_minute", "tokens_per_minute", "concurrent_calls", "priority")},
        ),
        (_("Features"), {"fields": ("features",)}),
        (_("History"), {"classes": ("collapse",), "fields": ("created_at", "updated_at")}),
    )

    credits = decimal_column("period_credits", _("credits per period"))
    limit = decimal_column("daily_limit", _("per day"))

    @admin.display(description=_("period"))
    def period(self, plan: Plan) -> str:
        if plan.interval == Plan.Interval.NONE:
            return str(plan.get_interval_display())
        return f"{plan.interval_count} × {plan.get_interval_display()}"

    @admin.display(description=_("see also"))
    def explore(self, plan: Plan) -> SafeString:
        if plan.pk is None:
            return SafeString("–")
        return format_html_join(
            " · ",
            "{}",
            (
                (list_link("billing.subscription", _("Subscriptions"), plan__id__exact=plan.pk),),
                (list_link("billing.planprice", _("Prices"), plan__id__exact=plan.pk),),
                (list_link("billing.usagerecord", _("Usage"), plan=plan.code),),
                (list_link("billing.event", _("Events"), object_type__exact="plan", object_id__exact=plan.pk),),
            ),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Usage rows and the catalogue know a plan by its code.
        return (*self.readonly_fields, "code") if obj is not None else self.readonly_fields


@admin.register(PlanPrice)
class PlanPriceAdmin(CurrencyMixin, NewRowMixin, WriteOnceAdmin):
    """What plans cost. A new price is a new row; running subscriptions keep the one they were sold at."""

    event_object_type = "plan_price"
    list_display = ("plan_link", "price", "currency", "tax_included", "effective_from", "created_at")
    list_display_links = ("price",)
    list_filter = ("currency", "plan", "effective_from")
    list_select_related = ("plan",)
    search_fields = ("plan__code", "plan__name")
    autocomplete_fields = ("plan",)
    readonly_fields = ("created_at", "running")

    plan_link = link_column("plan", "billing.plan", _("plan"))
    price = decimal_column("amount", _("price"))

    @admin.display(description=_("running subscriptions"))
    def running(self, price: PlanPrice) -> SafeString:
        if not viewer_may(price, "billing.change_subscription"):
            return SafeString(EMPTY)
        # The page belongs to subscriptions, which stand above plans.
        address = reverse("admin:billing_subscription_price_migration", args=[price.pk])
        return format_html('<a class="button" href="{}">{}</a>', address, _("Move running subscriptions to this price…"))


class CouponForm(forms.ModelForm):  # type: ignore[type-arg]
    """Keeps the code in capitals, and either a percentage or an amount with its currency."""

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"].strip().upper()
        return code

    def clean_currency(self) -> str:
        currency: str = (self.cleaned_data["currency"] or "").strip().upper()
        return currency

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        percent, amount, currency = (cleaned.get(name) for name in ("percent", "amount", "currency"))
        if cleaned.get("kind") == Coupon.Kind.PERCENT and (percent is None or not 0 < percent <= 100 or amount or currency):
            self.add_error("percent", _("A percentage above 0 and up to 100, and neither amount nor currency."))
        if cleaned.get("kind") == Coupon.Kind.FIXED and (amount is None or amount <= 0 or not currency or percent):
            self.add_error("amount", _("An amount with its currency, and no percentage."))
        return cleaned


@admin.register(Coupon)
class CouponAdmin(AuditedModelAdmin):
    """Reductions for whoever knows the code."""

    form = CouponForm
    list_display = ("code", "name", "value", "periods", "used", "max_redemptions", "valid_from", "valid_until", "is_active")
    list_filter = ("is_active", "kind", "valid_from", "valid_until")
    search_fields = ("code", "name")
    filter_horizontal = ("plans",)
    readonly_fields = ("created_at",)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(uses=Count("redemptions"))

    @admin.display(description=_("value"))
    def value(self, coupon: Coupon) -> str:
        if coupon.percent is not None:
            return f"{coupon.percent.normalize():f} %"
        return f"{coupon.amount or 0:f} {coupon.currency}"

    @admin.display(description=_("used"), ordering="uses")
    def used(self, coupon: Any) -> int:
        return int(coupon.uses)


@admin.register(CreditPack)
class CreditPackAdmin(CurrencyMixin, AuditedModelAdmin):
    """Credits sold outside of a plan."""

    list_display = ("name", "code", "credit_count", "bonus", "price", "currency", "is_public", "sort_order")
    list_filter = ("is_public", "currency")
    search_fields = ("code", "name")

    credit_count = decimal_column("credits", _("credits"))
    bonus = decimal_column("bonus_credits", _("bonus"))
    price = decimal_column("amount", _("price"))


@admin.register(ServicePrice)
class ServicePriceAdmin(AuditedModelAdmin):
    """Fixed prices of services outside the gateway."""

    list_display = ("name", "code", "price")
    search_fields = ("code", "name")

    price = decimal_column("credits", _("credits per use"))


@admin.register(FxRate)
class FxRateAdmin(CurrencyMixin, NewRowMixin, WriteOnceAdmin):
    """Exchange rates. Invoices, payments and usage keep the rate they used."""

    event_object_type = "fx_rate"
    currency_fields = ("base", "quote")
    list_display = ("__str__", "value", "effective_from", "created_at")
    list_filter = ("base", "quote", "effective_from")
    search_fields = ("base__iexact", "quote__iexact")
    readonly_fields = ("created_at",)

    value = decimal_column("rate", _("rate"))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, form=FxRateForm, **kwargs)


class FxRateForm(forms.ModelForm):  # type: ignore[type-arg]
    """Refuses a rate from a currency to itself."""

    class Meta:
        model = FxRate
        fields = ("base", "quote", "rate", "effective_from")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("base") and cleaned.get("base") == cleaned.get("quote"):
            raise forms.ValidationError(_("A rate needs two different currencies."))
        if cleaned.get("rate", Decimal(1)) <= 0:
            self.add_error("rate", _("A rate is positive."))
        return cleaned


@admin.register(CatalogRecord)
class CatalogRecordAdmin(ReadOnlyAdmin):
    """What the shipped catalogue wrote; whatever differs is an operator's edit and stays."""

    list_display = ("kind", "key", "loaded_at")
    list_display_links = ("key",)
    list_filter = (text_filter("kind", _("kind")), "loaded_at")
    search_fields = ("key",)
    fields = ("kind", "key", "loaded_at", "written")
    readonly_fields = ("written",)

    @admin.display(description=_("fields"))
    def written(self, record: CatalogRecord) -> SafeString:
        return json_block(record.fields)
