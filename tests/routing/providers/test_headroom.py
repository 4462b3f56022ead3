"""What providers say of their limits in headers, as they write them."""

from datetime import UTC, datetime

import pytest
from freezegun import freeze_time

from routing.providers.headroom import headroom_read


@pytest.mark.parametrize(
    ("headers", "share", "seconds"),
    [
        (
            {
                "x-ratelimit-limit-requests": "1000",
                "x-ratelimit-remaining-requests": "750",
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-limit-tokens": "6000",
                "x-ratelimit-remaining-tokens": "1500",
                "x-ratelimit-reset-tokens": "7.66s",
            },
            0.25,
            7.66,
        ),
        ({"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"}, 0.0, 30.0),
        ({"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "5"}, 0.5, 60.0),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": "2026-11-20T12:00:01Z",
                "anthropic-ratelimit-output-tokens-limit": "8000",
                "anthropic-ratelimit-output-tokens-remaining": "800",
                "anthropic-ratelimit-output-tokens-reset": "2026-11-20T12:00:40Z",
            },
            0.1,
            40.0,
        ),
    ],
)
def test_the_tightest_limit_counts(headers: dict[str, str], share: float, seconds: float) -> None:
    with freeze_time(datetime(2026, 11, 20, 12, tzinfo=UTC)):
        headroom = headroom_read(headers)

    assert headroom is not None
    assert tuple(headroom) == pytest.approx((share, seconds))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"x-ratelimit-remaining-requests": "many", "x-ratelimit-limit-requests": "10"},
        {"x-ratelimit-remaining-requests": "3"},
        {"x-ratelimit-remaining-requests": "3", "x-ratelimit-limit-requests": "0"},
        {"x-ratelimit-remaining-requests": "-3", "x-ratelimit-limit-requests": "10"},
    ],
)
def test_what_says_nothing_clear_says_nothing(headers: dict[str, str]) -> None:
    assert headroom_read(headers) is None
