"""Quiet hours, in the rule's own zone; they may pass midnight."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from .models import AlertRule, Level


def quiet_end(rule: AlertRule, *, level: str, now: datetime) -> datetime | None:
    """When the quiet hours end in which `now` lies; None when a message of `level` may be sent at once.

    The same beginning and end is the whole day round: no quiet hours, for otherwise nothing would ever be told.
    """
    if rule.quiet_from is None or rule.quiet_until is None or rule.quiet_from == rule.quiet_until:
        return None
    if level == Level.CRITICAL and rule.critical_passes:
        return None
    local = now.astimezone(ZoneInfo(rule.quiet_zone))
    at = local.time().replace(tzinfo=None)
    if rule.quiet_from < rule.quiet_until:
        if not rule.quiet_from <= at < rule.quiet_until:
            return None
        day = local.date()
    elif at >= rule.quiet_from:
        day = local.date() + timedelta(days=1)
    elif at < rule.quiet_until:
        day = local.date()
    else:
        return None
    return datetime.combine(day, rule.quiet_until, ZoneInfo(rule.quiet_zone))
