"""Limits that a customer sets on a key of their own hold on the gateway within a second, and survive rotation."""

import time
from typing import Any

import httpx2
import pytest

from billing.accounts.models import Membership, User
from billing.accounts.tokens import session_tokens
from tests.live.conftest import Customer, Live

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "llama-3.3-70b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


@pytest.fixture
def session(live: Live) -> tuple[Customer, httpx2.Client]:
    """A customer with a key in use, and a logged-in owner of the account."""
    customer = live.customer()
    user = User.objects.create_user(f"{customer.account.pk}@example.com", "correct horse battery")
    Membership.objects.create(account=customer.account, user=user, role=Membership.Role.OWNER)
    headers = {"authorization": f"Bearer {session_tokens(user).access_token}", "x-account": str(customer.account.pk)}
    assert live.post(CHAT, customer, json=GOOD).status_code == 200
    return customer, httpx2.Client(base_url=live.url, headers=headers, timeout=30)


def seconds_until(live: Live, customer: Customer, status: int) -> float:
    """How long it takes until a call of the key is answered with `status`."""
    began = time.monotonic()
    while live.post(CHAT, customer, json=GOOD).status_code != status:
        assert time.monotonic() - began < 5
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_customers_limits_hold_within_a_second_and_after_rotation(
    live: Live, session: tuple[Customer, httpx2.Client]
) -> None:
    customer, client = session
    address = f"/api/keys/{customer.key.pk}"

    with client:
        set_ = client.patch(address, json={"allowed_networks": ["10.0.0.0/8"]})
        closed = seconds_until(live, customer, 403)
        refused = live.post(CHAT, customer, json=GOOD)
        rotated = client.post(f"{address}/rotate", json={"grace_seconds": 3600}).json()
        successor = Customer(customer.account, customer.key, rotated["secret"])
        of_successor = live.post(CHAT, successor, json=GOOD)
        cleared = client.patch(f"/api/keys/{rotated['id']}", json={"allowed_networks": [], "requests_per_minute": 0})
        limited = seconds_until(live, successor, 429)
        spent = live.post(CHAT, successor, json=GOOD)

    assert (set_.status_code, cleared.status_code) == (200, 200)
    assert refused.json()["error"]["code"] == of_successor.json()["error"]["code"] == "network_not_allowed"
    assert spent.json()["error"]["code"] == "rate_limited"
    assert closed < 1
    assert limited < 1
