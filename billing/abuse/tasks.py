"""Work against abuse that nobody waits for."""

from smtplib import SMTPException

from celery import shared_task

from iafactory.common import clock

from . import detectors, services


@shared_task(name="billing.abuse.detect", time_limit=240)
def detect() -> int:
    """Look for abuse and raise what is found; looking twice raises once."""
    return detectors.detect(clock.now())


@shared_task(
    name="billing.abuse.warning_send",
    autoretry_for=(OSError, SMTPException),
    max_retries=6,
    retry_backoff=5,
    retry_jitter=True,
    time_limit=60,
)
def warning_send(event_id: str) -> None:
    """Mail the warning that the event tells of."""
    services.warning_send(event_id=event_id)
