"""What credentials are worth: keys and access tokens checked, and what a request they opened may act for."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.request import Request
from rest_framework_simplejwt.exceptions import ExpiredTokenError, TokenError
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import AccessToken

from billing.events.models import Event
from billing.events.services import Actor
from iafactory.common import clock
from iafactory.common.errors import ApiError

from . import selectors, services
from .models import Account, ApiKey, User
from .second_factor import second_factor_proven
from .tokens import SECOND_FACTOR_CLAIM, password_mark


class KeyUser(AnonymousUser):
    """`request.user` of a call with an API key: authenticated, but nobody.

    A key acts for its account with its scopes; who made it lends it no right of theirs.
    """

    @property
    def is_authenticated(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_anonymous(self) -> bool:  # type: ignore[override]
        return False

    def __str__(self) -> str:
        return "API key"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who calls, with what, for which account (None: a user without any)."""

    user: User | KeyUser
    auth: ApiKey | AccessToken
    account: Account | None


def bearer_authenticate(credential: str, wanted_account: str | None) -> Credentials:
    """Check what stands behind `Bearer`; `wanted_account` is `X-Account`. Refuses as `BearerAuthentication` says."""
    # A JWT has three parts; everything else is meant as a key, ours or another company's.
    if credential.count(".") == 2:
        token = _access_token(credential)
        user = _session_user(token)
        return Credentials(user, token, selectors.account_for_user(user=user, account_id=wanted_account))
    key = api_key_authenticate(credential)
    if wanted_account is not None and selectors.uuid_or_404(wanted_account) != key.account_id:
        raise ApiError(404, "not_found", "There is no such object.")
    return Credentials(KeyUser(), key, key.account)


def api_key_authenticate(secret: str) -> ApiKey:
    """The usable key with this secret, noted as used. Refuses as `BearerAuthentication` says."""
    key = selectors.api_key_by_secret(secret)
    if key is None:
        raise ApiError(401, "invalid_api_key", "The API key is wrong.")
    if key.revoked_at is not None:
        raise ApiError(401, "api_key_revoked", "The API key is revoked.")
    now = clock.now()
    if not key.usable_at(now):
        raise ApiError(401, "api_key_expired", "The API key has expired.")
    if not selectors.account_usable_at(key.account, now):
        raise services.account_refusal(key.account)
    services.api_key_used(key=key, at=now)
    return key


def _access_token(text: str) -> AccessToken:
    try:
        return AccessToken(text)  # type: ignore[arg-type]
    except ExpiredTokenError:
        raise ApiError(401, "token_expired", "The access token has expired. Refresh it.") from None
    except TokenError:
        raise ApiError(401, "invalid_token", "The access token is wrong.") from None


def _session_user(token: AccessToken) -> User:
    try:
        user_id = UUID(token.get(api_settings.USER_ID_CLAIM, ""))
    except (ValueError, TypeError, AttributeError):
        raise ApiError(401, "invalid_token", "The access token is wrong.") from None
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or token.get(api_settings.REVOKE_TOKEN_CLAIM) != password_mark(user):
        raise ApiError(401, "token_revoked", "The session has ended. Log in again.")
    return user


def request_account(request: Request) -> Account:
    """The account a request acts for; ApiError 404 `not_found` for a user (say, an operator) who has none."""
    account: Account | None = getattr(request, "account", None)
    if account is None:
        raise ApiError(404, "not_found", "You have no account.")
    return account


def request_actor(request: Request) -> Actor:
    """The actor of events that this request causes."""
    if isinstance(request.auth, ApiKey):
        return Actor(Event.ActorKind.SERVICE, id=request.auth.pk, label=str(request.auth))
    return services.user_actor(request.user)


def operator_of(request: Request) -> User | None:
    """The operator behind a request, by session or by a key with the scope `admin`; None where there is none.

    ApiError 403 `two_factor_required` for a session without the second factor that the operator needs.

    Such a key stands for the operator whose personal account it belongs to, as long as they are one: it may do what they may.
    """
    if isinstance(request.auth, ApiKey):
        user = services.operator_key_owner(request.auth.account) if ApiKey.Scope.ADMIN in request.auth.scopes else None
    else:
        user = request.user if isinstance(request.user, User) else None
    if user is None or not (user.is_active and user.is_staff):
        return None
    if not isinstance(request.auth, ApiKey) and not second_factor_proven(user, request.auth.get(SECOND_FACTOR_CLAIM, "")):
        raise ApiError(403, "two_factor_required", "Log in again, with the code of your second factor.")
    return user


def request_operator(request: Request) -> Actor:
    """The actor of events that an operator's request causes; `operator_of` must have found them."""
    user = operator_of(request)
    assert user is not None
    label = f"{user.email} ({request.auth})" if isinstance(request.auth, ApiKey) else user.email
    return Actor(Event.ActorKind.OPERATOR, id=user.pk, label=label[:254])


class BearerScheme(OpenApiAuthenticationExtension):
    """How the API's description names `BearerAuthentication`."""

    target_class = "billing.accounts.authentication.BearerAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key (`iaf_…`) or an access token."}


class OperatorScheme(OpenApiAuthenticationExtension):
    """How the API's description names `OperatorAuthentication`: any one of its headers."""

    target_class = "billing.accounts.authentication.OperatorAuthentication"
    name = ["OperatorToken", "AdminKey", "AdminSecret"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[Any]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        told = "An operator's API key, with the scope `admin`."
        return [
            {
                "type": "http",
                "scheme": "bearer",
                "description": "An operator's access token, or API key with the scope `admin`.",
            },
            {"type": "apiKey", "in": "header", "name": "X-Admin-Key", "description": told},
            {"type": "apiKey", "in": "header", "name": "X-Admin-Secret", "description": told},
        ]
