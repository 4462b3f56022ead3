"""Moves of running subscriptions to other prices: how far they are, and the button that stops one."""

from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.services import Actor
from iafactory.common.admin import ReadOnlyAdmin, link_column, list_link, moment_column

from .deeds import Deed, DeedsMixin
from .models import PriceMove
from .price_migration import price_migration_candidates, price_move_stop


def _stop(move: PriceMove, *, actor: Actor, reason: str) -> None:
    price_move_stop(move=move, actor=actor, reason=reason)


DEEDS = {
    "stop": Deed(
        _("Stop"),
        _("Nobody else is moved. Who renews at the price by now stays so."),
        _("Stopped."),
        _stop,
        "billing.change_subscription",
        lambda move: move.finished_at is None,
        dangerous=True,
    ),
}


@admin.register(PriceMove)
class PriceMoveAdmin(DeedsMixin, ReadOnlyAdmin):
    """Running subscriptions on their way to another price."""

    deeds = DEEDS
    list_display = ("moment", "price_link", "state", "moved", "requested_by", "reason")
    list_filter = ("created_at",)
    list_select_related = ("price__plan",)
    search_fields = ("price__plan__code", "price__plan__name")
    fields = (
        "price_link",
        "in_force",
        "state",
        "moved",
        "left",
        "requested_by",
        "reason",
        "created_at",
        "finished_at",
        "deed_buttons",
    )
    readonly_fields = ("price_link", "in_force", "state", "left", "deed_buttons")

    moment = moment_column("created_at", _("at, UTC"))
    price_link = link_column("price", "billing.planprice", _("price"))

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).select_related("price__plan")

    @admin.display(description=_("in force from, UTC"))
    def in_force(self, move: PriceMove) -> str:
        return f"{move.price.effective_from:%Y-%m-%d %H:%M}"

    @admin.display(description=_("state"), ordering="finished_at")
    def state(self, move: PriceMove) -> SafeString:
        kind, text = ("running", _("under way")) if move.finished_at is None else ("closed", _("everybody is moved"))
        if move.is_stopped:
            kind, text = "failed", _("stopped")
        return format_html('<span class="state state-{}">{}</span>', kind, text)

    @admin.display(description=_("to be moved next"))
    def left(self, move: PriceMove) -> SafeString:
        if move.finished_at is not None:
            return SafeString("0")
        subscriptions = list_link("billing.subscription", _("Subscriptions"), plan__id__exact=move.price.plan_id)
        return format_html("{} · {}", price_migration_candidates(move.price).count(), subscriptions)
