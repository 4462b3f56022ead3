"""The panel is a client of the product's own API: whatever a page does or shows of an account goes through the view that
programs call, in this process. So there is one set of rules, of checks and of refusals, and what a page may do a program may.
"""

from collections.abc import Callable
from copy import copy
from io import BytesIO
from typing import Any

from django.http import HttpRequest, HttpResponseBase, QueryDict
from django.urls import resolve, reverse
from rest_framework.response import Response

from billing.accounts.models import User
from billing.accounts.tokens import access_token
from iafactory.common.errors import ApiError
from iafactory.common.rendering import encode_json

# What of a browser's request the API may want to know: from where it comes and how it reached us.
_PASSED_ON = (
    *("REMOTE_ADDR", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_USER_AGENT", "HTTP_HOST"),
    *("SERVER_NAME", "SERVER_PORT"),
)


class ApiClient:
    """Calls API views by the names of their addresses, as `user` (None: nobody) and for `account_id`.

    Answers the data of a JSON answer, or the response itself where it is a file. Refusals are raised as the `ApiError` that a
    program would read, with the same status and code. `check` may refuse a call by its method and the name of its address.
    """

    def __init__(
        self,
        request: HttpRequest,
        *,
        user: User | None,
        account_id: Any = None,
        check: Callable[[str, str], None] | None = None,
    ) -> None:
        self._check = check
        self._meta = {name: request.META[name] for name in _PASSED_ON if name in request.META}
        self._request = request
        if user is not None:
            self._meta["HTTP_AUTHORIZATION"] = f"Bearer {access_token(user)}"
        if account_id is not None:
            self._meta["HTTP_X_ACCOUNT"] = str(account_id)

    def get(self, name: str, *args: Any, accept: str = "application/json", **query: Any) -> Any:
        return self._call("GET", name, args, query=query, accept=accept)

    def post(self, name: str, *args: Any, data: dict[str, Any] | None = None, idempotency_key: str = "") -> Any:
        return self._call("POST", name, args, data=data or {}, idempotency_key=idempotency_key)

    def patch(self, name: str, *args: Any, data: dict[str, Any]) -> Any:
        return self._call("PATCH", name, args, data=data)

    def put(self, name: str, *args: Any, data: dict[str, Any]) -> Any:
        return self._call("PUT", name, args, data=data)

    def delete(self, name: str, *args: Any) -> Any:
        return self._call("DELETE", name, args)

    def _call(
        self,
        method: str,
        name: str,
        args: tuple[Any, ...],
        *,
        query: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        accept: str = "application/json",
        idempotency_key: str = "",
    ) -> Any:
        if self._check is not None:
            self._check(method, name)
        path = reverse(name, args=args)
        body = b"" if data is None else encode_json(data)
        # A copy is of the server's own kind, which files that are sent while they are read depend on.
        inner = copy(self._request)
        for cached in ("_post", "_files", "_body", "headers", "accepted_types", "resolver_match", "user", "session"):
            inner.__dict__.pop(cached, None)
        inner.method, inner.path, inner.path_info = method, path, path
        inner.META = self._meta | {
            "REQUEST_METHOD": method,
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/json",
            "HTTP_ACCEPT": accept,
        }
        if idempotency_key:
            inner.META["HTTP_IDEMPOTENCY_KEY"] = idempotency_key
        inner.__dict__["GET"] = _query(query or {})
        inner.__dict__["COOKIES"] = {}
        inner.content_type = "application/json"
        inner._stream = BytesIO(body)
        inner._read_started = False  # type: ignore[attr-defined]
        match = resolve(path)
        return _read(match.func(inner, *match.args, **match.kwargs))


def _query(values: dict[str, Any]) -> QueryDict:
    query = QueryDict(mutable=True)
    for name, value in values.items():
        if value not in (None, ""):
            query[name.rstrip("_")] = str(value)
    return query


def _read(response: HttpResponseBase) -> Any:
    if not isinstance(response, Response):
        return response
    if response.status_code < 400:
        return response.data
    told = response.data["error"]
    retry_after = response.headers.get("retry-after")
    raise ApiError(
        response.status_code,
        told["code"],
        told["message"],
        param=told.get("param"),
        retry_after_seconds=float(retry_after) if retry_after else None,
        extra=told.get("details"),
    )
