"""From events to delivered messages: fan out once, claim, send, note, try again.

A worker leases what it sends. One that dies lets the lease run out, and the message goes out again: at least once, under the
same `webhook-id`, by which receivers tell a repetition.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import aiohttp
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, transaction

from billing.accounts.models import Account
from billing.accounts.services import task_enqueue
from billing.events.models import Event
from billing.events.services import SYSTEM
from iafactory.common import clock

from .catalogue import event_type_of, message_body, message_id
from .destinations import connector
from .models import WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookQueueItem
from .selectors import signing_secrets
from .sender import Message, Outcome, message_send
from .services import endpoint_disable
from .signing import signed_headers

logger = logging.getLogger(__name__)

# What is waited before the second, third … attempt: three days in all, then the delivery is given up.
PAUSES = (
    timedelta(seconds=5),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=16),
    timedelta(hours=24),
)
# Each pause is this share shorter or longer, at random, so that what failed together does not come back together.
JITTER_PERCENT = 10
RETRY_AFTER_MAX = timedelta(hours=24)
# At once: to one endpoint and to one account's, so that slow ones hold up nobody else; and in one worker.
PER_ENDPOINT = 5
PER_ACCOUNT = 20
AT_ONCE = 100
# A worker is dead when it has not noted an outcome so long after the timeout.
LEASE_GRACE = timedelta(seconds=45)

_CLAIM_LOCK = 7_362_001
_CLAIM_PAUSE = timedelta(milliseconds=50)
_CLAIM = """
    WITH leased AS (
        SELECT d.endpoint_id, e.account_id, count(*) AS busy
        FROM billing_webhookdelivery d JOIN billing_webhookendpoint e ON e.id = d.endpoint_id
        WHERE d.leased_until > %(now)s AND d.state = 'pending' GROUP BY d.endpoint_id, e.account_id
    ), due AS (
        SELECT d.id, d.next_attempt_at,
               row_number() OVER (PARTITION BY e.account_id ORDER BY d.next_attempt_at, d.id)
                   + coalesce((SELECT sum(busy) FROM leased WHERE account_id = e.account_id), 0) AS place
        FROM billing_webhookendpoint e
        CROSS JOIN LATERAL (
            SELECT d.id, d.next_attempt_at FROM billing_webhookdelivery d
            WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_attempt_at <= %(now)s
              AND (d.leased_until IS NULL OR d.leased_until <= %(now)s)
            ORDER BY d.next_attempt_at, d.id
            LIMIT greatest(0, %(per_endpoint)s - coalesce((SELECT busy FROM leased WHERE endpoint_id = e.id), 0))
        ) d
        WHERE e.is_enabled
    )
    SELECT id FROM due WHERE place <= %(per_account)s ORDER BY next_attempt_at, id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery this worker may send, and what it needs for it."""

    delivery_id: UUID
    leased_until: datetime
    message: Message


def events_fan_out(*, now: datetime, limit: int = 500) -> int:
    """Turn queued events into deliveries, one per event and endpoint that wants it; how many events were taken off the queue.

    Any number of workers may do it at once: each takes rows that nobody else holds, and the row goes in the transaction in
    which its deliveries come.
    """
    with transaction.atomic():
        queued = list(
            WebhookQueueItem.objects.select_for_update(skip_locked=True).order_by("pk").values_list("pk", flat=True)[:limit]
        )
        if not queued:
            return 0
        events = list(Event.objects.filter(pk__in=queued).order_by("pk"))
        accounts = {event.account_id for event in events if event.account_id is not None}
        endpoints: dict[UUID | None, list[WebhookEndpoint]] = {}
        # Nobody may delete them until their deliveries stand.
        for endpoint in (
            WebhookEndpoint.objects.select_for_update(no_key=True, of=("self",))
            .filter(account_id__in=accounts)
            .exclude(account__status=Account.Status.CLOSED)
            .order_by("pk")
        ):
            endpoints.setdefault(endpoint.account_id, []).append(endpoint)
        deliveries = [
            delivery for event in events for delivery in _deliveries_of(event, endpoints.get(event.account_id, []), now)
        ]
        WebhookDelivery.objects.bulk_create(deliveries)
        WebhookQueueItem.objects.filter(pk__in=queued).delete()
        if any(delivery.state == WebhookDelivery.State.PENDING for delivery in deliveries):
            transaction.on_commit(lambda: task_enqueue("billing.webhooks.deliver"))
    return len(queued)


def _deliveries_of(event: Event, endpoints: list[WebhookEndpoint], now: datetime) -> list[WebhookDelivery]:
    event_type = event_type_of(event)
    if event_type is None:
        return []
    wanted = [found for found in endpoints if event_type.name in found.event_types and found.created_at <= event.at]
    body = message_body(event, event_type) if wanted else ""
    return [
        WebhookDelivery(
            endpoint=endpoint,
            event=event,
            message_id=message_id(event),
            event_type=event_type.name,
            body=body,
            state=WebhookDelivery.State.PENDING if endpoint.is_enabled else WebhookDelivery.State.CANCELED,
            next_attempt_at=now if endpoint.is_enabled else None,
            finished_at=None if endpoint.is_enabled else now,
            created_at=now,
        )
        for endpoint in wanted
    ]


def deliveries_claim(
    *, now: datetime, limit: int = AT_ONCE, per_endpoint: int = PER_ENDPOINT, per_account: int = PER_ACCOUNT
) -> list[Claim]:
    """Lease what is due: of each endpoint and account at most so many together with what is on its way already."""
    leased_until = now + timedelta(seconds=settings.WEBHOOK_TIMEOUT_SECONDS) + LEASE_GRACE
    with transaction.atomic():
        with connection.cursor() as cursor:
            # One claim after the other: two at once would each see the same room.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CLAIM_LOCK])
            room = {"limit": limit, "per_endpoint": per_endpoint, "per_account": per_account}
            cursor.execute(_CLAIM, {"now": now, **room})
            ids = [row[0] for row in cursor.fetchall()]
        if not ids:
            return []
        rows = WebhookDelivery.objects.select_for_update(skip_locked=True, of=("self",), no_key=True).select_related("endpoint")
        # Asked again under the lock: one may have been sent or canceled meanwhile.
        claimed = list(rows.filter(pk__in=ids, state=WebhookDelivery.State.PENDING).order_by("next_attempt_at", "pk"))
        WebhookDelivery.objects.filter(pk__in=[delivery.pk for delivery in claimed]).update(leased_until=leased_until)
    return [Claim(delivery.pk, leased_until, _message(delivery, now)) for delivery in claimed]


def _message(delivery: WebhookDelivery, at: datetime) -> Message:
    endpoint = delivery.endpoint
    headers = signed_headers(secrets=signing_secrets(endpoint, at), message_id=delivery.message_id, at=at, body=delivery.body)
    return Message(endpoint.url, delivery.body, headers)


def attempt_record(*, delivery_id: UUID, outcome: Outcome, now: datetime) -> WebhookDelivery | None:
    """Note how an attempt went and decide what follows; None for a delivery that is gone.

    Delivered; or tried again after a pause; or, after the last attempt and after 410 `gone`, given up. An endpoint that is
    gone, or that took nothing in all the time a delivery was tried, is disabled and its owners are told.
    """
    with transaction.atomic():
        # The endpoint first: the written lock order.
        endpoint = WebhookEndpoint.objects.select_for_update(no_key=True, of=("self",)).filter(deliveries=delivery_id).first()
        delivery = WebhookDelivery.objects.select_for_update(no_key=True).filter(pk=delivery_id).first()
        if endpoint is None or delivery is None:
            return None
        delivery.attempts += 1
        WebhookAttempt.objects.create(
            delivery=delivery,
            number=delivery.attempts,
            at=outcome.at,
            duration_ms=outcome.duration_ms,
            status=outcome.status,
            error=outcome.error,
            response=outcome.response,
        )
        delivery.last_status, delivery.last_error = outcome.status, outcome.error
        delivery.leased_until = None
        disable = ""
        # One that was canceled, or delivered by a worker taken for dead, stays what it is.
        if delivery.state == WebhookDelivery.State.PENDING:
            disable = _follow(delivery, endpoint, outcome, now)
        delivery.save()
        _note_health(endpoint, outcome, now)
        if disable:
            endpoint_disable(endpoint=endpoint, by=WebhookEndpoint.DisabledBy.SYSTEM, actor=SYSTEM, reason=disable)
    return delivery


def _follow(delivery: WebhookDelivery, endpoint: WebhookEndpoint, outcome: Outcome, now: datetime) -> str:
    """Move a pending delivery on after `outcome`; why its endpoint is to be disabled, empty when it is not."""
    state = WebhookDelivery.State
    given_up = outcome.error == "gone" or delivery.attempts > len(PAUSES)
    # A test says how things are now: it is not repeated for days.
    given_up = given_up or (delivery.kind == WebhookDelivery.Kind.TEST and delivery.attempts >= 3)
    if outcome.error and not given_up:
        pause = _jittered(PAUSES[delivery.attempts - 1])
        if outcome.retry_after_seconds is not None:
            pause = max(pause, min(timedelta(seconds=outcome.retry_after_seconds), RETRY_AFTER_MAX))
        delivery.next_attempt_at = now + pause
        return ""
    delivery.state = state.FAILED if outcome.error else state.DELIVERED
    delivery.next_attempt_at, delivery.finished_at = None, now
    if outcome.error == "gone":
        return "the endpoint answered 410 Gone"
    if not outcome.error or delivery.kind == WebhookDelivery.Kind.TEST:
        return ""
    silent = endpoint.last_success_at is None or endpoint.last_success_at < delivery.created_at
    return "nothing was accepted for three days" if silent else ""


def _note_health(endpoint: WebhookEndpoint, outcome: Outcome, now: datetime) -> None:
    if outcome.error:
        endpoint.last_failure_at = now
        endpoint.failing_since = endpoint.failing_since or now
    else:
        endpoint.last_success_at, endpoint.failing_since = now, None
    endpoint.save(update_fields=["last_failure_at", "last_success_at", "failing_since"])


def _jittered(pause: timedelta) -> timedelta:
    return pause * (100 + random.randint(-JITTER_PERCENT, JITTER_PERCENT)) / 100  # noqa: S311  spreads load, guards nothing


async def deliveries_send(
    *,
    claim_seconds: int,
    connections: Callable[[], aiohttp.TCPConnector] | None = None,
    alive: Callable[[], None] | None = None,
) -> int:
    """Send what is due until nothing is, or for `claim_seconds` and then what is on its way; how many attempts were made.

    `alive` is called once a second or more often. `connections` makes the connector (the checked one).
    """
    make = connections or (lambda: connector(loopback=settings.WEBHOOKS_ALLOW_LOOPBACK, limit=AT_ONCE))
    stop_at = time.monotonic() + claim_seconds
    running: set[asyncio.Task[None]] = set()
    attempts = 0
    async with aiohttp.ClientSession(
        connector=make(), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
    ) as session:
        while True:
            room = AT_ONCE - len(running)
            if room and time.monotonic() < stop_at:
                for claim in await sync_to_async(deliveries_claim)(now=clock.now(), limit=room):
                    running.add(asyncio.create_task(_attempt(session, claim)))
                    attempts += 1
            if not running:
                return attempts
            if alive is not None:
                await sync_to_async(alive)()
            await asyncio.wait(running, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            # Others that are nearly done make room for the same claim.
            done, running = await asyncio.wait(running, timeout=_CLAIM_PAUSE.total_seconds())
            for task in done:
                if (error := task.exception()) is not None:
                    # Its lease runs out and the message goes out again.
                    logger.error("a webhook's attempt could not be noted", exc_info=error)


async def _attempt(session: aiohttp.ClientSession, claim: Claim) -> None:
    outcome = await message_send(session, claim.message, at=clock.now(), timeout_seconds=settings.WEBHOOK_TIMEOUT_SECONDS)
    await sync_to_async(attempt_record)(delivery_id=claim.delivery_id, outcome=outcome, now=clock.now())


def deliveries_forget(*, now: datetime) -> int:
    """Delete what ended more than `WEBHOOK_DELIVERY_RETENTION_DAYS` ago, with its log; how many deliveries."""
    kept = timedelta(days=settings.WEBHOOK_DELIVERY_RETENTION_DAYS)
    old = WebhookDelivery.objects.filter(finished_at__lt=now - kept).values_list("pk", flat=True)
    count = 0
    while ids := list(old[:1000]):
        WebhookDelivery.objects.filter(pk__in=ids).delete()
        count += len(ids)
    return count
