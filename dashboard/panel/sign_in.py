"""Signing up, in and out. Who somebody is, and how often they may try, the API decides; the browser then gets a session."""

from typing import Any

from django.conf import settings
from django.contrib.auth import login, logout
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils import translation
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from billing.accounts.models import User
from billing.accounts.preferences import user_change
from billing.accounts.services import session_close, user_actor
from dashboard.impersonation.browser import browser_forgets
from dashboard.impersonation.models import Impersonation
from iafactory.common.errors import ApiError

from .api_client import ApiClient
from .forms import ApiForm, SignInForm, SignUpForm
from .session import (
    done,
    impersonation_left,
    is_impersonating,
    language_use,
    not_in_their_name,
    own_page,
    panel_page,
    refused,
    safe_next,
)

BACKEND = "billing.accounts.backends.BrakedBackend"


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponseBase:
    """E-mail and password, braked like the API's login; then on to `next`, if that is a page of the panel."""
    return _enter(request, SignInForm, "auth-login", "panel/sign_in.html", title=_("Sign in"))


@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_up(request: HttpRequest) -> HttpResponseBase:
    """A new user with an account on the free plan, braked like the API's registration."""
    language = translation.get_language() or "en"
    return _enter(request, SignUpForm, "auth-register", "panel/sign_up.html", title=_("Create an account"), language=language)


def _enter(
    request: HttpRequest, form_class: type[ApiForm], address: str, page: str, *, title: str, **extra: Any
) -> HttpResponseBase:
    if request.method == "POST" and is_impersonating(request):
        return not_in_their_name(request)
    wanted = safe_next(request, request.POST.get("next") or request.GET.get("next", ""))
    if isinstance(request.user, User) and request.method != "POST":
        return HttpResponseRedirect(wanted)
    form = form_class(request.POST or None)
    status = 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            answer = form.tell(ApiClient(request, user=None).post, address, data=form.cleaned_data | extra)
            if answer is not None:
                _browser_session(request, answer)
                return HttpResponseRedirect(wanted)
    return render(request, page, {"form": form, "next": wanted, "title": title}, status=status)


def _browser_session(request: HttpRequest, answer: dict[str, Any]) -> None:
    # The browser keeps a session, no tokens: those that came with the proof end here.
    session_close(refresh_token=answer["refresh_token"])
    login(request, User.objects.get(pk=answer["user"]["id"]), backend=BACKEND)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the browser's session; an operator who is logged in as a customer only leaves that."""
    if is_impersonating(request):
        return impersonation_end(request)
    logout(request)
    return redirect("panel:sign-in")


@require_POST
def impersonation_end(request: HttpRequest) -> HttpResponse:
    """An operator is themself again, on the page of the account they looked at."""
    return impersonation_left(request, browser_forgets(request, Impersonation.Ending.OPERATOR))


@require_POST
def language_choose(request: HttpRequest) -> HttpResponseBase:
    """Speak another language from now on: kept with the user, and in the browser for those who have not signed in."""
    if is_impersonating(request):
        return not_in_their_name(request)
    language = request.POST.get("language", "")
    wanted = request.POST.get("next", "")
    # Pages outside of the panel have the choice too.
    response = HttpResponseRedirect(own_page(request, wanted))
    if language in dict(settings.LANGUAGES):
        language_use(request, language)
        if isinstance(request.user, User):
            user_change(user=request.user, actor=user_actor(request.user), language=language)
        response.set_cookie(
            settings.LANGUAGE_COOKIE_NAME,
            language,
            max_age=365 * 24 * 3600,
            secure=request.is_secure(),
            httponly=True,
            samesite="Lax",
        )
    return response


@require_POST
@panel_page
def verification_resend(request: Any) -> HttpResponseBase:
    """Mail the link that confirms the address once more."""
    try:
        request.panel.api.post("auth-verify-email-resend")
    except ApiError as error:
        return refused(request, error, "panel:home")
    return done(request, _("A new link is on its way to you."), "panel:home")


@require_GET
def admin_page(request: HttpRequest) -> HttpResponse:
    """Where the console was looked for in older installations."""
    return redirect("admin:index")
