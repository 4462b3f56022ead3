"""A dead beat is noticed by processes that live, and told without a worker."""

from datetime import timedelta
from typing import Any

import pytest
from django_redis import get_redis_connection
from freezegun import freeze_time
from pytest_django import Settings

from dashboard.alerts import watch as watching
from dashboard.alerts.models import Alert, AlertRule
from dashboard.alerts.queues import queue_depth_tell, queue_depths
from dashboard.alerts.watch import Watch
from dashboard.jobs.models import JobState
from dashboard.jobs.selectors import HEARTBEAT_TASK
from iafactory.common import clock
from tests.billing.webhooks.receiver import Receiver, wait_until

from .conftest import NOON, Target

pytestmark = pytest.mark.django_db


@pytest.fixture
def beat_rule(db: None) -> AlertRule:
    return AlertRule.objects.create(code="beat", name="Beat", kind="scheduled_work", level="critical", repeat_minutes=30)


@pytest.fixture(autouse=True)
def no_depths() -> None:
    get_redis_connection("default").delete("iaf:alerts:bookings")


def heartbeat_at(at: Any) -> None:
    JobState.objects.update_or_create(task=HEARTBEAT_TASK, defaults={"state": "done", "started_at": at})


def test_while_beat_lives_nothing_is_opened(beat_rule: AlertRule) -> None:
    heartbeat_at(NOON - timedelta(seconds=30))

    assert Watch().look(NOON) is False
    assert not Alert.objects.exists()


def test_a_dead_beat_is_told_from_here_and_resolved_when_it_is_back(
    beat_rule: AlertRule, target: Target, receiver: Receiver
) -> None:
    target()
    heartbeat_at(NOON - timedelta(seconds=121))

    with freeze_time(NOON):
        noticed = Watch().look(NOON)
    sent = len(receiver.requests)
    alert = Alert.objects.get()
    heartbeat_at(NOON + timedelta(minutes=5))
    with freeze_time(NOON + timedelta(minutes=5)):
        still = Watch().look(NOON + timedelta(minutes=5))

    assert (noticed, sent, still, len(receiver.requests)) == (True, 1, False, 2)
    assert (alert.level, alert.subject, alert.state) == ("critical", "beat", "open")
    alert.refresh_from_db()
    assert alert.state == "resolved"


def test_a_product_just_started_is_given_time_for_its_beat(beat_rule: AlertRule) -> None:
    heartbeat_at(NOON - timedelta(hours=8))
    watch = Watch()
    watch._began = NOON

    at_once = watch.look(NOON + timedelta(seconds=119))
    opened_at_once = Alert.objects.count()

    assert (at_once, opened_at_once) == (False, 0)
    assert watch.look(NOON + timedelta(seconds=120)) is True
    assert Alert.objects.count() == 1


def test_between_a_minute_and_the_threshold_it_is_not_told_yet(beat_rule: AlertRule) -> None:
    heartbeat_at(NOON - timedelta(seconds=119))

    assert Watch().look(NOON) is True
    assert not Alert.objects.exists()


def test_waiting_bookings_of_all_processes_are_summed_and_the_dead_forgotten() -> None:
    queue_depth_tell(process="web-1:10", depths={"holds": 3, "settles": 4}, now=NOON)
    queue_depth_tell(process="web-2:10", depths={"holds": 0, "settles": 5}, now=NOON - timedelta(seconds=121))
    queue_depth_tell(process="web-3:10", depths={"holds": 1, "settles": 0}, now=NOON - timedelta(seconds=120))

    assert queue_depths(now=NOON) == 8
    assert get_redis_connection("default").hlen("iaf:alerts:bookings") == 2


def test_a_web_process_says_how_many_bookings_wait(beat_rule: AlertRule) -> None:
    heartbeat_at(NOON)
    watch = Watch()
    watch.depths = lambda: {"holds": 2, "settles": 1}

    watch.look(NOON)

    assert queue_depths(now=NOON) == 3


@pytest.mark.django_db(transaction=True)
def test_the_thread_looks_by_itself_and_ends(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(watching, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(Watch, "look", lambda self, now: looked.append(now))
    watch = Watch()

    watch.start()
    wait_until(lambda: len(looked) >= 2)
    thread = watch._thread
    watch.stop()

    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()
    assert looked[0] <= clock.now()
