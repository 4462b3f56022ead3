"""`/metrics` and `/health/ready`: what they say, and to whom."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from dashboard import readiness
from dashboard.jobs.models import JobState
from dashboard.jobs.selectors import HEARTBEAT_TASK
from iafactory.common import clock
from iafactory.common.metrics import MOST_VALUES, Bounded

pytestmark = pytest.mark.django_db


def samples(client: Client, **headers: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every figure of `/metrics` by name and labels."""
    response = client.get("/metrics", **headers)  # type: ignore[arg-type]
    assert response.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
    }


def test_metrics_tell_what_was_refused_and_what_the_database_says(client: Client) -> None:
    JobState.objects.create(task="billing.x", state="failed", started_at=clock.now(), milliseconds=1500, failures=2)
    name = ("iafactory_refusals_total", (("code", "not_authenticated"), ("status", "401")))
    before = samples(client).get(name, 0)

    client.get("/api/billing/me")

    figures = samples(client)
    assert figures[name] == before + 1
    assert figures[("iafactory_holds_open", ())] == 0
    assert figures[("iafactory_job_failures", (("task", "billing.x"),))] == 2
    assert figures[("iafactory_job_seconds", (("task", "billing.x"),))] == 1.5
    assert figures[("iafactory_beat_age_seconds", ())] == -1


@pytest.mark.parametrize(
    ("address", "authorization", "status"),
    [
        ("127.0.0.1", "", 200),
        ("192.0.2.7", "", 404),
        ("192.0.2.7", "Bearer scrape-me", 200),
        ("192.0.2.7", "Bearer scrape-you", 404),
        ("192.0.2.7", "Basic scrape-me", 404),
        ("192.0.2.7", "Bearer é", 404),
        ("10.1.2.3", "", 200),
    ],
)
def test_metrics_are_for_named_networks_and_the_token(
    client: Client, settings: Any, address: str, authorization: str, status: int
) -> None:
    settings.METRICS_TOKEN = "scrape-me"
    settings.METRICS_NETWORKS = ["127.0.0.0/8", "10.0.0.0/8"]

    response = client.get("/metrics", REMOTE_ADDR=address, HTTP_AUTHORIZATION=authorization)

    assert response.status_code == status


def test_without_a_token_nobody_can_send_an_empty_one(client: Client) -> None:
    assert client.get("/metrics", REMOTE_ADDR="192.0.2.7", HTTP_AUTHORIZATION="Bearer ").status_code == 404


def test_a_label_takes_so_many_values_and_no_more() -> None:
    label = Bounded()

    told = [label(f"code-{number}") for number in range(MOST_VALUES + 2)]

    assert told[-3:] == [f"code-{MOST_VALUES - 1}", "other", "other"]
    assert label("code-0") == "code-0"


def test_ready_with_everything_in_place(client: Client) -> None:
    JobState.objects.create(task=HEARTBEAT_TASK, state="done", started_at=clock.now())

    response = client.get("/health/ready")

    assert response.status_code == 200
    assert response.json() == {"ready": True, "checks": {"postgresql": "ok", "redis": "ok", "migrations": "ok", "beat": "ok"}}


def test_scheduled_work_that_stands_still_is_told_but_does_not_take_the_process_away(client: Client) -> None:
    JobState.objects.create(task=HEARTBEAT_TASK, state="done", started_at=clock.now() - timedelta(minutes=5))

    response = client.get("/health/ready")

    assert response.status_code == 200
    assert response.json()["checks"]["beat"].startswith("scheduled work last began at ")


@pytest.mark.parametrize("name", ["postgresql", "redis", "migrations"])
def test_what_is_needed_and_missing_makes_it_unready(client: Client, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    broken = tuple((n, (lambda: "is away") if n == name else check, needed) for n, check, needed in readiness.CHECKS)
    monkeypatch.setattr(readiness, "CHECKS", broken)

    response = client.get("/health/ready")

    assert response.status_code == 503
    assert response.json()["checks"][name] == "is away"
