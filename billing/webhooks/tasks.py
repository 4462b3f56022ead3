"""Work about outbound webhooks. Each task may run twice and at once: the rows say what is to be done."""

import contextlib
from smtplib import SMTPException

from asgiref.sync import async_to_sync
from celery import shared_task
from django_redis import get_redis_connection
from redis.exceptions import LockError

from iafactory.common import clock
from iafactory.common.task_retries import AGAIN_SOON

from . import deliveries, services

# One worker sends, many messages at once: others stay free for what the product owes within seconds.
_SENDER_LOCK = "iaf:webhooks:sender"
_SENDER_LOCK_SECONDS = 15
_CLAIM_SECONDS = 30


@shared_task(name="billing.webhooks.fan_out", time_limit=60)
def fan_out() -> int:
    """Turn new events into deliveries."""
    count = 0
    while taken := deliveries.events_fan_out(now=clock.now()):
        count += taken
    return count


@shared_task(name="billing.webhooks.deliver", time_limit=300)
def deliver() -> int:
    """Send what is due, retries and what dead workers left included; nothing while another worker does."""
    lock = get_redis_connection("default").lock(_SENDER_LOCK, timeout=_SENDER_LOCK_SECONDS, thread_local=False)
    if not lock.acquire(blocking=False):
        return 0

    def alive() -> None:
        # Lost, another may send beside us: leases keep each message with one of us.
        with contextlib.suppress(LockError):
            lock.reacquire()

    try:
        return async_to_sync(deliveries.deliveries_send)(claim_seconds=_CLAIM_SECONDS, alive=alive)
    finally:
        with contextlib.suppress(LockError):
            lock.release()


@shared_task(
    name="billing.webhooks.notices_send",
    autoretry_for=(OSError, SMTPException),
    max_retries=6,
    retry_backoff=5,
    retry_jitter=True,
    time_limit=120,
)
def notices_send() -> int:
    """Tell owners of endpoints that failures disabled."""
    return services.notices_send(now=clock.now())


@shared_task(name="billing.webhooks.forget", time_limit=600, **AGAIN_SOON)
def forget() -> int:
    """Delete old deliveries."""
    return deliveries.deliveries_forget(now=clock.now())
