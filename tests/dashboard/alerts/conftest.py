"""Targets on real servers, and jobs that fail when a test wants them to."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import current_app
from pytest_django import Settings

from dashboard.alerts.models import Alert, AlertDelivery, AlertRule, AlertTarget
from dashboard.alerts.services import Looked, rules_look, target_service
from dashboard.jobs.models import JobState
from tests.billing.webhooks.receiver import Receiver

from .sinks import MailSink

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
JOB = "seal-days"
_JOB_TASK = "billing.ledger.seal_days"


@pytest.fixture(autouse=True)
def private_targets(settings: Settings) -> None:
    """Sinks are on loopback."""
    settings.ALERTS_ALLOW_PRIVATE_TARGETS = True


@pytest.fixture(autouse=True)
def queued(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks that were queued; no worker runs."""
    names: list[str] = []
    monkeypatch.setattr(current_app, "send_task", lambda name, **options: names.append(name))
    return names


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def mail_sink() -> Iterator[MailSink]:
    sink = MailSink()
    yield sink
    sink.stop()


def json_address(receiver: Receiver, path: str = "hook") -> str:
    return f"json://127.0.0.1:{receiver.port}/{path}"


Target = Callable[..., AlertTarget]


@pytest.fixture
def target(db: None, receiver: Receiver) -> Target:
    """Makes a target, on the receiver unless told otherwise."""

    def make(name: str = "ops", address: str = "", **fields: Any) -> AlertTarget:
        address = address or json_address(receiver, name)
        return AlertTarget.objects.create(name=name, address=address, service=target_service(address), **fields)

    return make


@pytest.fixture
def rule(db: None) -> AlertRule:
    """Jobs that fail, told again after an hour."""
    return AlertRule.objects.create(code="jobs", name="A job fails", kind="jobs", level="warning", repeat_minutes=60)


def job_fails(at: datetime = NOON, *, task: str = _JOB_TASK, result: str = "OSError: no disk") -> None:
    state = {"state": "failed", "started_at": at, "finished_at": at, "result": result, "succeeded_at": at - timedelta(hours=1)}
    JobState.objects.update_or_create(task=task, defaults=state)


def job_goes_well(at: datetime) -> None:
    state = {"state": "done", "started_at": at, "finished_at": at, "result": "", "succeeded_at": at}
    JobState.objects.update_or_create(task=_JOB_TASK, defaults=state)


def look(at: datetime = NOON) -> Looked:
    return rules_look(now=at, kinds=["jobs"])


def told(alert: Alert) -> list[tuple[str, str]]:
    """Occasion and target of every message about an alert, in order."""
    rows = AlertDelivery.objects.filter(alert=alert).order_by("number", "target__name")
    return list(rows.values_list("occasion", "target__name"))
