"""Scheduled work on the ledger; each task calls one service and is safe to run twice and at once."""

import logging

from celery import shared_task

from iafactory.common import clock
from iafactory.common.task_retries import AGAIN_SOON

from . import services
from .archive import ArchiveBusy, usage_archive
from .foundations import usage_partitions_ensure
from .rollups import usage_days_sum
from .seals import days_seal
from .verification import verification_run

logger = logging.getLogger(__name__)


@shared_task(name="billing.ledger.reap_holds", time_limit=60)
def reap_holds() -> int:
    """Close holds that outlived their process."""
    reaped = services.holds_reap()
    if reaped:
        logger.warning("%d holds outlived their process and were closed", reaped)
    return reaped


@shared_task(name="billing.ledger.roll_due_wallets", time_limit=120)
def roll_due_wallets() -> int:
    """Book lots that became effective or expired."""
    return services.due_wallets_roll()


@shared_task(name="billing.ledger.ensure_usage_partitions", time_limit=120, **AGAIN_SOON)
def ensure_usage_partitions() -> int:
    """Make the usage log's partitions ahead of time."""
    return usage_partitions_ensure(now=clock.now())


@shared_task(name="billing.ledger.forget_answers", time_limit=120)
def forget_answers() -> int:
    """Delete kept answers that ran out."""
    return services.answers_forget()


@shared_task(name="billing.ledger.sum_usage_days", time_limit=3600)
def sum_usage_days() -> int:
    """Sum up the closed days of the usage log for reports."""
    return len(usage_days_sum(now=clock.now()))


@shared_task(name="billing.ledger.archive_usage", time_limit=4 * 3600, **AGAIN_SOON)
def archive_usage() -> list[str]:
    """Move months of the usage log beyond their retention into files; fails when one cannot go, which alerts."""
    try:
        return [f"{month:%Y-%m}" for month in usage_archive(now=clock.now())]
    except ArchiveBusy:
        return []


@shared_task(name="billing.ledger.seal_days", time_limit=3600, **AGAIN_SOON)
def seal_days() -> int:
    """Seal the days of the books that have closed."""
    return len(days_seal(now=clock.now()))


@shared_task(name="billing.ledger.verify_books", time_limit=4 * 3600, **AGAIN_SOON)
def verify_books() -> bool:
    """Recompute the books and keep the result."""
    run = verification_run()
    if not run.passed:
        logger.critical("the books do not verify: see the last verification in the console")
    return run.passed
