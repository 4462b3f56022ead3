"""Everything that makes, changes or ends an endpoint, and what customers and operators ask of deliveries.

Lock order: account, endpoint, deliveries. Each function writes its event in the transaction of the change; no event, answer or
log line holds a secret.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from billing.accounts.models import Account
from billing.accounts.services import account_refusal, owners_mail_send, task_enqueue
from billing.events.models import Event
from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7
from iafactory.common.texts import Text

from .catalogue import CATALOGUE, TEST, body_of
from .destinations import url_checked
from .models import WebhookDelivery, WebhookEndpoint
from .signing import secret_make

ENDPOINTS_MAX = 20
SECRET_OVERLAP = timedelta(hours=24)
SECRET_OVERLAP_MAX = timedelta(days=7)
# Tests and replays of one endpoint: what a customer may have us send at will.
BY_HAND_A_MINUTE = 30
REPLAYS_AT_ONCE = 1000


def endpoint_create(
    *, account: Account, url: str, event_types: Sequence[str], actor: Actor, description: str = ""
) -> tuple[WebhookEndpoint, str]:
    """Register an address for these events of the catalogue; returns it with its secret, which is not shown again.

    Raises ApiError 400 `invalid_request` (param `url`, `event_types`), 409 `too_many_webhooks`, 403 `account_blocked`,
    `account_closed`.
    """
    url, event_types = _url(url), _event_types(event_types)
    secret = secret_make()
    with transaction.atomic():
        account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if account.status != Account.Status.ACTIVE:
            raise account_refusal(account)
        if WebhookEndpoint.objects.filter(account=account).count() >= ENDPOINTS_MAX:
            raise ApiError(
                409,
                "too_many_webhooks",
                Text(
                    "An account has at most %(limit)s webhook endpoint.",
                    "An account has at most %(limit)s webhook endpoints.",
                    limit=ENDPOINTS_MAX,
                ),
            )
        endpoint = WebhookEndpoint.objects.create(
            account=account, url=url, event_types=event_types, description=description, secret=secret
        )
        _event("created", endpoint, actor, after={"url": url, "event_types": event_types, "description": description})
    return endpoint, secret


def endpoint_change(
    *,
    endpoint: WebhookEndpoint,
    actor: Actor,
    url: str | None = None,
    event_types: Sequence[str] | None = None,
    description: str | None = None,
) -> WebhookEndpoint:
    """Change what is given; what waits goes to the new address. No change, no event. Raises as `endpoint_create`."""
    wanted: dict[str, Any] = {}
    if url is not None:
        wanted["url"] = _url(url)
    if event_types is not None:
        wanted["event_types"] = _event_types(event_types)
    if description is not None:
        wanted["description"] = description
    with transaction.atomic():
        endpoint = _endpoint_lock(endpoint)
        before = {name: getattr(endpoint, name) for name in wanted if getattr(endpoint, name) != wanted[name]}
        if before:
            for name in before:
                setattr(endpoint, name, wanted[name])
            endpoint.save(update_fields=list(before))
            _event("changed", endpoint, actor, before=before, after={name: wanted[name] for name in before})
    return endpoint


def endpoint_secret_rotate(
    *, endpoint: WebhookEndpoint, actor: Actor, overlap: timedelta = SECRET_OVERLAP
) -> tuple[WebhookEndpoint, str]:
    """A new secret, shown in this answer only; for `overlap` messages are signed with the one before too.

    Rotating again within an overlap ends the oldest at once. ApiError 400 `invalid_request` for an overlap outside 0 to 7 days.
    """
    if not timedelta(0) <= overlap <= SECRET_OVERLAP_MAX:
        raise ApiError(400, "invalid_request", "The overlap lies between 0 and 7 days.", param="overlap_seconds")
    secret = secret_make()
    with transaction.atomic():
        endpoint = _endpoint_lock(endpoint)
        until = clock.now() + overlap if overlap else None
        endpoint.previous_secret, endpoint.previous_secret_until = (endpoint.secret, until) if until else (None, None)
        endpoint.secret = secret
        endpoint.save(update_fields=["secret", "previous_secret", "previous_secret_until"])
        after = {"previous_secret_until": until.isoformat() if until else None}
        _event("secret_rotated", endpoint, actor, after=after)
    return endpoint, secret


def endpoint_delete(*, endpoint: WebhookEndpoint, actor: Actor) -> None:
    """Forget an endpoint with its deliveries; again is the same."""
    with transaction.atomic():
        found = WebhookEndpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
        if found is not None:
            _event("deleted", found, actor, before={"url": found.url, "event_types": found.event_types})
            found.delete()


def endpoint_disable(
    *,
    endpoint: WebhookEndpoint,
    by: WebhookEndpoint.DisabledBy,
    actor: Actor,
    reason: str = "",
) -> WebhookEndpoint:
    """Send nothing more to it; what waits is canceled and can be replayed. By the system: its owners are told by mail.

    Disabled before: an operator's word replaces the customer's or the system's, otherwise nothing changes.
    """
    with transaction.atomic():
        endpoint = _endpoint_lock(endpoint)
        now = clock.now()
        if not endpoint.is_enabled and (by != WebhookEndpoint.DisabledBy.OPERATOR or endpoint.disabled_by == by):
            return endpoint
        before = {"is_enabled": endpoint.is_enabled, "disabled_by": endpoint.disabled_by}
        endpoint.is_enabled = False
        endpoint.disabled_at, endpoint.disabled_by, endpoint.disabled_reason = now, by, reason[:300]
        endpoint.notice_due_at = now if by == WebhookEndpoint.DisabledBy.SYSTEM else None
        endpoint.save(update_fields=["is_enabled", "disabled_at", "disabled_by", "disabled_reason", "notice_due_at"])
        WebhookDelivery.objects.filter(endpoint=endpoint, state=WebhookDelivery.State.PENDING).update(
            state=WebhookDelivery.State.CANCELED, next_attempt_at=None, leased_until=None, finished_at=now
        )
        after = {"is_enabled": False, "disabled_by": by, "url": endpoint.url}
        _event("disabled", endpoint, actor, before=before, after=after, reason=reason)
        if endpoint.notice_due_at is not None:
            transaction.on_commit(lambda: task_enqueue("billing.webhooks.notices_send"))
    return endpoint


def endpoint_enable(*, endpoint: WebhookEndpoint, actor: Actor, by_operator: bool = False, reason: str = "") -> WebhookEndpoint:
    """Send to it again, from now on. Enabled already: no change.

    ApiError 409 `webhook_disabled_by_operator` where only an operator may.
    """
    with transaction.atomic():
        endpoint = _endpoint_lock(endpoint)
        if endpoint.is_enabled:
            return endpoint
        if endpoint.disabled_by == WebhookEndpoint.DisabledBy.OPERATOR and not by_operator:
            raise ApiError(409, "webhook_disabled_by_operator", "An operator disabled this endpoint. Please contact support.")
        before = {"is_enabled": False, "disabled_by": endpoint.disabled_by}
        endpoint.is_enabled = True
        endpoint.disabled_at, endpoint.disabled_by, endpoint.disabled_reason = None, "", ""
        endpoint.failing_since = endpoint.notice_due_at = None
        endpoint.save(
            update_fields=[
                *("is_enabled", "disabled_at", "disabled_by", "disabled_reason", "failing_since", "notice_due_at"),
            ]
        )
        after = {"is_enabled": True, "url": endpoint.url}
        _event("enabled", endpoint, actor, before=before, after=after, reason=reason)
    return endpoint


def endpoint_test(*, endpoint: WebhookEndpoint) -> WebhookDelivery:
    """Queue a message of the type `webhook.test`, whatever events were chosen.

    ApiError 409 `webhook_disabled`, 429 `rate_limited` above `BY_HAND_A_MINUTE`.
    """
    now = clock.now()
    with transaction.atomic():
        endpoint = _sendable(endpoint, now)
        identifier = uuid7()
        data = {"object": "webhook_endpoint", "id": str(endpoint.pk), "account_id": str(endpoint.account_id)}
        delivery = WebhookDelivery.objects.create(
            id=identifier,
            endpoint=endpoint,
            kind=WebhookDelivery.Kind.TEST,
            message_id=f"test_{identifier.hex}",
            event_type=TEST,
            body=body_of(TEST, now, data),
            next_attempt_at=now,
            created_at=now,
        )
        _deliver_soon()
    return delivery


def delivery_replay(*, delivery: WebhookDelivery, actor: Actor, reason: str = "") -> WebhookDelivery:
    """Send a finished delivery again, under the same `webhook-id`, as a delivery of its own.

    ApiError 409 `webhook_delivery_pending` while it, or a replay of it, still waits; 409 `webhook_disabled`; 429 `rate_limited`
    for customers above `BY_HAND_A_MINUTE`.
    """
    now = clock.now()
    with transaction.atomic():
        endpoint = _sendable(delivery.endpoint, now, limited=actor.kind != Event.ActorKind.OPERATOR)
        replay = _replay(delivery, endpoint, now)
        _event(
            "replayed",
            endpoint,
            actor,
            after={"delivery": str(delivery.pk), "event_type": delivery.event_type, "replay": str(replay.pk)},
            reason=reason,
        )
        _deliver_soon()
    return replay


def deliveries_replay(*, endpoint: WebhookEndpoint, since: datetime, actor: Actor, reason: str = "") -> int:
    """Replay what failed or was canceled since an instant and did not arrive by another way; oldest first, at most
    `REPLAYS_AT_ONCE`. Returns how many. Raises as `delivery_replay`."""
    now = clock.now()
    state = WebhookDelivery.State
    with transaction.atomic():
        endpoint = _sendable(endpoint, now)
        told = WebhookDelivery.objects.filter(endpoint=endpoint, state__in=(state.DELIVERED, state.PENDING))
        lost = (
            WebhookDelivery.objects.filter(endpoint=endpoint, state__in=(state.FAILED, state.CANCELED), created_at__gte=since)
            .exclude(kind=WebhookDelivery.Kind.TEST)
            .exclude(message_id__in=told.values("message_id"))
            .order_by("message_id", "created_at")
            .distinct("message_id")
        )
        replays = [_replay(delivery, endpoint, now) for delivery in lost[:REPLAYS_AT_ONCE]]
        if replays:
            after = {"since": since.isoformat(), "deliveries": len(replays)}
            _event("replayed", endpoint, actor, after=after, reason=reason)
            _deliver_soon()
    return len(replays)


def notices_send(*, now: datetime) -> int:
    """Mail the owners of endpoints that failures disabled, once each; how many endpoints. Raises the mail backend's errors.

    The mail goes out before it is noted: after a crash in between it is sent again rather than never.
    """
    due = WebhookEndpoint.objects.filter(notice_due_at__lte=now).select_related("account").order_by("notice_due_at")
    sent = 0
    for endpoint in due[:100]:
        # Taken for two minutes, so that two runs at once do not both send.
        taken = WebhookEndpoint.objects.filter(pk=endpoint.pk, notice_due_at=endpoint.notice_due_at)
        if not taken.update(notice_due_at=now + timedelta(minutes=2)):
            continue
        owners_mail_send(
            account=endpoint.account,
            template="webhook_disabled",
            context={"url": endpoint.url, "at": endpoint.disabled_at},
        )
        WebhookEndpoint.objects.filter(pk=endpoint.pk, notice_due_at=now + timedelta(minutes=2)).update(notice_due_at=None)
        sent += 1
    return sent


def _replay(delivery: WebhookDelivery, endpoint: WebhookEndpoint, now: datetime) -> WebhookDelivery:
    if delivery.state == WebhookDelivery.State.PENDING:
        raise _pending()
    try:
        with transaction.atomic():
            return WebhookDelivery.objects.create(
                endpoint=endpoint,
                kind=WebhookDelivery.Kind.REPLAY,
                event_id=delivery.event_id,
                replay_of=delivery,
                message_id=delivery.message_id,
                event_type=delivery.event_type,
                body=delivery.body,
                next_attempt_at=now,
                created_at=now,
            )
    except IntegrityError as error:
        if "webhookdelivery_one_replay_at_once" not in str(error):
            raise
        raise _pending() from None


def _pending() -> ApiError:
    return ApiError(409, "webhook_delivery_pending", "This delivery, or a replay of it, is still waiting to be sent.")


def _sendable(endpoint: WebhookEndpoint, now: datetime, *, limited: bool = True) -> WebhookEndpoint:
    """The locked endpoint, if it may be sent something by hand."""
    endpoint = _endpoint_lock(endpoint)
    if not endpoint.is_enabled:
        raise ApiError(409, "webhook_disabled", "The endpoint is disabled. Enable it first.")
    by_hand = WebhookDelivery.objects.filter(endpoint=endpoint, created_at__gt=now - timedelta(minutes=1)).exclude(
        kind=WebhookDelivery.Kind.EVENT
    )
    if limited and by_hand.count() >= BY_HAND_A_MINUTE:
        raise ApiError(
            429,
            "rate_limited",
            Text(
                "At most %(limit)s test or replay a minute.",
                "At most %(limit)s tests and replays a minute.",
                limit=BY_HAND_A_MINUTE,
            ),
            retry_after_seconds=60,
        )
    return endpoint


def _deliver_soon() -> None:
    transaction.on_commit(lambda: task_enqueue("billing.webhooks.deliver"))


def _endpoint_lock(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    # NO KEY: deliveries that point to it are inserted meanwhile.
    found = WebhookEndpoint.objects.select_for_update(no_key=True).filter(pk=endpoint.pk).first()
    if found is None:
        raise ApiError(404, "not_found", "There is no such object.")
    return found


def _url(url: str) -> str:
    return url_checked(url, loopback=settings.WEBHOOKS_ALLOW_LOOPBACK)


def _event_types(names: Sequence[str]) -> list[str]:
    unknown = sorted(set(names) - CATALOGUE.keys())
    if unknown:
        raise ApiError(
            400, "invalid_request", Text("There is no event %(event)s.", event=repr(unknown[0][:64])), param="event_types"
        )
    if not names:
        raise ApiError(400, "invalid_request", "Choose at least one event.", param="event_types")
    return sorted(set(names))


def _event(
    what: str,
    endpoint: WebhookEndpoint,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    event_record(
        kind=f"webhook_endpoint.{what}",
        object_type="webhook_endpoint",
        object_id=endpoint.pk,
        account_id=endpoint.account_id,
        actor=actor,
        before=before,
        after=after,
        reason=reason,
    )
