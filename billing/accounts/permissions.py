"""Who may call what. Without credentials every class answers 401, with the wrong ones 403."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework_simplejwt.tokens import AccessToken

from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .credentials import operator_of
from .models import ApiKey


class HasScope(BasePermission):
    """`permission_classes = [HasScope("billing:read")]`: a key with that scope.

    A user's session passes for what customers may give to their keys. 403 `insufficient_scope` otherwise.
    """

    def __init__(self, scope: str) -> None:
        self.scope = ApiKey.Scope(scope).value

    def __call__(self) -> "HasScope":
        """DRF instantiates permission classes; this one is ready."""
        return self

    def has_permission(self, request: Request, view: Any) -> bool:
        scopes: Any = ()
        match request.auth:
            case ApiKey():
                scopes = request.auth.scopes
            case AccessToken():
                scopes = ApiKey.CUSTOMER_SCOPES
            case _:
                return False
        if self.scope not in scopes:
            raise ApiError(403, "insufficient_scope", Text("This needs an API key with the scope %(scope)s.", scope=self.scope))
        return True


class IsUserSession(BasePermission):
    """A person who logged in. API keys may not manage keys or users: 403 `user_session_required`."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if isinstance(request.auth, ApiKey):
            raise ApiError(403, "user_session_required", "An API key cannot do this; log in and use the access token.")
        return isinstance(request.auth, AccessToken)


class MayOperate(BasePermission):
    """An operator with the right, or all rights, that the view's `operator_permission` names, by session or by a key with the
    scope `admin`.

    Otherwise 403 `insufficient_scope` (a key without it) or `permission_denied`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if isinstance(request.auth, ApiKey):
            if ApiKey.Scope.ADMIN not in request.auth.scopes:
                raise ApiError(403, "insufficient_scope", "This needs an operator's API key, with the scope admin.")
        elif not isinstance(request.auth, AccessToken):
            return False
        user = operator_of(request)
        wanted = view.operator_permission
        rights = (wanted,) if isinstance(wanted, str) else wanted
        if user is None or not user.has_perms(rights):
            raise ApiError(
                403,
                "permission_denied",
                Text("Only operators with the right %(rights)s may do this.", rights=rights[0])
                if len(rights) == 1
                else Text("Only operators with the rights %(rights)s may do this.", rights=", ".join(rights)),
            )
        return True
