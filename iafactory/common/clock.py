"""The only clock of the product: rules in SQL and Lua get the time as a parameter, so tests can move it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

_moved_to: datetime | None = None


def now() -> datetime:
    """The present instant, aware, UTC."""
    global _moved_to
    if _moved_to is None:
        return datetime.now(UTC)
    # Time goes on, so that what happens in turn keeps its order.
    _moved_to += timedelta(milliseconds=1)
    return _moved_to


def now_ms() -> int:
    """The present instant in epoch milliseconds, from the same clock as `now`."""
    return time.time_ns() // 1_000_000 if _moved_to is None else int(now().timestamp() * 1000)


@contextmanager
def moved_to(instant: datetime) -> Iterator[None]:
    """Let this process live at `instant`, a millisecond later at each look: for commands that make up a past."""
    global _moved_to
    _moved_to = instant
    try:
        yield
    finally:
        _moved_to = None
