"""The schedule in the console: read-only, since the code overwrites edits, but on and off and run now."""

from datetime import UTC, timedelta
from typing import Any

from celery.exceptions import OperationalError as QueueError
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
    SolarSchedule,
)

from billing.events.admin import operator_actor
from billing.events.services import event_record
from iafactory.common.admin import EMPTY, ConsoleAdmin, change_url, moment_text
from iafactory.common.formats import duration_text, span_text

from .models import JobState
from .selectors import description_of, task_of

# What the list tells of each job's last run.
LAST = ("state", "started_at", "succeeded_at", "milliseconds", "result", "runs", "failures")


def rhythm_text(span: timedelta) -> str:
    """A span in its largest whole unit: 3 sec, 5 min, 6 hr."""
    seconds = round(span.total_seconds())
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length and seconds % length == 0:
            return span_text(seconds // length, unit)
    return span_text(seconds, "second")


# What the scheduler's package calls its rows, which it translates into some languages only.
PACKAGE_NAMES = (
    gettext_noop("periodic task"),
    gettext_noop("periodic tasks"),
    gettext_noop("Periodic Tasks"),
    gettext_noop("Enabled"),
)

for _model in (ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule):
    admin.site.unregister(_model)


class LastRunFilter(admin.SimpleListFilter):
    """Jobs by how their last run went."""

    title = _("last run")
    parameter_name = "last"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(JobState.Phase.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> QuerySet[PeriodicTask]:
        phase = self.value()
        return queryset if phase is None else queryset.filter(task__in=JobState.objects.filter(state=phase).values("task"))


@admin.register(PeriodicTask)
class JobAdmin(ConsoleAdmin):
    """What runs by itself, when, and how it went."""

    list_display = ("name", "what", "rhythm", "state", "last_start", "took", "result", "failures", "switched_on")
    list_display_links = ("name",)
    list_filter = (LastRunFilter, "enabled")
    search_fields = ("name", "task")
    search_help_text = _("Name or task.")
    ordering = ("name",)
    actions = ("switch_on", "switch_off", "run_selected")
    fields = (
        "name",
        "task_name",
        "what",
        "rhythm",
        "expires_after",
        "switched_on",
        "state",
        "last_start",
        "last_success",
        "took",
        "result",
        "runs",
        "failures",
    )
    readonly_fields = fields
    change_form_template = "admin/job_page.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[PeriodicTask]:
        state = JobState.objects.filter(task=OuterRef("task"))
        last = {f"last_{name}": Subquery(state.values(name)) for name in LAST}
        jobs: QuerySet[PeriodicTask] = super().get_queryset(request).select_related("crontab", "interval").annotate(**last)
        return jobs

    @admin.display(description=_("task"))
    def task_name(self, job: PeriodicTask) -> str:
        return str(job.task)

    @admin.display(description=_("what it does"))
    def what(self, job: PeriodicTask) -> str:
        return description_of(job.task) or EMPTY

    @admin.display(description=_("when"))
    def rhythm(self, job: PeriodicTask) -> str:
        if job.crontab is not None:
            crontab = job.crontab
            at = f"{crontab.hour}:{crontab.minute.zfill(2)}" if crontab.minute.isdigit() else f"{crontab.minute} {crontab.hour}"
            day = "" if crontab.day_of_week == "*" else f", {crontab.day_of_week}"
            month_day = "" if crontab.day_of_month == "*" else _(", day %s of the month") % crontab.day_of_month
            return f"{at}{day}{month_day} {crontab.timezone}"
        if job.interval is not None:
            return str(_("every %s") % rhythm_text(job.interval.schedule.run_every))
        return EMPTY

    @admin.display(description=_("forgotten after"))
    def expires_after(self, job: PeriodicTask) -> str:
        return EMPTY if job.expire_seconds is None else span_text(job.expire_seconds, "second")

    @admin.display(description=_("on"), boolean=True, ordering="enabled")
    def switched_on(self, job: PeriodicTask) -> bool:
        return bool(job.enabled)

    @admin.display(description=_("state"))
    def state(self, job: PeriodicTask) -> SafeString | str:
        if job.last_state is None:
            return str(_("never ran"))
        state = JobState.Phase(job.last_state)
        return format_html('<span class="state state-{}">{}</span>', state, state.label)

    @admin.display(description=_("last started, UTC"))
    def last_start(self, job: PeriodicTask) -> str:
        return EMPTY if job.last_started_at is None else f"{job.last_started_at.astimezone(UTC):%Y-%m-%d %H:%M}"

    @admin.display(description=_("last ended well, UTC"))
    def last_success(self, job: PeriodicTask) -> str:
        return EMPTY if job.last_succeeded_at is None else moment_text(job.last_succeeded_at)

    @admin.display(description=_("took"))
    def took(self, job: PeriodicTask) -> str:
        return EMPTY if job.last_milliseconds is None else duration_text(job.last_milliseconds)

    @admin.display(description=_("result"))
    def result(self, job: PeriodicTask) -> str:
        return job.last_result or EMPTY

    @admin.display(description=_("runs"))
    def runs(self, job: PeriodicTask) -> int:
        return job.last_runs or 0

    @admin.display(description=_("failures"))
    def failures(self, job: PeriodicTask) -> int:
        return job.last_failures or 0

    def _switch(self, request: HttpRequest, jobs: QuerySet[PeriodicTask], *, on: bool) -> None:
        with transaction.atomic():
            for job in jobs.select_for_update(of=("self",)).filter(enabled=not on):
                PeriodicTask.objects.filter(pk=job.pk).update(enabled=on)
                event_record(
                    kind="job.switched_on" if on else "job.switched_off",
                    object_type="job",
                    object_id=job.name,
                    actor=operator_actor(request),
                    before={"enabled": not on},
                    after={"enabled": on},
                )
            # Beat reads the table again when this says that it changed.
            PeriodicTasks.update_changed()
        messages.success(request, _("Beat follows within a few seconds."))

    @admin.action(description=_("Switch on"), permissions=["change"])
    def switch_on(self, request: HttpRequest, jobs: QuerySet[PeriodicTask]) -> None:
        self._switch(request, jobs, on=True)

    @admin.action(description=_("Switch off"), permissions=["change"])
    def switch_off(self, request: HttpRequest, jobs: QuerySet[PeriodicTask]) -> None:
        self._switch(request, jobs, on=False)

    @admin.action(description=_("Run now"), permissions=["change"])
    def run_selected(self, request: HttpRequest, jobs: QuerySet[PeriodicTask]) -> None:
        for job in jobs:
            self._run(request, job)

    def _run(self, request: HttpRequest, job: PeriodicTask) -> None:
        task = task_of(job.task)
        if task is None:
            messages.error(request, _("%s is no task of this release.") % job.task)
            return
        try:
            with transaction.atomic():
                event_record(kind="job.asked", object_type="job", object_id=job.name, actor=operator_actor(request))
                task.apply_async(retry=False)
        except QueueError:
            messages.error(request, _("The queue of tasks cannot be reached; nothing was asked."))
        else:
            messages.success(request, _("A worker was asked to run %s; its result appears here.") % job.name)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.run_view)
        urls: list[URLPattern] = super().get_urls()
        return [path("<int:pk>/run/", view, name="django_celery_beat_periodictask_run"), *urls]

    def run_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask for one run and go back to the job's page."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        self._run(request, get_object_or_404(PeriodicTask, pk=pk))
        return HttpResponseRedirect(change_url("django_celery_beat.periodictask", pk))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method == "POST":
            raise PermissionDenied
        run_url = reverse("admin:django_celery_beat_periodictask_run", args=[object_id])
        extra = {"run_url": run_url if self.has_change_permission(request) else None, "show_save": False}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **extra})
