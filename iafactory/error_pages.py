"""What is answered where no view answers: JSON for programs, a page for people. `iafactory.urls` names them to Django."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.translation import gettext_lazy as _

from iafactory.common.errors import ApiError, error_body
from iafactory.common.rendering import encode_json

API_PREFIXES = ("/api/", "/v1/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What was sent is not HTTP as we take it: a host that is not ours, too many fields."""
    error = ApiError(400, "invalid_request", "What was sent here cannot be read.")
    return _answer(request, error, _("Not understood"))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """The console's pages without the right to them."""
    error = ApiError(403, "permission_denied", "You may not open this page.")
    return _answer(request, error, _("Not permitted"))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form without the token of its page: too old, or not ours."""
    error = ApiError(
        403, "permission_denied", "Nothing was done: this page was too old. Go back, load it anew and send it again."
    )
    return _answer(request, error, _("This page is too old"))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """No such address, or nothing there for who asks."""
    return _answer(request, ApiError(404, "not_found", "There is no such address."), _("Not found"))


def server_error(request: HttpRequest) -> HttpResponse:
    """A fault of ours; the logs have it."""
    error = ApiError(500, "internal_error", "Something went wrong on our side.")
    return _answer(request, error, _("Something went wrong"))


def _answer(request: HttpRequest, error: ApiError, title: Any) -> HttpResponse:
    if request.path.startswith(API_PREFIXES):
        body = encode_json(error_body(error, request.path, translated=True))
        return HttpResponse(body, status=error.status, content_type="application/json")
    # The page of a fault, or of a request that cannot be read, is made without it, so that nothing else has to work.
    asked = request if error.status in (403, 404) else None
    # Whoever has signed in reads their own language, else the browser's.
    with translation.override(getattr(getattr(asked, "user", None), "language", "") or translation.get_language()):
        page = render_to_string("iafactory/error.html", {"title": title, "told": error.text}, asked)
    return HttpResponse(page, status=error.status)
