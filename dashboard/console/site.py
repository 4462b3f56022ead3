"""The console's site: its name, its home, and the banner that tells when answers come from a simulator."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _


class IAFactoryAdminSite(admin.AdminSite):
    """Django's admin site; `django.contrib.admin.site` is an instance of it."""

    site_header = "IA Factory"
    site_title = _("IA Factory console")
    index_title = _("Console")
    empty_value_display = "–"

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return {**super().each_context(request), "simulator_url": settings.SIMULATOR_URL}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        from iafactory.common import clock

        from .selectors import home_events, home_figures

        now = clock.now()
        allowed = {
            "show_accounts": request.user.has_perm("billing.view_account"),  # type: ignore[union-attr]
            "show_money": request.user.has_perm("billing.view_usagerecord"),  # type: ignore[union-attr]
            "show_events": request.user.has_perm("billing.view_event"),  # type: ignore[union-attr]
        }
        context = {
            **allowed,
            "figures": home_figures(now=now) if allowed["show_accounts"] or allowed["show_money"] else None,
            "events": home_events() if allowed["show_events"] else [],
            "since": now.replace(hour=0, minute=0, second=0, microsecond=0),
        }
        return super().index(request, {**context, **(extra_context or {})})
