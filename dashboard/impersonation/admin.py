"""Logins as customers in the console: who was logged in as whom, when and why. Read only."""

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from iafactory.common.admin import ReadOnlyAdmin, link_column, linked_filter, list_link, moment_column

from .models import Impersonation


@admin.register(Impersonation)
class ImpersonationAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Begun on an account's page."""

    list_display = ("moment", "operator_link", "user_link", "account_link", "reason", "ended_at", "ending")
    list_filter = ("ending", linked_filter("account", Account, _("account")), "began_at")
    list_select_related = ("operator", "user", "account")
    search_exact_fields = ("operator__email", "user__email")
    search_help_text = _("Account or e-mail.")
    fields = (
        *("operator_link", "user_link", "account_link", "reason", "began_at", "expires_at", "ended_at", "ending"),
        "explore",
    )
    readonly_fields = ("operator_link", "user_link", "account_link", "explore")

    moment = moment_column("began_at", _("began, UTC"))
    operator_link = link_column("operator", "billing.user", _("operator"))
    user_link = link_column("user", "billing.user", _("customer"))
    account_link = link_column("account", "billing.account", _("account"))

    @admin.display(description=_("done in their name"))
    def explore(self, row: Impersonation) -> SafeString:
        link = list_link("billing.event", _("Events"), account_id__exact=row.account_id, on_behalf_of_id__exact=row.user_id)
        return format_html("{}", link)
