"""Every task ends, says that its time is up before it is killed, and tries again where its next turn is far away."""

from datetime import timedelta
from typing import Any

import pytest
from celery.schedules import crontab
from django.conf import settings
from django.db import OperationalError

from dashboard.jobs.models import JobState
from iafactory.celery import app
from iafactory.common.task_retries import AGAIN_SOON

RARE = timedelta(hours=6)

app.loader.import_default_modules()
OURS = sorted(name for name in app.tasks if name.partition(".")[0] in ("billing", "routing", "dashboard"))
SCHEDULED = {entry["task"]: entry["schedule"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}


def is_rare(schedule: Any) -> bool:
    return isinstance(schedule, crontab) or schedule >= RARE.total_seconds()


@pytest.mark.parametrize("name", OURS)
def test_every_task_has_a_limit_and_hears_of_it_before(name: str) -> None:
    task = app.tasks[name]

    assert 30 <= task.time_limit <= 4 * 3600
    assert task.soft_time_limit == int(task.time_limit * 0.9)


def test_every_scheduled_task_exists() -> None:
    assert [name for name in SCHEDULED if name not in OURS] == []


def test_a_task_whose_next_turn_is_far_away_tries_again_by_itself() -> None:
    rare = {name for name, schedule in SCHEDULED.items() if is_rare(schedule)}

    retrying = {name for name in SCHEDULED if OperationalError in getattr(app.tasks[name], "autoretry_for", ())}

    assert retrying == rare
    assert {app.tasks[name].max_retries for name in rare} == {AGAIN_SOON["max_retries"]}


def test_what_may_wait_in_the_queue_is_forgotten_before_it_piles_up() -> None:
    frequent = {name for name, entry in settings.CELERY_BEAT_SCHEDULE.items() if not isinstance(entry["schedule"], crontab)}
    often = {name for name in frequent if settings.CELERY_BEAT_SCHEDULE[name]["schedule"] < 3600}

    assert [name for name in often if "expire_seconds" not in settings.CELERY_BEAT_SCHEDULE[name].get("options", {})] == []


@pytest.mark.django_db
def test_a_job_that_tries_again_has_not_gone_well(monkeypatch: pytest.MonkeyPatch) -> None:
    task = app.tasks["billing.ledger.seal_days"]

    def away(**arguments: Any) -> None:
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr("billing.ledger.tasks.days_seal", away)
    monkeypatch.setattr(type(task), "max_retries", 1)
    monkeypatch.setattr("celery.app.autoretry.get_exponential_backoff_interval", lambda **arguments: 0)
    task.apply()

    state = JobState.objects.get(task=task.name)
    assert (state.state, state.runs, state.failures, state.succeeded_at) == (JobState.Phase.FAILED, 2, 2, None)
    assert "the server closed the connection" in state.result
