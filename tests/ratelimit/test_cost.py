"""What a reserve costs: Redis round trips and Redis time."""

from collections.abc import Awaitable

import redis.asyncio

from ratelimit.engine import Limiter
from ratelimit.recovery import RebuildSources
from ratelimit.scopes import Budget, Concurrency, Scope, SplitPosition, TokenBucket, WindowCounter
from tests.ratelimit.conftest import PrivateRedis
from tests.ratelimit.moments import MINUTE_MS, NOW_MS, WINDOW_END_MS


def six_scopes() -> list[Scope]:
    return [
        TokenBucket.per_minute(key="account:1:rpm", name="rpm", limit=10**6),
        TokenBucket.per_minute(key="account:1:tpm", name="tpm", limit=10**9, amount=3_000),
        WindowCounter(key="account:1:day", name="day", limit=10**6, window_end_ms=WINDOW_END_MS),
        Concurrency(key="account:1:slots", name="slots", limit=100, lease_ms=MINUTE_MS),
        Budget(key="plan:1", name="plan", limit_nano=10**15, amount_nano=10**6, window_end_ms=WINDOW_END_MS),
        Budget(key="all", name="all", limit_nano=10**15, amount_nano=10**6, window_end_ms=WINDOW_END_MS, soft=True),
    ]


async def test_reserve_and_settle_are_one_round_trip_each_and_cheap(private_redis: PrivateRedis) -> None:
    split = SplitPosition(key="account:1", weights=(("groq", 85), ("openrouter", 15)), start=7)
    async with private_redis.client() as client:
        limiter = Limiter(client, sources=RebuildSources())
        await limiter.recover(now_ms=NOW_MS)
        await limiter.reserve("first", six_scopes(), now_ms=NOW_MS, split=split)
        await limiter.settle("first", {}, now_ms=NOW_MS)

        # Redis counts wall time: the best of three rounds is the one the machine did not interrupt.
        rounds = [await reserve_and_settle(client, limiter, split, start) for start in (0, 100, 200)]

    reserve_us, settle_us = (min(figures) for figures in zip(*rounds, strict=True))
    assert reserve_us < 150
    assert settle_us < 150


async def reserve_and_settle(
    client: redis.asyncio.Redis, limiter: Limiter, split: SplitPosition, start: int
) -> tuple[float, float]:
    numbers = range(start, start + 50)
    actuals = {"tpm": 700, "plan": 400_000, "all": 400_000}
    reserve_us = await measured(
        client, [limiter.reserve(f"r{number}", six_scopes(), now_ms=NOW_MS + number, split=split) for number in numbers]
    )
    settle_us = await measured(
        client, [limiter.settle(f"r{number}", actuals, now_ms=NOW_MS + 1_000 + number) for number in numbers]
    )
    return reserve_us, settle_us


async def measured(client: redis.asyncio.Redis, calls: list[Awaitable[object]]) -> float:
    """Run calls one after the other; each must be one command from this client. Return Redis microseconds a call."""
    await client.config_resetstat()
    answers = [await call for call in calls]
    statistics = await client.info("commandstats")
    assert all(getattr(answer, "allowed", answer) for answer in answers)
    assert statistics["cmdstat_evalsha"]["calls"] == len(calls)
    assert "cmdstat_eval" not in statistics
    return statistics["cmdstat_evalsha"]["usec_per_call"]
