"""API keys: make, see once, limit, replace, revoke."""

from typing import Any

from django.conf import settings
from django.http import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from billing.accounts.key_limits import API_KEY_LIMITS
from iafactory.common.errors import ApiError

from .forms import KeyLimitsForm, KeyNameForm
from .session import done, panel_page, refused


def base_url() -> str:
    """What OpenAI's clients call the base URL."""
    return f"{settings.PUBLIC_URL}/v1"


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def keys(request: Any) -> HttpResponseBase:
    """The account's keys; a POST makes one and shows its secret, this once."""
    api = request.panel.api
    form = KeyNameForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = form.tell(api.post, "keys", data=form.cleaned_data)
        if made is not None:
            return _secret(request, made)
    wanted = request.GET.get("state", "active")
    page = api.get("keys", state="" if wanted == "all" else wanted, page=request.GET.get("page", ""))
    return render(
        request,
        "panel/keys.html",
        {"form": form, "page": page, "state": wanted, "base_url": base_url()},
        status=400 if form.is_bound else 200,
    )


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def key(request: Any, key_id: str) -> HttpResponseBase:
    """One key: its name, limits and allow lists."""
    api = request.panel.api
    stands = api.get("key", key_id)
    form = KeyLimitsForm(request.POST or None, initial=stands)
    if request.method == "POST" and form.is_valid():
        changes = dict(form.cleaned_data)
        expires_at = changes.pop("expires_at")
        if expires_at is not None or stands["expires_at"] is not None:
            changes["expires_at"] = expires_at
        if form.tell(api.patch, "key", key_id, data=changes) is not None:
            return done(request, _("The key is changed. It counts within a second."), "panel:key", key_id)
    limited = [name for name in API_KEY_LIMITS if stands[name] not in (None, [])]
    context = {"form": form, "key": stands, "limited": limited}
    return render(request, "panel/key.html", context, status=400 if form.is_bound else 200)


@require_POST
@panel_page
def key_rotate(request: Any, key_id: str) -> HttpResponseBase:
    """Replace a key; the old one works for another day, or not at all."""
    data = {"grace_seconds": 0} if request.POST.get("at_once") else {}
    try:
        made = request.panel.api.post("key-rotate", key_id, data=data)
    except ApiError as error:
        return refused(request, error, "panel:key", key_id)
    return _secret(request, made)


@require_POST
@panel_page
def key_revoke(request: Any, key_id: str) -> HttpResponseBase:
    """End a key at once and for good."""
    try:
        request.panel.api.delete("key", key_id)
    except ApiError as error:
        return refused(request, error, "panel:key", key_id)
    return done(request, _("The key is revoked. Nothing works with it any more."), "panel:keys")


@sensitive_variables("made")
def _secret(request: Any, made: dict[str, Any]) -> HttpResponseBase:
    """The one page that shows a secret: it is the answer itself, kept nowhere."""
    return render(request, "panel/key_secret.html", {"key": made, "base_url": base_url()})
