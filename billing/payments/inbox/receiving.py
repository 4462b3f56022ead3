"""Taking webhooks in: stored as they arrive, then verified over those very bytes, then worked by somebody else."""

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import F

from billing.accounts.services import task_enqueue
from billing.payments.configuration import gateway_configured
from billing.payments.gateways.base import GatewayUnavailable, Rejection, WebhookEvent, WebhookRejected, Webhooks
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import GatewayWebhook

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
_MAX_HEADER_CHARS = 2000
_REJECTED_BODY_BYTES = 4096
# Kept beside those that verification needs.
_HEADERS = ("content-type", "user-agent", "content-length")
# Who verified and stored has this long to hand it over; then the sweeper takes it.
_HAND_OVER = timedelta(seconds=30)


def body_too_large() -> ApiError:
    """The refusal of a webhook above `MAX_BODY_BYTES`."""
    return ApiError(
        413,
        "body_too_large",
        Text("The webhook is larger than %(limit)s byte.", "The webhook is larger than %(limit)s bytes.", limit=MAX_BODY_BYTES),
    )


def webhook_receive(
    *, gateway: str, body: bytes, headers: Mapping[str, str], token: str, address: str | None, at: datetime
) -> GatewayWebhook:
    """Store a webhook, verify it, and have it worked. A repetition is counted on the first, which is answered.

    `headers` by lower-case name; `token` stood in the address. One whose certificate cannot be had now stays unverified, and
    the sweeper tries again. Raises ApiError 404 for a gateway without settings, 413 above 1 MiB, 400 `webhook_rejected`.
    """
    adapter = gateway_configured(gateway)
    if not isinstance(adapter, Webhooks):
        raise ApiError(404, "not_found", "There is no such payment gateway.")
    if len(body) > MAX_BODY_BYTES:
        raise body_too_large()
    kept = (*adapter.webhook_headers, *_HEADERS)
    row = GatewayWebhook.objects.create(
        gateway=gateway,
        mode=adapter.mode,
        received_at=at,
        source_address=address,
        headers={name: _printable(headers[name]) for name in kept if name in headers},
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
        next_attempt_at=at + _HAND_OVER,
    )
    return webhook_verify(row, headers=headers, token=token)


def webhook_verify(row: GatewayWebhook, *, headers: Mapping[str, str], token: str = "") -> GatewayWebhook:
    """Decide whether a stored webhook is the gateway's word, as of when it arrived; the verified are enqueued.

    Answers the row of the event, which is another one for a repetition. Raises ApiError 400 `webhook_rejected`.
    """
    adapter = gateway_configured(row.gateway)
    assert isinstance(adapter, Webhooks)
    try:
        event = adapter.read_webhook(bytes(row.body), headers, now=row.received_at, token=token)
    except WebhookRejected as rejected:
        _reject(row, rejected.reason)
        raise ApiError(400, "webhook_rejected", "This is not the gateway's word.") from None
    except GatewayUnavailable:
        logger.warning("webhook %s cannot be verified now", row.pk)
        return row
    return _accept(row, event)


def _reject(row: GatewayWebhook, reason: Rejection) -> None:
    row.state, row.rejection, row.next_attempt_at = GatewayWebhook.State.REJECTED, reason.value, None
    # Strangers shall not fill the disk; the hash still tells the whole.
    row.body = bytes(row.body)[:_REJECTED_BODY_BYTES]
    row.save(update_fields=["state", "rejection", "next_attempt_at", "body"])


def _accept(row: GatewayWebhook, event: WebhookEvent) -> GatewayWebhook:
    """Write down what a verified webhook says. The same event in other bytes is an event of its own: it may lead elsewhere."""
    for event_id in (event.event_id[:200], f"{event.event_id[:200]}~{row.body_sha256[:16]}"):
        first = GatewayWebhook.objects.filter(gateway=row.gateway, event_id=event_id, verified_at__isnull=False).first()
        if first is None:
            try:
                with transaction.atomic():
                    _write(row, event, event_id)
            except IntegrityError:
                first = GatewayWebhook.objects.get(gateway=row.gateway, event_id=event_id, verified_at__isnull=False)
            else:
                return row
        if first.body_sha256 == row.body_sha256:
            return _count_again(first, row)
    raise AssertionError("two different bodies have one hash")


def _write(row: GatewayWebhook, event: WebhookEvent, event_id: str) -> None:
    row.verified_at = row.received_at
    row.signed = event.signed
    row.event_id = event_id
    row.event_type = event.type[:100]
    row.subject = event.subject.value
    row.reference = event.reference[:64]
    row.checkout_id = event.checkout_id[:128]
    row.gateway_payment_id = event.payment_id[:128]
    row.refund_id = event.refund_id[:128]
    row.dispute_id = event.dispute_id[:128]
    row.save()
    row_id = str(row.pk)
    transaction.on_commit(lambda: task_enqueue("billing.payments.webhook_work", row_id))


def _count_again(first: GatewayWebhook, again: GatewayWebhook) -> GatewayWebhook:
    """A repetition leaves a number, not a row."""
    GatewayWebhook.objects.filter(pk=first.pk).update(deliveries=F("deliveries") + 1)
    again.delete()
    return first


def _printable(value: str) -> str:
    return value[:_MAX_HEADER_CHARS].encode("ascii", "backslashreplace").decode().replace("\0", "")
