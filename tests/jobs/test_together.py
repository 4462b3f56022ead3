"""Every scheduled job run by two workers at once, twice over, and three days late: what is left is what one run leaves.

A small company is made anew for each way of running.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import close_old_connections, connection
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from iafactory.celery import app
from tests.billing.subscriptions.selling import wrong

from .company import MONEY, Fingerprint, company_forget, company_make, differences, fingerprint

app.loader.import_default_modules()
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
GAP = timedelta(days=3)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def nothing_is_mailed_by_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that jobs ask for are another worker's."""
    cache.clear()


@pytest.fixture
def time() -> Iterator[FrozenDateTimeFactory]:
    with freeze_time(START, real_asyncio=True) as frozen:
        assert isinstance(frozen, FrozenDateTimeFactory)
        yield frozen


def jobs_run(workers: int) -> None:
    """Run every job of the schedule in its order, each by so many workers at once."""
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        at_once(workers, app.tasks[entry["task"]])


def at_once(workers: int, job: Callable[[], object]) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(workers)

    def work() -> None:
        close_old_connections()
        start.wait()
        try:
            job()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


def after(time: FrozenDateTimeFactory, run: Callable[[], None], **which: Any) -> tuple[Fingerprint, list[Any]]:
    """What is left of a company made at the start when `run` has run, and which rules of the books do not hold."""
    time.move_to(START)
    company_make(START)
    run()
    left = fingerprint(**which), wrong()
    company_forget()
    return left


def test_two_workers_at_once_twice_over_leave_what_one_run_leaves(time: FrozenDateTimeFactory) -> None:
    def once() -> None:
        time.move_to(START + GAP)
        jobs_run(1)
        # What the first jobs cause is done by later ones, or in the next round.
        jobs_run(1)

    def together() -> None:
        time.move_to(START + GAP)
        jobs_run(2)
        jobs_run(2)

    one, wrong_one = after(time, once)
    both, wrong_both = after(time, together)

    assert differences(one, both) == {}
    assert (wrong_one, wrong_both) == ([], [])
    # It was something.
    assert one["billing.Hold"]["rows"] == 0
    assert one["billing.DaySeal"]["rows"] == 3


def test_three_days_late_leaves_what_every_six_hours_leave(time: FrozenDateTimeFactory) -> None:
    # A lot that ended while a dead call held some of it ends in two steps when both are late: its entries are more, not other.
    def on_time() -> None:
        for _ in range(12):
            time.tick(timedelta(hours=6))
            jobs_run(1)

    def late() -> None:
        time.move_to(START + GAP)
        jobs_run(1)
        jobs_run(1)

    timely, wrong_timely = after(time, on_time, only=MONEY)
    tardy, wrong_tardy = after(time, late, only=MONEY)

    assert differences(timely, tardy) == {}
    assert (wrong_timely, wrong_tardy) == ([], [])
    assert timely["billing.DaySeal"]["rows"] == 3
