"""Endpoints on real receivers, and the steps that workers do."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from pytest_django import Settings

from billing.accounts.models import Account
from billing.accounts.services import api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM, event_record
from billing.webhooks import deliveries
from billing.webhooks.catalogue import CATALOGUE
from billing.webhooks.models import WebhookEndpoint
from billing.webhooks.services import endpoint_create
from iafactory.common import clock
from tests.factories import account_make

from .receiver import Receiver


@pytest.fixture
def account(db: None) -> Account:
    return account_make()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture(autouse=True)
def short_timeout(settings: Settings) -> None:
    settings.WEBHOOK_TIMEOUT_SECONDS = 2


Register = Callable[..., WebhookEndpoint]


@pytest.fixture
def register(account: Account, receiver: Receiver) -> Register:
    """Registers the receiver, or another address, for every event or those named."""

    def make(**fields: Any) -> WebhookEndpoint:
        wanted = {"account": account, "url": receiver.url, "event_types": list(CATALOGUE), "actor": SYSTEM} | fields
        endpoint = endpoint_create(**wanted)[0]
        # Its own creation is an event too, and for nobody.
        fan_out()
        return endpoint

    return make


def key_made(account: Account, name: str = "main") -> Event:
    """Something that happens to a customer: a key is made. The event that tells it."""
    key, _ = api_key_create(account=account, created_by=None, name=name, actor=SYSTEM)
    return Event.objects.get(kind="api_key.created", object_id=str(key.pk))


def told(account: Account, kind: str, **fields: Any) -> Event:
    """An event of any kind."""
    wanted = {"object_type": "thing", "object_id": "1", "actor": SYSTEM, "account_id": account.pk} | fields
    return event_record(kind=kind, **wanted)


def fan_out() -> int:
    return deliveries.events_fan_out(now=clock.now())


def send() -> int:
    """What a worker does with what is due; how many attempts it made."""
    return async_to_sync(deliveries.deliveries_send)(claim_seconds=10)


def pass_on() -> int:
    """Fan out and send."""
    fan_out()
    return send()
