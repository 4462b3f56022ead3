"""Looking for what customers should know, and mailing it."""

from smtplib import SMTPException

from celery import shared_task

from billing.accounts.services import task_enqueue
from iafactory.common import clock

from . import crossings, mails, services


@shared_task(name="billing.notices.credits", time_limit=120)
def credits() -> int:
    """Tell of wallets that became low or exhausted; looking twice tells once."""
    return services.credits_notice(now=clock.now())


@shared_task(name="billing.notices.budgets", time_limit=240)
def budgets() -> int:
    """Tell of keys whose own budget is nearly, or wholly, spent; looking twice tells once."""
    return services.budgets_notice(now=clock.now())


@shared_task(name="billing.notices.quotas", time_limit=240)
def quotas() -> int:
    """Tell of plans whose day is nearly, or wholly, used; looking twice tells once."""
    return crossings.quotas_notice(now=clock.now())


@shared_task(name="billing.notices.endings", time_limit=240)
def endings() -> int:
    """Tell of trials and plans that end, credits that expire and prices that change; looking twice tells once."""
    now = clock.now()
    return crossings.endings_notice(now=now) + crossings.expiries_notice(now=now) + crossings.prices_notice(now=now)


@shared_task(name="billing.notices.mails", time_limit=120)
def mails_sweep() -> int:
    """Queue mails to customers that were not sent although they should have been."""
    due = list(mails.notices_unsent(now=clock.now()).values_list("pk", flat=True)[:1000])
    for notice_id in due:
        task_enqueue(mails.TASK, str(notice_id))
    return len(due)


@shared_task(
    name=mails.TASK,
    autoretry_for=(OSError, SMTPException),
    max_retries=6,
    retry_backoff=5,
    retry_jitter=True,
    time_limit=60,
)
def mail_send(notice_id: str) -> None:
    """Mail one notice; nothing where it was sent."""
    mails.notice_mail_send(notice_id=notice_id)
