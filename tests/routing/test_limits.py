"""Windows of limits follow the account's own days, and headers say them as clients expect."""

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from django.conf import settings
from redis.asyncio import Redis

from billing.subscriptions.callers import Limits
from iafactory.common import clock
from ratelimit.engine import Limiter, ScopeState
from ratelimit.recovery import RebuildSources
from routing import limits
from routing.uses import network_of

ALGIERS = ZoneInfo("Africa/Algiers")


def at(hour: int, minute: int = 0, day: int = 20) -> datetime:
    return datetime(2030, 11, day, hour, minute, tzinfo=UTC)


def caller(daily_limit: int = 3) -> Any:
    own = Limits(daily_limit=Decimal(daily_limit))
    return SimpleNamespace(account_id=uuid4(), zone=ALGIERS, limits_at=lambda _: own)


PLAN: Any = SimpleNamespace(billing_mode="quota")


async def test_the_day_ends_at_midnight_in_algiers_not_in_utc() -> None:
    redis = Redis.from_url(settings.REDIS_URL)
    limiter = Limiter(redis, sources=RebuildSources())
    await limiter.recover(now_ms=clock.now_ms())
    who = caller()

    async def call(moment: datetime) -> bool:
        scope = limits.daily_quota(who, PLAN, at=moment, credits=Decimal(0), soft=False)
        assert scope is not None
        return (await limiter.reserve(str(uuid4()), [scope], now_ms=int(moment.timestamp() * 1000))).allowed

    evening = [await call(at(22, 30)) for _ in range(4)]
    # 23:30 UTC is half past midnight in Algiers.
    after_midnight = [await call(at(23, 30)) for _ in range(4)]
    after_utc_midnight = await call(at(0, 30, day=21))
    await redis.aclose()

    assert evening == [True, True, True, False]
    assert after_midnight == [True, True, True, False]
    assert after_utc_midnight is False


@pytest.mark.parametrize(
    ("moment", "zone", "end"),
    [
        (at(12), "Africa/Algiers", datetime(2030, 11, 20, 23, tzinfo=UTC)),
        (at(23, 30), "Africa/Algiers", datetime(2030, 11, 21, 23, tzinfo=UTC)),
        (at(23), "Africa/Algiers", datetime(2030, 11, 21, 23, tzinfo=UTC)),
        # Paris sets its clocks back on 2030-10-27: that day has 25 hours.
        (datetime(2030, 10, 27, 0, tzinfo=UTC), "Europe/Paris", datetime(2030, 10, 27, 23, tzinfo=UTC)),
        (datetime(2030, 10, 26, 21, tzinfo=UTC), "Europe/Paris", datetime(2030, 10, 26, 22, tzinfo=UTC)),
    ],
)
def test_a_day_ends_at_the_next_local_midnight(moment: datetime, zone: str, end: datetime) -> None:
    assert limits.day_end(moment, ZoneInfo(zone)) == end


def test_a_month_ends_at_the_first_local_midnight_of_the_next() -> None:
    assert limits.month_end(at(12), ALGIERS) == datetime(2030, 11, 30, 23, tzinfo=UTC)
    assert limits.month_end(datetime(2030, 12, 31, 23, 30, tzinfo=UTC), ALGIERS) == datetime(2031, 1, 31, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("reset_in_ms", "text"), [(0, b"0ms"), (12, b"12ms"), (1750, b"1.75s"), (60_000, b"1m0s"), (10_800_000, b"3h0m0s")]
)
def test_resets_are_written_as_openai_writes_them(reset_in_ms: int, text: bytes) -> None:
    now_ms = int(at(12).timestamp() * 1000)
    state = ScopeState(limits.REQUESTS_PER_MINUTE, 10, 4, 6, now_ms + reset_in_ms)

    headers = dict(limits.limit_headers([state], at=at(12)))

    assert headers[b"x-ratelimit-limit-requests"] == b"10"
    assert headers[b"x-ratelimit-remaining-requests"] == b"6"
    assert headers[b"x-ratelimit-reset-requests"] == text


def test_the_limit_nearest_to_its_end_is_shown() -> None:
    minute = ScopeState(limits.REQUESTS_PER_MINUTE, 10, 1, 9, None)
    day = ScopeState(limits.DAILY_REQUESTS, 200, 190, 10, None)

    headers = dict(limits.limit_headers([minute, day], at=at(12)))

    assert headers[b"x-ratelimit-limit-requests"] == b"200"


def test_budgets_of_the_operator_are_not_told() -> None:
    budget = ScopeState(limits.DAILY_BUDGET, 50_000_000_000, 1, 49_999_999_999, None)

    assert limits.limit_headers([budget], at=at(12)) == []


@pytest.mark.parametrize(
    ("address", "network"),
    [("203.0.113.77", "203.0.113.0/24"), ("2001:db8:1:2::9", "2001:db8:1::/48"), ("unix", ""), ("", "")],
)
def test_addresses_are_gathered_by_network(address: str, network: str) -> None:
    assert network_of(address) == network
