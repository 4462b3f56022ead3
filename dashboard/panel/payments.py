"""A payment until it is made: on to its gateway, or by hand with a proof; and the ways to pay that fit the account."""

import base64
from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from iafactory.common.errors import ApiError

from .buying import ways_to_pay
from .forms import ProofForm
from .session import done, is_htmx, panel_page, refused

OPEN = ("created", "pending", "unknown")


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def payment(request: Any, reference: str) -> HttpResponseBase:
    """How a payment stands, and what to do: go to its gateway, or pay by hand and send a proof."""
    api = request.panel.api
    stands = api.get("payment", reference)
    form = ProofForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        upload = form.cleaned_data["content"]
        sent = form.tell(
            api.post,
            "payment-proof",
            reference,
            data={
                "file_name": upload.name[-200:],
                "content": base64.b64encode(upload.read()).decode(),
                "customer_reference": form.cleaned_data["customer_reference"],
            },
        )
        if sent is not None:
            return done(request, _("Thank you. We look at it and write to you."), "panel:payment", reference)
    context = {
        "payment": stands,
        "form": form,
        "is_open": stands["state"] in OPEN,
        "go": request.GET.get("go") == "1" and stands["state"] == "pending" and bool(stands["checkout_url"]),
    }
    page = "panel/payment_state.html" if is_htmx(request) else "panel/payment.html"
    return render(request, page, context, status=400 if form.is_bound else 200)


@require_safe
@panel_page
def payment_methods(request: Any) -> HttpResponseBase:
    """Saved cards and automatic renewal, and the ways to pay that fit the account's country and currency."""
    kept = request.panel.api.get("payment-methods", language=get_language() or "en")
    return render(request, "panel/payment_methods.html", {"ways": ways_to_pay(request)} | kept)


@require_POST
@panel_page
def card_remove(request: Any, card_id: str) -> HttpResponseBase:
    """Take a card back; renewals with it end."""
    try:
        request.panel.api.delete("payment-method", card_id)
    except ApiError as error:
        return refused(request, error, "panel:payment-methods")
    return done(request, _("The card is removed. It is never charged again."), "panel:payment-methods")


@require_POST
@panel_page
def auto_renewal(request: Any) -> HttpResponseBase:
    """Switch automatic renewal on, with the text that was shown agreed to, or off."""
    on = request.POST.get("enabled") == "1"
    data: dict[str, Any] = {"enabled": on}
    if on:
        data |= {"wording": request.POST.get("wording", "")[:32], "language": get_language() or "en"}
        data |= {"card": request.POST["card"][:64]} if request.POST.get("card") else {}
    try:
        request.panel.api.put("payment-auto-renewal", data=data)
    except ApiError as error:
        return refused(request, error, "panel:payment-methods")
    return done(request, _("Saved."), "panel:payment-methods")
