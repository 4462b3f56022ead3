"""One id per request, from the answer's `x-request-id` down to every log line, task, upstream call and the usage row."""

from collections.abc import Callable
from contextvars import ContextVar

from django.http import HttpRequest, HttpResponseBase

from . import tracing
from .ids import uuid7

_current: ContextVar[str] = ContextVar("request_id", default="-")


def current() -> str:
    """The id of the request being served, `-` outside of one."""
    return _current.get()


def begin(value: str) -> None:
    """Make `value` the id of the request served by the running task or thread."""
    _current.set(value)


class RequestIdMiddleware:
    """Gives pages and the sync API their request id; the gateway's handler does it for the hot paths."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        value = str(uuid7())
        begin(value)
        with tracing.span("page", method=request.method) as span:
            response = self.get_response(request)
            # The pattern, not the address: addresses name objects and people.
            span.set(route=request.resolver_match.route if request.resolver_match else None, status=response.status_code)
        response["x-request-id"] = value
        return response
