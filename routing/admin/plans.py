"""How a plan's calls find a provider, and what the plan earns or may lose."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin, operator_actor
from billing.plans.admin import FxRateAdmin, PlanAdmin, PlanPriceAdmin
from billing.plans.models import FxRate, Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.admin import EMPTY, arrow, change_link, change_url, decimal_column, link_column, linked_filter
from routing.economics import Assumptions, assumptions_set, plan_economics, plans_economics
from routing.models import AiModel, PlanRouting, Provider

from .figures import economics_table
from .loss import LossGuardMixin
from .pairs import PairsField, decimal_string, weight, whole_number

LARGEST_NUMBER_OF_USERS = 1_000_000_000
SHOWN_USERS = 100


def known_providers(names: Any) -> None:
    """Raises ValidationError for a slug that no provider has."""
    unknown = sorted(set(names) - set(Provider.objects.values_list("slug", flat=True)))
    if unknown:
        raise forms.ValidationError(_("There is no provider %s.") % ", ".join(unknown))


class PlanRoutingForm(forms.ModelForm):  # type: ignore[type-arg]
    """A plan's routing, its small tables as lines."""

    split = PairsField(
        label=_("Split"),
        read=whole_number,
        help_text=_("For the split strategy: a provider and its weight a line, such as `groq 85`."),
    )
    score_weights = PairsField(
        label=_("Score weights"),
        read=weight,
        help_text=_(
            "For the score strategy, a line each: w1 / ms to the first byte, w2 x free capacity (0 to 1), "
            "w3 x USD per 1,000 tokens (taken off), w4 x priority / 100."
        ),
    )
    default_models = PairsField(
        label=_("Default models"),
        help_text=_("What the model `auto` means: provider (for chat) or mode (image, tts, …) and model a line."),
    )
    expected_cost_usd = PairsField(
        read=decimal_string,
        label=_("Expected cost of a message, USD"),
        help_text=_("Provider and cost a line, such as `openrouter 0.0135`: an assumption of the economics."),
    )

    class Meta:
        model = PlanRouting
        fields = (
            "plan",
            "strategy",
            "split",
            "score_weights",
            "fallback",
            "default_models",
            "models_allowed",
            "provider_pin_allowed",
            "most_attempts",
            "deadline_seconds",
            "free_only",
            "context_cap",
            "cost_allowance_usd",
            "margin_multiplier",
            "usd_per_credit",
            "expected_messages",
            "expected_cost_usd",
        )
        labels = {"cost_allowance_usd": _("Cost allowance, USD"), "usd_per_credit": _("USD a credit")}
        widgets = {
            "models_allowed": forms.Textarea(attrs={"rows": 3, "cols": 80}),
            "fallback": forms.TextInput(attrs={"class": "vTextField"}),
        }

    def clean_split(self) -> dict[str, int]:
        split: dict[str, int] = self.cleaned_data["split"]
        known_providers(split)
        return split

    def clean_default_models(self) -> dict[str, str]:
        chosen: dict[str, str] = self.cleaned_data["default_models"]
        known_providers([slug for slug in chosen if slug not in AiModel.Mode.values])
        return chosen

    def clean_expected_cost_usd(self) -> dict[str, str]:
        costs: dict[str, str] = self.cleaned_data["expected_cost_usd"]
        known_providers(costs)
        return costs

    def clean_fallback(self) -> list[str]:
        chain: list[str] = self.cleaned_data["fallback"]
        known_providers(chain)
        return chain

    def clean_score_weights(self) -> dict[str, Any]:
        weights: dict[str, Any] = self.cleaned_data["score_weights"]
        if unknown := sorted(set(weights) - {"w1", "w2", "w3", "w4"}):
            raise forms.ValidationError(_("There is no weight %s.") % ", ".join(unknown))
        return weights

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        if wanted.get("strategy") == PlanRouting.Strategy.SPLIT and not any(wanted.get("split", {"": 1}).values()):
            self.add_error("split", _("The split strategy needs a weight above 0."))
        return wanted


@admin.register(PlanRouting)
class PlanRoutingAdmin(LossGuardMixin, AuditedModelAdmin):
    """How a plan's calls find a provider, and what they may cost."""

    form = PlanRoutingForm
    list_display = ("plan", "strategy", "split_text", "fallback_text", "free_only", "allowance", "margin", "credit_value")
    list_filter = ("strategy", "free_only", "provider_pin_allowed", linked_filter("plan", Plan, _("plan")))
    list_select_related = ("plan",)
    search_fields = ("plan__code", "plan__name")
    autocomplete_fields = ("plan",)
    readonly_fields = ("plan_link", "economics")
    fieldsets = (
        (None, {"fields": ("plan", "strategy")}),
        (_("Choice"), {"fields": ("split", "score_weights", "fallback", "default_models", "models_allowed")}),
        (_("One call"), {"fields": ("provider_pin_allowed", "most_attempts", "deadline_seconds")}),
        (_("Ceilings"), {"fields": ("free_only", "context_cap", "cost_allowance_usd")}),
        (_("Price of a call"), {"fields": ("margin_multiplier", "usd_per_credit")}),
        (_("Assumptions"), {"fields": ("expected_messages", "expected_cost_usd")}),
        (_("Economics"), {"fields": ("economics",)}),
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
        return f" {arrow()} ".join(routing.fallback) or EMPTY

    @admin.display(description=_("as stored"))
    def economics(self, routing: PlanRouting) -> SafeString:
        return told_economics(routing.plan)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        # The plan is the key: chosen once.
        if obj is None:
            return self.fieldsets[:-1]
        return ((None, {"fields": ("plan_link", "strategy")}), *self.fieldsets[1:])

    def plans_concerned(self, obj: PlanRouting) -> "QuerySet[Plan]":
        return Plan.objects.filter(pk=obj.plan_id)


def told_economics(plan: Plan) -> SafeString:
    """A plan's figures now, with the way to the page where they are tried out."""
    economics = plan_economics(plan, at=clock.now())
    if economics is None:
        return SafeString(EMPTY)
    link = reverse("admin:billing_plan_economics", args=[plan.pk])
    return format_html(
        '{}<p><a href="{}">{}</a></p>', economics_table(economics), link, _("Try other assumptions, and change them")
    )


class AssumptionsForm(forms.Form):
    """What is assumed of a plan's users."""

    users = forms.IntegerField(label=_("Users"), min_value=1, max_value=LARGEST_NUMBER_OF_USERS)
    messages_a_month = forms.IntegerField(
        label=_("Messages of a user a month"), min_value=0, max_value=2_000_000_000, required=False
    )
    cost_per_message = PairsField(
        read=decimal_string,
        label=_("Cost of a message, USD"),
        help_text=_("Provider and cost a line, such as `openrouter 0.0135`. By score the dearest provider counts."),
    )
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=_("For keeping these assumptions; goes into the event."),
    )

    def __init__(self, *args: Any, keep: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = keep

    def clean_cost_per_message(self) -> dict[str, str]:
        costs: dict[str, str] = self.cleaned_data["cost_per_message"]
        known_providers(costs)
        return costs


class ReckonedPlans(ChangeList):
    """A page of plans with their risks, in a fixed number of queries."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        plans = list(self.result_list)
        risky = {economics.plan.pk for economics in plans_economics(plans, at=clock.now()) if economics.can_lose_money}
        for plan in plans:
            plan.can_lose_money = plan.pk in risky
        self.result_list = plans


for model in (Plan, PlanPrice, FxRate):
    admin.site.unregister(model)


@admin.register(Plan)
class GuardedPlanAdmin(LossGuardMixin, PlanAdmin):
    """Offers, with what they earn and may cost."""

    def get_list_display(self, request: HttpRequest) -> tuple[Any, ...]:
        return (*super().get_list_display(request), "risk")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return (*super().get_readonly_fields(request, obj), "economics")

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Plan]":
        return super().get_queryset(request).select_related("routing")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None:
            return fieldsets
        return (*fieldsets[:-1], (_("Economics"), {"fields": ("economics",)}), fieldsets[-1])

    @admin.display(description=_("what it earns and costs"))
    def economics(self, plan: Plan) -> SafeString:
        return told_economics(plan)

    @admin.display(description=_("can lose money"))
    def risk(self, plan: Plan) -> SafeString:
        risky = getattr(plan, "can_lose_money", False)
        return format_html('<span class="state state-failed">{}</span>', _("yes")) if risky else SafeString(EMPTY)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ReckonedPlans

    def plans_concerned(self, obj: Plan) -> "QuerySet[Plan]":
        return Plan.objects.filter(pk=obj.pk)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.economics_view)
        return [path("<int:plan_id>/economics/", view, name="billing_plan_economics"), *super().get_urls()]

    def economics_view(self, request: HttpRequest, plan_id: int) -> HttpResponse:
        """Try assumptions out, and keep them: only the second button writes."""
        plan = get_object_or_404(Plan.objects.select_related("routing"), pk=plan_id)
        if not self.has_view_or_change_permission(request, plan):
            raise PermissionDenied
        routing: PlanRouting | None = getattr(plan, "routing", None)
        if routing is None:
            self.message_user(request, _("The plan has no routing yet: no call can use it."), messages.WARNING)
            return HttpResponseRedirect(change_url("billing.plan", plan.pk))
        may_keep = request.user.has_perm("routing.change_planrouting")
        keep = "_keep" in request.POST
        if keep and not may_keep:
            raise PermissionDenied
        stored = {
            "users": SHOWN_USERS,
            "messages_a_month": routing.expected_messages,
            "cost_per_message": routing.expected_cost_usd,
        }
        form = AssumptionsForm(request.POST or None, initial=stored, keep=keep)
        assumptions, users = None, SHOWN_USERS
        if form.is_valid():
            wanted = form.cleaned_data
            users = wanted["users"]
            costs = {name: Decimal(cost) for name, cost in wanted["cost_per_message"].items()}
            assumptions = Assumptions(wanted["messages_a_month"], costs)
            if keep:
                assumptions_set(
                    routing=routing, assumptions=assumptions, actor=operator_actor(request), reason=wanted["reason"]
                )
                self.message_user(request, _("These assumptions are kept."), messages.SUCCESS)
                return HttpResponseRedirect(request.path)
        shown = plan_economics(plan, at=clock.now(), assumptions=assumptions)
        assert shown is not None
        return self.render_step(
            request,
            template="admin/routing/economics.html",
            title=_("Economics"),
            subtitle=plan,
            form=form,
            may_keep=may_keep,
            figures=economics_table(shown, users),
            routing_link=change_link("routing.planrouting", plan.pk, _("split, allowance and margin")),
            price_link=reverse("admin:billing_planprice_add") + f"?plan={plan.pk}",
            rate_link=reverse("admin:billing_fxrate_changelist"),
            back=change_url("billing.plan", plan.pk),
        )


@admin.register(PlanPrice)
class GuardedPlanPriceAdmin(LossGuardMixin, PlanPriceAdmin):
    """What plans cost. A new price is a new row; running subscriptions keep the one they were sold at."""

    def plans_concerned(self, obj: PlanPrice) -> "QuerySet[Plan]":
        return Plan.objects.filter(pk=obj.plan_id)


@admin.register(FxRate)
class GuardedFxRateAdmin(LossGuardMixin, FxRateAdmin):
    """Exchange rates. Invoices, payments and usage keep the rate they used."""
