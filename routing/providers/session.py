"""The HTTP client of all adapters: pooled and bounded, without cookies, redirects or the environment's proxies.

Our own, because to ask a provider is most of what a gateway does: a general client took a sixth of a call's CPU. ADR 0018.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohappyeyeballs
from yarl import URL

from routing.providers.http1 import ConnectFailed, Connection, ConnectTimedOut, HttpAnswer, InvalidUrl

# Every open stream is a connection for as long as its model writes: thousands of slow ones are a quiet day. What a provider
# takes at once is for its caps to say, which queue by priority; these bounds only keep a process from running out of files.
CONNECTIONS_TOTAL = 8192
CONNECTIONS_PER_HOST = 4096
# Below the 60 s after which common load balancers drop idle connections, so that a call rarely meets a closing one.
KEEPALIVE_SECONDS = 30
# How late a silence may be noticed.
GRAIN_SECONDS = 0.05
_NAMES_KEPT_SECONDS = 60
# When the first address of a host is slow, the next one is tried beside it (RFC 8305).
_NEXT_ADDRESS_AFTER_SECONDS = 0.25

AddressInfo = tuple[int, int, int, str, Any]


class Place(NamedTuple):
    """Where a host listens."""

    host: str
    port: int
    tls: bool


class _Request(NamedTuple):
    place: Place
    target: str
    host_header: str


class ProviderSession:
    """Connections to providers of one event loop; close it at the end.

    Timeouts are given per call. Redirects are answers like any other, so that a key is not sent to another host.
    `check_address` is asked about every address before it is connected to, and raises an OSError for one that is forbidden.
    """

    def __init__(
        self,
        *,
        connections_total: int = CONNECTIONS_TOTAL,
        connections_per_host: int = CONNECTIONS_PER_HOST,
        check_address: Callable[[str], object] | None = None,
    ) -> None:
        self._most = connections_total
        self._most_per_host = connections_per_host
        self._check_address = check_address
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[Place, deque[Connection]] = {}
        self._place_of: dict[Connection, Place] = {}
        # Connections, also those being opened, by host and all together.
        self._counts: dict[Place, int] = {}
        self._count = 0
        # Who waits, and for which host: told a connection that is theirs, or that room for one is kept for them (None). Nobody
        # waits for what is there, so that whoever comes may take what is there.
        self._waiting: deque[tuple[Place, asyncio.Future[Connection | None]]] = deque()
        self._opening: set[asyncio.Timeout] = set()
        self._names: dict[tuple[str, int], tuple[float, Sequence[AddressInfo]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Task[Sequence[AddressInfo]]] = {}
        self._watched: set[HttpAnswer] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._all_lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connections(self) -> int:
        """How many are open or being opened."""
        return self._count

    @property
    def idle(self) -> int:
        """How many of them wait for a request."""
        return sum(map(len, self._idle.values()))

    async def close(self) -> None:
        """Close every connection; what is under way fails."""
        self._closed = True
        for timer in (self._watch, self._sweep):
            if timer is not None:
                timer.cancel()
        now = asyncio.get_running_loop().time()
        for opening in self._opening:
            if not opening.expired():
                opening.reschedule(now)
        for connection in list(self._place_of):
            connection.abort()
        if self._count:
            # Sockets close in the loop's next turn.
            await self._all_lost.wait()
        lookups = list(self._lookups.values())
        for task in lookups:
            task.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        connect_seconds: float,
        silence_seconds: float | None = None,
    ) -> HttpAnswer:
        """Send one request and wait for the head of its answer. `silence_seconds` is how long nothing may come, head and body.

        Raises `ConnectFailed` and `InvalidUrl` when nothing was sent, else `HttpFailure` or TimeoutError.
        """
        request = _request(url)
        head = _head(method, request, headers, len(content))
        connection = self._idle_one(request.place)
        if connection is None:
            connection = await self._connected(request.place, connect_seconds)
        answer = connection.send(head, content, silence_seconds)
        if silence_seconds is not None:
            self._watched.add(answer)
            if self._watch is None:
                self._watch = connection.loop.call_later(GRAIN_SECONDS, self._look)
        try:
            await answer.wait_for_head()
        except BaseException:
            answer.close()
            raise
        return answer

    # -- silence -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """One timer for all calls: one of its own would cost each more than most waits do.

        After a moment in which the loop stood still, both loops read what arrived meanwhile before they look at timers.
        """
        self._watch = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._watched = {answer for answer in self._watched if answer.still_awaited(now)}
        if self._watched:
            self._watch = loop.call_later(GRAIN_SECONDS, self._look)

    # -- the pool ----------------------------------------------------------------------------------------------------

    def _idle_one(self, place: Place) -> Connection | None:
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    def _freed(self, connection: Connection) -> None:
        """Give a connection to the next one who waits, or keep it."""
        place = self._place_of.get(connection)
        if place is None or self._closed:
            connection.abort()
            return
        for wanted, waiter in self._waiting:
            if waiter.done():
                continue
            if wanted == place:
                waiter.set_result(connection)
                return
            if self._counts.get(wanted, 0) < self._most_per_host:
                # Only the sum of all stands in the way of somebody who came earlier.
                self._drop(connection)
                return
        connection.idle_since = connection.loop.time()
        idle = self._idle.get(place)
        if idle is None:
            idle = self._idle[place] = deque()
        idle.append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(KEEPALIVE_SECONDS / 4, self._close_old)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEEPALIVE_SECONDS
        for place, idle in list(self._idle.items()):
            # The longest idle one is at the left: they are taken and put back at the right.
            while idle and idle[0].idle_since <= oldest:
                self._drop(idle.popleft())
            if not idle:
                del self._idle[place]
        self._sweep = loop.call_later(KEEPALIVE_SECONDS / 4, self._close_old) if self._idle else None

    def _drop(self, connection: Connection) -> None:
        """Close a connection that nobody uses; its room is free at once."""
        place = self._place_of.pop(connection)
        connection.abort()
        self._give_up(place)

    def _lost(self, connection: Connection) -> None:
        place = self._place_of.pop(connection, None)
        if place is None:
            return
        idle = self._idle.get(place)
        if idle is not None and connection in idle:
            idle.remove(connection)
        self._give_up(place)

    def _has_room(self, place: Place) -> bool:
        return self._count < self._most and self._counts.get(place, 0) < self._most_per_host

    def _take_room(self, place: Place) -> None:
        self._count += 1
        self._counts[place] = self._counts.get(place, 0) + 1

    def _give_up(self, place: Place) -> None:
        """Give room to the first one who waits and can use it."""
        self._count -= 1
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._counts[place]
        if self._closed:
            if not self._count:
                self._all_lost.set()
            return
        for wanted, waiter in self._waiting:
            if not waiter.done() and self._has_room(wanted):
                self._take_room(wanted)
                waiter.set_result(None)
                return

    # -- connecting --------------------------------------------------------------------------------------------------

    async def _connected(self, place: Place, seconds: float) -> Connection:
        """A connection of our own. Raises `ConnectFailed`."""
        if self._closed:
            raise ConnectFailed("the session is closed")
        try:
            async with asyncio.timeout(seconds) as opening:
                self._opening.add(opening)
                try:
                    while (connection := await self._room(place)) is not None:
                        if connection.usable:
                            return connection
                    return await self._open(place)
                finally:
                    self._opening.discard(opening)
        except ConnectFailed:
            raise
        except TimeoutError as error:
            if self._closed:
                raise ConnectFailed("the session is closed") from error
            raise ConnectTimedOut(f"no connection within {seconds} s") from error
        # uvloop has its own word for a socket that is in use.
        except (OSError, RuntimeError, ValueError) as error:
            raise ConnectFailed(type(error).__name__) from error

    async def _room(self, place: Place) -> Connection | None:
        """Wait for a connection to `place`, which is ours then, or for room to open one, which is taken then (None)."""
        if (left := self._idle_one(place)) is not None:
            return left
        if self._count >= self._most and self._counts.get(place, 0) < self._most_per_host:
            idle = next((idle for idle in self._idle.values() if idle), None)
            if idle is not None:
                # Room for a host that needs it, at the cost of one that might.
                self._drop(idle.popleft())
        if self._has_room(place):
            self._take_room(place)
            return None
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        entry = (place, waiter)
        self._waiting.append(entry)
        try:
            given = await waiter
        except BaseException:
            self._waiting.remove(entry)
            if not waiter.cancelled():
                # Served and given up in the same moment: the next one may have it.
                self._pass_on(place, waiter.result())
            raise
        self._waiting.remove(entry)
        return given

    def _pass_on(self, place: Place, given: Connection | None) -> None:
        if given is None:
            self._give_up(place)
        elif given.usable:
            self._freed(given)

    async def _open(self, place: Place) -> Connection:
        """Open a connection in the room that is taken for it; without one the room is given up."""
        loop = asyncio.get_running_loop()
        try:
            addresses = await self._addresses(place)
            try:
                opened = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_SECONDS, interleave=1, loop=loop
                )
            except OSError:
                # Perhaps the host has moved.
                self._names.pop((place.host, place.port), None)
                raise
            try:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                wire, connection = await loop.create_connection(
                    lambda: Connection(loop, on_free=self._freed, on_lost=self._lost), sock=opened
                )
            except BaseException:
                opened.close()
                raise
            if place.tls:
                await self._encrypt(wire, connection, place.host.rstrip("."))
            if self._closed or connection.transport.is_closing():
                connection.abort()
                raise ConnectFailed("the connection was closed at once")
        except BaseException:
            self._give_up(place)
            raise
        self._place_of[connection] = place
        return connection

    async def _encrypt(self, wire: asyncio.Transport, connection: Connection, host: str) -> None:
        if wire.is_closing():
            raise ConnectionResetError("closed before it was encrypted")
        try:
            upper = await connection.loop.start_tls(wire, connection, self._tls_context(), server_hostname=host)
        except BaseException:
            wire.abort()
            raise
        if upper is None:
            raise ConnectionResetError("closed as soon as it was encrypted")
        connection.transport = upper

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    async def _addresses(self, place: Place) -> Sequence[AddressInfo]:
        """The addresses of a host, in the order to try them; checked. Raises OSError."""
        loop = asyncio.get_running_loop()
        key = (place.host, place.port)
        until, found = self._names.get(key, (0.0, ()))
        if until <= loop.time():
            task = self._lookups.get(key)
            if task is None:
                task = self._lookups[key] = loop.create_task(_look_up(*key))
                task.add_done_callback(lambda done: self._looked_up(key, done))
            # Many calls wait for one answer: whoever gives up must not take it from the others.
            found = await asyncio.shield(task)
            self._names[key] = (loop.time() + _NAMES_KEPT_SECONDS, found)
        if self._check_address is not None:
            for info in found:
                self._check_address(str(info[4][0]))
        # The next connection begins with the next address.
        self._names[key] = (self._names[key][0], [*found[1:], *found[:1]])
        return found

    def _looked_up(self, key: tuple[str, int], done: asyncio.Task[Sequence[AddressInfo]]) -> None:
        self._lookups.pop(key, None)
        if not done.cancelled():
            # Whoever waits hears of a failure; if nobody does any more, nobody needs to.
            done.exception()


async def _look_up(host: str, port: int) -> Sequence[AddressInfo]:
    try:
        # An address needs no name server, and no thread.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError(f"{host} has no address")
    return [(int(family), int(kind), protocol, name, address) for family, kind, protocol, name, address in found]


@lru_cache(maxsize=1024)
def _request(url: str) -> _Request:
    """Where and what to ask. Raises `InvalidUrl`."""
    try:
        parsed = URL(url)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        raise InvalidUrl("not an address") from None
    if parsed.scheme not in ("http", "https") or not host or not port or "@" in parsed.raw_authority:
        raise InvalidUrl("not an address that can be called")
    spelt = f"[{host}]" if ":" in host else host
    host_header = spelt if parsed.is_default_port() else f"{spelt}:{port}"
    return _Request(Place(host, port, parsed.scheme == "https"), parsed.raw_path_qs or "/", host_header)


def _head(method: str, request: _Request, headers: Mapping[str, str], length: int) -> bytes:
    """Request line and headers. Raises `InvalidUrl` for what would end a line early, and for what is no text."""
    lines = [
        f"{method} {request.target} HTTP/1.1",
        f"Host: {request.host_header}",
        "User-Agent: IAFactory/1",
        # Compressed streams arrive in the compressor's portions, not in the model's; a whole answer is small.
        "Accept-Encoding: identity",
        *[f"{name}: {value}" for name, value in headers.items()],
    ]
    if length or method != "GET":
        lines.append(f"Content-Length: {length}")
    lines += ("", "")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise InvalidUrl("a header with a line break")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidUrl("a header that is no text") from None


def open_session(
    *,
    connections_total: int = CONNECTIONS_TOTAL,
    connections_per_host: int = CONNECTIONS_PER_HOST,
    check_address: Callable[[str], object] | None = None,
) -> ProviderSession:
    """See `ProviderSession`. Adapters set timeouts per call."""
    return ProviderSession(
        connections_total=connections_total, connections_per_host=connections_per_host, check_address=check_address
    )
