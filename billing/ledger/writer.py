"""Group commit: the gateway's door to the ledger.

One connection opens holds and one settles calls. Each takes whatever is queued the moment it is free and sends it as one
transaction, so that a commit is shared by all who wait for it. The SQL functions are idempotent by request id: after a lost
reply or a lost connection the same items are simply sent again.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Generic, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors

from iafactory.common import clock, database

from .items import (
    EXTEND_SQL,
    OPEN_SQL,
    SETTLE_SQL,
    CallItem,
    CallVerdict,
    HoldItem,
    HoldVerdict,
    UsageItem,
    encode_items,
)

logger = logging.getLogger(__name__)

BATCH_LIMIT = 256
# A wallet locked elsewhere is left to the next batch this often; then its item goes alone and waits for the lock.
BUSY_ROUNDS = 3
BUSY_PAUSE_SECONDS = 0.005
LOCK_TIMEOUT_MS = 5000
STATEMENT_TIMEOUT_MS = 20000
RECONNECT_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)

# Somebody else's lock or clash: nothing was written, the same batch may simply be sent again.
_TRANSIENT = (
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.QueryCanceled,
    errors.SerializationFailure,
)

Item = TypeVar("Item", HoldItem, CallItem)
Verdict = TypeVar("Verdict", HoldVerdict, CallVerdict)


class LedgerUnavailable(Exception):
    """The ledger cannot take the item now: the queue is full, the writer stopped, or PostgreSQL does not answer."""


class LedgerRejected(Exception):
    """PostgreSQL refuses this one item, whatever its batch: a fault of ours, logged with its cause."""


class _Waiting(Generic[Item, Verdict]):
    __slots__ = ("future", "item", "rounds")

    def __init__(self, item: Item, future: asyncio.Future[Verdict]) -> None:
        self.item: Item = item
        self.future: asyncio.Future[Verdict] = future
        self.rounds = 0


class GroupCommit(Generic[Item, Verdict]):
    """A queue and the one connection that empties it.

    `on_unclaimed` is called with the verdict of an item whose waiter is gone.
    """

    def __init__(
        self,
        *,
        name: str,
        sql: str,
        verdict: Callable[..., Verdict],
        queue_limit: int,
        on_unclaimed: Callable[[Item, Verdict], None] | None = None,
    ) -> None:
        self.name = name
        self._sql = sql
        self._verdict: Callable[..., Verdict] = verdict
        self._queue_limit = queue_limit
        self._on_unclaimed: Callable[[Item, Verdict], None] | None = on_unclaimed
        self._queue: deque[_Waiting[Item, Verdict]] = deque()
        self._wake = asyncio.Event()
        self._parked = 0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._connection: psycopg.AsyncConnection[Any] | None = None

    def start(self) -> None:
        """Begin to empty the queue; call it inside the event loop."""
        self._task = asyncio.create_task(self._run(), name=f"ledger-{self.name}")

    async def stop(self, *, timeout_seconds: float = 5) -> None:
        """Write what is queued, then close. What PostgreSQL does not take in time is given up and logged."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            try:
                await asyncio.wait_for(self._task, timeout_seconds)
            except TimeoutError:
                logger.error("%s: gave up %d queued items at shutdown", self.name, len(self._queue))
        for waiting in self._queue:
            self._fail(waiting, LedgerUnavailable("stopped"))
        self._queue.clear()
        await self._disconnect()

    @property
    def depth(self) -> int:
        """Items waiting for a batch."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether new items are refused."""
        return len(self._queue) >= self._queue_limit

    def submit(self, item: Item, *, force: bool = False) -> asyncio.Future[Verdict]:
        """Queue `item`; the future brings its verdict once committed, or `LedgerRejected`.

        Raises `LedgerUnavailable` when the queue is full, except with `force`: a call that happened must be booked.
        """
        if self._stopping or self._task is None:
            raise LedgerUnavailable("the ledger writer is not running")
        if self.full and not force:
            raise LedgerUnavailable(f"{len(self._queue)} items are waiting already")
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(item, future))
        self._wake.set()
        return future

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._stopping and not self._parked:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_LIMIT))]
            patient = [waiting for waiting in batch if waiting.rounds >= BUSY_ROUNDS]
            await self._commit([waiting for waiting in batch if waiting.rounds < BUSY_ROUNDS], wait=False)
            for waiting in patient:
                await self._commit([waiting], wait=True)

    async def _commit(self, batch: Sequence[_Waiting[Item, Verdict]], *, wait: bool) -> None:
        """Send `batch` until PostgreSQL has taken or refused each of its items."""
        failures = 0
        while batch:
            try:
                rows = await self._send([waiting.item for waiting in batch], wait=wait)
            except _TRANSIENT as error:
                logger.info("%s: batch of %d sent again after %s", self.name, len(batch), type(error).__name__)
                await asyncio.sleep(BUSY_PAUSE_SECONDS)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                await self._disconnect()
                if self._stopping and failures >= len(RECONNECT_PAUSES_SECONDS):
                    for waiting in batch:
                        self._fail(waiting, LedgerUnavailable("PostgreSQL does not answer"))
                    return
                pause = RECONNECT_PAUSES_SECONDS[min(failures, len(RECONNECT_PAUSES_SECONDS) - 1)]
                failures += 1
                logger.warning("%s: connection lost (%s), next try in %.2f s", self.name, type(error).__name__, pause)
                await asyncio.sleep(pause)
            except Exception as error:
                if len(batch) > 1:
                    # One of them is bad: halves, until it stands alone.
                    middle = len(batch) // 2
                    await self._commit(batch[:middle], wait=wait)
                    batch = batch[middle:]
                else:
                    logger.exception("%s: item refused", self.name)
                    self._fail(batch[0], LedgerRejected(str(error)))
                    return
            else:
                self._hand_out(batch, rows)
                return

    async def _send(self, items: list[Item], *, wait: bool) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = await database.connect(application_name=f"iafactory-{self.name}")
            await self._connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
            await self._connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
        cursor = await self._connection.execute(self._sql, (encode_items(items).decode(), clock.now(), wait))
        return await cursor.fetchall()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close()

    def _hand_out(self, batch: Sequence[_Waiting[Item, Verdict]], rows: list[tuple[Any, ...]]) -> None:
        verdicts = {}
        for row in rows:
            verdicts[row[0]] = self._verdict(*row)
        busy = []
        for waiting in batch:
            verdict = verdicts[_request_id(waiting.item)]
            if verdict.verdict == "busy":
                waiting.rounds += 1
                busy.append(waiting)
            elif waiting.future.done():
                if self._on_unclaimed is not None:
                    self._on_unclaimed(waiting.item, verdict)
            else:
                waiting.future.set_result(verdict)
        if busy:
            self._parked += len(busy)
            asyncio.get_running_loop().call_later(BUSY_PAUSE_SECONDS, self._requeue, busy)

    def _requeue(self, busy: list[_Waiting[Item, Verdict]]) -> None:
        self._parked -= len(busy)
        self._queue.extendleft(reversed(busy))
        self._wake.set()

    def _fail(self, waiting: _Waiting[Item, Verdict], error: Exception) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _request_id(item: HoldItem | CallItem) -> UUID:
    return item.id if isinstance(item, HoldItem) else item.usage.id


class LedgerWriter:
    """The two group commits of a web process, and the few single statements beside them."""

    def __init__(self, *, queue_limit: int) -> None:
        self._holds: GroupCommit[HoldItem, HoldVerdict] = GroupCommit(
            name="holds",
            sql=OPEN_SQL,
            verdict=HoldVerdict,
            queue_limit=queue_limit,
            on_unclaimed=self._give_back,
        )
        self._calls: GroupCommit[CallItem, CallVerdict] = GroupCommit(
            name="settles", sql=SETTLE_SQL, verdict=CallVerdict, queue_limit=queue_limit
        )

    def start(self) -> None:
        self._holds.start()
        self._calls.start()

    async def stop(self) -> None:
        """Holds first: giving back an unclaimed one is a settle."""
        await self._holds.stop(timeout_seconds=2)
        await self._calls.stop()

    @property
    def depths(self) -> dict[str, int]:
        """Items waiting, by queue."""
        return {"holds": self._holds.depth, "settles": self._calls.depth}

    async def hold_open(self, item: HoldItem, *, timeout_seconds: float) -> HoldVerdict:
        """Open a hold. Raises `LedgerUnavailable`; a hold that comes too late is given back by itself."""
        # A settle must follow each hold: refuse early when settles pile up.
        if self._calls.full:
            raise LedgerUnavailable("settles are piling up")
        try:
            return await asyncio.wait_for(self._holds.submit(item), timeout_seconds)
        except TimeoutError:
            raise LedgerUnavailable("PostgreSQL did not answer in time") from None

    async def hold_extend(self, *, request_id: UUID, credits: Decimal, worst_cost_usd: Decimal, timeout_seconds: float) -> str:
        """Raise an open hold; `held`, `insufficient` or `gone`. On a connection of its own: rare, and waits for the lock."""
        try:
            async with asyncio.timeout(timeout_seconds), await database.connect() as connection:
                cursor = await connection.execute(EXTEND_SQL, (request_id, credits, worst_cost_usd, clock.now()))
                row = await cursor.fetchone()
        except (TimeoutError, psycopg.Error, OSError) as error:
            raise LedgerUnavailable(str(error) or "PostgreSQL did not answer in time") from error
        assert row is not None
        verdict: str = row[0]
        return verdict

    async def call_settle(self, item: CallItem, *, timeout_seconds: float) -> CallVerdict:
        """End a call. `TimeoutError` means not known yet: the item stays queued and will be booked."""
        return await asyncio.wait_for(asyncio.shield(self._calls.submit(item, force=True)), timeout_seconds)

    def _give_back(self, item: HoldItem, verdict: HoldVerdict) -> None:
        if verdict.verdict != "held":
            return
        usage = UsageItem(
            id=item.id,
            started_at=item.opened_at,
            finished_at=clock.now(),
            account_id=item.account_id,
            api_key_id=item.api_key_id,
            subscription_id=item.subscription_id,
            endpoint=item.endpoint,
            end="refused",
            error_code="hold_unclaimed",
            provider=item.provider,
            model=item.model,
            credits_held=item.credits,
        )
        released = CallItem(usage=usage, held=item.credits, charge=Decimal(0), reason="Nobody waited for it.")
        with contextlib.suppress(LedgerUnavailable):
            self._calls.submit(released, force=True).add_done_callback(_log_failure)


def _log_failure(future: asyncio.Future[CallVerdict]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("a hold could not be given back: %s", error)
