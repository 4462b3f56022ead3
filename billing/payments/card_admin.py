"""Saved cards and automatic renewals in the console: whose card, what they agreed to, taking it back for them."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from billing.events.services import Actor
from billing.subscriptions.deeds import Deed, DeedsMixin
from iafactory.common.admin import EMPTY, ReadOnlyAdmin, link_column, linked_filter, list_link, moment_column

from .auto_renewal import auto_renewal_withdraw, card_remove
from .models import AutoRenewalConsent, SavedCard
from .wording import CONSENTS

CARD_PERMISSION = "billing.change_savedcard"
CONSENT_PERMISSION = "billing.change_autorenewalconsent"


def _remove(card: SavedCard, *, actor: Actor, reason: str) -> None:
    card_remove(card=card, actor=actor, reason=reason)


def _withdraw(consent: AutoRenewalConsent, *, actor: Actor, reason: str) -> None:
    auto_renewal_withdraw(account=consent.account, actor=actor, reason=reason)


class RemovedFilter(admin.SimpleListFilter):
    """Cards by whether they may still be charged, and whether their gateway forgot those that may not."""

    title = _("kept")
    parameter_name = "kept"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("kept", _("Kept")), ("removed", _("Removed")), ("waiting", _("Removed, not yet at the gateway"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[SavedCard]) -> QuerySet[SavedCard]:
        match self.value():
            case "kept":
                return queryset.filter(removed_at__isnull=True)
            case "removed":
                return queryset.filter(removed_at__isnull=False)
            case "waiting":
                return queryset.filter(removed_at__isnull=False, detached_at__isnull=True)
        return queryset


@admin.register(SavedCard)
class SavedCardAdmin(DeedsMixin, AccountSearchMixin, ReadOnlyAdmin):
    """Cards that customers let us keep at a gateway. Their numbers are nowhere here."""

    deeds = {
        "remove": Deed(
            _("Remove"),
            _("It is never charged again; automatic renewal with it ends, and its gateway is told to forget it."),
            _("Removed."),
            _remove,
            CARD_PERMISSION,
            lambda row: row.removed_at is None,
            dangerous=True,
        )
    }
    list_display = ("__str__", "account_link", "gateway", "mode", "expiry", "saved", "removed", "detached")
    list_filter = (RemovedFilter, "gateway", "mode", linked_filter("account", Account, _("account")), "saved_at")
    list_select_related = ("account",)
    search_exact_fields = ("last4", "gateway_card_id", "gateway_customer_id")
    search_help_text = _("Last four digits, the gateway's id of card or customer, or the account.")
    fieldsets = (
        (None, {"fields": ("__str__", "deed_buttons", "account_link", "brand", "last4", "expiry", "explore")}),
        (_("Gateway"), {"fields": ("gateway", "mode", "gateway_customer_id", "gateway_card_id")}),
        (_("History"), {"fields": ("saved_at", "removed_at", "removed_reason", "detached_at")}),
    )
    readonly_fields = ("__str__", "deed_buttons", "account_link", "expiry", "explore")

    account_link = link_column("account", "billing.account", _("account"))
    saved = moment_column("saved_at", _("saved at, UTC"))
    removed = moment_column("removed_at", _("removed at, UTC"))
    detached = moment_column("detached_at", _("gone from the gateway at, UTC"))

    @admin.display(description=_("valid through"))
    def expiry(self, card: SavedCard) -> str:
        return f"{card.exp_month:02}/{card.exp_year}" if card.exp_month and card.exp_year else EMPTY

    @admin.display(description=_("see also"))
    def explore(self, card: SavedCard) -> SafeString:
        charges = list_link("billing.payment", _("Charges"), saved_card__id__exact=card.pk)
        consents = list_link("billing.autorenewalconsent", _("What was agreed to"), account__id__exact=card.account_id)
        return format_html("{} · {}", charges, consents)


class InForceFilter(admin.SimpleListFilter):
    title = _("in force")
    parameter_name = "in_force"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("1", _("In force")), ("0", _("Withdrawn")), ("waiting", _("Waits for its payment"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AutoRenewalConsent]) -> QuerySet[AutoRenewalConsent]:
        match self.value():
            case "1":
                return queryset.filter(withdrawn_at__isnull=True, card__isnull=False)
            case "0":
                return queryset.filter(withdrawn_at__isnull=False)
            case "waiting":
                return queryset.filter(withdrawn_at__isnull=True, card__isnull=True)
        return queryset


@admin.register(AutoRenewalConsent)
class AutoRenewalConsentAdmin(DeedsMixin, AccountSearchMixin, ReadOnlyAdmin):
    """Who agreed that renewals are charged without asking: when, to which words, and when they took it back."""

    deeds = {
        "withdraw": Deed(
            _("Take back"),
            _("The customer does not want it any more: renewals are not charged to a card without asking; the card is kept."),
            _("Taken back."),
            _withdraw,
            CONSENT_PERMISSION,
            lambda row: row.withdrawn_at is None,
        )
    }
    list_display = ("agreed", "account_link", "card_link", "wording_version", "language", "agreed_by", "withdrawn")
    list_filter = (InForceFilter, linked_filter("account", Account, _("account")), "wording_version", "agreed_at")
    list_select_related = ("account", "card")
    fieldsets = (
        (None, {"fields": ("deed_buttons", "account_link", "card_link", "payment_link")}),
        (_("Agreed to"), {"fields": ("agreed_at", "agreed_by", "wording_version", "language", "text")}),
        (_("Taken back"), {"fields": ("withdrawn_at", "withdrawn_by", "withdrawn_reason")}),
    )
    readonly_fields = ("deed_buttons", "account_link", "card_link", "payment_link", "text")

    agreed = moment_column("agreed_at", _("agreed at, UTC"))
    withdrawn = moment_column("withdrawn_at", _("taken back at, UTC"))
    account_link = link_column("account", "billing.account", _("account"))
    card_link = link_column("card", "billing.savedcard", _("card"))
    payment_link = link_column("payment", "billing.payment", _("at the checkout of"))

    @admin.display(description=_("text"))
    def text(self, consent: AutoRenewalConsent) -> str:
        return CONSENTS.get(consent.wording_version, {}).get(consent.language, EMPTY)
