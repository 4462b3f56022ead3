"""Work on many subscriptions: each in a transaction of its own, so that a run may stop anywhere, come again, or run twice.

Progress is a `JobRun` row, which the console shows while it goes.
"""

import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction

from billing.events.services import SYSTEM
from iafactory.common import clock

from .checkout import INCOMPLETE_DAYS, incomplete_expire
from .models import JobRun, Subscription
from .renewal import account_free_to_work_on, subscription_advance, subscription_failed, subscriptions_due

logger = logging.getLogger(__name__)

RENEWAL = "renewal"
# So many are worked on between two looks at what is still due; then the run's row is written.
PIECE = 50


def renewals_run(*, now: datetime | None = None, limit: int = 100_000) -> JobRun | None:
    """Bring every due subscription up to date; None where none is due. One that fails is tried again later, alone."""
    now = now or clock.now()
    due = subscriptions_due(now=now, limit=limit)
    if not due:
        return None
    # Two workers at once meet seldom.
    random.shuffle(due)
    return _run(RENEWAL, due, _advance, lambda piece: subscriptions_due(now=now, among=piece))


def _advance(subscription_id: UUID) -> bool:
    """Bring one subscription up to date; False where somebody else does so just now."""
    with transaction.atomic():
        if not account_free_to_work_on(subscription_id):
            return False
        subscription_advance(subscription=Subscription(pk=subscription_id))
    return True


def _run(
    job: str,
    due: Sequence[UUID],
    work: Callable[[UUID], bool],
    still_due: Callable[[Sequence[UUID]], Sequence[UUID]],
) -> JobRun:
    started = clock.now()
    run = JobRun.objects.create(job=job, started_at=started, updated_at=started, due=len(due))
    for first in range(0, len(due), PIECE):
        # What another run did meanwhile needs no look any more.
        for identifier in still_due(due[first : first + PIECE]):
            try:
                run.done += work(identifier)
            except Exception as error:
                logger.exception("%s of %s failed", job, identifier)
                run.failed += 1
                run.last_error = f"{identifier}: {error}"[:500]
                subscription_failed(subscription_id=identifier, error=f"{type(error).__name__}: {error}")
        run.updated_at = clock.now()
        run.save(update_fields=["done", "failed", "last_error", "updated_at"])
    run.finished_at = clock.now()
    run.save(update_fields=["finished_at"])
    return run


def incompletes_expire(*, now: datetime | None = None) -> int:
    """Give up checkouts that nobody paid in time; returns how many."""
    now = now or clock.now()
    old = Subscription.objects.filter(
        state=Subscription.State.INCOMPLETE, created_at__lte=now - timedelta(days=INCOMPLETE_DAYS)
    )
    count = 0
    for subscription in old.order_by("created_at"):
        incomplete_expire(subscription=subscription, actor=SYSTEM, reason="Not paid in time")
        count += 1
    return count


def job_runs_forget(*, now: datetime | None = None) -> int:
    """Delete the rows of runs that ended long ago; returns how many."""
    deleted, _ = JobRun.objects.filter(
        started_at__lte=(now or clock.now()) - timedelta(days=settings.JOB_RUN_RETENTION_DAYS)
    ).delete()
    return deleted
