"""The operator's ceilings on provider cost, and the installation's own limits."""

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin
from iafactory.common.admin import decimal_column
from routing.models import Budget, GatewayLimits


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

    list_display = ("__str__", "requests_per_minute", "concurrent_calls", "queue_seconds")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and not GatewayLimits.objects.exists()
