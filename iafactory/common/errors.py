"""Error bodies: one exception, one shape per dialect, stable codes.

`ApiError` is raised by views and services of the API. `/v1/*` answers OpenAI's body, `/v1/messages` Anthropic's, everything
else `{"error": {"code", "message", "param", "request_id"}}`. Messages of the gateway are English, and so are those in logs and
rows; other answers and pages say them in their reader's language.
"""

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from . import request_id
from .metrics import refused
from .texts import Text

logger = logging.getLogger(__name__)

# What OpenAI's clients call the family of an error; anything else is the family of its status.
_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "invalid_request_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "conflict",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "upstream_error",
    503: "service_unavailable_error",
    504: "timeout",
}

# Anthropic's families of errors, by status.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
ANTHROPIC_PREFIX = "/v1/messages"


class ApiError(Exception):
    """An answer other than success: HTTP `status`, stable `code`, a `message` for humans: English, `text` is what they read.

    A message is a constant or a `Text` with named values, never put together: `make translations` gathers it from the call.
    `retry_after_seconds` becomes `Retry-After`; `final` adds `x-should-retry: false`, which stops the automatic retries of
    the official clients. 402 is always final.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str | Text,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
        final: bool = False,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.said = message if isinstance(message, Text) else Text(message)
        self.message = str(self.said)
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.param = param
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})
        if retry_after_seconds is not None:
            # Anthropic's clients obey any Retry-After, however long.
            self.headers["retry-after"] = str(max(1, min(60, round(retry_after_seconds))))
        if final or status == 402:
            self.headers["x-should-retry"] = "false"

    @property
    def text(self) -> str:
        """The message in the language of the page or answer."""
        return self.said.translated()


def openai_body(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object; all four keys are always there."""
    return {
        "error": {
            "message": error.message,
            "type": _OPENAI_TYPES.get(error.status, "api_error"),
            "param": error.param,
            "code": error.code,
            **error.extra,
        }
    }


def anthropic_body(error: ApiError) -> dict[str, Any]:
    """Anthropic's error object; our code and what belongs to it stand in its `details`."""
    details: dict[str, Any] = {"error_code": error.code}
    if error.param:
        details["param"] = error.param
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message, "details": details | error.extra},
        "request_id": request_id.current(),
    }


def plain_body(error: ApiError, message: str) -> dict[str, Any]:
    """The error object of every address outside `/v1/`, with the message as its reader understands it."""
    body: dict[str, Any] = {"code": error.code, "message": message}
    if error.param:
        body["param"] = error.param
    if error.extra:
        body["details"] = error.extra
    return {"error": body | {"request_id": request_id.current()}}


def error_body(error: ApiError, path: str, *, translated: bool = False) -> dict[str, Any]:
    """The body of `error` in the dialect that clients of `path` speak; `translated` counts outside `/v1/` alone."""
    if speaks_anthropic(path):
        return anthropic_body(error)
    if path.startswith("/v1/"):
        return openai_body(error)
    return plain_body(error, error.text if translated else error.message)


def speaks_anthropic(path: str) -> bool:
    """Whether clients of `path` are Anthropic's."""
    return path.startswith(ANTHROPIC_PREFIX) and path[len(ANTHROPIC_PREFIX) :][:1] in ("", "/")


def _first_detail(detail: Any, param: str | None = None) -> tuple[str, str | None]:
    """The first message of a DRF error detail, and the field it belongs to (`a.b.0`)."""
    if isinstance(detail, Mapping):
        key, value = next(iter(detail.items()))
        name = param if key == "non_field_errors" else f"{param}.{key}" if param else str(key)
        return _first_detail(value, name)
    if isinstance(detail, list) and detail:
        return _first_detail(detail[0], param)
    return str(detail), param


_DRF_CODES: dict[type[exceptions.APIException], tuple[int, str]] = {
    exceptions.NotAuthenticated: (401, "not_authenticated"),
    exceptions.AuthenticationFailed: (401, "invalid_credentials"),
    exceptions.MethodNotAllowed: (405, "method_not_allowed"),
    exceptions.UnsupportedMediaType: (415, "unsupported_media_type"),
    exceptions.NotAcceptable: (406, "not_acceptable"),
}


def _from_drf(error: exceptions.APIException) -> ApiError:
    if isinstance(error, exceptions.ValidationError):
        message, param = _first_detail(error.detail)
        return ApiError(400, "invalid_request", message, param=param)
    if isinstance(error, exceptions.ParseError):
        return ApiError(400, "invalid_json", "The body is not valid JSON.")
    for kind, (status, code) in _DRF_CODES.items():
        if isinstance(error, kind):
            message, _ = _first_detail(error.detail)
            return ApiError(status, code, message)
    message, _ = _first_detail(error.detail)
    return ApiError(error.status_code, str(error.default_code), message)


def drf_exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception hook: every refusal of the JSON API leaves through here, in one shape."""
    match error:
        case ApiError():
            api_error = error
        case Http404():
            api_error = ApiError(404, "not_found", "There is no such object.")
        case PermissionDenied() | exceptions.PermissionDenied():
            api_error = (
                ApiError(403, "permission_denied", str(error))
                if str(error)
                else ApiError(403, "permission_denied", "You may not do this.")
            )
        case exceptions.APIException():
            api_error = _from_drf(error)
        case _:
            return None
    # DRF's views import this module through the settings while they load.
    from rest_framework.views import set_rollback

    set_rollback()
    refused(api_error.code, api_error.status)
    headers = dict(api_error.headers)
    if api_error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(error_body(api_error, context["request"].path, translated=True), status=api_error.status, headers=headers)
