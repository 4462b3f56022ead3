"""`/api/payment/methods`, `/api/payment/auto-renewal`: the cards that a customer let us keep, and whether renewals use them."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.accounts.models import Account
from billing.ledger.serializers import instant_text
from billing.ledger.usage_api import BillingReadView
from billing.subscriptions.api import owned_account
from iafactory.common import clock

from .auto_renewal import (
    agreement_read,
    auto_renewal_agree,
    auto_renewal_withdraw,
    card_of_account,
    card_remove,
    cards_of_account,
    consent_in_force,
)
from .models import SavedCard
from .serializers import AutoRenewalSwitchSerializer, PaymentMethodsSerializer
from .wording import CONSENT_VERSION, consent_text

TAG = ["payment"]
_LANGUAGE = OpenApiParameter("language", str, enum=["en", "fr", "ar"], description="Of the text; by default the account's.")


class PaymentMethodsView(BillingReadView):
    @extend_schema(
        operation_id="payment_methods",
        tags=TAG,
        parameters=[X_ACCOUNT, _LANGUAGE],
        responses={200: PaymentMethodsSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """Saved cards, whether renewals are charged to one, and the text that a customer agrees to before they are."""
        return Response(_methods(request_account(request), str(request.query_params.get("language", ""))))


class PaymentMethodView(SessionView):
    @extend_schema(
        operation_id="payment_method_remove",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={204: None, **errors(401, 403, 404)},
    )
    def delete(self, request: Request, card_id: str) -> Response:
        """Take a card back: it is never charged again, renewals with it end, and its gateway is told to forget it."""
        card = card_of_account(account=owned_account(request), card_id=card_id)
        card_remove(card=card, actor=request_actor(request), reason="Removed by its owner")
        return Response(status=status.HTTP_204_NO_CONTENT)


class AutoRenewalView(SessionView):
    @extend_schema(
        operation_id="payment_auto_renewal",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=AutoRenewalSwitchSerializer,
        responses={200: PaymentMethodsSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def put(self, request: Request) -> Response:
        """Have renewals charged to a saved card, or not any more. Switching on names the version of the text agreed to."""
        data = validated(AutoRenewalSwitchSerializer, request.data)
        account, actor = owned_account(request), request_actor(request)
        if data["enabled"]:
            card = card_of_account(account=account, card_id=data["card"]) if "card" in data else None
            language = data.get("language") or account.language
            agreement = agreement_read(wording_version=data["wording"], language=language, param="wording")
            auto_renewal_agree(account=account, agreement=agreement, actor=actor, card=card)
        else:
            auto_renewal_withdraw(account=account, actor=actor)
        return Response(_methods(account, data.get("language", "")))


def _methods(account: Account, language: str) -> dict[str, Any]:
    consent = consent_in_force(account)
    spoken, text = consent_text(language or account.language)
    return {
        "cards": [_card(card) for card in cards_of_account(account)],
        "auto_renewal": {
            "enabled": consent is not None,
            "card": str(consent.card_id) if consent else None,
            "agreed_at": instant_text(consent.agreed_at) if consent else None,
            "wording": consent.wording_version if consent else None,
        },
        "consent": {"version": CONSENT_VERSION, "language": spoken, "text": text},
    }


def _card(card: SavedCard) -> dict[str, Any]:
    return {
        "id": str(card.pk),
        "gateway": card.gateway,
        "brand": card.brand,
        "last4": card.last4,
        "exp_month": card.exp_month,
        "exp_year": card.exp_year,
        "expired": card.expired_at(clock.now()),
        "saved_at": instant_text(card.saved_at),
    }
