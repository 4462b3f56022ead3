"""Puts the wizards below the lists that they belong to, with a button for who may press it."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from billing.plans.models import Plan, PlanPrice
from dashboard.console.imports.pages import ModelPriceImport, PlanImport, PlanPriceImport
from routing.admin.models import ModelPriceAdmin
from routing.admin.plans import GuardedPlanAdmin, GuardedPlanPriceAdmin
from routing.admin.providers import ProviderAdmin
from routing.models import ModelPrice, Provider

from .base import Wizard, wizard_urls
from .plans import PlanWizard
from .prices import PriceWizard
from .providers import ProviderWizard


class WizardsMixin:
    """A list with buttons that lead to wizards: each with its route and the words of its button."""

    wizards: tuple[tuple[type[Wizard], str, Any], ...] = ()

    def get_urls(self) -> list[Any]:
        own = [url for wizard, route, _label in self.wizards for url in wizard_urls(self, wizard, route)]
        return [*own, *super().get_urls()]  # type: ignore[misc]

    def list_tools(self, request: HttpRequest) -> list[tuple[str, Any]]:
        """Addresses and words of the buttons that this operator may press."""
        opts = self.opts  # type: ignore[attr-defined]
        prefix = f"admin:{opts.app_label}_{opts.model_name}_"
        return [
            (reverse(prefix + route.replace("-", "_")), label) for wizard, route, label in self.wizards if wizard.may(request)
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        tools = {"list_tools": self.list_tools(request)}
        return super().changelist_view(request, {**tools, **(extra_context or {})})  # type: ignore[misc,no-any-return]


admin.site.unregister(Provider)


@admin.register(Provider)
class ConnectedProviderAdmin(WizardsMixin, ProviderAdmin):
    """Companies and servers that answer model calls."""

    wizards = ((ProviderWizard, "connect", _("Connect a provider")),)


for _model in (Plan, PlanPrice, ModelPrice):
    admin.site.unregister(_model)


@admin.register(Plan)
class PublishedPlanAdmin(WizardsMixin, GuardedPlanAdmin):
    """Offers, with what they earn and may cost."""

    wizards = ((PlanWizard, "publish", _("Publish a plan")), (PlanImport, "import", _("Import")))


@admin.register(PlanPrice)
class ChangedPlanPriceAdmin(WizardsMixin, GuardedPlanPriceAdmin):
    """What plans cost. A new price is a new row; running subscriptions keep the one they were sold at, or are moved."""

    wizards = ((PriceWizard, "change-price", _("Change a price")), (PlanPriceImport, "import", _("Import")))


@admin.register(ModelPrice)
class ImportedModelPriceAdmin(WizardsMixin, ModelPriceAdmin):
    """List prices. A new price is a new row; an empty field means not offered, and a call that needs it is refused."""

    wizards = ((ModelPriceImport, "import", _("Import")),)
