"""Brakes on those without credentials: exact for any number of parallel attempts, and counted against the real client."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import User
from billing.accounts.throttles import Brake
from billing.accounts.tokens import password_reset_token
from billing.plans.models import Plan
from iafactory.common.errors import ApiError

from .conftest import code, logged_in

REGISTER = "/api/auth/register"
PASSWORD = "correct horse battery"


@pytest.fixture
def free_plan(db: None) -> Plan:
    return Plan.objects.create(code="free", family="x", name="Free", interval="none", billing_mode="quota", daily_limit=3)


def body(number: int) -> dict[str, str]:
    return {"email": f"new{number}@example.com", "password": PASSWORD}


def register(number: int, address: str = "10.0.0.1", **headers: str) -> Any:
    return APIClient().post(REGISTER, body(number), format="json", REMOTE_ADDR=address, **headers)


def in_parallel(count: int, deed: Callable[[int], Any]) -> list[Any]:
    """What `deed(0..count-1)` answered, all begun together."""
    barrier = threading.Barrier(count)
    answers: list[Any] = []

    def run(number: int) -> None:
        barrier.wait()
        answers.append(deed(number))
        connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return answers


# --- The brake itself ---


def passes(brake: Brake, subject: str = "someone") -> bool:
    try:
        brake.attempt(subject)
    except ApiError:
        return False
    return True


@pytest.fixture
def brake(settings: Any) -> Brake:
    settings.PASSWORD_RESETS_PER_EMAIL = 7
    return Brake("test", "PASSWORD_RESETS_PER_EMAIL", timedelta(hours=1))


def test_twenty_threads_and_exactly_seven_pass(brake: Brake) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        answers = in_parallel(20, lambda _: passes(brake))

    assert sorted(answers) == [*[False] * 13, *[True] * 7]


def test_refused_attempts_do_not_count(brake: Brake) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        first = [passes(brake) for _ in range(20)]
        brake.give_back("someone")
        after = [passes(brake) for _ in range(2)]

    assert first == [*[True] * 7, *[False] * 13]
    assert after == [True, False]


def test_what_is_given_back_twice_makes_no_more_room_than_the_limit(brake: Brake) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        brake.give_back("someone")
        brake.give_back("someone")
        answers = [passes(brake) for _ in range(8)]

    assert answers == [*[True] * 7, False]


def test_the_limit_is_that_of_the_settings_now(brake: Brake, settings: Any) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        settings.PASSWORD_RESETS_PER_EMAIL = 1
        low = [passes(brake), passes(brake)]
        settings.PASSWORD_RESETS_PER_EMAIL = 2
        raised = [passes(brake), passes(brake)]

    assert (low, raised) == ([True, False], [True, False])


def test_a_window_ends_by_our_clock(brake: Brake) -> None:
    with freeze_time("2026-11-20 10:59:59"):
        full = [passes(brake) for _ in range(8)]
    with freeze_time("2026-11-20 11:00:00"):
        anew = passes(brake)

    assert (full[-1], anew) == (False, True)


# --- Registration ---


@pytest.mark.django_db(transaction=True)
def test_twenty_parallel_registrations_open_five_accounts(free_plan: Plan) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        answers = in_parallel(20, lambda number: register(number).status_code)

    assert sorted(answers) == [*[201] * 5, *[429] * 15]
    assert User.objects.count() == 5


def test_the_sixth_account_of_an_address_waits(free_plan: Plan) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        opened = [register(number).status_code for number in range(5)]
        refused = register(5)
        elsewhere = register(6, "10.0.0.2")
    with freeze_time("2026-11-20 11:00:00"):
        later = register(5)

    assert opened == [201] * 5
    assert code(refused) == (429, "too_many_attempts")
    assert refused["Retry-After"] == "60"
    assert refused.json()["error"]["details"] == {"retry_after_seconds": 3600}
    assert (elsewhere.status_code, later.status_code) == (201, 201)


def test_a_house_of_ipv6_is_one_address(free_plan: Plan) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        opened = [register(number, f"2001:db8:1:2::{number}").status_code for number in range(5)]
        refused = register(5, "2001:db8:1:2:ffff::1")
        neighbour = register(6, "2001:db8:1:3::1")

    assert opened == [201] * 5
    assert (refused.status_code, neighbour.status_code) == (429, 201)


def test_what_opens_no_account_does_not_count_as_one(free_plan: Plan) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        register(0)
        taken = [register(0).status_code for _ in range(8)]
        opened = [register(number).status_code for number in range(1, 5)]
        refused = register(5)

    assert taken == [409] * 8
    assert opened == [201] * 4
    assert refused.status_code == 429


def test_asking_for_known_addresses_is_braked(free_plan: Plan, settings: Any) -> None:
    settings.REGISTRATION_ATTEMPTS_PER_ADDRESS = 3
    with freeze_time("2026-11-20 10:00:00"):
        register(0)
        answers = [register(0).status_code for _ in range(3)]

    assert answers == [409, 409, 429]


def test_one_email_is_braked_from_everywhere(free_plan: Plan, settings: Any) -> None:
    settings.REGISTRATION_ATTEMPTS_PER_EMAIL = 2
    with freeze_time("2026-11-20 10:00:00"):
        answers = [register(0, f"10.0.0.{number}").status_code for number in range(3)]

    assert answers == [201, 409, 429]


def test_the_address_is_kept_with_the_user(free_plan: Plan, settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]

    register(0, "10.0.0.1", HTTP_X_FORWARDED_FOR="198.51.100.1, 203.0.113.7")
    register(1, "2001:db8:1:2::3", HTTP_X_FORWARDED_FOR="203.0.113.7")

    assert dict(User.objects.values_list("email", "registered_from")) == {
        "new0@example.com": "203.0.113.7",
        "new1@example.com": "2001:db8:1:2::3",
    }


def test_clients_behind_one_proxy_have_brakes_of_their_own(free_plan: Plan, settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    settings.REGISTRATIONS_PER_ADDRESS = 1
    with freeze_time("2026-11-20 10:00:00"):
        first = register(0, HTTP_X_FORWARDED_FOR="203.0.113.1")
        second = register(1, HTTP_X_FORWARDED_FOR="203.0.113.2")
        third = register(2, HTTP_X_FORWARDED_FOR="203.0.113.2")

    assert [first.status_code, second.status_code, third.status_code] == [201, 201, 429]


# --- The console's login ---


def console_login(password: str, address: str = "10.0.0.1", email: str = "operator@example.com") -> bool:
    """Whether the form let somebody in."""
    answer = Client().post("/admin/login/", {"username": email, "password": password}, REMOTE_ADDR=address)
    return bool(answer.status_code == 302)


def test_guesses_at_the_consoles_password_are_braked(operator: User) -> None:
    with freeze_time("2026-11-20 10:05:00"):
        guesses = [console_login("wrong") for _ in range(10)]
        braked = console_login(PASSWORD)
        elsewhere = console_login(PASSWORD, "10.0.0.2")
    with freeze_time("2026-11-20 10:15:00"):
        later = console_login(PASSWORD)

    assert guesses == [False] * 10
    assert (braked, elsewhere, later) == (False, True, True)


def test_guesses_from_everywhere_are_braked_too(operator: User, settings: Any) -> None:
    settings.LOGIN_ATTEMPTS_PER_ADDRESS = 12
    with freeze_time("2026-11-20 10:05:00"):
        guesses = [console_login("wrong", f"10.0.0.{number}") for number in range(12)]
        braked = console_login(PASSWORD, "10.0.0.99")

    assert guesses == [False] * 12
    assert braked is False


def test_guesses_at_the_api_do_not_shut_the_console(client: APIClient, operator: User) -> None:
    data = {"email": "operator@example.com", "password": "wrong"}
    with freeze_time("2026-11-20 10:05:00"):
        guesses = [client.post("/api/auth/login", data, format="json").status_code for _ in range(11)]
        entered = console_login(PASSWORD)

    assert guesses == [*[401] * 10, 429]
    assert entered is True


def test_a_login_starts_the_count_again(operator: User) -> None:
    with freeze_time("2026-11-20 10:05:00"):
        answers = [console_login("wrong") for _ in range(9)]
        entered = console_login(PASSWORD)
        again = [console_login("wrong") for _ in range(9)]
        once_more = console_login(PASSWORD)

    assert answers == again == [False] * 9
    assert (entered, once_more) == (True, True)


# --- Mails and links ---


def test_reset_mails_are_braked_per_address_and_per_email(client: APIClient, db: None, settings: Any) -> None:
    settings.PASSWORD_RESETS_PER_ADDRESS, settings.PASSWORD_RESETS_PER_EMAIL = 3, 2

    def ask(email: str, address: str) -> int:
        answer = client.post("/api/auth/password-reset", {"email": email}, format="json", REMOTE_ADDR=address)
        return int(answer.status_code)

    with freeze_time("2026-11-20 10:00:00"):
        answers = [
            ask("a@example.com", "10.0.0.1"),
            ask("a@example.com", "10.0.0.1"),
            ask("a@example.com", "10.0.0.2"),
            ask("b@example.com", "10.0.0.1"),
            ask("b@example.com", "10.0.0.1"),
        ]

    assert answers == [202, 202, 429, 202, 429]


def test_new_passwords_are_braked_per_address(client: APIClient, operator: User, settings: Any) -> None:
    settings.PASSWORD_RESET_CONFIRMATIONS_PER_ADDRESS = 2

    def confirm(text: str, address: str = "10.0.0.1") -> tuple[int, str]:
        data = {"token": text, "password": "another horse battery"}
        answer = client.post("/api/auth/password-reset/confirm", data, format="json", REMOTE_ADDR=address)
        return code(answer) if answer.content else (answer.status_code, "")

    with freeze_time("2026-11-20 10:00:00"):
        token = password_reset_token(operator)
        answers = [confirm("x"), confirm("y"), confirm(token), confirm(token, "10.0.0.2")]

    assert answers == [(400, "invalid_token"), (400, "invalid_token"), (429, "too_many_attempts"), (204, "")]


def test_verification_mails_are_braked_per_address(db: None, settings: Any) -> None:
    settings.VERIFICATION_MAILS_PER_ADDRESS = 2
    users = [User.objects.create_user(f"u{number}@example.com", PASSWORD) for number in range(3)]

    answers = [logged_in(user).post("/api/auth/verify-email/resend", REMOTE_ADDR="10.0.0.1").status_code for user in users]

    assert answers == [202, 202, 429]
