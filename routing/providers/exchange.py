"""One HTTP exchange with a provider, as every chat adapter needs it: whole or streamed, with its timeouts and failures.

Nothing here knows a dialect: an adapter says where to send what, and what the received events mean.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from routing.providers.base import ChatChunk, FailureClass, ProviderError, Target, Usage
from routing.providers.failures import MAX_ERROR_BYTES, find_error, http_failure, network_failure, parse_json, public_message
from routing.providers.http1 import HttpAnswer
from routing.providers.session import ProviderSession
from routing.providers.sse import SseDecoder

MAX_ANSWER_BYTES = 64 * 1024 * 1024
# The last bytes after the protocol's end arrive at once or not at all; waiting for them keeps the connection in the pool.
_DRAIN_SECONDS = 0.1
_WHOLE_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
_STREAM_HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream"}

_encode = msgspec.json.Encoder().encode


async def post_whole(
    session: ProviderSession, target: Target, endpoint: str, headers: Mapping[str, str], body: Mapping[str, Any]
) -> tuple[bytes, Mapping[str, str]]:
    """Send one whole call; the body and the headers of its 200. Raises `ProviderError` for anything else."""
    try:
        answer = await session.send(
            "POST",
            endpoint,
            headers={**headers, **_WHOLE_HEADERS, **target.extra_headers},
            content=_encode(body),
            connect_seconds=target.connect_timeout_seconds,
            silence_seconds=target.first_byte_timeout_seconds + target.read_timeout_seconds,
        )
        try:
            if target.on_headers is not None:
                target.on_headers(answer.headers)
            if answer.status != 200:
                raise await refusal(answer, target)
            return await read_limited(answer, MAX_ANSWER_BYTES), answer.headers
        finally:
            answer.close()
    except (TimeoutError, OSError) as error:
        raise network_failure(error) from error


class EventStream(ABC):
    """What `ChatStream` promises of every stream of server-sent events; an adapter's stream adds its dialect.

    `_endpoint`, `_headers` (credential and versions alone) and `_body` say what is sent. `_take` gets the data of each event:
    it puts chunks into `_ready`, calls `_finish` at the protocol's end and `_fail` on an error reported inside the stream.
    `_end_of_connection` decides what a clean end of the connection before that means. A `ProviderError` raised in either ends
    the stream.
    """

    def __init__(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> None:
        self.completed = False
        self.aborted = False
        self.usage: Usage | None = None
        self.output_bytes = 0
        self.finish_reason: str | None = None
        self.upstream_id: str | None = None
        self.service_tier: str | None = None
        self._session = session
        self._target = target
        self._request = request
        self._response: HttpAnswer | None = None
        self._opening: asyncio.Timeout | None = None
        self._decoder = SseDecoder()
        self._ready: deque[ChatChunk] = deque()
        self._over = False
        self._failure: ProviderError | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._waiting_since: float | None = None
        self._first_event_due = 0.0
        self._event_seen = False
        self._timed_out = False

    @abstractmethod
    def _endpoint(self) -> str: ...

    @abstractmethod
    def _headers(self) -> Mapping[str, str]: ...

    @abstractmethod
    def _body(self) -> Mapping[str, Any]: ...

    @abstractmethod
    def _take(self, data: bytes) -> None: ...

    @abstractmethod
    def _end_of_connection(self) -> None: ...

    async def __aenter__(self) -> Self:
        if self.aborted:
            self._over = True
            return self
        target = self._target
        loop = asyncio.get_running_loop()
        self._first_event_due = loop.time() + target.first_byte_timeout_seconds
        try:
            async with asyncio.timeout_at(self._first_event_due) as self._opening:
                response = await self._session.send(
                    "POST",
                    self._endpoint(),
                    headers={**self._headers(), **_STREAM_HEADERS, **target.extra_headers},
                    content=_encode(self._body()),
                    connect_seconds=target.connect_timeout_seconds,
                )
                self._response = response
                if target.on_headers is not None:
                    target.on_headers(response.headers)
                content_type = response.content_type
                if response.status != 200:
                    raise await refusal(response, target)
                if content_type in ("application/json", "text/html"):
                    # Asked for a stream, answered with a document: an error in disguise, or money spent for nothing.
                    raw = await read_limited(response, MAX_ANSWER_BYTES)
                    raise document_failure(response.status, response.headers, raw, target)
        except (TimeoutError, OSError) as error:
            self._close()
            if self.aborted:
                self._over = True
                return self
            raise network_failure(error) from error
        except BaseException:
            self._close()
            raise
        finally:
            self._opening = None
            self._request = {}
        self._watch()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_watchdog()
        response = self._response
        if response is None or response.closed:
            return
        if self.completed and kind is None:
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while await response.readany():
                        pass
            except (TimeoutError, OSError):
                pass
            except BaseException:
                response.close()
                raise
        # An answer read to its end has given its connection back already.
        response.close()

    @property
    def usage_so_far(self) -> Usage | None:
        """See `ChatStream`; a dialect that tells its input first has more to say."""
        return self.usage

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatChunk:
        while True:
            if (chunk := self.more()) is not None:
                return chunk
            if self.aborted:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._broken(self._failure)
            if self._over:
                raise StopAsyncIteration
            await self._read()

    def more(self) -> ChatChunk | None:
        """See `ChatStream.more`."""
        if not self._ready or self.aborted:
            return None
        chunk = self._ready.popleft()
        self.output_bytes += chunk.output_bytes
        return chunk

    def abort(self) -> None:
        """Hang up now; see `ChatStream.abort`."""
        if self.aborted or self.completed:
            return
        self.aborted = True
        if self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())
        else:
            self._close()

    async def _read(self) -> None:
        """Wait for the next bytes and turn them into chunks, a failure or the end."""
        response = self._response
        assert response is not None, "enter the stream before iterating"
        loop = asyncio.get_running_loop()
        self._waiting_since = loop.time()
        try:
            data = await response.readany()
        except (TimeoutError, OSError) as error:
            if not self.aborted:
                self._failure = network_failure(TimeoutError() if self._timed_out else error)
            self._over = True
            return
        finally:
            self._waiting_since = None
        if self._timed_out:
            self._fail(network_failure(TimeoutError()))
            return
        try:
            if data:
                for event, _ in self._decoder.feed(data):
                    self._event_seen = True
                    self._take(event)
                    if self._over:
                        return
            else:
                for event, _ in self._decoder.finish():
                    self._take(event)
                if not self._over:
                    self._end_of_connection()
        except ProviderError as error:
            self._fail(error)

    def _finish(self) -> None:
        """The protocol's end was seen: the answer is whole."""
        self._over = True
        self.completed = True
        self._stop_watchdog()

    def _fail(self, failure: ProviderError) -> None:
        self._failure = failure
        self._over = True
        self._close()

    def _broken(self, failure: ProviderError) -> ProviderError:
        """What the consumer sees: once text was delivered, any failure is a truncation."""
        if self.output_bytes == 0:
            return failure
        return ProviderError(
            FailureClass.TRUNCATED,
            public_message(FailureClass.TRUNCATED),
            status=failure.status,
            code=failure.code,
            retry_after_seconds=failure.retry_after_seconds,
            may_have_billed=True,
            detail=failure.detail,
        )

    def _watch(self) -> None:
        """Close a silent connection. One timer, re-armed only when it fires, instead of one per read."""
        self._watchdog = None
        if self._over or self._response is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._event_seen:
            due = self._first_event_due
        elif self._waiting_since is not None:
            due = self._waiting_since + self._target.read_timeout_seconds
        else:
            # Nobody is reading: a slow client is not the provider's fault.
            due = now + self._target.read_timeout_seconds
        if now < due:
            # The first event may come long before it is due, and the silence after it has a shorter limit.
            self._watchdog = loop.call_at(min(due, now + self._target.read_timeout_seconds), self._watch)
            return
        self._timed_out = True
        self._close()

    def _stop_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _close(self) -> None:
        self._stop_watchdog()
        if self._response is not None:
            self._response.close()


async def refusal(response: HttpAnswer, target: Target) -> ProviderError:
    """The error of an answer that is no 200."""
    raw = await read_limited(response, MAX_ERROR_BYTES, strict=False)
    return http_failure(response.status, response.headers, raw, secret=target.secret, quirks=target.quirks)


def document_failure(status: int, headers: Mapping[str, str], raw: bytes, target: Target) -> ProviderError:
    """The error of a 200 that is no answer: an error body if it has one, else an answer not understood."""
    if find_error(parse_json(raw)) is None:
        return internal_failure("bad_answer", "a 200 without an answer")
    return http_failure(status, headers, raw, secret=target.secret, quirks=target.quirks, may_have_billed=True)


async def read_limited(response: HttpAnswer, limit: int, *, strict: bool = True) -> bytes:
    """The body up to `limit` bytes. Beyond it: ProviderError(internal) if `strict`, else its beginning."""
    raw = await response.read(limit)
    if len(raw) > limit:
        if strict:
            raise internal_failure("answer_too_large", f"more than {limit} bytes")
        return raw[:limit]
    return raw


def internal_failure(code: str, detail: str) -> ProviderError:
    """The provider answered, and was not understood: it may bill all the same."""
    return ProviderError(
        FailureClass.INTERNAL,
        public_message(FailureClass.INTERNAL),
        code=code,
        may_have_billed=True,
        detail=detail,
    )


def broken_off(detail: str) -> ProviderError:
    """The connection ended cleanly before the answer did."""
    return ProviderError(
        FailureClass.OVERLOADED,
        public_message(FailureClass.OVERLOADED),
        code="connection_error",
        may_have_billed=True,
        detail=detail,
    )


def utf8_length(text: str) -> int:
    """UTF-8 bytes of a text, lone surrogates included."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
