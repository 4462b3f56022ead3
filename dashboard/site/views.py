"""The front page: what this is, how to make a first call, and public prices."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing.payments.topup import hundred_credits_price
from billing.plans.models import CreditPack
from billing.plans.selectors import public_offers
from dashboard.panel.keys import base_url
from iafactory.common import clock


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Public; shows no account's data."""
    now = clock.now()
    packs = list(CreditPack.objects.filter(is_public=True))
    return render(
        request,
        "site/home.html",
        {
            "base_url": base_url(),
            "offers": public_offers(at=now),
            "packs": packs,
            "hundred_credits": hundred_credits_price(currency=packs[0].currency, at=now) if packs else None,
            "simulated": bool(settings.SIMULATOR_URL),
        },
    )
