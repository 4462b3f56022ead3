"""Every event becomes one delivery per endpoint that wants it, whoever commits late and however many workers look."""

import ast
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection, transaction

from billing.accounts.models import Account
from billing.accounts.services import api_key_create, api_key_rotate
from billing.events.models import Event
from billing.events.services import SYSTEM, Actor
from billing.webhooks.catalogue import CATALOGUE, event_type_of, message_body
from billing.webhooks.models import WebhookDelivery, WebhookQueueItem
from billing.webhooks.services import endpoint_disable, endpoint_enable
from iafactory.common.errors import ApiError
from tests.factories import account_make

from .conftest import Register, fan_out, key_made, told

PROJECT = Path(__file__).resolve().parents[3]


@pytest.mark.django_db
def test_an_event_becomes_a_delivery_with_a_body_that_stays(account: Account, register: Register) -> None:
    endpoint = register(event_types=["key.created"])

    event = key_made(account, "main")
    taken = fan_out()

    [delivery] = WebhookDelivery.objects.filter(endpoint=endpoint)
    assert taken == 1
    assert (delivery.event_id, delivery.event_type, delivery.state) == (event.pk, "key.created", "pending")
    assert delivery.message_id == f"evt_{event.pk.hex}"
    body = json.loads(delivery.body)
    assert body["type"] == "key.created"
    assert body["timestamp"] == event.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert body["data"]["id"] == event.object_id
    assert body["data"]["account_id"] == str(account.pk)
    assert body["data"]["after"]["name"] == "main"
    assert WebhookQueueItem.objects.count() == 0


@pytest.mark.django_db
def test_accounts_without_an_endpoint_queue_nothing(account: Account) -> None:
    key_made(account)

    assert WebhookQueueItem.objects.count() == 0
    assert fan_out() == 0


@pytest.mark.django_db
def test_what_nobody_chose_and_what_is_not_for_customers_is_not_delivered(account: Account, register: Register) -> None:
    register(event_types=["key.revoked"])
    key_made(account)
    told(account, "account.warned", reason="internal")

    assert fan_out() == 2
    assert WebhookDelivery.objects.count() == 0


@pytest.mark.django_db
def test_somebody_elses_events_are_not_delivered(account: Account, register: Register) -> None:
    register()
    stranger = account_make()
    mine = register(account=stranger)

    event = key_made(stranger)
    fan_out()

    [delivery] = WebhookDelivery.objects.all()
    assert (delivery.endpoint, delivery.event_id) == (mine, event.pk)


@pytest.mark.django_db
def test_an_endpoint_is_not_told_what_happened_before_it_was_there(account: Account, register: Register) -> None:
    early = register()
    key_made(account)
    register()

    fan_out()

    assert [delivery.endpoint for delivery in WebhookDelivery.objects.all()] == [early]


@pytest.mark.django_db
def test_what_happens_while_an_endpoint_is_disabled_is_kept_for_a_replay(account: Account, register: Register) -> None:
    endpoint = register()
    endpoint_disable(endpoint=endpoint, by="customer", actor=SYSTEM)

    key_made(account)
    fan_out()
    endpoint_enable(endpoint=endpoint, actor=SYSTEM)

    assert [(d.event_type, d.state) for d in WebhookDelivery.objects.all()] == [("key.created", "canceled")]


@pytest.mark.django_db
def test_reasons_actors_and_unknown_fields_never_reach_a_customer(account: Account) -> None:
    operator = Actor(Event.ActorKind.OPERATOR, label="operator@example.com")
    event = told(
        account,
        "api_key.revoked",
        actor=operator,
        reason="fraud suspected",
        before={"note": "internal"},
        after={"revoked_at": "2026-01-01", "secret": "whsec_x", "key_hash": "abc"},
    )
    event_type = event_type_of(event)
    assert event_type is not None

    body = json.loads(message_body(event, event_type))

    assert body["data"] == {
        "object": "thing",
        "id": "1",
        "account_id": str(account.pk),
        "after": {"revoked_at": "2026-01-01"},
    }


@pytest.mark.django_db
def test_no_message_holds_the_secret_of_a_key(account: Account, register: Register) -> None:
    register()
    key, secret = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)
    _, successor = api_key_rotate(key=key, actor=SYSTEM)

    fan_out()

    bodies = "".join(WebhookDelivery.objects.values_list("body", flat=True))
    assert '"key.rotated"' in bodies
    assert (secret in bodies, successor in bodies, key.key_hash in bodies) == (False, False, False)


@pytest.mark.django_db(transaction=True)
def test_twenty_workers_make_one_delivery_of_each_event(account: Account, register: Register) -> None:
    endpoints = [register(), register()]
    events = {key_made(account, f"key {number}").pk for number in range(30)}
    barrier = threading.Barrier(20)

    def work() -> None:
        barrier.wait()
        while fan_out():
            pass
        connection.close()

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(work) for _ in range(20)]:
            future.result()

    made = list(WebhookDelivery.objects.values_list("event_id", "endpoint_id"))
    assert len(made) == 60
    assert set(made) == {(event, endpoint.pk) for event in events for endpoint in endpoints}
    assert WebhookQueueItem.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_an_event_that_commits_late_is_not_missed(account: Account, register: Register) -> None:
    register()
    written, may_commit = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            key_made(account, "late")
            written.set()
            assert may_commit.wait(10)
        connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    assert written.wait(10)
    told(account, "api_key.created", after={"name": "early"})
    before = fan_out()
    may_commit.set()
    thread.join()
    after = fan_out()

    names = [json.loads(body)["data"]["after"]["name"] for body in WebhookDelivery.objects.values_list("body", flat=True)]
    assert (before, after) == (1, 1)
    assert sorted(names) == ["early", "late"]


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_is_told_to_nobody(account: Account, register: Register) -> None:
    register()

    with transaction.atomic():
        key_made(account)
        transaction.set_rollback(True)

    assert fan_out() == 0
    assert WebhookDelivery.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_dies_while_fanning_out_leaves_the_queue_as_it_was(
    account: Account, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    key_made(account)

    with monkeypatch.context() as broken:
        broken.setattr(WebhookDelivery.objects, "bulk_create", _killed)
        with pytest.raises(KeyboardInterrupt):
            fan_out()

    assert (WebhookQueueItem.objects.count(), WebhookDelivery.objects.count()) == (1, 0)
    assert (fan_out(), WebhookDelivery.objects.count()) == (1, 1)


def _killed(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.django_db
@pytest.mark.parametrize("event_types", [["key.exploded"], ["api_key.created"], ["key.created", "*"], []])
def test_an_unknown_event_cannot_be_chosen(register: Register, event_types: list[str]) -> None:
    with pytest.raises(ApiError) as refused:
        register(event_types=event_types)

    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_request", "event_types")


# --- The catalogue and the code ---


def _texts() -> Iterator[str]:
    """Every text of billing's code; `f"a.{b}"` as `a.*`."""
    for file in (PROJECT / "billing").rglob("*.py"):
        if {"migrations", "webhooks"} & set(file.parts):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(text)):
                    yield text
                case ast.JoinedStr(values=values):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in values)


TEXTS = frozenset(_texts())
PREFIXED = re.compile(r"(\w+)\.(\w+)")


@pytest.mark.parametrize("kind", [entry.kind for entry in CATALOGUE.values()])
def test_every_event_of_the_catalogue_is_one_that_the_code_writes(kind: str) -> None:
    parts = PREFIXED.fullmatch(kind)
    assert parts is not None

    # Written whole, or as a prefix and a word.
    prefixed = (f"{parts[1]}.*" in TEXTS or ("*.*" in TEXTS and parts[1] in TEXTS)) and parts[2] in TEXTS

    assert kind in TEXTS or prefixed


def test_the_catalogue_is_documented() -> None:
    page = (PROJECT / "docs/architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Outbound webhooks")[2].partition("\n## ")[0]

    assert re.findall(r"^\| `([\w.]+)` \|", section, re.M) == list(CATALOGUE)
