"""The language of the console: the one its operator chose, which stands with the user; before the login the browser's."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils import translation
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from billing.accounts.models import User
from billing.accounts.preferences import user_change
from billing.accounts.services import user_actor
from dashboard.two_factor.pages import proven

COOKIE_SECONDS = 365 * 24 * 3600


def in_operators_language(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """A page of the console in the language of whoever is logged in; no query of its own."""

    @wraps(view)
    def page(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if isinstance(request.user, User):
            _use(request, request.user.language)
        return view(request, *args, **kwargs)

    return page


@require_POST
def language_view(request: HttpRequest) -> HttpResponse:
    """Speak another language from now on, and go back to the page: kept with the operator, and in the browser for the login."""
    language = request.POST.get("language", "")
    response = HttpResponseRedirect(_safe_next(request, request.POST.get("next", "")))
    if language in dict(settings.LANGUAGES):
        # Who has only given a password changes nothing of the user.
        if isinstance(request.user, User) and request.user.is_staff and proven(request):
            user_change(user=request.user, actor=user_actor(request.user), language=language)
        response.set_cookie(
            settings.LANGUAGE_COOKIE_NAME,
            language,
            max_age=COOKIE_SECONDS,
            secure=request.is_secure(),
            httponly=True,
            samesite="Lax",
        )
    return response


def _use(request: HttpRequest, language: str) -> None:
    if language in dict(settings.LANGUAGES):
        translation.activate(language)
        request.LANGUAGE_CODE = translation.get_language()


def _safe_next(request: HttpRequest, wanted: str) -> str:
    """`wanted` if it is a page of the console on this very host, else the console's home."""
    home = reverse("admin:index")
    allowed = url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure())
    path = urlsplit(wanted).path
    # Browsers resolve dots in a path.
    return wanted if allowed and path.startswith(home) and ".." not in path else home
