"""The limiter beside a plain model of itself, driven by Hypothesis."""

import asyncio
import os
import uuid
from dataclasses import dataclass, field
from random import Random

import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ratelimit.engine import Limiter
from ratelimit.recovery import RebuildSources
from ratelimit.scopes import Budget, Concurrency, Scope, TokenBucket, WindowCounter
from tests.ratelimit.moments import NOW_MS

WINDOW_MS = 10_000
LEASE_MS = 4_000


class LimiterMachine(RuleBasedStateMachine):
    """Counters, budgets and gauges, hard and soft, with moving time; every step compares all figures."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
        self.limiter = Limiter(self.client, sources=RebuildSources())
        self.prefix = uuid.uuid4().hex
        self.now = NOW_MS
        self.runner.run(self.limiter.recover(now_ms=NOW_MS))
        self.issued = 0
        self.used: dict[tuple[str, int], int] = {}
        self.leases: dict[str, int] = {}
        self.open: dict[str, list[tuple[str, int, int]]] = {}
        self.closed: list[str] = []

    def teardown(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()

    def window_end(self) -> int:
        return (self.now // WINDOW_MS + 1) * WINDOW_MS

    def scopes(self, day: int, cap: int, provider: int, *, with_slot: bool, end: int) -> list[Scope]:
        chosen: list[Scope] = [
            WindowCounter(key=f"{self.prefix}:day", name="day", limit=5, amount=day, window_end_ms=end),
            Budget(key=f"{self.prefix}:cap", name="cap", limit_nano=1_000, amount_nano=cap, window_end_ms=end),
            Budget(key=f"{self.prefix}:all", name="all", limit_nano=None, amount_nano=cap, window_end_ms=end),
            Budget(
                key=f"{self.prefix}:provider",
                name="provider",
                limit_nano=600,
                amount_nano=provider,
                window_end_ms=end,
                soft=True,
            ),
        ]
        if with_slot:
            chosen.append(Concurrency(key=f"{self.prefix}:slots", name="slots", limit=3, lease_ms=LEASE_MS))
        return chosen

    def alive(self) -> set[str]:
        return {name for name, lease_end in self.leases.items() if lease_end > self.now}

    def exhausted(self, scope: Scope, reservation: str) -> bool:
        if isinstance(scope, Concurrency):
            return len(self.alive() - {reservation}) >= scope.limit
        used = self.used.get((scope.name, scope.window_end_ms), 0)
        return scope.limit is not None and scope.amount > 0 and used + scope.amount > scope.limit

    def take(self, reservation: str, scopes: list[Scope]) -> tuple[bool, set[str]]:
        exhausted = {scope.name for scope in scopes if self.exhausted(scope, reservation)}
        soft = {scope.name for scope in scopes if scope.soft}
        if exhausted - soft:
            return False, exhausted & soft
        entries = self.open.setdefault(reservation, [])
        for scope in scopes:
            if scope.name in exhausted:
                continue
            if isinstance(scope, Concurrency):
                self.leases[reservation] = self.now + scope.lease_ms
            else:
                place = (scope.name, scope.window_end_ms)
                self.used[place] = self.used.get(place, 0) + scope.amount
                entries.append((*place, scope.amount))
        return True, exhausted

    @rule(day=st.integers(0, 3), cap=st.integers(0, 500), provider=st.integers(0, 300), with_slot=st.booleans())
    def reserve(self, day: int, cap: int, provider: int, with_slot: bool) -> None:
        self.issued += 1
        reservation = f"{self.prefix}{self.issued}"
        scopes = self.scopes(day, cap, provider, with_slot=with_slot, end=self.window_end())

        decision = self.runner.run(self.limiter.reserve(reservation, scopes, now_ms=self.now))

        assert (decision.allowed, decision.soft_exhausted) == self.take(reservation, scopes)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cap=st.integers(0, 500), provider=st.integers(0, 300), with_slot=st.booleans())
    def extend(self, data: st.DataObject, cap: int, provider: int, with_slot: bool) -> None:
        reservation = data.draw(st.sampled_from(sorted(self.open)))
        scopes = self.scopes(0, cap, provider, with_slot=with_slot, end=self.window_end())

        decision = self.runner.run(self.limiter.extend(reservation, scopes, now_ms=self.now))

        assert (decision.allowed, decision.soft_exhausted) == self.take(reservation, scopes)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actuals=st.dictionaries(st.sampled_from(["day", "cap", "all", "provider"]), st.integers(0, 900)))
    def settle(self, data: st.DataObject, actuals: dict[str, int]) -> None:
        reservation = data.draw(st.sampled_from(sorted(self.open)))

        assert self.runner.run(self.limiter.settle(reservation, actuals, now_ms=self.now))

        self.close(reservation, actuals)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(sorted(self.open)))

        assert self.runner.run(self.limiter.release(reservation, now_ms=self.now))

        self.close(reservation, dict.fromkeys(["day", "cap", "all", "provider"], 0))

    def close(self, reservation: str, actuals: dict[str, int]) -> None:
        self.leases.pop(reservation, None)
        self.closed.append(reservation)
        entries = self.open.pop(reservation)
        for name in {name for name, _, _ in entries} & set(actuals):
            mine = [entry for entry in entries if entry[0] == name]
            rest = actuals[name]
            # The actual amount fills the entries in the order they were made; the last takes what is above all of them.
            for index, (_, end, amount) in enumerate(mine):
                part = rest if index == len(mine) - 1 else min(rest, amount)
                self.used[name, end] += part - amount
                rest -= part

    @precondition(lambda self: self.closed)
    @rule(data=st.data())
    def close_again(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(self.closed))

        assert not self.runner.run(self.limiter.settle(reservation, {"day": 0, "cap": 0}, now_ms=self.now))
        assert not self.runner.run(self.limiter.release(reservation, now_ms=self.now))

    @rule(milliseconds=st.integers(1, 6_000))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds

    @invariant()
    def figures_agree(self) -> None:
        for (name, end), expected in self.used.items():
            scope = WindowCounter(key=f"{self.prefix}:{name}", name=name, limit=None, window_end_ms=end)
            [state] = self.runner.run(self.limiter.peek([scope], now_ms=self.now))
            assert (name, end, state.used) == (name, end, expected)
        slots = Concurrency(key=f"{self.prefix}:slots", name="slots", limit=3, lease_ms=LEASE_MS)
        [state] = self.runner.run(self.limiter.peek([slots], now_ms=self.now))
        assert state.used == len(self.alive())
        assert state.used <= 3


LimiterMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLimiterMachine = LimiterMachine.TestCase


# Token buckets. One token is 1,000 small units, 3 of which come back each millisecond.
CAPACITY, UNIT, RATE = 40, 1_000, 3


@dataclass
class ExactBucket:
    """The deficit with its whole history: what a bucket with unlimited memory would know."""

    deficit: int = 0
    at: int = NOW_MS
    levels: list[int] = field(default_factory=list)

    def move_to(self, now: int) -> None:
        self.deficit = max(0, self.deficit - (now - self.at) * RATE)
        self.at = now
        self.levels.append(self.deficit)

    def take(self, amount: int) -> int:
        """Return the place in the history after this taking."""
        self.deficit += amount * UNIT
        self.levels.append(self.deficit)
        return len(self.levels) - 1

    def give_back(self, amount: int, place: int) -> None:
        back = min(amount * UNIT, self.deficit, *self.levels[place:])
        self.levels[place:] = [level - back for level in self.levels[place:]]
        self.deficit -= back


@dataclass
class Taking:
    at: int
    amount: int
    place: int
    actual: int


waits = st.tuples(st.just("wait"), st.integers(1, 12_000))
large_takes = st.tuples(st.just("take"), st.integers(0, CAPACITY))
small_takes = st.tuples(st.just("take"), st.integers(1, 2))
settles = st.tuples(st.just("settle"), st.one_of(st.just(0), st.integers(0, CAPACITY)))
# A burst of small takings leaves more marks than Redis keeps; settles then ask how low the bucket was long before.
bursts = st.tuples(
    st.lists(large_takes, max_size=2),
    st.lists(waits, max_size=1),
    st.lists(small_takes, max_size=14),
    st.lists(waits, max_size=1),
    st.lists(settles, max_size=6),
).map(lambda parts: [step for part in parts for step in part])
scripts = st.lists(bursts, min_size=1, max_size=5).map(lambda parts: [step for part in parts for step in part])


def highest_deficit(takings: list[Taking]) -> int:
    """The deficit had every call taken its actual amount at once: it may never pass the capacity."""
    bucket, highest = ExactBucket(), 0
    for taking in takings:
        bucket.move_to(taking.at)
        bucket.take(taking.actual)
        highest = max(highest, bucket.deficit)
    return highest


@settings(max_examples=200, deadline=None)
@given(script=scripts, picks=st.randoms(use_true_random=False))
def test_token_bucket_against_its_exact_model(script: list[tuple[str, int]], picks: Random) -> None:
    async def play() -> None:
        key = uuid.uuid4().hex
        model, takings, unsettled, now, marks = ExactBucket(), [], [], NOW_MS, 0
        async with redis.asyncio.Redis.from_url(os.environ["REDIS_URL"]) as client:
            limiter = Limiter(client, sources=RebuildSources())
            await limiter.recover(now_ms=now)
            for number, (step, figure) in enumerate(script):
                bucket = TokenBucket(
                    key=key, name="rate", capacity=CAPACITY, refill_amount=RATE, refill_period_ms=UNIT, amount=figure
                )
                if step == "wait":
                    now += figure
                    model.move_to(now)
                elif step == "take":
                    decision = await limiter.reserve(f"{key}{number}", [bucket], now_ms=now)
                    model.move_to(now)
                    fits = figure == 0 or model.deficit + figure * UNIT <= CAPACITY * UNIT
                    # With its few marks Redis may remember less than the model, never more.
                    assert decision.allowed == fits or (marks > 8 and not decision.allowed)
                    if decision.allowed:
                        marks += 1
                        takings.append(Taking(now, figure, model.take(figure), figure))
                        unsettled.append((f"{key}{number}", takings[-1]))
                elif unsettled:
                    reservation, taking = unsettled.pop(picks.randrange(len(unsettled)))
                    taking.actual = min(taking.amount, figure)
                    marks += 1
                    await limiter.settle(reservation, {"rate": taking.actual}, now_ms=now)
                    model.move_to(now)
                    model.give_back(taking.amount - taking.actual, taking.place)
                [state] = await limiter.peek([bucket], now_ms=now)
                exact = -(-model.deficit // UNIT)
                assert state.used == exact or (marks > 8 and state.used > exact)
        assert highest_deficit(takings) <= CAPACITY * UNIT

    asyncio.run(play())
