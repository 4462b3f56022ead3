"""What the parallel tests run in processes of their own."""

import asyncio
import os
import random

import redis.asyncio

from ratelimit.engine import Limiter
from ratelimit.recovery import RebuildSources
from ratelimit.scopes import Budget, Concurrency, TokenBucket
from tests.ratelimit.moments import NOW_MS, WINDOW_END_MS

TASKS_PER_PROCESS = 25


async def _limiter() -> tuple[redis.asyncio.Redis, Limiter]:
    client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    limiter = Limiter(client, sources=RebuildSources())
    await limiter.recover(now_ms=NOW_MS)
    return client, limiter


def drain_bucket(key: str, process: int, reservations: int) -> int:
    """Reserve one token at a time without any refill; return how many were admitted."""
    bucket = TokenBucket.per_minute(key=key, name="rpm", limit=1_000)

    async def run() -> int:
        client, limiter = await _limiter()

        async def one_task(task: int) -> int:
            admitted = 0
            for number in range(reservations // TASKS_PER_PROCESS):
                decision = await limiter.reserve(f"{key}:{process}:{task}:{number}", [bucket], now_ms=NOW_MS)
                admitted += decision.allowed
            return admitted

        async with client:
            return sum(await asyncio.gather(*(one_task(task) for task in range(TASKS_PER_PROCESS))))

    return asyncio.run(run())


def spend_budget(key: str, process: int, limit_nano: int, slots: int) -> tuple[int, int, int]:
    """Reserve, settle below the hold or release; return what was spent and the highest figures ever seen."""
    chance = random.Random(process)

    async def run() -> tuple[int, int, int]:
        client, limiter = await _limiter()
        spent = highest_budget = highest_slots = 0

        async def one_task(task: int) -> None:
            nonlocal spent, highest_budget, highest_slots
            for number in range(20):
                amount = chance.randint(1, 90)
                scopes = [
                    Budget(key=key, name="usd", limit_nano=limit_nano, amount_nano=amount, window_end_ms=WINDOW_END_MS),
                    Concurrency(key=key, name="slots", limit=slots, lease_ms=60_000),
                ]
                reservation = f"{key}:{process}:{task}:{number}"
                decision = await limiter.reserve(reservation, scopes, now_ms=NOW_MS)
                highest_budget = max(highest_budget, decision.states[0].used)
                highest_slots = max(highest_slots, decision.states[1].used)
                if not decision.allowed:
                    continue
                actual = chance.randint(0, amount)
                if actual:
                    await limiter.settle(reservation, {"usd": actual}, now_ms=NOW_MS)
                    spent += actual
                else:
                    await limiter.release(reservation, now_ms=NOW_MS)

        async with client:
            await asyncio.gather(*(one_task(task) for task in range(TASKS_PER_PROCESS)))
        return spent, highest_budget, highest_slots

    return asyncio.run(run())


def hold_slot_forever(key: str, reservation: str) -> None:
    """Take the slot and wait to be killed."""

    async def run() -> None:
        _, limiter = await _limiter()
        slot = Concurrency(key=key, name="slots", limit=1, lease_ms=60_000)
        assert (await limiter.reserve(reservation, [slot], now_ms=NOW_MS)).allowed
        await asyncio.sleep(60)

    asyncio.run(run())
