"""Work on gateways' webhooks and on payments that nobody told us about; each task may run twice and at once."""

from datetime import timedelta

from celery import shared_task
from django.conf import settings

from billing.payments import polling
from iafactory.common import clock
from iafactory.common.task_retries import AGAIN_SOON

from . import working


@shared_task(name="billing.payments.webhook_work", time_limit=110)
def webhook_work(webhook_id: str) -> None:
    """Do what a webhook calls for. A failure is written down with the webhook, and the sweeper tries again."""
    working.webhook_work(webhook_id=webhook_id)


@shared_task(name="billing.payments.webhooks_sweep", time_limit=120)
def webhooks_sweep() -> int:
    """Hand over again the webhooks that nobody worked."""
    return working.webhooks_sweep()


@shared_task(name="billing.payments.poll_open", time_limit=280)
def poll_open() -> int:
    """Ask gateways about open payments whose time has come."""
    due = polling.payments_due()
    for payment_id in due:
        polling.payment_poll(payment_id=payment_id)
    return len(due)


@shared_task(name="billing.payments.rejected_forget", time_limit=280, **AGAIN_SOON)
def rejected_forget() -> int:
    """Delete what strangers sent."""
    return working.rejected_forget(before=clock.now() - timedelta(days=settings.REJECTED_WEBHOOK_RETENTION_DAYS))
