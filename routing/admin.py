"""Providers, models, prices and budgets in the console. Secrets go in and never come out."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import DecimalField, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin
from billing.plans.admin import NewRowMixin
from billing.plans.models import Plan
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyInline,
    WriteOnceAdmin,
    decimal_column,
    link_column,
    linked_filter,
    list_link,
    presence_filter,
)

from .models import AiModel, Budget, GatewayLimits, ModelPrice, ModelProfile, PlanRouting, Provider, ProviderCredential

# A shorter secret would be given away by its end.
SHOW_LAST_FOUR_FROM = 12


class ProfileInline(ReadOnlyInline):
    """The models of a provider."""

    model = ModelProfile
    fields = ("slug", "model", "upstream_model", "enabled", "cost_factor", "weight")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelProfile]:
        return super().get_queryset(request).select_related("model", "provider")


@admin.register(Provider)
class ProviderAdmin(AuditedModelAdmin):
    """Companies and servers that answer model calls."""

    list_display = ("name", "slug", "protocol", "base_url", "enabled", "priority", "explore")
    list_filter = ("enabled", "protocol")
    search_fields = ("slug", "name", "base_url")
    inlines = (ProfileInline,)
    readonly_fields = ("explore", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("slug", "name", "enabled", "priority", "explore")}),
        (_("Wire"), {"fields": ("protocol", "base_url", "quirks")}),
        (
            _("Patience"),
            {"fields": ("connect_timeout_seconds", "first_byte_timeout_seconds", "read_timeout_seconds")},
        ),
        (_("History"), {"classes": ("collapse",), "fields": ("created_at", "updated_at")}),
    )

    @admin.display(description=_("see also"))
    def explore(self, provider: Provider) -> SafeString:
        if provider.pk is None:
            return SafeString(EMPTY)
        return format_html_join(
            " · ",
            "{}",
            (
                (list_link("routing.providercredential", _("Credentials"), provider__id__exact=provider.pk),),
                (list_link("routing.modelprofile", _("Profiles"), provider__id__exact=provider.pk),),
                (list_link("billing.usagerecord", _("Usage"), provider=provider.slug),),
            ),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Usage rows and plan routings know a provider by its slug.
        return (*self.readonly_fields, "slug") if obj is not None else self.readonly_fields


class CredentialForm(forms.ModelForm):  # type: ignore[type-arg]
    """Takes a secret without ever having one: the stored secret is not loaded, decrypted or rendered."""

    new_secret = forms.CharField(
        label=_("Secret"),
        required=False,
        strip=True,
        max_length=4096,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password", "class": "vTextField"}),
    )

    class Meta:
        model = ProviderCredential
        fields = ("provider", "label", "enabled", "disabled_reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "new_secret" in self.fields:
            adding = self.instance._state.adding
            self.fields["new_secret"].required = adding
            self.fields["new_secret"].help_text = (
                _("Stored encrypted, never shown again.")
                if adding
                else _("Stored encrypted, never shown. Leave empty to keep the present one; fill in to replace it.")
            )


@admin.register(ProviderCredential)
class ProviderCredentialAdmin(AuditedModelAdmin):
    """Our keys at providers."""

    form = CredentialForm
    audit_hidden = ("secret", "new_secret")
    list_display = ("label", "provider_link", "end_of_secret", "enabled", "disabled_reason", "created_at")
    list_filter = ("enabled", "provider", "created_at")
    list_select_related = ("provider",)
    search_fields = ("label", "provider__slug", "provider__name", "last_four__exact")
    autocomplete_fields = ("provider",)
    readonly_fields = ("end_of_secret", "created_at")
    fields = ("provider", "label", "new_secret", "end_of_secret", "enabled", "disabled_reason", "created_at")

    provider_link = link_column("provider", "routing.provider", _("provider"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderCredential]:
        return super().get_queryset(request).select_related("provider").defer("secret")

    @admin.display(description=_("stored secret"))
    def end_of_secret(self, credential: ProviderCredential) -> str:
        if credential._state.adding:
            return EMPTY
        return f"…{credential.last_four}" if credential.last_four else str(_("set"))

    def save_model(self, request: HttpRequest, obj: ProviderCredential, form: Any, change: bool) -> None:
        secret = form.cleaned_data.get("new_secret")
        if secret:
            obj.secret = secret
            obj.last_four = secret[-4:] if len(secret) >= SHOW_LAST_FOUR_FROM else ""
        super().save_model(request, obj, form, change)


@admin.register(AiModel)
class AiModelAdmin(AuditedModelAdmin):
    """Models under their public names."""

    list_display = ("name", "mode", "owner", "alias_list", "reasoning", "public", "profiles_link")
    list_filter = ("mode", "public", "reasoning", "owner")
    search_fields = ("name", "owner")
    readonly_fields = ("profiles_link", "created_at")
    fields = ("name", "mode", "owner", "aliases", "reasoning", "public", "profiles_link", "created_at")

    @admin.display(description=_("aliases"))
    def alias_list(self, model: AiModel) -> str:
        return ", ".join(model.aliases) or EMPTY

    @admin.display(description=_("profiles"))
    def profiles_link(self, model: AiModel) -> SafeString:
        if model.pk is None:
            return SafeString(EMPTY)
        return list_link("routing.modelprofile", _("Profiles"), model__id__exact=model.pk)


class ModelPriceInline(ReadOnlyInline):
    """The history of a profile's list prices."""

    model = ModelPrice
    fields = ("effective_from", "input", "cached", "output", "source")
    readonly_fields = fields
    ordering = ("-effective_from",)

    input = decimal_column("input_per_mtok", _("input, USD per million"))
    cached = decimal_column("cached_input_per_mtok", _("cached input"))
    output = decimal_column("output_per_mtok", _("output"))


@admin.register(ModelProfile)
class ModelProfileAdmin(AuditedModelAdmin):
    """One upstream model at one provider."""

    list_display = ("slug", "provider_link", "model_link", "enabled", "factor", "weight", "context_window", "retires_on")
    list_filter = (
        "enabled",
        "provider",
        linked_filter("model", AiModel, _("model")),
        presence_filter("retires_on", _("retirement"), given=_("Has a date"), empty=_("None announced")),
    )
    list_select_related = ("provider", "model")
    search_fields = ("slug", "upstream_model", "model__name")
    autocomplete_fields = ("provider", "model")
    inlines = (ModelPriceInline,)
    readonly_fields = ("explore", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("slug", "provider", "model", "upstream_model", "enabled", "weight", "explore")}),
        (_("Cost"), {"fields": ("cost_factor",)}),
        (_("Limits"), {"fields": ("context_window", "max_output_tokens", "default_max_output")}),
        (_("Capacity"), {"fields": ("requests_per_minute", "requests_per_day", "typical_latency_ms", "retires_on")}),
        (_("History"), {"classes": ("collapse",), "fields": ("created_at", "updated_at")}),
    )

    provider_link = link_column("provider", "routing.provider", _("provider"))
    model_link = link_column("model", "routing.aimodel", _("model"))
    factor = decimal_column("cost_factor", _("cost factor"))

    @admin.display(description=_("see also"))
    def explore(self, profile: ModelProfile) -> SafeString:
        if profile.pk is None:
            return SafeString(EMPTY)
        return format_html_join(
            " · ",
            "{}",
            (
                (list_link("routing.modelprice", _("Prices"), profile__id__exact=profile.pk),),
                (list_link("billing.usagerecord", _("Usage"), provider=profile.provider.slug, model=profile.model.name),),
            ),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "slug") if obj is not None else self.readonly_fields


@admin.register(ModelPrice)
class ModelPriceAdmin(NewRowMixin, WriteOnceAdmin):
    """List prices. A new price is a new row; an empty field means not offered, and a call that needs it is refused."""

    event_object_type = "model_price"
    list_display = ("profile_link", "effective_from", "input", "cached", "output", "other_units", "source")
    list_display_links = ("effective_from",)
    list_filter = (
        "profile__provider",
        linked_filter("profile", ModelProfile, _("profile")),
        "effective_from",
    )
    list_select_related = ("profile",)
    search_fields = ("profile__slug", "profile__upstream_model")
    autocomplete_fields = ("profile",)
    readonly_fields = ("created_at",)

    profile_link = link_column("profile", "routing.modelprofile", _("profile"))
    input = decimal_column("input_per_mtok", _("input, USD per million"))
    cached = decimal_column("cached_input_per_mtok", _("cached input"))
    output = decimal_column("output_per_mtok", _("output"))

    @admin.display(description=_("other units, USD"))
    def other_units(self, price: ModelPrice) -> SafeString:
        if not price.units:
            return SafeString(EMPTY)
        return format_html_join(", ", "{} {}", ((name, value) for name, value in price.units.items()))

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, DecimalField):
            return db_field.formfield(min_value=0, **kwargs)
        return super().formfield_for_dbfield(db_field, request, **kwargs)


@admin.register(PlanRouting)
class PlanRoutingAdmin(AuditedModelAdmin):
    """How a plan's calls find a provider, and what they may cost."""

    list_display = ("plan", "strategy", "split_text", "fallback_text", "free_only", "allowance", "margin", "credit_value")
    list_filter = ("strategy", "free_only", linked_filter("plan", Plan, _("plan")))
    list_select_related = ("plan",)
    search_fields = ("plan__code", "plan__name")
    autocomplete_fields = ("plan",)
    readonly_fields = ("plan_link",)
    fieldsets = (
        (None, {"fields": ("plan", "strategy")}),
        (_("Choice"), {"fields": ("split", "score_weights", "fallback", "default_models", "models_allowed")}),
        (_("Ceilings"), {"fields": ("free_only", "context_cap", "cost_allowance_usd")}),
        (_("Price of a call"), {"fields": ("margin_multiplier", "usd_per_credit")}),
    )

    plan_link = link_column("plan", "billing.plan", _("plan"))
    allowance = decimal_column("cost_allowance_usd", _("cost allowance"), "USD")
    margin = decimal_column("margin_multiplier", _("margin"))
    credit_value = decimal_column("usd_per_credit", _("USD a credit"))

    @admin.display(description=_("split"))
    def split_text(self, routing: PlanRouting) -> str:
        return ", ".join(f"{slug} {weight}" for slug, weight in routing.split.items()) or EMPTY

    @admin.display(description=_("fallback"))
    def fallback_text(self, routing: PlanRouting) -> str:
        return " → ".join(routing.fallback) or EMPTY

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        # The plan is the key: chosen once.
        shown = ("plan_link" if obj is not None else "plan", "strategy")
        return ((None, {"fields": shown}), *self.fieldsets[1:])


@admin.register(Budget)
class BudgetAdmin(AuditedModelAdmin):
    """Ceilings on provider cost per day."""

    list_display = ("name", "limit", "updated_at")
    list_select_related = ("provider",)
    autocomplete_fields = ("provider",)
    search_fields = ("provider__slug", "provider__name")
    readonly_fields = ("updated_at",)

    limit = decimal_column("daily_limit_usd", _("a day"), "USD")

    @admin.display(description=_("budget"), ordering="provider__name")
    def name(self, budget: Budget) -> SafeString:
        return format_html("{}", budget.provider or _("All providers"))


@admin.register(GatewayLimits)
class GatewayLimitsAdmin(AuditedModelAdmin):
    """What this installation serves in all; one row, made when it is first needed."""

    list_display = ("__str__", "requests_per_minute", "concurrent_calls")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and not GatewayLimits.objects.exists()
