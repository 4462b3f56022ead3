"""Thresholds and wishes of accounts, and what they were told, in the console."""

from typing import Any

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from billing.events.admin import operator_actor
from iafactory.common.admin import (
    ConsoleAdmin,
    ReadOnlyAdmin,
    decimal_column,
    json_block,
    link_column,
    linked_filter,
    moment_column,
    presence_filter,
)

from .models import CreditNotice, CustomerNotice, NoticePreference
from .services import credit_notice_set


@admin.register(CreditNotice)
class CreditNoticeAdmin(AccountSearchMixin, ConsoleAdmin):
    """From when on balances count as low; rows come by themselves."""

    list_display = ("account_link", "level", "level_at", "low_percent", "low_figure")
    list_display_links = ("level",)
    list_filter = ("level", linked_filter("account", Account, _("account")), "level_at")
    list_select_related = ("account",)
    search_uuid_fields = ("account_id",)
    search_help_text = _("Account or e-mail.")
    fieldsets = (
        (None, {"fields": ("account_link", "low_percent", "low_credits")}),
        (_("Told last"), {"fields": ("level", "level_balance", "level_at")}),
    )
    readonly_fields = ("account_link", "level", "level_balance", "level_at")
    actions: Any = None

    account_link = link_column("account", "billing.account", _("account"))
    low_figure = decimal_column("low_credits", _("low credits"))

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def save_model(self, request: Any, obj: CreditNotice, form: Any, change: bool) -> None:
        wanted = form.cleaned_data
        credit_notice_set(
            account=obj.account,
            low_percent=wanted["low_percent"],
            low_credits=wanted["low_credits"],
            actor=operator_actor(request),
        )


@admin.register(CustomerNotice)
class CustomerNoticeAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """What customers were told of their plan and credits."""

    list_display = ("moment", "account_link", "kind", "level", "is_mailed", "sent")
    list_filter = (
        "kind",
        "is_mailed",
        presence_filter("sent_at", _("mail"), given=_("Sent"), empty=_("Not sent")),
        linked_filter("account", Account, _("account")),
        "created_at",
    )
    list_select_related = ("account",)
    search_uuid_fields = ("id", "account_id")
    search_help_text = _("Notice, account or e-mail.")
    fields = ("account_link", "kind", "level", "key", "facts_block", "is_mailed", "created_at", "sent_at")
    readonly_fields = ("account_link", "facts_block")

    moment = moment_column("created_at", _("at, UTC"))
    sent = moment_column("sent_at", _("mailed, UTC"))
    account_link = link_column("account", "billing.account", _("account"))

    @admin.display(description=_("facts"))
    def facts_block(self, notice: CustomerNotice) -> Any:
        return json_block(notice.facts)


@admin.register(NoticePreference)
class NoticePreferenceAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """What customers chose to be mailed; they change it themselves."""

    list_display = ("account_link", "kind", "mail", "threshold")
    list_display_links = ("kind",)
    list_filter = ("kind", "mail", linked_filter("account", Account, _("account")))
    list_select_related = ("account",)
    search_uuid_fields = ("account_id",)
    search_help_text = _("Account or e-mail.")
    fields = ("account_link", "kind", "mail", "threshold")
    readonly_fields = ("account_link",)

    account_link = link_column("account", "billing.account", _("account"))
