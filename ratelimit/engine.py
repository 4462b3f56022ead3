"""Reservations over several limits at once, each call one Redis round trip."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from redis.exceptions import NoScriptError, RedisError

from ratelimit.recovery import RebuildSources
from ratelimit.scopes import (
    DAY_MS,
    KEY_PREFIX,
    LARGEST_INTEGER,
    CounterRow,
    Scope,
    ScopeSet,
    SplitPosition,
    counter_storage_key,
)

DEFAULT_LEASE_MS = 15 * 60_000
# The record outlives the lease, so that whoever cleans up after a crash can still give the amounts back.
RECORD_GRACE_MS = 3_600_000
COUNTER_GRACE_MS = 3_600_000

_EPOCH_KEY = f"{KEY_PREFIX}epoch"
_REBUILD_LOCK_KEY = f"{KEY_PREFIX}rebuild-lock"
# Longer than the lock of a rebuild whose process died.
_REBUILD_WAIT_SECONDS = 20.0
_REBUILD_POLL_SECONDS = 0.05
_REBUILD_BATCH_ROWS = 500

_RESERVE, _EXTEND, _PEEK = 1, 2, 3
_REFUSED, _ALLOWED, _STALE, _UNKNOWN = 0, 1, 2, 3
_FIELDS_BEFORE_SCOPES, _FIELDS_PER_SCOPE = 3, 4

_encode = msgspec.msgpack.Encoder().encode


class LimiterUnavailable(Exception):
    """Redis did not answer in time, or counters could not be rebuilt. Nothing may be admitted."""


class ScopeState(NamedTuple):
    """One scope after the decision. `remaining` is None without a limit, `reset_at_ms` where it is not known."""

    name: str
    limit: int | None
    used: int
    remaining: int | None
    reset_at_ms: int | None


class RefusedScope(NamedTuple):
    """The hard scope that refused; of several, the one with the longest wait.

    `retry_after_ms` is None when waiting does not help: the amount is above the whole limit.
    """

    name: str
    limit: int | None
    remaining: int | None
    retry_after_ms: int | None
    reset_at_ms: int | None


class Decision(msgspec.Struct, frozen=True):
    """What a reserve or extend answered. Unless `allowed`, nothing was taken.

    `stale_epoch`: Redis lost data, recover and ask once more. `unknown_reservation`: nothing to extend (settled,
    released or lost).
    """

    allowed: bool
    refused_scope: RefusedScope | None = None
    states: tuple[ScopeState, ...] = ()
    soft_exhausted: frozenset[str] = frozenset()
    split_position: int | None = None
    stale_epoch: bool = False
    unknown_reservation: bool = False


class _Script:
    """A Lua script and its SHA-1, by which Redis knows it."""

    def __init__(self, *file_names: str) -> None:
        folder = Path(__file__).parent
        self.text = "\n".join((folder / name).read_text(encoding="utf-8") for name in file_names)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_RESERVE_SCRIPT = _Script("bucket.lua", "reserve.lua")
_SETTLE_SCRIPT = _Script("bucket.lua", "settle.lua")
_RECOVER_SCRIPT = _Script("recover.lua")


def _record_key(reservation_id: str) -> str:
    return f"{KEY_PREFIX}r:{reservation_id}"


def _reserve_arguments(
    verb: int,
    reservation_id: str,
    scopes: ScopeSet,
    now_ms: int,
    epoch: str,
    record_ttl_ms: int,
    renew_lease_ms: int,
    split: SplitPosition | None,
    amounts: Sequence[int] | None = None,
) -> list[str | bytes]:
    """Return keys, then the packed request. MessagePack costs Redis half of what one argument per number does."""
    keys: list[Any] = [_record_key(reservation_id), _EPOCH_KEY, *scopes.storage_keys]
    request: list[Any] = [
        verb,
        now_ms,
        epoch,
        reservation_id,
        record_ttl_ms,
        renew_lease_ms,
        -1 if split is None else split.start,
        *(scopes.packed if amounts is None else scopes.packed_with(amounts)),
    ]
    if split is not None:
        keys.append(split.storage_key)
    keys.append(_encode(request))
    return keys


def _scope_states(scopes: Sequence[Scope], reply: Sequence[int]) -> tuple[ScopeState, ...]:
    states = []
    at = _FIELDS_BEFORE_SCOPES
    for scope in scopes:
        limit, used, reset_at_ms = scope.limit, reply[at + 1], reply[at + 2]
        remaining = None if limit is None else limit - used if used < limit else 0
        states.append(ScopeState(scope.name, limit, used, remaining, None if reset_at_ms < 0 else reset_at_ms))
        at += _FIELDS_PER_SCOPE
    return tuple(states)


def _decision(scopes: Sequence[Scope], reply: Sequence[int]) -> Decision:
    status = reply[0]
    if status == _STALE:
        return Decision(False, stale_epoch=True)
    if status == _UNKNOWN:
        return Decision(False, unknown_reservation=True)
    states = _scope_states(scopes, reply)
    # A gauge or counter that was not taken: on a soft scope this is the answer "exhausted".
    taken = reply[_FIELDS_BEFORE_SCOPES::_FIELDS_PER_SCOPE]
    soft_exhausted = frozenset(
        scope.name for scope, was_taken in zip(scopes, taken, strict=True) if scope.soft and not was_taken
    )
    if status == _ALLOWED:
        return Decision(True, None, states, soft_exhausted, None if reply[2] < 0 else reply[2])
    index = reply[1] - 1
    state = states[index]
    retry_after_ms = reply[_FIELDS_BEFORE_SCOPES + index * _FIELDS_PER_SCOPE + 3]
    refused = RefusedScope(
        state.name, state.limit, state.remaining, None if retry_after_ms < 0 else retry_after_ms, state.reset_at_ms
    )
    return Decision(False, refused, states, soft_exhausted)


def _scope_set(scopes: Sequence[Scope] | ScopeSet) -> ScopeSet:
    return scopes if isinstance(scopes, ScopeSet) else ScopeSet(scopes)


class Limiter:
    """Reservations in Redis for async callers. `redis_client` needs `execute_command` only, with a timeout of its own.

    Times are epoch milliseconds given by the caller. Every method raises LimiterUnavailable when Redis does not
    answer in time or refuses the command.
    """

    def __init__(self, redis_client: Any, *, sources: RebuildSources | None = None) -> None:
        self._client = redis_client
        self._sources = sources or RebuildSources()
        self._epoch = ""
        self._recovery: asyncio.Task[str] | None = None

    async def reserve(
        self,
        reservation_id: str,
        scopes: Sequence[Scope] | ScopeSet,
        *,
        now_ms: int,
        amounts: Sequence[int] | None = None,
        split: SplitPosition | None = None,
        lease_ms: int | None = None,
    ) -> Decision:
        """Take every hard scope or none, and those soft scopes that are not exhausted; draw the split position.

        `amounts`, one for each scope, take the place of the scopes' own. The reservation can be settled until an hour after
        `lease_ms` (default: the longest concurrency lease, or 15 minutes). Asking again with the same id takes nothing more and
        answers as before.
        Raises ValueError for scopes that share a key or a name, and for a window that has ended.
        """
        together = _scope_set(scopes)
        if lease_ms is None:
            lease_ms = together.lease_ms or DEFAULT_LEASE_MS
        if together.ends_at_ms is not None and together.ends_at_ms <= now_ms:
            raise ValueError(f"{together.scopes!r}: a window has ended")
        arguments = _reserve_arguments(
            _RESERVE, reservation_id, together, now_ms, self._epoch, lease_ms + RECORD_GRACE_MS, 0, split, amounts
        )
        return _decision(together.scopes, await self._run(_RESERVE_SCRIPT, len(arguments) - 1, arguments))

    async def extend(
        self, reservation_id: str, scopes: Sequence[Scope] = (), *, now_ms: int, lease_ms: int | None = None
    ) -> Decision:
        """Add amounts or scopes to a living reservation, all or nothing; with `lease_ms` renew its leases from now.

        A scope's amount is what comes on top. The window may have ended meanwhile: the call belongs to it.
        """
        together = _scope_set(scopes)
        if lease_ms is not None and not 1 <= lease_ms <= DAY_MS:
            raise ValueError("a lease is 1 ms to one day")
        arguments = _reserve_arguments(
            _EXTEND, reservation_id, together, now_ms, self._epoch, (lease_ms or 0) + RECORD_GRACE_MS, lease_ms or 0, None
        )
        return _decision(together.scopes, await self._run(_RESERVE_SCRIPT, len(arguments) - 1, arguments))

    async def settle(self, reservation_id: str, actuals: Mapping[str, int], *, now_ms: int) -> bool:
        """Replace reserved amounts by actual ones (scope name -> amount) and free the concurrency slots.

        Unused parts come back, an excess is added even above the limit; a name left out keeps its reserved amount,
        one that was not taken is ignored. False when there was nothing to settle: a second call changes nothing.
        """
        request: list[Any] = [0, now_ms, reservation_id]
        for name, actual in actuals.items():
            if type(actual) is not int or not 0 <= actual <= LARGEST_INTEGER:
                raise ValueError(f"actual amount of {name!r} is an integer from 0 to 2**53 - 1")
            request += (name, actual)
        settled: int = await self._run(_SETTLE_SCRIPT, 1, [_record_key(reservation_id), _encode(request)])
        return settled == 1

    async def release(self, reservation_id: str, *, now_ms: int) -> bool:
        """Give everything back, as if the call had not been. False when it was settled or released before."""
        packed = _encode([1, now_ms, reservation_id])
        released: int = await self._run(_SETTLE_SCRIPT, 1, [_record_key(reservation_id), packed])
        return released == 1

    async def peek(self, scopes: Sequence[Scope], *, now_ms: int) -> list[ScopeState]:
        """Read used, remaining and reset of scopes without changing anything. Amounts are not looked at."""
        arguments = _reserve_arguments(_PEEK, "", ScopeSet(scopes, to_read=True), now_ms, "", 0, 0, None)
        return list(_scope_states(scopes, await self._run(_RESERVE_SCRIPT, len(arguments) - 1, arguments)))

    async def epoch_ensure(self) -> bool:
        """Adopt the stored epoch if it belongs to this run of the server. False: counters must be rebuilt."""
        run_id, stored = await self._look()
        if not stored.startswith(f"{run_id}:"):
            return False
        self._epoch = stored
        return True

    async def recover(self, *, now_ms: int) -> None:
        """Make reserves possible again after `stale_epoch`: adopt the epoch, or rebuild the counters first.

        Callers of one process share one recovery. Raises LimiterUnavailable when a source fails or takes too long.
        """
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover(now_ms))
        # One caller that gives up must not stop the recovery the others wait for.
        self._epoch = await asyncio.shield(self._recovery)

    async def rebuild(self, *, now_ms: int) -> bool:
        """Raise counters to what the sources say and start a new epoch; False when another process is at it.

        Counters are never lowered, so that running it at any moment is safe.
        """
        return await self._rebuild(now_ms, "always")

    async def _rebuild(self, now_ms: int, condition: str) -> bool:
        token = secrets.token_hex(16)
        if not await self._lock(token, condition):
            return False
        try:
            run_id, _ = await self._look()
            for name, source in self._sources.items():
                try:
                    rows = [row for row in await source(now_ms) if row.expires_at_ms > now_ms]
                except Exception as error:
                    raise LimiterUnavailable(f"rebuild source {name!r} failed") from error
                for first in range(0, len(rows) or 1, _REBUILD_BATCH_ROWS):
                    await self._raise_counters(token, rows[first : first + _REBUILD_BATCH_ROWS], now_ms)
            epoch = f"{run_id}:{secrets.token_hex(8)}"
            commit = [_EPOCH_KEY, _REBUILD_LOCK_KEY, "commit", token, epoch]
            if await self._run(_RECOVER_SCRIPT, 2, commit) != 1:
                raise LimiterUnavailable("the rebuild was overtaken by a restart or by another process")
        except BaseException:
            await asyncio.shield(self._unlock(token))
            raise
        self._epoch = epoch
        return True

    async def _recover(self, now_ms: int) -> str:
        try:
            async with asyncio.timeout(_REBUILD_WAIT_SECONDS):
                while True:
                    if await self.epoch_ensure() or await self._rebuild(now_ms, "lost"):
                        return self._epoch
                    await asyncio.sleep(_REBUILD_POLL_SECONDS)
        except TimeoutError as error:
            raise LimiterUnavailable("counters were not rebuilt in time") from error

    async def _look(self) -> tuple[str, str]:
        run_id, stored = await self._run(_RECOVER_SCRIPT, 2, [_EPOCH_KEY, _REBUILD_LOCK_KEY, "look"])
        return _text(run_id), _text(stored)

    async def _raise_counters(self, token: str, rows: Sequence[CounterRow], now_ms: int) -> None:
        keys = [counter_storage_key(row.key, row.expires_at_ms) for row in rows]
        values: list[int] = []
        for row in rows:
            values += (row.value, row.expires_at_ms - now_ms + COUNTER_GRACE_MS)
        raised = await self._run(
            _RECOVER_SCRIPT, 2 + len(keys), [_EPOCH_KEY, _REBUILD_LOCK_KEY, *keys, "raise", token, *values]
        )
        if raised < 0:
            raise LimiterUnavailable("the rebuild took longer than its lock")

    async def _lock(self, token: str, condition: str) -> bool:
        locked: int = await self._run(_RECOVER_SCRIPT, 2, [_EPOCH_KEY, _REBUILD_LOCK_KEY, "lock", token, condition])
        return locked == 1

    async def _unlock(self, token: str) -> None:
        # Out of reach, the lock ends by itself.
        with contextlib.suppress(LimiterUnavailable):
            await self._run(_RECOVER_SCRIPT, 2, [_EPOCH_KEY, _REBUILD_LOCK_KEY, "unlock", token])

    async def _run(self, script: _Script, key_count: int, arguments: Sequence[Any]) -> Any:
        try:
            try:
                return await self._client.execute_command("EVALSHA", script.sha, key_count, *arguments)
            except NoScriptError:
                return await self._client.execute_command("EVAL", script.text, key_count, *arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise LimiterUnavailable(str(error) or "Redis did not answer in time") from error


class SyncLimiter:
    """Reads for synchronous pages. `redis_client` is a synchronous client with its own timeout."""

    def __init__(self, redis_client: Any) -> None:
        self._client = redis_client

    def peek(self, scopes: Sequence[Scope], *, now_ms: int) -> list[ScopeState]:
        """Read used, remaining and reset of scopes without changing anything. Raises LimiterUnavailable."""
        arguments = _reserve_arguments(_PEEK, "", ScopeSet(scopes, to_read=True), now_ms, "", 0, 0, None)
        try:
            try:
                reply = self._client.execute_command("EVALSHA", _RESERVE_SCRIPT.sha, len(arguments) - 1, *arguments)
            except NoScriptError:
                reply = self._client.execute_command("EVAL", _RESERVE_SCRIPT.text, len(arguments) - 1, *arguments)
        except (RedisError, OSError) as error:
            raise LimiterUnavailable(str(error) or "Redis did not answer in time") from error
        return list(_scope_states(scopes, reply))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
