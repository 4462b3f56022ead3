"""What processes know of routes together: each board here stands for one process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio

from routing.health.board import HealthBoard
from routing.health.state import FAILURES_IN_A_ROW, Kind, Seen, Standing
from routing.health.store import HEALTH_KEY, HealthStore, Moved
from routing.providers.base import FailureClass, ProviderError

NOW = 1_800_000_000_000
OVERLOADED = ProviderError(FailureClass.OVERLOADED, "away")


def failed(at: int = NOW) -> Seen:
    return Seen(Kind.FAILED, at, detail="overloaded")


class Told:
    """Collects what a board tells."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, bool]] = []
        self.bad_credentials: list[tuple[str, str]] = []

    async def move(self, moved: Moved) -> None:
        self.moved.append((moved.route, moved.state.opened))

    async def bad(self, credential: str, failure: str) -> None:
        self.bad_credentials.append((credential, failure))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def boards(redis_client: redis.asyncio.Redis, told: Told) -> list[HealthBoard]:
    """Three processes."""
    return [HealthBoard(redis_client, on_moved=told.move, on_bad_credential=told.bad) for _ in range(3)]


@pytest.fixture
async def running(boards: list[HealthBoard]) -> AsyncIterator[list[HealthBoard]]:
    for board in boards:
        board.start()
    yield boards
    for board in boards:
        await board.stop()


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> float:
    """Wait for `condition`; how long it took. Fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not true in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def exchange(*boards: HealthBoard) -> None:
    for board in boards:
        await board.exchange()


async def test_failures_seen_by_several_processes_open_the_breaker_of_all(
    boards: list[HealthBoard], told: Told, unique: str
) -> None:
    one, two, three = boards
    for _ in range(3):
        one.see(unique, failed())
    for _ in range(2):
        two.see(unique, failed())

    await exchange(one, two, three)
    await exchange(one)
    await asyncio.sleep(0)

    assert [board.standing(unique, NOW) for board in boards] == [Standing.OPEN] * 3
    assert told.moved == [(unique, True)]


async def test_others_know_within_a_second(running: list[HealthBoard], unique: str) -> None:
    one, two, three = running
    took: list[float] = []

    async def break_off(route: str) -> bool:
        for _ in range(FAILURES_IN_A_ROW):
            one.begin(route, "").failed(OVERLOADED)
        here = one.of(route).opened
        took.append(await until(lambda: two.of(route).opened and three.of(route).opened))
        return here

    here = [await break_off(f"{unique}-{number}") for number in range(3)]

    assert here == [True] * 3
    # The best of three: the machine may stand still for a moment.
    assert min(took) < 1


async def test_no_more_probes_than_two_over_all_processes(boards: list[HealthBoard], unique: str) -> None:
    one = boards[0]
    for _ in range(FAILURES_IN_A_ROW):
        one.see(unique, failed(1_000))
    await exchange(*boards)

    admitted = await asyncio.gather(*(board.admit(unique) for board in boards * 10))

    assert admitted.count((True, True)) == 2
    assert admitted.count((False, False)) == 28


async def test_probes_of_two_processes_close_the_breaker_of_all(boards: list[HealthBoard], told: Told, unique: str) -> None:
    one, two, three = boards
    for _ in range(FAILURES_IN_A_ROW):
        one.see(unique, failed(1_000))
    await exchange(*boards)

    for board in (one, two):
        assert await board.admit(unique) == (True, True)
        board.begin(unique, "", probe=True).answered()
    await exchange(one, two, one, three)
    await asyncio.sleep(0)

    assert [board.of(unique).opened for board in boards] == [False] * 3
    assert told.moved == [(unique, True), (unique, False)]


async def test_who_did_not_hear_that_it_closed_is_let_through(boards: list[HealthBoard], unique: str) -> None:
    one, two, _ = boards
    for _ in range(FAILURES_IN_A_ROW):
        one.see(unique, failed(1_000))
    await exchange(one, two)
    await one.store.observe({unique: [Seen(Kind.CLOSED, NOW)]})

    still_open = two.of(unique).opened
    admitted = await two.admit(unique)

    assert (still_open, admitted, two.of(unique).opened) == (True, (True, False), False)


async def test_many_processes_at_once_lose_no_observation(redis_client: redis.asyncio.Redis, unique: str) -> None:
    boards = [HealthBoard(redis_client) for _ in range(8)]
    for board in boards:
        for _ in range(50):
            board.see(unique, Seen(Kind.ANSWERED, NOW, 100.0))

    for _ in range(8):
        await asyncio.gather(*(board.exchange() for board in boards))

    assert boards[0].of(unique).calls == pytest.approx(400)
    assert boards[0].of(unique).latency_weight == pytest.approx(400)


async def test_without_redis_the_own_view_goes_on_and_is_told_later(unique: str, redis_client: redis.asyncio.Redis) -> None:
    nowhere = redis.asyncio.Redis.from_url("redis://127.0.0.1:1")
    board = HealthBoard(nowhere)
    board.start()

    for _ in range(FAILURES_IN_A_ROW):
        board.begin(unique, "").failed(OVERLOADED)
    await asyncio.sleep(0.1)
    alone = board.of(unique).opened
    board.store = HealthStore(redis_client)
    other = HealthBoard(redis_client)
    await until(lambda: not board._pending)
    await other.exchange()
    await board.stop()

    assert alone is True
    assert other.of(unique).opened is True


async def test_a_forgotten_record_is_forgotten_by_all(boards: list[HealthBoard], unique: str) -> None:
    one, two, _ = boards
    for _ in range(FAILURES_IN_A_ROW):
        one.see(unique, failed())
    await exchange(one, two)

    await two.store.forget(unique)
    await exchange(one, two)

    assert (one.of(unique).opened, two.of(unique).opened) == (False, False)


async def test_a_record_of_another_version_begins_anew(
    boards: list[HealthBoard], redis_client: redis.asyncio.Redis, unique: str
) -> None:
    await redis_client.hset(HEALTH_KEY, unique, b"\xc1 nobody can read this")

    boards[0].see(unique, failed())
    await exchange(boards[0], boards[1])

    assert boards[1].of(unique).failures_in_a_row == 1


@pytest.mark.parametrize("failure", [FailureClass.BAD_REQUEST, FailureClass.REFUSED])
async def test_a_wrong_request_says_nothing_about_a_route(
    boards: list[HealthBoard], unique: str, failure: FailureClass
) -> None:
    for _ in range(30):
        boards[0].begin(unique, "").failed(ProviderError(failure, "no"))

    assert unique not in boards[0].states


async def test_a_rate_limited_credential_rests_on_its_route_alone(boards: list[HealthBoard], unique: str) -> None:
    one, two, _ = boards
    one.begin(unique, "a").failed(ProviderError(FailureClass.RATE_LIMITED, "slower", retry_after_seconds=30))

    await exchange(one, two)
    now_ms = int(time.time() * 1000)

    assert [two.usable("a", unique, now_ms), two.usable("b", unique, now_ms), two.usable("a", "other", now_ms)] == [
        False,
        True,
        True,
    ]
    assert two.usable("a", unique, now_ms + 31_000) is True


@pytest.mark.parametrize("failure", [FailureClass.AUTH, FailureClass.NO_FUNDS])
async def test_a_refused_credential_is_used_on_no_route_and_told_once(
    boards: list[HealthBoard], told: Told, unique: str, failure: FailureClass
) -> None:
    one, two, _ = boards
    credential = f"key-{unique}"

    for _ in range(10):
        one.begin(unique, credential).failed(ProviderError(failure, "wrong key"))
    await exchange(one, two)
    await asyncio.sleep(0)
    now_ms = int(time.time() * 1000)

    assert [board.usable(credential, "any route", now_ms) for board in (one, two)] == [False, False]
    assert told.bad_credentials == [(credential, failure.value)]
    assert one.of(unique).opened is False


async def test_calls_that_only_wait_put_their_route_behind(running: list[HealthBoard], unique: str) -> None:
    board = running[0]

    attempts = [board.begin(unique, "", typical_ms=100) for _ in range(3)]
    took = await until(lambda: unique in board.stalled)
    attempts[0].answered()

    assert took >= 1.4
    assert unique not in board.stalled
    for attempt in attempts:
        attempt.left()
    assert not board.waiting[unique]


async def test_a_slow_model_is_not_stalled(running: list[HealthBoard], unique: str) -> None:
    board = running[0]

    attempts = [board.begin(unique, "", typical_ms=20_000) for _ in range(5)]
    await asyncio.sleep(2.5)

    assert unique not in board.stalled
    assert len(attempts) == 5


async def test_a_route_that_answers_others_is_not_stalled(running: list[HealthBoard], unique: str) -> None:
    board = running[0]
    attempts = [board.begin(unique, "", typical_ms=100) for _ in range(5)]

    for _ in range(25):
        board.see(unique, Seen(Kind.ANSWERED, int(time.time() * 1000), 100.0))
        await asyncio.sleep(0.1)

    assert unique not in board.stalled
    assert len(board.waiting[unique]) == len(attempts)


async def test_an_attempt_counts_once(boards: list[HealthBoard], unique: str) -> None:
    board = boards[0]
    attempt = board.begin(unique, "")

    attempt.answered()
    attempt.answered()
    attempt.failed(ProviderError(FailureClass.TRUNCATED, "cut"))
    attempt.failed(OVERLOADED)
    attempt.left()

    state = board.of(unique)
    assert (round(state.calls), round(state.failures), state.failures_in_a_row) == (1, 1, 1)


async def test_a_store_used_without_a_copy_applies_and_tells(redis_client: redis.asyncio.Redis, unique: str) -> None:
    store = HealthStore(redis_client)

    first = await store.observe({unique: [failed()] * 4})
    second = await store.observe({unique: [failed()], unique + "-other": []})

    assert first == []
    assert [(moved.route, moved.state.opened) for moved in second] == [(unique, True)]
