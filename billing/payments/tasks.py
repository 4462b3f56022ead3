"""Scheduled work on payments; each task calls one service and is safe to run late, twice and at once."""

from celery import shared_task

from billing.events.services import SYSTEM

from . import refunds
from .manual import manual_payments_expire


@shared_task(name="billing.payments.manual_expire", time_limit=600)
def manual_expire() -> int:
    """Close payments by hand that nobody made in time."""
    return manual_payments_expire(actor=SYSTEM)


@shared_task(name="billing.payments.refund_ask", time_limit=110)
def refund_ask(refund_id: str) -> None:
    """Have a gateway send a refund. What it does not answer is asked again by the poll."""
    refunds.refund_ask(refund_id=refund_id)


@shared_task(name="billing.payments.refunds_poll", time_limit=280)
def refunds_poll() -> int:
    """Send the refunds that were not sent, and ask what became of those under way."""
    due = refunds.refunds_due()
    for refund_id in due:
        refunds.refund_ask(refund_id=refund_id)
    return len(due)
