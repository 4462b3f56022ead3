"""How well routes are, and what operators do about it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from billing.events.admin import operator_actor
from billing.events.reasons import reason_text
from billing.events.services import Actor
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReadOnlyInline,
    ValuesFilter,
    link_column,
    list_link,
    moment_column,
    moment_text,
)
from iafactory.common.errors import ApiError
from iafactory.common.formats import duration_text, number_text
from routing.health.checks import profiles_check
from routing.health.services import breaker_close, breaker_open, health_forget, health_read, profile_drain
from routing.health.state import RouteHealth, Standing
from routing.models import HealthCheck, ProfileHealth


class ReasonsFilter(ValuesFilter):
    """Offers the ways that calls failed in words."""

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            yield choice | {"display": reason_text(str(choice["display"]))}


# Providers asked while the operator waits.
MOST_CHECKED = 20


class HealthChangeList(ChangeList):
    """Reads Redis once for all rows of a page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = _with_health(list(self.result_list))


def _with_health(rows: list[ProfileHealth]) -> list[ProfileHealth]:
    known = health_read()
    for row in rows:
        row.health = None if known is None else known.get(row.slug, RouteHealth())  # type: ignore[attr-defined]
    return rows


class CheckInline(ReadOnlyInline):
    """The latest checks of a route."""

    model = HealthCheck
    fk_name = "profile"
    fields = ("checked_at", "ok", "latency_ms", "failure", "detail")
    readonly_fields = fields
    ordering = ("-checked_at",)


@admin.register(ProfileHealth)
class ProfileHealthAdmin(ReadOnlyAdmin):
    """Breaker, latency and errors of each route, as all processes see them now."""

    list_display = (
        "slug",
        "provider_link",
        "breaker",
        "latency",
        "errors",
        "left",
        "last_check",
        "state",
    )
    list_filter = ("provider", "draining", "enabled", "provider__draining")
    list_select_related = ("provider", "model")
    search_fields = ("slug", "provider__slug", "model__name")
    inlines = (CheckInline,)
    actions = ("check_now", "open_breaker", "close_breaker", "forget", "drain", "undrain")
    fields = ("slug", "provider_link", "breaker", "latency", "errors", "left", "resting", "last_check", "state", "explore")
    readonly_fields = fields

    provider_link = link_column("provider", "routing.provider", _("provider"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProfileHealth]:
        rows: QuerySet[ProfileHealth] = super().get_queryset(request)
        latest = HealthCheck.objects.filter(profile=OuterRef("pk")).order_by("-checked_at")
        return rows.annotate(
            checked_at=Subquery(latest.values("checked_at")[:1]),
            check_ok=Subquery(latest.values("ok")[:1]),
            check_failure=Subquery(latest.values("failure")[:1]),
            check_ms=Subquery(latest.values("latency_ms")[:1]),
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return HealthChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        return None if row is None else _with_health([row])[0]

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("routing.operate_profilehealth")

    # --- What is seen ---

    @admin.display(description=_("breaker"))
    def breaker(self, row: Any) -> SafeString:
        state: RouteHealth | None = row.health
        if state is None:
            return format_html('<span class="state">{}</span>', _("not known"))
        standing = state.standing(clock.now_ms())
        if standing is Standing.CLOSED:
            return format_html('<span class="state state-active">{}</span>', _("closed"))
        text = _("open") if standing is Standing.OPEN else _("half open")
        again = _("tries again %s UTC") % _moment(state.retry_at_ms)
        until = _("until an operator closes it") if state.by_operator else again
        return format_html(
            '<span class="state state-failed">{}</span> {}<p class="help">{} {}, {}</p>',
            text,
            reason_text(state.reason),
            _("since"),
            _moment(state.changed_at_ms),
            until,
        )

    @admin.display(description=_("first byte, ms"))
    def latency(self, row: Any) -> SafeString:
        state: RouteHealth | None = row.health
        measured = state is not None and state.latency_weight > 0
        ms = state.latency_ms(row.typical_latency_ms, clock.now_ms()) if state is not None else row.typical_latency_ms
        remark = "" if measured else format_html(' <span class="quiet">{}</span>', _("typical"))
        return format_html('<span class="figure">{}</span>{}', number_text(round(ms)), remark)

    @admin.display(description=_("failing"))
    def errors(self, row: Any) -> SafeString:
        state: RouteHealth | None = row.health
        if state is None or not state.errors_at_ms:
            return SafeString(EMPTY)
        share = f"{state.error_share(clock.now_ms()) * 100:.0f} %"
        last = f"{_('last')}: {reason_text(state.last_failure)}, {_moment(state.failed_at_ms)}" if state.failed_at_ms else ""
        return format_html('<span class="figure" title="{}">{}</span>', last, share)

    @admin.display(description=_("limits left"))
    def left(self, row: Any) -> SafeString:
        state: RouteHealth | None = row.health
        now_ms = clock.now_ms()
        if state is None or state.share_until_ms <= now_ms:
            return SafeString(EMPTY)
        return format_html('<span class="figure">{}</span>', f"{state.free_share(now_ms) * 100:.0f} %")

    @admin.display(description=_("credentials that rest"))
    def resting(self, row: Any) -> SafeString:
        state: RouteHealth | None = row.health
        now_ms = clock.now_ms()
        until = [at for at in (state.resting.values() if state is not None else ()) if at > now_ms]
        return SafeString(EMPTY) if not until else format_html("{}, {} UTC", len(until), _moment(max(until)))

    @admin.display(description=_("last check"), ordering="checked_at")
    def last_check(self, row: Any) -> SafeString:
        if row.checked_at is None:
            return SafeString(EMPTY)
        kind, text = (
            ("passed", duration_text(row.check_ms or 0)) if row.check_ok else ("failed", reason_text(row.check_failure))
        )
        return format_html(
            '<span class="state state-{}">{}</span> <span class="moment">{}</span>', kind, text, moment_text(row.checked_at)
        )

    @admin.display(description=_("calls"))
    def state(self, row: Any) -> SafeString:
        if not (row.enabled and row.provider.enabled):
            return format_html('<span class="state state-revoked">{}</span>', _("disabled"))
        if row.draining or row.provider.draining:
            return format_html('<span class="state state-pending">{}</span>', _("draining"))
        return format_html('<span class="state state-active">{}</span>', _("taken"))

    @admin.display(description=_("see also"))
    def explore(self, row: Any) -> SafeString:
        own = {"object_type__exact": "model_profile", "object_id__exact": row.pk}
        profile = list_link("routing.modelprofile", _("Profile"), slug=row.slug)
        return format_html("{} · {}", profile, list_link("billing.event", _("Events"), **own))

    # --- What is done ---

    @admin.action(description=_("Check now (20 at most)"), permissions=["operate"])
    def check_now(self, request: HttpRequest, queryset: QuerySet[ProfileHealth]) -> None:
        """Ask the providers while the operator waits, ten seconds at most."""
        for result in profiles_check(queryset.values_list("slug", flat=True)[:MOST_CHECKED]):
            failed = reason_text(f"{result.failure}: {result.detail}")
            said = failed if result.latency_ms is None else duration_text(result.latency_ms)
            self.message_user(request, f"{result.route}: {said}", messages.SUCCESS if result.ok else messages.ERROR)

    @admin.action(description=_("Open the breaker: no calls until it is closed"), permissions=["operate"])
    def open_breaker(self, request: HttpRequest, queryset: QuerySet[ProfileHealth]) -> None:
        self._each(
            request,
            queryset,
            lambda slug, actor: breaker_open(slug, actor=actor),
            ngettext_lazy("%d breaker is open.", "%d breakers are open."),
        )

    @admin.action(description=_("Close the breaker"), permissions=["operate"])
    def close_breaker(self, request: HttpRequest, queryset: QuerySet[ProfileHealth]) -> None:
        self._each(
            request,
            queryset,
            lambda slug, actor: breaker_close(slug, actor=actor),
            ngettext_lazy("%d breaker is closed.", "%d breakers are closed."),
        )

    @admin.action(description=_("Forget what was seen: breaker, latency, errors"), permissions=["operate"])
    def forget(self, request: HttpRequest, queryset: QuerySet[ProfileHealth]) -> None:
        self._each(
            request,
            queryset,
            lambda slug, actor: health_forget(slug, actor=actor),
            ngettext_lazy("%d route begins anew.", "%d routes begin anew."),
        )

    @admin.action(description=_("Drain: no new calls"), permissions=["operate"])
    def drain(self, request: HttpRequest, queryset: QuerySet[ProfileHealth]) -> None:
        self._each(
            request,
            queryset,
            lambda slug, actor: profile_drain(slug, draining=True, actor=actor),
            ngettext_lazy("%d route runs dry.", "%d routes run dry."),
        )

    @admin.action(description=_("End draining"), permissions=["operate"])
    def undrain(self, request: HttpRequest, queryset: QuerySet[ProfileHealth]) -> None:
        self._each(
            request,
            queryset,
            lambda slug, actor: profile_drain(slug, draining=False, actor=actor),
            ngettext_lazy("%d route takes calls again.", "%d routes take calls again."),
        )

    def _each(
        self, request: HttpRequest, queryset: QuerySet[ProfileHealth], deed: Callable[[str, Actor], None], said: Any
    ) -> None:
        actor, done = operator_actor(request), 0
        try:
            for slug in list(queryset.values_list("slug", flat=True)):
                deed(slug, actor)
                done += 1
        except ApiError as error:
            self.message_user(request, error.text, messages.ERROR)
        if done:
            self.message_user(request, said % done, messages.SUCCESS)


@admin.register(HealthCheck)
class HealthCheckAdmin(ReadOnlyAdmin):
    """The latest checks of every route."""

    list_display = ("checked", "profile_link", "ok", "latency_ms", "failure", "detail")
    list_filter = ("ok", ("failure", ReasonsFilter), "profile__provider", "checked_at")
    list_select_related = ("profile",)
    search_fields = ("profile__slug",)
    fields = ("checked", "profile_link", "ok", "latency_ms", "failure", "detail")

    checked = moment_column("checked_at", _("checked, UTC"))
    profile_link = link_column("profile", "routing.modelprofile", _("route"))


def _moment(at_ms: int) -> str:
    return moment_text(datetime.fromtimestamp(at_ms / 1000, UTC))
