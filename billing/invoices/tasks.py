"""Work on invoices that nobody waits for; each task calls one service and is safe to run late, twice and at once."""

from smtplib import SMTPException

from celery import shared_task

from billing.accounts.services import task_enqueue
from iafactory.common import clock

from . import delivery


@shared_task(
    name=delivery.TASK,
    autoretry_for=(OSError, SMTPException),
    max_retries=6,
    retry_backoff=5,
    retry_jitter=True,
    time_limit=120,
)
def deliver(invoice_id: str) -> None:
    """Render one invoice and mail it; nothing where that was done."""
    delivery.invoice_deliver(invoice_id=invoice_id)


@shared_task(name="billing.invoices.deliver_late", time_limit=600)
def deliver_late() -> int:
    """Queue invoices whose delivery was lost; how many."""
    late = list(delivery.invoices_undelivered(now=clock.now()).values_list("pk", flat=True))
    for invoice_id in late:
        task_enqueue(delivery.TASK, str(invoice_id))
    return len(late)
