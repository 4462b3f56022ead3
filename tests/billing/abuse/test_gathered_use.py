"""What the gateway gathers in Redis is what the detectors read."""

from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from redis.asyncio import Redis

from billing.abuse import detectors
from billing.abuse.detectors import Finding
from iafactory.common import clock, database
from iafactory.common.async_redis import open_redis
from iafactory.common.ids import uuid7
from routing.uses import UseRecorder


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    client = open_redis()
    yield client
    await client.aclose()


async def test_networks_and_repetitions_arrive(redis: Redis) -> None:
    key, account = uuid7(), uuid7()
    recorder = UseRecorder(database.open_pool(), redis)
    networks: set[tuple[UUID, str]] = {(key, f"10.0.{number}.0/24") for number in range(11)}

    await recorder._count(networks, Counter({(account, "aa"): 60}))
    await recorder._count(set(), Counter({(account, "aa"): 41, (account, "bb"): 5}))

    def told(findings: list[Finding]) -> list[tuple[str, int]]:
        return [(found.subject, found.evidence.get("networks") or found.evidence["repetitions"]) for found in findings]

    now = clock.now()
    assert told(detectors.key_networks(now)) == [(f"key:{key}", 11)]
    assert told(detectors.repeated_prompts(now)) == [(f"account:{account}", 101)]
