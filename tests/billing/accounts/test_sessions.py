"""Login, refresh, logout, me."""

import threading
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from django.db import connection, transaction
from freezegun import freeze_time
from rest_framework.test import APIClient
from rest_framework_simplejwt.token_blacklist.models import BlacklistedToken, OutstandingToken

from billing.accounts.models import Account, Membership, User
from billing.accounts.services import sessions_flush_expired
from billing.accounts.tokens import session_tokens

from .conftest import PASSWORD, code, logged_in, refusal
from .hashers import CountingHasher

LOGIN = {"email": "amina@example.com", "password": PASSWORD}


# --- Login ---


def test_login_answers_tokens_and_user(client: APIClient, amina: User) -> None:
    response = client.post("/api/auth/login", LOGIN, format="json")

    answer = response.json()
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    assert set(answer) == {"access_token", "refresh_token", "token_type", "expires_in", "user"}
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 1800)
    assert answer["user"]["id"] == str(amina.pk)
    me = client.get("/api/auth/me/", HTTP_AUTHORIZATION=f"bearer {answer['access_token']}")
    assert me.json()["user"]["email"] == "amina@example.com"


def test_login_knows_the_address_in_any_case(client: APIClient, amina: User) -> None:
    response = client.post("/api/auth/login", LOGIN | {"email": " AMINA@example.COM"}, format="json")

    assert response.status_code == 200


def test_login_with_a_stale_header_works(client: APIClient, amina: User) -> None:
    response = client.post("/api/auth/login", LOGIN, format="json", HTTP_AUTHORIZATION="Bearer iaf_stale")

    assert response.status_code == 200


def test_refresh_tokens_are_not_stored(client: APIClient, amina: User) -> None:
    answer = client.post("/api/auth/login", LOGIN, format="json").json()

    record = OutstandingToken.objects.get()
    assert record.token == ""
    assert record.user_id == amina.pk
    assert record.jti == jwt.decode(answer["refresh_token"], options={"verify_signature": False})["jti"]


@pytest.mark.parametrize(
    "change",
    [{"password": "wrong horse battery"}, {"email": "nobody@example.com"}, {"password": " " + PASSWORD}, {"email": "x"}],
)
def test_wrong_credentials_all_look_the_same(client: APIClient, amina: User, change: dict[str, str]) -> None:
    response = client.post("/api/auth/login", LOGIN | change, format="json")

    assert code(response) == (401, "invalid_credentials")
    assert response.json()["error"]["message"] == "The e-mail or the password is wrong."
    assert not OutstandingToken.objects.exists()


def test_switched_off_user_looks_like_a_wrong_password(client: APIClient, person: Callable[..., User]) -> None:
    person("amina@example.com", is_active=False)

    response = client.post("/api/auth/login", LOGIN, format="json")

    assert code(response) == (401, "invalid_credentials")
    assert response.json()["error"]["message"] == "The e-mail or the password is wrong."
    assert not OutstandingToken.objects.exists()


@pytest.mark.parametrize("email", ["amina@example.com", "nobody@example.com"])
def test_unknown_address_costs_the_same_work(client: APIClient, person: Any, settings: Any, email: str) -> None:
    settings.PASSWORD_HASHERS = ["tests.billing.accounts.hashers.CountingHasher"]
    person("amina@example.com")
    before = CountingHasher.encodings

    client.post("/api/auth/login", {"email": email, "password": "wrong horse battery"}, format="json")

    assert CountingHasher.encodings - before == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"email": 5}, "email"),
        ({"email": ""}, "email"),
        ({"email": "a\x00"}, "email"),
        ({"email": "a" * 10_000_000}, "email"),
        ({"password": 5}, "password"),
        ({"password": ["x"]}, "password"),
        ({"password": "x" * 10_000_000}, "password"),
    ],
)
def test_login_names_the_wrong_field(client: APIClient, amina: User, change: dict[str, Any], param: str) -> None:
    response = client.post("/api/auth/login", LOGIN | change, format="json")

    assert refusal(response) == (400, "invalid_request", param)


def fail(client: APIClient, times: int, email: str = "amina@example.com", address: str = "10.0.0.1") -> list[int]:
    body = {"email": email, "password": "wrong horse battery"}
    return [client.post("/api/auth/login", body, format="json", REMOTE_ADDR=address).status_code for _ in range(times)]


def test_ten_failures_lock_the_address_until_the_window_ends(client: APIClient, amina: User) -> None:
    with freeze_time("2026-11-20 10:05:00"):
        failures = fail(client, 10)
        refused = client.post("/api/auth/login", LOGIN, format="json", REMOTE_ADDR="10.0.0.2")
    with freeze_time("2026-11-20 10:14:59"):
        still = client.post("/api/auth/login", LOGIN, format="json")
    with freeze_time("2026-11-20 10:15:00"):
        after = client.post("/api/auth/login", LOGIN, format="json")

    assert failures == [401] * 10
    assert code(refused) == (429, "too_many_attempts")
    assert refused["Retry-After"] == "60"
    assert refused.json()["error"]["details"] == {"retry_after_seconds": 600}
    assert code(still) == (429, "too_many_attempts")
    assert still["Retry-After"] == "1"
    assert after.status_code == 200


def test_success_starts_the_count_again(client: APIClient, amina: User) -> None:
    with freeze_time("2026-11-20 10:05:00"):
        fail(client, 9)
        success = client.post("/api/auth/login", LOGIN, format="json")
        failures = fail(client, 10)

    assert success.status_code == 200
    assert failures == [401] * 10


def test_one_peer_may_fail_sixty_times_over_all_addresses(client: APIClient, amina: User) -> None:
    with freeze_time("2026-11-20 10:05:00"):
        failures = [status for n in range(12) for status in fail(client, 5, email=f"n{n}@example.com")]
        refused = client.post("/api/auth/login", LOGIN, format="json", REMOTE_ADDR="10.0.0.1")
        elsewhere = client.post("/api/auth/login", LOGIN, format="json", REMOTE_ADDR="10.0.0.2")

    assert failures == [401] * 60
    assert code(refused) == (429, "too_many_attempts")
    assert elsewhere.status_code == 200


def test_one_house_of_ipv6_counts_as_one_peer(client: APIClient, amina: User) -> None:
    with freeze_time("2026-11-20 10:05:00"):
        for n in range(12):
            fail(client, 5, email=f"n{n}@example.com", address=f"2001:db8:1:2::{n}")
        refused = client.post("/api/auth/login", LOGIN, format="json", REMOTE_ADDR="2001:db8:1:2:ffff::1")
        neighbour = client.post("/api/auth/login", LOGIN, format="json", REMOTE_ADDR="2001:db8:1:3::1")

    assert code(refused) == (429, "too_many_attempts")
    assert neighbour.status_code == 200


@pytest.mark.django_db(transaction=True)
def test_parallel_guesses_do_not_pass_together(amina: User) -> None:
    barrier = threading.Barrier(16)
    statuses: list[int] = []

    def guess() -> None:
        barrier.wait()
        statuses.extend(fail(APIClient(), 1))
        connection.close()

    threads = [threading.Thread(target=guess) for _ in range(16)]
    with freeze_time("2026-11-20 10:05:00"):
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

    assert sorted(statuses) == [*[401] * 10, *[429] * 6]


def test_without_redis_people_still_log_in(client: APIClient, amina: User, settings: Any, caplog: Any) -> None:
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}

    response = client.post("/api/auth/login", LOGIN, format="json")

    assert response.status_code == 200
    assert "attempts of login-email cannot be counted" in caplog.text


# --- Refresh ---


def refresh(token: Any) -> Any:
    return APIClient().post("/api/auth/refresh", {"refresh_token": token}, format="json")


def test_refresh_answers_new_tokens_that_work(client: APIClient, amina: User) -> None:
    first = session_tokens(amina)

    response = refresh(first.refresh_token)

    answer = response.json()
    assert response.status_code == 200
    assert set(answer) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert answer["refresh_token"] != first.refresh_token
    me = client.get("/api/auth/me", HTTP_AUTHORIZATION=f"Bearer {answer['access_token']}")
    assert me.status_code == 200
    assert refresh(answer["refresh_token"]).status_code == 200


def test_refresh_token_works_once(amina: User) -> None:
    token = session_tokens(amina).refresh_token
    refresh(token)
    records = OutstandingToken.objects.count()

    again = refresh(token)

    assert code(again) == (401, "token_revoked")
    assert again["WWW-Authenticate"] == "Bearer"
    assert OutstandingToken.objects.count() == records


@pytest.mark.django_db(transaction=True)
def test_one_of_many_parallel_refreshes_wins(amina: User) -> None:
    token = session_tokens(amina).refresh_token
    barrier = threading.Barrier(8)
    statuses: list[int] = []

    def run() -> None:
        barrier.wait()
        statuses.append(refresh(token).status_code)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(statuses) == [200, *[401] * 7]
    assert OutstandingToken.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_refresh_waits_for_another_that_is_using_the_token(amina: User) -> None:
    token = session_tokens(amina).refresh_token
    refusals: list[tuple[int, str]] = []

    def run() -> None:
        refusals.append(code(refresh(token)))
        connection.close()

    thread = threading.Thread(target=run)
    with transaction.atomic():
        record = OutstandingToken.objects.select_for_update().order_by().get()
        thread.start()
        thread.join(timeout=0.5)
        meanwhile = list(refusals)
        BlacklistedToken.objects.create(token=record)
    thread.join()

    assert meanwhile == []
    assert refusals == [(401, "token_revoked")]
    assert OutstandingToken.objects.count() == 1


def test_refresh_token_ends_after_thirty_days(amina: User) -> None:
    with freeze_time("2026-11-01 00:00:00"):
        token = session_tokens(amina).refresh_token

    with freeze_time("2026-12-01 00:00:01"):
        response = refresh(token)

    assert code(response) == (401, "token_expired")
    assert not BlacklistedToken.objects.exists()


def test_access_token_is_no_refresh_token(amina: User) -> None:
    response = refresh(session_tokens(amina).access_token)

    assert code(response) == (401, "invalid_token")


@pytest.mark.parametrize("token", ["x", "a.b.c", "é.é.é"])
def test_nonsense_is_no_refresh_token(db: None, token: str) -> None:
    assert code(refresh(token)) == (401, "invalid_token")


@pytest.mark.parametrize("token", [5, None, "", [], {}, "a\x00", "x" * 5000])
def test_refresh_names_the_wrong_field(db: None, token: Any) -> None:
    assert refusal(refresh(token)) == (400, "invalid_request", "refresh_token")


def test_switched_off_user_cannot_refresh(amina: User) -> None:
    token = session_tokens(amina).refresh_token
    User.objects.update(is_active=False)

    assert code(refresh(token)) == (401, "token_revoked")
    assert not BlacklistedToken.objects.exists()


def test_changed_password_ends_refreshing(amina: User) -> None:
    token = session_tokens(amina).refresh_token
    amina.set_password("another horse battery")
    amina.save()

    assert code(refresh(token)) == (401, "token_revoked")
    assert not BlacklistedToken.objects.exists()


def test_expired_records_are_flushed(amina: User) -> None:
    with freeze_time("2026-10-01 00:00:00"):
        session_tokens(amina)
    kept = session_tokens(amina).refresh_token

    with freeze_time("2026-11-01 00:00:00"):
        first, second = sessions_flush_expired(), sessions_flush_expired()

    assert (first, second) == (1, 0)
    assert refresh(kept).status_code == 200


# --- Logout ---


def logout(token: Any) -> Any:
    return APIClient().post("/api/auth/logout", {"refresh_token": token}, format="json")


def test_logout_revokes_the_refresh_token_and_may_be_repeated(amina: User) -> None:
    token, other = session_tokens(amina).refresh_token, session_tokens(amina).refresh_token

    first, second = logout(token), logout(token)

    assert (first.status_code, first.content) == (204, b"")
    assert second.status_code == 204
    assert code(refresh(token)) == (401, "token_revoked")
    assert refresh(other).status_code == 200


def test_logout_after_expiry_is_silent(amina: User) -> None:
    with freeze_time("2026-10-01 00:00:00"):
        token = session_tokens(amina).refresh_token

    assert logout(token).status_code == 204


def test_logout_with_an_access_token_says_so(amina: User) -> None:
    response = logout(session_tokens(amina).access_token)

    assert code(response) == (401, "invalid_token")
    assert not BlacklistedToken.objects.exists()


def test_logout_names_the_wrong_field(db: None) -> None:
    assert refusal(logout(5)) == (400, "invalid_request", "refresh_token")


# --- Me ---


def test_me_tells_user_account_and_choices(amina: User, boris: User) -> None:
    organisation = Account.objects.create(name="Atlas", kind="organisation")
    Membership.objects.create(account=organisation, user=amina, role="member")

    answer = logged_in(amina).get("/api/auth/me").json()

    assert answer["user"]["email"] == "amina@example.com"
    assert answer["account"]["id"] == str(amina.personal_account.pk)
    assert [(entry["account"]["id"], entry["role"]) for entry in answer["accounts"]] == [
        (str(amina.personal_account.pk), "owner"),
        (str(organisation.pk), "member"),
    ]


def test_x_account_picks_an_account(amina: User) -> None:
    organisation = Account.objects.create(name="Atlas", kind="organisation")
    Membership.objects.create(account=organisation, user=amina, role="member")

    answer = logged_in(amina, HTTP_X_ACCOUNT=str(organisation.pk)).get("/api/auth/me").json()

    assert answer["account"]["id"] == str(organisation.pk)


@pytest.mark.parametrize("wanted", ["0199e1a0-0000-7000-8000-000000000000", "nonsense", "a\x00b"])
def test_x_account_that_does_not_exist_is_not_found(amina: User, wanted: str) -> None:
    assert code(logged_in(amina, HTTP_X_ACCOUNT=wanted).get("/api/auth/me")) == (404, "not_found")


def test_x_account_of_somebody_else_is_not_found(amina: User, boris: User) -> None:
    client = logged_in(amina, HTTP_X_ACCOUNT=str(boris.personal_account.pk))

    assert code(client.get("/api/auth/me")) == (404, "not_found")


def test_operator_without_account_has_none(db: None) -> None:
    operator = User.objects.create_superuser("root@example.com", PASSWORD)

    answer = logged_in(operator).get("/api/auth/me").json()

    assert (answer["account"], answer["accounts"]) == (None, [])
    assert code(logged_in(operator).get("/api/keys")) == (404, "not_found")


def test_me_needs_a_session(client: APIClient, db: None) -> None:
    response = client.get("/api/auth/me")

    assert code(response) == (401, "not_authenticated")
    assert response["WWW-Authenticate"] == "Bearer"
