"""`/api/admin/users/*`: who behaves strangely, and banning, for operators' own tools."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import AccountsView, errors, validated
from billing.accounts.authentication import OperatorAuthentication
from billing.accounts.credentials import request_operator
from billing.accounts.models import Account
from billing.accounts.permissions import MayOperate
from billing.accounts.selectors import uuid_or_404
from billing.accounts.serializers import StrictCharField
from iafactory.common import clock
from iafactory.common.errors import ApiError
from ratelimit.models import AbuseSignal

from . import selectors, services


class SignalSerializer(serializers.ModelSerializer):
    class Meta:
        model = AbuseSignal
        fields = ["id", "subject", "signal", "evidence", "first_seen_at", "last_seen_at", "until"]


class AbusiveUserSerializer(serializers.Serializer):
    id = serializers.UUIDField(help_text="The account.")
    user_id = serializers.UUIDField(allow_null=True, help_text="Whose personal account it is.")
    email = serializers.CharField(help_text="The user's, or the account's billing address.")
    name = serializers.CharField()
    status = serializers.ChoiceField(choices=Account.Status.choices)
    blocked_until = serializers.DateTimeField(allow_null=True)
    messages_today = serializers.IntegerField(help_text="Since midnight in the account's time zone.")
    messages_limit = serializers.IntegerField(allow_null=True, help_text="How many are not too many; null: any number.")
    signals = SignalSerializer(many=True)


class BanSerializer(serializers.Serializer):
    reason = StrictCharField(max_length=200)
    until = serializers.DateTimeField(required=False, allow_null=True, default=None, help_text="Absent: until an unban.")


class UnbanSerializer(serializers.Serializer):
    reason = StrictCharField(max_length=200)


class BannedSerializer(serializers.Serializer):
    id = serializers.UUIDField(help_text="The account.")
    status = serializers.ChoiceField(choices=Account.Status.choices)
    reason = serializers.CharField(help_text="Why it is blocked.")
    blocked_until = serializers.DateTimeField(allow_null=True)


def _status_body(account: Account) -> dict[str, Any]:
    told = {
        "id": account.pk,
        "status": account.status,
        "reason": account.status_reason,
        "blocked_until": account.blocked_until,
    }
    return dict(BannedSerializer(told).data)


def _account(user_id: str) -> Account:
    account = selectors.account_of_user_or_account(uuid_or_404(user_id))
    if account is None:
        raise ApiError(404, "not_found", "There is no such user or account.")
    return account


class AbusiveUsersView(AccountsView, GenericAPIView):
    authentication_classes = [OperatorAuthentication]
    permission_classes = [MayOperate]
    operator_permission = "ratelimit.view_abusesignal"
    serializer_class = AbusiveUserSerializer
    queryset = Account.objects.none()

    @extend_schema(
        operation_id="admin_users_abusive",
        tags=["operators"],
        responses={200: AbusiveUserSerializer(many=True), **errors(401, 403)},
    )
    def get(self, request: Request) -> Response:
        """Accounts with open abuse signals, those of their keys included; the latest seen first. For operators."""
        page = self.paginate_queryset(list(selectors.open_signals_by_account().items()))
        described = selectors.abusive_users(page, now=clock.now())
        return self.get_paginated_response(AbusiveUserSerializer(described, many=True).data)


class BanView(AccountsView):
    authentication_classes = [OperatorAuthentication]
    permission_classes = [MayOperate]
    operator_permission = "billing.change_account"

    @extend_schema(
        operation_id="admin_users_ban",
        tags=["operators"],
        request=BanSerializer,
        responses={200: BannedSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, user_id: str) -> Response:
        """Block an account, named by its id or its user's, until an instant or for good; again is the same. For operators."""
        data = validated(BanSerializer, request.data)
        account = services.account_ban(account=_account(user_id), actor=request_operator(request), **data)
        return Response(_status_body(account), status=status.HTTP_200_OK)


class UnbanView(AccountsView):
    authentication_classes = [OperatorAuthentication]
    permission_classes = [MayOperate]
    operator_permission = "billing.change_account"

    @extend_schema(
        operation_id="admin_users_unban",
        tags=["operators"],
        request=UnbanSerializer,
        responses={200: BannedSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, user_id: str) -> Response:
        """Let a blocked account work again, named by its id or its user's; again is the same. For operators."""
        data = validated(UnbanSerializer, request.data)
        account = services.account_unban(account=_account(user_id), actor=request_operator(request), **data)
        return Response(_status_body(account), status=status.HTTP_200_OK)
