"""A process's own copy of what is known of routes: written by its calls, kept in step with all others, read without I/O.

What this process sees counts here at once and reaches the others through Redis: failures within milliseconds, all else with
the next exchange. While Redis is away the copy goes on by itself.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from redis.exceptions import RedisError

from iafactory.common import clock
from routing.providers.base import FailureClass, ProviderError
from routing.providers.headroom import headroom_read

from .state import DEFAULT_REST_MS, LONGEST_REST_MS, Kind, RouteHealth, Seen, Standing
from .store import HealthStore, Moved, decode_record, encode_record, rebased

logger = logging.getLogger(__name__)

EXCHANGE_SECONDS = 0.5
# Between two exchanges that failures ask for.
_PAUSE_SECONDS = 0.02
# Observations of one route kept for the others while Redis is away.
_MOST_PENDING = 1_000
# A route whose oldest waiting call waits this long, and this many times its usual latency, while nobody got an answer, is put
# behind the others until it answers somebody.
STALLED_SECONDS = 1.5
STALLED_TIMES_USUAL = 4
STALLED_CALLS = 3
# A plan's short deadline is not a slow provider: only an answer later than this, and than so many times the usual, is.
SLOW_MS = 10_000
SLOW_TIMES_USUAL = 4
COUNT_BELIEVED_MS = 5_000
# A smaller change of what a provider has left is not worth telling.
HEADROOM_STEP = 0.05
# What failed for want of a good credential is asked again with it after so long, should nobody have taken it away.
BAD_CREDENTIAL_MS = 60_000

_NEW = RouteHealth()
_NOT_THE_ROUTE = frozenset({FailureClass.BAD_REQUEST, FailureClass.REFUSED})
_THE_CREDENTIAL = frozenset({FailureClass.AUTH, FailureClass.NO_FUNDS})
# Credentials have records of their own: what is wrong with one is wrong on every route.
_CREDENTIAL_PREFIX = "credential:"


class Attempt:
    """One call to one route, until it is known how it went. `answered`, `failed` or `left` ends it; later ones add nothing."""

    __slots__ = ("_answered", "_board", "_over", "credential", "of_credential", "probe", "route", "started", "typical_ms")

    def __init__(self, board: "HealthBoard", route: str, credential: str, typical_ms: float, probe: bool) -> None:
        self._board = board
        self.route = route
        self.credential = credential
        self.typical_ms = typical_ms
        self.probe = probe
        self.started = time.monotonic()
        # Whether it failed for its credential's sake: another one of the same provider may do better.
        self.of_credential = False
        self._answered = self._over = False

    def answered(self) -> None:
        """The first byte of the answer is here."""
        if self._answered or self._over:
            return
        self._answered = True
        board = self._board
        board.waiting[self.route].pop(self, None)
        board.stalled.discard(self.route)
        latency_ms = (time.monotonic() - self.started) * 1000
        board.see(self.route, Seen(Kind.ANSWERED, clock.now_ms(), latency_ms, self.probe), urgent=self.probe)

    def failed(self, error: ProviderError) -> None:
        """It ended with an error of the provider."""
        if not self._end():
            return
        now_ms = clock.now_ms()
        failure, board = error.failure, self._board
        probe = self.probe and not self._answered
        if failure in _NOT_THE_ROUTE:
            if probe:
                board.see(self.route, Seen(Kind.UNCLEAR, now_ms, probe=True), urgent=True)
        elif failure is FailureClass.RATE_LIMITED:
            self.of_credential = True
            hint = error.retry_after_seconds
            until_ms = now_ms + (DEFAULT_REST_MS if hint is None else round(hint * 1000))
            limited = Seen(Kind.LIMITED, now_ms, probe=probe, until_ms=until_ms, credential=self.credential)
            board.see(self.route, limited, urgent=True)
        elif failure in _THE_CREDENTIAL:
            self.of_credential = True
            if probe:
                board.see(self.route, Seen(Kind.UNCLEAR, now_ms, probe=True), urgent=True)
            board.credential_failed(self.credential, failure, now_ms)
        else:
            kind = Kind.BROKE if self._answered else Kind.FAILED
            board.see(self.route, Seen(kind, now_ms, probe=probe, detail=failure.value), urgent=True)

    def timed_out(self) -> None:
        """The call's own deadline passed: the route's failure only if it should have begun to answer by then."""
        now_ms = clock.now_ms()
        usual_ms = self._board.of(self.route).latency_ms(self.typical_ms, now_ms)
        waited_ms = (time.monotonic() - self.started) * 1000
        if waited_ms < max(SLOW_MS, SLOW_TIMES_USUAL * usual_ms):
            self.left()
        elif self._end() and not self._answered:
            self._board.see(self.route, Seen(Kind.FAILED, now_ms, probe=self.probe, detail="timeout"), urgent=True)

    def left(self) -> None:
        """It ended without telling anything new about the route."""
        if self._end() and self.probe and not self._answered:
            self._board.see(self.route, Seen(Kind.UNCLEAR, clock.now_ms(), probe=True), urgent=True)

    def _end(self) -> bool:
        if self._over:
            return False
        self._over = True
        self._board.waiting[self.route].pop(self, None)
        return True


class HealthBoard:
    """See the module. `on_moved` hears of every breaker that this process opened or closed, once over all processes;
    `on_bad_credential` of credentials that a provider refused (id, failure class)."""

    def __init__(
        self,
        redis_client: Any,
        *,
        on_moved: Callable[[Moved], Awaitable[None]] | None = None,
        on_bad_credential: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        self.store = HealthStore(redis_client)
        self.states: dict[str, RouteHealth] = {}
        # Credentials that a provider refused, and until when they are left alone.
        self.bad_credentials: dict[str, int] = {}
        # Calls that have not begun to be answered, oldest first.
        self.waiting: dict[str, dict[Attempt, None]] = {}
        self.stalled: set[str] = set()
        # Free share of our own caps, as last counted, and until when that is believed.
        self._free_by_count: dict[str, tuple[float, int]] = {}
        self._on_moved = on_moved
        self._on_bad_credential = on_bad_credential
        self._raw: dict[str, bytes] = {}
        self._pending: dict[str, list[Seen]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told: set[asyncio.Task[None]] = set()
        self._away = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_in_step(), name="health")

    async def stop(self) -> None:
        """Tell the others what they do not know yet."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(RedisError, OSError):
            await self.exchange()

    # -- reading, without I/O ----------------------------------------------------------------------------------------

    def of(self, route: str) -> RouteHealth:
        """What is known of a route."""
        return self.states.get(route, _NEW)

    def usable(self, credential: str, route: str, now_ms: int) -> bool:
        """Whether a credential may be used on a route now: not refused lately, not resting there."""
        if self.bad_credentials.get(credential, 0) > now_ms:
            return False
        state = self.states.get(route)
        return state is None or not state.resting or not state.rests_until(credential, now_ms)

    def usable_at_ms(self, credential: str, route: str) -> int:
        """The instant from which a credential may be used on a route; long ago for one that may be now."""
        return max(self.bad_credentials.get(credential, 0), self.of(route).resting.get(credential, 0))

    def free_percent(self, route: str, now_ms: int) -> int:
        """How much of its tightest cap a route has left, 0 to 100: by our own count or by the provider's word."""
        state = self.states.get(route)
        share = 1.0 if state is None else state.free_share(now_ms)
        counted = self._free_by_count.get(route)
        if counted is not None and now_ms < counted[1]:
            share = min(share, counted[0])
        return round(share * 100)

    def is_doubtful(self, route: str, now_ms: int) -> bool:
        """Whether a route should be asked after all others: its calls only wait, or it has nothing left of its limits."""
        if route in self.stalled:
            return True
        state = self.states.get(route)
        return state is not None and not state.share and now_ms < state.share_until_ms

    # -- seeing ------------------------------------------------------------------------------------------------------

    def note_free_share(self, route: str, share: float) -> None:
        """How much of our own caps on a route was free when a place was asked for; believed for a few seconds."""
        self._free_by_count[route] = (share, clock.now_ms() + COUNT_BELIEVED_MS)

    def note_headers(self, route: str, headers: Mapping[str, str]) -> None:
        """What an answer's headers say of the provider's limits; told to the others when it changed."""
        headroom = headroom_read(headers)
        if headroom is None:
            return
        now_ms = clock.now_ms()
        state = self.of(route)
        if state.share_until_ms > now_ms and abs(state.share - headroom.share) < HEADROOM_STEP and headroom.share:
            return
        until_ms = now_ms + round(min(headroom.seconds, LONGEST_REST_MS / 1000) * 1000)
        self.see(route, Seen(Kind.HEADROOM, now_ms, share=headroom.share, until_ms=until_ms))

    def begin(self, route: str, credential: str, *, typical_ms: float = 1000, probe: bool = False) -> Attempt:
        """A call to `route` begins; `typical_ms` is its latency until measured."""
        attempt = Attempt(self, route, credential, typical_ms, probe)
        waiting = self.waiting.get(route)
        if waiting is None:
            waiting = self.waiting[route] = {}
        waiting[attempt] = None
        return attempt

    def see(self, route: str, seen: Seen, *, urgent: bool = False) -> None:
        """Take an observation into account here, and tell the others: at once if `urgent`."""
        state = self.states.get(route)
        if state is None:
            state = self.states[route] = RouteHealth()
        was_open = state.opened
        state.apply(seen)
        pending = self._pending.setdefault(route, [])
        pending.append(seen)
        if len(pending) > _MOST_PENDING:
            del pending[0]
        if urgent or was_open != state.opened:
            self._wake.set()

    def credential_failed(self, credential: str, failure: str, now_ms: int) -> None:
        """A provider refused a credential: nobody uses it for a while, and whoever can take it away is told."""
        until_ms = now_ms + BAD_CREDENTIAL_MS
        known = self.bad_credentials.get(credential, 0) > now_ms
        self.bad_credentials[credential] = until_ms
        self.see(_CREDENTIAL_PREFIX + credential, Seen(Kind.LIMITED, now_ms, until_ms=until_ms), urgent=True)
        if not known and self._on_bad_credential is not None:
            self._tell(self._on_bad_credential(credential, failure))

    async def admit(self, route: str) -> tuple[bool, bool]:
        """Whether a call may go to a route whose breaker is not known to be closed, and whether as a probe.

        Probes are counted over all processes; without Redis by our own count.
        """
        now_ms = clock.now_ms()
        try:
            for _ in range(3):
                old = await self.store.fetch_one(route)
                state = decode_record(old)
                if not state.opened:
                    self._adopt_one(route, old)
                    return True, False
                if not state.admit_probe(now_ms):
                    return False, False
                new = encode_record(state)
                if (await self.store.swap([(route, old, new)]))[0]:
                    self._adopt_one(route, new)
                    return True, True
        except (RedisError, OSError):
            admitted = self.states.setdefault(route, RouteHealth()).admit_probe(now_ms)
            return admitted, admitted
        return False, False

    # -- in step with the others -------------------------------------------------------------------------------------

    async def exchange(self) -> None:
        """Tell what was seen here, take over what all have seen. Raises what redis-py raises; nothing is lost then."""
        pending, self._pending = self._pending, {}
        try:
            raw = await self.store.fetch()
            if pending:
                changes, states = rebased(raw, pending)
                swapped = await self.store.swap(changes)
                for (route, _, new), (was_open, state), done in zip(changes, states, swapped, strict=True):
                    if done:
                        raw[route] = new
                        del pending[route]
                        if was_open != state.opened:
                            self._moved(Moved(route, state))
        finally:
            # What lost a race, or did not get through, goes first the next time.
            for route, items in pending.items():
                self._pending[route] = [*items, *self._pending.get(route, ())][-_MOST_PENDING:]
                self._wake.set()
        self._adopt(raw)

    def _adopt(self, raw: Mapping[str, bytes]) -> None:
        for route, record in raw.items():
            if record != self._raw.get(route):
                self._adopt_one(route, record)
        for route in self._raw.keys() - raw.keys():
            del self._raw[route]
            if route not in self._pending:
                self.states.pop(route, None)
                self.bad_credentials.pop(route.removeprefix(_CREDENTIAL_PREFIX), None)

    def _adopt_one(self, route: str, record: bytes) -> None:
        """Take over a shared record; what was seen here since is put on top of it."""
        state = decode_record(record)
        for seen in self._pending.get(route, ()):
            state.apply(seen)
        self._raw[route] = record
        self.states[route] = state
        if route.startswith(_CREDENTIAL_PREFIX):
            self.bad_credentials[route.removeprefix(_CREDENTIAL_PREFIX)] = state.resting.get("", 0)

    async def _keep_in_step(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), EXCHANGE_SECONDS)
            self._wake.clear()
            try:
                await self.exchange()
                self._away = False
            except (RedisError, OSError) as error:
                if not self._away:
                    logger.warning("health is not shared at the moment: %s", error)
                self._away = True
                await asyncio.sleep(EXCHANGE_SECONDS)
            except Exception:
                logger.exception("health is not shared at the moment")
                await asyncio.sleep(EXCHANGE_SECONDS)
            self._find_stalled(time.monotonic())
            await asyncio.sleep(_PAUSE_SECONDS)

    def _find_stalled(self, now: float) -> None:
        """Routes whose calls only wait: nobody has failed yet, but nobody is answered either."""
        now_ms = clock.now_ms()
        for route, waiting in self.waiting.items():
            self.stalled.discard(route)
            if len(waiting) < STALLED_CALLS:
                continue
            oldest = next(iter(waiting))
            waited = now - oldest.started
            state = self.of(route)
            usual = state.latency_ms(oldest.typical_ms, now_ms) / 1000
            silent = now_ms - state.answered_at_ms > waited * 1000
            if silent and waited > max(STALLED_SECONDS, STALLED_TIMES_USUAL * usual):
                self.stalled.add(route)

    # -- telling -----------------------------------------------------------------------------------------------------

    def _moved(self, moved: Moved) -> None:
        if moved.state.opened:
            logger.warning("breaker of %s opened: %s", moved.route, moved.state.reason)
        else:
            logger.warning("breaker of %s closed", moved.route)
        if self._on_moved is not None:
            self._tell(self._on_moved(moved))

    def _tell(self, telling: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await telling
            except Exception:
                logger.exception("what happened to a route could not be written down")

        task = asyncio.create_task(run())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    def standing(self, route: str, now_ms: int) -> Standing:
        """Whether a route's breaker lets calls through."""
        state = self.states.get(route)
        return Standing.CLOSED if state is None else state.standing(now_ms)
