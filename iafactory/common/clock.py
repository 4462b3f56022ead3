"""The only clock of the product: rules in SQL and Lua get the time as a parameter, so tests can move it."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, aware, UTC."""
    return datetime.now(UTC)


def now_ms() -> int:
    """The present instant in epoch milliseconds, from the same clock as `now`."""
    return int(now().timestamp() * 1000)
