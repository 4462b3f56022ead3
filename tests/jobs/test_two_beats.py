"""Two beats on one schedule, five days late, before two workers: what is left is what one run of every job leaves."""

import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import sleep
from zoneinfo import ZoneInfo

import pytest
from django.conf import settings
from django_celery_beat.models import PeriodicTask
from freezegun import freeze_time

from billing.accounts.windows import day_end
from dashboard.jobs.models import JobState
from dashboard.jobs.scheduler import Scheduler
from iafactory.celery import app
from iafactory.common import clock
from iafactory.local.processes import spawn
from tests.billing.subscriptions.selling import wrong
from tests.live.conftest import PROJECT, _database_url, wait_until

from .company import MONEY, company_forget, company_make, differences, fingerprint

app.loader.import_default_modules()
GAP = timedelta(days=5)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[None]:
    """Two workers and two beats on a queue of their own."""
    broker = os.environ["REDIS_URL"].replace("unix:", "redis+socket:").partition("?")[0] + "?virtual_host=8"
    environment = os.environ | {"DATABASE_URL": _database_url(), "CELERY_BROKER_URL": broker}
    celery = [sys.executable, "-m", "celery", "-q", "-A", "iafactory"]
    commands = [
        [*celery, "worker", "-Q", "celery", "--concurrency", "1", "--without-gossip", "--without-mingle", "-n", f"{name}@test"]
        for name in ("one", "two")
    ] + [[*celery, "beat", "-l", "info"]] * 2
    logs = [tmp_path / f"{number}.log" for number in range(len(commands))]
    started = [
        spawn(command, environment=environment, folder=PROJECT, log=log) for command, log in zip(commands, logs, strict=True)
    ]
    yield
    for process in started:
        process.terminate()
    for process in started:
        process.wait(30)


def late_schedule_make() -> None:
    """The schedule as it stands when beat has been down so long that even what comes once a week is due."""
    Scheduler(app=app, lazy=True).setup_schedule()
    PeriodicTask.objects.update(last_run_at=clock.now() - timedelta(days=8))


def company_make_late() -> None:
    with freeze_time(clock.now() - GAP, real_asyncio=True) as frozen:
        company_make(frozen().replace(tzinfo=clock.now().tzinfo))


def test_two_beats_leave_what_one_run_of_every_job_leaves(request: pytest.FixtureRequest) -> None:
    # The days that are sealed are to be the same for both.
    while (moment := clock.now()) > day_end(moment, ZoneInfo("UTC")) - timedelta(minutes=3):
        sleep(1)
    company_make_late()
    with freeze_time(moment, real_asyncio=True):
        for _ in range(2):
            for entry in settings.CELERY_BEAT_SCHEDULE.values():
                app.tasks[entry["task"]]()
    one = fingerprint(only=MONEY)
    company_forget()
    assert (one["billing.Hold"]["rows"], one["billing.DaySeal"]["rows"]) == (0, 5)

    company_make_late()
    late_schedule_make()
    request.getfixturevalue("processes")
    jobs = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    wait_until(
        lambda: set(JobState.objects.filter(runs__gte=2, finished_at__isnull=False).values_list("task", flat=True)) >= jobs,
        seconds=300,
        what="every job ran twice",
    )

    assert differences(one, fingerprint(only=MONEY)) == {}
    assert wrong() == []
    # Those that come once a day or week were sent by both beats, once by each.
    rare = JobState.objects.filter(task__in=["billing.ledger.seal_days", "billing.accounts.warn_of_unused_keys"])
    assert set(rare.values_list("runs", flat=True)) == {2}
