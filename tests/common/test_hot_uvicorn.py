"""Hot paths under uvicorn, byte by byte: past ASGI's messages the same arrives as through them, and less is spent on it."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import uvicorn
from django.urls import path

from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView, SlimApplication
from iafactory.common.hot_uvicorn import DirectExchange, exchange_of

CHUNK = b"x" * 65_536


class Echo(HotView):
    async def get(self, exchange: Exchange) -> Answer:
        return Answer(b"got", headers=[(b"x-kind", type(exchange).__name__.encode()), (b"content-type", b"text/plain")])

    async def post(self, exchange: Exchange) -> Answer:
        return Answer(await exchange.read_body(), headers=[(b"content-type", b"text/plain")])


class Streamed(HotView):
    written: ClassVar[int] = 0

    async def get(self, exchange: Exchange, chunks: int) -> None:
        type(self).written = 0
        await exchange.start(200, [(b"content-type", b"text/plain")])
        for _ in range(chunks):
            await exchange.write(CHUNK)
            type(self).written += 1
        await exchange.write(b"")
        await exchange.end(b"end")


class Waiting(HotView):
    seen: ClassVar[list[str]] = []

    async def post(self, exchange: Exchange) -> None:
        await exchange.read_body()
        heard = asyncio.Event()
        exchange.when_gone(heard.set)
        await exchange.start(200, [])
        await exchange.write(b"begun")
        await heard.wait()
        self.seen.append(f"gone {exchange.gone}")
        await exchange.write(b"to nobody")
        await exchange.end()
        self.seen.append("ended")


class Asking(HotView):
    """Looks whether the client is still there, and is told by nobody."""

    seen: ClassVar[list[bool]] = []

    async def post(self, exchange: Exchange) -> None:
        # As long as it takes to learn who asks: meanwhile a large body fills what uvicorn keeps.
        await asyncio.sleep(0.1)
        await exchange.read_body()
        await exchange.start(200, [])
        await exchange.write(b"begun")
        for _ in range(200):
            if exchange.gone:
                break
            await asyncio.sleep(0.01)
        self.seen.append(exchange.gone)
        await exchange.end()


class Slow(HotView):
    ended: ClassVar[list[str]] = []

    async def get(self, exchange: Exchange) -> Answer:
        await asyncio.sleep(1.5)
        self.ended.append("ended")
        return Answer(b"late")


class Split(HotView):
    async def get(self, exchange: Exchange) -> Answer:
        return Answer(b"", headers=[(b"x-name", b"value\r\nset-cookie: stolen=1")])


class Refused(HotView):
    async def get(self, exchange: Exchange) -> Answer:
        raise ApiError(429, "rate_limited", "Too many.", retry_after_seconds=3)


urlpatterns = [
    path("echo", Echo.as_view()),
    path("streamed/<int:chunks>", Streamed.as_view()),
    path("waiting", Waiting.as_view()),
    path("asking", Asking.as_view()),
    path("slow", Slow.as_view()),
    path("split", Split.as_view()),
    path("refused", Refused.as_view()),
]


async def _nothing() -> None:
    return None


async def _stock(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("every path of these tests is a hot one")


def direct(scope: Any, receive: Any, send: Any) -> Exchange:
    """As in production: here the tests' own handlers make uvicorn think that somebody reads its access log."""
    receive.__self__.access_log = False
    return exchange_of(scope, receive, send)


class Served:
    """A server in a thread of its own."""

    def __init__(self, make: Callable[..., Exchange]) -> None:
        application = SlimApplication(stock=_stock, hot_urls=__name__, start=_nothing, stop=_nothing, exchange_of=make)
        config = uvicorn.Config(
            application,
            port=0,
            loop="uvloop",
            http="httptools",
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=60,
        )
        config.load()
        self.server = uvicorn.Server(config)
        # Signals are for the main thread.
        self.server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.address = self.server.servers[0].sockets[0].getsockname()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def ask(self, *packets: bytes, pause: float = 0) -> bytes:
        """Send `packets` and read until the server closes, or says nothing for half a second."""
        with self.connect() as connection:
            for packet in packets:
                connection.sendall(packet)
                time.sleep(pause)
            return read_all(connection)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


def read_all(connection: socket.socket) -> bytes:
    connection.settimeout(0.5)
    received = b""
    with contextlib.suppress(TimeoutError):
        while data := connection.recv(1_000_000):
            received += data
    return received


def request(target: str, *headers: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def without_what_differs(received: bytes) -> bytes:
    """Identifiers and the moment are each answer's own."""
    received = re.sub(rb"x-request-id: [0-9a-f-]{36}", b"x-request-id: ID", received)
    return re.sub(rb"date: [^\r]+", b"date: NOW", received)


@pytest.fixture(scope="module", params=[direct, Exchange], ids=["direct", "asgi"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    running = Served(request.param)
    yield running
    running.stop()


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "date: NOW", *lines]).encode() + b"\r\n\r\n"


def test_a_whole_answer(served: Served) -> None:
    received = without_what_differs(served.ask(request("/echo", method="POST", body=b"hello")))

    assert received == head("content-type: text/plain", "content-length: 5", "x-request-id: ID") + b"hello"


def test_uvicorn_is_written_to_directly_but_for_what_is_not_plain() -> None:
    running = Served(direct)
    try:
        plain, heading = running.ask(request("/echo")), running.ask(request("/echo", method="HEAD"))
    finally:
        running.stop()

    assert f"x-kind: {DirectExchange.__name__}".encode() in plain
    assert heading.startswith(b"HTTP/1.1 405 ")
    assert heading.endswith(b"\r\n\r\n")


def test_an_answer_to_each_of_several_requests_in_one_packet(served: Served) -> None:
    received = served.ask(request("/echo", method="POST", body=b"first") + request("/echo", method="POST", body=b"second"))

    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"first", b"second"]


def test_a_connection_serves_one_request_after_the_other(served: Served) -> None:
    with served.connect() as connection:
        first = [connection.sendall(request("/streamed/0")), read_all(connection)][1]
        second = [connection.sendall(request("/echo")), read_all(connection)][1]

    assert first.partition(b"\r\n\r\n")[2] == b"3\r\nend\r\n0\r\n\r\n"
    assert second.endswith(b"\r\n\r\ngot")


@pytest.mark.parametrize("asking", [request("/echo", "Connection: close"), request("/echo", version="1.0")])
def test_a_client_that_wants_no_more_is_let_go(asking: bytes, served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(asking)
        connection.settimeout(5)
        received = b""
        while data := connection.recv(65_536):
            received += data

    assert b"\r\nconnection: close\r\n" in received
    assert received.endswith(b"\r\n\r\ngot")


def test_a_body_in_pieces(served: Served) -> None:
    whole = request("/echo", method="POST", body=b"a" * 100_000 + b"b" * 100_000)

    received = served.ask(whole[:20], whole[20:90_000], whole[90_000:], pause=0.05)

    assert received.endswith(b"\r\n\r\n" + b"a" * 100_000 + b"b" * 100_000)


def test_a_client_that_asks_before_it_sends_its_body(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(request("/echo", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        connection.settimeout(5)
        go_on = connection.recv(100)
        connection.sendall(b"here")
        received = read_all(connection)

    assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert received.endswith(b"\r\n\r\nhere")


def test_a_body_above_the_limit(served: Served, settings: Any) -> None:
    settings.MAX_BODY_BYTES = 1000

    received = served.ask(request("/echo", method="POST", body=b"a" * 1001))

    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in received


def test_a_refusal(served: Served) -> None:
    received = served.ask(request("/refused"))

    assert received.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 3\r\n" in received


def test_a_header_cannot_end_its_line(served: Served) -> None:
    received = served.ask(request("/split"))

    assert received == b""


def test_a_stream_waits_for_a_client_that_reads_slowly(served: Served) -> None:
    chunks = 1000
    with served.connect() as connection:
        connection.sendall(request(f"/streamed/{chunks}"))
        time.sleep(0.5)
        written = Streamed.written
        received = read_all(connection)

    # Sockets and buffers take some of the 64 MB; the rest waits.
    assert 0 < written < chunks * 3 // 4
    assert Streamed.written == chunks
    assert received.count(b"\r\n10000\r\n" + CHUNK[:10]) == chunks
    assert received.endswith(b"\r\n3\r\nend\r\n0\r\n\r\n")


@pytest.mark.parametrize("body", [b"short", b"a" * 100_000])
def test_a_client_that_hangs_up_is_noticed_and_the_view_ends(body: bytes, served: Served) -> None:
    Waiting.seen.clear()
    with served.connect() as connection:
        connection.sendall(request("/waiting", method="POST", body=body))
        connection.recv(100)
    until = time.monotonic() + 5
    while "ended" not in Waiting.seen and time.monotonic() < until:
        time.sleep(0.02)

    assert Waiting.seen == ["gone True", "ended"]


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("first", [150, 1_000_000])
def test_a_view_that_looks_sees_that_its_client_has_hung_up(size: int, first: int, served: Served) -> None:
    Asking.seen.clear()
    whole = request("/asking", method="POST", body=b"a" * size)
    for _ in range(3):
        with served.connect() as connection:
            connection.sendall(whole[:first])
            time.sleep(0.15)
            connection.sendall(whole[first:])
            connection.recv(100)
    until = time.monotonic() + 10
    while len(Asking.seen) < 3 and time.monotonic() < until:
        time.sleep(0.02)

    assert Asking.seen == [True] * 3


@pytest.mark.parametrize("make", [direct, Exchange], ids=["direct", "asgi"])
def test_a_request_under_way_outlives_the_servers_patience(make: Callable[..., Exchange]) -> None:
    Slow.ended.clear()
    running = Served(make)
    with running.connect() as connection:
        connection.sendall(request("/slow"))
        time.sleep(0.2)

        running.stop()

    assert Slow.ended == ["ended"]
