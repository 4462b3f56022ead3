"""API keys, limits of accounts and memberships. The account and user pages show every layer: `dashboard.console`."""

from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.forms import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin, operator_actor
from billing.events.services import Actor
from iafactory.common import clock
from iafactory.common.admin import (
    ReadOnlyAdmin,
    ReasonForm,
    change_link,
    change_url,
    link_column,
    linked_filter,
    list_link,
    list_url,
    presence_filter,
    table,
    viewer_may,
)
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid_or_none

from .key_limits import API_KEY_LIMITS
from .models import Account, AccountLimits, ApiKey, Membership
from .selectors import accounts_matching, api_key_state
from .services import ACCOUNT_LIMITS, account_limits_set, api_key_limits_set, api_key_revoke

# What `api_key_state` says, for people.
KEY_STATES = {"active": _("active"), "revoked": _("revoked"), "expired": _("expired")}


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


class LinesField(forms.Field):
    """A list of texts, one a line; empty lines do not count."""

    widget = forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:
        if isinstance(value, list):
            return value
        if "\0" in (value or ""):
            raise forms.ValidationError(_("Null characters are not allowed."))
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(initial) != self.to_python(data)


class KeyLimitsForm(ReasonForm):
    """Everything that narrows one key; the fields are `API_KEY_LIMITS`."""

    requests_per_minute = forms.IntegerField(label=_("Requests per minute"), min_value=0, required=False)
    tokens_per_minute = forms.IntegerField(label=_("Tokens per minute"), min_value=0, required=False)
    concurrent_calls = forms.IntegerField(label=_("Calls at the same time"), min_value=0, required=False)
    daily_credits = forms.DecimalField(label=_("Credits a day"), min_value=0, max_digits=20, decimal_places=6, required=False)
    monthly_credits = forms.DecimalField(
        label=_("Credits a calendar month"), min_value=0, max_digits=20, decimal_places=6, required=False
    )
    allowed_networks = LinesField(
        label=_("Networks"), required=False, help_text=_("Addresses or CIDR networks, one a line. Empty: everywhere.")
    )
    allowed_models = LinesField(label=_("Models"), required=False, help_text=_("One a line. Empty: all of the plan's."))
    allowed_endpoints = LinesField(
        label=_("Endpoints"), required=False, help_text=_("Paths such as /v1/chat/completions, one a line. Empty: all.")
    )
    allowed_origins = LinesField(
        label=_("Origins"), required=False, help_text=_("Of browsers, such as https://app.example, one a line. Empty: all.")
    )
    field_order = API_KEY_LIMITS


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
        (_("Limits of this key"), {"fields": ("limits_table",)}),
        (_("Life"), {"fields": ("created_at", "created_by", "last_used_at", "last_used_from", "expires_at", "revoked_at")}),
        (_("Rotation"), {"fields": ("replaced_by_link",)}),
    )
    readonly_fields = ("__str__", "account_link", "state", "scope_list", "explore", "limits_table", "replaced_by_link")

    account_link = link_column("account", "billing.account", _("account"))
    replaced_by_link = link_column("replaced_by", "billing.apikey", _("replaced by"))

    @admin.display(description=_("state"))
    def state(self, key: ApiKey) -> SafeString:
        state = api_key_state(key, clock.now())
        return format_html('<span class="state state-{}">{}</span>', state, KEY_STATES.get(state, state))

    @admin.display(description=_("scopes"))
    def scope_list(self, key: ApiKey) -> str:
        return " · ".join(str(ApiKey.Scope(scope).label) if scope in ApiKey.Scope else scope for scope in key.scopes)

    @admin.display(description=_("limits"))
    def limits_table(self, key: ApiKey) -> SafeString:
        def told(value: Any) -> Any:
            return ", ".join(value) if isinstance(value, list) else value

        limits = [(ApiKey._meta.get_field(name), getattr(key, name)) for name in API_KEY_LIMITS]
        rows = [(field.verbose_name, told(value)) for field, value in limits if value not in (None, [])]  # type: ignore[union-attr]
        link = SafeString("")
        if viewer_may(key, "billing.change_apikey"):
            link = format_html(
                '<a href="{}">{}</a>', reverse("admin:billing_apikey_limits", args=[key.pk]), _("Change limits…")
            )
        return format_html("{} {}", table((_("limit"), _("value")), rows) if rows else _("Those of the plan."), link)

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
        return [
            path("revoke/", self.admin_site.admin_view(self.revoke_view), name="billing_apikey_revoke"),
            path("<uuid:key_id>/limits/", self.admin_site.admin_view(self.limits_view), name="billing_apikey_limits"),
            *super().get_urls(),
        ]

    def limits_view(self, request: HttpRequest, key_id: UUID) -> HttpResponse:
        """Narrow one key, or give it back what the plan gives."""
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        key = get_object_or_404(ApiKey, pk=key_id)
        form = KeyLimitsForm(request.POST or None, initial={name: getattr(key, name) for name in API_KEY_LIMITS})
        address = change_url("billing.apikey", key.pk)
        if request.method == "POST" and form.is_valid():
            try:
                with transaction.atomic():
                    api_key_limits_set(key=key, actor=operator_actor(request), **form.cleaned_data)
                    self.log_change(request, key, "Changed limits.")
            except ApiError as error:
                form.add_error(error.param if error.param in form.fields else None, error.text)
            else:
                self.message_user(request, _("The key's limits apply from now on."), messages.SUCCESS)
                return HttpResponseRedirect(address)
        return self.render_step(
            request,
            title=_("Limits of this key"),
            subtitle=key,
            form=form,
            submit=_("Set these limits"),
            explanation=_("Empty fields narrow nothing: the plan's limits apply. Effective within a second."),
            back=address,
        )

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


@admin.register(AccountLimits)
class AccountLimitsAdmin(AccountSearchMixin, AuditedModelAdmin):
    """What stands in the place of a plan's limits, account by account."""

    list_display = ("__str__", *ACCOUNT_LIMITS, "until", "reason")
    list_filter = ("until", "updated_at", linked_filter("account", Account, _("account")))
    list_select_related = ("account",)
    autocomplete_fields = ("account",)
    search_uuid_fields = ("account_id",)
    search_help_text = _("Account or e-mail.")
    fieldsets = (
        (None, {"fields": ("account", "reason", "until")}),
        (_("In the place of the plan's"), {"fields": ACCOUNT_LIMITS}),
    )

    def event_account_id(self, row: AccountLimits) -> UUID:
        return row.account_id

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("account",) if obj is not None else ()


class AccountLimitsFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """Saves through the service, which writes the event."""

    # Who fills it in.
    actor: Actor

    def clean(self) -> None:
        super().clean()
        for form in self.forms:
            wanted = form.cleaned_data if form.is_valid() else {}
            if wanted and not wanted.get("DELETE") and all(wanted.get(name) is None for name in ACCOUNT_LIMITS):
                form.add_error(None, _("Set at least one limit, or delete them all."))

    def save_new(self, form: Any, commit: bool = True) -> Any:
        return self._set(form)

    def save_existing(self, form: Any, obj: Any, commit: bool = True) -> Any:
        return self._set(form)

    def delete_existing(self, obj: AccountLimits, commit: bool = True) -> None:
        account_limits_set(account=obj.account, actor=self.actor, reason="limits removed")

    def _set(self, form: Any) -> Any:
        wanted = form.cleaned_data
        limits = {name: wanted[name] for name in ACCOUNT_LIMITS}
        return account_limits_set(
            account=self.instance, actor=self.actor, reason=wanted["reason"], until=wanted["until"], **limits
        )


class AccountLimitsInline(admin.StackedInline):  # type: ignore[type-arg]
    """An account's own limits, on its page."""

    model = AccountLimits
    formset = AccountLimitsFormSet
    extra = 0
    fields = (ACCOUNT_LIMITS[:3], ACCOUNT_LIMITS[3:], ("until", "reason"))
    classes = ("collapse",)

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset = super().get_formset(request, obj, **kwargs)
        return type(formset.__name__, (formset,), {"actor": operator_actor(request)})


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
