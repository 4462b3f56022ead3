"""Group commit: the gateway's door to the ledger.

One connection opens holds and one settles calls. Each takes whatever is queued the moment it is free and sends it as one
transaction, so that a commit is shared by all who wait for it. The SQL functions are idempotent by request id: after a lost
reply or a lost connection the same items are simply sent again.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from time import monotonic
from typing import Any, Generic, TypeVar
from uuid import UUID

import psycopg
from psycopg import errors

from iafactory.common import clock, database
from iafactory.common.deadlines import Deadlines

from . import metrics
from .items import (
    EXTEND_SQL,
    OPEN_SQL,
    SETTLE_SQL,
    CallItem,
    CallVerdict,
    HoldItem,
    HoldVerdict,
    UsageItem,
    open_parameters,
    settle_parameters,
)

logger = logging.getLogger(__name__)

BATCH_LIMIT = 256
# What was answered in one batch comes back as one: a batch of all would wait for all, again and again. So a queue is taken in
# parts, of a size from which on a call costs little more than in the largest.
BATCH_PARTS = 4
BATCH_WORTH_IT = 20
RETRY_PAUSE_SECONDS = 0.005
LOCK_TIMEOUT_MS = 5000
# How long the patient connection waits for one locked wallet before it turns to the next.
WALLET_TIMEOUT_MS = 100
STATEMENT_TIMEOUT_MS = 20000
# A server that says nothing at all, not even that the statement took too long, is taken for gone.
SILENCE_SECONDS = 25
RECONNECT_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
# Another transaction inserted the same key first; once it has committed the functions see it and answer so.
CLASH_RETRIES = 3

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
    __slots__ = ("future", "item", "since")

    def __init__(self, item: Item, future: asyncio.Future[Verdict]) -> None:
        self.item: Item = item
        self.future: asyncio.Future[Verdict] = future
        self.since = monotonic()


class _Lane:
    """A connection that outlives its losses: opened when first needed, again after each loss."""

    def __init__(self, name: str, *, lock_timeout_ms: int) -> None:
        self._name = name
        self._lock_timeout_ms = lock_timeout_ms
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def execute(self, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own. Raises psycopg's errors, `OSError` when the server is silent."""
        async with asyncio.timeout(SILENCE_SECONDS):
            if self._connection is None:
                self._connection = await database.connect(application_name=f"iafactory-{self._name}")
                await self._connection.execute(f"SET lock_timeout = {self._lock_timeout_ms}")
                await self._connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
                # Left to itself the planner, seeing how little small batches cost, plans every one of them anew: that takes
                # longer than running it. The functions are written for one plan that serves all sizes.
                await self._connection.execute("SET plan_cache_mode = force_generic_plan")
            cursor = await self._connection.execute(sql, parameters)
            return await cursor.fetchall()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close()


class GroupCommit(Generic[Item, Verdict]):
    """A queue and the connection that empties it.

    That connection never waits for a wallet. Items whose wallet somebody else has locked go to a second, patient one, wallet
    by wallet and in their order, so that neither a slow renewal nor a hot wallet stalls the others.
    `on_unclaimed` is called with the verdict of an item whose waiter is gone; with it, an item whose waiter left before it was
    sent is forgotten.
    """

    def __init__(
        self,
        *,
        name: str,
        sql: str,
        parameters: Callable[..., tuple[Any, ...]],
        verdict: Callable[..., Verdict],
        queue_limit: int,
        on_unclaimed: Callable[[Item, Verdict], None] | None = None,
    ) -> None:
        self.name = name
        self._sql = sql
        self._parameters = parameters
        self._verdict: Callable[..., Verdict] = verdict
        self._queue_limit = queue_limit
        self._on_unclaimed: Callable[[Item, Verdict], None] | None = on_unclaimed
        self._queue: deque[_Waiting[Item, Verdict]] = deque()
        self._wake = asyncio.Event()
        self._blocked: dict[UUID, deque[_Waiting[Item, Verdict]]] = {}
        self._blocked_wake = asyncio.Event()
        self._quick = _Lane(name, lock_timeout_ms=LOCK_TIMEOUT_MS)
        self._patient = _Lane(f"{name}-patient", lock_timeout_ms=WALLET_TIMEOUT_MS)
        self._stopping = False
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._batch_size = metrics.batch_size.labels(name)
        self._wait = metrics.wait.labels(name)
        self._depth = metrics.depth.labels(name)

    def start(self) -> None:
        """Begin to empty the queue; call it inside the event loop."""
        quick = asyncio.create_task(self._run(), name=f"ledger-{self.name}")
        patient = asyncio.create_task(self._run_blocked(quick), name=f"ledger-{self.name}-patient")
        self._tasks = (quick, patient)

    async def stop(self, *, timeout_seconds: float = 5) -> None:
        """Write what is queued, then close. What PostgreSQL does not take in time is given up and logged."""
        self._stopping = True
        self._wake.set()
        self._blocked_wake.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        left: list[_Waiting[Item, Verdict]] = list(self._queue)
        for queue in self._blocked.values():
            left.extend(queue)
        if left:
            logger.error("%s: gave up %d queued items at shutdown", self.name, len(left))
        for waiting in left:
            self._fail(waiting, LedgerUnavailable("stopped"))
        self._queue.clear()
        self._blocked.clear()
        await self._quick.close()
        await self._patient.close()

    @property
    def depth(self) -> int:
        """Items waiting for a batch."""
        return len(self._queue) + sum(map(len, self._blocked.values()))

    @property
    def full(self) -> bool:
        """Whether new items are refused."""
        return self.depth >= self._queue_limit

    def submit(self, item: Item, *, force: bool = False) -> asyncio.Future[Verdict]:
        """Queue `item`; the future brings its verdict once committed, or `LedgerRejected`.

        Raises `LedgerUnavailable` when the queue is full, except with `force`: a call that happened must be booked.
        """
        if self._stopping or not self._tasks:
            raise LedgerUnavailable("the ledger writer is not running")
        if not force and self.full:
            raise LedgerUnavailable(f"{self.depth} items are waiting already")
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(item, future))
        self._wake.set()
        return future

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            # A commit costs much the same for few items as for many. Who is ready at this instant comes along: one turn of the
            # event loop is nothing to an idle process and gathers many calls in a busy one; a fixed pause would delay both.
            await asyncio.sleep(0)
            batch = self._take(self._queue)
            if batch:
                await self._commit(batch, self._quick)

    async def _run_blocked(self, quick: asyncio.Task[None]) -> None:
        # The other one may still find locked wallets in the queue it empties at the end.
        quick.add_done_callback(lambda _: self._blocked_wake.set())
        while True:
            if not self._blocked:
                if quick.done():
                    return
                self._blocked_wake.clear()
                await self._blocked_wake.wait()
                continue
            account_id, queue = next(iter(self._blocked.items()))
            batch = self._take(queue)
            if batch:
                queue.extendleft(reversed(await self._commit(batch, self._patient)))
            # To the end of the row, so that a wallet locked for long costs the next ones one wait and no more.
            del self._blocked[account_id]
            if queue:
                self._blocked[account_id] = queue

    def _take(self, queue: deque[_Waiting[Item, Verdict]]) -> list[_Waiting[Item, Verdict]]:
        batch: list[_Waiting[Item, Verdict]] = []
        limit = min(max(BATCH_WORTH_IT, len(queue) // BATCH_PARTS), BATCH_LIMIT)
        while queue and len(batch) < limit:
            waiting = queue.popleft()
            if self._on_unclaimed is not None and waiting.future.done():
                continue
            blocked = self._blocked.get(_account_id(waiting.item)) if queue is self._queue else None
            if blocked is not None and _needs_wallet(waiting.item):
                blocked.append(waiting)
            else:
                batch.append(waiting)
        return batch

    async def _commit(self, batch: list[_Waiting[Item, Verdict]], lane: _Lane) -> list[_Waiting[Item, Verdict]]:
        """Send `batch` until PostgreSQL has taken or refused each of its items; returns those whose wallet stayed locked."""
        failures = clashes = 0
        items = [waiting.item for waiting in batch]
        while True:
            try:
                parameters = self._parameters(items, now=clock.now(), wait=lane is self._patient)
                rows = await lane.execute(self._sql, parameters)
                return self._hand_out(batch, rows, lane)
            except asyncio.CancelledError:
                for waiting in batch:
                    self._fail(waiting, LedgerUnavailable("stopped; what was sent last may be booked or not"))
                raise
            except _TRANSIENT as error:
                if lane is self._patient and isinstance(error, errors.LockNotAvailable):
                    return batch
                logger.info("%s: batch of %d sent again after %s", self.name, len(batch), type(error).__name__)
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                await lane.close()
                if self._stopping and failures >= len(RECONNECT_PAUSES_SECONDS):
                    for waiting in batch:
                        self._fail(waiting, LedgerUnavailable("PostgreSQL does not answer"))
                    return []
                pause = RECONNECT_PAUSES_SECONDS[min(failures, len(RECONNECT_PAUSES_SECONDS) - 1)]
                failures += 1
                logger.warning("%s: connection lost (%s), next try in %.2f s", self.name, type(error).__name__, pause)
                await asyncio.sleep(pause)
            except Exception as error:
                if isinstance(error, errors.UniqueViolation) and clashes < CLASH_RETRIES:
                    clashes += 1
                    await asyncio.sleep(RETRY_PAUSE_SECONDS)
                elif len(batch) > 1:
                    # One of them is bad: halves, until it stands alone.
                    middle = len(batch) // 2
                    locked = await self._commit(batch[:middle], lane)
                    return locked + await self._commit(batch[middle:], lane)
                else:
                    logger.exception("%s: item refused", self.name)
                    self._fail(batch[0], LedgerRejected(str(error)))
                    return []

    def _hand_out(
        self, batch: list[_Waiting[Item, Verdict]], rows: list[tuple[Any, ...]], lane: _Lane
    ) -> list[_Waiting[Item, Verdict]]:
        self._batch_size.observe(len(batch))
        # The oldest speaks for all of them: one figure a commit, not one an item.
        self._wait.observe(monotonic() - batch[0].since)
        self._depth.set(self.depth)
        # A batch may carry one request twice; the function answers the first of them first.
        verdicts: dict[int, deque[Verdict]] = {}
        for row in rows:
            # A UUID's own hash is written in Python.
            verdicts.setdefault(row[0].int, deque()).append(self._verdict(*row))
        locked = []
        for waiting in batch:
            verdict = verdicts[_request_id(waiting.item).int].popleft()
            if verdict.verdict == "busy":
                locked.append(waiting)
            elif not waiting.future.done():
                waiting.future.set_result(verdict)
            elif self._on_unclaimed is not None:
                self._on_unclaimed(waiting.item, verdict)
        if lane is self._patient:
            return locked
        for waiting in locked:
            self._blocked.setdefault(_account_id(waiting.item), deque()).append(waiting)
        if locked:
            self._blocked_wake.set()
        return []

    def _fail(self, waiting: _Waiting[Item, Verdict], error: Exception) -> None:
        if not waiting.future.done():
            waiting.future.set_exception(error)


def _request_id(item: HoldItem | CallItem) -> UUID:
    return item.id if isinstance(item, HoldItem) else item.usage.id


def _account_id(item: HoldItem | CallItem) -> UUID:
    return item.account_id if isinstance(item, HoldItem) else item.usage.account_id


def _needs_wallet(item: HoldItem | CallItem) -> bool:
    """Whether the SQL function locks the wallet for this item."""
    if isinstance(item, HoldItem):
        return item.credits > 0 or item.idempotency_key is not None
    return item.charge > 0 or item.held > 0


class LedgerWriter:
    """The two group commits of a web process, and the few single statements beside them."""

    def __init__(self, *, queue_limit: int) -> None:
        self._deadlines = Deadlines()
        self._holds: GroupCommit[HoldItem, HoldVerdict] = GroupCommit(
            name="holds",
            sql=OPEN_SQL,
            parameters=open_parameters,
            verdict=HoldVerdict,
            queue_limit=queue_limit,
            on_unclaimed=self._give_back,
        )
        self._calls: GroupCommit[CallItem, CallVerdict] = GroupCommit(
            name="settles",
            sql=SETTLE_SQL,
            parameters=settle_parameters,
            verdict=CallVerdict,
            queue_limit=queue_limit,
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
        future = self._holds.submit(item)
        try:
            return await self._deadlines.wait(future, timeout_seconds)
        except (TimeoutError, asyncio.CancelledError) as error:
            # The verdict may have come in the very instant in which the waiter left.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(item, future.result())
            if isinstance(error, TimeoutError):
                raise LedgerUnavailable("PostgreSQL did not answer in time") from None
            raise

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
        """End a call: `call_submit` and `call_verdict` in one."""
        return await self.call_verdict(self.call_submit(item), timeout_seconds=timeout_seconds)

    def call_submit(self, item: CallItem) -> asyncio.Future[CallVerdict]:
        """Queue the end of a call, which is booked from then on whatever becomes of its waiter."""
        try:
            return self._calls.submit(item, force=True)
        except LedgerUnavailable as error:
            refused: asyncio.Future[CallVerdict] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def call_verdict(self, booking: asyncio.Future[CallVerdict], *, timeout_seconds: float) -> CallVerdict:
        """What became of what was submitted. `TimeoutError` means not known yet: it stays queued and will be booked.

        Raises `LedgerUnavailable` when the writer was stopped, `LedgerRejected` for what PostgreSQL refuses.
        """
        return await self._deadlines.wait(booking, timeout_seconds)

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
