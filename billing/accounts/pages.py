"""Pages behind the links of our mails. A GET changes nothing: mail scanners open every link."""

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from iafactory.common.errors import ApiError

from . import services, throttles


class TokenForm(forms.Form):
    token = forms.CharField(max_length=1024, widget=forms.HiddenInput)


class EmailForm(forms.Form):
    email = forms.EmailField(label=_("E-mail"), max_length=254)


class NewPasswordForm(TokenForm):
    password = forms.CharField(
        label=_("New password"),
        max_length=256,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    password_again = forms.CharField(
        label=_("New password, again"),
        max_length=256,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def clean(self) -> None:
        super().clean()
        if self.cleaned_data.get("password") != self.cleaned_data.get("password_again"):
            self.add_error("password_again", _("The two passwords differ."))


def _page(request: HttpRequest, status: int = 200, **context: object) -> HttpResponse:
    return render(request, "billing/accounts/link.html", context, status=status)


def _refused(form: forms.Form, error: ApiError) -> None:
    """Show `error` beside its field, or above the form."""
    form.add_error(error.param if error.param in form.fields else None, error.text)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def verify_email(request: HttpRequest) -> HttpResponse:
    """`/auth/verify-email?token=`: a button, whose POST verifies the address."""
    title = _("Confirm your e-mail address")
    if request.method != "POST":
        form = TokenForm(initial={"token": request.GET.get("token", "")})
        return _page(request, title=title, form=form, button=_("Confirm"))
    form = TokenForm(request.POST)
    if form.is_valid():
        try:
            user = services.email_verify(token=form.cleaned_data["token"])
        except ApiError as error:
            return _page(request, error.status, title=title, message=_("The link is damaged, used or too old."))
        return _page(
            request,
            title=_("Your address is confirmed"),
            message=_("%(email)s is confirmed. Thank you.") % {"email": user.email},
        )
    return _page(request, 400, title=title, message=_("The link is damaged, used or too old."))


@never_cache
@sensitive_post_parameters("password", "password_again")
@require_http_methods(["GET", "HEAD", "POST"])
def password_reset(request: HttpRequest) -> HttpResponse:
    """`/auth/password-reset`: asks for an address and mails a link; with `?token=` it takes the new password."""
    if request.method != "POST":
        token = request.GET.get("token")
        if token is None:
            return _page(request, title=_("Reset your password"), form=EmailForm(), button=_("Send me a link"))
        form: forms.Form = NewPasswordForm(initial={"token": token})
        return _page(request, title=_("Choose a new password"), form=form, button=_("Save"))
    if "token" in request.POST:
        return _password_set(request)
    return _password_link_send(request)


def _password_set(request: HttpRequest) -> HttpResponse:
    title = _("Choose a new password")
    form = NewPasswordForm(request.POST)
    status = 400
    if form.is_valid():
        try:
            services.password_reset(
                token=form.cleaned_data["token"],
                new_password=form.cleaned_data["password"],
                address=throttles.client_house(request),
            )
        except ApiError as error:
            if error.code == "invalid_token":
                return _page(request, error.status, title=title, message=_("The link is damaged, used or too old."))
            _refused(form, error)
            status = error.status
        else:
            return _page(request, title=title, message=_("The new password is saved. You can log in with it now."))
    elif "token" in form.errors:
        return _page(request, status, title=title, message=_("The link is damaged, used or too old."))
    return _page(request, status, title=title, form=form, button=_("Save"))


def _password_link_send(request: HttpRequest) -> HttpResponse:
    title = _("Reset your password")
    form = EmailForm(request.POST)
    status = 400
    if form.is_valid():
        try:
            services.password_reset_request(email=form.cleaned_data["email"], address=throttles.client_house(request))
        except ApiError as error:
            _refused(form, error)
            status = error.status
        else:
            message = _("If an account has this address, a link is on its way to it.")
            return _page(request, title=title, message=message)
    return _page(request, status, title=title, form=form, button=_("Send me a link"))
