"""API keys and memberships in the console. The account and user pages show every layer and live in `dashboard.console`."""

from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin, operator_actor
from iafactory.common import clock
from iafactory.common.admin import (
    ReadOnlyAdmin,
    ReasonForm,
    change_link,
    link_column,
    linked_filter,
    list_link,
    list_url,
    presence_filter,
    uuid_or_none,
)

from .models import Account, ApiKey, Membership
from .selectors import api_key_state
from .services import api_key_revoke


def accounts_matching(term: str) -> QuerySet[Account]:
    """Accounts that an operator may mean by `term`: name, e-mails, external id, beginning of a key, any of their ids."""
    term = term.strip()
    key_prefix = term[: ApiKey._meta.get_field("prefix").max_length].removesuffix("…")
    wanted = (
        Q(name__icontains=term) | Q(billing_email__icontains=term) | Q(external_id=term) | Q(personal_of__email__icontains=term)
    )
    if len(key_prefix) >= 4:
        wanted |= Q(pk__in=ApiKey.objects.filter(prefix__startswith=key_prefix[:10]).values("account_id"))
    if (identifier := uuid_or_none(term)) is not None:
        wanted |= (
            Q(pk=identifier)
            | Q(personal_of_id=identifier)
            | Q(pk__in=ApiKey.objects.filter(pk=identifier).values("account_id"))
        )
    return Account.objects.filter(wanted).order_by()


class AccountSearchMixin:
    """Search for lists of rows that belong to an account: its own ids (`search_uuid_fields`), exact texts
    (`search_exact_fields`), or whatever finds the account. Accounts are found first, so the list's own index serves."""

    search_fields: ClassVar[list[str] | tuple[str, ...]] = ("account",)
    search_account_field = "account"
    search_uuid_fields: Sequence[str] = ("pk",)
    search_exact_fields: tuple[str, ...] = ()

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        accounts = list(accounts_matching(term).values_list("pk", flat=True)[:200])
        wanted = Q(**{f"{self.search_account_field}__in": accounts})
        for field in self.search_exact_fields:
            wanted |= Q(**{field: term})
        if (identifier := uuid_or_none(term)) is not None:
            for field in self.search_uuid_fields:
                wanted |= Q(**{field: identifier})
        return queryset.filter(wanted), False


@admin.register(ApiKey)
class ApiKeyAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Keys are made on the account's page, revoked here, and never shown."""

    list_display = ("__str__", "name", "account_link", "state", "scope_list", "created_at", "last_used_at", "expires_at")
    list_filter = (
        presence_filter("revoked_at", _("revocation"), given=_("Revoked"), empty=_("Not revoked")),
        linked_filter("account", Account, _("account")),
        "created_at",
        "last_used_at",
    )
    list_select_related = ("account",)
    search_exact_fields = ("name", "last_four")
    search_help_text = _("Account, e-mail, beginning of the key, its name or its last four characters.")
    actions = ("revoke_selected",)
    fieldsets = (
        (None, {"fields": ("__str__", "name", "account_link", "state", "scope_list", "explore")}),
        (_("Life"), {"fields": ("created_at", "created_by", "last_used_at", "expires_at", "revoked_at")}),
        (_("Rotation"), {"fields": ("replaced_by_link",)}),
    )
    readonly_fields = ("__str__", "account_link", "state", "scope_list", "explore", "replaced_by_link")

    account_link = link_column("account", "billing.account", _("account"))
    replaced_by_link = link_column("replaced_by", "billing.apikey", _("replaced by"))

    @admin.display(description=_("state"))
    def state(self, key: ApiKey) -> SafeString:
        state = api_key_state(key, clock.now())
        return format_html('<span class="state state-{}">{}</span>', state, state)

    @admin.display(description=_("scopes"))
    def scope_list(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description=_("see also"))
    def explore(self, key: ApiKey) -> SafeString:
        return format_html_join(
            " · ",
            "{}",
            (
                (list_link("billing.usagerecord", _("Usage"), api_key__id__exact=key.pk),),
                (list_link("billing.event", _("Events"), object_type__exact="api_key", object_id__exact=key.pk),),
                (list_link("billing.apikey", _("All keys of the account"), account__id__exact=key.account_id),),
            ),
        )

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.change_apikey")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.revoke_view)
        return [path("revoke/", view, name="billing_apikey_revoke"), *super().get_urls()]

    @admin.action(description=_("Revoke the selected keys…"), permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse:
        keys = ",".join(str(key) for key in queryset.values_list("pk", flat=True)[:100])
        return HttpResponseRedirect(f"{reverse('admin:billing_apikey_revoke')}?keys={keys}")

    def revoke_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a reason, then end the keys named in `?keys=`."""
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        wanted = [found for text in request.GET.get("keys", "").split(",") if (found := uuid_or_none(text))]
        keys = list(ApiKey.objects.filter(pk__in=wanted, revoked_at__isnull=True).select_related("account"))
        if not keys:
            self.message_user(request, _("No key that could be revoked was chosen."), messages.WARNING)
            return HttpResponseRedirect(list_url("billing.apikey"))
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            for key in keys:
                api_key_revoke(key=key, actor=operator_actor(request), reason=form.cleaned_data["reason"])
                self.log_change(request, key, "Revoked.")
            self.message_user(
                request,
                format_html_join(", ", "{} {}", ((str(key), _("is revoked and opens nothing any more.")) for key in keys)),
                messages.SUCCESS,
            )
            target = keys[0].account_id
            return HttpResponseRedirect(list_url("billing.apikey", account__id__exact=target))
        return self.render_step(
            request,
            title=_("Revoke API keys"),
            form=form,
            submit=_("Revoke for good"),
            dangerous=True,
            explanation=_("The keys stop working within a second, everywhere. This cannot be undone."),
            items=[
                format_html("{} ({}) · {}", key, key.name, change_link("billing.account", key.account_id, key.account))
                for key in keys
            ],
            back=list_url("billing.apikey"),
        )


@admin.register(Membership)
class MembershipAdmin(AccountSearchMixin, AuditedModelAdmin):
    """Who may act for which account."""

    list_display = ("__str__", "account_link", "user_link", "role", "created_at")
    list_filter = ("role", linked_filter("account", Account, _("account")), "created_at")
    list_select_related = ("account", "user")
    autocomplete_fields = ("account", "user")
    search_uuid_fields = ("account_id", "user_id")
    search_exact_fields = ("user__email",)
    search_help_text = _("Account or e-mail.")

    account_link = link_column("account", "billing.account", _("account"))
    user_link = link_column("user", "billing.user", _("user"))

    def event_account_id(self, row: Membership) -> UUID:
        return row.account_id

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("account", "user") if obj is not None else ()
