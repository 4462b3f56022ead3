"""Scheduled work on payments; each task calls one service and is safe to run late, twice and at once."""

from celery import shared_task

from billing.events.services import SYSTEM

from .manual import manual_payments_expire


@shared_task(name="billing.payments.manual_expire", time_limit=600)
def manual_expire() -> int:
    """Close payments by hand that nobody made in time."""
    return manual_payments_expire(actor=SYSTEM)
