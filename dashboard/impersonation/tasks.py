"""Ends what nobody ended."""

from celery import shared_task

from iafactory.common import clock

from . import services


@shared_task(name="dashboard.impersonation.expire", time_limit=60)
def expire() -> int:
    """End logins as customers whose time is over: their events stand on the account though the browser was closed."""
    return services.impersonations_expire(now=clock.now())
