"""Alerts in the console: what is open, which rules look at what, whom it is told to, and what was sent."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.admin import AuditedModelAdmin, operator_actor
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ConsoleAdmin,
    ReadOnlyAdmin,
    ReadOnlyInline,
    ReasonForm,
    change_url,
    json_block,
    link_column,
    linked_filter,
    list_link,
    moment_column,
    moment_text,
)
from iafactory.common.errors import ApiError
from iafactory.common.formats import span_text

from .conditions import CONDITIONS
from .models import Alert, AlertDelivery, AlertRule, AlertTarget, Level
from .services import alert_acknowledge, target_service, target_test, thresholds_checked

MARKS = {Level.INFO: "passed", Level.WARNING: "warning", Level.CRITICAL: "failed"}
STATE_MARKS = {
    AlertDelivery.State.PENDING: "warning",
    AlertDelivery.State.SENT: "passed",
    AlertDelivery.State.FAILED: "failed",
    AlertDelivery.State.CANCELED: "canceled",
}
# The longest one that an operator can choose is the longest that services take.
SILENCES = (
    (1, _("1 hour")),
    (4, _("4 hours")),
    (24, _("1 day")),
    (72, _("3 days")),
    (168, _("1 week")),
    (720, _("30 days")),
)


def mark(kind: str, text: Any) -> SafeString:
    return format_html('<span class="state state-{}">{}</span>', kind, text)


class AcknowledgeForm(ReasonForm):
    """For how long an alert is not repeated, and why."""

    hours = forms.TypedChoiceField(label=_("Silent for"), choices=SILENCES, coerce=int, initial=24)
    field_order = ("hours", "reason")


class DeliveryInline(ReadOnlyInline):
    """The messages about an alert."""

    model = AlertDelivery
    fields = ("occasion", "target", "state", "attempts", "last_error", "created_at", "finished_at")
    readonly_fields = fields
    ordering = ("-created_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertDelivery]:
        found: QuerySet[AlertDelivery] = super().get_queryset(request).select_related("target").defer("target__address")
        return found


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """What is wrong now, and what was."""

    list_display = (
        "level_mark",
        "shown_title",
        "state_mark",
        "rule_link",
        "opened",
        "last_seen",
        "silence",
        "notices",
        "rows_link",
    )
    list_display_links = ("shown_title",)
    list_filter = ("state", "level", linked_filter("rule", AlertRule, _("rule")), "opened_at")
    list_select_related = ("rule",)
    search_fields = ("title", "subject", "rule__code")
    search_help_text = _("Title, subject, or code of a rule.")
    # Open before resolved.
    ordering = ("state", "-opened_at")
    inlines = (DeliveryInline,)
    change_form_template = "admin/routing/with_steps.html"
    fieldsets = (
        (None, {"fields": ("shown_title", "level_mark", "state_mark", "shown_text", "rows_link", "rule_link", "subject")}),
        (_("Figures"), {"fields": ("figures_block",)}),
        (_("When"), {"fields": ("opened_at", "last_seen_at", "resolved_at", "notified_at", "notices")}),
        (_("Acknowledged"), {"fields": ("silenced_until", "acknowledged_by", "acknowledged_reason", "events_link")}),
    )
    readonly_fields = (
        "shown_title",
        "shown_text",
        "level_mark",
        "state_mark",
        "rows_link",
        "rule_link",
        "figures_block",
        "events_link",
    )

    rule_link = link_column("rule", "dashboard.alertrule", _("rule"))
    opened = moment_column("opened_at", _("since, UTC"))
    last_seen = moment_column("last_seen_at", _("last seen, UTC"))

    @admin.display(description=_("title"), ordering="title")
    def shown_title(self, alert: Alert) -> str:
        return alert.shown_title

    @admin.display(description=_("text"))
    def shown_text(self, alert: Alert) -> str:
        return alert.shown_text

    @admin.display(description=_("level"), ordering="level")
    def level_mark(self, alert: Alert) -> SafeString:
        return mark(MARKS[Level(alert.level)], alert.get_level_display())

    @admin.display(description=_("state"), ordering="state")
    def state_mark(self, alert: Alert) -> SafeString:
        return mark("passed" if alert.state == Alert.State.RESOLVED else "warning", alert.get_state_display())

    @admin.display(description=_("silent until, UTC"), ordering="silenced_until")
    def silence(self, alert: Alert) -> str:
        until = alert.silenced_until
        return EMPTY if until is None else f"{moment_text(until)} · {alert.acknowledged_by}"

    @admin.display(description=_("rows behind it"))
    def rows_link(self, alert: Alert) -> SafeString:
        return format_html('<a href="{}">{}</a>', alert.link, _("Show")) if alert.link else SafeString(EMPTY)

    @admin.display(description=_("figures"))
    def figures_block(self, alert: Alert) -> SafeString:
        return json_block(alert.figures)

    @admin.display(description=_("see also"))
    def events_link(self, alert: Alert) -> SafeString:
        return list_link("billing.event", _("Events"), object_type__exact="alert", object_id__exact=alert.pk)

    def has_acknowledge_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("dashboard.acknowledge_alert")

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.acknowledge_view)
        return [path("<uuid:alert_id>/acknowledge/", view, name="dashboard_alert_acknowledge"), *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        alert = self.get_object(request, object_id)
        steps = []
        if alert is not None and alert.state == Alert.State.OPEN and self.has_acknowledge_permission(request):
            steps = [(reverse("admin:dashboard_alert_acknowledge", args=[alert.pk]), _("Acknowledge"), False)]
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "steps": steps})

    def acknowledge_view(self, request: HttpRequest, alert_id: UUID) -> HttpResponse:
        """Ask for how long and why, then stop repeating the alert."""
        if not self.has_acknowledge_permission(request):
            raise PermissionDenied
        alert = get_object_or_404(Alert, pk=alert_id)
        form = AcknowledgeForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            until = clock.now() + timedelta(hours=form.cleaned_data["hours"])
            try:
                alert_acknowledge(alert.pk, until=until, actor=operator_actor(request), reason=form.cleaned_data["reason"])
            except ApiError as error:
                form.add_error(None, error.text)
            else:
                self.message_user(request, _("Not repeated before %s UTC.") % moment_text(until), messages.SUCCESS)
                return HttpResponseRedirect(change_url("dashboard.alert", alert.pk))
        return self.render_step(
            request,
            title=_("Acknowledge this alert"),
            subtitle=alert,
            form=form,
            submit=_("Acknowledge"),
            explanation=_("It stays open and is not repeated meanwhile. That it gets worse, or is over, is told all the same."),
            back=change_url("dashboard.alert", alert.pk),
        )


class RuleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rule with thresholds that its kind knows."""

    class Meta:
        model = AlertRule
        fields = (
            "code",
            "name",
            "kind",
            "level",
            "is_enabled",
            "thresholds",
            "repeat_minutes",
            "quiet_from",
            "quiet_until",
            "quiet_zone",
            "critical_passes",
            "targets",
        )

    def clean(self) -> dict[str, Any]:
        wanted = super().clean() or {}
        kind = wanted.get("kind") or self.instance.kind
        if kind and "thresholds" in wanted:
            try:
                wanted["thresholds"] = thresholds_checked(kind, wanted["thresholds"] or {})
            except forms.ValidationError as error:
                self.add_error("thresholds", error)
        return wanted


@admin.register(AlertRule)
class AlertRuleAdmin(AuditedModelAdmin):
    """What is looked at, from when on it matters, and who is told how often."""

    form = RuleForm
    list_display = (
        "shown_name",
        "kind",
        "level_mark",
        "is_enabled",
        "repeat",
        "quiet_hours",
        "looked",
        "look_error",
        "open_link",
    )
    list_filter = ("is_enabled", "kind", "level")
    search_fields = ("code", "name")
    filter_horizontal = ("targets",)
    readonly_fields = ("looked_at", "look_error", "shipped_thresholds", "open_link")
    fieldsets = (
        (None, {"fields": ("code", "name", "kind", "level", "is_enabled", "open_link")}),
        (_("When it matters"), {"fields": ("thresholds", "shipped_thresholds", "looked_at", "look_error")}),
        (_("Who is told, and when"), {"fields": ("targets", "repeat_minutes")}),
        (_("Quiet hours"), {"fields": (("quiet_from", "quiet_until"), "quiet_zone", "critical_passes")}),
    )

    looked = moment_column("looked_at", _("last look, UTC"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Alerts of one kind are never those of another.
        return (*self.readonly_fields, "code", "kind") if obj is not None else self.readonly_fields

    @admin.display(description=_("name"), ordering="name")
    def shown_name(self, rule: AlertRule) -> str:
        return str(rule)

    @admin.display(description=_("level"), ordering="level")
    def level_mark(self, rule: AlertRule) -> SafeString:
        return mark(MARKS[Level(rule.level)], rule.get_level_display())

    @admin.display(description=_("told again after"), ordering="repeat_minutes")
    def repeat(self, rule: AlertRule) -> str:
        return span_text(rule.repeat_minutes, "minute") if rule.repeat_minutes else EMPTY

    @admin.display(description=_("quiet hours"))
    def quiet_hours(self, rule: AlertRule) -> str:
        if rule.quiet_from is None or rule.quiet_until is None:
            return EMPTY
        return f"{rule.quiet_from:%H:%M}–{rule.quiet_until:%H:%M} {rule.quiet_zone}"

    @admin.display(description=_("thresholds shipped"))
    def shipped_thresholds(self, rule: AlertRule) -> SafeString:
        return json_block(dict(CONDITIONS[rule.kind].thresholds) if rule.kind else None)

    @admin.display(description=_("open alerts"))
    def open_link(self, rule: AlertRule) -> SafeString:
        if rule.pk is None:
            return SafeString(EMPTY)
        return list_link("dashboard.alert", _("Show"), rule__id__exact=rule.pk, state__exact=Alert.State.OPEN)


class TargetForm(forms.ModelForm):  # type: ignore[type-arg]
    """A target; its address is entered and never shown again."""

    new_address = forms.CharField(
        label=_("Address"),
        max_length=2000,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "off"}),
        help_text=_(
            "An e-mail address, or one as Apprise writes them: slack://…, tgram://…, whatsapp://…, twilio://…, jsons://…. "
            "Stored encrypted, never shown after saving."
        ),
    )

    class Meta:
        model = AlertTarget
        fields = ("name", "minimum_level", "is_default", "is_enabled")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and not self.instance._state.adding:
            self.fields["new_address"].required = False
            self.fields["new_address"].label = _("New address")

    def clean_new_address(self) -> str:
        address = str(self.cleaned_data["new_address"]).strip()
        if address:
            self.cleaned_data["service"] = target_service(address)
        return address


@admin.register(AlertTarget)
class AlertTargetAdmin(AuditedModelAdmin):
    """Whom alerts are told to."""

    form = TargetForm
    audit_hidden = ("address", "new_address")
    list_display = ("name", "service", "minimum_level", "is_default", "is_enabled", "last_test", "created_at")
    list_filter = ("is_enabled", "is_default", "minimum_level")
    search_fields = ("name", "service")
    change_form_template = "admin/routing/with_steps.html"
    readonly_fields = ("service", "last_test", "deliveries_link", "created_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertTarget]:
        found: QuerySet[AlertTarget] = super().get_queryset(request).defer("address")
        return found

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = ("name", "new_address", "minimum_level", "is_default", "is_enabled")
        if obj is None:
            return ((None, {"fields": asked}),)
        state = (_("State"), {"fields": ("service", "last_test", "deliveries_link", "created_at")})
        return ((None, {"fields": asked}), state)

    def write(self, obj: AlertTarget, form: Any, change: bool) -> None:
        if form.cleaned_data.get("new_address"):
            obj.address = form.cleaned_data["new_address"]
            obj.service = form.cleaned_data["service"]
            # What was tried is another address.
            obj.tested_at, obj.test_result = None, ""
        obj.save()

    @admin.display(description=_("last test"), ordering="tested_at")
    def last_test(self, target: AlertTarget) -> SafeString:
        if target.tested_at is None:
            return SafeString(EMPTY)
        kind, text = ("failed", target.test_result) if target.test_result else ("passed", _("arrived"))
        return format_html('{} <span class="moment">{} UTC</span>', mark(kind, text), moment_text(target.tested_at))

    @admin.display(description=_("see also"))
    def deliveries_link(self, target: AlertTarget) -> SafeString:
        return list_link("dashboard.alertdelivery", _("What was sent"), target__id__exact=target.pk)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.test_view)
        return [path("<uuid:target_id>/test/", view, name="dashboard_alerttarget_test"), *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        steps = []
        target = self.get_object(request, object_id)
        if target is not None and self.has_change_permission(request):
            steps = [(reverse("admin:dashboard_alerttarget_test", args=[target.pk]), _("Send a test now"), True)]
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "steps": steps})

    def test_view(self, request: HttpRequest, target_id: UUID) -> HttpResponse:
        """Send a real message now; how it went is shown and kept."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        target = get_object_or_404(self.get_queryset(request), pk=target_id)
        if request.method == "POST":
            delivery = target_test(target.pk, actor=operator_actor(request))
            if delivery.state == AlertDelivery.State.SENT:
                self.message_user(request, _("%s took the test message.") % target.name, messages.SUCCESS)
            else:
                told = {"name": target.name, "error": delivery.last_error}
                self.message_user(request, _("%(name)s did not take it: %(error)s.") % told, messages.ERROR)
        return HttpResponseRedirect(change_url("dashboard.alerttarget", target.pk))


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnlyAdmin, ConsoleAdmin):
    """Messages about alerts, and how each went."""

    list_display = ("moment", "title", "occasion", "target_link", "state_mark", "attempts", "last_error", "finished")
    list_display_links = ("title",)
    list_filter = ("state", "occasion", linked_filter("target", AlertTarget, _("target")), "created_at")
    list_select_related = ("target",)
    search_fields = ("title", "target__name")
    fieldsets = (
        (None, {"fields": ("title", "body", "occasion", "level", "target_link", "alert_link")}),
        (_("Delivery"), {"fields": ("state_mark", "attempts", "last_error", "next_attempt_at", "created_at", "finished_at")}),
    )
    readonly_fields = ("target_link", "alert_link", "state_mark")

    moment = moment_column("created_at", _("at, UTC"))
    finished = moment_column("finished_at", _("ended, UTC"))
    target_link = link_column("target", "dashboard.alerttarget", _("target"))
    alert_link = link_column("alert", "dashboard.alert", _("alert"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertDelivery]:
        found: QuerySet[AlertDelivery] = super().get_queryset(request).defer("target__address")
        return found

    @admin.display(description=_("state"), ordering="state")
    def state_mark(self, delivery: AlertDelivery) -> SafeString:
        return mark(STATE_MARKS[AlertDelivery.State(delivery.state)], delivery.get_state_display())
