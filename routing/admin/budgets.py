"""The operator's ceilings on provider cost, and the installation's own limits."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin, operator_actor
from iafactory.common import clock
from iafactory.common.admin import EMPTY, decimal_text, table
from routing.budgets import BudgetState, Period, budget_set, budget_states
from routing.models import Budget, GatewayLimits

from .figures import usd

LIMITS = ("daily_limit_usd", "monthly_limit_usd")
SHOWN_LEVELS = {"ok": "passed", "warning": "warning", "critical": "failed", "exhausted": "failed"}


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]
    """The limits of a budget, and why."""

    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=_("Kept with the event."),
    )

    class Meta:
        model = Budget
        fields = ("provider", *LIMITS)

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        if not self.errors and all(wanted.get(name) is None for name in LIMITS):
            raise forms.ValidationError(_("Set a limit a day, a month, or both; delete the budget to have none."))
        return wanted


def level_mark(state: BudgetState) -> SafeString:
    """How much of a limit is spent, marked when it is much."""
    if state.percent is None:
        return SafeString(EMPTY)
    return format_html('<span class="state state-{}">{} %</span>', SHOWN_LEVELS[state.level], state.percent)


class BudgetsWithStates(ChangeList):
    """A page of budgets with what is spent of each, in a fixed number of queries."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        states = {(state.provider, state.period): state for state in budget_states(now=clock.now())}
        rows = list(self.result_list)
        for row in rows:
            slug = row.provider.slug if row.provider else None
            row.states = {period: states[slug, period] for period in Period if (slug, period) in states}
        self.result_list = rows


@admin.register(Budget)
class BudgetAdmin(AuditedModelAdmin):
    """Ceilings on provider cost per UTC day and month. When one is spent, only models that cost us nothing answer."""

    form = BudgetForm
    list_display = ("name", "daily", "spent_today", "monthly", "spent_this_month", "updated_at")
    list_select_related = ("provider",)
    autocomplete_fields = ("provider",)
    search_fields = ("provider__slug", "provider__name")
    readonly_fields = ("spending", "updated_at")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        wanted = ("provider", *LIMITS)
        may_save = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        shown = (*wanted, "reason") if may_save else wanted
        return ((None, {"fields": (*shown, "spending", "updated_at") if obj else shown}),)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "provider") if obj is not None else self.readonly_fields

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BudgetsWithStates

    @admin.display(description=_("budget"), ordering="provider__name")
    def name(self, budget: Budget) -> SafeString:
        return format_html("{}", budget.provider or _("All providers"))

    def _period(self, budget: Budget, period: Period) -> SafeString:
        state: BudgetState = budget.states[period]  # type: ignore[attr-defined]
        if state.limit_usd is None:
            return format_html('<span class="figure">{}</span>', usd(state.spent_usd))
        return format_html('<span class="figure">{}</span> {}', usd(state.spent_usd), level_mark(state))

    @admin.display(description=_("per day"), ordering="daily_limit_usd")
    def daily(self, budget: Budget) -> SafeString:
        return self._limit(budget.daily_limit_usd)

    @admin.display(description=_("per month"), ordering="monthly_limit_usd")
    def monthly(self, budget: Budget) -> SafeString:
        return self._limit(budget.monthly_limit_usd)

    def _limit(self, limit: Any) -> SafeString:
        if limit is None:
            return SafeString(EMPTY)
        return format_html('<span class="figure">{} USD</span>', decimal_text(limit))

    @admin.display(description=_("spent today"))
    def spent_today(self, budget: Budget) -> SafeString:
        return self._period(budget, Period.DAY)

    @admin.display(description=_("spent this month"))
    def spent_this_month(self, budget: Budget) -> SafeString:
        return self._period(budget, Period.MONTH)

    @admin.display(description=_("so far, UTC"))
    def spending(self, budget: Budget) -> SafeString:
        slug = budget.provider.slug if budget.provider else None
        names = {Period.DAY: _("today"), Period.MONTH: _("this month")}
        rows = [
            (
                names[state.period],
                usd(state.limit_usd),
                usd(state.spent_usd),
                usd(state.reserved_usd),
                usd(state.remaining_usd),
                level_mark(state),
            )
            for state in budget_states(now=clock.now(), providers=[slug])
        ]
        heads = ("", _("limit"), _("spent"), _("reserved by calls under way"), _("remaining"), _("spent of the limit"))
        return table(heads, rows)

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        wanted = form.cleaned_data
        row = budget_set(
            provider=obj.provider,
            actor=operator_actor(request),
            reason=wanted["reason"],
            **{name: wanted[name] for name in LIMITS},
        )
        assert row is not None
        # The rest of the admin works on the form's own object.
        obj.__dict__.update(row.__dict__)


@admin.register(GatewayLimits)
class GatewayLimitsAdmin(AuditedModelAdmin):
    """What this installation serves in all; one row, made when it is first needed."""

    list_display = ("__str__", "requests_per_minute", "concurrent_calls", "queue_seconds")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and not GatewayLimits.objects.exists()
