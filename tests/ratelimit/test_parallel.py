"""Real parallel clients from several processes."""

import asyncio
import multiprocessing

from ratelimit.engine import Limiter
from ratelimit.scopes import Budget, Concurrency, TokenBucket
from tests.ratelimit.moments import MINUTE_MS, NOW_MS, WINDOW_END_MS
from tests.ratelimit.parallel_clients import drain_bucket, hold_slot_forever, spend_budget

processes = multiprocessing.get_context("spawn")


async def test_a_bucket_of_1000_admits_exactly_1000_of_10000(limiter: Limiter, unique: str) -> None:
    with processes.Pool(4) as pool:
        admitted = await asyncio.to_thread(pool.starmap, drain_bucket, [(unique, process, 2_500) for process in range(4)])

    bucket = TokenBucket.per_minute(key=unique, name="rpm", limit=1_000)
    [state] = await limiter.peek([bucket], now_ms=NOW_MS)
    assert sum(admitted) == 1_000
    assert state.used == 1_000


async def test_a_budget_and_its_slots_are_never_passed_and_add_up(limiter: Limiter, unique: str) -> None:
    with processes.Pool(4) as pool:
        results = await asyncio.to_thread(pool.starmap, spend_budget, [(unique, process, 5_000, 20) for process in range(4)])

    budget = Budget(key=unique, name="usd", limit_nano=5_000, amount_nano=0, window_end_ms=WINDOW_END_MS)
    slots = Concurrency(key=unique, name="slots", limit=20, lease_ms=MINUTE_MS)
    states = await limiter.peek([budget, slots], now_ms=NOW_MS)
    assert [state.used for state in states] == [sum(spent for spent, _, _ in results), 0]
    assert states[0].used > 4_000
    assert max(highest for _, highest, _ in results) <= 5_000
    assert max(highest for _, _, highest in results) <= 20


async def test_the_slot_of_a_killed_process_is_free_after_its_lease(limiter: Limiter, unique: str) -> None:
    slot = Concurrency(key=unique, name="slots", limit=1, lease_ms=MINUTE_MS)
    holder = processes.Process(target=hold_slot_forever, args=(unique, f"{unique}held"))
    holder.start()
    async with asyncio.timeout(60):
        while (await limiter.peek([slot], now_ms=NOW_MS))[0].used == 0:  # noqa: ASYNC110  another process takes it
            await asyncio.sleep(0.02)
    holder.kill()
    await asyncio.to_thread(holder.join)

    before = await limiter.reserve(f"{unique}1", [slot], now_ms=NOW_MS + MINUTE_MS - 1)
    after = await limiter.reserve(f"{unique}1", [slot], now_ms=NOW_MS + MINUTE_MS)

    assert (before.allowed, after.allowed) == (False, True)
