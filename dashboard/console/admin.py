"""The account page, which shows every layer, its buttons, and the users behind accounts."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _
from rest_framework_simplejwt.token_blacklist.models import BlacklistedToken, OutstandingToken

from billing.accounts.admin import AccountLimitsInline
from billing.accounts.models import Account, User
from billing.accounts.selectors import accounts_matching
from billing.accounts.services import account_block, account_unblock, api_key_create, operator_key_create, sessions_revoke
from billing.events.admin import AuditedModelAdmin, EventAdmin, operator_actor
from billing.events.models import Event
from billing.ledger.models import Lot, Wallet
from billing.ledger.services import credits_grant, wallet_open
from billing.subscriptions.models import Subscription
from billing.subscriptions.onboarding import customer_register
from dashboard.roles import ROLES
from dashboard.two_factor.services import device_of, device_reset
from iafactory.common import clock
from iafactory.common.admin import EMPTY, ReasonForm, change_link, change_url, decimal_text, list_link, viewer_may
from iafactory.common.errors import ApiError

from .account.actions import AccountActionsMixin
from .account.page import account_page
from .forms import AccountForm, GrantForm, NewKeyForm, OperatorKeyForm, UserAddForm, UserEditForm

# Refresh tokens are secrets of customers.
for model in (BlacklistedToken, OutstandingToken):
    admin.site.unregister(model)


@admin.register(Account)
class AccountAdmin(AccountActionsMixin, AuditedModelAdmin):
    """Who pays. Accounts come from registration, and stay: history hangs on them."""

    list_display = ("name", "billing_email", "kind", "status_label", "plan", "balance", "country", "created_at")
    list_filter = ("status", "kind", "created_at", "overflow_allowed")
    list_select_related = ("wallet",)
    search_fields = ("name",)
    search_help_text = _("Name, e-mail, external id, account, user or key id, beginning of a key.")
    actions = ("grant_selected",)
    form = AccountForm
    inlines = (AccountLimitsInline,)
    change_form_template = "admin/account_page.html"
    readonly_fields = ("id", "kind", "personal_of_link", "status_label", "status_reason", "created_at")
    fieldsets = (
        (None, {"fields": ("name", "status_label", "status_reason", "kind", "personal_of_link", "id", "created_at")}),
        (_("Invoices"), {"fields": ("billing_email", "country", "currency", "language")}),
        (_("Use"), {"fields": ("time_zone", "overflow_allowed", "external_id")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        live = Subscription.objects.filter(state__in=Subscription.LIVE).select_related("plan")
        return super().get_queryset(request).prefetch_related(Prefetch("subscriptions", live, to_attr="live_subscriptions"))

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        return queryset.filter(pk__in=accounts_matching(search_term).values("pk")), False

    @admin.display(description=_("status"), ordering="status")
    def status_label(self, account: Account) -> SafeString:
        return format_html('<span class="state state-{}">{}</span>', account.status, account.get_status_display())

    @admin.display(description=_("plan"))
    def plan(self, account: Account) -> SafeString:
        for subscription in account.live_subscriptions:  # type: ignore[attr-defined]
            return change_link("billing.subscription", subscription.pk, subscription.plan)
        return SafeString(EMPTY)

    @admin.display(description=_("balance"), ordering="wallet__balance")
    def balance(self, account: Account) -> SafeString:
        try:
            return format_html('<span class="figure">{}</span>', decimal_text(account.wallet.balance))
        except Wallet.DoesNotExist:
            return SafeString(EMPTY)

    @admin.display(description=_("personal account of"))
    def personal_of_link(self, account: Account) -> SafeString:
        return change_link("billing.user", account.personal_of_id, account.personal_of)

    def event_account_id(self, row: Account) -> UUID:
        return row.pk

    def write(self, obj: Account, form: Any, change: bool) -> None:
        # Only what the form shows: a block that happens meanwhile must survive.
        obj.save(update_fields=[name for name in form.changed_data if name in form.fields])

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_grant_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Granting makes a lot: the right to add one is the right to grant."""
        return request.user.has_perm("billing.add_lot")

    def get_urls(self) -> list[Any]:
        def step(name: str, view: Any) -> Any:
            return path(
                f"<uuid:account_id>/{name}/",
                self.admin_site.admin_view(view),
                name=f"billing_account_{name.replace('-', '_')}",
            )

        return [
            step("grant", self.grant_view),
            step("block", self.block_view),
            step("unblock", self.unblock_view),
            step("new-key", self.new_key_view),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        account = self.get_object(request, object_id)
        if account is not None and self.has_view_or_change_permission(request, account):
            now = clock.now()
            page = account_page(account, may=request.user.has_perm, now=now)
            extra_context = {
                **(extra_context or {}),
                "page": page,
                "charts": {"use": page.use.chart()} if page.use is not None and page.use.report.totals.calls else None,
                "now": now,
            }
        return super().change_view(request, object_id, form_url, extra_context)

    # --- Buttons ---

    @admin.action(description=_("Grant credits… (to one account)"), permissions=["grant"])
    def grant_selected(self, request: HttpRequest, queryset: QuerySet[Account]) -> HttpResponse | None:
        accounts = list(queryset.values_list("pk", flat=True)[:2])
        if len(accounts) != 1:
            self.message_user(request, _("Choose exactly one account to grant credits to."), messages.ERROR)
            return None
        return HttpResponseRedirect(reverse("admin:billing_account_grant", args=accounts))

    def grant_view(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """Form, then a page to confirm, then one lot, however often the last button is pressed."""
        if not self.has_grant_permission(request):
            raise PermissionDenied
        account = get_object_or_404(Account, pk=account_id)
        form = GrantForm(request.POST or None)
        wallet = Wallet.objects.filter(pk=account.pk).first()
        page: dict[str, Any] = {
            "subtitle": account,
            "form": form,
            "items": [_("Balance now: %s credits") % decimal_text(wallet.balance if wallet else None)],
            "back": change_url("billing.account", account.pk),
        }
        if request.method != "POST" or "_edit" in request.POST or not form.is_valid():
            return self.render_step(request, title=_("Grant credits"), submit=_("Continue"), **page)
        if "_confirm" not in request.POST:
            return self.render_step(
                request, title=_("Grant these credits?"), submit=_("Grant credits"), confirm=self._told(form), **page
            )
        return self._grant(request, account, form)

    def _told(self, form: GrantForm) -> list[tuple[Any, Any]]:
        wanted = form.cleaned_data
        expires_at = wanted["expires_at"]
        return [
            (_("Credits"), decimal_text(wanted["amount"])),
            (_("Kind"), Lot.Kind(wanted["kind"]).label),
            (_("Expires"), f"{expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else _("never")),
            (_("Reason"), wanted["reason"]),
        ]

    def _grant(self, request: HttpRequest, account: Account, form: GrantForm) -> HttpResponse:
        wanted = form.cleaned_data
        actor = operator_actor(request)
        key = f"operator:{account.pk}:{wanted['grant_id']}"
        used_before = Lot.objects.filter(grant_key=key).exists()
        try:
            with transaction.atomic():
                wallet_open(account=account)
                lot = credits_grant(
                    account_id=account.pk,
                    amount=wanted["amount"],
                    kind=wanted["kind"],
                    source=f"granted by {actor.label}"[:200],
                    reason=wanted["reason"],
                    actor=actor,
                    idempotency_key=key,
                    expires_at=wanted["expires_at"],
                )
                if not used_before:
                    self.log_change(request, account, f"Granted {decimal_text(lot.amount)} credits: {lot.kind}.")
        except ValueError as error:
            form.add_error(None, str(error))
            return self.render_step(request, title=_("Grant credits"), subtitle=account, form=form, submit=_("Continue"))
        balance = decimal_text(Wallet.objects.get(pk=account.pk).balance)
        page = change_link("billing.lot", lot.pk, _("See the lot"))
        if used_before:
            text = _("This form had granted %s credits before; nothing was added. The balance is %s.")
            level = messages.WARNING
        else:
            text = _("Granted %s credits. The balance is now %s.")
            level = messages.SUCCESS
        self.message_user(request, format_html("{} {}", text % (decimal_text(lot.amount), balance), page), level)
        return HttpResponseRedirect(change_url("billing.account", account.pk))

    def block_view(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """Ask why, then stop the account's keys."""
        return self._status_step(
            request,
            account_id,
            deed=account_block,
            title=_("Block this account?"),
            submit=_("Block the account"),
            explanation=_("Every key of the account stops within a second. Credits and subscription stay."),
            done=_("The account is blocked."),
            dangerous=True,
        )

    def unblock_view(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """Ask why, then let the account work again."""
        return self._status_step(
            request,
            account_id,
            deed=account_unblock,
            title=_("Unblock this account?"),
            submit=_("Unblock the account"),
            explanation=_("The account's keys work again at once."),
            done=_("The account works again."),
            dangerous=False,
        )

    def _status_step(self, request: HttpRequest, account_id: UUID, *, deed: Any, done: Any, **page: Any) -> HttpResponse:
        account = get_object_or_404(Account, pk=account_id)
        if not self.has_change_permission(request, account):
            raise PermissionDenied
        form = ReasonForm(request.POST or None)
        address = change_url("billing.account", account.pk)
        if request.method != "POST" or not form.is_valid():
            return self.render_step(request, subtitle=account, form=form, back=address, **page)
        try:
            with transaction.atomic():
                deed(account=account, reason=form.cleaned_data["reason"], actor=operator_actor(request))
                self.log_change(request, account, str(done))
        except ApiError as error:
            self.message_user(request, error.text, messages.ERROR)
        else:
            self.message_user(request, done, messages.SUCCESS)
        return HttpResponseRedirect(address)

    def new_key_view(self, request: HttpRequest, account_id: UUID) -> HttpResponse:
        """Make a key and show its secret in this one answer: it is never stored, not even in a session."""
        if not request.user.has_perm("billing.add_apikey"):
            raise PermissionDenied
        account = get_object_or_404(Account, pk=account_id)
        form = NewKeyForm(request.POST or None)
        page: dict[str, Any] = {
            "title": _("New API key"),
            "subtitle": account,
            "back": change_url("billing.account", account.pk),
        }
        if request.method == "POST" and form.is_valid():
            try:
                with transaction.atomic():
                    key, secret = api_key_create(
                        account=account,
                        created_by=request.user,  # type: ignore[arg-type]
                        actor=operator_actor(request),
                        **form.cleaned_data,
                    )
                    self.log_change(request, account, f"Created API key {key}.")
            except ApiError as error:
                form.add_error(None, error.text)
            else:
                response = self.render_step(request, secret=secret, key=key, **page)
                add_never_cache_headers(response)
                return response
        return self.render_step(request, form=form, submit=_("Create the key"), **page)


class NamedEvents(ChangeList):
    """A page of events, with the names of their accounts in one query."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        events = list(self.result_list)
        ids = {event.account_id for event in events if event.account_id}
        names = dict(Account.objects.filter(pk__in=ids).values_list("pk", "name"))
        for event in events:
            event.account_name = names.get(event.account_id)
        self.result_list = events


admin.site.unregister(Event)


@admin.register(Event)
class NamedEventAdmin(EventAdmin):
    """The audit trail, with accounts by name."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return NamedEvents

    def account_name(self, event: Event) -> str:
        known = vars(event)
        if "account_name" not in known:
            account = Account.objects.filter(pk=event.account_id).first() if event.account_id is not None else None
            known["account_name"] = account.name if account is not None else None
        return Truncator(known["account_name"] or super().account_name(event)).chars(28)


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(AuditedModelAdmin, DjangoGroupAdmin):
    """Roles. Those that ship follow the product; others are the operators' own."""

    list_display = ("name", "shipped", "members")
    search_fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        groups: QuerySet[Group] = super().get_queryset(request)
        return groups.annotate(members_number=Count("user"))

    @admin.display(description=_("ships with the product"), boolean=True)
    def shipped(self, group: Group) -> bool:
        return group.name in ROLES

    @admin.display(description=_("operators"), ordering="members_number")
    def members(self, group: Group) -> SafeString:
        return list_link("billing.user", group.members_number, groups__id__exact=group.pk)  # type: ignore[attr-defined]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.name not in ROLES)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.name not in ROLES)


@admin.register(User)
class UserAdmin(AuditedModelAdmin, DjangoUserAdmin):  # type: ignore[type-arg]
    """Who logs in. A new user gets a personal account, a wallet and the first plan, as by registration."""

    form = UserEditForm
    add_form = UserAddForm
    list_display = ("email", "name", "is_staff", "is_active", "verified", "account_link", "date_joined", "last_login")
    list_filter = ("is_staff", "is_superuser", "is_active", "groups", "date_joined")
    list_select_related = ("personal_account",)
    search_fields = ("email", "name")
    search_uuid_fields = ("pk",)
    ordering = ("-date_joined",)
    readonly_fields = ("account_link", "operator_keys", "second_factor", "email_verified_at", "date_joined", "last_login")
    fieldsets = (
        (None, {"fields": ("email", "name", "language", "password", "account_link")}),
        (_("Rights"), {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        (_("As an operator"), {"fields": ("second_factor", "operator_keys")}),
        (_("Dates"), {"fields": ("email_verified_at", "date_joined", "last_login")}),
    )
    add_fieldsets = ((None, {"fields": ("email", "name", "language", "password1", "password2")}),)
    # Who could edit these could make themself a superuser.
    RIGHTS = ("is_staff", "is_superuser", "groups", "user_permissions")

    @admin.display(description=_("verified"), boolean=True)
    def verified(self, user: User) -> bool:
        return user.email_verified_at is not None

    @admin.display(description=_("personal account"))
    def account_link(self, user: User) -> SafeString:
        try:
            return change_link("billing.account", user.personal_account.pk, user.personal_account)
        except Account.DoesNotExist:
            return SafeString(EMPTY)

    @admin.display(description=_("operator's keys"))
    def operator_keys(self, user: User) -> SafeString:
        if not (user.pk and user.is_staff):
            return SafeString(EMPTY)
        new = format_html('<a href="{}">{}</a>', reverse("admin:billing_user_operator_key", args=[user.pk]), _("New key…"))
        account = Account.objects.filter(personal_of=user).first()
        keys = list_link("billing.apikey", _("Keys"), account__id__exact=account.pk) if account else EMPTY
        return format_html("{} · {}", keys, new)

    def get_urls(self) -> list[Any]:
        key = self.admin_site.admin_view(self.operator_key_view)
        reset = self.admin_site.admin_view(self.reset_two_factor_view)
        return [
            path("<uuid:user_id>/operator-key/", key, name="billing_user_operator_key"),
            path("<uuid:user_id>/reset-two-factor/", reset, name="billing_user_reset_two_factor"),
            *super().get_urls(),
        ]

    @admin.display(description=_("second factor"))
    def second_factor(self, user: User) -> SafeString:
        if not (user.pk and user.is_staff):
            return SafeString(EMPTY)
        if device_of(user) is None:
            return format_html("{}", _("not set up"))
        if not viewer_may(user, "auth.change_group"):
            return format_html("{}", _("set up"))
        address = reverse("admin:billing_user_reset_two_factor", args=[user.pk])
        return format_html('{} · <a href="{}">{}</a>', _("set up"), address, _("Reset…"))

    def reset_two_factor_view(self, request: HttpRequest, user_id: UUID) -> HttpResponse:
        """Ask why, then forget an operator's app and codes. Owners do it for others; of superusers only superusers."""
        if not self._may_appoint(request):
            raise PermissionDenied
        user = get_object_or_404(User, pk=user_id, is_staff=True)
        if user.pk == request.user.pk or (user.is_superuser and not request.user.is_superuser):
            raise PermissionDenied
        form, back = ReasonForm(request.POST or None), change_url("billing.user", user.pk)
        if request.method == "POST" and form.is_valid():
            reason = form.cleaned_data["reason"]
            with transaction.atomic():
                done = device_reset(user=user, actor=operator_actor(request), reason=reason)
                if done:
                    self.log_change(request, user, f"Reset the second factor. {reason}")
            told = _("The second factor is reset.") if done else _("There was no second factor.")
            self.message_user(request, told, messages.SUCCESS if done else messages.WARNING)
            return HttpResponseRedirect(back)
        return self.render_step(
            request,
            title=_("Reset the second factor?"),
            subtitle=user,
            form=form,
            submit=_("Reset it"),
            dangerous=True,
            explanation=_(
                "Their app and recovery codes stop working and their sessions end. They set up a new app at the next login."
            ),
            back=back,
        )

    def operator_key_view(self, request: HttpRequest, user_id: UUID) -> HttpResponse:
        """Make a key that may do what this operator may, and show its secret in this one answer."""
        if not request.user.has_perm("billing.add_apikey"):
            raise PermissionDenied
        user = get_object_or_404(User, pk=user_id, is_staff=True)
        form = OperatorKeyForm(request.POST or None)
        page: dict[str, Any] = {"title": _("New operator's key"), "subtitle": user, "back": change_url("billing.user", user.pk)}
        if request.method == "POST" and form.is_valid():
            try:
                with transaction.atomic():
                    key, secret = operator_key_create(user=user, actor=operator_actor(request), **form.cleaned_data)
                    self.log_change(request, user, f"Created operator's key {key}.")
            except ApiError as error:
                form.add_error(error.param if error.param in form.fields else None, error.text)
            else:
                response = self.render_step(request, secret=secret, key=key, **page)
                add_never_cache_headers(response)
                return response
        told = _("Programs that show it may do at /api/admin/ what this operator may. It ends with the operator's office.")
        return self.render_step(request, form=form, submit=_("Create the key"), explanation=told, **page)

    def event_account_id(self, row: User) -> UUID | None:
        return Account.objects.filter(personal_of=row).values_list("pk", flat=True).first()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        if request.user.is_superuser:
            return self.readonly_fields
        own = obj is not None and obj == request.user
        withheld = ("is_superuser", "user_permissions") if self._may_appoint(request) and not own else self.RIGHTS
        return (*self.readonly_fields, *withheld)

    def _may_appoint(self, request: HttpRequest) -> bool:
        """Whoever decides what groups may do also decides who is in them."""
        return request.user.has_perm("auth.change_group")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        somebody_else = obj is not None and obj != request.user and not request.user.is_superuser
        if somebody_else and (obj.is_superuser or (obj.is_staff and not self._may_appoint(request))):
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Operators' deeds in the log go with their user: switch the user off instead.
        return super().has_delete_permission(request, obj) and not obj.is_staff

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except ApiError as error:
            self.message_user(request, error.text, messages.ERROR)
            return HttpResponseRedirect(request.path)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        registration = customer_register(
            email=obj.email,
            password=form.cleaned_data["password1"],
            name=obj.name,
            language=obj.language,
            actor=operator_actor(request),
        )
        # The rest of the admin works on the form's own object.
        obj.__dict__.update(registration.user.__dict__)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """As Django's, and every session of the user ends."""
        with transaction.atomic():
            response = super().user_change_password(request, id, form_url)
            if request.method == "POST" and response.status_code == 302:
                user = User.objects.get(pk=id)
                sessions_revoke(user=user)
                self.event_write(request, user, "password_changed")
        return response
