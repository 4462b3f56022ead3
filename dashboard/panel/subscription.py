"""The running subscription: its period, cancel, pause, resume."""

from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from billing.plans.models import Plan
from iafactory.common.errors import ApiError

from .forms import CancelForm
from .session import done, panel_page, refused


@require_safe
@panel_page
def subscription(request: Any) -> HttpResponseBase:
    """What the account is on, what comes next, and every subscription before."""
    api = request.panel.api
    every = api.get("subscriptions")
    live = next((one for one in every if one["state"] in ("trialing", "active", "past_due", "paused")), None)
    plans = Plan.objects.in_bulk([live["plan"], live["next_plan"]], field_name="code") if live else {}
    context = {
        "live": live,
        "plan": plans.get(live["plan"]) if live else None,
        "next_plan": plans.get(live["next_plan"]) if live else None,
        "costs": bool(live and live["amount"]),
        "earlier": [one for one in every if one is not live],
        "form": CancelForm(),
        "upcoming": api.get("billing-invoices-preview")["results"],
    }
    return render(request, "panel/subscription.html", context)


@require_POST
@panel_page
def cancel(request: Any, subscription_id: str) -> HttpResponseBase:
    """Cancel at the end of what is paid, or now."""
    form = CancelForm(request.POST)
    data = form.cleaned_data if form.is_valid() else {}
    return _do(request, "subscription-cancel", subscription_id, _("Your subscription is canceled."), data)


@require_POST
@panel_page
def pause(request: Any, subscription_id: str) -> HttpResponseBase:
    """Stop the period's time."""
    return _do(request, "subscription-pause", subscription_id, _("Your subscription is paused."))


@require_POST
@panel_page
def resume(request: Any, subscription_id: str) -> HttpResponseBase:
    """Go on."""
    return _do(request, "subscription-resume", subscription_id, _("Your subscription goes on."))


@require_POST
@panel_page
def change_forget(request: Any, subscription_id: str) -> HttpResponseBase:
    """Take a change back that was to come at the period's end."""
    try:
        request.panel.api.delete("subscription-change-plan", subscription_id)
    except ApiError as error:
        return refused(request, error, "panel:subscription")
    return done(request, _("Your plan stays as it is."), "panel:subscription")


def _do(request: Any, address: str, subscription_id: str, told: str, data: dict[str, Any] | None = None) -> HttpResponseBase:
    try:
        request.panel.api.post(address, subscription_id, data=data)
    except ApiError as error:
        return refused(request, error, "panel:subscription")
    return done(request, told, "panel:subscription")
