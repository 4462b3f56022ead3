"""Outbound webhooks in the console: endpoints to disable and enable, deliveries to read and replay."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from billing.events.admin import operator_actor
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReasonForm,
    arrow,
    change_link,
    change_url,
    first_words,
    link_column,
    linked_filter,
    list_link,
    list_url,
    moment_column,
    moment_text,
    table,
    text_filter,
    viewer_may,
)
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid_or_none

from .models import WebhookDelivery, WebhookEndpoint
from .services import delivery_replay, endpoint_disable, endpoint_enable

_MOST_AT_ONCE = 100


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Addresses that customers want told. Their secrets are never shown."""

    list_display = ("short_url", "account_link", "state", "event_list", "last_success_at", "failing_since", "created_at")
    list_filter = (
        "is_enabled",
        "disabled_by",
        linked_filter("account", Account, _("account")),
        "failing_since",
        "created_at",
    )
    list_select_related = ("account",)
    search_exact_fields = ("url",)
    search_help_text = _("Endpoint id, its whole address, account or e-mail.")
    fieldsets = (
        (None, {"fields": ("url", "description", "account_link", "state", "event_list", "explore")}),
        (_("Health"), {"fields": ("last_success_at", "last_failure_at", "failing_since")}),
        (_("Disabled"), {"fields": ("disabled_at", "disabled_by", "disabled_reason", "notice_due_at")}),
        (_("Secret"), {"fields": ("previous_secret_until",)}),
    )
    readonly_fields = ("account_link", "state", "event_list", "explore")

    account_link = link_column("account", "billing.account", _("account"))

    @admin.display(description=_("address"), ordering="url")
    def short_url(self, endpoint: WebhookEndpoint) -> str:
        return Truncator(endpoint.url).chars(60)

    @admin.display(description=_("state"), ordering="is_enabled")
    def state(self, endpoint: WebhookEndpoint) -> SafeString:
        name, label = ("active", _("enabled")) if endpoint.is_enabled else ("revoked", _("disabled"))
        return format_html('<span class="state state-{}">{}</span>', name, label)

    @admin.display(description=_("events"))
    def event_list(self, endpoint: WebhookEndpoint) -> str:
        return ", ".join(endpoint.event_types)

    @admin.display(description=_("see also"))
    def explore(self, endpoint: WebhookEndpoint) -> SafeString:
        name, label = ("disable", _("Disable…")) if endpoint.is_enabled else ("enable", _("Enable…"))
        act = reverse("admin:billing_webhookendpoint_act", args=[endpoint.pk, name])
        may_act = viewer_may(endpoint, "billing.disable_webhookendpoint")
        return format_html_join(
            " · ",
            "{}",
            (
                (list_link("billing.webhookdelivery", _("Deliveries"), endpoint__id__exact=endpoint.pk),),
                (list_link("billing.event", _("Events"), object_type__exact="webhook_endpoint", object_id__exact=endpoint.pk),),
                *([(format_html('<a href="{}">{}</a>', act, label),)] if may_act else []),
            ),
        )

    def has_disable_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.disable_webhookendpoint")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.act_view)
        return [path("<uuid:endpoint_id>/<str:name>/act/", view, name="billing_webhookendpoint_act"), *super().get_urls()]

    def act_view(self, request: HttpRequest, endpoint_id: UUID, name: str) -> HttpResponse:
        """Ask why, then disable or enable one endpoint."""
        if name not in ("disable", "enable") or not self.has_disable_permission(request):
            raise PermissionDenied
        endpoint = get_object_or_404(WebhookEndpoint, pk=endpoint_id)
        disable = name == "disable"
        address = change_url("billing.webhookendpoint", endpoint.pk)
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            actor, reason = operator_actor(request), form.cleaned_data["reason"]
            if disable:
                by = WebhookEndpoint.DisabledBy.OPERATOR
                endpoint_disable(endpoint=endpoint, by=by, actor=actor, reason=reason)
            else:
                endpoint_enable(endpoint=endpoint, actor=actor, by_operator=True, reason=reason)
            done = _("Disabled.") if disable else _("Enabled.")
            self.log_change(request, endpoint, f"{done} {reason}")
            self.message_user(request, done, messages.SUCCESS)
            return HttpResponseRedirect(address)
        explanation = (
            _("Nothing is sent to it any more, and what waits is canceled. Only an operator can enable it again.")
            if disable
            else _("New events are sent to it again. What it missed can be replayed.")
        )
        return self.render_step(
            request,
            title=_("Disable a webhook endpoint") if disable else _("Enable a webhook endpoint"),
            subtitle=endpoint,
            form=form,
            submit=_("Disable") if disable else _("Enable"),
            dangerous=disable,
            explanation=explanation,
            back=address,
        )


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    """Messages to customers' endpoints, with every attempt."""

    list_display = ("moment", "event_type", "endpoint_link", "kind", "state_label", "attempts", "last_answer", "next_moment")
    list_filter = (
        "state",
        "kind",
        text_filter("event_type", _("event")),
        text_filter("last_error", _("last error")),
        linked_filter("endpoint", WebhookEndpoint, _("endpoint")),
        linked_filter("endpoint__account", Account, _("account")),
        "created_at",
    )
    list_select_related = ("endpoint",)
    search_fields = ("message_id__exact",)
    search_uuid_fields = ("pk", "event_id", "endpoint_id", "endpoint__account_id")
    search_help_text = _("Id of the delivery, endpoint, account or event, or a webhook-id.")
    actions = ("replay_selected",)
    fieldsets = (
        (
            None,
            {"fields": ("event_type", "message_id", "kind", "state_label", "endpoint_link", "event_link", "replay_of_link")},
        ),
        (_("Life"), {"fields": ("created_at", "attempts", "next_attempt_at", "leased_until", "finished_at", "last_answer")}),
        (_("Attempts"), {"fields": ("attempt_table",)}),
        (_("Message"), {"fields": ("body_block",)}),
    )
    readonly_fields = (
        "state_label",
        "endpoint_link",
        "event_link",
        "replay_of_link",
        "last_answer",
        "attempt_table",
        "body_block",
    )

    moment = moment_column("created_at", _("at, UTC"))
    next_moment = moment_column("next_attempt_at", _("next attempt, UTC"))
    endpoint_link = link_column("endpoint", "billing.webhookendpoint", _("endpoint"))

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, delivery: WebhookDelivery) -> SafeString:
        label = first_words(delivery.get_state_display())
        return format_html('<span class="state state-{}">{}</span>', delivery.state, label)

    @admin.display(description=_("event"))
    def event_link(self, delivery: WebhookDelivery) -> SafeString:
        return change_link("billing.event", delivery.event_id)

    @admin.display(description=_("replay of"))
    def replay_of_link(self, delivery: WebhookDelivery) -> SafeString:
        return change_link("billing.webhookdelivery", delivery.replay_of_id)

    @admin.display(description=_("last answer"))
    def last_answer(self, delivery: WebhookDelivery) -> str:
        if not delivery.attempts:
            return EMPTY
        return f"{delivery.last_status or EMPTY} {delivery.last_error}".strip()

    @admin.display(description=_("attempts"))
    def attempt_table(self, delivery: WebhookDelivery) -> SafeString:
        headings = (_("number"), _("at, UTC"), _("milliseconds"), _("status"), _("error"), _("answer"))
        rows = [
            (
                attempt.number,
                moment_text(attempt.at),
                attempt.duration_ms,
                attempt.status or EMPTY,
                attempt.error or EMPTY,
                attempt.response,
            )
            for attempt in delivery.log.all()
        ]
        return table(headings, rows) if rows else SafeString(EMPTY)

    @admin.display(description=_("body"))
    def body_block(self, delivery: WebhookDelivery) -> SafeString:
        return format_html('<pre class="json">{}</pre>', delivery.body)

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.replay_webhookdelivery")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.replay_view)
        return [path("replay/", view, name="billing_webhookdelivery_replay"), *super().get_urls()]

    @admin.action(description=_("Replay the selected deliveries…"), permissions=["replay"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> HttpResponse:
        wanted = ",".join(str(found) for found in queryset.values_list("pk", flat=True)[:_MOST_AT_ONCE])
        return HttpResponseRedirect(f"{reverse('admin:billing_webhookdelivery_replay')}?deliveries={wanted}")

    def replay_view(self, request: HttpRequest) -> HttpResponse:
        """Ask why, then send the deliveries named in `?deliveries=` again."""
        if not self.has_replay_permission(request):
            raise PermissionDenied
        wanted = [found for text in request.GET.get("deliveries", "").split(",") if (found := uuid_or_none(text))]
        chosen = list(WebhookDelivery.objects.filter(pk__in=wanted[:_MOST_AT_ONCE]).select_related("endpoint"))
        if not chosen:
            self.message_user(request, _("There is nothing to replay."), messages.WARNING)
            return HttpResponseRedirect(list_url("billing.webhookdelivery"))
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            queued = 0
            refused: dict[str, int] = {}
            for delivery in chosen:
                try:
                    delivery_replay(delivery=delivery, actor=operator_actor(request), reason=form.cleaned_data["reason"])
                except ApiError as error:
                    refused[error.text] = refused.get(error.text, 0) + 1
                else:
                    queued += 1
                    self.log_change(request, delivery, "Replayed.")
            if queued:
                self.message_user(request, _("Queued again: %d.") % queued, messages.SUCCESS)
            for message, count in refused.items():
                self.message_user(request, f"{count} × {message}", messages.WARNING)
            return HttpResponseRedirect(list_url("billing.webhookdelivery"))
        return self.render_step(
            request,
            title=_("Replay webhook deliveries"),
            form=form,
            submit=_("Send again"),
            explanation=_(
                "The same messages are sent again under the same webhook-id; receivers may take them for repetitions."
            ),
            items=[
                format_html("{} {} {}", delivery, arrow(), Truncator(delivery.endpoint.url).chars(60)) for delivery in chosen
            ],
            back=list_url("billing.webhookdelivery"),
        )
