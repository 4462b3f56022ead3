"""When a task whose turn is rare tries again by itself; those that run every few minutes have their next turn for that."""

from typing import Any

from django.db import InterfaceError, OperationalError
from redis.exceptions import ConnectionError as RedisUnavailable

# PostgreSQL or Redis was away, or somebody held a lock for too long: again after half a minute, then ever later, for half an
# hour.
AGAIN_SOON: dict[str, Any] = {
    "autoretry_for": (OperationalError, InterfaceError, RedisUnavailable),
    "max_retries": 6,
    "retry_backoff": 30,
    "retry_backoff_max": 600,
    "retry_jitter": True,
}
