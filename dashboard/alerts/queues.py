"""How many bookings wait in all web processes: each says so in Redis, since a worker cannot look into them."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from django_redis import get_redis_connection

_KEY = "iaf:alerts:bookings"
# What a process said longer ago is no longer so, or the process is gone.
_BELIEVED = timedelta(minutes=2)


def queue_depth_tell(*, process: str, depths: Mapping[str, int], now: datetime) -> None:
    """Say how many items wait in `process`, of all its queues. Raises the Redis client's errors."""
    redis = get_redis_connection("default")
    redis.hset(_KEY, process, json.dumps([sum(depths.values()), now.timestamp()]))
    redis.expire(_KEY, _BELIEVED)


def queue_depths(*, now: datetime) -> int:
    """Bookings that wait in all processes that spoke lately. Raises the Redis client's errors."""
    redis = get_redis_connection("default")
    told = cast(dict[bytes, bytes], redis.hgetall(_KEY))
    total, gone = 0, []
    for process, said in told.items():
        waiting, at = cast(list[Any], json.loads(said))
        if now.timestamp() - at > _BELIEVED.total_seconds():
            gone.append(process)
        else:
            total += int(waiting)
    if gone:
        redis.hdel(_KEY, *gone)
    return total
