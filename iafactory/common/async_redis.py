"""The gateway's own Redis client: asynchronous, one small pool per event loop."""

from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def open_redis(*, connections: int = 64) -> Redis:
    """A client whose commands fail fast: who calls decides what an unreachable Redis means."""
    pool = BlockingConnectionPool.from_url(
        settings.REDIS_URL,
        max_connections=connections,
        timeout=1,
        socket_connect_timeout=0.5,
        socket_timeout=1,
        retry=Retry(NoBackoff(), 1),
    )
    return Redis(connection_pool=pool)
