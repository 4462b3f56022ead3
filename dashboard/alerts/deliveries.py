"""From notices to messages that arrived: one row per target, claimed by one worker, tried again with back-off.

A worker leases what it sends. One that dies lets the lease run out and the message goes out again: at least once.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.accounts.services import task_enqueue
from iafactory.common import clock

from .models import ERROR_LENGTH, RANK, Alert, AlertDelivery, AlertRule, AlertTarget, Level
from .quiet import quiet_end
from .sending import Message, Outcome, message_send

logger = logging.getLogger(__name__)

DELIVER_TASK = "dashboard.alerts.deliver"
# What is waited before the second, third … attempt; then the message is given up.
PAUSES = (
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=2),
)
# At once, and per claim: a target that hangs takes half a minute of one of these.
AT_ONCE = 4
CLAIM = 16
LEASE = timedelta(minutes=5)

_WORDS = {
    AlertDelivery.Occasion.OPENED: "",
    AlertDelivery.Occasion.WORSE: _("worse"),
    AlertDelivery.Occasion.REMINDER: _("still open"),
    AlertDelivery.Occasion.RESOLVED: _("resolved"),
}
_LEVELS = {Level.INFO: _("info"), Level.WARNING: _("warning"), Level.CRITICAL: _("critical")}
_KINDS = {Level.INFO: "info", Level.WARNING: "warning", Level.CRITICAL: "failure"}


def notice_queue(alert: Alert, rule: AlertRule, occasion: AlertDelivery.Occasion, *, now: datetime) -> int:
    """Write one message per target that is to be told, inside the transaction of what happened to the alert; how many.

    In quiet hours they wait until these are over. What is over is told to those alone who heard of it.
    """
    targets = _heard(alert) if occasion is AlertDelivery.Occasion.RESOLVED else _targets(rule, alert.level)
    alert.notices += 1
    alert.notified_at = now
    if not targets:
        return 0
    begins = quiet_end(rule, level=alert.level, now=now) or now
    word = _WORDS[occasion]
    level = str(_LEVELS[Level(alert.level)])
    marks = ", ".join(part for part in (level, str(word)) if part)
    title = f"[{marks}] {alert.title}"
    AlertDelivery.objects.bulk_create(
        AlertDelivery(
            alert=alert,
            target=target,
            occasion=occasion,
            number=alert.notices,
            level=alert.level,
            title=title[:250],
            body=_body(alert, rule, occasion, now),
            next_attempt_at=begins,
            created_at=now,
        )
        for target in targets
    )
    transaction.on_commit(lambda: task_enqueue(DELIVER_TASK))
    return len(targets)


def _targets(rule: AlertRule, level: str) -> list[AlertTarget]:
    """Enabled targets of the rule, else the default ones, that take alerts of this level."""
    own = list(rule.targets.defer("address").order_by("name"))
    chosen = own or list(AlertTarget.objects.filter(is_default=True).defer("address").order_by("name"))
    return [target for target in chosen if target.is_enabled and RANK[target.minimum_level] <= RANK[level]]


def _heard(alert: Alert) -> list[AlertTarget]:
    """Enabled targets to which something about this alert went out, or may be going out; what waits is canceled."""
    waiting = alert.deliveries.select_for_update().filter(state=AlertDelivery.State.PENDING)
    untold = [delivery.pk for delivery in waiting if delivery.attempts == 0 and delivery.leased_until is None]
    AlertDelivery.objects.filter(pk__in=untold).update(
        state=AlertDelivery.State.CANCELED, next_attempt_at=None, finished_at=clock.now()
    )
    told = alert.deliveries.exclude(state__in=(AlertDelivery.State.CANCELED, AlertDelivery.State.FAILED))
    targets = AlertTarget.objects.filter(pk__in=told.order_by().values("target"), is_enabled=True)
    return list(targets.defer("address").order_by("name"))


def _body(alert: Alert, rule: AlertRule, occasion: AlertDelivery.Occasion, now: datetime) -> str:
    lines = [alert.text] if alert.text else []
    since = f"{alert.opened_at:%Y-%m-%d %H:%M} UTC"
    if occasion is AlertDelivery.Occasion.RESOLVED:
        told = {"end": f"{now:%Y-%m-%d %H:%M} UTC", "since": since}
        lines.append(gettext("Over since %(end)s; it began %(since)s.") % told)
    else:
        lines.append(gettext("Since %(since)s. Rule: %(rule)s.") % {"since": since, "rule": str(rule)})
    lines.append(f"{settings.PUBLIC_URL}{alert.link}")
    return "\n\n".join(lines)


@dataclass(frozen=True, slots=True)
class Claim:
    """A message this worker may send. `address` is empty where it cannot be read."""

    delivery_id: UUID
    address: str
    message: Message


def deliveries_claim(*, now: datetime, limit: int = CLAIM) -> list[Claim]:
    """Lease what is due and nobody else sends."""
    with transaction.atomic():
        due = AlertDelivery.objects.filter(
            state=AlertDelivery.State.PENDING, next_attempt_at__lte=now, target__is_enabled=True
        ).exclude(leased_until__gt=now)
        rows = list(due.select_for_update(skip_locked=True, of=("self",)).order_by("next_attempt_at", "pk")[:limit])
        AlertDelivery.objects.filter(pk__in=[row.pk for row in rows]).update(leased_until=now + LEASE)
    addresses = {row.target_id: _address(row.target_id) for row in rows}
    return [Claim(row.pk, addresses[row.target_id], message_of(row)) for row in rows]


def _address(target_id: UUID) -> str:
    try:
        return AlertTarget.objects.values_list("address", flat=True).get(pk=target_id)
    except InvalidToken:
        return ""


def message_of(delivery: AlertDelivery) -> Message:
    """What is sent; Apprise paints it by its kind."""
    resolved = delivery.occasion == AlertDelivery.Occasion.RESOLVED
    return Message(delivery.title, delivery.body, "success" if resolved else _KINDS[Level(delivery.level)])


def attempt_record(*, delivery_id: UUID, outcome: Outcome, now: datetime) -> AlertDelivery | None:
    """Note how an attempt went: sent, tried again after a pause, or given up. None for a delivery that is gone."""
    with transaction.atomic():
        delivery = AlertDelivery.objects.select_for_update().filter(pk=delivery_id).first()
        if delivery is None:
            return None
        delivery.attempts += 1
        delivery.last_error = outcome.error[:ERROR_LENGTH]
        delivery.leased_until = None
        # One that was sent by a worker taken for dead stays what it is.
        if delivery.state == AlertDelivery.State.PENDING:
            if not outcome.error:
                delivery.state = AlertDelivery.State.SENT
            elif delivery.attempts > len(PAUSES):
                delivery.state = AlertDelivery.State.FAILED
            if delivery.state == AlertDelivery.State.PENDING:
                delivery.next_attempt_at = now + PAUSES[delivery.attempts - 1]
            else:
                delivery.next_attempt_at, delivery.finished_at = None, now
        delivery.save()
    if outcome.error:
        logger.warning("an alert was not delivered to target %s: %s", delivery.target_id, outcome.error)
    return delivery


def deliveries_send(*, claim_limit: int = CLAIM) -> int:
    """Send what is due, several at once, until nothing is; how many attempts were made. A target that hangs or fails stops
    no other."""
    attempts = 0
    while claims := deliveries_claim(now=clock.now(), limit=claim_limit):
        attempts += len(claims)
        _send(claims)
    return attempts


def _send(claims: Sequence[Claim]) -> None:
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="alert") as pool:
        sent = {pool.submit(_attempt, claim): claim for claim in claims}
        for future in as_completed(sent):
            attempt_record(delivery_id=sent[future].delivery_id, outcome=future.result(), now=clock.now())


def _attempt(claim: Claim) -> Outcome:
    if not claim.address:
        return Outcome("", "address_unreadable")
    try:
        return message_send(claim.address, claim.message)
    except Exception as error:
        # The words of an error may hold the address.
        return Outcome("", type(error).__name__)


def alerts_forget(*, now: datetime) -> int:
    """Delete alerts that were resolved, and tests that were made, more than `ALERT_RETENTION_DAYS` ago; how many alerts."""
    kept = timedelta(days=settings.ALERT_RETENTION_DAYS)
    AlertDelivery.objects.filter(alert__isnull=True, created_at__lt=now - kept).delete()
    count = 0
    old = Alert.objects.filter(state=Alert.State.RESOLVED, resolved_at__lt=now - kept).values_list("pk", flat=True)
    while ids := list(old[:500]):
        Alert.objects.filter(pk__in=ids).delete()
        count += len(ids)
    return count
