"""The front page: what this is, how to make a first call, and public prices."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing.plans.models import CreditPack
from billing.plans.selectors import public_offers
from iafactory.common import clock


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Public; shows no account's data."""
    return render(
        request,
        "site/home.html",
        {
            "base_url": f"{settings.PUBLIC_URL}/v1",
            "offers": public_offers(at=clock.now()),
            "packs": CreditPack.objects.filter(is_public=True),
            "simulated": bool(settings.SIMULATOR_URL),
        },
    )
