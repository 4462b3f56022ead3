"""Places under the caps of providers and profiles, counted over all processes, and the queue for them by plan priority.

A cap counts calls within a minute or a day (a sliding window of sixty parts: never more than the cap within it) or calls under
way at once. Redis decides; a call without caps costs nothing here. Without Redis nothing is counted: the provider's own
refusals then make its credentials rest.
"""

import asyncio
import contextlib
import logging
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from redis.exceptions import RedisError

from iafactory.common import clock

logger = logging.getLogger(__name__)

_KEY_PREFIX = "{iaf}:cap:v1:"
_WINDOW, _GAUGE = 1, 2
MINUTE_MS, DAY_MS = 60_000, 86_400_000
# Calls waiting in one process; the next one is refused at once.
MOST_WAITING = 500
# Those first in line ask often, the others only so that they are not forgotten.
_FIRST_IN_LINE = 8
_ASK_SECONDS, _KEEP_PLACE_SECONDS = 0.05, 1.0
_BEAT_MS = 3_000
_FULL_BELIEVED_MS = 250
# A place for a call under way counts this long without being renewed: what a dead process held comes free soon.
LEASE_SECONDS = 60
_RENEW_SECONDS = 15
# Higher priorities go first; among equals who came first. Milliseconds wrap after three years.
_ARRIVALS_MS = 10**11
_HIGHEST_PRIORITY = 32_767


@dataclass(frozen=True, slots=True)
class Cap:
    """One cap: so many calls in a window of `window_ms`, or at once (`window_ms` 0)."""

    name: str
    key: str
    limit: int
    window_ms: int = 0


class Capped(Protocol):
    """What of a route says how much it takes."""

    @property
    def slug(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def provider_requests_per_minute(self) -> int | None: ...
    @property
    def provider_concurrent_calls(self) -> int | None: ...
    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def requests_per_day(self) -> int | None: ...
    @property
    def concurrent_calls(self) -> int | None: ...


def caps_of(route: Capped) -> tuple[Cap, ...]:
    """The caps a call to `route` touches; none for most."""
    return _caps(
        route.slug,
        route.provider,
        route.provider_requests_per_minute,
        route.provider_concurrent_calls,
        route.requests_per_minute,
        route.requests_per_day,
        route.concurrent_calls,
    )


@lru_cache(maxsize=4096)
def _caps(
    slug: str,
    provider: str,
    provider_rpm: int | None,
    provider_at_once: int | None,
    rpm: int | None,
    rpd: int | None,
    at_once: int | None,
) -> tuple[Cap, ...]:
    caps = (
        ("provider_requests_per_minute", f"p:{provider}:m", provider_rpm, MINUTE_MS),
        ("provider_concurrent_calls", f"p:{provider}:g", provider_at_once, 0),
        ("requests_per_minute", f"r:{slug}:m", rpm, MINUTE_MS),
        ("requests_per_day", f"r:{slug}:d", rpd, DAY_MS),
        ("concurrent_calls", f"r:{slug}:g", at_once, 0),
    )
    return tuple(Cap(name, key, limit, window_ms) for name, key, limit, window_ms in caps if limit is not None)


@dataclass(frozen=True, slots=True)
class Place:
    """A place taken on a route, to be given back."""

    route: str
    member: str
    caps: tuple[Cap, ...]
    taken_ms: int

    @property
    def gauges(self) -> tuple[Cap, ...]:
        """Those of its caps that count calls under way."""
        return tuple(cap for cap in self.caps if not cap.window_ms)


@dataclass(frozen=True, slots=True)
class Full:
    """No place on a route: which cap is full, and when a place may come free (None: when another call ends)."""

    route: str
    cap: str
    wait_ms: int | None


class CapacityTimeout(Exception):
    """Nothing came free in time. `wait_seconds` is when trying again may help."""

    def __init__(self, wait_seconds: float) -> None:
        super().__init__("no capacity in time")
        self.wait_seconds = wait_seconds


class _Waiter:
    """A call in the queue of this process."""

    __slots__ = ("awake", "gone", "rank")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.awake = asyncio.Event()
        self.gone = False

    def __lt__(self, other: "_Waiter") -> bool:
        return self.rank < other.rank


class Capacity:
    """The places of all routes. Lives as long as its process."""

    def __init__(self, redis_client: Any, *, on_share: Callable[[str, float], None] | None = None) -> None:
        """`on_share` hears how much of a route's tightest cap is left (0 to 1) whenever a place on it was asked for."""
        script = (Path(__file__).parent / "capacity.lua").read_text(encoding="utf-8")
        self._client = redis_client
        self._script = redis_client.register_script(script)
        self._on_share = on_share
        # Places for calls under way, to be renewed.
        self._held: dict[str, Place] = {}
        self._renewing: asyncio.Task[None] | None = None
        # Windows found full, and until when nobody need ask again.
        self._full: dict[str, tuple[int, Full]] = {}
        self._line: list[_Waiter] = []
        self._away = False

    def start(self) -> None:
        self._renewing = asyncio.create_task(self._keep_renewing(), name="capacity")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing

    @property
    def waiting(self) -> int:
        """Calls of this process that wait."""
        return len(self._line)

    async def take(self, route: Capped, member: str, *, priority: int) -> Place | Full | None:
        """A place on `route` for the call `member`, at once or not at all; None when it has no caps to count under."""
        caps = caps_of(route)
        if not caps:
            return None
        known = self._full.get(route.slug)
        if known is not None and clock.now_ms() < known[0]:
            return known[1]
        answer = await self._take(route.slug, caps, member, rank=_rank(priority), beat_ms=0)
        if isinstance(answer, Full) and answer.wait_ms is not None:
            self._full[route.slug] = (clock.now_ms() + min(answer.wait_ms, _FULL_BELIEVED_MS), answer)
        return answer

    async def wait(
        self,
        routes: Sequence[Capped],
        member: str,
        *,
        priority: int,
        wait_seconds: float,
        when_gone: Callable[[Callable[[], None] | None], None],
    ) -> Place | None:
        """The first place that comes free on one of `routes`, those of higher priority being served first.

        `when_gone` takes what is to be called when the client hangs up (None: nothing any more); the call then leaves the
        queue and gets None. Raises `CapacityTimeout` after `wait_seconds`, or at once when too many wait already.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        if len(self._line) >= MOST_WAITING or wait_seconds <= 0:
            raise CapacityTimeout(1)
        waiter = _Waiter(_rank(priority))
        capped = [(route.slug, caps_of(route)) for route in routes]

        def leave() -> None:
            waiter.gone = True
            waiter.awake.set()

        insort(self._line, waiter)
        when_gone(leave)
        shortest_ms: int | None = None
        try:
            while not waiter.gone:
                for slug, caps in capped:
                    answer = await self._take(slug, caps, member, rank=waiter.rank, beat_ms=_BEAT_MS)
                    if not isinstance(answer, Full):
                        capped = [(other, caps) for other, caps in capped if other != slug]
                        return answer
                    if answer.wait_ms is not None and (shortest_ms is None or answer.wait_ms < shortest_ms):
                        shortest_ms = answer.wait_ms
                left = deadline - loop.time()
                if left <= 0:
                    raise CapacityTimeout(1 if shortest_ms is None else max(1, shortest_ms / 1000))
                first = waiter.rank <= self._line[min(_FIRST_IN_LINE, len(self._line)) - 1].rank
                waiter.awake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(waiter.awake.wait(), min(left, _ASK_SECONDS if first else _KEEP_PLACE_SECONDS))
            return None
        finally:
            when_gone(None)
            self._line.remove(waiter)
            for _, caps in capped:
                await self._tell("leave", caps, member, clock.now_ms())

    async def give(self, place: Place) -> None:
        """The call on it has ended. Windows go on counting it; only places for calls under way come free."""
        self._held.pop(place.member, None)
        gauges = place.gauges
        if gauges:
            await self._tell("give", gauges, place.member, place.taken_ms)
            self._wake_first()

    async def undo(self, place: Place) -> None:
        """No call was made on it: it does not count at all."""
        self._held.pop(place.member, None)
        await self._tell("undo", place.caps, place.member, place.taken_ms)
        self._wake_first()

    async def renew(self) -> None:
        """Tell that the calls on the places held here are still under way. Raises what redis-py raises."""
        until_ms = clock.now_ms() + LEASE_SECONDS * 1000
        async with self._client.pipeline(transaction=False) as pipeline:
            for place in self._held.values():
                for cap in place.gauges:
                    pipeline.zadd(_KEY_PREFIX + cap.key, {place.member: until_ms}, xx=True)
            if len(pipeline):
                await pipeline.execute()

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                await self.renew()
            except (RedisError, OSError) as error:
                self._lost(error)

    def _wake_first(self) -> None:
        for waiter in self._line[:_FIRST_IN_LINE]:
            waiter.awake.set()

    async def _take(self, slug: str, caps: tuple[Cap, ...], member: str, *, rank: int, beat_ms: int) -> Place | Full:
        now_ms = clock.now_ms()
        try:
            reply = await self._run("take", caps, member, now_ms, rank, beat_ms, LEASE_SECONDS * 1000)
        except (RedisError, OSError) as error:
            self._lost(error)
            return Place(slug, member, (), now_ms)
        self._away = False
        if self._on_share is not None:
            self._on_share(slug, max(0, reply[1]) / 1000 if reply[0] else 0.0)
        if reply[0]:
            place = Place(slug, member, caps, now_ms)
            if place.gauges:
                self._held[member] = place
            return place
        return Full(slug, caps[reply[1] - 1].name, None if reply[2] < 0 else reply[2])

    async def _tell(self, verb: str, caps: tuple[Cap, ...], member: str, at_ms: int) -> None:
        """Give up what is held; a place that cannot be given back ends with its lease."""
        if caps:
            try:
                await self._run(verb, caps, member, at_ms, 0, 0, 0)
            except (RedisError, OSError) as error:
                self._lost(error)

    async def _run(self, verb: str, caps: tuple[Cap, ...], member: str, now_ms: int, *numbers: int) -> Any:
        keys, arguments = [], [verb, now_ms, member, *numbers]
        for cap in caps:
            key = _KEY_PREFIX + cap.key
            keys += [key, key + ":q", key + ":b"]
            arguments += [_WINDOW if cap.window_ms else _GAUGE, cap.limit, cap.window_ms]
        return await self._script(keys=keys, args=arguments)

    def _lost(self, error: Exception) -> None:
        if not self._away:
            logger.warning("capacity is not counted at the moment: %s", error)
        self._away = True


def _rank(priority: int) -> int:
    """Place in a queue: an integer that Redis' doubles keep exactly."""
    return (_HIGHEST_PRIORITY - min(max(priority, 0), _HIGHEST_PRIORITY)) * _ARRIVALS_MS + clock.now_ms() % _ARRIVALS_MS
