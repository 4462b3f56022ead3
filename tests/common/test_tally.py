"""Figures of a hot path: added up, passed on once, and then as if each had been told by itself."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from iafactory.common.metrics import SummedHistogram, Tally

BUCKETS = (1.0, 5.0)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def seconds(registry: CollectorRegistry, request: pytest.FixtureRequest) -> SummedHistogram:
    # Its file is shared by all tests of this process: a name of its own.
    return SummedHistogram(f"tried_{request.node.name}_seconds", "Tried.", buckets=BUCKETS, registry=registry)


def samples(histogram: SummedHistogram) -> dict[str, float]:
    found = {}
    for metric in histogram.collect():
        for sample in metric.samples:
            name = sample.name.rpartition("_")[2]
            if name == "created":
                continue
            found[f"{name}{sample.labels.get('le', '')}"] = sample.value
    return found


AMOUNTS = (0.2, 1.0, 1.1, 5.0, 7.0, -1.0)


async def test_many_observations_at_once_are_what_they_are_one_by_one(seconds: SummedHistogram) -> None:
    alone = SummedHistogram("tried_alone_seconds", "Tried.", buckets=BUCKETS, registry=CollectorRegistry())
    tally = Tally()

    for amount in AMOUNTS:
        alone.observe(amount)
        tally.observe(seconds, amount)
    before = samples(seconds)
    tally.flush()

    assert before["sum"] == 0
    assert samples(seconds) == samples(alone)
    assert samples(seconds) == pytest.approx({"bucket1.0": 3, "bucket5.0": 5, "bucket+Inf": 6, "count": 6, "sum": 13.3})


async def test_what_was_passed_on_is_not_passed_on_again(seconds: SummedHistogram, registry: CollectorRegistry) -> None:
    calls = Counter("tried_calls", "Tried.", registry=registry)
    level = Gauge("tried_level", "Tried.", registry=registry, multiprocess_mode="livesum")
    tally = Tally()
    tally.add(calls)
    tally.add(calls, 2)
    tally.observe(seconds, 2)
    tally.set(level, 5)
    tally.set(level, 4)

    tally.flush()
    first = (calls._value.get(), level._value.get(), samples(seconds)["sum"], samples(seconds)["count"])
    level.set(9)
    tally.observe(seconds, 3)
    tally.flush()
    tally.flush()

    assert first == (3, 4, 2, 1)
    assert (calls._value.get(), level._value.get(), samples(seconds)["sum"], samples(seconds)["count"]) == (3, 9, 5, 2)
    assert b"tried_calls_total" in generate_latest(registry)


async def test_a_level_is_the_last_one_not_their_sum(registry: CollectorRegistry) -> None:
    level = Gauge("tried_last_level", "Tried.", registry=registry, multiprocess_mode="livesum")
    tally = Tally()

    tally.set(level, 5)
    tally.flush()
    tally.set(level, 4)
    tally.flush()

    assert level._value.get() == 4


async def test_each_kind_of_figure_is_passed_on_within_a_second(seconds: SummedHistogram, registry: CollectorRegistry) -> None:
    calls = Counter("tried_soon", "Tried.", registry=registry)
    level = Gauge("tried_soon_level", "Tried.", registry=registry, multiprocess_mode="livesum")
    counting, observing, setting = Tally(), Tally(), Tally()
    counting.add(calls)
    observing.observe(seconds, 1)
    setting.set(level, 1)

    await asyncio.sleep(1.3)

    assert (calls._value.get(), samples(seconds)["count"], level._value.get()) == (1, 1, 1)


async def test_figures_after_a_flush_are_passed_on_within_a_second_of_their_own(registry: CollectorRegistry) -> None:
    calls = Counter("tried_again", "Tried.", registry=registry)
    tally = Tally()
    tally.add(calls)

    await asyncio.sleep(0.7)
    tally.flush()
    tally.add(calls)
    await asyncio.sleep(0.6)
    early = calls._value.get()
    await asyncio.sleep(0.7)

    assert (early, calls._value.get()) == (1, 2)
