"""Who looks at the panel, and for which account: what every page of it begins with."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from billing.accounts.models import Account, Membership, User
from billing.accounts.selectors import account_for_user, membership_role, memberships_of_user
from billing.events.services import on_behalf_of_customer
from dashboard.impersonation.browser import SESSION_KEY, ImpersonationOver, seen_as
from dashboard.impersonation.models import Impersonation
from dashboard.impersonation.permitted import permitted_check, refused_in_their_name
from dashboard.impersonation.services import impersonation_actor
from iafactory.common.errors import ApiError

from .api_client import ApiClient
from .refusals import refusal_text

# Which account the browser's user looks at; without it the personal one.
ACCOUNT_KEY = "panel_account"

View = Callable[..., HttpResponseBase]


@dataclass
class PanelSession:
    """The signed-in user, the account they look at, and their way into the API."""

    request: HttpRequest
    user: User
    account: Account
    # An operator is logged in as `user`: then few things may be done.
    seen_as: Impersonation | None = None

    @cached_property
    def api(self) -> ApiClient:
        check = permitted_check if self.seen_as is not None else None
        return ApiClient(self.request, user=self.user, account_id=self.account.pk, check=check)

    @cached_property
    def is_owner(self) -> bool:
        return membership_role(account=self.account, user=self.user) == Membership.Role.OWNER

    @cached_property
    def memberships(self) -> list[Membership]:
        every = memberships_of_user(self.user)
        return list(every if self.seen_as is None else every.filter(account=self.account))


class PanelRequest(HttpRequest):
    """A request inside `panel_page`."""

    panel: PanelSession


def safe_next(request: HttpRequest, wanted: str) -> str:
    """`wanted` if it is a page of the panel on this very host, else the panel's home: no link leads elsewhere by signing in."""
    home = reverse("panel:home")
    allowed = url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure())
    path = urlsplit(wanted).path
    # Browsers resolve dots in a path: behind them stands another page than the one that was looked at here.
    inside = wanted.startswith("/") and path.startswith(home) and ".." not in path
    return wanted if allowed and inside and path != reverse("panel:sign-out") else home


def own_page(request: HttpRequest, wanted: str) -> str:
    """`wanted` if it is an address on this very host, else the panel's home: for going back to where a choice was made."""
    allowed = url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure())
    return wanted if allowed and wanted.startswith("/") else reverse("panel:home")


def is_htmx(request: HttpRequest) -> bool:
    """Whether htmx asks for a piece of a page."""
    return request.headers.get("HX-Request") == "true"


def language_use(request: HttpRequest, language: str) -> None:
    """Answer in `language`, if we speak it."""
    if language in dict(settings.LANGUAGES):
        translation.activate(language)
        request.LANGUAGE_CODE = translation.get_language()


def panel_page(view: View) -> View:
    """A page for signed-in customers: others sign in first. What the API refuses becomes a page that says so."""

    @wraps(view)
    @never_cache
    def page(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user = request.user
        if not isinstance(user, User):
            back = urlencode({"next": request.get_full_path()}) if request.method == "GET" else ""
            response: HttpResponse = HttpResponseRedirect(reverse("panel:sign-in") + (f"?{back}" if back else ""))
            if is_htmx(request):
                # A piece of a page must not become a sign-in form in the middle of it.
                response = HttpResponse(status=204, headers={"HX-Redirect": reverse("panel:sign-in")})
            return response
        try:
            seen = seen_as(request)
        except ImpersonationOver as ended:
            return impersonation_left(request, ended.impersonation)
        if seen is not None:
            # The page and its templates know the customer alone; the session stays the operator's.
            user = request.user = seen.user
        language_use(request, user.language)
        account = _account(request, user) if seen is None else seen.account
        if account is None:
            return render(request, "panel/no_account.html", {"title": _("Account")}, status=404)
        panel = PanelSession(request, user, account, seen)
        cast(PanelRequest, request).panel = panel
        named = nullcontext() if seen is None else on_behalf_of_customer(impersonation_actor(seen.operator))
        with timezone.override(account.zone), named:
            try:
                return view(request, *args, **kwargs)
            except ApiError as error:
                return refusal_page(request, error)

    return page


def impersonation_left(request: HttpRequest, impersonation: Impersonation | None) -> HttpResponse:
    """Back to the console, to the page of the account that was looked at."""
    home = reverse("admin:index")
    address = home if impersonation is None else reverse("admin:billing_account_change", args=[impersonation.account_id])
    if is_htmx(request):
        return HttpResponse(status=204, headers={"HX-Redirect": address})
    messages.info(request, _("You are not logged in as a customer any more."))
    return HttpResponseRedirect(address)


def is_impersonating(request: HttpRequest) -> bool:
    """Whether this browser began to look at the panel as a customer; it may be over meanwhile."""
    return SESSION_KEY in request.session


@panel_page
def not_in_their_name(request: HttpRequest) -> HttpResponseBase:
    """The page that refuses what an operator may not do in a customer's name."""
    raise refused_in_their_name()


def refusal_page(request: HttpRequest, error: ApiError) -> HttpResponse:
    """A whole page, or a piece of one, that says why not."""
    context = {"refusal": refusal_text(error), "code": error.code, "status": error.status}
    if is_htmx(request):
        return render(request, "panel/refusal_piece.html", context)
    return render(request, "panel/refusal.html", context, status=error.status)


def done(request: HttpRequest, message: Any, to: str, *args: Any) -> HttpResponseBase:
    """Say that something was done, on the page `to`."""
    messages.success(request, str(message))
    return redirect(to, *args)


def refused(request: HttpRequest, error: ApiError, to: str, *args: Any) -> HttpResponseBase:
    """Say why something was not done, on the page `to`; what is not there stays a 404."""
    if error.status == 404:
        raise error
    messages.error(request, refusal_text(error))
    return redirect(to, *args)


def _account(request: HttpRequest, user: User) -> Account | None:
    wanted = request.session.get(ACCOUNT_KEY)
    try:
        return account_for_user(user=user, account_id=wanted)
    except ApiError:
        # No longer a member there.
        request.session.pop(ACCOUNT_KEY, None)
        return account_for_user(user=user)
