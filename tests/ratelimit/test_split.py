from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.engine import Limiter
from ratelimit.scopes import SplitPosition, WindowCounter, split_pick
from tests.ratelimit.moments import NOW_MS, WINDOW_END_MS

STUDENT = (("groq", 85), ("openrouter", 15))

weights = (
    st.lists(st.integers(0, 60), min_size=1, max_size=6)
    .filter(any)
    .map(lambda values: tuple((f"provider-{index}", value) for index, value in enumerate(values)))
)


def picks(start: int, count: int, split_weights: tuple[tuple[str, int], ...]) -> Counter[str]:
    return Counter(split_pick(position, split_weights) for position in range(start, start + count))


@given(start=st.integers(0, 10**12))
def test_any_hundred_in_a_row_serve_85_and_15(start: int) -> None:
    assert picks(start, 100, STUDENT) == {"groq": 85, "openrouter": 15}


@given(start=st.integers(0, 10**12), count=st.integers(1, 400), split_weights=weights)
def test_any_stretch_is_less_than_two_picks_from_its_share(
    start: int, count: int, split_weights: tuple[tuple[str, int], ...]
) -> None:
    counted = picks(start, count, split_weights)

    total = sum(weight for _, weight in split_weights)
    deviations = [abs(counted[name] * total - count * weight) for name, weight in split_weights]
    assert max(deviations) < 2 * total


@given(count=st.integers(1, 400), split_weights=weights)
def test_any_prefix_is_less_than_one_pick_from_its_share(count: int, split_weights: tuple[tuple[str, int], ...]) -> None:
    counted = picks(0, count, split_weights)

    total = sum(weight for _, weight in split_weights)
    deviations = [abs(counted[name] * total - count * weight) for name, weight in split_weights]
    assert max(deviations) < total


def test_a_weight_of_zero_is_never_picked() -> None:
    assert picks(7, 50, (("groq", 0), ("gemini", 3))) == {"gemini": 50}


@pytest.mark.parametrize("bad", [(), (("groq", 0),), (("groq", -1), ("gemini", 2)), (("groq", 9973), ("gemini", 9967))])
def test_unusable_weights_are_refused(bad: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(ValueError):
        split_pick(0, bad)


async def test_positions_start_at_the_callers_number_and_count_on(limiter: Limiter, unique: str) -> None:
    first = SplitPosition(key=unique, weights=STUDENT, start=977)
    other_start = SplitPosition(key=unique, weights=STUDENT, start=5)

    decisions = [
        await limiter.reserve(f"{unique}1", [], now_ms=NOW_MS, split=first),
        await limiter.reserve(f"{unique}2", [], now_ms=NOW_MS, split=other_start),
        await limiter.reserve(f"{unique}3", [], now_ms=NOW_MS, split=other_start),
    ]

    assert [decision.split_position for decision in decisions] == [977, 978, 979]


async def test_refused_calls_draw_no_position(limiter: Limiter, unique: str) -> None:
    split = SplitPosition(key=unique, weights=STUDENT, start=10)
    full = WindowCounter(key=unique, name="day", limit=0, window_end_ms=WINDOW_END_MS)

    before = await limiter.reserve(f"{unique}1", [], now_ms=NOW_MS, split=split)
    refused = await limiter.reserve(f"{unique}2", [full], now_ms=NOW_MS, split=split)
    after = await limiter.reserve(f"{unique}3", [], now_ms=NOW_MS, split=split)

    assert (before.split_position, refused.split_position, after.split_position) == (10, None, 11)
