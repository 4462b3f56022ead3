"""Where buyers' browsers go and come back: pages that show how a payment really stands, and what a return is checked with.

A return proves nothing: it makes us ask the gateway, and the page shows our own row.
"""

import logging
from typing import Any
from urllib.parse import urlsplit

from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from django_redis.exceptions import ConnectionInterrupted
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from redis.exceptions import RedisError
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import AccountsView, errors
from billing.accounts.credentials import request_account
from iafactory.common.errors import ApiError
from iafactory.common.formats import money_text

from .configuration import gateway_configured
from .confirmation import payment_confirm
from .gateways.base import GatewayError, Returns, WebhookEvent, WebhookRejected
from .models import Payment

logger = logging.getLogger(__name__)

State = Payment.State
OPEN = (State.CREATED, State.PENDING, State.UNKNOWN)
# A page that refreshes itself asks its gateway at most this often.
_ASK_EVERY_SECONDS = 5
REFRESH_SECONDS = 6

_TITLES = {
    State.CREATED: _("Your payment is being prepared"),
    State.PENDING: _("Waiting for your payment"),
    State.UNKNOWN: _("Waiting for your payment"),
    State.REVIEW: _("Your payment is being checked"),
    State.SUCCEEDED: _("Payment received"),
    State.FAILED: _("The payment failed"),
    State.EXPIRED: _("The payment was not made in time"),
    State.CANCELED: _("The payment was canceled"),
}
_MESSAGES = {
    State.CREATED: _("This page refreshes by itself."),
    State.PENDING: _("As soon as the payment is confirmed it shows here; this page refreshes by itself."),
    State.UNKNOWN: _("As soon as the payment is confirmed it shows here; this page refreshes by itself."),
    State.REVIEW: _("Something about it does not match. We look at it and write to you."),
    State.SUCCEEDED: _("Thank you. What you bought is ready."),
    State.FAILED: _("Nothing was charged. You can try again."),
    State.EXPIRED: _("Nothing was charged. You can try again."),
    State.CANCELED: _("Nothing was charged. You can try again."),
}


@never_cache
@require_GET
def payment_return(request: HttpRequest, reference: str) -> HttpResponse:
    """`/payment/return/{reference}`: how a payment stands; while it is open its gateway is asked. References are secret."""
    payment = _payment(reference)
    if payment.state in OPEN:
        payment = _asked(payment)
    context = {
        "title": _TITLES[State(payment.state)],
        "message": _MESSAGES[State(payment.state)],
        "payment": payment,
        "amount": money_text(payment.amount, payment.currency),
        "can_try_again": payment.state in (State.FAILED, State.EXPIRED, State.CANCELED),
        "refresh_seconds": REFRESH_SECONDS if payment.state in OPEN else None,
        "pay_url": payment.checkout_url if payment.state == State.PENDING else "",
    }
    return render(request, "billing/payments/return.html", context)


@never_cache
@require_GET
def payment_pay(request: HttpRequest, reference: str) -> HttpResponse:
    """`/payment/pay/{reference}`: posts the gateway's form from the buyer's browser, by itself or by a button."""
    payment = _payment(reference)
    if payment.state != State.PENDING or not payment.form_action:
        return HttpResponseRedirect(reverse("payment-return", args=[reference]))
    response = render(request, "billing/payments/pay.html", {"title": _("To the payment page"), "payment": payment})
    # The one form that leaves us: for its gateway, which may lead the browser on to the payer's bank.
    gateway = urlsplit(payment.form_action)
    setattr(response, "_csp_replace", {"form-action": [f"{gateway.scheme}://{gateway.netloc}", "https:"]})  # noqa: B010
    return response


@csrf_exempt
@never_cache
@require_POST
def payu_return(request: HttpRequest) -> HttpResponse:
    """`/payment/payu/return`: PayU's browsers come back with a form, from another site; they go on to the payment's page."""
    try:
        event = _returned("payu", request.POST.dict())
    except ApiError as error:
        return render(request, "billing/payments/refused.html", {"title": _("This is no answer of PayU")}, status=error.status)
    payment = _payment(event.reference)
    if payment.gateway != "payu":
        raise Http404
    _asked(payment, always=True)
    response = HttpResponseRedirect(reverse("payment-return", args=[payment.reference]))
    response.status_code = 303
    return response


def _payment(reference: str) -> Payment:
    payment = Payment.objects.select_related("account", "invoice").exclude(gateway="manual").filter(reference=reference).first()
    if payment is None:
        raise Http404
    return payment


def _asked(payment: Payment, *, always: bool = False) -> Payment:
    """The payment after asking its gateway, unless somebody asked a moment ago; one that does not answer changes nothing."""
    try:
        first = cache.add(f"payments:asked:{payment.pk}", 1, _ASK_EVERY_SECONDS)
    except (ConnectionInterrupted, RedisError):
        first = True
    if not first and not always:
        return payment
    try:
        return payment_confirm(payment=payment, reason="the buyer came back").payment
    except (GatewayError, ApiError) as error:
        logger.info("payment %s: %s", payment.reference, error)
        return Payment.objects.get(pk=payment.pk)


def _returned(gateway: str, fields: dict[str, str]) -> WebhookEvent:
    """What a return says, its signature checked; ApiError 400 `signature_not_valid`, 404 for a gateway without settings."""
    adapter = gateway_configured(gateway)
    if not isinstance(adapter, Returns):
        raise ApiError(404, "not_found", "There is no such payment gateway.")
    try:
        return adapter.read_return(fields)
    except WebhookRejected:
        raise ApiError(400, "signature_not_valid", "The gateway did not sign this.") from None


class PaymentStateSerializer(serializers.Serializer):
    """How a payment stands."""

    reference = serializers.CharField()
    gateway = serializers.CharField()
    state = serializers.ChoiceField(choices=State.choices)
    amount = serializers.DecimalField(max_digits=18, decimal_places=4)
    currency = serializers.CharField()
    paid_at = serializers.DateTimeField(allow_null=True)


class ReturnView(AccountsView):
    """A page of the customer's own hands in what the gateway gave its browser."""

    gateway = ""

    def verified(self, request: Request) -> Response:
        data = request.data if isinstance(request.data, dict) else {}
        fields = {str(name): str(value) for name, value in data.items() if isinstance(value, str | int)}
        event = _returned(self.gateway, fields)
        payment = self._own(request, event)
        try:
            payment = payment_confirm(
                payment=payment, gateway_payment_id=event.payment_id, reason="the buyer came back"
            ).payment
        except GatewayError as error:
            # The signature is good, the truth has to wait: webhook or poll will bring it.
            logger.info("payment %s: %s", payment.reference, error)
        return Response(PaymentStateSerializer(payment).data)

    def _own(self, request: Request, event: WebhookEvent) -> Payment:
        """The caller's payment that the return is about, by the checkout that we stored."""
        account: Any = request_account(request)
        ours = Payment.objects.filter(account=account, gateway=self.gateway).select_related("account", "invoice")
        payment = ours.filter(checkout_id=event.checkout_id).first()
        if payment is None:
            raise ApiError(404, "not_found", "There is no such payment.")
        return payment


class RazorpayVerifyView(ReturnView):
    gateway = "razorpay"

    @extend_schema(
        operation_id="payment_razorpay_verify",
        summary="Verify a return from Razorpay",
        tags=["payment"],
        request=OpenApiTypes.OBJECT,
        responses={200: PaymentStateSerializer, **errors(400, 401, 404)},
    )
    def post(self, request: Request) -> Response:
        """The `razorpay_*` fields of the return, with their signature; the payment is then asked of Razorpay."""
        return self.verified(request)


class PayUVerifyView(ReturnView):
    gateway = "payu"

    @extend_schema(
        operation_id="payment_payu_verify",
        summary="Verify a return from PayU",
        tags=["payment"],
        request=OpenApiTypes.OBJECT,
        responses={200: PaymentStateSerializer, **errors(400, 401, 404)},
    )
    def post(self, request: Request) -> Response:
        """The fields that PayU posted, with their hash; the payment is then asked of PayU."""
        return self.verified(request)
