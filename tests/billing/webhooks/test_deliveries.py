"""Deliveries over real HTTP: what arrives, what does not, what is tried again, and who waits for whom."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from django.core import mail
from django.db import connection
from freezegun import freeze_time
from pytest_django import Settings
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.webhooks import deliveries, services
from billing.webhooks.deliveries import PAUSES, PER_ENDPOINT, attempt_record, deliveries_claim, deliveries_forget
from billing.webhooks.destinations import connector
from billing.webhooks.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from billing.webhooks.sender import Outcome
from billing.webhooks.services import endpoint_secret_rotate
from iafactory.common import clock
from tests.factories import account_make

from .conftest import Register, fan_out, key_made, pass_on, send, told
from .receiver import Received, Receiver, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

PROJECT = Path(__file__).resolve().parents[3]


def verified(request: Received, secret: str) -> dict[str, object]:
    """The message, as a receiver reads it with the package that Standard Webhooks gives it."""
    message: dict[str, object] = Webhook(secret).verify(request.body, request.headers)
    return message


def only_delivery() -> WebhookDelivery:
    return WebhookDelivery.objects.get()


def test_a_message_arrives_signed(account: Account, receiver: Receiver, register: Register) -> None:
    endpoint = register()
    event = key_made(account)

    attempts = pass_on()

    [request] = receiver.requests
    message = verified(request, endpoint.secret)
    delivery = only_delivery()
    assert attempts == 1
    assert message["type"] == "key.created"
    assert request.headers["webhook-id"] == f"evt_{event.pk.hex}"
    assert (request.headers["content-type"], request.headers["user-agent"]) == ("application/json", "IAFactory-Webhooks/1")
    assert (delivery.state, delivery.attempts, delivery.last_status, delivery.last_error) == ("delivered", 1, 200, "")
    [attempt] = WebhookAttempt.objects.all()
    assert (attempt.number, attempt.status, attempt.error, attempt.response) == (1, 200, "", "ok")
    assert send() == 0


def test_a_message_that_was_changed_or_signed_by_another_does_not_verify(
    account: Account, receiver: Receiver, register: Register
) -> None:
    endpoint, other = register(), register(url="https://hooks.example.com/", event_types=["key.revoked"])
    key_made(account)

    pass_on()

    [request] = receiver.requests
    forged = Received(request.path, request.headers, request.body.replace("main", "evil"))
    with pytest.raises(WebhookVerificationError):
        verified(forged, endpoint.secret)
    with pytest.raises(WebhookVerificationError):
        verified(request, other.secret)


def test_during_the_overlap_of_a_rotation_both_secrets_verify_and_afterwards_the_new_one(
    account: Account, receiver: Receiver, register: Register
) -> None:
    endpoint = register()
    before = endpoint.secret
    endpoint, after = endpoint_secret_rotate(endpoint=endpoint, actor=SYSTEM)
    key_made(account)

    pass_on()
    WebhookEndpoint.objects.update(previous_secret_until=clock.now() - timedelta(seconds=1))
    key_made(account)
    pass_on()

    during, later = receiver.requests
    assert len(during.headers["webhook-signature"].split()) == 2
    assert verified(during, before) == verified(during, after)
    assert len(later.headers["webhook-signature"].split()) == 1
    verified(later, after)
    with pytest.raises(WebhookVerificationError):
        verified(later, before)


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        ({"status": 500}, 500, "http_500"),
        ({"status": 404}, 404, "http_404"),
        ({"status": 301, "headers": {"location": "/elsewhere"}}, 301, "redirect"),
        ({"status": 307, "headers": {"location": "http://169.254.169.254/"}}, 307, "redirect"),
        ({"drop": True}, None, "connection_broken"),
        ({"delay_seconds": 5}, None, "timeout"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_not_accepted_is_tried_again_after_a_pause(
    account: Account, receiver: Receiver, register: Register, behaviour: dict[str, object], status: int | None, error: str
) -> None:
    register()
    receiver.behave(**behaviour)
    key_made(account)
    began = clock.now()

    pass_on()

    delivery = only_delivery()
    assert len(receiver.requests) == 1
    assert (delivery.state, delivery.attempts, delivery.last_status, delivery.last_error) == ("pending", 1, status, error)
    assert delivery.next_attempt_at is not None
    assert timedelta(seconds=4.5) <= delivery.next_attempt_at - began <= timedelta(seconds=9)
    assert send() == 0


def test_a_connection_nobody_takes_is_tried_again(account: Account, register: Register, receiver: Receiver) -> None:
    register()
    receiver.stop()
    key_made(account)

    pass_on()

    delivery = only_delivery()
    assert (delivery.state, delivery.last_status, delivery.last_error) == ("pending", None, "connection_failed")


def test_a_huge_answer_is_read_no_further_than_its_beginning(account: Account, receiver: Receiver, register: Register) -> None:
    register()
    receiver.behave(body=b"\0begin", huge_bytes=200_000_000)
    key_made(account)

    pass_on()

    [attempt] = WebhookAttempt.objects.all()
    assert (attempt.status, attempt.error, len(attempt.response)) == (200, "", 1000)
    assert attempt.response.startswith("\ufffdbeginxxx")
    # Buffers of the system on both sides take some of it.
    assert receiver.huge_bytes_sent < 50_000_000


def test_an_answer_that_never_ends_is_cut_off_and_its_status_counts(
    account: Account, receiver: Receiver, register: Register
) -> None:
    register()
    receiver.behave(drip_seconds=0.1)
    key_made(account)

    pass_on()

    [attempt] = WebhookAttempt.objects.all()
    assert (attempt.status, attempt.error) == (200, "")
    assert 1500 < attempt.duration_ms < 4000
    assert only_delivery().state == "delivered"


def test_a_receiver_may_ask_for_a_longer_pause(account: Account, receiver: Receiver, register: Register) -> None:
    register()
    receiver.behave(status=503, headers={"retry-after": "600"})
    key_made(account)
    began = clock.now()

    pass_on()

    delivery = only_delivery()
    assert delivery.next_attempt_at is not None
    assert timedelta(seconds=600) <= delivery.next_attempt_at - began < timedelta(seconds=605)


def test_eleven_attempts_in_three_days_then_it_is_given_up_and_the_endpoint_disabled_with_a_notice(
    account: Account, receiver: Receiver, register: Register
) -> None:
    endpoint = register()
    receiver.behave(status=500)
    event = key_made(account)
    fan_out()
    began = now = clock.now()
    times = []

    while (delivery := only_delivery()).state == "pending":
        now = delivery.next_attempt_at
        with freeze_time(now, real_asyncio=True):
            send()
        times.append(now - began)
    with freeze_time(now, real_asyncio=True):
        services.notices_send(now=clock.now())
        services.notices_send(now=clock.now())

    endpoint.refresh_from_db()
    ids = {request.headers["webhook-id"] for request in receiver.requests}
    assert (delivery.state, delivery.attempts, len(receiver.requests)) == ("failed", 11, 11)
    assert ids == {f"evt_{event.pk.hex}"}
    assert sum(PAUSES, timedelta()) == timedelta(hours=71, minutes=36, seconds=5)
    assert timedelta(hours=64) < times[-1] < timedelta(hours=79)
    assert (endpoint.is_enabled, endpoint.disabled_by) == (False, "system")
    assert endpoint.disabled_reason == "nothing was accepted for three days"
    [letter] = mail.outbox
    assert letter.subject == "A webhook endpoint was disabled"
    assert endpoint.url in letter.body
    assert letter.to == [account.personal_of.email]
    [told_event] = Event.objects.filter(kind="webhook_endpoint.disabled")
    assert told_event.after == {"is_enabled": False, "disabled_by": "system", "url": endpoint.url}


@pytest.mark.parametrize(
    ("language", "subject"),
    [
        ("fr", "Un point de réception de webhooks a été désactivé"),
        ("ar", "أُوقفت إحدى نقاط استقبال Webhook لديكم"),
    ],
)
def test_the_notice_speaks_the_owners_language(account: Account, register: Register, language: str, subject: str) -> None:
    account.personal_of.language = language
    account.personal_of.save()
    endpoint = register()
    services.endpoint_disable(endpoint=endpoint, by="system", actor=SYSTEM)

    services.notices_send(now=clock.now())

    assert [letter.subject for letter in mail.outbox] == [subject]


def test_an_endpoint_that_took_something_meanwhile_stays_enabled(
    account: Account, receiver: Receiver, register: Register
) -> None:
    endpoint = register()
    key_made(account)
    fan_out()
    delivery = only_delivery()
    WebhookDelivery.objects.update(attempts=10, created_at=clock.now() - timedelta(days=3))
    WebhookEndpoint.objects.update(last_success_at=clock.now() - timedelta(days=1))
    receiver.behave(status=500)

    send()

    endpoint.refresh_from_db()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("failed", 11)
    assert endpoint.is_enabled is True


def test_an_endpoint_that_says_it_is_gone_is_disabled_at_once_and_the_rest_canceled(
    account: Account, receiver: Receiver, register: Register
) -> None:
    endpoint = register()
    receiver.behave(status=410)
    key_made(account)
    fan_out()
    [claim] = deliveries_claim(now=clock.now())
    key_made(account)
    fan_out()

    attempt_record(delivery_id=claim.delivery_id, outcome=Outcome(clock.now(), 5, 410, "gone"), now=clock.now())

    endpoint.refresh_from_db()
    assert (endpoint.is_enabled, endpoint.disabled_by) == (False, "system")
    states = WebhookDelivery.objects.order_by("created_at").values_list("state", flat=True)
    assert list(states) == ["failed", "canceled"]
    assert send() == 0
    assert receiver.requests == []


def test_a_worker_killed_between_claim_and_answer_leaves_a_lease_and_the_message_goes_out_later(
    account: Account, receiver: Receiver, register: Register
) -> None:
    register()
    receiver.behave(delay_seconds=30)
    event = key_made(account)
    fan_out()
    code = (
        "import django; django.setup()\n"
        "from asgiref.sync import async_to_sync\n"
        "from billing.webhooks.deliveries import deliveries_send\n"
        "async_to_sync(deliveries_send)(claim_seconds=60)\n"
    )
    database = connection.settings_dict["NAME"]
    url = os.environ["DATABASE_URL"].replace(f"/{database.removeprefix('test_')}?", f"/{database}?")
    environment = os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "iafactory.settings"}

    worker = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=PROJECT)
    try:
        wait_until(lambda: len(receiver.requests) == 1, seconds=30)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    receiver.behave()
    at_once = send()
    delivery = only_delivery()
    assert delivery.leased_until is not None
    with freeze_time(delivery.leased_until + timedelta(seconds=1), real_asyncio=True):
        later = send()

    delivery.refresh_from_db()
    assert (at_once, later) == (0, 1)
    assert (delivery.state, delivery.attempts) == ("delivered", 1)
    assert {request.headers["webhook-id"] for request in receiver.requests} == {f"evt_{event.pk.hex}"}


def test_twenty_workers_send_each_message_once(account: Account, receiver: Receiver, register: Register) -> None:
    register()
    for number in range(40):
        told(account, "api_key.created", object_id=str(number))
    barrier = threading.Barrier(20)

    def work() -> None:
        barrier.wait()
        pass_on()
        connection.close()

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(work) for _ in range(20)]:
            future.result()

    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert (len(ids), len(set(ids))) == (40, 40)
    assert WebhookDelivery.objects.filter(state="delivered", attempts=1).count() == 40
    assert receiver.at_once <= PER_ENDPOINT


@pytest.fixture
def slow() -> Iterator[Receiver]:
    """Answers nobody until it is told to stop waiting."""
    receiver = Receiver()
    receiver.behave(delay_seconds=60)
    yield receiver
    receiver.stop()


def test_a_slow_endpoint_holds_up_nobody_else(
    account: Account, receiver: Receiver, slow: Receiver, register: Register, settings: Settings
) -> None:
    settings.WEBHOOK_TIMEOUT_SECONDS = 60
    register(url=slow.url, event_types=["key.revoked"])
    register(event_types=["key.created"])
    for number in range(15):
        told(account, "api_key.revoked", object_id=str(number))
    fan_out()

    def work() -> None:
        send()
        connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(lambda: len(slow.requests) == PER_ENDPOINT)
    for number in range(20):
        told(account, "api_key.created", object_id=str(number))
    fan_out()
    wait_until(lambda: len(receiver.requests) == 20)
    held_up = (len(slow.requests), slow.at_once)
    slow.stopping.set()
    worker.join()

    assert held_up == (PER_ENDPOINT, PER_ENDPOINT)
    assert len(slow.requests) == 15
    assert set(WebhookDelivery.objects.values_list("state", "attempts")) == {("delivered", 1)}


def test_claims_leave_room_for_what_is_on_its_way(account: Account, register: Register) -> None:
    register()
    for number in range(8):
        told(account, "api_key.created", object_id=str(number))
    fan_out()
    now = clock.now()

    first = deliveries_claim(now=now, per_endpoint=3)
    second = deliveries_claim(now=now, per_endpoint=3)
    third = deliveries_claim(now=now, per_endpoint=5)
    fourth = deliveries_claim(now=now + timedelta(hours=1), per_endpoint=100)

    assert [len(claims) for claims in (first, second, third, fourth)] == [3, 0, 2, 8]


def test_one_account_takes_no_more_than_its_share_however_many_endpoints_it_has(account: Account, register: Register) -> None:
    other = account_make()
    for number in range(10):
        register(url=f"https://hooks{number}.example.com/")
    register(account=other)
    for number in range(3):
        told(account, "api_key.created", object_id=str(number))
        told(other, "api_key.created", object_id=str(number))
    fan_out()
    now = clock.now()

    first = deliveries_claim(now=now, per_account=20)
    second = deliveries_claim(now=now, per_account=21)

    taken = WebhookDelivery.objects.filter(pk__in=[claim.delivery_id for claim in first])
    accounts = list(taken.values_list("endpoint__account", flat=True))
    assert (accounts.count(account.pk), accounts.count(other.pk)) == (20, 3)
    assert len(second) == 1


def test_a_name_server_that_never_answers_holds_up_nobody_else(
    account: Account, receiver: Receiver, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = threading.Event()

    def dns(host: str, port: int) -> list[str]:
        if host != "quick.example.com":
            silent.wait(30)
        return ["127.0.0.1"]

    monkeypatch.setattr(deliveries, "connector", partial(connector, lookup=dns))
    for number in range(3):
        register(url=f"https://hooks{number}.example.com/", event_types=["key.revoked"])
    register(url=f"https://quick.example.com:{receiver.port}/", event_types=["key.created"])
    for number in range(5):
        told(account, "api_key.revoked", object_id=str(number))
    key_made(account)

    pass_on()
    silent.set()

    # The receiver speaks no TLS: that is found out only once its name is resolved.
    errors = WebhookDelivery.objects.order_by("event_type").values_list("event_type", "last_error").distinct()
    assert list(errors) == [("key.created", "tls_failed"), ("key.revoked", "timeout")]


def test_an_outcome_that_comes_after_the_end_is_noted_and_changes_nothing(account: Account, register: Register) -> None:
    register()
    key_made(account)
    fan_out()
    [claim] = deliveries_claim(now=clock.now())
    attempt_record(delivery_id=claim.delivery_id, outcome=Outcome(clock.now(), 5, 200), now=clock.now())

    attempt_record(delivery_id=claim.delivery_id, outcome=Outcome(clock.now(), 5, 500, "http_500"), now=clock.now())

    delivery = only_delivery()
    assert (delivery.state, delivery.attempts, delivery.next_attempt_at) == ("delivered", 2, None)


def test_an_endpoint_deleted_meanwhile_is_no_error(account: Account, register: Register) -> None:
    endpoint = register()
    key_made(account)
    fan_out()
    [claim] = deliveries_claim(now=clock.now())
    services.endpoint_delete(endpoint=endpoint, actor=SYSTEM)

    noted = attempt_record(delivery_id=claim.delivery_id, outcome=Outcome(clock.now(), 5, 200), now=clock.now())

    assert noted is None
    assert WebhookAttempt.objects.count() == 0


def test_an_address_that_became_forbidden_is_not_called(
    account: Account, receiver: Receiver, register: Register, settings: Settings
) -> None:
    register()
    key_made(account)
    settings.WEBHOOKS_ALLOW_LOOPBACK = False

    pass_on()

    assert receiver.requests == []
    assert only_delivery().last_error == "address_forbidden"


def test_what_ended_a_month_ago_is_forgotten_and_nothing_else(account: Account, receiver: Receiver, register: Register) -> None:
    register()
    old, new = key_made(account, "old"), key_made(account, "new")
    pass_on()
    WebhookDelivery.objects.filter(event=old).update(finished_at=clock.now() - timedelta(days=30, seconds=1))
    waiting = key_made(account, "waiting")
    fan_out()

    forgotten = deliveries_forget(now=clock.now())

    assert forgotten == 1
    assert set(WebhookDelivery.objects.values_list("event_id", flat=True)) == {new.pk, waiting.pk}
    assert fan_out() == 0


def test_jitter_spreads_retries_by_a_tenth(account: Account) -> None:
    pauses = {deliveries._jittered(timedelta(seconds=100)) for _ in range(500)}

    assert min(pauses) >= timedelta(seconds=90)
    assert max(pauses) <= timedelta(seconds=110)
    assert len(pauses) > 10


def test_messages_carry_the_time_of_the_attempt(account: Account, receiver: Receiver, register: Register) -> None:
    register()
    receiver.behave(status=500)
    event = key_made(account)
    fan_out()
    delivery = only_delivery()
    send()
    receiver.behave()
    delivery.refresh_from_db()
    later = delivery.next_attempt_at
    assert later is not None

    with freeze_time(later, real_asyncio=True):
        send()

    first, second = receiver.requests
    assert second.body == first.body
    assert int(second.headers["webhook-timestamp"]) == int(later.timestamp())
    at = datetime.fromisoformat(json.loads(second.body)["timestamp"])
    assert at == event.at.astimezone(UTC).replace(microsecond=event.at.microsecond // 1000 * 1000)
