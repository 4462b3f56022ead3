"""What makes a long run fail: a figure whose last third outgrew its first, a table that outgrew its rows."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.steadiness import LIMITS, Sample, TooShort, Trend, table_trends, thirds, trends

MEGABYTE = 2**20


def sample(number: int) -> Sample:
    """A steady product that books calls: two tables grow with their rows, one is written over and over."""
    rows = 1_000 * (number + 1)
    return Sample(
        seconds=10.0 * number,
        calls=1_000,
        p50=20.0,
        p99=60.0,
        web_memory=150.0 + number % 3,
        web_files=120.0 + number % 5,
        worker_memory=300.0,
        postgres_connections=17.0,
        redis_connections=12.0,
        redis_keys=200.0 + number % 7,
        redis_memory=3.0,
        open_holds=float(number % 9),
        tables={"usage": (rows * 1_000, rows), "wallet": (200_000, 16)},
    )


def run_of(change: Callable[[int, Sample], Sample]) -> list[Sample]:
    return [change(number, sample(number)) for number in range(30)]


def growing(samples: list[Sample]) -> list[str]:
    return [trend.text for trend in trends(samples) if not trend.steady]


def test_a_product_that_stays_as_it_is_is_steady() -> None:
    found = trends(run_of(lambda _, same: same))

    assert len(found) == len(LIMITS)
    assert [trend.text for trend in found if not trend.steady] == []
    assert found[0] == Trend("memory of the web process, MB", 151.0, 151.0, 151.0 * 1.03 + 4)


@pytest.mark.parametrize(
    ("change", "grown"),
    [
        # Half a megabyte a sample: 9 MB between the thirds' middles, 8.65 are allowed.
        (lambda number, s: replace(s, web_memory=s.web_memory + 0.5 * number), "memory of the web process, MB"),
        (lambda number, s: replace(s, web_files=s.web_files + 2 * number), "files and sockets of the web process"),
        (lambda number, s: replace(s, worker_memory=s.worker_memory + 3 * number), "memory of the worker, MB"),
        (lambda number, s: replace(s, postgres_connections=17 + number // 4), "connections to PostgreSQL"),
        (lambda number, s: replace(s, redis_connections=12 + number // 4), "connections to Redis"),
        (lambda number, s: replace(s, redis_keys=200 + 20 * number), "keys in Redis"),
        (lambda number, s: replace(s, redis_memory=3 + 0.5 * number), "memory of Redis, MB"),
        (lambda number, s: replace(s, open_holds=10 * number), "open holds"),
        (lambda number, s: replace(s, p50=20 + 2 * number), "p50, ms"),
        (lambda number, s: replace(s, p99=60 + 5 * number), "p99, ms"),
    ],
)
def test_whatever_grows_is_found(change: Callable[[int, Sample], Sample], grown: str) -> None:
    assert growing(run_of(change)) == [grown]


def test_one_sample_out_of_line_is_no_growth() -> None:
    samples = run_of(lambda number, s: replace(s, p99=900.0, web_files=900.0) if number == 27 else s)

    assert growing(samples) == []


def test_what_grows_while_it_warms_up_is_no_growth() -> None:
    samples = run_of(lambda number, s: replace(s, web_memory=100.0) if number < 3 else s)

    assert growing(samples) == []


def test_a_table_may_grow_with_its_rows() -> None:
    before, after = {"usage": (100 * MEGABYTE, 1_000)}, {"usage": (300 * MEGABYTE, 3_000)}

    assert table_trends(before, after) == []


@pytest.mark.parametrize(
    ("size", "rows", "found"),
    [
        (133 * MEGABYTE, 16, []),
        (134 * MEGABYTE, 16, [Trend("table wallet, MB", 100.0, 134.0, 133.0)]),
        # Rows that went do not make it smaller.
        (134 * MEGABYTE, 4, [Trend("table wallet, MB", 100.0, 134.0, 133.0)]),
    ],
)
def test_a_table_that_outgrows_its_rows_is_found(size: int, rows: int, found: list[Trend]) -> None:
    assert table_trends({"wallet": (100 * MEGABYTE, 16)}, {"wallet": (size, rows)}) == found


def test_a_table_that_was_empty_may_begin() -> None:
    assert table_trends({}, {"day": (8 * MEGABYTE, 10)}) == []
    assert [trend.text for trend in table_trends({"day": (0, 0)}, {"day": (9 * MEGABYTE, 10)})] == ["table day, MB"]


def test_too_few_samples_say_nothing() -> None:
    samples = run_of(lambda _, same: same)

    with pytest.raises(TooShort, match="5 samples"):
        trends(samples[:5])


def test_the_warm_up_belongs_to_no_third() -> None:
    first, last = thirds(run_of(lambda _, same: same))

    assert [one.seconds for one in (first[0], first[-1], last[0], last[-1])] == [30.0, 110.0, 210.0, 290.0]
