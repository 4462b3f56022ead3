"""Limits that a customer sets on a key of their own hold on the gateway within a second, and survive rotation."""

from typing import Any

import httpx2
import pytest

from billing.accounts.models import ApiKey, Membership, User
from billing.accounts.tokens import session_tokens
from iafactory.common.crypto import secret_hash
from tests.live.conftest import Customer, Live, seconds_until, soonest

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


def seconds_to(live: Live, customer: Customer, status: int) -> float:
    """How long it takes until a call of the key is answered with `status`."""
    return seconds_until(lambda: live.post(CHAT, customer, json=GOOD).status_code == status)


def seconds_to_limit(live: Live, client: httpx2.Client, customer: Customer, limits: dict[str, Any], status: int) -> float:
    """Lift all limits of the customer's key, then set `limits`: how long it takes until calls are answered with `status`."""
    address = f"/api/keys/{ApiKey.objects.get(account=customer.account, key_hash=secret_hash(customer.secret)).pk}"
    client.patch(address, json={"allowed_networks": [], "requests_per_minute": None}).raise_for_status()
    seconds_to(live, customer, 200)
    client.patch(address, json=limits).raise_for_status()
    return seconds_to(live, customer, status)


def test_a_customers_limits_hold_within_a_second_and_after_rotation(
    live: Live, session: tuple[Customer, httpx2.Client]
) -> None:
    customer, client = session
    address = f"/api/keys/{customer.key.pk}"

    with client:
        elsewhere = {"allowed_networks": ["10.0.0.0/8"]}
        closed = soonest(lambda: seconds_to_limit(live, client, customer, elsewhere, 403), promised_seconds=1)
        refused = live.post(CHAT, customer, json=GOOD)
        rotated = client.post(f"{address}/rotate", json={"grace_seconds": 3600}).json()
        successor = Customer(customer.account, customer.key, rotated["secret"])
        of_successor = live.post(CHAT, successor, json=GOOD)
        none = {"requests_per_minute": 0}
        limited = soonest(lambda: seconds_to_limit(live, client, successor, none, 429), promised_seconds=1)
        spent = live.post(CHAT, successor, json=GOOD)

    assert refused.json()["error"]["code"] == of_successor.json()["error"]["code"] == "network_not_allowed"
    assert spent.json()["error"]["code"] == "rate_limited"
    assert closed < 1
    assert limited < 1
