"""Subscriptions in the console: read here, moved by their services."""

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from iafactory.common.admin import EMPTY, ReadOnlyAdmin, link_column, linked_filter, list_link, table
from iafactory.common.errors import ApiError

from .lifecycle_admin import LifecycleMixin
from .models import Subscription
from .preview import invoices_upcoming


@admin.register(Subscription)
class SubscriptionAdmin(LifecycleMixin, AccountSearchMixin, ReadOnlyAdmin):
    """What accounts have bought and until when."""

    list_display = (
        "__str__",
        "account_link",
        "plan_link",
        "state_label",
        "current_period_start",
        "current_period_end",
        "cancel_at_period_end",
        "created_at",
    )
    list_filter = (
        "state",
        "plan",
        "cancel_at_period_end",
        linked_filter("account", Account, _("account")),
        "current_period_end",
        "created_at",
    )
    list_select_related = ("account", "plan")
    search_help_text = _("Subscription id, account, e-mail or beginning of a key.")
    fieldsets = (
        (None, {"fields": ("account_link", "plan_link", "state_label", "deed_buttons", "price_link", "explore")}),
        (
            _("Period"),
            {
                "fields": (
                    "current_period_start",
                    "current_period_end",
                    "billing_anchor",
                    "paid_through",
                    "plan_since",
                    "trial_ends_at",
                    "past_due_since",
                    "grace_until",
                    "paused_at",
                    "next_plan_link",
                    "next_price_link",
                    "coupon_link",
                    "last_error",
                    "cancel_at_period_end",
                )
            },
        ),
        (_("Invoices"), {"fields": ("next_invoices",)}),
        (_("Life"), {"fields": ("created_at", "ended_at", "previous_link")}),
    )
    readonly_fields = (
        "account_link",
        "plan_link",
        "state_label",
        "deed_buttons",
        "price_link",
        "next_plan_link",
        "next_price_link",
        "coupon_link",
        "previous_link",
        "explore",
        "next_invoices",
    )

    account_link = link_column("account", "billing.account", _("account"))
    plan_link = link_column("plan", "billing.plan", _("plan"))
    price_link = link_column("price", "billing.planprice", _("price it was sold at"))
    next_plan_link = link_column("next_plan", "billing.plan", _("plan from the next period"))
    next_price_link = link_column("next_price", "billing.planprice", _("price from the next period"))
    coupon_link = link_column("coupon", "billing.coupon", _("coupon"))
    previous_link = link_column("previous", "billing.subscription", _("previous subscription"))

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, subscription: Subscription) -> SafeString:
        return format_html('<span class="state state-{}">{}</span>', subscription.state, subscription.get_state_display())

    @admin.display(description=_("next invoices, if nothing changes"))
    def next_invoices(self, subscription: Subscription) -> SafeString:
        if subscription.state not in Subscription.LIVE:
            return SafeString(EMPTY)
        try:
            upcoming = invoices_upcoming(subscription.account)
        except ApiError as error:
            return format_html("{}", error.text)
        rows = [
            (
                f"{invoice['expected_at'][:10]} ({'' if invoice['final'] else _('so far')})".replace(" ()", ""),
                ", ".join(line["description"] for line in invoice["lines"]),
                invoice["net"],
                invoice["tax"],
                invoice["total"],
                invoice["balance_applied"],
                invoice["amount_due"],
                invoice["currency"],
            )
            for invoice in upcoming
        ]
        headings = (_("issued"), _("lines"), _("net"), _("tax"), _("total"), _("from money in hand"), _("due"), "")
        return table(headings, rows) if rows else SafeString(EMPTY)

    @admin.display(description=_("see also"))
    def explore(self, subscription: Subscription) -> SafeString:
        return format_html_join(
            " · ",
            "{}",
            (
                (
                    list_link(
                        "billing.usagerecord",
                        _("Usage"),
                        account__id__exact=subscription.account_id,  # has the index
                        subscription_id__exact=subscription.pk,
                    ),
                ),
                (list_link("billing.invoice", _("Invoices"), account__id__exact=subscription.account_id),),
                (
                    list_link(
                        "billing.event",
                        _("Events"),
                        object_type__exact="subscription",
                        object_id__exact=subscription.pk,
                    ),
                ),
                (
                    list_link(
                        "billing.subscription",
                        _("All subscriptions of the account"),
                        account__id__exact=subscription.account_id,
                    ),
                ),
            ),
        )
