"""`/api/subscriptions` and `/api/payment`: begin and change plans, buy credits, see how one stands, send proofs.

Somebody else's object is the object of nobody: 404.
"""

import base64
import binascii
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.accounts.models import Account
from billing.events.services import Actor
from billing.invoices.models import Invoice
from billing.ledger.serializers import instant_text
from billing.ledger.usage_api import BillingReadView
from billing.plans.models import CreditPack, Plan
from billing.subscriptions import changes
from billing.subscriptions.api import own_subscription, owned_account
from billing.subscriptions.checkout import Begun, billing_email_set, subscription_begin
from billing.subscriptions.models import Subscription
from billing.subscriptions.selectors import subscription_live, subscriptions_of_account
from billing.subscriptions.serializers import (
    CancelSerializer,
    SubscriptionSerializer,
    offer_body,
    subscription_body,
)
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO, plain

from .auto_renewal import Agreement, agreement_read
from .checkout import checkout_open, gateways_usable
from .gateways.base import SavedCards
from .manual import GATEWAY as MANUAL
from .manual import manual_method, manual_methods, manual_payment_begin, proof_add
from .models import ManualMethod, Payment
from .serializers import (
    BegunSerializer,
    ChangePlanSerializer,
    GatewaysSerializer,
    PaymentSerializer,
    PaymentStatusSerializer,
    PlanChangedSerializer,
    ProofResultSerializer,
    ProofSerializer,
    SubscribeSerializer,
    SubscriptionBeginSerializer,
    TopupResultSerializer,
    TopupSerializer,
    payment_body,
)
from .topup import topup_draft

TAG = ["payment"]
SUBSCRIPTIONS_TAG = ["subscriptions"]
# Gateways have limits; this is what most buy.
ORDINARY_AMOUNT = Decimal(1000)
OPEN = (Payment.State.CREATED, Payment.State.PENDING, Payment.State.UNKNOWN)


def plan_named(code: str) -> Plan:
    """A plan by its code; ApiError 404 `plan_not_found`."""
    plan = Plan.objects.filter(code=code).first()
    if plan is None:
        raise ApiError(404, "plan_not_found", "There is no such plan.")
    return plan


class PayWith:
    """How a customer wants to pay: a way by hand, or a gateway (the preferred one when none is named)."""

    def __init__(self, *, account: Account, currency: str, data: dict[str, Any]) -> None:
        self.agreement = agreement_of(account, data)
        self.gateway: str = data.pop("gateway")
        code: str = data.pop("method")
        by_hand = self.gateway == MANUAL or code != ""
        self.method: ManualMethod | None = None
        if by_hand:
            if self.agreement is not None:
                raise ApiError(400, "invalid_request", "No card can be kept for renewals this way.", param="auto_renewal")
            self.method = manual_method(account=account, currency=currency, code=code)

    @property
    def in_cash(self) -> bool:
        return self.method is not None and self.method.is_cash

    def pay(self, *, invoice: Invoice, purpose: str, actor: Actor, key: str | None) -> Payment:
        """Open a payment of what is due."""
        if self.method is not None:
            return manual_payment_begin(invoice=invoice, method=self.method, purpose=purpose, actor=actor, idempotency_key=key)
        return checkout_open(
            invoice=invoice,
            purpose=purpose,
            actor=actor,
            gateway=self.gateway,
            agreement=self.agreement,
            idempotency_key=key,
        )


def agreement_of(account: Account, data: dict[str, Any]) -> Agreement | None:
    """What a request agrees to about renewals, taken out of its `data`; ApiError 400 for another wording than the present."""
    version, language = data.pop("auto_renewal_wording", ""), data.pop("auto_renewal_language", "")
    if not data.pop("auto_renewal", False):
        return None
    return agreement_read(wording_version=version, language=language or account.language)


def idempotency_key_of(request: Request) -> str | None:
    """The request's idempotency key, as payments keep it."""
    return request.META.get("HTTP_IDEMPOTENCY_KEY", "").strip()[:200] or None


def _repeated(request: Request, account: Account) -> Payment | None:
    """The payment that a request with this key opened before."""
    key = idempotency_key_of(request)
    if key is None:
        return None
    return Payment.objects.select_related("invoice").filter(account=account, idempotency_key=key).first()


def _begin(request: Request, account: Account, plan: Plan, data: dict[str, Any]) -> Response:
    actor = request_actor(request)
    before = _repeated(request, account)
    if before is not None and before.invoice is not None and before.invoice.subscription_id is not None:
        found = subscriptions_of_account(account).filter(pk=before.invoice.subscription_id).first()
        if found is not None:
            return Response(_begun_body(found, before), status=status.HTTP_201_CREATED)
    way = PayWith(account=account, currency=data.get("currency") or account.currency, data=data)
    begun: Begun = subscription_begin(account=account, plan=plan, actor=actor, in_cash=way.in_cash, **data)
    payment = None
    if begun.to_pay is not None:
        payment = way.pay(invoice=begun.to_pay, purpose=Payment.Purpose.SUBSCRIBE, actor=actor, key=idempotency_key_of(request))
    return Response(_begun_body(begun.subscription, payment), status=status.HTTP_201_CREATED)


def _begun_body(subscription: Subscription, payment: Payment | None) -> dict[str, Any]:
    return {
        "subscription": subscription_body(subscription),
        "payment": payment_body(payment) if payment else None,
        "checkout_url": (payment.checkout_url or None) if payment else None,
        "amount": plain(payment.amount) if payment else plain(ZERO),
        "currency": payment.currency if payment else (subscription.price.currency if subscription.price else None),
    }


class SubscriptionsView(SessionView):
    @extend_schema(
        operation_id="subscriptions_list",
        tags=SUBSCRIPTIONS_TAG,
        parameters=[X_ACCOUNT],
        responses={200: SubscriptionSerializer(many=True), **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """Every subscription the account ever had, newest first."""
        found = subscriptions_of_account(request_account(request)).select_related("next_plan", "coupon")
        return Response([subscription_body(subscription) for subscription in found[:200]])

    @extend_schema(
        operation_id="subscriptions_create",
        tags=SUBSCRIPTIONS_TAG,
        parameters=[X_ACCOUNT],
        request=SubscriptionBeginSerializer,
        responses={201: BegunSerializer, **errors(400, 401, 403, 404, 409, 503)},
    )
    def post(self, request: Request) -> Response:
        """Begin a plan: free ones and trials at once, others when the payment in the answer has succeeded.

        With an `Idempotency-Key` a repetition answers the first payment.
        """
        data = validated(SubscriptionBeginSerializer, request.data)
        account, plan = owned_account(request), plan_named(data.pop("plan"))
        email = data.pop("billing_email", None)
        if email is not None:
            billing_email_set(account=account, email=email, actor=request_actor(request))
        return _begin(request, account, plan, data)


class SubscriptionChangePlanView(SessionView):
    @extend_schema(
        operation_id="subscriptions_change_plan",
        tags=SUBSCRIPTIONS_TAG,
        parameters=[X_ACCOUNT],
        request=ChangePlanSerializer,
        responses={200: PlanChangedSerializer, **errors(400, 401, 403, 404, 409, 503)},
    )
    def post(self, request: Request, subscription_id: str) -> Response:
        """Change the plan: dearer ones now, for the difference, others at the period's end. `preview` only says the price."""
        data = validated(ChangePlanSerializer, request.data)
        subscription = own_subscription(request, subscription_id)
        plan, when, actor = plan_named(data["plan"]), data.get("when", ""), request_actor(request)
        if data["preview"]:
            offer = changes.change_offer(subscription=subscription, plan=plan, when=when)
            return Response({"offer": offer_body(offer), "subscription": subscription_body(subscription), "payment": None})
        currency = subscription.price.currency if subscription.price else subscription.account.currency
        way = PayWith(account=subscription.account, currency=currency, data=data)
        changed = changes.plan_change(subscription=subscription, plan=plan, when=when, actor=actor, in_cash=way.in_cash)
        payment = None
        if changed.to_pay is not None:
            payment = way.pay(
                invoice=changed.to_pay, purpose=Payment.Purpose.CHANGE, actor=actor, key=idempotency_key_of(request)
            )
        return Response(
            {
                "offer": offer_body(changed.offer),
                "subscription": subscription_body(changed.subscription),
                "payment": payment_body(payment) if payment else None,
            }
        )

    @extend_schema(
        operation_id="subscriptions_change_forget",
        tags=SUBSCRIPTIONS_TAG,
        parameters=[X_ACCOUNT],
        request=None,
        responses={200: SubscriptionSerializer, **errors(401, 403, 404, 409)},
    )
    def delete(self, request: Request, subscription_id: str) -> Response:
        """Take back a change that was scheduled for the period's end: the plan stays."""
        subscription = own_subscription(request, subscription_id)
        return Response(subscription_body(changes.change_forget(subscription=subscription, actor=request_actor(request))))


class SubscribeView(SessionView):
    @extend_schema(
        operation_id="payment_subscribe",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=SubscribeSerializer,
        responses={201: BegunSerializer, **errors(400, 401, 403, 404, 409, 503)},
    )
    def post(self, request: Request, plan: str) -> Response:
        """Begin a plan; send the buyer to `checkout_url`, or show the payment's `instructions`."""
        data = validated(SubscribeSerializer, request.data)
        return _begin(request, owned_account(request), plan_named(plan), data)


class TopupView(SessionView):
    @extend_schema(
        operation_id="payment_topup",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=TopupSerializer,
        responses={201: TopupResultSerializer, **errors(400, 401, 403, 404, 409, 503)},
    )
    def post(self, request: Request) -> Response:
        """Buy a pack of credits; they are granted when the payment has succeeded, and never expire."""
        data = validated(TopupSerializer, request.data)
        account, actor = owned_account(request), request_actor(request)
        pack = CreditPack.objects.filter(code=data["pack"], is_public=True).first()
        if pack is None:
            raise ApiError(404, "pack_not_found", "There is no such pack.")
        payment = _repeated(request, account)
        if payment is None:
            currency = data.get("currency") or account.currency
            way = PayWith(account=account, currency=currency, data=data)
            draft = topup_draft(account=account, pack=pack, currency=currency, in_cash=way.in_cash)
            payment = way.pay(invoice=draft, purpose=Payment.Purpose.TOPUP, actor=actor, key=idempotency_key_of(request))
        return Response(
            {
                "payment": payment_body(payment),
                "checkout_url": payment.checkout_url or None,
                "amount": plain(payment.amount),
                "currency": payment.currency,
                "credits": plain(pack.credits),
                "bonus_credits": plain(pack.bonus_credits),
            },
            status=status.HTTP_201_CREATED,
        )


class PaymentStatusView(BillingReadView):
    @extend_schema(
        operation_id="payment_status",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: PaymentStatusSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """What the account is on, whether it is served, until when, and what waits to be paid."""
        account = request_account(request)
        live = subscription_live(account)
        waiting = Payment.objects.filter(account=account, state__in=OPEN, saved_card__isnull=True).order_by("-created_at")[:20]
        served = (Subscription.State.TRIALING, Subscription.State.ACTIVE, Subscription.State.PAST_DUE)
        return Response(
            {
                "tier": live.plan.code if live else None,
                "is_active": live is not None and live.state in served,
                "state": live.state if live else None,
                "subscription_id": str(live.pk) if live else None,
                "current_period_end": instant_text(live.current_period_end) if live and live.current_period_end else None,
                "cancel_at_period_end": bool(live and live.cancel_at_period_end),
                "grace_until": instant_text(live.grace_until) if live and live.grace_until else None,
                "features": live.plan.features if live else [],
                "to_pay": [payment_body(payment) for payment in waiting],
            }
        )


class PaymentCancelView(SessionView):
    @extend_schema(
        operation_id="payment_cancel",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=CancelSerializer,
        responses={200: SubscriptionSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request) -> Response:
        """Cancel the running subscription, at the end of what is paid or now."""
        data = validated(CancelSerializer, request.data)
        live = subscription_live(owned_account(request))
        if live is None:
            raise ApiError(404, "not_found", "There is no such object.")
        canceled = changes.subscription_cancel(subscription=live, actor=request_actor(request), **data)
        return Response(subscription_body(canceled))


class GatewaysView(BillingReadView):
    @extend_schema(
        operation_id="payment_gateways",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: GatewaysSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """How this account may pay in its currency, the preferred way first."""
        account = request_account(request)
        gateways = [
            {
                "gateway": one.slug,
                "method": "",
                "name": one.display_name,
                "instructions": None,
                "currencies": sorted(one.currencies),
                "keeps_cards": isinstance(one, SavedCards),
            }
            for one in gateways_usable(amount=ORDINARY_AMOUNT, currency=account.currency)
        ]
        by_hand = [
            {
                "gateway": MANUAL,
                "method": method.code,
                "name": method.name,
                "instructions": method.instructions,
                "currencies": method.currencies,
                "keeps_cards": False,
            }
            for method in manual_methods(account=account, currency=account.currency)
        ]
        return Response({"currency": account.currency, "results": gateways + by_hand})


class PaymentView(BillingReadView):
    @extend_schema(
        operation_id="payment_retrieve",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: PaymentSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, reference: str) -> Response:
        """How one payment stands."""
        return Response(payment_body(_own_payment(request_account(request), reference)))


class ProofView(SessionView):
    @extend_schema(
        operation_id="payment_proof",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=ProofSerializer,
        responses={201: ProofResultSerializer, **errors(400, 401, 403, 404, 409, 413)},
    )
    def post(self, request: Request, reference: str) -> Response:
        """Send a proof of a payment by hand: PNG, JPEG or PDF, at most 5 MB. The same file again changes nothing."""
        data = validated(ProofSerializer, request.data)
        payment = _own_payment(request_account(request), reference)
        try:
            content = base64.b64decode(data["content"], validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, "invalid_request", "content is not Base64.", param="content") from None
        proof = proof_add(
            payment=payment,
            content=content,
            file_name=data["file_name"],
            actor=request_actor(request),
            customer_reference=data["customer_reference"],
        )
        return Response({"id": str(proof.pk), "sha256": proof.sha256, "size": proof.size}, status=status.HTTP_201_CREATED)


def _own_payment(account: Account, reference: str) -> Payment:
    payment = Payment.objects.filter(account=account, reference=reference).first()
    if payment is None:
        raise ApiError(404, "not_found", "There is no such object.")
    return payment
