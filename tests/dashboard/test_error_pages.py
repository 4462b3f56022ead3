"""Where no view answers, people read a page in their language, and programs JSON with a code."""

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from billing.accounts.models import User

from .conftest import PASSWORD

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("language", "heading", "told"),
    [
        ("en", "Not found", "There is no such address."),
        ("fr", "Introuvable", "Cette adresse n’existe pas."),
        ("ar", "غير موجود", "لا يوجد عنوان كهذا."),
    ],
)
def test_an_address_that_is_not_there(language: str, heading: str, told: str) -> None:
    page = Client().get("/nowhere", headers={"accept-language": language})
    answer = Client().get("/api/nowhere", headers={"accept-language": language})

    text = page.content.decode()
    assert (page.status_code, answer.status_code) == (404, 404)
    assert f'<html lang="{language}"' in text
    assert f"<h1>{heading}</h1>" in text
    assert f'<p role="alert">{told}</p>' in text
    assert (answer["content-type"], answer.json()["error"]["code"]) == ("application/json", "not_found")


def test_a_page_without_the_right_to_it() -> None:
    operator = User.objects.create_user("ops@example.com", PASSWORD, is_staff=True)
    operator.groups.add(Group.objects.create(name="Nobody"))
    browser = Client()
    browser.force_login(operator)

    page = browser.get("/admin/billing/account/")

    assert page.status_code == 403
    assert "<h1>Not permitted</h1>" in page.content.decode()


def test_who_has_signed_in_reads_their_own_language() -> None:
    browser = Client(headers={"accept-language": "en"})
    browser.force_login(User.objects.create_user("sara@example.com", PASSWORD, language="fr"))

    page = browser.get("/nowhere").content.decode()

    assert '<html lang="fr"' in page
    assert "Cette adresse n’existe pas." in page


def test_a_form_that_is_not_of_its_page() -> None:
    page = Client(enforce_csrf_checks=True).post("/admin/login/", {"username": "a", "password": "b"})

    assert page.status_code == 403
    assert "<h1>This page is too old</h1>" in page.content.decode()


def test_a_request_that_is_not_ours() -> None:
    page = Client().get("/nowhere", headers={"host": "evil.example"})

    assert page.status_code == 400
    assert "<h1>Not understood</h1>" in page.content.decode()


@pytest.mark.parametrize(("path", "kind"), [("/admin/login/", "text/html; charset=utf-8"), ("/api/models", "application/json")])
def test_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch, path: str, kind: str) -> None:
    def fail(*arguments: object, **fields: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("django.core.handlers.base.BaseHandler.resolve_request", fail)

    answer = Client(raise_request_exception=False).get(path)

    assert (answer.status_code, answer["content-type"]) == (500, kind)
    assert b"secret detail" not in answer.content
    assert b"Something went wrong" in answer.content


def test_a_page_for_a_missing_address_can_be_read_in_another_language() -> None:
    browser, path = Client(headers={"accept-language": "en"}), "/nowhere?page=2"

    page = browser.get(path).content.decode()
    chosen = browser.post("/billing/language", {"language": "fr", "next": path})
    again = browser.get(path).content.decode()

    assert f'<input type="hidden" name="next" value="{path}">' in page
    assert (chosen.status_code, chosen["location"]) == (302, path)
    assert "<h1>Introuvable</h1>" in again


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example/", "/\\evil.example/", "evil", ""])
def test_choosing_a_language_leads_to_no_other_host(wanted: str) -> None:
    chosen = Client().post("/billing/language", {"language": "fr", "next": wanted})

    assert chosen["location"] == "/billing/"


def test_mailed_links_and_payment_pages_can_be_read_in_another_language() -> None:
    page = Client().get("/auth/password-reset?token=x").content.decode()

    assert 'name="next" value="/auth/password-reset?token=x"' in page
    assert "panel/panel.js" in page
