"""Outbound webhooks: endpoints, their secrets, what was sent, and sending it again."""

from datetime import timedelta
from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from iafactory.common import clock
from iafactory.common.errors import ApiError

from .forms import WebhookForm
from .session import done, panel_page, refused


@require_safe
@panel_page
def webhooks(request: Any) -> HttpResponseBase:
    """The account's endpoints."""
    page = request.panel.api.get("webhooks", page=request.GET.get("page", ""))
    return render(request, "panel/webhooks.html", {"page": page})


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def webhook_new(request: Any) -> HttpResponseBase:
    """Register an address; its secret is shown this once."""
    api = request.panel.api
    events = api.get("webhooks-event-types")
    form = WebhookForm(request.POST or None, events=events)
    if request.method == "POST" and form.is_valid():
        made = form.tell(api.post, "webhooks", data=form.cleaned_data)
        if made is not None:
            return render(request, "panel/webhook_secret.html", {"endpoint": made})
    context = {"form": form, "events": events}
    return render(request, "panel/webhook_new.html", context, status=400 if form.is_bound else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def webhook(request: Any, endpoint_id: str) -> HttpResponseBase:
    """One endpoint: address, events, and its deliveries of 30 days."""
    api = request.panel.api
    stands = api.get("webhook", endpoint_id)
    events = api.get("webhooks-event-types")
    form = WebhookForm(request.POST or None, initial=stands, events=events)
    if request.method == "POST" and form.is_valid() and form.tell(api.patch, "webhook", endpoint_id, data=form.cleaned_data):
        return done(request, _("The endpoint is changed."), "panel:webhook", endpoint_id)
    state = request.GET.get("state", "")
    page = api.get("webhook-deliveries", endpoint_id, state=state, page=request.GET.get("page", ""))
    context = {"endpoint": stands, "form": form, "page": page, "state": state}
    return render(request, "panel/webhook.html", context, status=400 if form.is_bound else 200)


@require_POST
@panel_page
def webhook_do(request: Any, endpoint_id: str, deed: str) -> HttpResponseBase:
    """Test, switch on or off, replace the secret, send again what was lost, delete."""
    api = request.panel.api
    try:
        match deed:
            case "test":
                api.post("webhook-test", endpoint_id)
                told = _("A test message is on its way.")
            case "enable" | "disable":
                api.patch("webhook", endpoint_id, data={"is_enabled": deed == "enable"})
                told = _("The endpoint is switched on.") if deed == "enable" else _("The endpoint is switched off.")
            case "rotate":
                return render(
                    request, "panel/webhook_secret.html", {"endpoint": api.post("webhook-rotate-secret", endpoint_id)}
                )
            case "replay":
                since = (clock.now() - timedelta(days=3)).isoformat()
                count = api.post("webhook-replay", endpoint_id, data={"since": since})["replayed"]
                told = _("Messages sent again: %(count)s.") % {"count": count}
            case "delete":
                api.delete("webhook", endpoint_id)
                return done(request, _("The endpoint is deleted."), "panel:webhooks")
            case _unknown:
                raise ApiError(404, "not_found", "There is no such address.")
    except ApiError as error:
        return refused(request, error, "panel:webhook", endpoint_id)
    return done(request, told, "panel:webhook", endpoint_id)


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def delivery(request: Any, endpoint_id: str, delivery_id: str) -> HttpResponseBase:
    """One delivery: the message and each attempt; a POST sends it again."""
    api = request.panel.api
    if request.method == "POST":
        try:
            again = api.post("webhook-delivery-replay", endpoint_id, delivery_id)
        except ApiError as error:
            return refused(request, error, "panel:delivery", endpoint_id, delivery_id)
        return done(request, _("It is sent again."), "panel:delivery", endpoint_id, again["id"])
    context = {"endpoint": api.get("webhook", endpoint_id), "delivery": api.get("webhook-delivery", endpoint_id, delivery_id)}
    return render(request, "panel/delivery.html", context)
