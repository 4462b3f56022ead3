"""Addresses of routing that Django's own handler serves; hot paths are in `hot_urls`."""

from billing.urls import api_path

from .api import operators

urlpatterns = [
    *api_path("api/admin/budget/update", operators.BudgetUpdateView, "admin-budget-update"),
    *api_path("api/admin/costs/breakdown", operators.CostBreakdownView, "admin-costs-breakdown"),
]
