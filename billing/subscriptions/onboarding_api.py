"""`POST /api/auth/register`. It lives above accounts because a customer begins with a wallet and a plan."""

from django.utils.translation import get_language
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts import throttles
from billing.accounts.api import OpenView, SessionView, errors, validated
from billing.accounts.credentials import request_actor
from billing.accounts.models import email_normalise
from billing.accounts.serializers import (
    AccountSerializer,
    RegisterResultSerializer,
    RegisterSerializer,
    StrictCharField,
    session_body,
)
from billing.accounts.services import session_begin
from iafactory.common.client_address import request_client_address

from .onboarding import customer_register, team_register


class RegisterView(OpenView):
    @extend_schema(
        operation_id="auth_register",
        tags=["auth"],
        request=RegisterSerializer,
        responses={201: RegisterResultSerializer, **errors(400, 409, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Open an account: a user, their personal account, a wallet and the free plan. Answers a session.

        One address may open a few accounts an hour; then `too_many_attempts` and `Retry-After`.
        """
        data = {"language": get_language() or "en"} | validated(RegisterSerializer, request.data)
        house = throttles.client_house(request)
        if house:
            throttles.REGISTRATION_TRIES_PER_ADDRESS.attempt(house)
        throttles.REGISTRATION_TRIES_PER_EMAIL.attempt(email_normalise(data["email"]))
        if house:
            throttles.REGISTRATION_PER_ADDRESS.attempt(house)
        try:
            registration = customer_register(**data, registered_from=request_client_address(request.META))
        except BaseException:
            # Only accounts that were opened count.
            if house:
                throttles.REGISTRATION_PER_ADDRESS.give_back(house)
            raise
        body = session_body(registration.user, session_begin(user=registration.user))
        body["account"] = AccountSerializer(registration.account).data
        return Response(body, status=status.HTTP_201_CREATED)


class TeamSerializer(serializers.Serializer):
    name = StrictCharField(max_length=150)


class TeamsView(SessionView):
    @extend_schema(
        operation_id="accounts_create",
        tags=["accounts"],
        request=TeamSerializer,
        responses={201: AccountSerializer, **errors(400, 401, 403, 409, 503)},
    )
    def post(self, request: Request) -> Response:
        """Open an account for several people, with the free plan and a wallet of its own; who asks owns it."""
        data = validated(TeamSerializer, request.data)
        account = team_register(user=request.user, actor=request_actor(request), **data)
        return Response(AccountSerializer(account).data, status=status.HTTP_201_CREATED)
