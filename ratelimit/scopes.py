"""The limits one reservation may touch. All numbers are integers: tokens, requests, nano-USD, milliseconds."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from math import gcd
from typing import Any, ClassVar, NamedTuple

import msgspec

# One hash tag: every limiter key lives on one shard of a cluster, so one script may touch them all.
KEY_PREFIX = "{iaf}:rl:v1:"

# Lua numbers are doubles; integers are exact up to here (9.0 million USD in nano-USD).
LARGEST_INTEGER = 2**53 - 1
DAY_MS = 86_400_000
LARGEST_SPLIT_CYCLE = 10_000

BUCKET, COUNTER, GAUGE = 1, 2, 3

PackedScope = tuple[int, bool, int, int, int, int, str]
PACKED_FIELDS = ("kind", "soft", "amount", "limit", "period, lease or end", "refill", "name")
_AMOUNT_AT = PACKED_FIELDS.index("amount")


def _require_integers(scope: object, *values: int) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value <= LARGEST_INTEGER:
            raise ValueError(f"{scope!r}: amounts, limits and times are integers from 0 to 2**53 - 1")


def counter_storage_key(key: str, window_end_ms: int) -> str:
    """Redis key of a window counter or budget; it carries the window's end, so windows never mix."""
    return f"{KEY_PREFIX}w:{key}:{window_end_ms}"


class TokenBucket(msgspec.Struct, frozen=True, kw_only=True):
    """A rate: `capacity` tokens at most, `refill_amount` of them coming back evenly every `refill_period_ms`."""

    kind: ClassVar[int] = BUCKET
    key: str
    name: str
    capacity: int
    refill_amount: int
    refill_period_ms: int
    amount: int = 1
    soft: bool = False

    def __post_init__(self) -> None:
        _require_integers(self, self.amount, self.capacity * self.refill_period_ms)
        if type(self.refill_amount) is not int or self.refill_amount < 1 or not 1 <= self.refill_period_ms <= DAY_MS:
            raise ValueError(f"{self!r}: refills at least one token per period of at most one day")

    @classmethod
    def per_minute(cls, *, key: str, name: str, limit: int, amount: int = 1, soft: bool = False) -> "TokenBucket":
        """A bucket that holds `limit` tokens and refills all of them in a minute; a limit of 0 refuses everything."""
        return cls(
            key=key,
            name=name,
            capacity=limit,
            refill_amount=max(1, limit),
            refill_period_ms=60_000,
            amount=amount,
            soft=soft,
        )

    @property
    def limit(self) -> int:
        return self.capacity

    @property
    def storage_key(self) -> str:
        return f"{KEY_PREFIX}t:{self.key}"

    def packed(self) -> PackedScope:
        return (BUCKET, self.soft, self.amount, self.capacity, self.refill_period_ms, self.refill_amount, self.name)


class WindowCounter(msgspec.Struct, frozen=True, kw_only=True):
    """A quota: at most `limit` until `window_end_ms` (epoch). Without a limit it counts and never refuses."""

    kind: ClassVar[int] = COUNTER
    key: str
    name: str
    limit: int | None
    window_end_ms: int
    amount: int = 1
    soft: bool = False

    def __post_init__(self) -> None:
        _require_integers(self, self.amount, self.limit or 0, self.window_end_ms)

    @property
    def storage_key(self) -> str:
        return counter_storage_key(self.key, self.window_end_ms)

    def packed(self) -> PackedScope:
        limit = -1 if self.limit is None else self.limit
        return (COUNTER, self.soft, self.amount, limit, self.window_end_ms, 0, self.name)


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Money until `window_end_ms`, in nano-USD. Without a limit it counts and never refuses.

    An amount of 0 always passes: a call that costs nothing needs no budget.
    """

    kind: ClassVar[int] = COUNTER
    key: str
    name: str
    limit_nano: int | None
    amount_nano: int
    window_end_ms: int
    soft: bool = False

    def __post_init__(self) -> None:
        _require_integers(self, self.amount_nano, self.limit_nano or 0, self.window_end_ms)

    @property
    def limit(self) -> int | None:
        return self.limit_nano

    @property
    def amount(self) -> int:
        return self.amount_nano

    @property
    def storage_key(self) -> str:
        return counter_storage_key(self.key, self.window_end_ms)

    def packed(self) -> PackedScope:
        limit = -1 if self.limit_nano is None else self.limit_nano
        return (COUNTER, self.soft, self.amount_nano, limit, self.window_end_ms, 0, self.name)


class Concurrency(msgspec.Struct, frozen=True, kw_only=True):
    """At most `limit` reservations at the same time. A crashed holder's slot is free again after `lease_ms`.

    A call that may outlive its lease (at most one day) renews it with `Limiter.extend(lease_ms=...)`.
    """

    kind: ClassVar[int] = GAUGE
    key: str
    name: str
    limit: int | None
    lease_ms: int
    soft: bool = False

    def __post_init__(self) -> None:
        _require_integers(self, self.limit or 0, self.lease_ms)
        if not 1 <= self.lease_ms <= DAY_MS:
            raise ValueError(f"{self!r}: a lease is 1 ms to one day")

    @property
    def storage_key(self) -> str:
        return f"{KEY_PREFIX}c:{self.key}"

    def packed(self) -> PackedScope:
        limit = -1 if self.limit is None else self.limit
        return (GAUGE, self.soft, 1, limit, self.lease_ms, 0, self.name)


Scope = TokenBucket | WindowCounter | Budget | Concurrency


class ScopeSet:
    """Scopes that are reserved together again and again: what stays the same from call to call is worked out once.

    `packed` are all their fields in a row, `ends_at_ms` the end of the window that ends first, `lease_ms` the longest lease.
    Raises ValueError for scopes that share a key or a name, except `to_read`: two on one key would be checked apart and taken
    together.
    """

    __slots__ = ("ends_at_ms", "lease_ms", "packed", "scopes", "storage_keys")

    def __init__(self, scopes: Iterable[Scope], *, to_read: bool = False) -> None:
        self.scopes = tuple(scopes)
        self.storage_keys = tuple(scope.storage_key for scope in self.scopes)
        distinct = len(set(self.storage_keys)) == len({scope.name for scope in self.scopes}) == len(self.scopes)
        if not distinct and not to_read:
            raise ValueError("scopes of one reservation need distinct keys and distinct names")
        self.packed: tuple[Any, ...] = tuple(chain.from_iterable(scope.packed() for scope in self.scopes))
        ends = [scope.window_end_ms for scope in self.scopes if isinstance(scope, WindowCounter | Budget)]
        self.ends_at_ms = min(ends, default=None)
        self.lease_ms = max((scope.lease_ms for scope in self.scopes if isinstance(scope, Concurrency)), default=None)

    def packed_with(self, amounts: Sequence[int]) -> list[Any]:
        """`packed` with other amounts, one for each scope. Raises ValueError for what is no amount."""
        _require_integers(self.scopes, *amounts)
        packed = list(self.packed)
        packed[_AMOUNT_AT :: len(PACKED_FIELDS)] = amounts
        return packed


class CounterRow(NamedTuple):
    """What a rebuild source knows of one window or budget: at least `value` is used until `expires_at_ms`."""

    key: str
    value: int
    expires_at_ms: int


class SplitPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A draw from a counter, from which `split_pick` names the provider. Drawn only when every hard scope passed.

    `start` is a random number of the caller's, used when the counter is missing, so that short-lived counters do not
    all begin with the same provider.
    """

    key: str
    weights: tuple[tuple[str, int], ...]
    start: int

    def __post_init__(self) -> None:
        # Half the exact range: the counter has the other half to grow into.
        if type(self.start) is not int or not 0 <= self.start <= LARGEST_INTEGER // 2:
            raise ValueError(f"{self!r}: the start is an integer from 0 to 2**52 - 1")

    @property
    def storage_key(self) -> str:
        return f"{KEY_PREFIX}s:{self.key}"


def split_pick(position: int, weights: tuple[tuple[str, int], ...]) -> str:
    """Return the provider at `position` of the endless sequence that serves the weights evenly.

    Every stretch as long as the reduced sum of the weights is exact, any other is less than two picks away from its
    share. Raises ValueError without a positive weight or when the reduced weights add up to more than 10,000.
    """
    cycle = _split_cycle(weights)
    return cycle[position % len(cycle)]


@lru_cache(maxsize=1024)
def _split_cycle(weights: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """Earliest deadline first: the j-th pick of weight w out of W falls in [floor(j*W/w), ceil((j+1)*W/w)).

    Such a schedule always exists, and keeps each provider less than one pick from its share in every prefix.
    """
    if any(type(weight) is not int or weight < 0 for _, weight in weights):
        raise ValueError("split weights are integers from 0")
    positive = [(name, weight) for name, weight in weights if weight]
    if not positive:
        raise ValueError("a split needs at least one positive weight")
    divisor = gcd(*(weight for _, weight in positive))
    shares = [(name, weight // divisor) for name, weight in positive]
    total = sum(share for _, share in shares)
    if total > LARGEST_SPLIT_CYCLE:
        raise ValueError(f"split weights add up to {total} after reduction, more than {LARGEST_SPLIT_CYCLE}")
    picked = [0] * len(shares)
    cycle = []
    for slot in range(total):
        _, winner = min(
            (-(-(picked[index] + 1) * total // share), index)
            for index, (_, share) in enumerate(shares)
            if picked[index] * total // share <= slot
        )
        picked[winner] += 1
        cycle.append(shares[winner][0])
    return tuple(cycle)
