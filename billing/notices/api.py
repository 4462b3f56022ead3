"""`/api/billing/notices`: from when on an account's credits count as low."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.accounts.serializers import KeyCreditsField, StrictIntegerField
from iafactory.common.errors import ApiError

from .models import CreditNotice
from .services import credit_notice_set


class CreditNoticeSerializer(serializers.Serializer):
    low_percent = serializers.IntegerField(help_text="Low at this share of what the lots in use began with; 0: never low.")
    low_credits = KeyCreditsField(allow_null=True, help_text="Low at this many credits instead; null: the share counts.")
    level = serializers.ChoiceField(choices=CreditNotice.Level.choices, allow_null=True, help_text="null: not looked at yet.")


class CreditNoticeChangeSerializer(serializers.Serializer):
    low_percent = StrictIntegerField(min_value=0, max_value=99, required=False)
    low_credits = KeyCreditsField(required=False, allow_null=True)


class CreditNoticeView(SessionView):
    @extend_schema(
        operation_id="billing_notices",
        tags=["billing"],
        parameters=[X_ACCOUNT],
        responses={200: CreditNoticeSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """When `credits.low` is told, and where the balance stands."""
        account = request_account(request)
        notice = CreditNotice.objects.filter(account=account).first() or CreditNotice(account=account)
        return Response(CreditNoticeSerializer(notice).data)

    @extend_schema(
        operation_id="billing_notices_change",
        tags=["billing"],
        parameters=[X_ACCOUNT],
        request=CreditNoticeChangeSerializer,
        responses={200: CreditNoticeSerializer, **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request) -> Response:
        """Set the share, or a fixed number of credits; what is left out stays."""
        data = validated(CreditNoticeChangeSerializer, request.data)
        if not data:
            raise ApiError(400, "invalid_request", "Name low_percent or low_credits.", param="low_percent")
        account = request_account(request)
        stands = CreditNotice.objects.filter(account=account).first() or CreditNotice(account=account)
        notice = credit_notice_set(
            account=account,
            low_percent=data.get("low_percent", stands.low_percent),
            low_credits=data.get("low_credits", stands.low_credits),
            actor=request_actor(request),
        )
        return Response(CreditNoticeSerializer(notice).data)
