"""The rules shipped: one of each kind, loaded with the catalogue, never over an operator's edits."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django_redis import get_redis_connection
from pytest_django import Settings

from billing.plans.catalog import CatalogError
from dashboard.alerts import tasks
from dashboard.alerts.conditions import CONDITIONS
from dashboard.alerts.models import AlertRule
from dashboard.alerts.rules import rules_read
from dashboard.alerts.services import kinds_of

pytestmark = pytest.mark.django_db


def load() -> str:
    out = StringIO()
    call_command("load_catalog", stdout=out)
    return out.getvalue()


def test_every_kind_has_a_condition_and_a_shipped_rule() -> None:
    load()

    assert set(AlertRule.objects.values_list("kind", flat=True)) == set(AlertRule.Kind.values) == set(CONDITIONS)
    assert not AlertRule.objects.filter(is_enabled=False).exists()
    assert AlertRule.objects.get(code="budgets").thresholds == {
        "warning_percent": 75,
        "critical_percent": 90,
        "exhausted_percent": 100,
    }


def test_a_fresh_installation_has_nothing_to_tell(settings: Settings) -> None:
    settings.PUBLIC_URL = "http://127.0.0.1:8000"
    # Other tests queue tasks that no worker takes.
    get_redis_connection("default").delete(settings.CELERY_TASK_DEFAULT_QUEUE)
    load()

    assert tasks.look() == "12 rules, 0 opened, 0 resolved, 0 failed"
    assert tasks.look_at_budgets() == "3 rules, 0 opened, 0 resolved, 0 failed"
    assert (tasks.deliver(), tasks.forget()) == (0, 0)


def test_edits_and_deletions_of_operators_stay() -> None:
    load()
    AlertRule.objects.filter(code="budgets").update(is_enabled=False, thresholds={"warning_percent": 50})
    AlertRule.objects.filter(code="losses").delete()

    load()

    rule = AlertRule.objects.get(code="budgets")
    assert (rule.is_enabled, rule.thresholds) == (False, {"warning_percent": 50})
    assert not AlertRule.objects.filter(code="losses").exists()


@pytest.mark.parametrize(
    "text",
    [
        'code = "x"\nname = "X"\nkind = "weather"',
        'code = "x"\nname = "X"\nkind = "budget"\nthresholds = { percent = 1 }',
        'code = "x"\nname = "X"\nkind = "budget"\nthresholds = { warning_percent = -1 }',
        'code = "x"\nname = "X"\nkind = "budget"\nthresholds = { warning_percent = "75" }',
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(f"[[rule]]\n{text}\n")

    with pytest.raises(CatalogError):
        rules_read(file)


def test_each_kind_is_looked_at_often_or_with_the_budgets_but_beat_by_no_task() -> None:
    often, seldom = set(kinds_of(seldom=False)), set(kinds_of(seldom=True))

    assert seldom == {"budget", "plan_margin", "certificate"}
    assert often | seldom == set(AlertRule.Kind.values) - {"scheduled_work"}
    assert often & seldom == set()
