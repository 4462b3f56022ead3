"""How a plan's calls find a provider, and what the plan earns or may lose."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin
from billing.plans.models import Plan
from iafactory.common.admin import EMPTY, decimal_column, link_column, linked_filter
from routing.models import PlanRouting


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
