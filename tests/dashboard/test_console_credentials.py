"""Keys at providers in the console: added, tried, rotated and switched by buttons; a secret goes in and never comes out."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from billing.accounts.models import User
from billing.events.models import Event
from routing.models import Provider, ProviderCredential
from tests.fakes.company import BAD, BETTER, GOOD, Company
from tests.routing.credentials.conftest import company, provider

__all__ = ["company", "provider"]

pytestmark = pytest.mark.django_db

ADD = reverse("admin:routing_providercredential_add")


def page_of(credential: ProviderCredential, name: str = "change") -> str:
    return reverse(f"admin:routing_providercredential_{name}", args=[credential.pk])


def data(provider: Provider, **changes: Any) -> dict[str, Any]:
    return {"provider": provider.pk, "label": "main", "priority": "100", "new_secret": GOOD} | changes


@pytest.fixture
def credential(console: Client, provider: Provider) -> ProviderCredential:
    console.post(ADD, data(provider))
    return ProviderCredential.objects.get()


def told_everywhere(console: Client, *pages: str) -> str:
    shown = "".join(console.get(page).content.decode() for page in pages)
    log = str(list(LogEntry.objects.values_list("change_message", "object_repr")))
    return shown + log + str(list(Event.objects.values()))


def test_a_secret_goes_in_and_never_comes_out(console: Client, credential: ProviderCredential) -> None:
    wrong = console.post(ADD, data(credential.provider, label="", new_secret=BETTER))
    failed = console.post(page_of(credential, "rotate"), {"new_secret": BAD, "reason": "yearly"})
    lists = reverse("admin:routing_providercredential_changelist")

    shown = told_everywhere(console, page_of(credential), page_of(credential, "history"), page_of(credential, "rotate"), lists)
    shown += wrong.content.decode() + failed.content.decode()

    assert (credential.secret, "…good" in shown) == (GOOD, True)
    assert [secret for secret in (GOOD, BETTER, BAD) if secret in shown] == []


def test_a_secret_is_needed_and_a_short_one_shows_no_end(console: Client, provider: Provider) -> None:
    page = console.post(ADD, data(provider, new_secret=""))
    none = ProviderCredential.objects.count()
    console.post(ADD, data(provider, new_secret="hunter2"))

    assert (page.status_code, none) == (200, 0)
    assert ProviderCredential.objects.get().last_four == ""


def test_the_form_changes_name_and_priority_and_nothing_else(console: Client, credential: ProviderCredential) -> None:
    other = Provider.objects.create(slug="other", name="Other", protocol="openai", base_url="https://other.example/v1")
    changed = {"provider": other.pk, "label": "spare", "priority": "5", "new_secret": BETTER, "enabled": ""}

    answer = console.post(page_of(credential), changed)

    credential.refresh_from_db()
    assert answer.status_code == 302
    assert (credential.label, credential.priority, credential.provider.slug) == ("spare", 5, "acme")
    assert (credential.secret, credential.enabled) == (GOOD, True)
    event = Event.objects.get(kind="provider_credential.edited")
    assert (event.before, event.after) == ({"label": "main", "priority": 100}, {"label": "spare", "priority": 5})


def test_the_button_tests_now(console: Client, credential: ProviderCredential, company: Company) -> None:
    looked = console.get(page_of(credential, "test"))
    calls_before = list(company.calls)
    passed = console.post(page_of(credential, "test"), follow=True)
    company.good_keys.clear()
    failed = console.post(page_of(credential, "test"), follow=True)

    assert (looked.status_code, calls_before) == (302, [])
    assert "works: acme/cheap answered in" in passed.content.decode()
    assert "key refused: " in failed.content.decode()
    assert [call.key for call in company.calls] == [GOOD, GOOD]


def test_the_list_tests_what_is_chosen(console: Client, credential: ProviderCredential, company: Company) -> None:
    console.post(
        reverse("admin:routing_providercredential_changelist"),
        {"action": "test_selected", "_selected_action": [str(credential.pk)]},
    )

    assert len(company.calls) == 1


def test_rotation_puts_the_new_secret_in_place(console: Client, credential: ProviderCredential) -> None:
    answer = console.post(page_of(credential, "rotate"), {"new_secret": BETTER, "reason": "yearly"}, follow=True)

    new = ProviderCredential.objects.get(enabled=True)
    assert (new.secret, new.label) == (BETTER, "main")
    assert answer.redirect_chain == [(page_of(new), 302)]
    assert ProviderCredential.objects.get(pk=credential.pk).disabled_reason == "rotated: yearly"


def test_a_rotation_that_fails_says_why_and_changes_nothing(console: Client, credential: ProviderCredential) -> None:
    page = console.post(page_of(credential, "rotate"), {"new_secret": BAD, "reason": "yearly"})

    assert "The new secret was tried and failed: key refused" in page.content.decode()
    assert ProviderCredential.objects.get().secret == GOOD


def test_switching_off_and_on_takes_a_reason(console: Client, credential: ProviderCredential) -> None:
    asked = console.post(page_of(credential, "disable"), {"reason": ""})
    still = ProviderCredential.objects.get().enabled
    console.post(page_of(credential, "disable"), {"reason": "unpaid"})
    off = ProviderCredential.objects.get()
    console.post(page_of(credential, "enable"), {"reason": "paid"})

    assert (asked.status_code, still) == (200, True)
    assert (off.enabled, off.disabled_reason) == (False, "unpaid")
    assert ProviderCredential.objects.get().enabled is True
    assert Event.objects.get(kind="provider_credential.enabled").reason == "paid"


@pytest.mark.parametrize("name", ["test", "rotate", "enable", "disable"])
def test_who_may_only_look_presses_no_button(credential: ProviderCredential, company: Company, name: str) -> None:
    viewer = User.objects.create_user("viewer@example.com", "correct horse battery", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_providercredential"))
    client = Client()
    client.force_login(viewer)

    answer = client.post(page_of(credential, name), {"new_secret": BETTER, "reason": "x"})
    page = client.get(page_of(credential)).content.decode()

    assert (answer.status_code, company.calls) == (403, [])
    assert page_of(credential, name) not in page
    assert ProviderCredential.objects.get().secret == GOOD
