"""The user's and the account's settings: name, language, password, time zone, billing address, warnings."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth import update_session_auth_hash
from django.http import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from billing.accounts.models import User
from billing.plans.models import FxRate, PlanPrice

from .forms import AccountForm, ApiForm, BillingProfileForm, CreditNoticeForm, PasswordForm, UserForm
from .session import done, language_use, panel_page


@sensitive_post_parameters("password", "new_password")
@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def settings(request: Any) -> HttpResponseBase:
    """All of them on one page, each a form of its own; a POST saves the one that its `form` names."""
    forms = {name: build(request, name == request.POST.get("form")) for name, build in _FORMS.items()}
    sent = request.POST.get("form", "")
    if request.method == "POST" and sent in forms and forms[sent].is_valid():
        told = _SAVES[sent](request, forms[sent])
        if told:
            return done(request, told, "panel:settings")
    context = {"forms": forms, "account": request.panel.api.get("account")}
    return render(request, "panel/settings.html", context, status=400 if request.method == "POST" else 200)


def _user_form(request: Any, sent: bool) -> ApiForm:
    user: User = request.panel.user
    initial = {"name": user.name, "language": user.language}
    return UserForm(request.POST if sent else None, initial=initial, auto_id="user_%s")


def _user_save(request: Any, form: ApiForm) -> str:
    if form.tell(request.panel.api.patch, "auth-me", data=form.cleaned_data) is None:
        return ""
    language_use(request, form.cleaned_data["language"])
    return _("Saved.")


def _password_form(request: Any, sent: bool) -> ApiForm:
    return PasswordForm(request.POST if sent else None, auto_id="password_%s")


def _password_save(request: Any, form: ApiForm) -> str:
    def change() -> bool:
        request.panel.api.post("auth-password", data=form.cleaned_data)
        return True

    if form.tell(change) is None:
        return ""
    # This browser proved the password a moment ago; every other one signs in again.
    update_session_auth_hash(request, User.objects.get(pk=request.panel.user.pk))
    return _("The new password is saved. Other devices have to sign in again.")


def _account_form(request: Any, sent: bool) -> ApiForm:
    account = request.panel.account
    initial = {
        "name": account.name,
        "country": account.country,
        "currency": account.currency,
        "time_zone": account.next_time_zone or account.time_zone,
    }
    known = {"USD", account.currency, *FxRate.objects.values_list("quote", flat=True)}
    currencies = sorted(known | set(PlanPrice.objects.values_list("currency", flat=True)))
    return AccountForm(request.POST if sent else None, initial=initial, currencies=currencies, auto_id="account_%s")


def _account_save(request: Any, form: ApiForm) -> str:
    return "" if form.tell(request.panel.api.patch, "account", data=form.cleaned_data) is None else _("Saved.")


def _profile_form(request: Any, sent: bool) -> ApiForm:
    profile = request.panel.api.get("billing-profile")
    initial = profile | profile["identifiers"]
    return BillingProfileForm(request.POST if sent else None, initial=initial, auto_id="profile_%s")


def _profile_save(request: Any, form: ApiForm) -> str:
    data = dict(form.cleaned_data)
    known = request.panel.api.get("billing-profile")["identifiers"]
    shown = {name: data.pop(name) for name in BillingProfileForm.IDENTIFIERS}
    data["identifiers"] = {name: value for name, value in (known | shown).items() if value}
    if not data["tax_status"]:
        del data["tax_status"]
    return "" if form.tell(request.panel.api.patch, "billing-profile", data=data) is None else _("Saved.")


def _notice_form(request: Any, sent: bool) -> ApiForm:
    return CreditNoticeForm(
        request.POST if sent else None, initial=request.panel.api.get("billing-notices"), auto_id="notice_%s"
    )


def _notice_save(request: Any, form: ApiForm) -> str:
    return "" if form.tell(request.panel.api.patch, "billing-notices", data=form.cleaned_data) is None else _("Saved.")


_FORMS: dict[str, Callable[[Any, bool], ApiForm]] = {
    "user": _user_form,
    "password": _password_form,
    "account": _account_form,
    "profile": _profile_form,
    "notice": _notice_form,
}
_SAVES: dict[str, Callable[[Any, ApiForm], str]] = {
    "user": _user_save,
    "password": _password_save,
    "account": _account_save,
    "profile": _profile_save,
    "notice": _notice_save,
}
