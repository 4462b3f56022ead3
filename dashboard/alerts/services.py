"""Looking at every rule, and what follows: alerts open, get worse, are told again, and are resolved."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import translation
from django.utils.translation import gettext as _

from billing.events.services import SYSTEM, Actor, event_record
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .conditions import CONDITIONS, Finding
from .deliveries import notice_queue
from .models import ERROR_LENGTH, RANK, Alert, AlertDelivery, AlertRule, AlertTarget, Level, thresholds_of
from .quiet import quiet_end
from .sending import Message, Outcome, message_send, service_of

logger = logging.getLogger(__name__)

# Of one rule so many subjects are told one by one: a hundred broken routes are one sentence.
MOST_SUBJECTS = 30
LONGEST_SILENCE = timedelta(days=30)


@dataclass(slots=True)
class Looked:
    """What a look over rules did."""

    rules: int = 0
    opened: int = 0
    resolved: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"{self.rules} rules, {self.opened} opened, {self.resolved} resolved, {self.failed} failed"


def rules_look(*, now: datetime, kinds: Collection[str] | None = None) -> Looked:
    """Look at every enabled rule of these kinds (all by default) and bring its alerts into line.

    Any number may look at once: an alert opens once, and a look that began earlier than one already noted changes nothing. A
    rule that cannot be looked at stops no other.
    """
    # Whoever looks, a worker or a watch: what is sent is read by all operators.
    with translation.override(settings.ALERTS_LANGUAGE):
        return _rules_look(now, kinds)


def _rules_look(now: datetime, kinds: Collection[str] | None) -> Looked:
    looked = Looked()
    rules = AlertRule.objects.order_by("code")
    for rule in rules if kinds is None else rules.filter(kind__in=kinds):
        looked.rules += 1
        if not rule.is_enabled:
            looked.resolved += _findings_apply(rule.pk, None, now)[1]
            continue
        condition = CONDITIONS[rule.kind]
        try:
            findings = condition.look(thresholds_of(rule, dict(condition.thresholds)), now)
        except Exception as error:
            logger.exception("alert rule %s cannot be looked at", rule.code)
            AlertRule.objects.filter(pk=rule.pk).update(look_error=f"{type(error).__name__}: {error}"[:200])
            looked.failed += 1
            continue
        if findings is None:
            continue
        opened, resolved = _findings_apply(rule.pk, _bounded(findings), now)
        looked.opened += opened
        looked.resolved += resolved
    return looked


def kinds_of(*, seldom: bool) -> list[str]:
    """Kinds that tasks look at: with the budgets, or the others."""
    return [str(kind) for kind, condition in CONDITIONS.items() if condition.seldom is seldom and not condition.watched]


def _bounded(findings: Sequence[Finding]) -> list[Finding]:
    if len(findings) <= MOST_SUBJECTS:
        return list(findings)
    rest = findings[MOST_SUBJECTS:]
    worst = max((finding.level for finding in rest if finding.level), key=RANK.__getitem__, default=None)
    title = Text("%(count)s more of the same", count=len(rest))
    more = Finding("more", title, level=worst, step=0, figures={"more": len(rest)}, link=rest[0].link)
    return [*findings[:MOST_SUBJECTS], more]


def _findings_apply(rule_id: int, findings: Sequence[Finding] | None, now: datetime) -> tuple[int, int]:
    """Open, follow and resolve a rule's alerts; how many were opened and resolved. None: the rule is switched off."""
    with transaction.atomic():
        rule = AlertRule.objects.select_for_update(no_key=True).get(pk=rule_id)
        if rule.is_enabled is (findings is None):
            return 0, 0
        if rule.looked_at is not None and rule.looked_at > now:
            return 0, 0
        standing = {alert.subject: alert for alert in rule.alerts.select_for_update().filter(state=Alert.State.OPEN)}
        opened = 0
        for finding in findings or ():
            alert = standing.pop(finding.subject[:200], None)
            if alert is None:
                _open(rule, finding, now)
                opened += 1
            else:
                _follow(alert, rule, finding, now)
        for alert in standing.values():
            _resolve(alert, rule, now, told=findings is not None)
        if findings is not None:
            rule.looked_at, rule.look_error = now, ""
            rule.save(update_fields=["looked_at", "look_error"])
    return opened, len(standing)


def _open(rule: AlertRule, finding: Finding, now: datetime) -> None:
    alert = Alert(rule=rule, subject=finding.subject[:200], opened_at=now)
    _take(alert, rule, finding, now)
    alert.save()
    notice_queue(alert, rule, AlertDelivery.Occasion.OPENED, now=now)
    alert.save(update_fields=["notices", "notified_at"])
    after = {"rule": rule.code, "subject": alert.subject, "level": alert.level, "title": alert.title}
    event_record(kind="alert.opened", object_type="alert", object_id=alert.pk, actor=SYSTEM, after=after)


def _take(alert: Alert, rule: AlertRule, finding: Finding, now: datetime) -> None:
    alert.level = str(finding.level or rule.level)
    alert.step = finding.step
    texts = [finding.text] if isinstance(finding.text, Text) else finding.text
    alert.words = {"title": finding.title.stored(), "text": [text.stored() for text in texts]}
    alert.title = alert.shown_title[:200]
    alert.text = alert.shown_text
    alert.figures = dict(finding.figures)
    alert.link = finding.link[:500]
    alert.last_seen_at = now


def _follow(alert: Alert, rule: AlertRule, finding: Finding, now: datetime) -> None:
    level, step = alert.level, alert.step
    _take(alert, rule, finding, now)
    if RANK[alert.level] > RANK[level] or (alert.step > step and RANK[alert.level] >= RANK[level]):
        # Who acknowledged what it was has not seen this.
        alert.silenced_until = None
        notice_queue(alert, rule, AlertDelivery.Occasion.WORSE, now=now)
    elif _reminder_due(alert, rule, now):
        notice_queue(alert, rule, AlertDelivery.Occasion.REMINDER, now=now)
    alert.save()


def _reminder_due(alert: Alert, rule: AlertRule, now: datetime) -> bool:
    if not rule.repeat_minutes or alert.notified_at is None:
        return False
    if alert.silenced_until is not None and alert.silenced_until > now:
        return False
    if now - alert.notified_at < timedelta(minutes=rule.repeat_minutes):
        return False
    return quiet_end(rule, level=alert.level, now=now) is None


def _resolve(alert: Alert, rule: AlertRule, now: datetime, *, told: bool) -> None:
    alert.state, alert.resolved_at = Alert.State.RESOLVED, now
    if told:
        notice_queue(alert, rule, AlertDelivery.Occasion.RESOLVED, now=now)
    alert.save()
    event_record(
        kind="alert.resolved",
        object_type="alert",
        object_id=alert.pk,
        actor=SYSTEM,
        after={"rule": rule.code, "subject": alert.subject, "title": alert.title},
    )


# --- What operators do ---


def alert_acknowledge(alert_id: UUID, *, until: datetime, actor: Actor, reason: str) -> Alert:
    """Stop repeating an open alert until `until`; that it got worse, or is over, is told all the same.

    Raises ApiError 400 `invalid_request` without a reason or for a time that is past or too far, 409 `alert_resolved`.
    """
    now = clock.now()
    if not reason.strip():
        raise ApiError(400, "invalid_request", "Say why.", param="reason")
    if not now < until <= now + LONGEST_SILENCE:
        raise ApiError(400, "invalid_request", "Until a time of the next 30 days.", param="until")
    with transaction.atomic():
        alert = Alert.objects.select_for_update(no_key=True).get(pk=alert_id)
        if alert.state != Alert.State.OPEN:
            raise ApiError(409, "alert_resolved", "The alert is resolved already.")
        before = {"silenced_until": alert.silenced_until.isoformat() if alert.silenced_until else None}
        alert.silenced_until = until
        alert.acknowledged_by = actor.label
        alert.acknowledged_reason = reason.strip()[:200]
        alert.save(update_fields=["silenced_until", "acknowledged_by", "acknowledged_reason"])
        event_record(
            kind="alert.acknowledged",
            object_type="alert",
            object_id=alert.pk,
            actor=actor,
            before=before,
            after={"silenced_until": until.isoformat(), "title": alert.title},
            reason=reason.strip(),
        )
    return alert


def target_service(address: str) -> str:
    """The name of the service behind a target's address. Raises ValidationError for one that cannot be used."""
    service = service_of(address.strip())
    if service is None:
        raise ValidationError(_("This is neither an e-mail address nor an address that Apprise offers here."))
    return service


def target_test(target_id: UUID, *, actor: Actor) -> AlertDelivery:
    """Send a real message to a target now; the delivery says how it went. No database connection is used meanwhile."""
    target = AlertTarget.objects.get(pk=target_id)
    title = "[test] IA Factory"
    with translation.override(settings.ALERTS_LANGUAGE):
        body = _("This is a test. Alerts of IA Factory arrive here: %(name)s.") % {"name": target.name}
    outcome: Outcome = message_send(target.address, Message(title, body))
    now = clock.now()
    with transaction.atomic():
        delivery = AlertDelivery.objects.create(
            target=target,
            occasion=AlertDelivery.Occasion.TEST,
            level=Level.INFO,
            title=title,
            body=body,
            state=AlertDelivery.State.FAILED if outcome.error else AlertDelivery.State.SENT,
            attempts=1,
            last_error=outcome.error[:ERROR_LENGTH],
            created_at=now,
            finished_at=now,
        )
        AlertTarget.objects.filter(pk=target.pk).update(tested_at=now, test_result=outcome.error[:ERROR_LENGTH])
        event_record(
            kind="alert_target.tested",
            object_type="alert_target",
            object_id=target.pk,
            actor=actor,
            after={"target": target.name, "error": outcome.error},
        )
    return delivery


def thresholds_checked(kind: str, values: Any) -> dict[str, int]:
    """Thresholds of a rule: whole numbers, not negative, of names its kind has. Raises ValidationError."""
    known = CONDITIONS[kind].thresholds
    if not isinstance(values, dict):
        raise ValidationError(_("Thresholds are names with whole numbers."))
    if unknown := sorted(set(values) - set(known)):
        told = {"unknown": ", ".join(unknown), "known": ", ".join(known) or "–"}
        raise ValidationError(_("Unknown: %(unknown)s. There are: %(known)s.") % told)
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000_000:
            raise ValidationError(_("%(name)s is a whole number that is not negative.") % {"name": name})
    return values
