"""Plans compared and bought, credits topped up: what it comes to, how to pay, and the payment that follows."""

import secrets
from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from billing.payments.topup import hundred_credits_price, pack_price
from billing.plans.models import CreditPack, Plan
from billing.plans.selectors import public_offers
from iafactory.common import clock
from iafactory.common.errors import ApiError

from .refusals import refusal_text
from .session import done, is_htmx, panel_page


@require_safe
@panel_page
def plans(request: Any) -> HttpResponseBase:
    """Every public plan sold in the account's currency, the running one marked; the others with the currency they take."""
    panel = request.panel
    status = panel.api.get("payment-status")
    families: dict[str, list[dict[str, Any]]] = {}
    now = clock.now()
    for offer in public_offers(at=now):
        price = next((one for one in offer.prices if one.currency == panel.account.currency), None)
        price = price or next(iter(offer.prices), None)
        families.setdefault(offer.plan.family, []).append(
            {
                "plan": offer.plan,
                "price": price,
                "is_free": offer.is_free,
                "is_metered_only": offer.is_metered_only,
                "hundred_credits": hundred_credits_price(currency=panel.account.currency, at=now)
                if offer.is_metered_only
                else None,
                "is_running": status["tier"] == offer.plan.code,
            }
        )
    return render(request, "panel/plans.html", {"families": list(families.values()), "status": status})


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def plan(request: Any, code: str) -> HttpResponseBase:
    """One plan: what it comes to with tax and coupon, how to pay; a POST buys it, or changes to it."""
    found = Plan.objects.filter(code=code).first()
    if found is None:
        raise ApiError(404, "not_found", "There is no such plan.")
    return _checkout(request, "plan", code, {"plan": found, "title": found.name}, _plan_buy)


@require_safe
@panel_page
def credits(request: Any) -> HttpResponseBase:
    """The packs on sale, at their price in the account's currency."""
    currency = request.panel.account.currency
    packs = []
    for pack in CreditPack.objects.filter(is_public=True):
        try:
            amount = pack_price(pack=pack, currency=currency, at=clock.now())
        except ApiError:
            continue
        packs.append({"pack": pack, "amount": amount, "currency": currency})
    return render(request, "panel/credits.html", {"packs": packs})


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def pack(request: Any, code: str) -> HttpResponseBase:
    """One pack: what it comes to with tax, how to pay; a POST buys it."""
    found = CreditPack.objects.filter(code=code, is_public=True).first()
    if found is None:
        raise ApiError(404, "not_found", "There is no such pack.")
    return _checkout(request, "pack", code, {"pack": found, "title": found.name}, _pack_buy)


def ways_to_pay(request: Any) -> list[dict[str, Any]]:
    """How the account may pay in its currency, each under one value for forms."""
    found: list[dict[str, Any]] = request.panel.api.get("payment-gateways")["results"]
    return [way | {"value": f"{way['gateway']}:{way['method']}"} for way in found]


def way_chosen(request: Any, ways: list[dict[str, Any]]) -> dict[str, str]:
    """`gateway` and `method` that a form chose, the preferred ones by default."""
    wanted = (request.POST or request.GET).get("way", "")
    values = [way["value"] for way in ways]
    gateway, _colon, method = (wanted if wanted in values else values[0] if values else ":").partition(":")
    return {"gateway": gateway, "method": method}


def consent_offered(request: Any, ways: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The text to agree to for automatic renewals, in the page's language; None where no way to pay keeps cards."""
    if not any(way["keeps_cards"] for way in ways):
        return None
    consent: dict[str, Any] = request.panel.api.get("payment-methods", language=get_language() or "en")["consent"]
    return consent


def agreement_sent(request: Any, way: dict[str, str]) -> dict[str, Any]:
    """What a form says about automatic renewals: only a way that keeps cards can have them."""
    keeps = any(one["keeps_cards"] and one["gateway"] == way["gateway"] for one in ways_to_pay(request))
    if not keeps or request.POST.get("auto_renewal") != "1":
        return {}
    return {
        "auto_renewal": True,
        "auto_renewal_wording": request.POST.get("auto_renewal_wording", "")[:32],
        "auto_renewal_language": get_language() or "en",
    }


def _checkout(request: Any, what: str, code: str, context: dict[str, Any], buy: Any) -> HttpResponseBase:
    ways = ways_to_pay(request)
    way = way_chosen(request, ways)
    consent = consent_offered(request, ways) if what == "plan" else None
    coupon = (request.POST or request.GET).get("coupon", "").strip()[:64] if what == "plan" else ""
    refusal = ""
    if request.method == "POST":
        try:
            return buy(request, code, way, coupon)  # type: ignore[no-any-return]
        except ApiError as error:
            refusal = refusal_text(error)
    quoted, quote_refusal, coupon_refusal = _quoted(request, what, code, way, coupon)
    context |= {
        "what": what,
        "code": code,
        "ways": ways,
        "way": f"{way['gateway']}:{way['method']}",
        "coupon": coupon,
        "consent": consent,
        "quoted": quoted,
        "refusal": refusal or quote_refusal,
        "coupon_refusal": coupon_refusal,
        # The same form sent twice buys once.
        "attempt": request.POST.get("attempt", "")[:64] or secrets.token_hex(16),
    }
    if is_htmx(request):
        return render(request, "panel/quote.html", context)
    return render(request, "panel/checkout.html", context, status=400 if refusal else 200)


def _quoted(request: Any, what: str, code: str, way: dict[str, str], coupon: str) -> tuple[Any, str, str]:
    """The quote; else why there is none. A coupon that is not taken leaves the price without it, and says so."""
    ask = {what: code, "coupon": coupon} | way if what == "plan" else {what: code} | way
    try:
        return request.panel.api.post("payment-quote", data=ask), "", ""
    except ApiError as error:
        if error.code.startswith("coupon_"):
            again, refusal, _none = _quoted(request, what, code, way, "")
            return again, refusal, refusal_text(error)
        return None, refusal_text(error), ""


def _plan_buy(request: Any, code: str, way: dict[str, str], coupon: str) -> HttpResponseBase:
    api = request.panel.api
    status = api.get("payment-status")
    key = attempt_key(request)
    kind = request.POST.get("kind", "")
    chosen = way | agreement_sent(request, way)
    if kind == "change" and status["subscription_id"]:
        answer = api.post(
            "subscription-change-plan", status["subscription_id"], data={"plan": code} | chosen, idempotency_key=key
        )
    else:
        answer = api.post("payment-subscribe", code, data={"coupon": coupon} | chosen, idempotency_key=key)
    if answer["payment"]:
        return go_to_payment(answer["payment"])
    if kind == "change" and answer["offer"] and answer["offer"]["at_period_end"]:
        return done(request, _("Your plan changes when the period ends."), "panel:subscription")
    return done(request, _("Your plan is active."), "panel:subscription")


def _pack_buy(request: Any, code: str, way: dict[str, str], coupon: str) -> HttpResponseBase:
    answer = request.panel.api.post("payment-topup", data={"pack": code} | way, idempotency_key=attempt_key(request))
    return go_to_payment(answer["payment"])


def go_to_payment(payment: dict[str, Any]) -> HttpResponseBase:
    """To the payment's page, which leads on to its gateway: forms of ours go nowhere else themselves."""
    response = redirect("panel:payment", payment["reference"])
    if payment["checkout_url"]:
        response["Location"] += "?go=1"
    return response


def attempt_key(request: Any) -> str:
    """The idempotency key of a form: sent twice it does its work once."""
    attempt = request.POST.get("attempt", "")
    return f"panel-{attempt[:64]}" if attempt.isalnum() else ""
