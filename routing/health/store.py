"""Where processes share what they know of routes: one hash in Redis, each route's record replaced only if nobody else did.

The rules stay in `state`: whoever saw something reads the record, applies what was seen and puts it back (compare and swap).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from .state import RouteHealth, Seen

HEALTH_KEY = "{iaf}:health:v1"
_MOST_TRIES = 20

# ARGV: (route, the record as it was read, the record to put in its place) for each. Returns 1 or 0 for each.
_SWAP = """
local swapped = {}
for at = 1, #ARGV, 3 do
  local present = redis.call('HGET', KEYS[1], ARGV[at]) or ''
  if present == ARGV[at + 1] then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
    swapped[#swapped + 1] = 1
  else
    swapped[#swapped + 1] = 0
  end
end
return swapped
"""

encode_record = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(RouteHealth)


def decode_record(raw: bytes) -> RouteHealth:
    """A record as it was kept; one that another version wrote, and this one cannot read, begins anew."""
    if not raw:
        return RouteHealth()
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        return RouteHealth()


class Moved(NamedTuple):
    """A breaker that opened or closed, told once: by whoever's swap did it."""

    route: str
    state: RouteHealth


class HealthStore:
    """The shared records. Methods raise what redis-py raises; nothing is retried but a lost race."""

    def __init__(self, redis_client: Any) -> None:
        self._client = redis_client
        self._swap = redis_client.register_script(_SWAP)

    async def fetch(self) -> dict[str, bytes]:
        """All records, encoded."""
        raw: Mapping[bytes, bytes] = await self._client.hgetall(HEALTH_KEY)
        return {route.decode(): record for route, record in raw.items()}

    async def fetch_one(self, route: str) -> bytes:
        """One record, encoded; empty when there is none."""
        record: bytes | None = await self._client.hget(HEALTH_KEY, route)
        return record or b""

    async def swap(self, changes: Sequence[tuple[str, bytes, bytes]]) -> list[bool]:
        """Replace each (route, old, new) whose record still is `old`."""
        arguments = [part for change in changes for part in change]
        return [bool(done) for done in await self._swap(keys=[HEALTH_KEY], args=arguments)]

    async def forget(self, route: str) -> None:
        """Drop a record: everything about the route is learned anew."""
        await self._client.hdel(HEALTH_KEY, route)

    async def observe(self, seen: Mapping[str, Sequence[Seen]]) -> list[Moved]:
        """Apply observations of routes to the shared records, for those who keep no copy. Returns what opened or closed."""
        left = {route: list(items) for route, items in seen.items() if items}
        moved: list[Moved] = []
        for _ in range(_MOST_TRIES):
            if not left:
                return moved
            raw = await self.fetch()
            changes, states = rebased(raw, left)
            for (route, _, _), (was_open, state), done in zip(changes, states, await self.swap(changes), strict=True):
                if done:
                    del left[route]
                    if was_open != state.opened:
                        moved.append(Moved(route, state))
        return moved


def rebased(
    raw: Mapping[str, bytes], seen: Mapping[str, Sequence[Seen]]
) -> tuple[list[tuple[str, bytes, bytes]], list[tuple[bool, RouteHealth]]]:
    """The swaps that put `seen` on top of the records as read, and of each route: whether it was open, its state now."""
    changes, states = [], []
    for route, items in seen.items():
        old = raw.get(route, b"")
        state = decode_record(old)
        was_open = state.opened
        for item in items:
            state.apply(item)
        changes.append((route, old, encode_record(state)))
        states.append((was_open, state))
    return changes, states
