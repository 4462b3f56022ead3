"""Who works for the account: members, invitations, and accounts for teams."""

from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from billing.accounts.members import invitation_by_token
from iafactory.common.errors import ApiError

from .forms import InviteForm, TeamForm
from .refusals import refusal_text
from .session import ACCOUNT_KEY, done, panel_page, refused


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def team(request: Any) -> HttpResponseBase:
    """Members and open invitations; a POST invites an address."""
    api = request.panel.api
    form = InviteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        invited = form.tell(api.post, "invitations", data=form.cleaned_data)
        if invited is not None:
            return done(request, _("The invitation is on its way."), "panel:team")
    context = {
        "members": api.get("members"),
        "invitations": api.get("invitations"),
        "form": form,
        "team_form": TeamForm(auto_id="team_%s"),
        "is_personal": request.panel.account.kind == "personal",
    }
    return render(request, "panel/team.html", context, status=400 if form.is_bound else 200)


@require_POST
@panel_page
def team_new(request: Any) -> HttpResponseBase:
    """Open an account for a team, and look at it."""
    form = TeamForm(request.POST)
    if not form.is_valid():
        return redirect("panel:team")
    try:
        account = request.panel.api.post("accounts", data=form.cleaned_data)
    except ApiError as error:
        return refused(request, error, "panel:team")
    request.session[ACCOUNT_KEY] = str(account["id"])
    return done(request, _("The team account is open. Invite the others."), "panel:team")


@require_POST
@panel_page
def member_do(request: Any, user_id: str, deed: str) -> HttpResponseBase:
    """Make somebody an owner or a member, or remove them."""
    api = request.panel.api
    try:
        if deed == "remove":
            api.delete("member", user_id)
            told = _("The membership has ended.")
        elif deed in ("owner", "member"):
            api.patch("member", user_id, data={"role": deed})
            told = _("The role is changed.")
        else:
            raise ApiError(404, "not_found", "There is no such address.")
    except ApiError as error:
        return refused(request, error, "panel:team")
    return done(request, told, "panel:home" if user_id == str(request.panel.user.pk) and deed == "remove" else "panel:team")


@require_POST
@panel_page
def invitation_revoke(request: Any, invitation_id: str) -> HttpResponseBase:
    """Withdraw an invitation."""
    try:
        request.panel.api.delete("invitation", invitation_id)
    except ApiError as error:
        return refused(request, error, "panel:team")
    return done(request, _("The invitation is withdrawn."), "panel:team")


@require_http_methods(["GET", "HEAD", "POST"])
@panel_page
def invitation(request: Any) -> HttpResponseBase:
    """The page behind an invitation's link: a GET only shows it, a POST accepts."""
    token = request.POST.get("token", "") or request.GET.get("token", "")
    try:
        if request.method == "POST":
            membership = request.panel.api.post("invitation-accept", data={"token": token})
            request.session[ACCOUNT_KEY] = str(membership["account"]["id"])
            return done(request, _("Welcome to the team."), "panel:home")
        found = invitation_by_token(token)
    except ApiError as error:
        return render(request, "panel/invitation.html", {"refusal": refusal_text(error)}, status=error.status)
    return render(request, "panel/invitation.html", {"invitation": found, "token": token})
