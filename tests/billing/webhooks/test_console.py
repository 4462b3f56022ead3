"""Operators see endpoints and deliveries, disable, enable and replay with a reason, if they may."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from billing.accounts.models import Account, User
from billing.events.models import Event
from billing.webhooks.models import WebhookDelivery, WebhookEndpoint

from .conftest import Register, fan_out, key_made

pytestmark = pytest.mark.django_db


def logged_in(**fields: Any) -> Client:
    user = User.objects.create_user("operator@example.com", "correct horse battery", is_staff=True, **fields)
    names = ["view_webhookendpoint", "view_webhookdelivery"]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def console(db: None) -> Client:
    return logged_in(is_superuser=True)


def act(endpoint: WebhookEndpoint, name: str) -> str:
    return reverse("admin:billing_webhookendpoint_act", args=[endpoint.pk, name])


def test_an_endpoint_is_disabled_and_enabled_with_a_reason(console: Client, register: Register) -> None:
    endpoint = register()

    asked = console.get(act(endpoint, "disable"))
    without = console.post(act(endpoint, "disable"), {"reason": ""})
    console.post(act(endpoint, "disable"), {"reason": "floods a hospital"})
    endpoint.refresh_from_db()
    disabled = (endpoint.is_enabled, endpoint.disabled_by, endpoint.disabled_reason)
    console.post(act(endpoint, "enable"), {"reason": "mended"})

    endpoint.refresh_from_db()
    assert (asked.status_code, without.status_code) == (200, 200)
    assert disabled == (False, "operator", "floods a hospital")
    assert endpoint.is_enabled is True
    told = Event.objects.filter(object_type="webhook_endpoint").order_by("id").values_list("kind", "reason", "actor_kind")
    assert list(told)[1:] == [
        ("webhook_endpoint.disabled", "floods a hospital", "operator"),
        ("webhook_endpoint.enabled", "mended", "operator"),
    ]


def test_deliveries_are_replayed_from_the_list(console: Client, account: Account, register: Register) -> None:
    register()
    key_made(account)
    key_made(account)
    fan_out()
    first, second = WebhookDelivery.objects.order_by("created_at", "pk")
    WebhookDelivery.objects.filter(pk=first.pk).update(state="failed", next_attempt_at=None, finished_at=first.created_at)
    listed = reverse("admin:billing_webhookdelivery_changelist")

    chosen = console.post(listed, {"action": "replay_selected", "_selected_action": [first.pk, second.pk]})
    asked = console.get(chosen.url)
    done = console.post(chosen.url, {"reason": "the customer asked"}, follow=True)

    [replay] = WebhookDelivery.objects.filter(kind="replay")
    assert asked.status_code == 200
    assert (replay.replay_of, replay.message_id, replay.state) == (first, first.message_id, "pending")
    # The other one still waits by itself.
    assert "still waiting to be sent" in done.content.decode()
    [event] = Event.objects.filter(kind="webhook_endpoint.replayed")
    assert (event.reason, event.actor_kind) == ("the customer asked", "operator")


def test_an_operator_without_the_right_reads_only(account: Account, register: Register) -> None:
    endpoint = register()
    key_made(account)
    fan_out()
    delivery = WebhookDelivery.objects.get()
    reader = logged_in()
    replay = f"{reverse('admin:billing_webhookdelivery_replay')}?deliveries={delivery.pk}"

    read = reader.get(reverse("admin:billing_webhookdelivery_change", args=[delivery.pk]))
    refused = [
        reader.post(act(endpoint, "disable"), {"reason": "x"}).status_code,
        reader.post(replay, {"reason": "x"}).status_code,
    ]

    endpoint.refresh_from_db()
    assert read.status_code == 200
    assert refused == [403, 403]
    assert (endpoint.is_enabled, WebhookDelivery.objects.count()) == (True, 1)


def test_pages_never_show_a_secret(console: Client, register: Register) -> None:
    endpoint = register()

    pages = [
        console.get(reverse("admin:billing_webhookendpoint_changelist")),
        console.get(reverse("admin:billing_webhookendpoint_change", args=[endpoint.pk])),
    ]

    assert [page.status_code for page in pages] == [200, 200]
    assert [page for page in pages if endpoint.secret in page.content.decode() or "whsec_" in page.content.decode()] == []
