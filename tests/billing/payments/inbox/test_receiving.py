"""Webhooks are stored as they arrive, believed when the gateway signed them, and counted once."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from django.test import Client
from freezegun import freeze_time
from pytest_django.fixtures import Settings

from billing.models import GatewayWebhook
from billing.payments.inbox.receiving import webhook_receive
from iafactory.common.errors import ApiError
from tests.billing.payments.market import in_threads

from .conftest import Gate, send

ALL = ["chargily", "stripe", "paypal", "razorpay", "payu"]
GateOf = Callable[[str], Gate]
enqueued: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def nobody_works(monkeypatch: pytest.MonkeyPatch) -> None:
    enqueued.clear()
    monkeypatch.setattr("billing.payments.inbox.receiving.task_enqueue", lambda *what: enqueued.append(what))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("slug", ALL)
def test_a_signed_webhook_is_stored_verified_and_handed_over(gate_of: GateOf, slug: str) -> None:
    gate = gate_of(slug)
    payment = gate.pay(webhook_url="http://127.0.0.1:9/x")
    delivery = gate.fake.outbox[-1]

    response = gate.post(delivery)

    row = GatewayWebhook.objects.get()
    assert (response.status_code, response.json()) == (200, {"received": True})
    assert (row.gateway, row.mode, row.state, row.subject, row.signed) == (slug, "test", "received", "payment", True)
    assert (bytes(row.body), row.body_sha256) == (delivery.body, hashlib.sha256(delivery.body).hexdigest())
    assert row.verified_at == row.received_at
    assert row.source_address == "127.0.0.1"
    assert payment.checkout_id == row.checkout_id or payment.payment_id == row.gateway_payment_id
    assert enqueued == [("billing.payments.webhook_work", str(row.pk))]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("slug", "path"),
    [
        ("chargily", "/payment/webhook/chargily"),
        ("chargily", "/payment/webhook/chargily/"),
        ("stripe", "/webhooks/stripe"),
        ("paypal", "/webhooks/paypal"),
        ("stripe", "/api/payment/webhook/stripe/"),
    ],
)
def test_older_addresses_and_slashes_lead_to_the_same_place(gate_of: GateOf, slug: str, path: str) -> None:
    gate = gate_of(slug)
    gate.pay()

    response = gate.post(gate.fake.outbox[-1], path=path, headers={"accept": "text/plain"})

    assert response.status_code == 200
    assert GatewayWebhook.objects.get(verified_at__isnull=False).gateway == slug


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ALL)
def test_a_forged_webhook_is_kept_as_rejected_and_handed_to_nobody(gate_of: GateOf, slug: str) -> None:
    gate = gate_of(slug)
    gate.pay()

    response = gate.post(gate.fake.outbox[-1], body=gate.fake.outbox[-1].body.replace(b"pa01", b"pa02"))

    row = GatewayWebhook.objects.get()
    assert (response.status_code, response.json()["error"]["code"]) == (400, "webhook_rejected")
    assert (row.state, row.rejection, row.verified_at, row.event_id) == ("rejected", "bad_signature", None, "")
    assert enqueued == []


@pytest.mark.django_db
def test_of_a_rejected_body_only_the_beginning_stays(gate_of: GateOf) -> None:
    gate_of("stripe")
    body = b"x" * 100_000

    response = send("/webhooks/stripe", body, {"stripe-signature": "t=1,v1=00"})

    row = GatewayWebhook.objects.get()
    assert (response.status_code, len(bytes(row.body))) == (400, 4096)
    assert row.body_sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.django_db
def test_what_is_too_large_is_not_stored(gate_of: GateOf) -> None:
    gate_of("stripe")

    response = send("/webhooks/stripe", b"x" * (1024 * 1024 + 1), {"stripe-signature": "t=1,v1=00"})

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert not GatewayWebhook.objects.exists()


@pytest.mark.django_db
def test_what_is_too_large_is_not_stored_whatever_its_headers_said(gate_of: GateOf) -> None:
    gate_of("stripe")
    body = b"x" * (1024 * 1024 + 1)

    with pytest.raises(ApiError, match="larger than 1048576 bytes"):
        webhook_receive(gateway="stripe", body=body, headers={}, token="", address=None, at=datetime.now(UTC))

    assert not GatewayWebhook.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("slug", ["manual", "nosuch", "stripe"])
def test_a_gateway_without_settings_has_no_address(settings: Settings, slug: str) -> None:
    settings.STRIPE_SECRET_KEY = ""

    response = send(f"/api/payment/webhook/{slug}", b"{}", {})

    assert (response.status_code, GatewayWebhook.objects.count()) == (404, 0)


@pytest.mark.django_db
def test_one_that_takes_no_new_payments_still_hears(gate_of: GateOf, settings: Settings) -> None:
    gate = gate_of("chargily")
    gate.pay(webhook_url="http://127.0.0.1:9/x")
    settings.PAYMENT_GATEWAYS = []

    response = gate.post(gate.fake.outbox[-1])

    assert response.status_code == 200


@pytest.mark.django_db
def test_only_post_is_taken() -> None:
    assert Client().get("/api/payment/webhook/stripe").status_code == 405


@pytest.mark.django_db
def test_a_repetition_is_counted_on_the_first(gate_of: GateOf) -> None:
    gate = gate_of("stripe")
    gate.pay()
    delivery = gate.fake.outbox[-1]

    statuses = [gate.post(delivery).status_code for _ in range(3)]

    row = GatewayWebhook.objects.get()
    assert (statuses, row.deliveries) == ([200, 200, 200], 3)


@pytest.mark.django_db
def test_the_same_event_in_other_bytes_is_kept_too(gate_of: GateOf) -> None:
    gate = gate_of("razorpay")
    gate.pay()
    first, second = gate.fake.outbox[-2:]
    event_id = first.signed()["x-razorpay-event-id"]

    gate.post(first)
    gate.post(second, headers={"x-razorpay-event-id": event_id})
    gate.post(second, headers={"x-razorpay-event-id": event_id})

    rows = GatewayWebhook.objects.order_by("received_at")
    assert [row.event_id.partition("~")[0] for row in rows] == [event_id, event_id]
    assert [(row.event_type, row.deliveries) for row in rows] == [("payment.captured", 1), ("payment_link.paid", 2)]


@pytest.mark.django_db
def test_a_certificate_that_cannot_be_had_leaves_the_webhook_waiting(gate_of: GateOf, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = gate_of("paypal")
    gate.pay()
    gate.fake.fail("error", "/certs/")

    response = gate.post(gate.fake.outbox[-1])

    row = GatewayWebhook.objects.get()
    assert (response.status_code, row.state, row.verified_at) == (200, "received", None)
    assert row.next_attempt_at is not None
    assert set(row.headers) >= set(gate.adapter.webhook_headers)
    assert enqueued == []


@pytest.mark.django_db
def test_stripes_window_is_measured_from_when_it_arrived(gate_of: GateOf) -> None:
    gate = gate_of("stripe")
    gate.pay()
    delivery = gate.fake.outbox[-1]
    signed = delivery.signed()
    later = datetime.now(UTC).timestamp() + 400

    with freeze_time(datetime.fromtimestamp(later, UTC), real_asyncio=True):
        response = send("/webhooks/stripe", delivery.body, signed)

    assert (response.status_code, GatewayWebhook.objects.get().rejection) == (400, "stale")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("slug", ALL)
def test_twenty_threads_deliver_every_webhook_and_each_counts_once(gate_of: GateOf, slug: str) -> None:
    gate = gate_of(slug)
    gate.pay()
    signed = [(delivery.body, delivery.signed()) for delivery in gate.fake.outbox]
    statuses: Counter[int] = Counter()

    def deliver(seed: int) -> None:
        for body, headers in random.Random(seed).sample(signed, len(signed)):
            statuses[send(f"/api/payment/webhook/{slug}", body, headers).status_code] += 1

    in_threads([partial(deliver, seed) for seed in range(20)])

    rows = list(GatewayWebhook.objects.all())
    assert statuses == {200: 20 * len(signed)}
    assert sorted(row.deliveries for row in rows) == [20] * len(signed)
    assert len(enqueued) == len(signed)
