"""When an account's days and months end, and under which name its spending of a day is counted in Redis."""

from datetime import date, datetime, timedelta
from functools import lru_cache
from uuid import UUID
from zoneinfo import ZoneInfo


def day_end(at: datetime, zone: ZoneInfo) -> datetime:
    """The next midnight in `zone` after `at`."""
    return _midnight_after(at.astimezone(zone).date(), zone)


@lru_cache(maxsize=1024)
def _midnight_after(day: date, zone: ZoneInfo) -> datetime:
    tomorrow = day + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone)


def month_end(at: datetime, zone: ZoneInfo) -> datetime:
    """The first midnight of the next month in `zone`."""
    local = at.astimezone(zone)
    year, month = (local.year + 1, 1) if local.month == 12 else (local.year, local.month + 1)
    return datetime(year, month, 1, tzinfo=zone)


def milliseconds(at: datetime) -> int:
    """Epoch milliseconds."""
    return int(at.timestamp() * 1000)


def daily_credits_key(account_id: UUID) -> str:
    """Name of the limiter's counter of an account's micro-credits of a day; gateway and credits API count in it."""
    return f"c:{account_id}"
