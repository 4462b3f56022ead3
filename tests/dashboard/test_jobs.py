"""Scheduled jobs in the console: the schedule of the code, how runs went, on and off, run now."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Task, current_app, shared_task
from celery.schedules import crontab
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django_celery_beat import schedulers
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from freezegun import freeze_time

from billing.accounts.models import User
from billing.events.models import Event
from dashboard.jobs.models import JobState
from dashboard.jobs.record import scheduled_tasks
from dashboard.jobs.scheduler import Scheduler
from dashboard.jobs.selectors import HEARTBEAT_LATE, HEARTBEAT_TASK, description_of, heartbeat
from iafactory.celery import app

pytestmark = pytest.mark.django_db

SEAL_DAYS = "billing.ledger.seal_days"


@shared_task(name="tests.answers")
def answers(value: str) -> str:
    """Answers what it is given.

    Never on its own.
    """
    if value == "fail":
        raise ValueError("no such value")
    return value


@pytest.fixture
def scheduled(settings: Any) -> Task:
    """`answers` as a job of the schedule."""
    settings.CELERY_BEAT_SCHEDULE = {"answers": {"task": "tests.answers", "schedule": crontab(hour=2, minute=15)}}
    return current_app.tasks["tests.answers"]


@pytest.fixture(autouse=True)
def one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beat's process closes connections between its looks; the test's own must stay."""
    monkeypatch.setattr(schedulers, "close_old_connections", lambda: None)
    monkeypatch.setattr(schedulers.transaction, "commit", lambda: None)


def beat() -> Scheduler:
    return Scheduler(app=app, lazy=False)


def due_names(scheduler: Scheduler) -> set[str]:
    return {entry.name for entry in scheduler.schedule.values() if entry.is_due().is_due}


# --- The schedule ---


def test_the_schedule_in_the_database_is_that_of_the_settings(settings: Any) -> None:
    interval, _ = IntervalSchedule.objects.get_or_create(every=3, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.create(name="gone", task="billing.gone", interval=interval)

    beat()

    stored = dict(PeriodicTask.objects.values_list("name", "task"))
    assert stored == {name: entry["task"] for name, entry in settings.CELERY_BEAT_SCHEDULE.items()}
    assert PeriodicTask.objects.get(name="reap-expired-holds").expire_seconds == 6


def test_a_job_switched_off_stays_off_when_beat_starts_again() -> None:
    beat()
    PeriodicTask.objects.filter(name="seal-days").update(enabled=False)

    again = beat()

    assert "seal-days" not in again.schedule
    assert "verify-books" in again.schedule


def test_a_daily_job_missed_for_three_days_runs_once(scheduled: Task) -> None:
    with freeze_time("2026-11-17 02:16"):
        beat()
    PeriodicTask.objects.update(last_run_at=datetime(2026, 11, 17, 2, 15, tzinfo=UTC))

    # Seven hours after its time: the scheduler this one builds on looks only at jobs two hours around now.
    with freeze_time("2026-11-20 09:00"):
        scheduler = beat()
        first = due_names(scheduler)
        for entry in list(scheduler.schedule.values()):
            scheduler.reserve(entry)
        scheduler.sync()
        second = due_names(beat())

    assert first == {"answers"}
    assert second == set()


# --- What became of a run ---


def test_a_run_is_noted_with_its_result(scheduled: Task) -> None:
    scheduled.apply(args=["forty-two"])

    state = JobState.objects.get(task="tests.answers")
    assert (state.state, state.result, state.runs, state.failures) == (JobState.Phase.DONE, "forty-two", 1, 0)
    assert state.succeeded_at == state.finished_at
    assert state.milliseconds is not None


def test_a_failed_run_tells_why_and_keeps_when_it_last_went_well(scheduled: Task) -> None:
    scheduled.apply(args=["fine"])
    well = JobState.objects.get().succeeded_at

    scheduled.apply(args=["fail"])

    state = JobState.objects.get(task="tests.answers")
    assert (state.state, state.result) == (JobState.Phase.FAILED, "ValueError: no such value")
    assert (state.runs, state.failures, state.succeeded_at) == (2, 1, well)


def test_tasks_outside_the_schedule_are_not_noted() -> None:
    answers.apply(args=["quiet"])

    assert "tests.answers" not in scheduled_tasks()
    assert not JobState.objects.exists()


def test_the_heartbeat_is_late_after_a_minute() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    never = heartbeat(now)
    state = JobState.objects.create(task=HEARTBEAT_TASK, state=JobState.Phase.DONE, started_at=now - HEARTBEAT_LATE)

    in_time = heartbeat(now)
    late = heartbeat(now + timedelta(seconds=1))

    assert (never.at, never.late) == (None, True)
    assert (in_time.at, in_time.late) == (state.started_at, False)
    assert late.late


def test_every_job_says_what_it_does() -> None:
    assert [name for name in scheduled_tasks() if not description_of(name)] == []


# --- The console ---


def test_the_list_shows_each_job_with_its_last_run(console: Client) -> None:
    beat()
    JobState.objects.create(
        task=SEAL_DAYS,
        state=JobState.Phase.FAILED,
        started_at=datetime(2026, 11, 20, 0, 30, tzinfo=UTC),
        result="no disk",
        runs=7,
    )

    page = console.get(reverse("admin:django_celery_beat_periodictask_changelist")).content.decode()

    assert "Seal the days of the books that have closed." in page
    assert "no disk" in page
    assert "0:30 UTC" in page
    assert "every 3 s" in page
    assert "every 5 min" in page
    assert "every 6 h" in page
    assert "never ran" in page


def test_switching_a_job_off_and_on_is_audited(console: Client, operator: User) -> None:
    beat()
    job = PeriodicTask.objects.get(name="seal-days")
    address = reverse("admin:django_celery_beat_periodictask_changelist")

    console.post(address, {"action": "switch_off", "_selected_action": [job.pk]})
    off = PeriodicTask.objects.get(pk=job.pk).enabled
    console.post(address, {"action": "switch_on", "_selected_action": [job.pk]})
    on = PeriodicTask.objects.get(pk=job.pk).enabled

    assert (off, on) == (False, True)
    kinds = list(Event.objects.filter(object_type="job").order_by("id").values_list("kind", "object_id"))
    assert kinds == [("job.switched_off", "seal-days"), ("job.switched_on", "seal-days")]


def test_run_now_asks_a_worker(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    beat()
    job = PeriodicTask.objects.get(name="seal-days")
    asked: list[str] = []
    monkeypatch.setattr(Task, "apply_async", lambda self, *args, **options: asked.append(self.name))

    console.post(reverse("admin:django_celery_beat_periodictask_run", args=[job.pk]))
    looked = console.get(reverse("admin:django_celery_beat_periodictask_run", args=[job.pk]))

    assert asked == [SEAL_DAYS]
    assert looked.status_code == 405
    assert Event.objects.get(kind="job.asked").object_id == "seal-days"


def test_nobody_edits_the_schedule(console: Client) -> None:
    beat()
    job = PeriodicTask.objects.get(name="seal-days")

    posted = console.post(reverse("admin:django_celery_beat_periodictask_change", args=[job.pk]), {"name": "x"})

    assert posted.status_code == 403
    assert PeriodicTask.objects.get(pk=job.pk).name == "seal-days"


def test_who_may_only_look_switches_nothing(db: None) -> None:
    beat()
    job = PeriodicTask.objects.get(name="seal-days")
    viewer = User.objects.create_user("viewer@example.com", "correct horse battery", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_periodictask"))
    client = Client()
    client.force_login(viewer)

    client.post(
        reverse("admin:django_celery_beat_periodictask_changelist"), {"action": "switch_off", "_selected_action": [job.pk]}
    )
    asked = client.post(reverse("admin:django_celery_beat_periodictask_run", args=[job.pk]))

    assert PeriodicTask.objects.get(pk=job.pk).enabled
    assert asked.status_code == 403
