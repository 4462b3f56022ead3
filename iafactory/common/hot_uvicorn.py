"""A hot path's exchange under uvicorn: read from and written to its connection, past ASGI's messages.

Each message costs a call as much as a decision about money does, and uvicorn searches every header of every answer with two
expressions. This relies on uvicorn's `RequestResponseCycle` as of the pinned version; under any other server, and for what is
not plain (a body still under way, an access log, HEAD), `Exchange` speaks ASGI. ADR 0019.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .hot import Answer, Exchange, Receive, Scope, Send, body_too_large


class DirectExchange(Exchange):
    """See the module."""

    __slots__ = ("_cycle",)

    def __init__(self, scope: Scope, receive: Receive, send: Send, cycle: RequestResponseCycle) -> None:
        super().__init__(scope, receive, send)
        self._cycle = cycle

    async def read_body(self) -> bytes:
        """See `Exchange.read_body`."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected:
            body = await super().read_body()
        else:
            body = bytes(cycle.body)
            cycle.body = bytearray()
        # A large body, or a large last piece, has stopped the reading, and with it the news of a client that hangs up.
        cycle.flow.resume_reading()
        limit: int = settings.MAX_BODY_BYTES
        if len(body) > limit:
            raise body_too_large(limit)
        return body

    @property
    def gone(self) -> bool:
        """See `Exchange.gone`."""
        return self._cycle.disconnected

    def run_to_the_end(self) -> bool:
        """Take the present task out of those that uvicorn cancels at shutdown."""
        protocol: Any = cast(Any, self._cycle.on_response).__self__
        protocol.tasks.discard(asyncio.current_task())
        return True

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """See `Exchange.start`."""
        await self._write(self._begin(status, (*headers, (b"transfer-encoding", b"chunked"))))

    async def write(self, data: bytes) -> None:
        """See `Exchange.write`."""
        if data:
            await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, data: bytes = b"") -> None:
        """See `Exchange.end`."""
        await self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")
        self._complete()

    async def answer(self, answer: Answer) -> None:
        """See `Exchange.answer`: head and body leave together."""
        length = (b"content-length", b"%d" % len(answer.body))
        await self._write(self._begin(answer.status, (*answer.headers, length)) + answer.body)
        self._complete()

    async def _write(self, data: bytes) -> None:
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if not cycle.disconnected:
            cycle.transport.write(data)

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Note with uvicorn and here that the answer has begun; returns its head. Raises RuntimeError for a header with a line
        break, before anything is sent."""
        cycle = self._cycle
        self._started = True
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *self.identified(headers))]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        text = b"".join(lines)
        if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines) or b"\0" in text:
            raise RuntimeError("a header with a line break")
        return b"%b%b\r\n" % (STATUS_LINE[status], text)

    def _complete(self) -> None:
        cycle = self._cycle
        if cycle.disconnected:
            return
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def exchange_of(scope: Scope, receive: Receive, send: Send) -> Exchange:
    """The exchange of a request: direct where uvicorn serves it and nothing speaks against it."""
    cycle = getattr(receive, "__self__", None)
    if type(cycle) is RequestResponseCycle and not cycle.access_log and scope["method"] in ("GET", "POST"):
        return DirectExchange(scope, receive, send, cycle)
    return Exchange(scope, receive, send)
