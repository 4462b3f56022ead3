"""One Redis connection that all tasks of an event loop share.

Commands of one instant leave in one write, replies are handed out in their order. A pool lends a connection per command:
taking, guarding and giving it back costs a call more than its script costs Redis. Made for commands that are safe to send
twice. Addresses, passwords and TLS are redis-py's, whose connection this drives.
"""

import asyncio
import contextlib
from collections import deque
from time import monotonic
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

CONNECT_TIMEOUT_SECONDS = 0.5
_SWEEP_SECONDS = 0.05


class _Sent:
    """A command whose reply is waited for."""

    __slots__ = ("packed", "reply", "since")

    def __init__(self, packed: bytes, reply: asyncio.Future[Any]) -> None:
        self.packed = packed
        self.reply = reply
        self.since = monotonic()


class RedisLine:
    """`execute_command` as redis-py's clients have it. Opened with the first command, again after each loss.

    Raises `ResponseError` for what Redis refuses, redis-py's `TimeoutError` when a reply takes longer than `timeout_seconds`
    (which ends the connection: what comes after it waits for the same server), its `ConnectionError` without a connection. A
    command whose connection was lost is sent once more.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 0.5) -> None:
        self._pool = ConnectionPool.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, socket_timeout=None)
        self._timeout_seconds = timeout_seconds
        self._connection: AbstractConnection | None = None
        self._opening: asyncio.Task[AbstractConnection] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._queued: deque[_Sent] = deque()
        self._unanswered: deque[_Sent] = deque()
        self._more = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._losing: asyncio.Task[None] | None = None

    async def execute_command(self, *arguments: Any) -> Any:
        """The reply of one command."""
        try:
            return await self._ask(arguments)
        except RedisConnectionError:
            return await self._ask(arguments)

    async def aclose(self) -> None:
        """Close the connection; commands under way fail."""
        if self._opening is not None:
            self._opening.cancel()
        await self._lose(RedisConnectionError("closed"))

    async def _ask(self, arguments: tuple[Any, ...]) -> Any:
        connection = self._connection or await self._open()
        if connection is not self._connection:
            raise RedisConnectionError("the connection was lost")
        sent = _Sent(hiredis.pack_command(arguments), asyncio.get_running_loop().create_future())
        self._queued.append(sent)
        self._more.set()
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._look_for_late_replies)
        return await sent.reply

    async def _open(self) -> AbstractConnection:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect(), name="redis-line-open")
        # One caller that gives up must not stop the connection the others wait for.
        return await asyncio.shield(self._opening)

    async def _connect(self) -> AbstractConnection:
        if self._connection is not None:
            return self._connection
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await connection.connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise RedisTimeoutError("Redis did not answer in time") from None
        self._connection = connection
        self._reading = asyncio.create_task(self._read(connection), name="redis-line-read")
        self._writing = asyncio.create_task(self._write(connection), name="redis-line-write")
        return connection

    async def _write(self, connection: AbstractConnection) -> None:
        try:
            while True:
                if not self._queued:
                    self._more.clear()
                    await self._more.wait()
                packed: list[bytes] = []
                while self._queued:
                    sent = self._queued.popleft()
                    packed.append(sent.packed)
                    self._unanswered.append(sent)
                await connection.send_packed_command(packed, check_health=False)
        except Exception as error:
            await self._lose(error)

    async def _read(self, connection: AbstractConnection) -> None:
        try:
            while True:
                reply: Any
                try:
                    reply = await connection.read_response()
                except ResponseError as error:
                    reply = error
                sent = self._unanswered.popleft()
                if sent.reply.done():
                    continue
                if isinstance(reply, ResponseError):
                    sent.reply.set_exception(reply)
                else:
                    sent.reply.set_result(reply)
        except Exception as error:
            await self._lose(error)

    def _look_for_late_replies(self) -> None:
        self._sweep = None
        oldest = self._unanswered[0] if self._unanswered else self._queued[0] if self._queued else None
        if oldest is None:
            return
        loop = asyncio.get_running_loop()
        if monotonic() - oldest.since < self._timeout_seconds:
            self._sweep = loop.call_later(_SWEEP_SECONDS, self._look_for_late_replies)
        else:
            self._losing = loop.create_task(self._lose(RedisTimeoutError("Redis did not answer in time")))

    async def _lose(self, error: Exception) -> None:
        """Drop the connection; whoever waits for it learns why."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not isinstance(error, RedisTimeoutError):
            error = RedisConnectionError(str(error) or type(error).__name__)
        for sent in (*self._unanswered, *self._queued):
            if not sent.reply.done():
                sent.reply.set_exception(error)
        self._unanswered.clear()
        self._queued.clear()
        for task in (self._reading, self._writing):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        with contextlib.suppress(Exception):
            await connection.disconnect(nowait=True)
