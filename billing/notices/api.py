"""`/api/billing/notices`: from when on credits count as low, and what an account wants to be mailed."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.accounts.models import Account
from billing.accounts.serializers import KeyCreditsField, StrictBooleanField, StrictIntegerField
from iafactory.common.errors import ApiError

from .mails import TERMS, UNCHANGED, mailed_usually, preference_set, wishes_of
from .models import CreditNotice, NoticeKind
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


class NoticePreferenceSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(choices=NoticeKind.choices)
    mail = serializers.BooleanField(help_text="Whether it is mailed; events for webhooks are told in any case.")
    threshold = serializers.IntegerField(allow_null=True, help_text="From when on it is told; null: the kind has none here.")
    unit = serializers.CharField(help_text="percent or days; empty where there is no threshold.")


class NoticePreferenceChangeSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(choices=NoticeKind.choices)
    mail = StrictBooleanField(required=False, allow_null=True, help_text="null: as usual.")
    threshold = StrictIntegerField(required=False, allow_null=True, help_text="null: as usual.")


class NoticePreferencesView(SessionView):
    @extend_schema(
        operation_id="billing_notice_preferences",
        tags=["billing"],
        parameters=[X_ACCOUNT],
        responses={200: NoticePreferenceSerializer(many=True), **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """What the account is mailed, one entry for each kind of notice."""
        return Response(_preferences(request_account(request)))

    @extend_schema(
        operation_id="billing_notice_preferences_change",
        tags=["billing"],
        parameters=[X_ACCOUNT],
        request=NoticePreferenceChangeSerializer,
        responses={200: NoticePreferenceSerializer(many=True), **errors(400, 401, 403, 404)},
    )
    def patch(self, request: Request) -> Response:
        """Switch the mails of one kind on or off, or set its threshold; what is left out stays."""
        data = validated(NoticePreferenceChangeSerializer, request.data)
        account = request_account(request)
        preference_set(
            account=account,
            kind=data["kind"],
            mail=data.get("mail", UNCHANGED),
            threshold=data.get("threshold", UNCHANGED),
            actor=request_actor(request),
        )
        return Response(_preferences(account))


def _preferences(account: Account) -> list[dict[str, Any]]:
    return [
        {
            "kind": wish.kind,
            "mail": mailed_usually(account.pk, wish.kind) if wish.mail is None else wish.mail,
            "threshold": wish.threshold,
            "unit": TERMS[wish.kind].unit,
        }
        for wish in wishes_of(account)
    ]
