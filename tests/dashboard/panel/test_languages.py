"""Refusals in the reader's language: by `Accept-Language` of the API, by the user's setting in the panel; the same codes."""

import json
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from rest_framework.test import APIClient

from billing.accounts.models import Account, User
from billing.accounts.tokens import session_tokens

LOGIN = ("/api/auth/login", {"email": "sara@example.com", "password": "not the password"})


def bearer(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_tokens(user).access_token}")
    return client


def told(response: Any) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "The e-mail or the password is wrong."),
        ("de", "The e-mail or the password is wrong."),
        ("en", "The e-mail or the password is wrong."),
        ("fr-DZ", "L’e-mail ou le mot de passe est incorrect."),
        ("ar", "البريد أو كلمة المرور غير صحيح."),
    ],
)
def test_a_refused_login_is_told_in_the_language_asked_for(account: Account, header: str, message: str) -> None:
    response = APIClient().post(LOGIN[0], LOGIN[1], format="json", headers={"accept-language": header} if header else {})

    assert told(response) == (401, "invalid_credentials", message)
    assert response["Content-Language"] == {"fr-DZ": "fr", "ar": "ar"}.get(header, "en")
    assert "accept-language" in response["Vary"].lower()


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("en", "This field is required."),
        ("fr", "Ce champ est obligatoire."),
        ("ar", "هذا الحقل مطلوب."),
    ],
)
def test_a_field_that_is_missing(account: Account, language: str, message: str) -> None:
    response = APIClient().post("/api/auth/login", {"password": "x"}, format="json", headers={"accept-language": language})

    assert told(response) == (400, "invalid_request", message)
    assert response.json()["error"]["param"] == "email"


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("en", "1 to 30 days."),
        ("fr", "De 1 à 30 jours."),
        ("ar", "من 1 إلى 30 يومًا."),
    ],
)
def test_bounds_are_told_with_their_numbers(user: User, language: str, message: str) -> None:
    response = bearer(user).patch(
        "/api/billing/notices/preferences",
        {"kind": "plan_ending", "threshold": 31},
        format="json",
        headers={"accept-language": language},
    )

    assert told(response) == (400, "invalid_request", message)
    assert response.json()["error"]["param"] == "threshold"


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("en", "This password is too short. It must contain at least 10 characters. This password is too common."),
        (
            "fr",
            "Ce mot de passe est trop court. Il doit contenir au minimum 10 caractères. Ce mot de passe est trop courant.",
        ),
        ("ar", "كلمة المرور هذه قصيرة جدًا. يجب أن تتكون من 10 أحرف على الأقل. كلمة المرور هذه شائعة جداً."),
    ],
)
def test_a_weak_password(account: Account, language: str, message: str) -> None:
    body = {"email": "new@example.com", "password": "qwerty"}

    response = APIClient().post("/api/auth/register", body, format="json", headers={"accept-language": language})

    assert told(response) == (400, "invalid_request", message)


@pytest.mark.parametrize("language", ["en", "fr", "ar"])
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("get", "/api/nowhere", None, 404, "not_found"),
        ("get", "/api/billing/me", None, 401, "not_authenticated"),
        ("put", "/api/auth/login", {}, 405, "method_not_allowed"),
        ("post", "/api/auth/login", "not an object", 400, "invalid_request"),
        ("post", "/api/auth/refresh", {"refresh_token": "x"}, 401, "invalid_token"),
        ("post", "/api/auth/password-reset/confirm", {"token": "x", "password": "y"}, 400, "invalid_token"),
        ("post", "/api/credits/check", {"service": "rag"}, 401, "not_authenticated"),
        ("get", "/api/admin/dashboard", None, 401, "not_authenticated"),
    ],
)
def test_codes_are_the_same_in_every_language(
    account: Account, language: str, method: str, path: str, body: Any, status: int, code: str
) -> None:
    response = getattr(APIClient(), method)(path, body, format="json", headers={"accept-language": language})
    english = getattr(APIClient(), method)(path, body, format="json")

    assert told(response)[:2] == told(english)[:2] == (status, code)
    assert (told(response)[2] == told(english)[2]) is (language == "en")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("get", "/api/billing/invoices/no-such-number", None, 404, "not_found"),
        ("post", "/api/payment/subscribe/no-such-plan", {}, 404, "plan_not_found"),
        ("post", "/api/payment/topup", {"pack": "no-such-pack"}, 404, "pack_not_found"),
        ("post", "/api/subscriptions/no-such/pause", {}, 404, "not_found"),
        ("post", "/api/auth/password", {"password": "wrong", "new_password": "a new long password"}, 400, "wrong_password"),
        ("patch", "/api/account", {"time_zone": "Mars/Olympus"}, 400, "invalid_request"),
        ("post", "/api/keys", {"name": "x", "scopes": ["admin"]}, 403, "scope_not_allowed"),
    ],
)
@pytest.mark.parametrize("language", ["fr", "ar"])
def test_what_an_account_asks_for_is_refused_with_the_same_code(
    user: User, language: str, method: str, path: str, body: Any, status: int, code: str
) -> None:
    client = bearer(user)

    response = getattr(client, method)(path, body, format="json", headers={"accept-language": language})
    english = getattr(client, method)(path, body, format="json")

    assert told(response)[:2] == told(english)[:2] == (status, code)
    assert told(response)[2] != told(english)[2]


def test_a_browsers_cookie_decides_nothing_for_the_api(account: Account) -> None:
    client = APIClient()
    client.cookies[settings.LANGUAGE_COOKIE_NAME] = "ar"

    response = client.post(LOGIN[0], LOGIN[1], format="json", headers={"accept-language": "fr"})

    assert response["Content-Language"] == "fr"


def test_what_is_under_v1_is_english(account: Account) -> None:
    response = APIClient().get("/v1/nowhere", headers={"accept-language": "fr"})

    assert told(response) == (404, "not_found", "There is no such address.")
    assert response["Content-Language"] == "en"
    assert "accept-language" not in response.get("Vary", "").lower()


def test_a_page_says_that_its_cookie_matters(account: Account) -> None:
    response = Client().get("/billing/sign-in", headers={"accept-language": "fr"})

    assert response["Content-Language"] == "fr"
    assert {"accept-language", "cookie"} <= {name.strip().lower() for name in response["Vary"].split(",")}


def test_the_panel_speaks_its_users_language_whatever_the_browser_asks(panel: Client, user: User) -> None:
    User.objects.filter(pk=user.pk).update(language="fr")

    response = panel.post(
        "/billing/settings",
        {"form": "account", "name": "Sara", "country": "DZ", "currency": "DZD", "time_zone": "Mars/Olympus"},
        headers={"accept-language": "ar"},
    )

    assert response.status_code == 400
    assert response["Content-Language"] == "fr"


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", "There are not enough credits."),
        ("fr", "Il n’y a pas assez de crédits."),
        ("ar", "لا توجد أرصدة كافية."),
    ],
)
def test_the_playground_has_words_for_the_gateways_codes(panel: Client, user: User, language: str, words: str) -> None:
    User.objects.filter(pk=user.pk).update(language=language)

    page = panel.get("/billing/playground").content.decode()

    assert f'"insufficient_credits": {json.dumps(words)}' in page
