"""Networks that are kept out: look-up, services, the watch of a web process, and the door they are kept out at."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from freezegun import freeze_time

from iafactory.common.hot import SlimApplication
from ratelimit.blocks import BlockedNetwork, BlockList, BlockWatch, block_list_load, network_block, network_unblock
from ratelimit.models import NetworkBlock

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def block_list(*networks: str) -> BlockList:
    return BlockList(BlockedNetwork(network, "spam", None) for network in networks)


@pytest.mark.parametrize(
    ("network", "address", "blocked"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("10.1.2.0/24", "10.1.2.255", True),
        ("10.1.2.0/24", "10.1.3.0", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "203.0.113.9", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("2001:db8::1", "2001:0db8:0000::0001", True),
        ("10.1.2.0/24", "::ffff:10.1.2.3", True),
        ("::ffff:10.1.2.0/120", "10.1.2.3", True),
        ("10.1.2.0/24", "", False),
        ("10.1.2.0/24", "unknown", False),
    ],
)
def test_look_up(network: str, address: str, blocked: bool) -> None:
    found = block_list(network).blocked(address, NOW)

    assert (found is not None) is blocked


def test_one_of_several_networks_is_named() -> None:
    blocks = block_list("192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32")

    found = blocks.blocked("10.9.9.9", NOW)

    assert found == BlockedNetwork("10.0.0.0/8", "spam", None)


def test_a_block_ends_at_its_instant_without_reading_again() -> None:
    blocks = BlockList([BlockedNetwork("10.0.0.0/8", "spam", NOW)])

    before = blocks.blocked("10.0.0.1", NOW - timedelta(microseconds=1))
    at_the_end = blocks.blocked("10.0.0.1", NOW)

    assert before is not None
    assert at_the_end is None


def test_an_expired_block_does_not_hide_a_wider_one() -> None:
    blocks = BlockList([BlockedNetwork("10.0.0.1", "old", NOW), BlockedNetwork("10.0.0.0/8", "spam", None)])

    found = blocks.blocked("10.0.0.1", NOW)

    assert found is not None
    assert found.network == "10.0.0.0/8"


# --- Services ---


@pytest.mark.django_db
def test_blocking_again_changes_reason_and_end() -> None:
    network_block(network=" 10.0.0.0/8 ", reason="spam", actor_label="amina@example.com")

    network_block(network="10.0.0.0/8", reason="worse", expires_at=NOW, actor_label="boris@example.com")

    row = NetworkBlock.objects.get()
    assert (row.network, row.reason, row.expires_at, row.created_by) == ("10.0.0.0/8", "worse", NOW, "boris@example.com")


@pytest.mark.django_db
def test_one_address_has_one_spelling() -> None:
    network_block(network="::ffff:10.0.0.1", reason="a")
    network_block(network="10.0.0.1/32", reason="b")

    assert list(NetworkBlock.objects.values_list("network", "reason")) == [("10.0.0.1/32", "b")]
    assert block_list_load().blocked("10.0.0.1", NOW) is not None


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["", "here", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "2001:db8::/129"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        network_block(network=text, reason="spam")

    assert not NetworkBlock.objects.exists()


@pytest.mark.django_db
def test_unblocking_tells_whether_there_was_one() -> None:
    network_block(network="10.0.0.0/8", reason="spam")

    first, second = network_unblock(network="10.0.0.0/8"), network_unblock(network="10.0.0.0/8")

    assert (first, second) == (True, False)
    assert block_list_load().blocked("10.0.0.1", NOW) is None


# --- The watch of a web process ---


def scope(address: str, path: str = "/", **headers: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "client": (address, 1234),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }


@pytest.fixture
async def watch() -> Any:
    made = BlockWatch()
    yield made
    await made.stop()
    # The thread that read the list keeps its connection.
    await sync_to_async(lambda: connection.close())()


async def in_thread(deed: Any, **arguments: Any) -> Any:
    def run() -> Any:
        try:
            return deed(**arguments)
        finally:
            connection.close()

    return await asyncio.to_thread(run)


@pytest.mark.django_db(transaction=True)
async def test_the_watch_reads_at_start_and_when_told(watch: BlockWatch) -> None:
    await in_thread(network_block, network="10.0.0.1", reason="spam")
    await watch.start()
    at_start = watch.admit(scope("10.0.0.1"))
    await in_thread(network_unblock, network="10.0.0.1")

    watch.changed()

    async with asyncio.timeout(20):
        while watch.admit(scope("10.0.0.1")) is not None:  # noqa: ASYNC110  the watch tells nobody
            await asyncio.sleep(0.02)
    assert at_start is not None
    assert (at_start.status, at_start.code) == (403, "address_blocked")


async def test_the_client_behind_a_trusted_proxy_is_the_one_kept_out(watch: BlockWatch, settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    watch._blocks = block_list("203.0.113.9")

    kept_out = watch.admit(scope("10.0.0.1", x_forwarded_for="203.0.113.9"))
    neighbour = watch.admit(scope("10.0.0.1", x_forwarded_for="203.0.113.8"))
    liar = watch.admit(scope("203.0.113.9", x_forwarded_for="198.51.100.1"))

    assert [kept_out is None, neighbour is None, liar is None] == [False, True, False]


async def test_the_clock_decides_when_a_block_ends(watch: BlockWatch) -> None:
    watch._blocks = BlockList([BlockedNetwork("10.0.0.1", "spam", NOW)])

    with freeze_time(NOW - timedelta(seconds=1)):
        before = watch.admit(scope("10.0.0.1"))
    with freeze_time(NOW):
        after = watch.admit(scope("10.0.0.1"))

    assert before is not None
    assert after is None


# --- The door ---


async def refuse_nothing() -> None: ...


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/auth/login", "/admin/", "/", "/health"])
async def test_every_path_is_refused_before_anything_else(path: str, watch: BlockWatch) -> None:
    watch._blocks = block_list("10.0.0.1")
    reached: list[str] = []
    sent: list[Mapping[str, Any]] = []

    async def stock(scope: dict[str, Any], receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> Mapping[str, Any]:
        raise AssertionError("the body was read")

    application = SlimApplication(
        stock=stock, hot_urls="routing.hot_urls", start=refuse_nothing, stop=refuse_nothing, admit=watch.admit
    )

    await application(scope("10.0.0.1", path), receive, send)

    assert reached == []
    assert sent[0]["status"] == 403
    assert b'"address_blocked"' in sent[1]["body"]
