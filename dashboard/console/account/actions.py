"""The account page's own buttons, beside the deeds of payments and subscriptions: a mailed password reset, logging in as."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account, Membership, User
from billing.accounts.services import password_reset_offer
from billing.events.admin import operator_actor
from dashboard.impersonation.browser import browser_sees
from dashboard.impersonation.services import LONGEST, PERMISSION, impersonation_begin, members_to_see
from iafactory.common.admin import ConsoleAdmin, ReasonForm, change_url
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7, uuid_or_none

RESET_PERMISSION = "billing.mail_reset_user"


class MemberForm(ReasonForm):
    """Which customer of the account, and why."""

    member = forms.ChoiceField(label=_("Customer"))
    field_order = ("member", "reason")

    def __init__(self, *args: Any, members: list[Membership], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.members = {str(membership.user_id): membership for membership in members}
        field = self.fields["member"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(pk, f"{one.user.email} ({one.get_role_display()})") for pk, one in self.members.items()]

    @property
    def user(self) -> User:
        """The customer that was chosen."""
        return self.members[self.cleaned_data["member"]].user


class AccountActionsMixin(ConsoleAdmin):
    """The pages behind two buttons of the account page."""

    def get_urls(self) -> list[Any]:
        def step(name: str, view: Any) -> Any:
            route = f"billing_account_{name.replace('-', '_')}"
            return path(f"<uuid:account_id>/{name}/", self.admin_site.admin_view(view), name=route)

        return [
            step("send-reset", self.send_reset_view),
            step("log-in-as", self.log_in_as_view),
            *super().get_urls(),
        ]

    def send_reset_view(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """Ask for whom and why, say what will happen, then have one mail sent however often the last button is pressed."""

        def act(form: MemberForm, account: Account, form_id: UUID) -> HttpResponse | None:
            with transaction.atomic():
                first = password_reset_offer(
                    user=form.user,
                    account=account,
                    actor=operator_actor(request),
                    reason=form.cleaned_data["reason"],
                    form_id=form_id,
                )
                if first:
                    self.log_change(request, account, f"Had a password reset mailed to {form.user}.")
            if first:
                told = str(_("The link is on its way to %(email)s.") % {"email": form.user.email})
            else:
                told = str(_("This form was acted on before; nothing more was done."))
            self.message_user(request, told, messages.SUCCESS if first else messages.WARNING)
            return None

        return self._member_step(
            request,
            account_id,
            permission=RESET_PERMISSION,
            title=_("Send a password reset"),
            submit=_("Send the link"),
            explanation=_("A member of the account gets a mail with a link that sets a new password."),
            facts=[
                (_("The mail"), _("a link to a page that asks for a new password, good once and for a limited time")),
                (_("Until then"), _("the present password and every session go on")),
            ],
            act=act,
        )

    def log_in_as_view(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """Ask as whom and why, say what will happen, then open the panel as that customer."""

        def act(form: MemberForm, account: Account, form_id: UUID) -> HttpResponse | None:
            operator = request.user
            assert isinstance(operator, User)
            begun = impersonation_begin(
                impersonation_id=form_id,
                operator=operator,
                user=form.user,
                account=account,
                reason=form.cleaned_data["reason"],
            )
            if begun.ended_at is not None:
                self.message_user(request, _("This form was acted on before; nothing more was done."), messages.WARNING)
                return None
            browser_sees(request, begun)
            return HttpResponseRedirect(reverse("panel:home"))

        return self._member_step(
            request,
            account_id,
            permission=PERMISSION,
            title=_("Log in as a customer"),
            submit=_("Log in as this customer"),
            explanation=_("You see the customers' panel as they do. The console stays yours."),
            facts=[
                (
                    _("For"),
                    _("%(minutes)d minutes at most, in this browser; signing out ends it too")
                    % {"minutes": LONGEST.total_seconds() // 60},
                ),
                (_("You cannot"), _("change passwords, see keys, pay, change ways to pay or members, or call models")),
                (_("The account's timeline"), _("says when it began and ended, and names you in all that you change")),
            ],
            act=act,
            dangerous=True,
        )

    def _member_step(
        self, request: HttpRequest, account_id: UUID, *, permission: str, facts: list[Any], act: Any, **page: Any
    ) -> HttpResponse:
        if not request.user.has_perm(permission):
            raise PermissionDenied
        account = get_object_or_404(Account, pk=account_id)
        back = change_url("billing.account", account.pk)
        members = members_to_see(account)
        if not members:
            self.message_user(request, _("No member of this account is a customer who can log in."), messages.WARNING)
            return HttpResponseRedirect(back)
        form = MemberForm(request.POST or None, members=members)
        form_id = uuid_or_none(request.POST.get("form_id", "")) or uuid7()
        confirm: list[tuple[Any, Any]] | None = None
        if request.method == "POST" and "_edit" not in request.POST and form.is_valid():
            if "_confirm" in request.POST:
                try:
                    return act(form, account, form_id) or HttpResponseRedirect(back)
                except ApiError as error:
                    form.add_error(None, error.text)
            else:
                confirm = [
                    (_("Account"), account),
                    (_("Customer"), form.user.email),
                    *facts,
                    (_("Reason"), form.cleaned_data["reason"]),
                ]
        submit, dangerous = page.pop("submit"), page.pop("dangerous", False)
        return self.render_step(
            request,
            subtitle=account,
            form=form,
            submit=submit if confirm else _("Continue"),
            dangerous=dangerous and bool(confirm),
            confirm=confirm,
            form_id=form_id,
            back=back,
            **page,
        )
