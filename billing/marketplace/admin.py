"""The marketplace in the console: which subscription there is which plan here, and the accounts that came through it."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from billing.events.admin import AuditedModelAdmin
from iafactory.common.admin import ReadOnlyAdmin, link_column, linked_filter

from .models import MarketplaceAccount, MarketplacePlan


@admin.register(MarketplacePlan)
class MarketplacePlanAdmin(AuditedModelAdmin):
    """An edit is in force within a second: each account changes its plan with its next call."""

    list_display = ("subscription", "marketplace", "plan_link")
    list_filter = ("marketplace",)
    list_select_related = ("plan",)
    autocomplete_fields = ("plan",)
    search_fields = ("subscription", "plan__code")
    search_help_text = _("Subscription at the marketplace, or code of the plan.")
    fieldsets = ((None, {"fields": ("marketplace", "subscription", "plan")}),)

    plan_link = link_column("plan", "billing.plan", _("plan"))


@admin.register(MarketplaceAccount)
class MarketplaceAccountAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Made at a user's first call, by the marketplace's word; block the account to keep a user out."""

    list_display = ("external_user", "marketplace", "account_link", "subscription", "subscription_since", "created_at")
    list_filter = ("marketplace", "subscription", linked_filter("account", Account, _("account")), "created_at")
    list_select_related = ("account",)
    search_exact_fields = ("external_user",)
    search_uuid_fields = ("pk", "account_id")
    search_help_text = _("The user's name at the marketplace, account or ids.")
    fieldsets = (
        (None, {"fields": ("marketplace", "external_user", "account_link", "created_at")}),
        (_("Subscription there"), {"fields": ("subscription", "subscription_since", "previous_subscription")}),
    )
    readonly_fields = ("account_link",)

    account_link = link_column("account", "billing.account", _("account"))
