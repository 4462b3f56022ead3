"""The tasks that beat and services enqueue do what the rows say, one sender at a time."""

import contextlib

import pytest
from django.core.cache import cache
from django_redis import get_redis_connection

from billing.accounts.models import Account
from billing.webhooks import tasks
from billing.webhooks.models import WebhookDelivery
from iafactory.celery import app

from .conftest import Register, key_made
from .receiver import Receiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _clean_redis() -> None:
    cache.clear()
    get_redis_connection("default").delete(tasks._SENDER_LOCK)


def queued() -> list[str]:
    """Names of the tasks that wait in Redis; they are taken out."""
    names = []
    with app.connection_for_read() as broker:
        queue = broker.SimpleQueue("celery")
        with contextlib.suppress(queue.Empty):
            while True:
                message = queue.get(block=False)
                message.ack()
                names.append(message.headers["task"])
        queue.close()
    return names


def test_fan_out_asks_for_a_sender_and_the_sender_delivers(account: Account, register: Register, receiver: Receiver) -> None:
    register()
    queued()
    key_made(account)

    taken = tasks.fan_out()
    asked = queued()
    sent = tasks.deliver()

    assert (taken, sent) == (1, 1)
    assert "billing.webhooks.deliver" in asked
    assert len(receiver.requests) == 1
    assert get_redis_connection("default").exists(tasks._SENDER_LOCK) == 0


def test_one_sender_at_a_time(account: Account, register: Register, receiver: Receiver) -> None:
    register()
    key_made(account)
    tasks.fan_out()

    with get_redis_connection("default").lock(tasks._SENDER_LOCK, timeout=15):
        meanwhile = tasks.deliver()
    afterwards = tasks.deliver()

    assert (meanwhile, afterwards) == (0, 1)
    assert WebhookDelivery.objects.get().state == "delivered"
