"""`/api/auth/*` and `/api/keys*`: sessions, links from mails, and the keys of an account."""

from datetime import timedelta
from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from iafactory.common import clock
from iafactory.common.errors import ApiError

from . import selectors, services, throttles
from .credentials import request_account, request_actor
from .models import Account, ApiKey, Membership, User
from .permissions import IsUserSession
from .preferences import user_change
from .serializers import (
    AcceptedSerializer,
    ApiKeyChangeSerializer,
    ApiKeyCreateSerializer,
    ApiKeyQuerySerializer,
    ApiKeyRotateSerializer,
    ApiKeySerializer,
    ApiKeyWithSecretSerializer,
    EmailSerializer,
    ErrorSerializer,
    LeakedKeySerializer,
    LinkTokenSerializer,
    LoginResultSerializer,
    LoginSerializer,
    MeSerializer,
    PasswordResetSerializer,
    RefreshSerializer,
    TokensSerializer,
    UserChangeSerializer,
    UserSerializer,
    VerifiedSerializer,
    api_key_body,
    session_body,
    tokens_body,
)

X_ACCOUNT = OpenApiParameter(
    "X-Account", str, OpenApiParameter.HEADER, description="The account to act for; by default the personal one."
)
_SerializerType = TypeVar("_SerializerType", bound=Serializer)


def errors(*codes: int) -> dict[int, type[Serializer]]:
    """For `@extend_schema(responses=...)`: these statuses answer the error shape."""
    return dict.fromkeys(codes, ErrorSerializer)


def validated(serializer: type[_SerializerType], data: Any) -> dict[str, Any]:
    """`data` through `serializer`; 400 `invalid_request` with the field's name otherwise."""
    bound = serializer(data=data)
    bound.is_valid(raise_exception=True)
    checked: dict[str, Any] = bound.validated_data
    return checked


class AccountsView(APIView):
    """JSON in, JSON out; answers carry secrets, so that nothing on the way may keep them."""

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response


class OpenView(AccountsView):
    """For those who have no credentials; stale ones sent along do no harm."""

    authentication_classes: list[Any] = []
    permission_classes = [AllowAny]


class SessionView(AccountsView):
    """For a person who logged in."""

    permission_classes = [IsUserSession]


class LoginView(OpenView):
    @extend_schema(
        operation_id="auth_login",
        tags=["auth"],
        request=LoginSerializer,
        responses={200: LoginResultSerializer, **errors(400, 401, 403, 429)},
    )
    def post(self, request: Request) -> Response:
        """Log in. `invalid_credentials` says no more; after many failures `too_many_attempts` and `Retry-After`."""
        data = validated(LoginSerializer, request.data)
        user, tokens = services.session_open(**data, address=throttles.client_house(request))
        return Response(session_body(user, tokens))


class RefreshView(OpenView):
    @extend_schema(
        operation_id="auth_refresh",
        tags=["auth"],
        request=RefreshSerializer,
        responses={200: TokensSerializer, **errors(400, 401)},
    )
    def post(self, request: Request) -> Response:
        """Exchange the refresh token, once, for new tokens. One that was used is `token_revoked`."""
        data = validated(RefreshSerializer, request.data)
        return Response(tokens_body(services.session_refresh(**data)))


class LogoutView(OpenView):
    @extend_schema(
        operation_id="auth_logout",
        tags=["auth"],
        request=RefreshSerializer,
        responses={204: None, **errors(400, 401)},
    )
    def post(self, request: Request) -> Response:
        """Revoke the refresh token; again is the same."""
        services.session_close(**validated(RefreshSerializer, request.data))
        return Response(status=status.HTTP_204_NO_CONTENT)


class MeView(SessionView):
    @extend_schema(
        operation_id="auth_me", tags=["auth"], parameters=[X_ACCOUNT], responses={200: MeSerializer, **errors(401, 403, 404)}
    )
    def get(self, request: Request) -> Response:
        """Who is logged in, and for which accounts they may act."""
        me = {
            "user": request.user,
            "account": request.account,
            "accounts": selectors.memberships_of_user(request.user),
        }
        return Response(MeSerializer(me).data)

    @extend_schema(
        operation_id="auth_me_change",
        tags=["auth"],
        request=UserChangeSerializer,
        responses={200: UserSerializer, **errors(400, 401, 403)},
    )
    def patch(self, request: Request) -> Response:
        """Change one's own name, or the language of mails and pages."""
        data = validated(UserChangeSerializer, request.data)
        return Response(UserSerializer(user_change(user=request.user, actor=request_actor(request), **data)).data)


class VerifyEmailView(OpenView):
    @extend_schema(
        operation_id="auth_verify_email",
        tags=["auth"],
        request=LinkTokenSerializer,
        responses={200: VerifiedSerializer, **errors(400)},
    )
    def post(self, request: Request) -> Response:
        """Verify an e-mail address with the token of the mailed link; again is the same."""
        user = services.email_verify(**validated(LinkTokenSerializer, request.data))
        return Response({"email": user.email, "email_verified": True})


class VerifyEmailResendView(SessionView):
    @extend_schema(
        operation_id="auth_verify_email_resend",
        tags=["auth"],
        request=None,
        responses={202: AcceptedSerializer, **errors(401, 403, 429)},
    )
    def post(self, request: Request) -> Response:
        """Mail the verification link again; nothing is sent to an address that is verified."""
        if request.user.email_verified_at is None:
            if house := throttles.client_house(request):
                throttles.VERIFICATION_PER_ADDRESS.attempt(house)
            throttles.VERIFICATION_PER_USER.attempt(str(request.user.pk))
            services.email_verification_request(user=request.user)
        return Response({"accepted": True}, status=status.HTTP_202_ACCEPTED)


class PasswordResetView(OpenView):
    @extend_schema(
        operation_id="auth_password_reset",
        tags=["auth"],
        request=EmailSerializer,
        responses={202: AcceptedSerializer, **errors(400, 429)},
    )
    def post(self, request: Request) -> Response:
        """Mail a link to set a new password. The answer is the same whether the address is known or not."""
        data = validated(EmailSerializer, request.data)
        services.password_reset_request(**data, address=throttles.client_house(request))
        return Response({"accepted": True}, status=status.HTTP_202_ACCEPTED)


class PasswordResetConfirmView(OpenView):
    @extend_schema(
        operation_id="auth_password_reset_confirm",
        tags=["auth"],
        request=PasswordResetSerializer,
        responses={204: None, **errors(400, 429)},
    )
    def post(self, request: Request) -> Response:
        """Set a new password with the token of the mailed link, once. Every session of the user ends."""
        data = validated(PasswordResetSerializer, request.data)
        services.password_reset(token=data["token"], new_password=data["password"], address=throttles.client_house(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class KeysView(SessionView, GenericAPIView):
    serializer_class = ApiKeySerializer
    queryset = ApiKey.objects.none()

    @extend_schema(
        operation_id="keys_list",
        tags=["keys"],
        parameters=[X_ACCOUNT, ApiKeyQuerySerializer],
        responses={200: ApiKeySerializer(many=True), **errors(400, 401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """The account's keys, newest first, never their secrets."""
        query = validated(ApiKeyQuerySerializer, request.query_params)
        keys = selectors.api_keys_of_account(account=request_account(request), state=query.get("state"), at=clock.now())
        return self.get_paginated_response(ApiKeySerializer(self.paginate_queryset(keys), many=True).data)

    @extend_schema(
        operation_id="keys_create",
        tags=["keys"],
        parameters=[X_ACCOUNT],
        request=ApiKeyCreateSerializer,
        responses={201: ApiKeyWithSecretSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request) -> Response:
        """Create a key, with limits and allow lists of its own if wanted. Its `secret` is in this answer and nowhere else."""
        key, secret = services.api_key_create(
            **validated(ApiKeyCreateSerializer, request.data),
            account=request_account(request),
            created_by=request.user,
            actor=request_actor(request),
        )
        return Response(api_key_body(key, secret), status=status.HTTP_201_CREATED)


class KeyView(SessionView):
    @extend_schema(
        operation_id="keys_retrieve",
        tags=["keys"],
        parameters=[X_ACCOUNT],
        responses={200: ApiKeySerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, key_id: str) -> Response:
        """One key of the account, without its secret."""
        key = selectors.api_key_of_account(account=request_account(request), key_id=key_id)
        return Response(ApiKeySerializer(key).data)

    @extend_schema(
        operation_id="keys_change",
        tags=["keys"],
        parameters=[X_ACCOUNT],
        request=ApiKeyChangeSerializer,
        responses={200: ApiKeySerializer, **errors(400, 401, 403, 404, 409)},
    )
    def patch(self, request: Request, key_id: str) -> Response:
        """Rename a key, set its limits and allow lists, or end it earlier; in force within a second.

        What is left out stays. null clears a limit and [] a list. An expiry is never put off: a longer life takes a new key.
        """
        key = services.api_key_change(
            **validated(ApiKeyChangeSerializer, request.data),
            key=_manageable_key(request, key_id),
            actor=request_actor(request),
        )
        return Response(ApiKeySerializer(key).data)

    @extend_schema(
        operation_id="keys_revoke",
        tags=["keys"],
        parameters=[X_ACCOUNT],
        responses={204: None, **errors(401, 403, 404)},
    )
    def delete(self, request: Request, key_id: str) -> Response:
        """Revoke a key at once and for good; again is the same."""
        services.api_key_revoke(key=_manageable_key(request, key_id), actor=request_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class KeyRotateView(SessionView):
    @extend_schema(
        operation_id="keys_rotate",
        tags=["keys"],
        parameters=[X_ACCOUNT],
        request=ApiKeyRotateSerializer,
        responses={201: ApiKeyWithSecretSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, key_id: str) -> Response:
        """Replace a key. The new `secret` is in this answer only; the old key works for `grace_seconds` more."""
        data = validated(ApiKeyRotateSerializer, request.data)
        key, secret = services.api_key_rotate(
            key=_manageable_key(request, key_id),
            grace=timedelta(seconds=data["grace_seconds"]),
            actor=request_actor(request),
        )
        return Response(api_key_body(key, secret), status=status.HTTP_201_CREATED)


class LeakedKeyView(OpenView):
    @extend_schema(
        operation_id="keys_leaked",
        tags=["keys"],
        request=LeakedKeySerializer,
        responses={202: AcceptedSerializer, **errors(400, 429)},
    )
    def post(self, request: Request) -> Response:
        """Report a secret that was found in public. A key of ours is revoked at once and its owner told by mail.

        The answer is the same whether it was one or not.
        """
        data = validated(LeakedKeySerializer, request.data)
        if house := throttles.client_house(request):
            throttles.LEAKED_KEY_PER_ADDRESS.attempt(house)
        services.api_key_leaked(secret=data["secret"])
        return Response({"accepted": True}, status=status.HTTP_202_ACCEPTED)


def _manageable_key(request: Request, key_id: str) -> ApiKey:
    """A key of the account that this user may change: an owner any, a member their own (403 `owner_required`)."""
    account: Account = request_account(request)
    key = selectors.api_key_of_account(account=account, key_id=key_id)
    user: User = request.user
    if key.created_by_id != user.pk and selectors.membership_role(account=account, user=user) != Membership.Role.OWNER:
        raise ApiError(403, "owner_required", "Only an owner of the account may change other people's keys.")
    return key
