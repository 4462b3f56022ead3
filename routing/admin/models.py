"""Models under their public names, the profiles that serve them, and what those cost."""

from typing import Any

from django.contrib import admin
from django.db.models import DecimalField, Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin
from billing.plans.admin import NewRowMixin
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyInline,
    ValuesFilter,
    WriteOnceAdmin,
    decimal_column,
    link_column,
    linked_filter,
    list_link,
    presence_filter,
)
from iafactory.common.formats import number_text
from routing.models import AiModel, ModelPrice, ModelProfile

from .loss import LossGuardMixin


@admin.register(AiModel)
class AiModelAdmin(LossGuardMixin, AuditedModelAdmin):
    """Models under their public names."""

    list_display = ("name", "mode", "owner", "alias_list", "reasoning", "margin", "public", "profiles_link")
    list_filter = ("mode", "public", "reasoning", ("owner", ValuesFilter))
    search_fields = ("name", "owner")
    readonly_fields = ("profiles_link", "created_at")
    fields = (
        "name",
        "mode",
        "owner",
        "aliases",
        "reasoning",
        "margin_multiplier",
        "public",
        "profiles_link",
        "created_at",
    )

    margin = decimal_column("margin_multiplier", _("own margin"))

    @admin.display(description=_("aliases"))
    def alias_list(self, model: AiModel) -> str:
        return ", ".join(model.aliases) or EMPTY

    @admin.display(description=_("profiles"))
    def profiles_link(self, model: AiModel) -> SafeString:
        if model.pk is None:
            return SafeString(EMPTY)
        return list_link("routing.modelprofile", _("Profiles"), model__id__exact=model.pk)


def units_text(price: ModelPrice) -> SafeString:
    """Prices beside tokens, and how many tiers there are above the base."""
    told = [f"{name} {value}" for name, value in price.units.items()]
    told += [_("> %(tokens)s tokens: other prices") % {"tokens": number_text(tier["threshold"])} for tier in price.tiers]
    return format_html_join(", ", "{}", ((text,) for text in told)) if told else SafeString(EMPTY)


class ModelPriceInline(ReadOnlyInline):
    """The history of a profile's list prices, and which of them is in force."""

    model = ModelPrice
    fields = ("effective_from", "standing", "input", "cached", "output", "other_units", "source")
    readonly_fields = fields
    ordering = ("-effective_from",)

    input = decimal_column("input_per_mtok", _("input, USD per million"))
    cached = decimal_column("cached_input_per_mtok", _("cached input"))
    output = decimal_column("output_per_mtok", _("output"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelPrice]:
        now = clock.now()
        newer = ModelPrice.objects.filter(
            profile=OuterRef("profile"), effective_from__gt=OuterRef("effective_from"), effective_from__lte=now
        )
        rows: QuerySet[ModelPrice] = super().get_queryset(request)
        return rows.annotate(replaced=Exists(newer), begun=Q(effective_from__lte=now))

    @admin.display(description=_("standing"))
    def standing(self, price: ModelPrice) -> SafeString:
        if not price.begun:  # type: ignore[attr-defined]
            return format_html('<span class="state">{}</span>', _("to come"))
        if price.replaced:  # type: ignore[attr-defined]
            return format_html('<span class="quiet">{}</span>', _("past"))
        return format_html('<span class="state state-active">{}</span>', _("in force"))

    @admin.display(description=_("other units, USD"))
    def other_units(self, price: ModelPrice) -> SafeString:
        return units_text(price)


@admin.register(ModelProfile)
class ModelProfileAdmin(LossGuardMixin, AuditedModelAdmin):
    """One upstream model at one provider."""

    list_display = (
        "slug",
        "provider_link",
        "model_link",
        "enabled",
        "draining",
        "factor",
        "weight",
        "context_window",
        "retires_on",
    )
    list_filter = (
        "enabled",
        "draining",
        "provider",
        linked_filter("model", AiModel, _("model")),
        presence_filter("retires_on", _("retirement"), given=_("Has a date"), empty=_("None announced")),
    )
    list_select_related = ("provider", "model")
    search_fields = ("slug", "upstream_model", "model__name")
    autocomplete_fields = ("provider", "model", "reserved_for")
    inlines = (ModelPriceInline,)
    readonly_fields = ("explore", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("slug", "provider", "model", "upstream_model", "enabled", "draining", "weight", "explore")}),
        (_("Who may call it"), {"fields": ("reserved_for",)}),
        (_("Cost"), {"fields": ("cost_factor",)}),
        (_("Limits"), {"fields": ("context_window", "max_output_tokens", "default_max_output")}),
        (_("Capacity"), {"fields": ("requests_per_minute", "requests_per_day", "concurrent_calls", "typical_latency_ms")}),
        (_("End"), {"fields": ("retires_on",)}),
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
        return units_text(price)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, DecimalField):
            return db_field.formfield(min_value=0, **kwargs)
        return super().formfield_for_dbfield(db_field, request, **kwargs)
