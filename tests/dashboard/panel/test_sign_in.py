"""Signing up, in and out; where `next` leads; the brakes."""

from typing import Any

import pytest
from django.test import Client
from rest_framework_simplejwt.token_blacklist.models import BlacklistedToken, OutstandingToken

from billing.accounts.models import Account, User
from billing.events.models import Event

from .conftest import PASSWORD, browser_of


def sign_in(client: Client, *, password: str = PASSWORD, **fields: str) -> Any:
    return client.post("/billing/sign-in", {"email": "sara@example.com", "password": password, **fields})


def test_signing_up_opens_an_account_and_a_session(catalogue: None) -> None:
    client = Client()

    response = client.post("/billing/sign-up", {"name": "Lina", "email": "lina@example.com", "password": PASSWORD})

    assert (response.status_code, response.headers["Location"]) == (302, "/billing/")
    account = Account.objects.get(personal_of__email="lina@example.com")
    assert (account.name, account.subscriptions.get().plan.code) == ("Lina", "free")
    assert "Overview" in client.get("/billing/").content.decode()


def test_a_sign_in_leaves_no_refresh_token_and_an_event(account: Account) -> None:
    client = Client()

    response = sign_in(client)

    assert response.headers["Location"] == "/billing/"
    assert OutstandingToken.objects.count() == BlacklistedToken.objects.count() == 1
    assert Event.objects.filter(kind="user.signed_in", account_id=account.pk).count() == 1


def test_a_wrong_password_says_no_more_than_that(account: Account) -> None:
    client = Client()

    response = sign_in(client, password="not the password")

    assert response.status_code == 400
    assert "The e-mail or the password is wrong." in response.content.decode()
    assert client.get("/billing/").status_code == 302


def test_guesses_are_braked_as_at_the_api(account: Account) -> None:
    client = Client()
    for _ in range(10):
        sign_in(client, password="not the password")

    eleventh = sign_in(client)

    assert eleventh.status_code == 400
    assert "Too many attempts." in eleventh.content.decode()


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/billing/",
        "//evil.example/billing/",
        "/\\evil.example/billing/",
        "/admin/",
        "javascript:alert(1)",
        "/billing/sign-out",
        "/billing/../admin/",
        "billing/keys",
    ],
)
def test_next_leads_nowhere_but_into_the_panel(account: Account, wanted: str) -> None:
    response = sign_in(Client(), next=wanted)

    assert response.headers["Location"] == "/billing/"


def test_next_leads_to_the_page_that_was_wanted(account: Account) -> None:
    client = Client()

    asked = client.get("/billing/keys?state=all")
    response = sign_in(client, next="/billing/keys?state=all")

    assert asked.headers["Location"] == "/billing/sign-in?next=%2Fbilling%2Fkeys%3Fstate%3Dall"
    assert response.headers["Location"] == "/billing/keys?state=all"


def test_signing_out_ends_the_session_and_takes_a_post(panel: Client) -> None:
    looked = panel.get("/billing/sign-out")
    done = panel.post("/billing/sign-out")

    assert (looked.status_code, done.headers["Location"]) == (405, "/billing/sign-in")
    assert panel.get("/billing/").headers["Location"] == "/billing/sign-in?next=%2Fbilling%2F"


def test_forms_without_their_token_are_refused(user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)

    response = client.post("/billing/keys", {"name": "stolen"})

    assert response.status_code == 403
    assert not user.personal_account.api_keys.exists()


def test_a_switched_off_user_is_out_at_once(panel: Client, user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)

    assert panel.get("/billing/").headers["Location"].startswith("/billing/sign-in")


def test_the_old_address_of_the_console_leads_there(db: None) -> None:
    response = Client().get("/billing/admin.html")

    assert (response.status_code, response.headers["Location"]) == (302, "/admin/")


def test_the_language_is_kept_with_the_user_and_answers_in_arabic(panel: Client, user: User) -> None:
    response = panel.post("/billing/language", {"language": "ar", "next": "/billing/keys"})

    user.refresh_from_db()
    page = panel.get("/billing/keys").content.decode()
    assert (response.headers["Location"], user.language, user.personal_account.language) == ("/billing/keys", "ar", "ar")
    assert '<html lang="ar" dir="rtl">' in page
    assert "مفاتيح API" in page


def test_before_signing_in_the_browser_decides_the_language(db: None) -> None:
    page = Client(headers={"accept-language": "fr-DZ,fr;q=0.9"}).get("/billing/sign-in").content.decode()

    assert '<html lang="fr" dir="ltr">' in page
    assert "Mot de passe oublié" in page


def test_a_user_of_two_accounts_looks_at_one_and_at_nobody_elses(panel: Client, user: User, stranger: Client) -> None:
    panel.post("/billing/team/new", {"name": "Atelier"})
    team = Account.objects.get(name="Atelier")
    foreign = Account.objects.exclude(memberships__user=user).get(personal_of__email="omar@example.com")

    in_team = panel.get("/billing/team").content.decode()
    panel.post("/billing/account", {"account": str(user.personal_account.pk)})
    in_own = panel.get("/billing/team").content.decode()
    refused = panel.post("/billing/account", {"account": str(foreign.pk)})

    assert "Invite" in in_team
    assert "This is your personal account" in in_own
    assert refused.status_code == 404
    assert panel.session["panel_account"] == str(user.personal_account.pk)
    assert browser_of(user).get("/billing/").status_code == 200
    assert team.memberships.get().user == user
