"""Where a billing period ends. Periods are half-open; days and months are those of the account's zone."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from billing.plans.models import Plan


def period_end(*, plan: Plan, start: datetime, anchor: datetime, zone: ZoneInfo) -> datetime | None:
    """The exclusive end, in UTC, of the period of `plan` that begins at `start`; None for a plan without periods.

    Months keep the anchor's day and time of day: a short month ends early, the next long one returns to the day
    (31 Jan -> 28 Feb -> 31 Mar).
    """
    if plan.interval == Plan.Interval.NONE:
        return None
    local_start, local_anchor = start.astimezone(zone), anchor.astimezone(zone)
    steps = 1
    while True:
        count = plan.interval_count * steps
        if plan.interval == Plan.Interval.DAY:
            day = local_start.date() + timedelta(days=count)
        else:
            day = _months_later(local_start.date(), count, local_anchor.day)
        # A clock change may skip this time of day: the zone then gives the instant just as long after midnight.
        end = datetime.combine(day, local_anchor.timetz()).astimezone(UTC)
        # Only an account that moved its zone far east can need a second step.
        if end > start:
            return end
        steps += 1


def _months_later(day: date, months: int, wanted_day: int) -> date:
    index = day.year * 12 + day.month - 1 + months
    year, month = divmod(index, 12)
    return date(year, month + 1, min(wanted_day, monthrange(year, month + 1)[1]))
