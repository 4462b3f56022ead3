"""A place to try models: the page's own script calls the gateway like any client, and shows what each answer cost."""

from typing import Any

from django.http import HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe
from rest_framework_simplejwt.settings import api_settings

from billing.accounts.tokens import access_token
from dashboard.impersonation.permitted import refused_in_their_name
from iafactory.common.errors import ApiError
from iafactory.common.formats import credits_text

from .refusals import REFUSALS
from .session import is_htmx, panel_page


@require_safe
@panel_page
def playground(request: Any) -> HttpResponseBase:
    """The page. Models come from the gateway itself, by the script: it alone knows what serves this account now."""
    if request.panel.seen_as is not None:
        raise refused_in_their_name()
    return render(request, "panel/playground.html", {"account_id": str(request.panel.account.pk), "refusals": REFUSALS})


@require_POST
@panel_page
def playground_token(request: Any) -> HttpResponseBase:
    """An access token for the page's script, kept in its memory alone; it ends by itself within half an hour."""
    if request.panel.seen_as is not None:
        # It would do all that a customer may, outside of the panel, and be told from them by nothing.
        raise refused_in_their_name()
    seconds = int(api_settings.ACCESS_TOKEN_LIFETIME.total_seconds())
    return JsonResponse({"access_token": access_token(request.panel.user), "expires_in": seconds})


@require_safe
@panel_page
def playground_price(request: Any, request_id: str) -> HttpResponseBase:
    """What one answer cost, in words; 404 until its booking is there."""
    try:
        call = request.panel.api.get("billing-usage-explain", request_id)
    except ApiError as error:
        if error.status != 404 or is_htmx(request):
            raise
        return JsonResponse({}, status=404)
    return JsonResponse(
        {
            "credits": credits_text(call["credits"]),
            "quota_units": call["quota_units"],
            "input_tokens": call["tokens"]["input"],
            "output_tokens": call["tokens"]["output"],
            "model": call["model"],
            "provider": call["provider"],
            "balance": credits_text(call["balance_after"]),
        }
    )
