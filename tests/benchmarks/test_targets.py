"""What makes a benchmark fail: the verdict on each figure, and the figures that rounds of windows amount to."""

import pytest

from benchmarks.figures import rounds_readings
from benchmarks.measures import median_difference, median_ratio, percentile_ms
from benchmarks.targets import TARGETS, State, judge, missed
from benchmarks.windows import Load, Window


def window(
    *, rate: float = 0.0, p50: float = 0.0, p99: float = 0.0, first: float = 0.0, cpu: float = 0.0, pg: float = 0.0
) -> Window:
    load = Load(
        requests=1,
        answered=1,
        failures={},
        seconds=1.0,
        per_second=rate,
        p50=p50,
        p95=0.0,
        p99=p99,
        first_p50=first,
        first_p99=0.0,
        generator_share=0.0,
    )
    return Window(load, cpu_ms=cpu, postgres_ms=pg, redis_ms=0.0, memory_mb=0.0)


def states(readings: dict[str, float]) -> dict[str, State]:
    return {verdict.target.key: verdict.state for verdict in judge(readings) if verdict.state is not State.NOT_MEASURED}


@pytest.mark.parametrize(
    ("value", "state"), [(0.55, State.AIM), (0.549, State.MET), (0.30, State.MET), (0.299, State.MISSED), (0.0, State.MISSED)]
)
def test_a_rate_must_reach_its_limit(value: float, state: State) -> None:
    assert states({"rate_against_proxy": value}) == {"rate_against_proxy": state}


@pytest.mark.parametrize(
    ("value", "state"), [(-1.0, State.AIM), (0.7, State.AIM), (0.701, State.MET), (2.0, State.MET), (2.001, State.MISSED)]
)
def test_a_delay_must_stay_within_its_limit(value: float, state: State) -> None:
    assert states({"first_byte_over_direct": value}) == {"first_byte_over_direct": state}


def test_not_one_of_the_open_streams_may_fail() -> None:
    assert states({"open_stream_failures": 0}) == {"open_stream_failures": State.AIM}
    assert states({"open_stream_failures": 1}) == {"open_stream_failures": State.MISSED}


def test_only_what_was_measured_and_missed_fails_a_run() -> None:
    verdicts = judge({"memory_idle": 151.0, "cpu_against_proxy": 3.0})

    assert len(verdicts) == len(TARGETS)
    assert [verdict.target.key for verdict in missed(verdicts)] == ["memory_idle"]
    assert sum(verdict.state is State.NOT_MEASURED for verdict in verdicts) == len(TARGETS) - 2


def test_a_reading_without_a_target_is_refused() -> None:
    with pytest.raises(KeyError, match="no target: rate_against_nobody"):
        judge({"rate_against_nobody": 1.0})


def test_every_target_aims_at_more_than_it_must() -> None:
    assert [
        target.key for target in TARGETS if (target.aim < target.must) is target.at_least and target.aim != target.must
    ] == []
    assert len({target.key for target in TARGETS}) == len(TARGETS)


def test_ratios_are_taken_within_a_round() -> None:
    ours, theirs = [90.0, 10.0, 60.0], [100.0, 40.0, 300.0]

    # The medians themselves are 60 and 100.
    assert median_ratio(ours, theirs) == 0.25
    assert median_difference(theirs, ours) == 30.0


def test_percentiles_are_of_the_ordered_values_in_milliseconds() -> None:
    values = [number / 1000 for number in reversed(range(1, 101))]

    assert [percentile_ms(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [51.0, 96.0, 100.0, 100.0]
    assert percentile_ms([], 0.5) == 0.0


def test_the_readings_of_rounds() -> None:
    windows = {
        "whole-64": {
            "bare proxy": [window(rate=1000, cpu=0.1), window(rate=2000, cpu=0.2)],
            "IA Factory": [window(rate=400, cpu=0.3, pg=0.06), window(rate=1000, cpu=0.4, pg=0.16)],
        },
        "whole-256": {"IA Factory": [window(rate=360), window(rate=700)]},
        "stream-64": {"bare proxy": [window(cpu=2.0)], "IA Factory": [window(cpu=3.0)]},
        "slow-64": {"bare proxy": [window(p50=61.0, p99=70.0)], "IA Factory": [window(p50=62.5, p99=75.0)]},
        "slow-stream-16": {"simulator": [window(first=60.5)], "IA Factory": [window(first=62.0)]},
        "peers": {"LiteLLM": [window(rate=10)], "IA Factory": [window(rate=250)], "Portkey": [window(rate=100)]},
    }

    readings = rounds_readings(windows)

    assert {name: round(value, 6) for name, value in readings.items()} == {
        "rate_against_litellm": 25.0,
        "rate_against_portkey": 2.5,
        "rate_against_proxy": 0.45,
        "cpu_against_proxy": 2.5,
        "postgres_cpu_share": 0.3,
        "rate_256_against_64": 0.8,
        "stream_cpu_against_proxy": 1.5,
        "slow_p50_over_proxy": 1.5,
        "slow_p99_over_proxy": 5.0,
        "first_byte_over_direct": 1.5,
    }
    assert len(judge(readings)) == len(TARGETS)


def test_a_scene_that_was_not_measured_says_nothing() -> None:
    assert rounds_readings({"whole-1": {"IA Factory": [window(rate=10)]}, "peers": {"IA Factory": [window(rate=10)]}}) == {}
