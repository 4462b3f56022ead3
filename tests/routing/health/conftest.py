import os
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio


@pytest.fixture
async def redis_client() -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
    await client.delete("{iaf}:health:v1")
    yield client
    await client.aclose()


@pytest.fixture
def unique() -> str:
    """A part of a name that no other test uses."""
    return uuid.uuid4().hex[:12]
