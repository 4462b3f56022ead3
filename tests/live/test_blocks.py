"""Network blocks in the running product: every path, within a second, and nobody else."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from billing.abuse.services import network_ban, network_unban
from billing.events.services import SYSTEM
from iafactory.common import clock
from ratelimit.models import NetworkBlock
from tests.live.conftest import Customer, Live, seconds_until, soonest

GOOD: dict[str, Any] = {"model": "llama-3.3-70b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
# On Linux every address of 127/8 is this machine: a client may come from any of them.
STRANGER = "127.0.0.66"
PATHS = ["/", "/admin/login/", "/health", "/docs", "/openapi.json", "/api/billing/plans", "/v1/models", "/nowhere"]


@pytest.fixture
def stranger(live: Live) -> Iterator[httpx2.Client]:
    """A client at another address."""
    with httpx2.Client(base_url=live.url, transport=httpx2.HTTPTransport(local_address=STRANGER), timeout=30) as client:
        yield client
    NetworkBlock.objects.all().delete()


def seconds_to(client: httpx2.Client, *, blocked: bool) -> float:
    """How long it takes until the client is kept out, or let in."""
    return seconds_until(lambda: (client.get("/health").status_code == 403) is blocked)


def seconds_to_ban(client: httpx2.Client) -> float:
    """Let the client in, then keep it out: how long the latter takes."""
    NetworkBlock.objects.all().delete()
    seconds_to(client, blocked=False)
    network_ban(network=STRANGER, actor=SYSTEM, reason="spam")
    return seconds_to(client, blocked=True)


def seconds_to_unban(client: httpx2.Client) -> float:
    """Keep the client out, then let it in: how long the latter takes."""
    row = network_ban(network="127.0.0.64/30", actor=SYSTEM, reason="spam")
    seconds_to(client, blocked=True)
    network_unban(block=row, actor=SYSTEM)
    return seconds_to(client, blocked=False)


def test_a_block_holds_within_a_second_on_every_path(live: Live, stranger: httpx2.Client) -> None:
    customer = live.customer()
    before = stranger.get("/health").status_code

    took = soonest(lambda: seconds_to_ban(stranger), promised_seconds=1)
    pages = [stranger.get(path) for path in PATHS]
    call = stranger.post("/v1/chat/completions", json=GOOD, headers=customer.headers)
    login = stranger.post("/api/auth/login", json={"email": "a@example.com", "password": "x"})

    assert before == 200
    assert took < 1
    assert [page.status_code for page in pages] == [403] * len(PATHS)
    assert {page.json()["error"]["code"] for page in [*pages, call, login]} == {"address_blocked"}
    assert call.json()["error"]["type"] == "permission_error"
    assert call.headers["x-should-retry"] == "false"
    assert customer.wallet() == (100, 0)


def test_everybody_else_is_served_meanwhile(live: Live, stranger: httpx2.Client) -> None:
    customer: Customer = live.customer()
    network_ban(network=f"{STRANGER}/32", actor=SYSTEM, reason="spam")
    seconds_to(stranger, blocked=True)

    answer = live.post("/v1/chat/completions", customer, json=GOOD)

    assert answer.status_code == 200


def test_letting_in_again_holds_within_a_second(live: Live, stranger: httpx2.Client) -> None:
    assert soonest(lambda: seconds_to_unban(stranger), promised_seconds=1) < 1


def test_a_block_ends_at_its_instant(live: Live, stranger: httpx2.Client) -> None:
    ends_at = clock.now() + timedelta(seconds=5)
    network_ban(network=STRANGER, actor=SYSTEM, reason="spam", expires_at=ends_at)
    seconds_to(stranger, blocked=True)

    seconds_to(stranger, blocked=False)

    assert ends_at <= clock.now() < ends_at + timedelta(seconds=5)


def test_forged_headers_do_not_help(live: Live, stranger: httpx2.Client) -> None:
    network_ban(network=STRANGER, actor=SYSTEM, reason="spam")
    seconds_to(stranger, blocked=True)

    forged = [
        stranger.get("/health", headers={name: "203.0.113.1"}).status_code
        for name in ("x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip")
    ]

    assert forged == [403] * 5
