"""Looking and telling. Each task may run twice and at once: rows say what was told."""

from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down

from iafactory.common import clock
from iafactory.common.task_retries import AGAIN_SOON

from . import deliveries, services
from .watch import watch


@shared_task(name="dashboard.alerts.look", time_limit=120)
def look() -> str:
    """Look at what can go wrong from one minute to the next; open, follow and resolve alerts."""
    return str(services.rules_look(now=clock.now(), kinds=services.kinds_of(seldom=False)))


@shared_task(name="dashboard.alerts.look_at_budgets", time_limit=120)
def look_at_budgets() -> str:
    """Look at budgets, plans' margins and the certificate; open, follow and resolve alerts."""
    return str(services.rules_look(now=clock.now(), kinds=services.kinds_of(seldom=True)))


@shared_task(name="dashboard.alerts.deliver", time_limit=300)
def deliver() -> int:
    """Send alerts that are due, retries and what dead workers left included."""
    return deliveries.deliveries_send()


@shared_task(name="dashboard.alerts.forget", time_limit=300, **AGAIN_SOON)
def forget() -> int:
    """Delete alerts that were resolved more than 90 days ago, with their deliveries."""
    return deliveries.alerts_forget(now=clock.now())


@worker_ready.connect
def _worker_begins(**kwargs: Any) -> None:
    watch.start()


@worker_shutting_down.connect
def _worker_ends(**kwargs: Any) -> None:
    watch.stop()
