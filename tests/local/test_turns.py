"""Tests begin after the end of a half hour instead of shortly before it."""

from datetime import UTC, datetime

import pytest

from tests.turns import seconds_to_wait


@pytest.mark.parametrize(
    ("time_of_day", "wait"),
    [
        ("23:00:00", 0),
        ("23:29:34", 0),
        # A test of 25 seconds just ends in time.
        ("23:29:35", 0),
        ("23:29:36", 24.1),
        ("23:29:59", 1.1),
        ("23:30:00", 0),
        ("23:59:50", 10.1),
    ],
)
def test_who_would_see_the_end_of_a_half_hour_waits_for_it(time_of_day: str, wait: float) -> None:
    now = datetime.fromisoformat(f"2026-11-20T{time_of_day}").replace(tzinfo=UTC)

    assert seconds_to_wait(now.timestamp()) == pytest.approx(wait)


def test_a_wait_ends_after_the_half_hour() -> None:
    began = datetime(2026, 12, 31, 23, 59, 40, tzinfo=UTC).timestamp()

    assert datetime.fromtimestamp(began + seconds_to_wait(began), UTC).year == 2027
