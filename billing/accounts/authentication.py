"""DRF's door: `Authorization: Bearer`, then an API key (`iaf_…`) or a session's access token."""

from typing import TYPE_CHECKING, Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

if TYPE_CHECKING:
    from .credentials import KeyUser
    from .models import User


class BearerAuthentication(BaseAuthentication):
    """Sets `request.user` (User or KeyUser), `request.auth` (AccessToken or ApiKey) and `request.account`.

    `X-Account` picks one of a user's accounts; a key has only its own. `request.account` is None for a user without.
    Raises ApiError 401 `invalid_api_key`, `api_key_revoked`, `api_key_expired`, `invalid_token`, `token_expired`,
    `token_revoked`; 403 `account_blocked`, `account_closed`, or what the key's allow lists say; 404 for a foreign `X-Account`.
    """

    def authenticate(self, request: Request) -> "tuple[User | KeyUser, Any] | None":
        """None without a bearer header: then the view's permissions decide."""
        # DRF's view module imports this class while it is itself being imported; what is below needs that module.
        from iafactory.common.client_address import request_client_address

        from .allow_lists import allow_lists
        from .credentials import bearer_authenticate
        from .models import ApiKey

        credential = self.credential_of(request)
        if credential is None:
            return None
        credentials = bearer_authenticate(credential, request.META.get("HTTP_X_ACCOUNT", "").strip() or None)
        if isinstance(credentials.auth, ApiKey):
            key = credentials.auth
            refusal = allow_lists(key.allowed_networks, key.allowed_endpoints, key.allowed_origins).refusal(
                address=request_client_address(request.META),
                endpoint=request.path.rstrip("/"),
                origin=request.META.get("HTTP_ORIGIN", ""),
            )
            if refusal is not None:
                raise refusal
        request.account = credentials.account
        return credentials.user, credentials.auth

    def credential_of(self, request: Request) -> str | None:
        """What the request shows, None when it shows nothing."""
        scheme, _, credential = request.META.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
        return credential.strip() if scheme.lower() == "bearer" else None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class OperatorAuthentication(BearerAuthentication):
    """For operators' addresses: what stands behind `Bearer`, else in `X-Admin-Key`, else in `X-Admin-Secret`.

    Secrets are looked up by their SHA-256: how long that takes says nothing about a secret.
    """

    def credential_of(self, request: Request) -> str | None:
        bearer = super().credential_of(request)
        if bearer is not None:
            return bearer
        for header in ("HTTP_X_ADMIN_KEY", "HTTP_X_ADMIN_SECRET"):
            if secret := request.META.get(header, "").strip():
                return str(secret)
        return None
