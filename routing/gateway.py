"""What one web process keeps for its calls: connections, the ledger writer, the limiter, and what it remembers."""

import asyncio
import contextlib
import gc
import logging
from typing import Protocol

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections
from redis.exceptions import RedisError

from billing.ledger.writer import LedgerWriter
from billing.marketplace.door import MarketplaceDoor, knocks
from billing.subscriptions.callers import Caller, CallerDirectory
from iafactory.common import clock, database
from iafactory.common.async_redis import open_redis
from iafactory.common.changes import ChangeListener
from iafactory.common.errors import ApiError
from iafactory.common.hot import Exchange
from iafactory.common.open_files import open_files_allow
from iafactory.common.redis_line import RedisLine
from ratelimit.blocks import block_watch
from ratelimit.engine import Limiter, LimiterUnavailable

from .counter_sources import counter_sources
from .health.board import HealthBoard
from .health.capacity import Capacity
from .health.reports import breaker_moved, credential_refused
from .health.retries import RetryBudget
from .limits import LimitsMemory
from .metrics import tally
from .providers.session import ProviderSession, open_session
from .snapshot import Snapshot, snapshot_load
from .uses import UseRecorder

logger = logging.getLogger(__name__)

# Unheard changes: how old the catalogue may get while PostgreSQL cannot be listened to.
_BLIND_RELOAD_SECONDS = 1.0
_COUNTER_SYNC_SECONDS = 300
# A stream is two: its client's connection and its provider's. Services are often started with 1,024.
_OPEN_FILES = 16_384


def _snapshot_load() -> Snapshot:
    close_old_connections()
    return snapshot_load()


class StoppableCall(Protocol):
    """A call under way, as far as the gateway needs to know it."""

    exchange: Exchange
    caller: Caller

    def cut(self, error: ApiError) -> None: ...


class Gateway:
    """Lives from the start of a web process to its end, inside the event loop that starts it."""

    session: ProviderSession
    snapshot: Snapshot

    def __init__(self) -> None:
        self.pool = database.open_pool()
        self.callers = CallerDirectory(self.pool)
        self.marketplace = MarketplaceDoor(self.callers, self.pool)
        self.ledger = LedgerWriter(queue_limit=settings.LEDGER_QUEUE_LIMIT)
        self.redis = open_redis()
        self.redis_line = RedisLine(settings.REDIS_URL)
        self.limiter = Limiter(self.redis_line, sources=counter_sources(self.pool, clock.now))
        self.health = HealthBoard(self.redis, on_moved=breaker_moved, on_bad_credential=credential_refused)
        self.capacity = Capacity(self.redis, on_share=self.health.note_free_share)
        self.retries = RetryBudget()
        self.limits = LimitsMemory()
        self._listener = ChangeListener(on_change=self._changed, on_gap=self._missed_changes)
        self.uses = UseRecorder(self.pool, self.redis)
        # Calls under way, to stop those whose credential is taken away.
        self.running: set[StoppableCall] = set()
        self._rechecks: set[asyncio.Task[None]] = set()
        self._catalogue_changed = asyncio.Event()
        self._reload_task: asyncio.Task[None] | None = None
        self._sync_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and read the catalogue. Raises when PostgreSQL does not answer; Redis may come later."""
        open_files_allow(_OPEN_FILES)
        await self.pool.open(wait=True, timeout=15)
        self.session = open_session()
        await self._listener.start()
        self.snapshot = await sync_to_async(_snapshot_load)()
        self._reload_task = asyncio.create_task(self._keep_snapshot(), name="snapshot")
        self.ledger.start()
        self.uses.start()
        self.health.start()
        self.capacity.start()
        with contextlib.suppress(LimiterUnavailable):
            await self.limiter.recover(now_ms=clock.now_ms())
        self._sync_task = asyncio.create_task(self._sync_counters(), name="counter-sync")
        # What lives from here on is short-lived; the collector need not walk the rest again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)

    async def stop(self) -> None:
        """Write what is queued, then close everything."""
        await self.ledger.stop()
        await self.uses.stop()
        await self.health.stop()
        await self.capacity.stop()
        await self._listener.stop()
        for task in (self._reload_task, self._sync_task):
            if task is not None:
                task.cancel()
        await self.session.close()
        tally.flush()
        await self.redis_line.aclose()
        await self.redis.aclose()
        self.marketplace.close()
        await self.pool.close(timeout=2)

    async def authenticate(self, exchange: Exchange) -> Caller:
        """The caller named by `Authorization: Bearer` or `x-api-key`, or by the marketplace; raises `ApiError`."""
        if knocks(exchange.headers):
            return await self.marketplace.caller(exchange)
        scheme, _, credential = exchange.header(b"authorization").partition(" ")
        if scheme.lower() != "bearer":
            credential = exchange.header(b"x-api-key")
        return await self.callers.by_credential(credential.strip(), exchange.header(b"x-account").strip())

    def _changed(self, payload: str) -> None:
        if payload == "routes":
            self._catalogue_changed.set()
        elif payload == "blocks":
            block_watch.changed()
        else:
            self.callers.forget(payload)
            if payload == "plans":
                self._catalogue_changed.set()
            elif self.running:
                self._recheck(payload)

    async def _sync_counters(self) -> None:
        """Every five minutes one process of all raises Redis' counters to what the books say. It never lowers one."""
        while True:
            await asyncio.sleep(_COUNTER_SYNC_SECONDS)
            try:
                if await self.redis.set("{iaf}:counter-sync", 1, nx=True, ex=_COUNTER_SYNC_SECONDS - 10):
                    await self.limiter.rebuild(now_ms=clock.now_ms())
            except (LimiterUnavailable, RedisError, OSError) as error:
                logger.warning("counters were not raised: %s", error)

    def _recheck(self, payload: str) -> None:
        """Ask again whether the calls under way of a changed account or user may go on."""
        calls = [c for c in self.running if payload in (f"account:{c.caller.account_id}", f"user:{c.caller.user_id}")]
        if calls:
            task = asyncio.create_task(self._stop_refused(calls))
            self._rechecks.add(task)
            task.add_done_callback(self._rechecks.discard)

    async def _stop_refused(self, calls: "list[StoppableCall]") -> None:
        for call in calls:
            try:
                await self.authenticate(call.exchange)
            except ApiError as error:
                call.cut(error)
            except Exception:
                # Not being able to ask is no reason to stop a call that was allowed.
                logger.exception("a call under way could not be checked again")

    def _missed_changes(self) -> None:
        self.callers.forget("all")
        self.callers.trusted = True
        block_watch.changed()
        self._catalogue_changed.set()

    async def _keep_snapshot(self) -> None:
        """Replace the snapshot when the catalogue changed; without ears, every second."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._catalogue_changed.wait(), _BLIND_RELOAD_SECONDS)
            if not self._listener.listening:
                self.callers.trusted = False
                self.callers.forget("all")
            elif not self._catalogue_changed.is_set():
                continue
            self._catalogue_changed.clear()
            try:
                self.snapshot = await sync_to_async(_snapshot_load)()
            except Exception:
                logger.exception("the catalogue could not be read; the last one stays in use")
                self._catalogue_changed.set()
                await asyncio.sleep(_BLIND_RELOAD_SECONDS)


_gateway: Gateway | None = None


async def gateway_start() -> None:
    """Start this process's gateway; awaited once by the ASGI application."""
    global _gateway
    gateway = Gateway()
    await gateway.start()
    _gateway = gateway


async def gateway_stop() -> None:
    """Stop it; safe when it never started."""
    global _gateway
    gateway, _gateway = _gateway, None
    if gateway is not None:
        await gateway.stop()


def current_gateway() -> Gateway:
    """The running gateway. Raises `ApiError` 503 before start-up is complete."""
    if _gateway is None:
        raise ApiError(503, "starting", "This server is starting.", retry_after_seconds=1)
    return _gateway
