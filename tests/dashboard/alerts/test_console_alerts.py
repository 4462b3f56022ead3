"""Targets, rules and alerts in the console: addresses never shown, a test that is a real message, reasons and events."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import translation
from freezegun import freeze_time
from pytest_django import Settings

from billing.accounts.models import User
from billing.accounts.tokens import session_tokens
from billing.events.models import Event
from dashboard.alerts.models import Alert, AlertDelivery, AlertRule, AlertTarget
from tests.billing.webhooks.receiver import Receiver

from .conftest import NOON, Target, job_fails, look

pytestmark = pytest.mark.django_db

SECRET = "token-that-is-never-shown-0123"


@pytest.fixture
def console(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator@example.com", "correct horse battery"))
    return client


def add_target(console: Client, address: str) -> "list[AlertTarget]":
    form = {"name": "Night", "new_address": address, "minimum_level": "warning", "is_default": "on", "is_enabled": "on"}
    console.post(reverse("admin:dashboard_alerttarget_add"), form)
    return list(AlertTarget.objects.all())


def test_a_target_is_added_and_its_address_never_shown(console: Client, receiver: Receiver) -> None:
    [target] = add_target(console, f"json://127.0.0.1:{receiver.port}/{SECRET}")

    page = console.get(reverse("admin:dashboard_alerttarget_change", args=[target.pk])).content.decode()
    listed = console.get(reverse("admin:dashboard_alerttarget_changelist")).content.decode()
    event = Event.objects.get(kind="alert_target.created")
    assert (target.service, target.address) == ("JSON", f"json://127.0.0.1:{receiver.port}/{SECRET}")
    assert SECRET not in page + listed + str(event.after) + str(event.before)
    assert event.after["new_address"] == "***"


@pytest.mark.parametrize("address", ["", "syslog://", "nonsense", "file:///etc/passwd"])
def test_an_address_that_nothing_can_be_sent_to_is_refused(console: Client, address: str) -> None:
    assert add_target(console, address) == []


def test_an_edit_keeps_the_address_unless_a_new_one_is_entered(console: Client, receiver: Receiver) -> None:
    [target] = add_target(console, f"json://127.0.0.1:{receiver.port}/old")
    page = reverse("admin:dashboard_alerttarget_change", args=[target.pk])
    form = {"name": "Day", "new_address": "", "minimum_level": "info", "is_default": "on", "is_enabled": "on"}

    console.post(page, form)
    kept = AlertTarget.objects.get()
    console.post(page, form | {"new_address": "night@example.com"})
    replaced = AlertTarget.objects.get()

    assert (kept.name, kept.address) == ("Day", f"json://127.0.0.1:{receiver.port}/old")
    assert (replaced.address, replaced.service) == ("night@example.com", "E-mail, as the product's own")


def test_the_test_button_sends_a_real_message_and_shows_how_it_went(
    console: Client, target: Target, receiver: Receiver
) -> None:
    made = target("Night")
    button = reverse("admin:dashboard_alerttarget_test", args=[made.pk])

    well = console.post(button, follow=True).content.decode()
    receiver.behave(status=410)
    badly = console.post(button, follow=True).content.decode()
    looked = console.get(button)

    made.refresh_from_db()
    assert "Night took the test message." in well
    assert "Night did not take it: http_410." in badly
    assert (looked.status_code, len(receiver.requests), made.test_result) == (302, 2, "http_410")
    assert list(AlertDelivery.objects.order_by("created_at").values_list("occasion", "state", "last_error")) == [
        ("test", "sent", ""),
        ("test", "failed", "http_410"),
    ]
    assert Event.objects.filter(kind="alert_target.tested", object_id=str(made.pk)).count() == 2


def rule_form(**changes: str) -> dict[str, str]:
    form = {
        "name": "Jobs",
        "level": "critical",
        "is_enabled": "on",
        "thresholds": '{"late_minutes": 5}',
        "repeat_minutes": "15",
    }
    return form | {"quiet_zone": "Europe/Paris", "critical_passes": "on"} | changes


def test_a_rule_is_edited_with_an_event(console: Client, rule: AlertRule, target: Target) -> None:
    made = target()
    page = reverse("admin:dashboard_alertrule_change", args=[rule.pk])

    answer = console.post(page, rule_form(quiet_from="22:00", quiet_until="07:00", targets=str(made.pk)))

    rule.refresh_from_db()
    assert answer.status_code == 302
    assert (rule.level, rule.thresholds, rule.repeat_minutes, rule.code) == ("critical", {"late_minutes": 5}, 15, "jobs")
    assert list(rule.targets.all()) == [made]
    event = Event.objects.get(kind="alert_rule.edited")
    assert (event.before["level"], event.after["level"], event.after["targets"]) == ("warning", "critical", ["ops"])


@pytest.mark.parametrize(
    "changes",
    [
        {"thresholds": '{"weather": 1}'},
        {"thresholds": '{"late_minutes": "5"}'},
        {"thresholds": '{"late_minutes": -1}'},
        {"thresholds": "[]x"},
        {"quiet_zone": "Mars/Olympus"},
        {"quiet_from": "22:00"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(console: Client, rule: AlertRule, changes: dict[str, str]) -> None:
    answer = console.post(reverse("admin:dashboard_alertrule_change", args=[rule.pk]), rule_form(**changes))

    rule.refresh_from_db()
    assert (answer.status_code, rule.level) == (200, "warning")
    assert not Event.objects.filter(kind="alert_rule.edited").exists()


def test_an_alert_is_acknowledged_with_a_reason(console: Client, rule: AlertRule) -> None:
    job_fails()
    look()
    alert = Alert.objects.get()
    step = reverse("admin:dashboard_alert_acknowledge", args=[alert.pk])
    page = reverse("admin:dashboard_alert_change", args=[alert.pk])

    with freeze_time(NOON):
        offered = console.get(page).content.decode()
        without = console.post(step, {"hours": "4", "reason": ""})
        done = console.post(step, {"hours": "4", "reason": "Disk ordered"})

    alert.refresh_from_db()
    assert step in offered
    assert (without.status_code, done.status_code) == (200, 302)
    assert (alert.silenced_until, alert.acknowledged_by) == (NOON + timedelta(hours=4), "operator@example.com")
    assert Event.objects.get(kind="alert.acknowledged").reason == "Disk ordered"


def test_who_may_only_look_acknowledges_and_tests_nothing(rule: AlertRule, target: Target, receiver: Receiver) -> None:
    job_fails()
    look()
    made = target()
    viewer = User.objects.create_user("viewer@example.com", "correct horse battery", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__in=["view_alert", "view_alerttarget"]))
    client = Client()
    client.force_login(viewer)
    alert = Alert.objects.get()

    answers = [
        client.post(reverse("admin:dashboard_alert_acknowledge", args=[alert.pk]), {"hours": "4", "reason": "x"}),
        client.post(reverse("admin:dashboard_alerttarget_test", args=[made.pk])),
    ]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert client.get(reverse("admin:dashboard_alert_change", args=[alert.pk])).status_code == 200
    assert receiver.requests == []


# --- In the reader's language ---


@pytest.fixture(autouse=True)
def english_afterwards() -> Iterator[None]:
    """The language of a request stays with the thread that served it."""
    with translation.override("en"):
        yield


PAGES = ("admin:index", "admin:dashboard_alert_changelist", "admin:dashboard_alert_change")


def read_in(console: Client, language: str, page: str) -> str:
    """A page that shows the only alert there is, as an operator of this language reads it."""
    User.objects.update(language=language)
    arguments = [Alert.objects.get().pk] if page.endswith("_change") else []
    return console.get(reverse(page, args=arguments)).content.decode()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("language", "title"),
    [("en", "Job seal-days fails"), ("fr", "La tâche seal-days échoue"), ("ar", "تفشل المهمة seal-days")],
)
def test_each_operator_reads_an_alert_in_their_language(
    console: Client, rule: AlertRule, settings: Settings, language: str, title: str, page: str
) -> None:
    settings.ALERTS_LANGUAGE = "fr"
    job_fails()
    look()

    assert title in read_in(console, language, page)


def test_the_text_of_an_alert_is_said_with_its_figures(console: Client, rule: AlertRule) -> None:
    job_fails()
    look()

    page = read_in(console, "fr", "admin:dashboard_alert_change")

    assert "Dernière fin réussie : 2026-11-20 11:00 UTC. OSError: no disk" in page
    assert "It last ended well" not in page


@pytest.mark.parametrize("page", PAGES)
def test_an_alert_whose_figures_were_not_kept_is_shown_as_it_was_written(console: Client, rule: AlertRule, page: str) -> None:
    job_fails()
    look()
    Alert.objects.update(words={}, title="Une phrase d’avant", text="Son texte")

    assert "Une phrase d’avant" in read_in(console, "ar", page)


def test_programs_are_told_alerts_in_the_language_they_ask_for(console: Client, rule: AlertRule, settings: Settings) -> None:
    settings.ALERTS_LANGUAGE = "ar"
    job_fails()
    look()
    token = f"Bearer {session_tokens(User.objects.get()).access_token}"

    french = console.get("/api/admin/dashboard", headers={"authorization": token, "accept-language": "fr"}).json()["alerts"]
    english = console.get("/api/admin/dashboard", headers={"authorization": token}).json()["alerts"]

    assert french[0]["message"].startswith("La tâche seal-days échoue. Dernière fin réussie : 2026-11-20 11:00 UTC.")
    assert english[0]["message"].startswith("Job seal-days fails. It last ended well: 2026-11-20 11:00 UTC.")
