"""Payment gateways' webhooks in the console: what they said, what the gateway said when asked, and a way to work them again."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from billing.events.admin import operator_actor
from billing.payments.gateways.exchange import read_json
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReasonForm,
    ValuesFilter,
    first_words,
    json_block,
    list_url,
    moment_column,
    object_url,
    table,
    text_filter,
    viewer_may,
)
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid_or_none

from .models import GatewayWebhook
from .working import webhook_replay

_MOST_AT_ONCE = 100
# What payload and truth are compared by, where both have it.
_STATES = ("id", "status", "payment_status", "unmappedstatus")
_TELLING = (*_STATES, "amount", "amount_total", "amt", "value", "currency", "currency_code")


@admin.register(GatewayWebhook)
class GatewayWebhookAdmin(ReadOnlyAdmin):
    """Every webhook as it arrived, newest first. Rejected ones are kept for a week."""

    list_display = ("moment", "gateway", "event_type", "state_label", "payment_column", "short_note", "deliveries", "attempts")
    list_filter = (
        "state",
        "gateway",
        "mode",
        ("subject", ValuesFilter),
        "signed",
        text_filter("event_type", _("event")),
        text_filter("rejection", _("rejection")),
        "received_at",
    )
    list_select_related = ("payment",)
    search_fields = ("event_id__exact", "reference__exact", "checkout_id__exact", "gateway_payment_id__exact")
    search_uuid_fields = ("pk", "payment_id", "payment__account_id", "payment__invoice_id")
    search_help_text = _(
        "Id of the event, checkout or payment at the gateway; our reference; id of payment, account or invoice."
    )
    actions = ("replay_selected",)
    fieldsets = (
        (None, {"fields": ("gateway", "mode", "event_type", "event_id", "state_label", "payment_column", "note", "replay")}),
        (_("Told and true"), {"fields": ("comparison",)}),
        (_("What it said"), {"fields": ("payload_block",)}),
        (_("What the gateway said when asked"), {"fields": ("truth_block",)}),
        (
            _("How it came"),
            {"fields": ("received_at", "source_address", "headers_block", "signed", "verified_at", "rejection", "body_sha256")},
        ),
        (_("Work"), {"fields": ("deliveries", "attempts", "next_attempt_at", "worked_at")}),
    )
    readonly_fields = ("state_label", "payment_column", "replay", "comparison", "payload_block", "truth_block", "headers_block")

    moment = moment_column("received_at", _("at, UTC"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[GatewayWebhook]:
        queryset: QuerySet[GatewayWebhook] = super().get_queryset(request)
        name = request.resolver_match.url_name if request.resolver_match else None
        # Lists need no bodies.
        return queryset.defer("body", "truth", "headers") if (name or "").endswith("_changelist") else queryset

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, webhook: GatewayWebhook) -> SafeString:
        label = first_words(webhook.get_state_display())
        return format_html('<span class="state state-{}">{}</span>', webhook.state, label)

    @admin.display(description=_("payment"))
    def payment_column(self, webhook: GatewayWebhook) -> SafeString:
        payment = webhook.payment
        if payment is None:
            return SafeString(EMPTY)
        url = object_url("payment", str(payment.pk))
        name = f"{payment.reference} ({payment.state})"
        return format_html('<a href="{}">{}</a>', url, name) if url else format_html("{}", name)

    @admin.display(description=_("note"))
    def short_note(self, webhook: GatewayWebhook) -> str:
        return Truncator(webhook.note or webhook.rejection or EMPTY).chars(60)

    @admin.display(description=_("told and true"))
    def comparison(self, webhook: GatewayWebhook) -> SafeString:
        """What payload and truth both name, side by side, with what we asked for."""
        told, true = dict(_leaves(payload_of(webhook))), dict(_leaves(webhook.truth))
        rows: list[tuple[Any, Any, Any]] = [
            (name, told.get(name, EMPTY), true.get(name, EMPTY)) for name in _TELLING if name in told or name in true
        ]
        if webhook.payment is not None:
            asked = f"{webhook.payment.amount.normalize():f} {webhook.payment.currency}"
            rows.append((_("we asked for"), asked, webhook.payment.reference))
        return table((_("field"), _("webhook"), _("gateway")), rows)

    @admin.display(description=_("payload"))
    def payload_block(self, webhook: GatewayWebhook) -> SafeString:
        return json_block(payload_of(webhook))

    @admin.display(description=_("truth"))
    def truth_block(self, webhook: GatewayWebhook) -> SafeString:
        return json_block(webhook.truth)

    @admin.display(description=_("headers"))
    def headers_block(self, webhook: GatewayWebhook) -> SafeString:
        return json_block(webhook.headers)

    @admin.display(description=_("again"))
    def replay(self, webhook: GatewayWebhook) -> SafeString:
        if not (_replayable(webhook) and viewer_may(webhook, "billing.replay_gatewaywebhook")):
            return SafeString(EMPTY)
        return format_html('<a class="button" href="{}">{}</a>', _replay_url([webhook]), _("Work it again…"))

    # --- Replay ---

    def has_replay_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("billing.replay_gatewaywebhook")

    @admin.action(description=_("Work the selected webhooks again…"), permissions=["replay"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet[GatewayWebhook]) -> HttpResponse:
        return HttpResponseRedirect(_replay_url(list(queryset.only("pk")[:_MOST_AT_ONCE])))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.replay_view)
        return [path("replay/", view, name="billing_gatewaywebhook_replay"), *super().get_urls()]

    def replay_view(self, request: HttpRequest) -> HttpResponse:
        """Ask why, then have the webhooks named in `?webhooks=` worked again."""
        if not self.has_replay_permission(request):
            raise PermissionDenied
        wanted = [pk for text in request.GET.get("webhooks", "").split(",") if (pk := uuid_or_none(text))]
        named = GatewayWebhook.objects.filter(pk__in=wanted[:_MOST_AT_ONCE]).select_related("payment").order_by("received_at")
        webhooks = [webhook for webhook in named if _replayable(webhook)]
        if not webhooks:
            self.message_user(request, _("None of these can be worked again."), messages.WARNING)
            return HttpResponseRedirect(list_url("billing.gatewaywebhook"))
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            reason, done = form.cleaned_data["reason"], 0
            for webhook in webhooks:
                try:
                    webhook_replay(webhook=webhook, actor=operator_actor(request), reason=reason)
                except ApiError as error:
                    self.message_user(request, f"{webhook}: {error.text}", messages.WARNING)
                    continue
                done += 1
                self.log_change(request, webhook, f"replayed: {reason}")
            self.message_user(request, _("%(count)d to be worked again.") % {"count": done}, messages.SUCCESS)
            return HttpResponseRedirect(list_url("billing.gatewaywebhook"))
        return self.render_step(
            request,
            title=_("Work webhooks again"),
            form=form,
            submit=_("Work again"),
            explanation=_("Each is looked up at its gateway once more. What it brought about before does not happen twice."),
            items=[f"{webhook.received_at:%Y-%m-%d %H:%M:%S} {webhook} {webhook.note}" for webhook in webhooks],
            back=list_url("billing.gatewaywebhook"),
        )


def payload_of(webhook: GatewayWebhook) -> Any:
    """A webhook's body as data, whatever the gateway's format; as text when it is neither JSON nor a form."""
    body = bytes(webhook.body)
    try:
        return read_json(body)
    except ValueError:
        words = body.decode(errors="replace")
    return dict(parse_qsl(words, keep_blank_values=True)) or {"body": words[:2000]}


def _leaves(data: Any) -> Iterator[tuple[str, Any]]:
    """The telling fields of nested data by name; the outermost come last, so that they count."""
    if isinstance(data, Mapping):
        for value in data.values():
            yield from _leaves(value)
        plain = {name: value for name, value in data.items() if not isinstance(value, dict | list)}
        yield from ((name, plain[name]) for name in _TELLING if name in plain)
    elif isinstance(data, list):
        for value in data:
            yield from _leaves(value)


def _replayable(webhook: GatewayWebhook) -> bool:
    return GatewayWebhook.State.REPLAYED in GatewayWebhook.MOVES[webhook.state]


def _replay_url(webhooks: list[GatewayWebhook]) -> str:
    address = reverse("admin:billing_gatewaywebhook_replay")
    return f"{address}?webhooks={','.join(str(webhook.pk) for webhook in webhooks)}"
