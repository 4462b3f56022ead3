"""Caps over all processes and the queue for them: each `Capacity` here stands for one process."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import redis.asyncio
from freezegun import freeze_time

from routing.health.capacity import Capacity, CapacityTimeout, Full, Place

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Route:
    """What a cap needs to know of a route."""

    slug: str
    provider: str
    provider_requests_per_minute: int | None = None
    provider_concurrent_calls: int | None = None
    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    concurrent_calls: int | None = None


class Client:
    """A client that may hang up while its call waits."""

    def __init__(self) -> None:
        self.leave: Callable[[], None] | None = None

    def when_gone(self, leave: Callable[[], None] | None) -> None:
        self.leave = leave


@pytest.fixture
async def processes(redis_client: redis.asyncio.Redis) -> list[Capacity]:
    return [Capacity(redis_client) for _ in range(2)]


async def take(capacity: Capacity, route: Route, member: str, *, priority: int = 0) -> Place | Full | None:
    return await capacity.take(route, member, priority=priority)


async def wait(
    capacity: Capacity, routes: list[Route], member: str, *, priority: int = 0, seconds: float = 3, client: Client | None = None
) -> Place | None:
    return await capacity.wait(
        routes,
        member,
        priority=priority,
        wait_seconds=seconds,
        when_gone=(client or Client()).when_gone,
    )


async def test_a_route_without_caps_is_not_counted(processes: list[Capacity], unique: str) -> None:
    assert await take(processes[0], Route(unique, unique), "1") is None


async def test_calls_at_once_are_counted_over_all_processes(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, concurrent_calls=3)

    answers = await asyncio.gather(*(take(processes[n % 2], route, str(n)) for n in range(20)))
    places = [answer for answer in answers if isinstance(answer, Place)]
    await processes[0].give(places[0])
    after = await take(processes[1], route, "after")

    assert len(places) == 3
    assert {answer.cap for answer in answers if isinstance(answer, Full)} == {"concurrent_calls"}
    assert isinstance(after, Place)


async def test_a_lease_that_ran_out_frees_its_place(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, concurrent_calls=1)

    with freeze_time(NOW, real_asyncio=True):
        await take(processes[0], route, "1")
    with freeze_time(NOW + timedelta(seconds=59), real_asyncio=True):
        before = await take(processes[0], route, "2")
    with freeze_time(NOW + timedelta(seconds=61), real_asyncio=True):
        after = await take(processes[0], route, "3")

    assert isinstance(before, Full)
    assert isinstance(after, Place)


async def test_a_call_that_goes_on_keeps_its_place(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, concurrent_calls=1)

    with freeze_time(NOW, real_asyncio=True):
        place = await take(processes[0], route, "1")
    with freeze_time(NOW + timedelta(seconds=45), real_asyncio=True):
        await processes[0].renew()
    with freeze_time(NOW + timedelta(seconds=100), real_asyncio=True):
        meanwhile = await take(processes[1], route, "2")
        assert isinstance(place, Place)
        await processes[0].give(place)
        await processes[0].renew()
        afterwards = await take(processes[1], route, "3")

    assert isinstance(meanwhile, Full)
    assert isinstance(afterwards, Place)


async def test_no_sixty_seconds_see_more_calls_than_the_cap(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, requests_per_minute=30)

    taken: list[float] = []
    for step in range(400):
        seconds = step * 0.7
        with freeze_time(NOW + timedelta(seconds=seconds), real_asyncio=True):
            if isinstance(await take(processes[0], route, str(step)), Place):
                taken.append(seconds)

    assert max(sum(1 for at in taken if begin <= at < begin + 60) for begin in taken) == 30
    assert len(taken) >= 120


async def test_a_full_window_says_when_it_frees(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, requests_per_minute=1)

    with freeze_time(NOW, real_asyncio=True):
        await take(processes[0], route, "1")
    with freeze_time(NOW + timedelta(seconds=20), real_asyncio=True):
        full = await take(processes[0], route, "2")

    assert full == Full(unique, "requests_per_minute", 41_000)


async def test_a_day_counts_on_while_minutes_pass(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, requests_per_minute=100, requests_per_day=5)

    answers = []
    for hour in range(6):
        with freeze_time(NOW + timedelta(hours=hour), real_asyncio=True):
            answers.append(await take(processes[0], route, str(hour)))

    assert [isinstance(answer, Place) for answer in answers] == [True] * 5 + [False]
    assert isinstance(answers[5], Full)
    assert answers[5].cap == "requests_per_day"


async def test_the_profiles_of_a_provider_share_its_caps(processes: list[Capacity], unique: str) -> None:
    one = Route(unique + "/one", unique, provider_concurrent_calls=1)
    two = Route(unique + "/two", unique, provider_concurrent_calls=1)

    await take(processes[0], one, "1")
    full = await take(processes[1], two, "2")

    assert full == Full(unique + "/two", "provider_concurrent_calls", None)


async def test_what_is_full_takes_nothing_of_what_is_not(processes: list[Capacity], unique: str) -> None:
    both = Route(unique, unique, requests_per_minute=2, concurrent_calls=1)

    place = await take(processes[0], both, "1")
    assert isinstance(place, Place)
    for n in range(5):
        await take(processes[0], both, f"refused {n}")
    await processes[0].give(place)

    assert isinstance(await take(processes[0], both, "2"), Place)


async def test_an_undone_place_does_not_count_in_any_window(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, requests_per_minute=1, requests_per_day=1)
    place = await take(processes[0], route, "1")
    assert isinstance(place, Place)

    await processes[0].undo(place)

    assert isinstance(await take(processes[0], route, "2"), Place)


async def queued(redis_client: redis.asyncio.Redis, slug: str, number: int) -> None:
    """Wait until so many calls are in the queue for a place on a route."""
    async with asyncio.timeout(20):
        while await redis_client.zcard(f"{{iaf}}:cap:v1:r:{slug}:g:q") != number:  # noqa: ASYNC110  Redis tells nobody
            await asyncio.sleep(0.005)


async def test_waiting_calls_are_served_by_priority_over_all_processes(
    processes: list[Capacity], redis_client: redis.asyncio.Redis, unique: str
) -> None:
    route = Route(unique, unique, concurrent_calls=1)
    place = await take(processes[0], route, "first")
    assert isinstance(place, Place)
    served: list[str] = []

    async def call(name: str, priority: int, process: Capacity) -> None:
        place = await wait(process, [route], name, priority=priority, seconds=10)
        assert place is not None
        served.append(name)
        await asyncio.sleep(0.02)
        await process.give(place)

    tasks = []
    for number, (name, priority) in enumerate([("low", 0), ("mid", 20), ("low too", 0), ("high", 50), ("mid too", 20)]):
        tasks.append(asyncio.create_task(call(name, priority, processes[number % 2])))
        await queued(redis_client, unique, number + 1)
    await processes[0].give(place)
    await asyncio.gather(*tasks)

    assert served == ["high", "mid", "mid too", "low", "low too"]


async def test_a_newcomer_does_not_pass_those_who_wait(
    processes: list[Capacity], redis_client: redis.asyncio.Redis, unique: str
) -> None:
    route = Route(unique, unique, concurrent_calls=1)
    place = await take(processes[0], route, "first")
    assert isinstance(place, Place)
    waiting = asyncio.create_task(wait(processes[0], [route], "waits", priority=10))
    await queued(redis_client, unique, 1)

    await processes[1]._tell("give", place.caps, place.member, place.taken_ms)
    lower = await take(processes[1], route, "newcomer", priority=0)

    assert isinstance(lower, Full)
    assert isinstance(await waiting, Place)


async def test_the_wait_is_bounded_and_says_when_to_come_back(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, requests_per_minute=1)
    await take(processes[0], route, "1")

    with pytest.raises(CapacityTimeout) as timeout:
        await wait(processes[0], [route], "2", seconds=0.2)

    assert 50 < timeout.value.wait_seconds <= 62
    assert processes[0].waiting == 0


async def test_a_client_that_hangs_up_leaves_the_queue(
    processes: list[Capacity], redis_client: redis.asyncio.Redis, unique: str
) -> None:
    route = Route(unique, unique, concurrent_calls=1)
    await take(processes[0], route, "first")
    client = Client()
    waiting = asyncio.create_task(wait(processes[0], [route], "2", seconds=30, client=client))
    await queued(redis_client, unique, 1)

    assert client.leave is not None
    client.leave()
    answer = await asyncio.wait_for(waiting, 20)

    assert (answer, processes[0].waiting) == (None, 0)
    assert await redis_client.zcard(f"{{iaf}}:cap:v1:r:{unique}:g:q") == 0


async def test_a_dead_process_does_not_hold_up_the_queue(processes: list[Capacity], unique: str) -> None:
    route = Route(unique, unique, concurrent_calls=1)
    place = await take(processes[0], route, "first")
    assert isinstance(place, Place)
    with freeze_time(datetime.now(UTC) - timedelta(seconds=10), real_asyncio=True):
        await processes[1]._take(unique, place.caps, "dead", rank=0, beat_ms=3_000)

    await processes[0].give(place)

    assert isinstance(await take(processes[0], route, "next"), Place)


async def test_whichever_route_frees_first_serves(
    processes: list[Capacity], redis_client: redis.asyncio.Redis, unique: str
) -> None:
    one, two = Route(unique + "1", unique, concurrent_calls=1), Route(unique + "2", unique, concurrent_calls=1)
    await take(processes[0], one, "a")
    place = await take(processes[0], two, "b")
    assert isinstance(place, Place)

    waiting = asyncio.create_task(wait(processes[0], [one, two], "c"))
    await queued(redis_client, two.slug, 1)
    await processes[0].give(place)
    got = await waiting

    assert got is not None
    assert got.route == two.slug


async def test_without_redis_nothing_is_counted(unique: str) -> None:
    capacity = Capacity(redis.asyncio.Redis.from_url("redis://127.0.0.1:1"))
    route = Route(unique, unique, concurrent_calls=1)

    answers = [await take(capacity, route, str(n)) for n in range(3)]

    assert [isinstance(answer, Place) for answer in answers] == [True] * 3
