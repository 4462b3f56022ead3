"""Pages of the site, of customers, and of those who run it."""

from django.urls import URLPattern, URLResolver, include, path

from billing.urls import api_path

from .api import views as api
from .metrics import metrics
from .readiness import Ready
from .site.views import home

urlpatterns: list[URLPattern | URLResolver] = [
    path("", home, name="home"),
    path("billing/", include("dashboard.panel.urls")),
    path("health/ready", Ready.as_view(), name="ready"),
    path("metrics", metrics, name="metrics"),
    *api_path("api/admin/dashboard", api.DashboardView, "admin-dashboard"),
    *api_path("api/admin/billing/users", api.BillingUsersView, "admin-billing-users"),
    *api_path("api/admin/billing/stats", api.StatsView, "admin-billing-stats"),
    *api_path("api/admin/billing/grant", api.GrantView, "admin-billing-grant"),
    *api_path("api/admin/add-credits", api.AddCreditsView, "admin-add-credits"),
]

# Where older programs ask; they lie under the console, so they are looked up before it.
before_console: list[URLPattern] = [
    pattern
    for slash in ("", "/")
    for pattern in (
        path(f"admin/dashboard{slash}", api.DashboardAliasView.as_view()),
        path(f"admin/add-credits{slash}", api.AddCreditsView.as_view(schema=None)),
    )
]
