"""The console's pages between the password and everything else: setting up the second factor, asking for it, its codes."""

from typing import Any

import segno
from django import forms
from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.cache import add_never_cache_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csrf import csrf_protect
from django_otp import login as second_factor_login

from billing.accounts.models import User
from iafactory.common.errors import ApiError

from .models import RecoveryCode
from .services import (
    code_check,
    device_begin,
    device_confirm,
    device_of,
    device_secret_text,
    device_uri,
    recovery_codes_renew,
    required_of,
)


class CodeForm(forms.Form):
    """The code of an app, or a recovery code."""

    code = forms.CharField(
        label=_("Code"),
        max_length=32,
        widget=forms.TextInput(
            attrs={"autofocus": True, "autocomplete": "one-time-code", "inputmode": "text", "autocapitalize": "none"}
        ),
    )


def proven(request: HttpRequest) -> bool:
    """Whether this session proved all that an operator has to."""
    user = request.user
    return isinstance(user, User) and (not required_of(user) or bool(user.is_verified()))  # type: ignore[attr-defined]


def waiting_for_code(request: HttpRequest) -> bool:
    """Whether an operator has given their password and nothing else yet."""
    return isinstance(request.user, User) and request.user.is_active and request.user.is_staff and not proven(request)


def _page(request: HttpRequest, template: str, **context: Any) -> HttpResponse:
    response = TemplateResponse(request, f"admin/two_factor/{template}.html", {**admin.site.each_context(request), **context})
    # Secrets and codes are on these pages.
    add_never_cache_headers(response)
    return response


def _next(request: HttpRequest) -> str:
    wanted = request.POST.get(REDIRECT_FIELD_NAME) or request.GET.get(REDIRECT_FIELD_NAME) or ""
    allowed = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if allowed else reverse("admin:index")


@csrf_protect
def verify_page(request: HttpRequest) -> HttpResponse:
    """Ask for the code; who has no app yet sets one up first."""
    if not waiting_for_code(request):
        known = isinstance(request.user, User) and request.user.is_staff
        return HttpResponseRedirect(_next(request)) if known else redirect_to_login(request.path, reverse("admin:login"))
    user: Any = request.user
    if device_of(user) is None:
        return HttpResponseRedirect(f"{reverse('admin:two_factor_set_up')}?{request.GET.urlencode()}")
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            second_factor_login(request, code_check(user=user, code=form.cleaned_data["code"]))
        except ApiError as error:
            form.add_error("code", error.text)
        else:
            return HttpResponseRedirect(_next(request))
    return _page(request, "verify", title=_("Second factor"), form=form, next=_next(request))


@csrf_protect
def set_up_page(request: HttpRequest) -> HttpResponse:
    """Show the QR code until its first code comes, then the recovery codes, once."""
    user: Any = request.user
    if not (isinstance(user, User) and user.is_active and user.is_staff):
        return redirect_to_login(request.path, reverse("admin:login"))
    if device_of(user) is not None:
        return HttpResponseRedirect(reverse("admin:two_factor" if waiting_for_code(request) else "admin:two_factor_codes"))
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            device, codes = device_confirm(user=user, code=form.cleaned_data["code"])
        except ApiError as error:
            form.add_error("code", error.text)
        else:
            second_factor_login(request, device)
            return _page(request, "codes", title=_("Recovery codes"), codes=codes, next=_next(request))
    device = device_begin(user=user)
    # Without a namespace and styles of its own: it stands inside the page.
    svg = segno.make(device_uri(device), error="m").svg_inline(omitsize=True, border=4, dark="#000", light="#fff")
    return _page(
        request,
        "set_up",
        title=_("Set up your second factor"),
        form=form,
        qr=SafeString(svg),
        secret=device_secret_text(device),
        next=_next(request),
    )


def codes_page(request: HttpRequest) -> HttpResponse:
    """How many recovery codes are left; new ones for whoever proves themself once more."""
    user: Any = request.user
    if device_of(user) is None:
        return HttpResponseRedirect(reverse("admin:two_factor_set_up"))
    form = CodeForm(request.POST or None)
    codes: list[str] = []
    if request.method == "POST" and form.is_valid():
        try:
            codes = recovery_codes_renew(user=user, code=form.cleaned_data["code"])
        except ApiError as error:
            form.add_error("code", error.text)
    left = RecoveryCode.objects.filter(user=user, used_at__isnull=True).count()
    return _page(request, "codes", title=_("Recovery codes"), form=form, codes=codes, left=left, next=reverse("admin:index"))


def two_factor_urls(site: admin.AdminSite) -> list[URLPattern]:
    """The pages' addresses. The first two are open to who has given a password only."""
    return [
        path("two-factor/", verify_page, name="two_factor"),
        path("two-factor/set-up/", set_up_page, name="two_factor_set_up"),
        path("two-factor/codes/", site.admin_view(codes_page), name="two_factor_codes"),
    ]
