"""Gateways' webhooks in the console."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from billing.accounts.models import User
from billing.models import Event, GatewayWebhook

from .market import Market

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/billing/gatewaywebhook/"


def operator(*permissions: str) -> Client:
    user = User.objects.create_user("operator@example.com", "correct horse battery", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def told(market_of: Callable[[str], Market]) -> Market:
    """A payment at Chargily whose webhook was worked while the gateway did not answer."""
    market = market_of("chargily")
    payment = market.top_up()
    market.act(payment)
    market.fake.fail("error", "/api/v2/", times=1)
    market.deliver()
    return market


def test_list_and_page_show_what_was_told_and_what_is_true(told: Market) -> None:
    client = operator("view_gatewaywebhook", "replay_gatewaywebhook")
    row = GatewayWebhook.objects.get()
    told.queue.waiting = [("billing.payments.webhook_work", str(row.pk))]
    told.queue.work()

    listed = client.get(LIST).content.decode()
    page = client.get(f"{LIST}{row.pk}/change/").content.decode()

    assert "checkout.paid" in listed
    figures = re.findall(r"<tr><td>(\w+)</td><td[^>]*>([^<]*)</td><td[^>]*>([^<]*)</td></tr>", page)
    assert ("amount", "2,590", "2,590") in figures
    assert ("status", "paid", "paid") in figures
    assert "Work it again" in page


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state__exact=failed", 1),
        ("state__exact=processed", 0),
        ("gateway=chargily", 1),
        ("q=nosuch", 0),
        ("event_type=checkout.paid", 1),
    ],
)
def test_filters_and_search(told: Market, query: str, count: int) -> None:
    client = operator("view_gatewaywebhook")

    listed = client.get(f"{LIST}?{query}")

    assert listed.context["cl"].result_count == count


def test_an_operator_has_a_failed_webhook_worked_again(told: Market) -> None:
    client = operator("view_gatewaywebhook", "replay_gatewaywebhook")
    row = GatewayWebhook.objects.get()
    url = f"{LIST}replay/?webhooks={row.pk}"

    asked = client.get(url)
    done = client.post(url, {"reason": "the gateway is back"})
    told.queue.work()

    row.refresh_from_db()
    event = Event.objects.get(kind="gateway_webhook.replayed")
    assert (asked.status_code, done.status_code) == (200, 302)
    assert (row.state, told.credits()) == ("processed", 1050)
    assert (event.actor_label, event.reason, event.before) == (
        "operator@example.com",
        "the gateway is back",
        {"state": "failed"},
    )


def test_working_a_processed_webhook_again_changes_nothing(told: Market) -> None:
    client = operator("view_gatewaywebhook", "replay_gatewaywebhook")
    row = GatewayWebhook.objects.get()
    url = f"{LIST}replay/?webhooks={row.pk}"
    client.post(url, {"reason": "the gateway is back"})
    told.queue.work()

    client.post(url, {"reason": "once more"})
    replayed = GatewayWebhook.objects.get().state
    told.queue.work()

    assert (replayed, GatewayWebhook.objects.get().state, told.credits(), told.lots()) == ("replayed", "processed", 1050, 2)


def test_without_a_reason_nothing_is_worked(told: Market) -> None:
    client = operator("view_gatewaywebhook", "replay_gatewaywebhook")
    row = GatewayWebhook.objects.get()

    answer = client.post(f"{LIST}replay/?webhooks={row.pk}", {"reason": ""})

    row.refresh_from_db()
    assert (answer.status_code, row.state) == (200, "failed")


@pytest.mark.parametrize("permissions", [(), ("view_gatewaywebhook",)])
def test_who_may_only_look_may_not_replay(told: Market, permissions: tuple[str, ...]) -> None:
    client = operator(*permissions)
    row = GatewayWebhook.objects.get()

    answer: Any = client.post(f"{LIST}replay/?webhooks={row.pk}", {"reason": "let me"})

    row.refresh_from_db()
    assert (answer.status_code, row.state) == (403, "failed")


def test_a_rejected_webhook_is_never_worked(told: Market) -> None:
    client = operator("view_gatewaywebhook", "replay_gatewaywebhook")
    Client().post("/api/payment/webhook/chargily", data=b"{}", content_type="application/json", headers={"signature": "00"})
    row = GatewayWebhook.objects.get(state="rejected")

    client.post(f"{LIST}replay/?webhooks={row.pk}", {"reason": "it looks fine"})
    page = client.get(f"{LIST}{row.pk}/change/")

    row.refresh_from_db()
    assert (row.state, page.status_code, told.queue.waiting) == ("rejected", 200, [])
    assert "Work it again" not in page.content.decode()
