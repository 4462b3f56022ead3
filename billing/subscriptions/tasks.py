"""Scheduled work on subscriptions; each task calls one service and is safe to run late, twice and at once."""

from smtplib import SMTPException

from celery import shared_task

from billing.accounts.services import task_enqueue
from iafactory.common import clock

from . import dunning, jobs, metered, price_migration


@shared_task(name="billing.subscriptions.renew_due", time_limit=3600)
def renew_due() -> int:
    """Invoice next periods, begin periods, expire what was not paid; how many subscriptions."""
    run = jobs.renewals_run()
    return run.done if run else 0


@shared_task(name="billing.subscriptions.bill_overage", time_limit=1800)
def bill_overage() -> int:
    """Invoice what was used beyond metered plans."""
    return metered.overage_run()


@shared_task(name="billing.subscriptions.move_prices", time_limit=1800)
def move_prices() -> int:
    """Have running subscriptions renew at prices that operators move them to; how many were moved."""
    return price_migration.price_moves_run()


@shared_task(name="billing.subscriptions.remind", time_limit=1800)
def remind() -> int:
    """Queue the reminders that are due, and those whose mail was lost."""
    for notice_id in dunning.notices_unsent(now=clock.now()).values_list("pk", flat=True):
        task_enqueue(dunning.TASK, str(notice_id))
    return dunning.dunning_run()


@shared_task(name="billing.subscriptions.expire_incomplete", time_limit=600)
def expire_incomplete() -> int:
    """Give up checkouts that nobody paid, and rows of old runs."""
    jobs.job_runs_forget()
    return jobs.incompletes_expire()


@shared_task(
    name="billing.subscriptions.dunning_mail_send",
    autoretry_for=(OSError, SMTPException),
    max_retries=6,
    retry_backoff=5,
    retry_jitter=True,
    time_limit=60,
)
def dunning_mail_send(notice_id: str) -> None:
    """Mail one reminder; nothing where it was sent or its invoice is paid."""
    dunning.dunning_mail_send(notice_id=notice_id)
