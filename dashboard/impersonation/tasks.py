"""Ends what nobody ended."""

from celery import shared_task

from iafactory.common import clock
from iafactory.common.task_retries import AGAIN_SOON

from . import services


@shared_task(name="dashboard.impersonation.expire", time_limit=60, **AGAIN_SOON)
def expire() -> int:
    """End logins as customers whose time is over: their events stand on the account though the browser was closed."""
    return services.impersonations_expire(now=clock.now())
