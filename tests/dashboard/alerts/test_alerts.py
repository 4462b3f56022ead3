"""An alert's life: opened and told once, told again, worse, acknowledged, resolved; quiet hours; messages and retries."""

import json
from datetime import datetime, time, timedelta
from typing import Any

import pytest
from freezegun import freeze_time
from pytest_django import Settings

from billing.events.models import Event
from billing.events.services import Actor
from dashboard.alerts import deliveries
from dashboard.alerts.conditions import CONDITIONS, Condition
from dashboard.alerts.deliveries import PAUSES, alerts_forget, attempt_record, deliveries_claim, deliveries_send
from dashboard.alerts.models import Alert, AlertDelivery, AlertRule, AlertTarget
from dashboard.alerts.quiet import quiet_end
from dashboard.alerts.selectors import alert_figures, open_alerts
from dashboard.alerts.sending import Outcome
from dashboard.alerts.services import alert_acknowledge, rules_look
from dashboard.jobs.models import JobState
from iafactory.common.errors import ApiError
from tests.billing.webhooks.receiver import Receiver

from .conftest import JOB, NOON, Target, job_fails, job_goes_well, json_address, look, told

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
OPERATOR = Actor(Event.ActorKind.OPERATOR, label="operator@example.com")


def send_at(at: datetime) -> int:
    with freeze_time(at):
        return deliveries_send()


# --- Open, told, resolved ---


def test_what_is_wrong_opens_one_alert_and_is_told_once(rule: AlertRule, target: Target, receiver: Receiver) -> None:
    target()
    job_fails()

    first, second = look(), look(NOON + timedelta(minutes=2))
    sent = send_at(NOON + timedelta(minutes=2))

    alert = Alert.objects.get()
    assert (first.opened, second.opened, sent) == (1, 0, 1)
    assert (alert.subject, alert.level, alert.state, alert.notices) == (JOB, "warning", "open", 1)
    assert (alert.opened_at, alert.last_seen_at) == (NOON, NOON + timedelta(minutes=2))
    body = json.loads(receiver.requests[0].body)
    assert body["title"] == "[warning] Job seal-days fails"
    assert body["message"] == (
        "It last ended well: 2026-11-20 11:00 UTC. OSError: no disk\n\nSince 2026-11-20 12:00 UTC. Rule: A job fails.\n\n"
        "http://127.0.0.1:8000/admin/django_celery_beat/periodictask/?q=seal-days"
    )
    assert list(Event.objects.filter(object_type="alert").values_list("kind", "object_id")) == [("alert.opened", str(alert.pk))]


def test_what_is_over_is_resolved_and_told_to_who_heard_of_it(rule: AlertRule, target: Target, receiver: Receiver) -> None:
    heard = target("heard")
    job_fails()
    look()
    send_at(NOON)
    target("new")
    job_goes_well(NOON + HOUR)

    looked = look(NOON + HOUR)
    send_at(NOON + HOUR)

    alert = Alert.objects.get()
    assert looked.resolved == 1
    assert (alert.state, alert.resolved_at) == ("resolved", NOON + HOUR)
    assert told(alert) == [("opened", "heard"), ("resolved", heard.name)]
    assert [json.loads(request.body)["type"] for request in receiver.requests] == ["warning", "success"]
    assert json.loads(receiver.requests[1].body)["title"] == "[warning, resolved] Job seal-days fails"
    assert Event.objects.filter(kind="alert.resolved").count() == 1


def test_what_is_over_before_it_was_sent_is_not_told_at_all(rule: AlertRule, target: Target, receiver: Receiver) -> None:
    target()
    job_fails()
    look()
    job_goes_well(NOON + HOUR)
    look(NOON + HOUR)

    assert send_at(NOON + HOUR) == 0
    assert receiver.requests == []
    assert list(AlertDelivery.objects.values_list("occasion", "state")) == [("opened", "canceled")]


def test_what_comes_back_is_a_new_alert(rule: AlertRule) -> None:
    job_fails()
    look()
    job_goes_well(NOON + HOUR)
    look(NOON + HOUR)
    job_fails(NOON + 2 * HOUR)

    look(NOON + 2 * HOUR)

    assert list(Alert.objects.order_by("opened_at").values_list("state", "opened_at")) == [
        ("resolved", NOON),
        ("open", NOON + 2 * HOUR),
    ]


def test_it_is_told_again_after_the_interval_and_not_before(rule: AlertRule, target: Target) -> None:
    target()
    job_fails()

    look()
    look(NOON + timedelta(minutes=59))
    look(NOON + timedelta(minutes=60))
    look(NOON + timedelta(minutes=119))

    assert told(Alert.objects.get()) == [("opened", "ops"), ("reminder", "ops")]


def test_a_rule_without_interval_tells_once(rule: AlertRule, target: Target) -> None:
    AlertRule.objects.update(repeat_minutes=0)
    target()
    job_fails()

    look()
    look(NOON + 48 * HOUR)

    assert told(Alert.objects.get()) == [("opened", "ops")]


def test_an_acknowledged_alert_is_silent_until_its_time_or_until_it_gets_worse(rule: AlertRule, target: Target) -> None:
    target()
    late = NOON - timedelta(minutes=45)
    JobState.objects.create(task="billing.ledger.roll_due_wallets", state="done", started_at=late, succeeded_at=late)
    look()
    alert = Alert.objects.get()
    with freeze_time(NOON):
        alert_acknowledge(alert.pk, until=NOON + 6 * HOUR, actor=OPERATOR, reason="Disk is on its way")

    look(NOON + 2 * HOUR)
    silent = told(alert)
    JobState.objects.update(state="failed", result="OSError: no disk")
    look(NOON + 3 * HOUR)
    look(NOON + 4 * HOUR)

    assert silent == [("opened", "ops")]
    assert told(alert) == [("opened", "ops"), ("worse", "ops"), ("reminder", "ops")]
    event = Event.objects.get(kind="alert.acknowledged")
    assert (event.reason, event.actor_label, event.object_id) == (
        "Disk is on its way",
        "operator@example.com",
        str(alert.pk),
    )


@pytest.mark.parametrize(
    ("reason", "until", "code", "param"),
    [
        ("  ", NOON + HOUR, "invalid_request", "reason"),
        ("x", NOON, "invalid_request", "until"),
        ("x", NOON + timedelta(days=30, seconds=1), "invalid_request", "until"),
    ],
)
def test_an_acknowledgement_needs_a_reason_and_a_time(
    rule: AlertRule, reason: str, until: datetime, code: str, param: str
) -> None:
    job_fails()
    look()
    alert = Alert.objects.get()

    with freeze_time(NOON), pytest.raises(ApiError) as caught:
        alert_acknowledge(alert.pk, until=until, actor=OPERATOR, reason=reason)

    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert not Event.objects.filter(kind="alert.acknowledged").exists()


def test_a_resolved_alert_is_not_acknowledged(rule: AlertRule) -> None:
    job_fails()
    look()
    job_goes_well(NOON + HOUR)
    look(NOON + HOUR)

    with freeze_time(NOON + HOUR), pytest.raises(ApiError) as caught:
        alert_acknowledge(Alert.objects.get().pk, until=NOON + 2 * HOUR, actor=OPERATOR, reason="x")

    assert (caught.value.status, caught.value.code) == (409, "alert_resolved")


def test_a_rule_switched_off_closes_its_alerts_and_tells_nobody(rule: AlertRule, target: Target) -> None:
    target()
    job_fails()
    look()
    send_at(NOON)
    AlertRule.objects.update(is_enabled=False)

    look(NOON + HOUR)

    alert = Alert.objects.get()
    assert (alert.state, told(alert)) == ("resolved", [("opened", "ops")])


def test_a_look_that_began_earlier_changes_nothing(rule: AlertRule) -> None:
    job_fails()
    look(NOON + HOUR)
    JobState.objects.all().delete()

    look(NOON)

    assert Alert.objects.get().state == "open"


def test_a_rule_that_cannot_be_looked_at_stops_no_other(rule: AlertRule, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Condition(lambda thresholds, now: 1 / 0, {})  # type: ignore[arg-type,return-value]
    monkeypatch.setattr("dashboard.alerts.services.CONDITIONS", {**CONDITIONS, "abuse": broken})
    AlertRule.objects.create(code="a-broken", name="Broken", kind="abuse")
    job_fails()

    looked = rules_look(now=NOON, kinds=["abuse", "jobs"])

    assert (looked.rules, looked.opened, looked.failed) == (2, 1, 1)
    assert AlertRule.objects.get(code="a-broken").look_error == "ZeroDivisionError: division by zero"


def test_what_cannot_be_told_leaves_alerts_as_they_are(rule: AlertRule, monkeypatch: pytest.MonkeyPatch) -> None:
    job_fails()
    look()
    unknown = Condition(lambda thresholds, now: None, {})
    monkeypatch.setattr("dashboard.alerts.services.CONDITIONS", {**CONDITIONS, "jobs": unknown})

    look(NOON + HOUR)

    assert Alert.objects.get().state == "open"


def test_a_hundred_subjects_are_not_a_hundred_alerts(rule: AlertRule, settings: Settings) -> None:
    schedule: dict[str, dict[str, Any]] = {
        f"job-{number:03}": {"task": f"tests.{number}", "schedule": 3600.0} for number in range(100)
    }
    settings.CELERY_BEAT_SCHEDULE = schedule
    JobState.objects.bulk_create(
        JobState(task=entry["task"], state="failed", started_at=NOON, result="no disk") for entry in schedule.values()
    )

    looked = look()

    assert looked.opened == 31
    assert Alert.objects.get(subject="more").title == "70 more of the same"


# --- Whom it is told to ---


def test_a_rule_tells_its_own_targets_else_the_default_ones(rule: AlertRule, target: Target) -> None:
    target("default")
    target("other", is_default=False)
    target("off", is_enabled=False)
    own = target("own", is_default=False)
    job_fails()
    look()
    rule.targets.add(own)
    job_fails(task="billing.ledger.verify_books")

    look(NOON + timedelta(minutes=1))

    found = {alert.subject: told(alert) for alert in Alert.objects.all()}
    assert found == {"seal-days": [("opened", "default")], "verify-books": [("opened", "own")]}


def test_a_target_gets_what_is_grave_enough_for_it(rule: AlertRule, target: Target) -> None:
    target("everything", minimum_level="info")
    target("telephone", minimum_level="critical")
    job_fails()
    look()
    AlertRule.objects.update(level="critical")

    look(NOON + timedelta(minutes=1))

    assert told(Alert.objects.get()) == [("opened", "everything"), ("worse", "everything"), ("worse", "telephone")]


# --- Quiet hours ---


@pytest.mark.parametrize(
    ("at", "end"),
    [
        ("2026-11-20T20:59:59+00:00", None),
        ("2026-11-20T21:00:00+00:00", "2026-11-21T06:30:00+00:00"),
        ("2026-11-21T06:29:59+00:00", "2026-11-21T06:30:00+00:00"),
        ("2026-11-21T06:30:00+00:00", None),
    ],
)
def test_quiet_hours_pass_midnight_in_their_zone(at: str, end: str | None) -> None:
    # Algiers is one hour ahead of UTC.
    rule = AlertRule(quiet_from=time(22), quiet_until=time(7, 30), quiet_zone="Africa/Algiers")

    found = quiet_end(rule, level="warning", now=datetime.fromisoformat(at))

    assert found == (None if end is None else datetime.fromisoformat(end))


def test_quiet_hours_within_a_day() -> None:
    rule = AlertRule(quiet_from=time(12), quiet_until=time(14), quiet_zone="UTC")

    assert quiet_end(rule, level="warning", now=NOON) == NOON + 2 * HOUR
    assert quiet_end(rule, level="warning", now=NOON + 2 * HOUR) is None


def test_critical_passes_quiet_hours_unless_told_otherwise() -> None:
    rule = AlertRule(quiet_from=time(12), quiet_until=time(14), quiet_zone="UTC")
    passing = quiet_end(rule, level="critical", now=NOON)
    rule.critical_passes = False

    assert passing is None
    assert quiet_end(rule, level="critical", now=NOON) == NOON + 2 * HOUR


def test_in_quiet_hours_nothing_is_sent_and_afterwards_what_still_lasts(
    rule: AlertRule, target: Target, receiver: Receiver
) -> None:
    AlertRule.objects.update(quiet_from=time(11), quiet_until=time(14), quiet_zone="UTC")
    target()
    job_fails()
    look()
    look(NOON + timedelta(minutes=90))

    during = send_at(NOON + timedelta(minutes=119))
    after = send_at(NOON + timedelta(minutes=120))

    assert (during, after, len(receiver.requests)) == (0, 1, 1)
    assert told(Alert.objects.get()) == [("opened", "ops")]


# --- Messages ---


def test_a_target_that_fails_stops_no_other_and_is_tried_again(rule: AlertRule, target: Target, receiver: Receiver) -> None:
    target("broken", "json://127.0.0.1:9/x")
    target("works")
    job_fails()
    look()

    first = send_at(NOON)
    at_once = send_at(NOON + PAUSES[0] - timedelta(seconds=1))
    later = send_at(NOON + PAUSES[0])

    assert (first, at_once, later) == (2, 0, 1)
    assert [request.path for request in receiver.requests] == ["/works"]
    broken = AlertDelivery.objects.get(target__name="broken")
    assert (broken.state, broken.attempts, broken.last_error) == ("pending", 2, "connection_failed")
    assert broken.next_attempt_at == NOON + PAUSES[0] + PAUSES[1]


def test_after_the_last_attempt_a_message_is_given_up(rule: AlertRule, target: Target) -> None:
    target("broken", "json://127.0.0.1:9/x")
    job_fails()
    look()
    delivery = AlertDelivery.objects.get()

    for number in range(6):
        attempt_record(delivery_id=delivery.pk, outcome=Outcome("JSON", "http_500"), now=NOON + number * HOUR)

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.next_attempt_at) == ("failed", 6, None)
    assert delivery.finished_at == NOON + 5 * HOUR
    assert alert_figures(now=NOON + 6 * HOUR).failed == 1


def test_a_message_of_a_dead_worker_goes_out_when_its_lease_has_run_out(rule: AlertRule, target: Target) -> None:
    target()
    job_fails()
    look()
    [claim] = deliveries_claim(now=NOON)

    leased = deliveries_claim(now=NOON + deliveries.LEASE - timedelta(seconds=1))
    free = deliveries_claim(now=NOON + deliveries.LEASE)

    assert leased == []
    assert [again.delivery_id for again in free] == [claim.delivery_id]


def test_a_target_switched_off_gets_nothing_that_waits(rule: AlertRule, target: Target, receiver: Receiver) -> None:
    target()
    job_fails()
    look()
    AlertTarget.objects.update(is_enabled=False)

    assert send_at(NOON) == 0
    assert receiver.requests == []


def test_a_target_that_no_key_opens_is_told_as_such(
    rule: AlertRule, target: Target, settings: Settings, receiver: Receiver
) -> None:
    target()
    job_fails()
    look()
    settings.FIELD_ENCRYPTION_KEYS = ["MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]

    send_at(NOON)

    assert AlertDelivery.objects.get().last_error == "address_unreadable"
    assert receiver.requests == []


def test_addresses_are_encrypted_in_the_database(target: Target, receiver: Receiver) -> None:
    from django.db import connection

    made = target()

    with connection.cursor() as cursor:
        cursor.execute("SELECT address FROM dashboard_alerttarget")
        [(stored,)] = cursor.fetchall()
    assert "json://" not in stored
    assert AlertTarget.objects.get(pk=made.pk).address == json_address(receiver, "ops")


def test_old_alerts_are_forgotten_with_their_messages(rule: AlertRule, target: Target) -> None:
    target()
    job_fails()
    look()
    job_goes_well(NOON + HOUR)
    look(NOON + HOUR)
    job_fails(NOON + 2 * HOUR)
    look(NOON + 2 * HOUR)

    early = alerts_forget(now=NOON + HOUR + timedelta(days=90))
    due = alerts_forget(now=NOON + HOUR + timedelta(days=90, seconds=1))

    assert (early, due) == (0, 1)
    assert Alert.objects.get().state == "open"


def test_open_alerts_come_gravest_first(rule: AlertRule) -> None:
    job_fails()
    look()
    job_fails(task="billing.ledger.verify_books")
    AlertRule.objects.update(level="critical")
    look(NOON + timedelta(minutes=1))
    Alert.objects.filter(subject="seal-days").update(level="warning")

    found = [(alert.subject, alert.rule.code) for alert in open_alerts()]

    assert found == [("verify-books", "jobs"), ("seal-days", "jobs")]
    assert alert_figures(now=NOON).by_level == {"info": 0, "warning": 1, "critical": 1}


# --- In the operators' language ---


@pytest.mark.parametrize(
    ("language", "title", "begins"),
    [
        ("fr", "[avertissement] La tâche seal-days échoue", "Dernière fin réussie : 2026-11-20 11:00 UTC. OSError: no disk"),
        ("ar", "[تحذير] تفشل المهمة seal-days", "آخر انتهاء ناجح: 2026-11-20 11:00 UTC. OSError: no disk"),
    ],
)
def test_alerts_and_their_messages_are_in_the_language_of_the_setting(
    rule: AlertRule, target: Target, receiver: Receiver, settings: Any, language: str, title: str, begins: str
) -> None:
    settings.ALERTS_LANGUAGE = language
    target()
    job_fails()

    look()
    send_at(NOON)

    body = json.loads(receiver.requests[0].body)
    assert body["title"] == title
    assert body["message"].startswith(begins)
    assert Alert.objects.get().title == title.split("] ")[1]


def test_an_open_alert_is_written_anew_in_another_language(rule: AlertRule, settings: Any) -> None:
    job_fails()
    look()
    settings.ALERTS_LANGUAGE = "fr"

    looked = look(NOON + timedelta(minutes=2))

    assert (looked.opened, looked.resolved) == (0, 0)
    assert Alert.objects.get().title == "La tâche seal-days échoue"
