"""Brakes while Redis is away: open, so that its loss locks nobody out, unless the installation would rather refuse."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from billing.accounts.models import User
from iafactory.checks import choices_are_known

from .conftest import PASSWORD, code

pytestmark = pytest.mark.django_db


@pytest.fixture
def _redis_is_away(settings: Any) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:9/0"}}


def login(password: str = PASSWORD) -> Any:
    return APIClient().post("/api/auth/login", {"email": "amina@example.com", "password": password}, format="json")


@pytest.mark.usefixtures("_redis_is_away")
def test_by_default_logins_go_on_uncounted(settings: Any, amina: User) -> None:
    settings.LOGIN_ATTEMPTS_PER_EMAIL = 1

    wrong = [code(login("wrong")) for _ in range(3)]

    assert wrong == [(401, "invalid_credentials")] * 3
    assert login().status_code == 200


@pytest.mark.usefixtures("_redis_is_away")
def test_told_to_refuse_they_wait_for_redis(settings: Any, amina: User) -> None:
    settings.LOGIN_BRAKES_WITHOUT_REDIS = "refuse"

    answer = login()

    assert code(answer) == (503, "limits_unavailable")
    assert answer["retry-after"] == "2"


@pytest.mark.usefixtures("_redis_is_away")
@pytest.mark.parametrize(("setting", "status"), [("allow", 302), ("refuse", 200)])
def test_the_consoles_login_does_the_same(settings: Any, setting: str, status: int) -> None:
    settings.ROOT_URLCONF = "iafactory.urls"
    settings.LOGIN_BRAKES_WITHOUT_REDIS = setting
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    User.objects.create_superuser("boss@example.com", PASSWORD)

    answer = Client().post(reverse("admin:login"), {"username": "boss@example.com", "password": PASSWORD})

    assert answer.status_code == status


@pytest.mark.parametrize("name", ["SPEED_LIMITS_WITHOUT_REDIS", "LOGIN_BRAKES_WITHOUT_REDIS"])
def test_another_word_is_found_before_the_start(settings: Any, name: str) -> None:
    setattr(settings, name, "perhaps")

    assert [problem.msg for problem in choices_are_known(None)] == [f"{name} must be `refuse` or `allow`"]
