"""The console's site: its name, its home, and the banner that tells when answers come from a simulator."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.translation import gettext_lazy as _

from dashboard.impersonation.browser import browser_forgets
from dashboard.impersonation.models import Impersonation
from dashboard.two_factor.pages import proven, two_factor_urls, waiting_for_code
from iafactory.common import clock

from .home import home_context
from .language import in_operators_language, language_view
from .losses import losses_page
from .search import search_page
from .tables import table_view

BOOKS = _("Books")


class IAFactoryAdminSite(admin.AdminSite):
    """Django's admin site; `django.contrib.admin.site` is an instance of it."""

    site_header = "IA Factory"
    site_title = _("IA Factory console")
    index_title = _("Console")
    empty_value_display = "–"

    # The menu by what operators look for; a model named nowhere stays with its app.
    SECTIONS: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (
            _("Customers"),
            (
                "billing.account",
                "billing.user",
                "billing.membership",
                "billing.apikey",
                "billing.subscription",
                "dashboard.impersonation",
            ),
        ),
        (
            _("Usage and money"),
            ("billing.usagerecord", "billing.hold", "billing.wallet", "billing.lot", "billing.gatewaywebhook"),
        ),
        (
            _("Invoices"),
            (
                "billing.invoice",
                "billing.billingprofile",
                "billing.moneybalance",
                "billing.sellerprofile",
                "billing.taxrate",
                "billing.numberseries",
            ),
        ),
        (
            _("Payments"),
            (
                "billing.payment",
                "billing.refund",
                "billing.dispute",
                "billing.savedcard",
                "billing.autorenewalconsent",
                "billing.reconciliation",
                "billing.reconciliationrow",
                "billing.manualmethod",
                "billing.dunningnotice",
                "billing.dunningstep",
                "billing.jobrun",
            ),
        ),
        (_("Abuse"), ("ratelimit.abusesignal", "ratelimit.networkblock", "billing.accountlimits")),
        (
            BOOKS,
            (
                "billing.ledgertransaction",
                "billing.ledgerentry",
                "billing.ledgeraccount",
                "billing.booksverification",
                "billing.dayseal",
                "billing.usagearchive",
                "billing.storedanswer",
                "billing.event",
            ),
        ),
        (
            _("Operations"),
            (
                "dashboard.alert",
                "dashboard.alertrule",
                "dashboard.alerttarget",
                "dashboard.alertdelivery",
                "django_celery_beat.periodictask",
                "auth.group",
            ),
        ),
        (
            _("Webhooks and marketplace"),
            (
                "billing.webhookendpoint",
                "billing.webhookdelivery",
                "billing.creditnotice",
                "billing.customernotice",
                "billing.noticepreference",
                "billing.marketplaceaccount",
                "billing.marketplaceplan",
            ),
        ),
        (
            _("Catalogue"),
            (
                "billing.plan",
                "billing.planprice",
                "billing.pricemove",
                "routing.planrouting",
                "billing.coupon",
                "billing.couponredemption",
                "billing.creditpack",
                "billing.serviceprice",
                "billing.fxrate",
                "billing.catalogrecord",
            ),
        ),
        (
            _("Providers"),
            (
                "routing.provider",
                "routing.providercredential",
                "routing.aimodel",
                "routing.modelprofile",
                "routing.profilehealth",
                "routing.healthcheck",
                "routing.modelprice",
                "routing.priceproposal",
                "routing.budget",
                "routing.gatewaylimits",
            ),
        ),
    )

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[dict[str, Any]]:
        """The menu in sections; an app's own page lists it as Django does."""
        apps = super().get_app_list(request, app_label)
        if app_label is not None:
            return apps
        unplaced = {entry["model"]._meta.label_lower: (app, entry) for app in apps for entry in app["models"]}
        sections = []
        for number, (name, labels) in enumerate(self.SECTIONS):
            found = [unplaced.pop(label) for label in labels if label in unplaced]
            if found:
                models = [entry for _app, entry in found]
                if name == BOOKS and request.user.has_perm("billing.view_ledgerentry"):
                    models.append(self._losses_entry())
                sections.append({**found[0][0], "name": name, "app_label": f"section-{number}", "models": models})
        for app in apps:
            models = [entry for entry in app["models"] if entry["model"]._meta.label_lower in unplaced]
            if models:
                sections.append({**app, "models": models})
        return sections

    def _losses_entry(self) -> dict[str, Any]:
        """A line of the menu for a page that is no model's list."""
        return {
            "model": None,
            "name": _("Borne by us"),
            "object_name": "Losses",
            "perms": {"view": True},
            "admin_url": reverse("admin:losses"),
            "add_url": None,
            "view_only": True,
        }

    def get_urls(self) -> list[URLPattern | URLResolver]:
        language = path("language/", language_view, name="language")
        losses = path("losses/", self.admin_view(losses_page), name="losses")
        table = path("tables/<str:app_label>/<str:model_name>.<str:file_format>", self.admin_view(table_view), name="table")
        search = path("search/", self.admin_view(search_page), name="search")
        return [language, losses, table, search, *two_factor_urls(self), *super().get_urls()]

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Any:
        """As Django's, in the operator's language."""
        return super().admin_view(in_operators_language(view), cacheable)

    def has_permission(self, request: HttpRequest) -> bool:
        """An operator, who has proven themself by all that is asked."""
        return super().has_permission(request) and proven(request)

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """As Django's; who has given their password already is asked for the rest."""
        if request.method == "GET" and waiting_for_code(request):
            return HttpResponseRedirect(f"{reverse('admin:two_factor')}?{request.GET.urlencode()}")
        return super().login(request, extra_context)

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """As Django's; who was logged in as a customer is not any more."""
        if request.method == "POST":
            browser_forgets(request, Impersonation.Ending.SIGNED_OUT)
        return super().logout(request, extra_context)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return {
            **super().each_context(request),
            "simulator_url": settings.SIMULATOR_URL,
            "two_factor": settings.OPERATOR_TWO_FACTOR,
        }

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        return super().index(request, {**home_context(request, now=clock.now()), **(extra_context or {})})
