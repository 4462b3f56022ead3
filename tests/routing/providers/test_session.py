"""The pool: connections kept, bounded and waited for, names, TLS, silence, and what is given up half way."""

import asyncio
import contextlib
import errno
import gc
import os
import pathlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from routing.providers import session as session_module
from routing.providers.http1 import (
    ConnectFailed,
    Connection,
    ConnectTimedOut,
    Disconnected,
    HttpAnswer,
    HttpFailure,
    InvalidUrl,
)
from routing.providers.session import AddressInfo, Place, ProviderSession, _request, open_session
from tests.wire.raw import Peer, RawServer, answering, certificate, raw_server, saying, server_context, silent
from tests.wire.replay import Answer, ReplayServer

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"
LAST = HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
MOST = 1024 * 1024


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No test leaves a task behind, nor an error that nobody looked at."""
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))

    yield

    await asyncio.sleep(0.01)
    # The oldest objects are not the test's.
    gc.collect(1)
    assert unseen == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def sockets() -> Callable[[], int]:
    """How many sockets this process has now more than at first, those of the loop itself left out."""

    def count() -> int:
        found = 0
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        return found

    # What earlier tests have left to the collector may go at any time: it must not hide one of ours.
    gc.collect()
    before = count()
    return lambda: max(count() - before, 0)


async def ask(session: ProviderSession, url: str, **changes: Any) -> HttpAnswer:
    return await session.send("POST", url, headers={}, **{"connect_seconds": 2, "silence_seconds": 5, **changes})


async def whole(session: ProviderSession, url: str, **changes: Any) -> bytes:
    return await (await ask(session, url, **changes)).read(MOST)


async def settle() -> None:
    """Long enough for sockets that were closed to be gone."""
    for _ in range(5):
        await asyncio.sleep(0.003)


def when(told: asyncio.Event, raw: bytes = HELLO) -> Callable[[Peer], Awaitable[None]]:
    """Answers each request as soon as it is told to, once for each time."""

    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            await told.wait()
            told.clear()
            await peer.send(raw)

    return serve


# -- what is sent ----------------------------------------------------------------------------------------------------


async def test_a_request(session: ProviderSession) -> None:
    async with raw_server(answering(HELLO)) as server:
        await session.send(
            "POST",
            server.url + "v1/chat?a=1&b=é",
            headers={"Authorization": "Bearer schlüssel", "Accept": "*/*"},
            content=b'{"a": 1}',
            connect_seconds=2,
        )

    assert server.requests == [
        (
            f"POST /v1/chat?a=1&b=%C3%A9 HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUser-Agent: IAFactory/1\r\n"
            "Accept-Encoding: identity\r\nAuthorization: Bearer schlüssel\r\nAccept: */*\r\nContent-Length: 8\r\n\r\n"
            '{"a": 1}'
        ).encode()
    ]


async def test_a_request_without_a_body(session: ProviderSession) -> None:
    async with raw_server(answering(HELLO)) as server:
        await session.send("GET", server.url + "models", headers={}, connect_seconds=2)

    assert server.requests == [
        b"GET /models HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: IAFactory/1\r\nAccept-Encoding: identity\r\n\r\n"
        % server.port
    ]


async def test_a_large_body(session: ProviderSession) -> None:
    content = os.urandom(3_000_000)
    async with raw_server(answering(HELLO)) as server:
        await whole(session, server.url, content=content)

    assert server.requests[0].endswith(b"\r\nContent-Length: 3000000\r\n\r\n" + content)


@pytest.mark.parametrize(
    ("url", "place", "target", "host"),
    [
        ("https://api.example.com", ("api.example.com", 443, True), "/", "api.example.com"),
        ("http://API.Example.com:80/v1", ("api.example.com", 80, False), "/v1", "api.example.com"),
        ("https://api.example.com:8443/a?b", ("api.example.com", 8443, True), "/a?b", "api.example.com:8443"),
        ("https://[2001:db8::1]:8443/", ("2001:db8::1", 8443, True), "/", "[2001:db8::1]:8443"),
        ("https://bücher.example/ü ber?q=ß", ("xn--bcher-kva.example", 443, True), "/%C3%BC%20ber?q=%C3%9F", None),
        ("https://api.example.com/a%2Fb?c=%26&d=+", ("api.example.com", 443, True), "/a%2Fb?c=%26&d=+", None),
        ("https://api.example.com/v1#part", ("api.example.com", 443, True), "/v1", None),
        ("https://api.example.com/a\r\nb", ("api.example.com", 443, True), "/ab", None),
    ],
)
async def test_what_an_address_means(url: str, place: tuple[str, int, bool], target: str, host: str | None) -> None:
    request = _request(url)

    assert (request.place, request.target) == (Place(*place), target)
    assert request.host_header == (host or place[0])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "/v1",
        "https://",
        "https:///v1",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "https://api.example.com:0",
        "https://api.example.com:99999",
        "https://api.example.com:port",
        "https://[2001:db8::1",
        "https://user:secret@api.example.com",  # pragma: allowlist secret
        "https://user@api.example.com",
        "https://:secret@api.example.com",  # pragma: allowlist secret
    ],
)
async def test_no_address(session: ProviderSession, url: str) -> None:
    with pytest.raises(InvalidUrl):
        await ask(session, url)

    assert session.connections == 0


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "a\nb", "a\rb", "a\0b", "a\ud800b", "a\n"])
async def test_headers_that_cannot_be_sent(session: ProviderSession, value: str) -> None:
    async with raw_server(answering(HELLO)) as server:
        with pytest.raises(InvalidUrl):
            await session.send("GET", server.url, headers={"X-A": value}, connect_seconds=2)
        with pytest.raises(InvalidUrl):
            await session.send("GET", server.url, headers={value: "a"}, connect_seconds=2)

    assert (server.peers, session.connections) == ([], 0)


async def test_redirects_are_answers(session: ProviderSession) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(answering(moved)) as server:
        answer = await ask(session, server.url)

    assert (answer.status, answer.headers["location"]) == (307, "http://127.0.0.1:1/")


# -- connections that are kept ---------------------------------------------------------------------------------------


async def test_one_connection_for_one_call_after_the_other(session: ProviderSession) -> None:
    async with raw_server(answering(HELLO)) as server:
        bodies = [await whole(session, server.url) for _ in range(5)]

        assert bodies == [b"hello"] * 5
        assert (len(server.peers), session.connections, session.idle) == (1, 1, 1)


async def test_the_one_used_last_is_used_next(session: ProviderSession) -> None:
    async with raw_server(answering(HELLO)) as server:
        await asyncio.gather(*[whole(session, server.url) for _ in range(3)])
        for _ in range(4):
            await whole(session, server.url)

        # The others may grow old, and be closed.
        assert sorted(peer.requests for peer in server.peers) == [1, 1, 5]


async def test_a_server_that_hangs_up_an_idle_connection(session: ProviderSession) -> None:
    async with raw_server(saying(HELLO)) as server:
        await whole(session, server.url)
        await settle()
        left = (session.connections, session.idle)
        body = await whole(session, server.url)

    assert (left, body, len(server.peers)) == ((0, 0), b"hello", 2)


async def test_idle_connections_are_closed(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "KEEPALIVE_SECONDS", 0.12)
    async with raw_server(answering(HELLO)) as server:
        await whole(session, server.url)
        await asyncio.sleep(0.06)
        early = session.idle
        await asyncio.sleep(0.16)

        assert (early, session.idle, session.connections) == (1, 0, 0)
        assert await whole(session, server.url) == b"hello"
        assert len(server.peers) == 2


async def test_one_host_does_not_get_the_connections_of_another(session: ProviderSession) -> None:
    async with raw_server(answering(HELLO)) as one, raw_server(answering(HELLO)) as other:
        await whole(session, one.url)
        await whole(session, other.url)
        await whole(session, one.url.replace("127.0.0.1", "localhost"))

    assert (len(one.peers), len(other.peers)) == (2, 1)


# -- bounds ----------------------------------------------------------------------------------------------------------


async def test_no_more_connections_to_one_host_than_allowed() -> None:
    async with raw_server(answering(HELLO)) as server, open_session(connections_per_host=2) as session:
        bodies = await asyncio.gather(*[whole(session, server.url) for _ in range(20)])

        assert bodies == [b"hello"] * 20
        assert (len(server.peers), len(server.requests), session.connections) == (2, 20, 2)


async def test_no_more_connections_than_allowed_in_all() -> None:
    async with (
        raw_server(answering(HELLO)) as one,
        raw_server(answering(HELLO)) as other,
        open_session(connections_total=3) as session,
    ):
        calls = [whole(session, server.url) for server in (one, other) for _ in range(20)]
        most = 0
        for done in asyncio.as_completed(calls):
            assert await done == b"hello"
            most = max(most, session.connections)

    assert (most, len(one.requests), len(other.requests)) == (3, 20, 20)


async def test_idle_connections_make_room_for_another_host() -> None:
    async with (
        raw_server(answering(HELLO)) as one,
        raw_server(answering(HELLO)) as other,
        open_session(connections_total=1) as session,
    ):
        await whole(session, one.url)
        await whole(session, other.url)
        await settle()

        assert session.connections == 1
        assert one.peers[0].reader.at_eof()


async def test_a_connection_that_gets_free_makes_room_for_another_host() -> None:
    told = asyncio.Event()
    async with (
        raw_server(when(told)) as one,
        raw_server(answering(HELLO)) as other,
        open_session(connections_total=1) as session,
    ):
        first = asyncio.create_task(whole(session, one.url))
        await settle()
        second = asyncio.create_task(whole(session, other.url, connect_seconds=0.5))
        await settle()
        told.set()

        assert await asyncio.gather(first, second) == [b"hello", b"hello"]


async def test_who_waits_is_served_in_order() -> None:
    told = asyncio.Event()
    served: list[int] = []

    async def call(number: int) -> None:
        await whole(session, server.url)
        served.append(number)

    async with raw_server(when(told)) as server, open_session(connections_per_host=1) as session:
        calls = [asyncio.create_task(call(number)) for number in range(5)]
        for _ in calls:
            await settle()
            told.set()
        await asyncio.gather(*calls)

    assert served == [0, 1, 2, 3, 4]
    assert len(server.peers) == 1


async def test_who_comes_later_does_not_go_first() -> None:
    told = asyncio.Event()
    served: list[str] = []

    async def call(name: str) -> None:
        await whole(session, server.url)
        served.append(name)

    async def call_twice() -> None:
        await call("first")
        # In the same moment in which the connection is free.
        await call("again")

    async with raw_server(when(told)) as server, open_session(connections_per_host=1) as session:
        calls = [asyncio.create_task(call_twice()), asyncio.create_task(call("waiting"))]
        for _ in range(3):
            await settle()
            told.set()
        await asyncio.gather(*calls)

    assert served == ["first", "waiting", "again"]


async def test_what_is_handed_on_may_be_of_no_use() -> None:
    async with raw_server(answering(HELLO + b"garbage")) as server, open_session(connections_per_host=1) as session:
        bodies = await asyncio.gather(*[whole(session, server.url) for _ in range(3)])
        await settle()

        assert bodies == [b"hello"] * 3
        assert (len(server.peers), session.connections) == (3, 0)


async def test_waiting_too_long_for_room() -> None:
    async with raw_server(silent) as server, open_session(connections_per_host=1) as session:
        first = asyncio.create_task(ask(session, server.url))
        await settle()
        with pytest.raises(ConnectTimedOut):
            await ask(session, server.url, connect_seconds=0.03)

        assert (session.connections, len(server.requests), len(session._waiting)) == (1, 1, 0)
        await cancelled(first)


async def test_a_waiter_that_gives_up() -> None:
    told = asyncio.Event()
    async with raw_server(when(told)) as server, open_session(connections_per_host=1) as session:
        first, second, third = [asyncio.create_task(whole(session, server.url)) for _ in range(3)]
        await settle()
        await cancelled(second)
        told.set()
        await first
        told.set()

        assert await third == b"hello"
        assert (len(server.requests), session.connections, len(session._waiting)) == (2, 1, 0)


@pytest.mark.parametrize(("raw", "turns"), [(HELLO, 0), (LAST, 2)], ids=["a_connection", "room"])
async def test_a_waiter_that_gives_up_in_the_moment_it_is_served(raw: bytes, turns: int) -> None:
    told = asyncio.Event()

    async def first() -> None:
        await whole(session, server.url)
        # What is handed on is it now, the room of a connection that ends a turn later.
        for _ in range(turns):
            await asyncio.sleep(0)
        was_served.append(session._waiting[0][1].done())
        second.cancel()

    was_served: list[bool] = []
    async with raw_server(when(told, raw)) as server, open_session(connections_per_host=1) as session:
        calling = asyncio.create_task(first())
        await settle()
        second, third = [asyncio.create_task(whole(session, server.url)) for _ in range(2)]
        await settle()
        told.set()
        await calling
        with pytest.raises(asyncio.CancelledError):
            await second
        told.set()

        assert await third == b"hello"
        assert was_served == [True]
        assert (len(server.requests), len(session._waiting)) == (2, 0)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- connecting ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        return int(used.getsockname()[1])


@contextlib.contextmanager
def deaf(host: str, port: int) -> Iterator[None]:
    """An address at which connecting takes forever: its queue is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex((host, port)) == errno.EINPROGRESS
        yield


def leading_to(monkeypatch: pytest.MonkeyPatch, *hosts: str, seconds: float = 0) -> list[tuple[str, int]]:
    """Every name leads to these addresses; what was looked up is returned."""
    looked_up: list[tuple[str, int]] = []

    async def look_up(host: str, port: int) -> list[AddressInfo]:
        looked_up.append((host, port))
        await asyncio.sleep(seconds)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)) for host in hosts]

    monkeypatch.setattr(session_module, "_look_up", look_up)
    return looked_up


async def test_nobody_listens(session: ProviderSession) -> None:
    with pytest.raises(ConnectFailed) as failed:
        await ask(session, f"http://127.0.0.1:{free_port()}/")

    assert not isinstance(failed.value, TimeoutError)
    assert isinstance(failed.value.__cause__, ConnectionRefusedError)
    assert session.connections == 0


async def test_nobody_accepts(session: ProviderSession, sockets: Callable[[], int]) -> None:
    port = free_port()
    with deaf("127.0.0.1", port):
        before = sockets()
        with pytest.raises(ConnectTimedOut):
            await ask(session, f"http://127.0.0.1:{port}/", connect_seconds=0.05)
        await settle()

        assert (session.connections, sockets() - before) == (0, 0)


async def test_a_dead_address_first(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(answering(HELLO)) as server:
        leading_to(monkeypatch, "127.0.0.2", "127.0.0.1")

        assert await whole(session, f"http://provider.example:{server.port}/") == b"hello"
        assert session.connections == 1


async def test_a_deaf_address_first(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(answering(HELLO)) as server:
        leading_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        with deaf("127.0.0.2", server.port):
            began = time.monotonic()
            body = await whole(session, f"http://provider.example:{server.port}/")

    assert body == b"hello"
    assert 0.24 < time.monotonic() - began < 0.6


async def test_a_name_is_looked_up_once(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = leading_to(monkeypatch, "127.0.0.1", seconds=0.02)
    async with raw_server(answering(HELLO)) as server:
        url = f"http://provider.example:{server.port}/"
        await asyncio.gather(*[whole(session, url) for _ in range(5)])
        await asyncio.gather(*[whole(session, url) for _ in range(9)])

    assert looked_up == [("provider.example", server.port)]


async def test_a_name_is_looked_up_again_later(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_NAMES_KEPT_SECONDS", 0.05)
    looked_up = leading_to(monkeypatch, "127.0.0.1")
    async with raw_server(answering(LAST)) as server:
        url = f"http://provider.example:{server.port}/"
        await whole(session, url)
        await whole(session, url)
        early = len(looked_up)
        await asyncio.sleep(0.06)
        await whole(session, url)

    assert (early, len(looked_up)) == (1, 2)


async def test_a_host_that_cannot_be_reached_may_have_moved(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = leading_to(monkeypatch, "127.0.0.1")
    port = free_port()
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            await ask(session, f"http://provider.example:{port}/")

    assert len(looked_up) == 2


async def test_who_gives_up_takes_the_name_from_nobody(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = leading_to(monkeypatch, "127.0.0.1", seconds=0.05)
    async with raw_server(answering(HELLO)) as server:
        url = f"http://provider.example:{server.port}/"
        first, second = [asyncio.create_task(whole(session, url)) for _ in range(2)]
        await settle()
        await cancelled(first)

        assert await second == b"hello"
        assert (len(looked_up), session.connections) == (1, 1)


async def test_a_slow_name_server(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    leading_to(monkeypatch, "127.0.0.1", seconds=0.2)
    with pytest.raises(ConnectTimedOut):
        await ask(session, "http://provider.example/", connect_seconds=0.02)

    assert session.connections == 0


@pytest.mark.parametrize("host", ["provider.invalid", "a" * 64 + ".example", "[fe80::1%25nowhere]"])
async def test_a_name_without_an_address(session: ProviderSession, host: str) -> None:
    with pytest.raises(ConnectFailed):
        await ask(session, f"http://{host}/", connect_seconds=20)

    assert session.connections == 0


async def test_a_forbidden_address() -> None:
    class Forbidden(OSError):
        pass

    def check(address: str) -> None:
        checked.append(address)
        raise Forbidden(address)

    checked: list[str] = []
    async with raw_server(answering(HELLO)) as server, open_session(check_address=check) as session:
        with pytest.raises(ConnectFailed) as failed:
            await ask(session, server.url)

        assert (server.peers, session.connections) == ([], 0)
    assert isinstance(failed.value.__cause__, Forbidden)
    assert checked == ["127.0.0.1"]


async def test_every_address_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    leading_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    async with raw_server(answering(HELLO)) as server, open_session(check_address=checked.append) as session:
        await whole(session, f"http://provider.example:{server.port}/")

    assert checked == ["127.0.0.1", "127.0.0.2"]


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trusted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context whose certificate, for localhost, is trusted."""
    path = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return server_context(path)


async def test_a_call_over_tls(session: ProviderSession, trusted: ssl.SSLContext) -> None:
    trusted.set_alpn_protocols(["h2", "http/1.1"])
    async with raw_server(answering(HELLO), tls=trusted) as server:
        bodies = [await whole(session, server.url, content=b"x" * size) for size in (0, 1, 3_000_000)]
        used = next(iter(session._place_of)).transport.get_extra_info("ssl_object")

        assert bodies == [b"hello"] * 3
        assert (len(server.peers), session.idle) == (1, 1)
        assert used.selected_alpn_protocol() == "http/1.1"
        assert used.server_hostname == "localhost"


@pytest.mark.parametrize("names", [("elsewhere.example",), ("127.0.0.2",)])
async def test_the_certificate_of_another_host(
    session: ProviderSession, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    path = certificate(tmp_path, *names)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with raw_server(answering(HELLO), tls=server_context(path)) as server:
        with pytest.raises(ConnectFailed) as failed:
            await ask(session, server.url)
        await settle()

        assert (server.requests, session.connections) == ([], 0)
    assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)


async def test_a_certificate_nobody_vouches_for(session: ProviderSession, tmp_path: pathlib.Path) -> None:
    async with raw_server(answering(HELLO), tls=server_context(certificate(tmp_path, "localhost"))) as server:
        with pytest.raises(ConnectFailed) as failed:
            await ask(session, server.url)
        await settle()

        assert (server.requests, session.connections) == ([], 0)
    assert isinstance(failed.value.__cause__, ssl.SSLCertVerificationError)


async def test_an_address_may_have_a_certificate(
    session: ProviderSession, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with raw_server(answering(HELLO), tls=server_context(path)) as server:
        assert await whole(session, f"https://127.0.0.1:{server.port}/") == b"hello"


async def test_a_server_that_speaks_no_tls(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(serve) as server:
        with pytest.raises(ConnectFailed):
            await ask(session, f"https://localhost:{server.port}/")
        await settle()

        assert session.connections == 0


async def listening(peer: Peer) -> None:
    """Takes what comes, whatever it is, and says nothing."""
    await peer.hung_up_on()


async def hanging_up(peer: Peer) -> None:
    """Hangs up at once."""


async def test_a_handshake_that_hangs(session: ProviderSession, sockets: Callable[[], int]) -> None:
    async with raw_server(listening) as server:
        with pytest.raises(ConnectTimedOut):
            await ask(session, f"https://localhost:{server.port}/", connect_seconds=0.05)
        await asyncio.wait_for(server.peers[0].gone.wait(), 1)
        await settle()

        assert session.connections == 0
    await settle()
    assert sockets() == 0


async def test_a_handshake_that_is_hung_up_on(session: ProviderSession) -> None:
    async with raw_server(hanging_up) as server:
        with pytest.raises(ConnectFailed) as failed:
            await ask(session, f"https://localhost:{server.port}/")
        await settle()

        assert session.connections == 0
    assert not isinstance(failed.value, TimeoutError)


class Thread:
    """A TLS server in a thread with plain sockets, for what an event loop would not do: `say` has the socket to itself."""

    def __init__(self, context: ssl.SSLContext, say: Callable[[ssl.SSLSocket], None]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listening.getsockname()[1]}/"
        self._context, self._say = context, say
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Thread":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.close()
        self._thread.join(5)

    def _run(self) -> None:
        plain, _ = self._listening.accept()
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as used:
            used.recv(65536)
            self._say(used)


def in_order(raw: bytes) -> Callable[[ssl.SSLSocket], None]:
    def say(used: ssl.SSLSocket) -> None:
        used.sendall(raw)
        used.unwrap()

    return say


def cut_off(raw: bytes, seconds: float = 0) -> Callable[[ssl.SSLSocket], None]:
    """Without the goodbye that TLS has for the end of what is sent."""

    def say(used: ssl.SSLSocket) -> None:
        used.sendall(raw)
        time.sleep(seconds)

    return say


async def test_a_body_without_a_length_ends_with_tls(session: ProviderSession, trusted: ssl.SSLContext) -> None:
    with Thread(trusted, in_order(b"HTTP/1.1 200 OK\r\n\r\nhello")) as server:
        assert await whole(session, server.url) == b"hello"


# asyncio tells no difference.
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_body_without_a_length_cut_off(session: ProviderSession, trusted: ssl.SSLContext) -> None:
    with Thread(trusted, cut_off(b"HTTP/1.1 200 OK\r\n\r\nhello")) as server:
        answer = await ask(session, server.url)
        with pytest.raises(Disconnected):
            await answer.read(MOST)


async def test_a_body_with_a_length_needs_no_goodbye(session: ProviderSession, trusted: ssl.SSLContext) -> None:
    with Thread(trusted, cut_off(HELLO)) as server:
        assert await whole(session, server.url) == b"hello"
        await settle()

    assert session.connections == 0


async def test_a_slow_reader_gets_what_came_before_tls_was_cut_off(session: ProviderSession, trusted: ssl.SSLContext) -> None:
    size = 700_000
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    with Thread(trusted, cut_off(raw, seconds=0.1)) as server:
        answer = await ask(session, server.url)
        await asyncio.sleep(0.2)
        received = len(await answer.readany())
        await asyncio.sleep(0.1)
        while piece := await answer.readany():
            received += len(piece)

    assert received == size


# -- silence ---------------------------------------------------------------------------------------------------------


async def test_silence_before_the_head(session: ProviderSession) -> None:
    async with raw_server(silent) as server:
        began = time.monotonic()
        with pytest.raises(TimeoutError) as failed:
            await ask(session, server.url, silence_seconds=0.1)
        took = time.monotonic() - began
        await asyncio.wait_for(server.peers[0].gone.wait(), 1)
        await settle()

        assert 0.1 <= took < 0.3
        assert not isinstance(failed.value, ConnectFailed)
        assert (session.connections, len(session._watched)) == (0, 0)


async def test_silence_within_the_body(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(HALF)
        await peer.hung_up_on()

    async with raw_server(serve) as server:
        answer = await ask(session, server.url, silence_seconds=0.1)
        with pytest.raises(TimeoutError):
            await answer.read(MOST)
        await asyncio.wait_for(server.peers[0].gone.wait(), 1)


async def test_slowness_is_no_silence(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        for byte in HELLO:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.005)

    async with raw_server(serve) as server:
        assert await whole(session, server.url, silence_seconds=0.08) == b"hello"


async def test_no_limit_to_silence(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.2)
        await peer.send(HELLO)

    async with raw_server(serve) as server:
        answer = await session.send("POST", server.url, headers={}, connect_seconds=0.1)

    assert answer.status == 200


async def test_a_request_on_its_way_is_no_silence(session: ProviderSession) -> None:
    content = b"x" * 32 * 1024 * 1024

    async def serve(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < len(content):
            taken += len(await peer.reader.read(1024 * 1024))
            # What the system holds of the rest is nothing we can see going.
            await asyncio.sleep(0.008 if taken < 16 * 1024 * 1024 else 0)
        await peer.send(HELLO)

    async with raw_server(serve) as server:
        began = time.monotonic()
        body = await whole(session, server.url, content=content, silence_seconds=0.4)

    assert body == b"hello"
    assert time.monotonic() - began > 0.5


async def test_a_request_nobody_takes_is_silence(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(5)

    async with raw_server(serve) as server:
        with pytest.raises(TimeoutError):
            await ask(session, server.url, content=b"x" * 48 * 1024 * 1024, silence_seconds=0.1)
        await settle()

        assert session.connections == 0


async def test_a_loop_that_stands_still_hears_no_silence(session: ProviderSession, replay: ReplayServer) -> None:
    url = replay.serve(Answer(200, {}, b"{}", silence_seconds=0.15))
    calling = asyncio.create_task(whole(session, url, content=b"{}", silence_seconds=0.2))
    await settle()

    time.sleep(0.4)  # noqa: ASYNC251

    assert await calling == b"{}"


# -- given up half way -----------------------------------------------------------------------------------------------


async def test_given_up_while_a_name_is_looked_up(session: ProviderSession, monkeypatch: pytest.MonkeyPatch) -> None:
    leading_to(monkeypatch, "127.0.0.1", seconds=0.05)
    calling = asyncio.create_task(ask(session, "http://provider.example/"))
    await settle()
    await cancelled(calling)

    assert session.connections == 0


async def test_given_up_while_connecting(session: ProviderSession, sockets: Callable[[], int]) -> None:
    port = free_port()
    with deaf("127.0.0.1", port):
        before = sockets()
        calling = asyncio.create_task(ask(session, f"http://127.0.0.1:{port}/"))
        await settle()
        await cancelled(calling)
        await settle()

        assert (session.connections, sockets() - before) == (0, 0)


async def test_given_up_in_the_handshake(session: ProviderSession, sockets: Callable[[], int]) -> None:
    async with raw_server(listening) as server:
        calling = asyncio.create_task(ask(session, f"https://localhost:{server.port}/"))
        await settle()
        await cancelled(calling)
        await asyncio.wait_for(server.peers[0].gone.wait(), 1)

        assert session.connections == 0
    await settle()
    assert sockets() == 0


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_given_up_in_any_turn(
    session: ProviderSession, sockets: Callable[[], int], monkeypatch: pytest.MonkeyPatch, scheme: str, turns: int
) -> None:
    leading_to(monkeypatch, "127.0.0.1")
    async with raw_server(listening) as server:
        calling = asyncio.create_task(ask(session, f"{scheme}://provider.example:{server.port}/"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancelled(calling)
        await settle()

        assert session.connections == 0
    await settle()
    assert sockets() == 0


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "half_a_head"])
async def test_given_up_before_the_head(session: ProviderSession, raw: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await peer.hung_up_on()

    async with raw_server(serve) as server:
        calling = asyncio.create_task(ask(session, server.url))
        await settle()
        await cancelled(calling)
        await asyncio.wait_for(server.peers[0].gone.wait(), 1)

        assert session.connections == 0


async def test_given_up_within_the_body(session: ProviderSession) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(HALF)
        await peer.hung_up_on()

    async with raw_server(serve) as server:
        answer = await ask(session, server.url)
        reading = asyncio.create_task(answer.read(MOST))
        await settle()
        await cancelled(reading)
        answer.close()
        await asyncio.wait_for(server.peers[0].gone.wait(), 1)

        assert session.connections == 0


# -- the end of a session --------------------------------------------------------------------------------------------


async def fails_at_the_end(session: ProviderSession, calling: Awaitable[object]) -> type[BaseException]:
    """How a call under way ends when the session is closed."""
    task = asyncio.ensure_future(calling)
    await settle()
    async with asyncio.timeout(1):
        await session.close()
        assert session.connections == 0
        with pytest.raises(HttpFailure) as failed:
            await task
    return failed.type


async def test_closed_while_idle(sockets: Callable[[], int]) -> None:
    session = open_session()
    async with raw_server(answering(HELLO)) as server:
        await whole(session, server.url)
        await session.close()
        await session.close()

        assert (session.connections, session.idle) == (0, 0)
        with pytest.raises(ConnectFailed):
            await ask(session, server.url)
        await settle()
        assert len(server.peers) == 1
    await settle()
    assert sockets() == 0


async def test_closed_while_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    leading_to(monkeypatch, "127.0.0.1", seconds=5)
    session = open_session()

    assert await fails_at_the_end(session, ask(session, "http://provider.example/")) is ConnectFailed


async def test_closed_while_connecting() -> None:
    port = free_port()
    session = open_session()
    with deaf("127.0.0.1", port):
        assert await fails_at_the_end(session, ask(session, f"http://127.0.0.1:{port}/")) is ConnectFailed


async def test_closed_in_the_handshake() -> None:
    session = open_session()
    async with raw_server(listening) as server:
        failed = await fails_at_the_end(session, ask(session, f"https://localhost:{server.port}/"))

    assert failed is ConnectFailed


async def test_closed_while_others_wait() -> None:
    session = open_session(connections_per_host=1)
    async with raw_server(silent) as server:
        first = asyncio.create_task(ask(session, server.url))
        await settle()
        failed = await fails_at_the_end(session, ask(session, server.url))
        with pytest.raises(Disconnected):
            await first

    assert failed is ConnectFailed
    assert len(server.requests) == 1


async def test_closed_before_the_head() -> None:
    session = open_session()
    async with raw_server(silent) as server:
        assert await fails_at_the_end(session, ask(session, server.url)) is Disconnected


@pytest.mark.parametrize("raw", [HALF, b"HTTP/1.1 200 OK\r\n\r\nhe"], ids=["with_length", "without_length"])
async def test_closed_within_the_body(raw: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await peer.hung_up_on()

    session = open_session()
    async with raw_server(serve) as server:
        answer = await ask(session, server.url)
        failed = await fails_at_the_end(session, answer.read(MOST))

    assert failed is Disconnected


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_closed_in_any_turn(sockets: Callable[[], int], monkeypatch: pytest.MonkeyPatch, scheme: str, turns: int) -> None:
    leading_to(monkeypatch, "127.0.0.1")
    session = open_session()
    async with raw_server(listening) as server:
        calling = asyncio.create_task(ask(session, f"{scheme}://provider.example:{server.port}/"))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(1):
            await session.close()
            with pytest.raises(HttpFailure):
                await calling
    await settle()

    assert (session.connections, sockets()) == (0, 0)


# -- memory ----------------------------------------------------------------------------------------------------------


async def test_nothing_waits_for_the_garbage_collector(session: ProviderSession) -> None:
    def alive(kind: type) -> int:
        # `isinstance` would ask proxies, of which some have lost what they stood for.
        return sum(type(found) is kind for found in gc.get_objects())

    async with raw_server(answering(HELLO)) as server, raw_server(saying(HALF)) as breaking:
        await whole(session, server.url)
        session._watched.clear()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                assert await whole(session, server.url) == b"hello"
                await broken(session, breaking)
            session._watched.clear()
            await settle()
            left = (alive(HttpAnswer), alive(Connection))
        finally:
            gc.enable()

    # The connection that is kept.
    assert left == (0, 1)


async def broken(session: ProviderSession, server: RawServer) -> None:
    """A call whose failure is caught, as callers do."""
    answer = await ask(session, server.url)
    try:
        await answer.read(MOST)
    except Disconnected:
        return
    raise AssertionError("not broken")
