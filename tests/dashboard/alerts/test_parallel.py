"""Many that look, and many that send, at once: one alert, one message."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction

from dashboard.alerts.deliveries import deliveries_claim, deliveries_send
from dashboard.alerts.models import Alert, AlertDelivery, AlertRule
from dashboard.alerts.watch import Watch
from tests.billing.webhooks.receiver import Receiver

from .conftest import NOON, Target, job_fails, look

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    """What `count` threads answer that begin together."""
    begin = threading.Barrier(count)

    def run() -> Any:
        try:
            begin.wait(10)
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]


def test_two_that_look_at_once_open_one_alert_with_one_message(rule: AlertRule, target: Target) -> None:
    target()
    job_fails()

    looked = at_once(8, look)

    assert sum(found.opened for found in looked) == 1
    assert Alert.objects.count() == 1
    assert AlertDelivery.objects.count() == 1


def test_the_database_itself_takes_one_open_alert_per_subject(rule: AlertRule) -> None:
    job_fails()
    look()
    alert = Alert.objects.get()

    with pytest.raises(IntegrityError, match="alert_one_open"), transaction.atomic():
        Alert.objects.create(rule=rule, subject=alert.subject, level="info", title="x", opened_at=NOON, last_seen_at=NOON)


def test_workers_that_send_at_once_send_each_message_once(rule: AlertRule, target: Target, receiver: Receiver) -> None:
    names = ["a", "b", "c"]
    [target(name) for name in names]
    job_fails()
    look()

    attempts = at_once(3, deliveries_send)

    assert sum(attempts) == 3
    assert sorted(request.path for request in receiver.requests) == ["/a", "/b", "/c"]
    assert set(AlertDelivery.objects.values_list("state", flat=True)) == {"sent"}


def test_a_message_is_claimed_by_one_worker(target: Target) -> None:
    made = target()
    row = {"target": made, "occasion": "opened", "level": "info", "title": "x", "body": "x", "created_at": NOON}
    AlertDelivery.objects.bulk_create(AlertDelivery(**row, next_attempt_at=NOON) for _ in range(40))

    def claim_all() -> list[UUID]:
        found = []
        while claims := deliveries_claim(now=NOON, limit=2):
            found += [claim.delivery_id for claim in claims]
        return found

    claimed = [pk for found in at_once(6, claim_all) for pk in found]

    assert len(claimed) == len(set(claimed)) == 40


def test_a_dead_beat_is_told_once_by_many_processes(target: Target, receiver: Receiver) -> None:
    AlertRule.objects.create(code="beat", name="Beat", kind="scheduled_work", level="critical")
    target()

    looked = at_once(4, lambda: Watch().look(NOON))

    assert looked == [True] * 4
    assert Alert.objects.count() == 1
    assert len(receiver.requests) == 1
