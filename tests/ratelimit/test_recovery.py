import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from iafactory.common.redis_line import RedisLine
from ratelimit.engine import Decision, Limiter, LimiterUnavailable
from ratelimit.recovery import RebuildSources
from ratelimit.scopes import CounterRow, TokenBucket, WindowCounter
from tests.ratelimit.conftest import PrivateRedis
from tests.ratelimit.moments import HOUR_MS, NOW_MS, WINDOW_END_MS


def quota(amount: int = 1) -> WindowCounter:
    return WindowCounter(key="alice:day", name="day", limit=10, amount=amount, window_end_ms=WINDOW_END_MS)


class Books:
    """A rebuild source as an upper app registers it: what its database says is used."""

    def __init__(self, *rows: CounterRow) -> None:
        self.rows = list(rows)
        self.reads = 0
        self.error: Exception | None = None

    async def __call__(self, now_ms: int) -> list[CounterRow]:
        self.reads += 1
        await asyncio.sleep(0.05)
        if self.error:
            raise self.error
        return self.rows


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
async def private_client(private_redis: PrivateRedis) -> AsyncIterator[redis.asyncio.Redis]:
    async with private_redis.client() as client:
        yield client


@pytest.fixture
async def line(private_redis: PrivateRedis) -> AsyncIterator[RedisLine]:
    line = private_redis.line()
    yield line
    await line.aclose()


def limiter_with(client: RedisLine | redis.asyncio.Redis, books: Books) -> Limiter:
    sources = RebuildSources()
    sources.register("books", books)
    return Limiter(client, sources=sources)


@pytest.fixture
async def ready(line: RedisLine, books: Books) -> Limiter:
    limiter = limiter_with(line, books)
    await limiter.recover(now_ms=NOW_MS)
    return limiter


async def used(limiter: Limiter) -> int:
    return (await limiter.peek([quota()], now_ms=NOW_MS))[0].used


async def test_before_the_first_recovery_nothing_is_admitted(private_client: redis.asyncio.Redis, books: Books) -> None:
    decision = await limiter_with(private_client, books).reserve("r1", [quota()], now_ms=NOW_MS)

    assert decision == Decision(False, stale_epoch=True)
    assert await private_client.dbsize() == 0


async def test_flushed_data_are_noticed_and_rebuilt(private_client: redis.asyncio.Redis, ready: Limiter, books: Books) -> None:
    await ready.reserve("r1", [quota(4)], now_ms=NOW_MS)
    books.rows = [CounterRow("alice:day", 4, WINDOW_END_MS)]
    await private_client.flushall()

    stale = await ready.reserve("r2", [quota()], now_ms=NOW_MS)
    keys_after_stale = await private_client.dbsize()
    await ready.recover(now_ms=NOW_MS)
    refused = await ready.reserve("r2", [quota(7)], now_ms=NOW_MS)
    admitted = await ready.reserve("r2", [quota(6)], now_ms=NOW_MS)

    assert stale == Decision(False, stale_epoch=True)
    assert keys_after_stale == 0
    assert (refused.allowed, admitted.allowed) == (False, True)
    assert round(await private_client.pttl(quota().storage_key) / 1_000) == 11 * HOUR_MS // 1_000


async def test_an_older_snapshot_is_noticed_and_raised_to_the_books(
    private_redis: PrivateRedis, ready: Limiter, books: Books
) -> None:
    await ready.reserve("r1", [quota(1)], now_ms=NOW_MS)
    private_redis.keep_snapshot()
    await ready.reserve("r2", [quota(8)], now_ms=NOW_MS)
    books.rows = [CounterRow("alice:day", 9, WINDOW_END_MS)]
    private_redis.restart_from_kept_snapshot()

    stale = await ready.reserve("r3", [quota()], now_ms=NOW_MS)
    used_in_the_snapshot = await used(ready)
    await ready.recover(now_ms=NOW_MS)

    assert stale.stale_epoch
    assert used_in_the_snapshot == 1
    assert await used(ready) == 9


async def test_recovery_never_lowers_a_counter(private_redis: PrivateRedis, ready: Limiter, books: Books) -> None:
    await ready.reserve("r1", [quota(8)], now_ms=NOW_MS)
    private_redis.keep_snapshot()
    books.rows = [CounterRow("alice:day", 3, WINDOW_END_MS)]
    private_redis.restart_from_kept_snapshot()

    await ready.recover(now_ms=NOW_MS)

    assert await used(ready) == 8


async def test_ended_windows_do_not_come_back(private_client: redis.asyncio.Redis, ready: Limiter, books: Books) -> None:
    books.rows = [CounterRow("alice:day", 3, NOW_MS)]

    await ready.rebuild(now_ms=NOW_MS)

    assert await private_client.keys("*") == [b"{iaf}:rl:v1:epoch"]


async def test_only_one_process_rebuilds(private_client: redis.asyncio.Redis, books: Books) -> None:
    first, second = limiter_with(private_client, books), limiter_with(private_client, books)

    await asyncio.gather(*(limiter.recover(now_ms=NOW_MS) for limiter in (first, first, second, second)))
    decisions = [
        await first.reserve("r1", [quota()], now_ms=NOW_MS),
        await second.reserve("r2", [quota()], now_ms=NOW_MS),
    ]

    assert books.reads == 1
    assert [decision.allowed for decision in decisions] == [True, True]


async def test_a_second_process_adopts_the_epoch_without_a_rebuild(
    private_client: redis.asyncio.Redis, ready: Limiter, books: Books
) -> None:
    await limiter_with(private_client, books).recover(now_ms=NOW_MS)

    assert books.reads == 1


async def test_a_failing_source_keeps_everything_refused_until_it_works(
    private_client: redis.asyncio.Redis, books: Books
) -> None:
    limiter = limiter_with(private_client, books)
    books.error = RuntimeError("database away")

    with pytest.raises(LimiterUnavailable, match="books"):
        await limiter.recover(now_ms=NOW_MS)
    locks_left = await private_client.exists("{iaf}:rl:v1:rebuild-lock")
    still_stale = await limiter.reserve("r1", [quota()], now_ms=NOW_MS)
    books.error = None
    await limiter.recover(now_ms=NOW_MS)
    admitted = await limiter.reserve("r1", [quota()], now_ms=NOW_MS)

    assert (still_stale.stale_epoch, admitted.allowed, locks_left) == (True, True, 0)


async def test_a_rebuild_that_lost_its_lock_commits_nothing(private_client: redis.asyncio.Redis) -> None:
    class Taken(Books):
        async def __call__(self, now_ms: int) -> list[CounterRow]:
            await private_client.set("{iaf}:rl:v1:rebuild-lock", "another process")
            return await super().__call__(now_ms)

    with pytest.raises(LimiterUnavailable):
        await limiter_with(private_client, Taken()).rebuild(now_ms=NOW_MS)

    assert await private_client.keys("*") == [b"{iaf}:rl:v1:rebuild-lock"]


async def test_a_restart_during_the_rebuild_commits_nothing(
    private_redis: PrivateRedis, private_client: redis.asyncio.Redis
) -> None:
    async def restart_with_the_lock_kept(now_ms: int) -> list[CounterRow]:
        private_redis.keep_snapshot()
        private_redis.restart_from_kept_snapshot()
        return []

    sources = RebuildSources()
    sources.register("restart", restart_with_the_lock_kept)
    limiter = Limiter(private_client, sources=sources)

    with pytest.raises(LimiterUnavailable, match="restart"):
        await limiter.rebuild(now_ms=NOW_MS)

    assert await private_client.keys("*") == []


async def test_callers_of_one_process_share_one_recovery(
    private_client: redis.asyncio.Redis, ready: Limiter, books: Books
) -> None:
    await private_client.flushall()
    await private_client.config_resetstat()

    await asyncio.gather(*(ready.recover(now_ms=NOW_MS) for _ in range(20)))

    # Look, lock, look, raise, commit.
    assert (await private_client.info("commandstats"))["cmdstat_evalsha"]["calls"] == 5
    assert books.reads == 2


async def test_a_settle_after_the_loss_creates_nothing(private_client: redis.asyncio.Redis, ready: Limiter) -> None:
    bucket = TokenBucket.per_minute(key="alice", name="rpm", limit=5)
    await ready.reserve("r1", [quota(), bucket], now_ms=NOW_MS)
    await private_client.flushall()

    settled = await ready.settle("r1", {"day": 5, "rpm": 5}, now_ms=NOW_MS)

    assert settled is False
    assert await private_client.dbsize() == 0


async def test_an_extension_after_the_loss_is_stale(private_client: redis.asyncio.Redis, ready: Limiter) -> None:
    await ready.reserve("r1", [quota()], now_ms=NOW_MS)
    await private_client.flushall()

    decision = await ready.extend("r1", [quota()], now_ms=NOW_MS)

    assert decision == Decision(False, stale_epoch=True)


async def test_forgotten_scripts_are_loaded_again(private_client: redis.asyncio.Redis, ready: Limiter) -> None:
    await private_client.script_flush()

    assert (await ready.reserve("r1", [quota()], now_ms=NOW_MS)).allowed


async def test_redis_away_is_said(private_redis: PrivateRedis, ready: Limiter) -> None:
    private_redis.stop()

    with pytest.raises(LimiterUnavailable):
        await ready.reserve("r1", [quota()], now_ms=NOW_MS)
    with pytest.raises(LimiterUnavailable):
        await ready.settle("r1", {}, now_ms=NOW_MS)


async def test_redis_that_hangs_is_given_up_after_half_a_second(private_redis: PrivateRedis, ready: Limiter) -> None:
    private_redis.call("CLIENT", "PAUSE", "5000")
    started = time.perf_counter()

    with pytest.raises(LimiterUnavailable):
        await ready.reserve("r1", [quota()], now_ms=NOW_MS)

    # Long before Redis is back.
    assert 0.45 < time.perf_counter() - started < 4


def test_a_second_source_of_the_same_name_is_refused(books: Books) -> None:
    sources = RebuildSources()
    sources.register("books", books)

    with pytest.raises(ValueError, match="books"):
        sources.register("books", books)
