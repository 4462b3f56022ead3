"""HTTP/1.1 towards providers: one connection, and the answers that come over it.

Parsed by httptools, the parser of the web server. What reads bodies is `HttpAnswer`; who keeps connections is `session`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import httptools

# What may come without a byte of body, one received piece more or less: heads, and what chunks carry beside their data.
MOST_HEAD_BYTES = 64 * 1024
# A body nobody reads yet: beyond this the provider waits.
MOST_UNREAD_BYTES = 256 * 1024
# What one received piece of a compressed body may grow to, and of how many compressed parts a body may consist.
_MOST_INFLATED_BYTES = 64 * 1024 * 1024
_MOST_MEMBERS = 1024


class HttpFailure(OSError):
    """A request got no whole answer."""


class ConnectFailed(HttpFailure):
    """No connection: nothing was sent."""


class ConnectTimedOut(ConnectFailed, TimeoutError):
    """No connection in time: nothing was sent."""


class InvalidUrl(HttpFailure):
    """The address or a header cannot be sent: nothing was."""


class Disconnected(HttpFailure):
    """The connection ended before the answer did."""


class BadAnswer(HttpFailure):
    """What came is no HTTP answer we understand."""


class HttpAnswer:
    """One answer. It exists once its head is here; its body is read whole (`read`) or as it comes (`readany`), not both.

    `headers` have lower-case names; of repeated ones the first counts. Reading raises `HttpFailure`, or `TimeoutError` after
    too long a silence.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_failure",
        "_inflate",
        "_most",
        "_paused",
        "_pieces",
        "_size",
        "_unsent",
        "_waiter",
        "headers",
        "heard_at",
        "silence_seconds",
        "status",
    )

    def __init__(self, connection: Connection, silence_seconds: float | None, now: float) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        # When something came last, and for how long nothing may come.
        self.heard_at = now
        self.silence_seconds = silence_seconds
        self._connection: Connection | None = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._most = 0
        self._unsent = 0
        self._ended = False
        self._paused = False
        # What to raise, made anew each time: an error that is kept keeps the frames it went through, and they this answer.
        self._failure: tuple[type[OSError], str, BaseException | None] | None = None
        self._inflate: _Inflate | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_type(self) -> str:
        """Without its parameters, in lower case; what is not named is `application/octet-stream`."""
        return self.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()

    @property
    def closed(self) -> bool:
        """Whether the connection is given back or closed."""
        return self._connection is None

    async def wait_for_head(self) -> None:
        """Until status and headers are here."""
        while not self.status:
            await self._wait()

    async def read(self, most_bytes: int) -> bytes:
        """The body, or its beginning: more than `most_bytes` means that it is longer, and the connection is closed then."""
        self._most = most_bytes
        self._flow()
        while not self._ended and self._size <= most_bytes:
            await self._wait()
        if not self._ended:
            self.close()
        return self._taken()

    async def readany(self) -> bytes:
        """What has come, at least one byte; empty at the end of the body."""
        self._most = 0
        while not self._size and not self._ended:
            await self._wait()
        data = self._taken()
        self._flow()
        return data

    def close(self) -> None:
        """Close the connection, unless it is given back already. Who reads meanwhile gets `Disconnected`."""
        if self._connection is not None:
            self._connection.abort()

    def still_awaited(self, now: float) -> bool:
        """Whether more may come; a provider that was silent for too long is hung up on, with a TimeoutError."""
        connection = self._connection
        if connection is None:
            return False
        if self.silence_seconds is None or now - self.heard_at < self.silence_seconds:
            return True
        unsent = connection.unsent
        if self._paused or unsent != self._unsent:
            # It waits for us: for a slow reader, or for the rest of a request that is on its way.
            self._unsent = unsent
            self.heard_at = now
            return True
        connection.abort(TimeoutError, "nothing came for too long")
        return False

    async def _wait(self) -> None:
        if self._failure is not None:
            kind, text, cause = self._failure
            raise kind(text) from cause
        connection = self._connection
        assert connection is not None
        waiter = self._waiter
        if waiter is None or waiter.done():
            # Done, and still here: whoever waited was cancelled.
            waiter = self._waiter = connection.loop.create_future()
        await waiter

    def _taken(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        return data

    def _flow(self) -> None:
        """Let the provider go on as soon as there is room again."""
        if self._paused and self._connection is not None:
            self._paused = False
            self._connection.wire.resume_reading()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- told by the connection --------------------------------------------------------------------------------------

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head is here. Raises `BadAnswer` for a body that could not be read."""
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding in ("gzip", "x-gzip", "deflate"):
            self._inflate = _Inflate(coding)
        elif coding not in ("identity", ""):
            raise BadAnswer("a content coding nobody asked for")
        self.status = status
        self.headers = headers
        self._wake()

    def feed(self, data: bytes) -> None:
        """A piece of the body is here."""
        if self._inflate is not None:
            data = self._inflate.feed(data)
            if not data:
                return
        self._pieces.append(data)
        self._size += len(data)
        if self._size > self._most:
            self._wake()
        if self._size > max(self._most, MOST_UNREAD_BYTES) and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.wire.pause_reading()

    def end(self) -> None:
        """The body is whole; the connection is somebody else's from here on."""
        if self._inflate is not None and not self._inflate.whole:
            raise BadAnswer("a compressed body without its end")
        self._flow()
        self._ended = True
        self._connection = None
        self._wake()

    def fail(self, kind: type[OSError], text: str, cause: BaseException | None) -> None:
        """There will be no more: who reads gets the error, after what has come."""
        self._failure = (kind, text, cause)
        self._connection = None
        self._wake()


class Connection(asyncio.Protocol):
    """One connection to one host, for one request after the other.

    `on_free` is called when an answer has ended and the next request may be sent, `on_lost` once, when the connection is gone.
    """

    __slots__ = (
        "_answer",
        "_beside",
        "_headers",
        "_informational",
        "_on_free",
        "_on_lost",
        "_parser",
        "idle_since",
        "loop",
        "transport",
        "wire",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, on_free: Callable[[Connection], None], on_lost: Callable[[Connection], None]
    ) -> None:
        self.loop = loop
        # What is written to, and what is below it under TLS. To pause the upper one would lose what it holds once the other
        # side hangs up.
        self.transport: asyncio.Transport
        self.wire: asyncio.Transport
        self.idle_since = 0.0
        self._on_free = on_free
        self._on_lost = on_lost
        self._parser: Any = httptools.HttpResponseParser(self)
        # Small servers end lines with LF alone, and old ones pad the sizes of chunks.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
        self._answer: HttpAnswer | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._beside = 0
        self._informational = False

    @property
    def usable(self) -> bool:
        """Whether the next request may be sent: nothing is under way, and neither side has hung up."""
        return self._answer is None and not self.transport.is_closing()

    @property
    def unsent(self) -> int:
        """How many bytes of a request the system has not taken yet."""
        unsent = self.transport.get_write_buffer_size()
        return unsent if self.wire is self.transport else unsent + self.wire.get_write_buffer_size()

    def send(self, head: bytes, content: bytes, silence_seconds: float | None) -> HttpAnswer:
        """Send one request; its answer, of which nothing is here yet."""
        answer = self._answer = HttpAnswer(self, silence_seconds, self.loop.time())
        self._beside = 0
        if len(content) < MOST_HEAD_BYTES:
            self.transport.write(head + content)
        else:
            self.transport.writelines((head, content))
        return answer

    def abort(self, kind: type[OSError] = Disconnected, text: str = "closed by us", cause: BaseException | None = None) -> None:
        """Hang up at once. An answer under way fails with such an error."""
        answer, self._answer = self._answer, None
        self.transport.abort()
        if answer is not None:
            answer.fail(kind, text, cause)

    # -- told by the event loop --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not say that they are asyncio's.
        self.transport = self.wire = cast(asyncio.Transport, transport)

    def eof_received(self) -> None:
        """The other side has hung up. Under TLS uvloop tells it only of a proper end, not when the connection is cut off."""
        answer, self._answer = self._answer, None
        if answer is not None:
            try:
                if not answer.status or _delimited(answer.headers):
                    raise Disconnected("the connection ended before the answer did")
                answer.end()
            except HttpFailure as error:
                answer.fail(type(error), str(error), None)
        # What is unsent would be waited for, and under TLS the other side; TLS is in the midst of reading now.
        self.loop.call_soon(self.abort)

    def connection_lost(self, error: Exception | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.fail(Disconnected, "the connection ended before the answer did", error)
        # It knows our methods, and we know it.
        self._parser = None
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            # Nobody asked: whoever asks next must not take it for the answer.
            self.abort()
            return
        answer.heard_at = self.loop.time()
        self._beside += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # The parser wraps what its callbacks raise.
            self.abort(BadAnswer, str(error.__context__ or error))
            return
        if self._beside > MOST_HEAD_BYTES:
            self.abort(BadAnswer, "too much beside the body")

    # -- told by the parser ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None:
            raise BadAnswer("more than one answer")
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100:
            raise BadAnswer("a status that is none")
        self._informational = status < 200
        if self._informational:
            return
        received, self._headers = self._headers, []
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reversed(received)}
        if headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
            raise BadAnswer("a transfer coding nobody asked for")
        self._beside = 0
        if self._answer is not None:
            self._answer.begin(status, headers)

    def on_body(self, data: bytes) -> None:
        self._beside = 0
        if self._answer is not None:
            self._answer.feed(data)

    def on_message_complete(self) -> None:
        answer = self._answer
        if self._informational or answer is None:
            return
        answer.end()
        self._answer = None
        # An answer that did not wait for the whole request leaves the rest of it on this connection.
        if self._parser.should_keep_alive() and not self.transport.is_closing() and not self.unsent:
            self._on_free(self)
        else:
            self.loop.call_soon(self.abort)


class _Inflate:
    """The body behind a content coding that was not asked for, of which some servers send one all the same."""

    __slots__ = ("_deflate", "_members", "_stream")

    def __init__(self, coding: str) -> None:
        self._deflate = coding == "deflate"
        self._members = 0
        self._stream: Any = None

    @property
    def whole(self) -> bool:
        """Whether what was fed has its end; nothing at all is whole, too."""
        return self._stream is None or self._stream.eof

    def feed(self, data: bytes) -> bytes:
        """Inflate a piece. Raises `BadAnswer`."""
        pieces = []
        room = _MOST_INFLATED_BYTES
        try:
            while data:
                if self.whole:
                    self._begin(data)
                pieces.append(self._stream.decompress(data, room))
                room -= len(pieces[-1])
                if self._stream.unconsumed_tail or room <= 0:
                    raise BadAnswer("a body that inflates too far")
                data = self._stream.unused_data
        except zlib.error:
            raise BadAnswer("a body that does not inflate") from None
        return b"".join(pieces)

    def _begin(self, data: bytes) -> None:
        """The first member, or the next: several compressed files after each other are one."""
        self._members += 1
        if self._members > (1 if self._deflate else _MOST_MEMBERS):
            raise BadAnswer("a body of too many compressed parts")
        # "deflate" means zlib's format, but some take its name for the bare one, which never begins like that.
        bare = self._deflate and data[0] & 0x0F != 8
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS if bare else zlib.MAX_WBITS | 32)


def _delimited(headers: Mapping[str, str]) -> bool:
    """Whether the body says itself where it ends; otherwise the end of the connection does."""
    return "content-length" in headers or "transfer-encoding" in headers
