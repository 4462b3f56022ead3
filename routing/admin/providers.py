"""Providers and our keys at them. Secrets go in and never come out."""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin, operator_actor
from billing.events.reasons import reason_text
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyInline,
    ReasonForm,
    change_link,
    change_url,
    link_column,
    list_link,
    moment_text,
)
from iafactory.common.errors import ApiError
from iafactory.common.formats import number_text
from routing.credentials import (
    Probe,
    credential_create,
    credential_disable,
    credential_enable,
    credential_rotate,
    credential_test,
)
from routing.models import ModelProfile, Provider, ProviderCredential


class ProfileInline(ReadOnlyInline):
    """The models of a provider."""

    model = ModelProfile
    fields = ("slug", "model", "upstream_model", "enabled", "cost_factor", "weight")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelProfile]:
        return super().get_queryset(request).select_related("model", "provider")


@admin.register(Provider)
class ProviderAdmin(AuditedModelAdmin):
    """Companies and servers that answer model calls."""

    list_display = ("name", "slug", "protocol", "base_url", "enabled", "draining", "priority", "explore")
    list_filter = ("enabled", "draining", "protocol")
    search_fields = ("slug", "name", "base_url")
    inlines = (ProfileInline,)
    readonly_fields = ("explore", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("slug", "name", "enabled", "draining", "priority", "explore")}),
        (_("Wire"), {"fields": ("protocol", "base_url", "quirks")}),
        (_("Capacity"), {"fields": ("requests_per_minute", "concurrent_calls")}),
        (
            _("Patience"),
            {"fields": ("connect_timeout_seconds", "first_byte_timeout_seconds", "read_timeout_seconds")},
        ),
        (_("History"), {"classes": ("collapse",), "fields": ("created_at", "updated_at")}),
    )

    @admin.display(description=_("see also"))
    def explore(self, provider: Provider) -> SafeString:
        if provider.pk is None:
            return SafeString(EMPTY)
        return format_html_join(
            " · ",
            "{}",
            (
                (list_link("routing.providercredential", _("Credentials"), provider__id__exact=provider.pk),),
                (list_link("routing.modelprofile", _("Profiles"), provider__id__exact=provider.pk),),
                (list_link("billing.usagerecord", _("Usage"), provider=provider.slug),),
            ),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Usage rows and plan routings know a provider by its slug.
        return (*self.readonly_fields, "slug") if obj is not None else self.readonly_fields


SECRET_WIDGET = forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password", "class": "vTextField"})


class CredentialForm(forms.ModelForm):  # type: ignore[type-arg]
    """Takes a secret without ever having one: the stored secret is not loaded, decrypted or rendered."""

    new_secret = forms.CharField(
        label=_("Secret"),
        strip=True,
        max_length=4096,
        widget=SECRET_WIDGET,
        help_text=_("Stored encrypted, never shown again."),
    )

    class Meta:
        model = ProviderCredential
        fields = ("provider", "label", "priority")


class RotateForm(ReasonForm):
    """A new secret for a credential, and why."""

    new_secret = forms.CharField(
        label=_("New secret"),
        strip=True,
        max_length=4096,
        widget=SECRET_WIDGET,
        help_text=_("Tried by one real call of a few tokens before it replaces the present one."),
    )
    untested = forms.BooleanField(
        label=_("Replace without trying it"),
        required=False,
        help_text=_("When the present secret has leaked and the provider does not answer."),
    )
    field_order = ("new_secret", "reason", "untested")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].widget.attrs.pop("autofocus", None)
        self.fields["reason"].help_text = _("Kept with the event and on the old credential.")


@admin.register(ProviderCredential)
class ProviderCredentialAdmin(AuditedModelAdmin):
    """Our keys at providers. They are replaced, tried and switched by their own buttons."""

    audit_hidden = ("secret", "new_secret")
    list_display = (
        "label",
        "provider_link",
        "end_of_secret",
        "state",
        "priority",
        "last_test",
        "disabled_reason",
        "created_at",
    )
    list_filter = ("enabled", "provider", "created_at")
    list_select_related = ("provider",)
    search_fields = ("label", "provider__slug", "provider__name", "last_four__exact")
    autocomplete_fields = ("provider",)
    actions = ("test_selected",)
    change_form_template = "admin/routing/with_steps.html"
    readonly_fields = ("end_of_secret", "state", "disabled_reason", "disabled_at", "last_test", "explore", "created_at")

    provider_link = link_column("provider", "routing.provider", _("provider"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderCredential]:
        return super().get_queryset(request).select_related("provider").defer("secret")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ((None, {"fields": ("provider", "label", "new_secret", "priority")}),)
        state = ("state", "disabled_reason", "disabled_at", "last_test")
        return (
            (None, {"fields": ("provider", "label", "end_of_secret", "priority")}),
            (_("State"), {"fields": (*state, "explore", "created_at")}),
        )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **({} if change else {"form": CredentialForm}), **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # A key of one company is never one of another.
        return (*self.readonly_fields, "provider") if obj is not None else self.readonly_fields

    @admin.display(description=_("stored secret"))
    def end_of_secret(self, credential: ProviderCredential) -> str:
        return f"…{credential.last_four}" if credential.last_four else str(_("set"))

    @admin.display(description=_("state"), ordering="enabled")
    def state(self, credential: ProviderCredential) -> SafeString:
        kind, text = ("active", _("in use")) if credential.enabled else ("revoked", _("disabled"))
        return format_html('<span class="state state-{}">{}</span>', kind, text)

    @admin.display(description=_("last test"), ordering="tested_at")
    def last_test(self, credential: ProviderCredential) -> SafeString:
        if credential.tested_at is None:
            return SafeString(EMPTY)
        kind, text = ("failed", _("failed")) if credential.test_result else ("passed", _("passed"))
        return format_html(
            '<span class="state state-{}">{}</span> <span class="moment">{} UTC</span>{}',
            kind,
            text,
            moment_text(credential.tested_at),
            format_html('<p class="help">{}</p>', reason_text(credential.test_result)) if credential.test_result else "",
        )

    @admin.display(description=_("see also"))
    def explore(self, credential: ProviderCredential) -> SafeString:
        own = {"object_type__exact": "provider_credential", "object_id__exact": credential.pk}
        others = list_link("routing.providercredential", _("All of the provider"), provider__id__exact=credential.provider_id)
        return format_html("{} · {}", list_link("billing.event", _("Events"), **own), others)

    def save_model(self, request: HttpRequest, obj: ProviderCredential, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        wanted = form.cleaned_data
        made = credential_create(
            provider=wanted["provider"],
            label=wanted["label"],
            secret=wanted["new_secret"],
            priority=wanted["priority"],
            actor=operator_actor(request),
        )
        # The rest of the admin works on the form's own object.
        obj.__dict__.update(made.__dict__)

    def write(self, obj: ProviderCredential, form: Any, change: bool) -> None:
        # Only what the form shows: the secret is not loaded, and a rotation meanwhile must survive.
        if form.changed_data:
            obj.save(update_fields=form.changed_data)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except ApiError as error:
            self.message_user(request, error.text, messages.ERROR)
            return HttpResponseRedirect(request.path)

    # --- Buttons ---

    def has_switch_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("routing.change_providercredential")

    def get_urls(self) -> list[Any]:
        def step(name: str, view: Any) -> Any:
            address = f"<uuid:credential_id>/{name}/"
            return path(address, self.admin_site.admin_view(view), name=f"routing_providercredential_{name}")

        return [
            step("rotate", self.rotate_view),
            step("test", self.test_view),
            step("enable", self.enable_view),
            step("disable", self.disable_view),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        credential = self.get_object(request, object_id)
        steps: list[tuple[str, Any, bool]] = []
        if credential is not None and self.has_switch_permission(request):

            def at(name: str) -> str:
                return reverse(f"admin:routing_providercredential_{name}", args=[credential.pk])

            # The third says whether pressing the button is the deed, or leads to a page that asks.
            steps = [(at("test"), _("Test now"), True), (at("rotate"), _("Rotate"), False)]
            switch = (at("disable"), _("Disable"), False) if credential.enabled else (at("enable"), _("Enable"), False)
            steps.append(switch)
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "steps": steps})

    def _credential(self, request: HttpRequest, credential_id: UUID) -> ProviderCredential:
        if not self.has_switch_permission(request):
            raise PermissionDenied
        return get_object_or_404(self.get_queryset(request), pk=credential_id)

    def _tell(self, request: HttpRequest, credential: ProviderCredential, probe: Probe) -> None:
        if probe.passed:
            text = _("%(name)s works: %(profile)s answered in %(ms)s ms.")
            told = {"name": credential, "profile": probe.profile, "ms": number_text(probe.latency_ms)}
            self.message_user(request, text % told, messages.SUCCESS)
        else:
            self.message_user(request, f"{credential}: {reason_text(probe.detail)}", messages.ERROR)

    def test_view(self, request: HttpRequest, credential_id: UUID) -> HttpResponse:
        """One real call now; its result is noted and shown."""
        credential = self._credential(request, credential_id)
        if request.method == "POST":
            self._tell(request, credential, credential_test(credential.pk, operator_actor(request)))
        return HttpResponseRedirect(change_url("routing.providercredential", credential.pk))

    @admin.action(description=_("Test now (one real call each, 5 at most)"), permissions=["switch"])
    def test_selected(self, request: HttpRequest, queryset: QuerySet[ProviderCredential]) -> None:
        for credential in queryset[:5]:
            self._tell(request, credential, credential_test(credential.pk, operator_actor(request)))

    def rotate_view(self, request: HttpRequest, credential_id: UUID) -> HttpResponse:
        """Ask for the new secret, try it, and put it in the place of the old one."""
        credential = self._credential(request, credential_id)
        form = RotateForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            wanted = form.cleaned_data
            try:
                new = credential_rotate(
                    credential.pk,
                    wanted["new_secret"],
                    operator_actor(request),
                    wanted["reason"],
                    untested=wanted["untested"],
                )
            except ApiError as error:
                form.add_error("new_secret", error.text)
            else:
                self.log_change(request, credential, "Rotated.")
                self.message_user(
                    request,
                    format_html(
                        str(_("The new secret is in use. The old one is kept, disabled: {}.")),
                        change_link("routing.providercredential", credential.pk, credential.label),
                    ),
                    messages.SUCCESS,
                )
                return HttpResponseRedirect(change_url("routing.providercredential", new.pk))
        return self.render_step(
            request,
            title=_("Rotate this credential"),
            subtitle=credential,
            form=form,
            submit=_("Try and replace"),
            explanation=_("Calls that begin after this use the new secret; those under way end with the old one."),
            back=change_url("routing.providercredential", credential.pk),
        )

    def enable_view(self, request: HttpRequest, credential_id: UUID) -> HttpResponse:
        """Ask why, then use the key again."""
        return self._switch_step(
            request,
            credential_id,
            enable=True,
            title=_("Enable this credential?"),
            submit=_("Enable"),
            explanation=_("Calls use it from now on. Test it first if it was disabled because the provider refused it."),
        )

    def disable_view(self, request: HttpRequest, credential_id: UUID) -> HttpResponse:
        """Ask why, then stop using the key."""
        return self._switch_step(
            request,
            credential_id,
            enable=False,
            title=_("Disable this credential?"),
            submit=_("Disable"),
            explanation=_("Within a second no call uses it; without another one the provider is not available."),
            dangerous=True,
        )

    def _switch_step(self, request: HttpRequest, credential_id: UUID, *, enable: bool, **page: Any) -> HttpResponse:
        credential = self._credential(request, credential_id)
        form = ReasonForm(request.POST or None)
        address = change_url("routing.providercredential", credential.pk)
        if request.method != "POST" or not form.is_valid():
            return self.render_step(request, subtitle=credential, form=form, back=address, **page)
        reason, actor = form.cleaned_data["reason"], operator_actor(request)
        if enable:
            credential_enable(credential.pk, actor, reason)
        else:
            credential_disable(credential.pk, reason, actor)
        said = _("The credential is in use.") if enable else _("The credential is disabled.")
        self.log_change(request, credential, str(said))
        self.message_user(request, said, messages.SUCCESS)
        return HttpResponseRedirect(address)
