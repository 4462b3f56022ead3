"""`POST /api/auth/register`."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey, Membership, User
from billing.events.models import Event
from billing.ledger.models import Wallet
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from iafactory.celery import app

from .conftest import PASSWORD, code, refusal

BODY = {"email": "amina@example.com", "password": PASSWORD}


def nothing_written() -> bool:
    return not any(model.objects.exists() for model in (User, Account, Membership, Wallet, Subscription, Event))


def test_registration_gives_user_account_wallet_free_plan_and_session(
    client: APIClient, free_plan: Plan, django_capture_on_commit_callbacks: Any
) -> None:
    body = {"email": " Amina@Example.com ", "password": PASSWORD, "name": "Amina", "language": "fr"}

    with django_capture_on_commit_callbacks(execute=True):
        response = client.post("/api/auth/register", body, format="json")

    answer = response.json()
    user = User.objects.get()
    account = Account.objects.get()
    assert response.status_code == 201
    assert response["Cache-Control"] == "no-store"
    assert set(answer) == {"user", "account", "access_token", "refresh_token", "token_type", "expires_in"}
    assert answer["user"]["id"] == str(user.pk)
    assert answer["user"]["email"] == user.email == "amina@example.com"
    assert answer["user"]["language"] == "fr"
    assert answer["user"]["email_verified"] is False
    assert answer["account"]["id"] == str(account.pk)
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 1800
    assert (account.kind, account.personal_of, account.name, account.language) == ("personal", user, "Amina", "fr")
    assert Membership.objects.get(account=account, user=user).role == "owner"
    assert Wallet.objects.get().account_id == account.pk
    subscription = Subscription.objects.get()
    assert (subscription.plan, subscription.state) == (free_plan, "active")
    assert list(Event.objects.order_by("id").values_list("kind", "actor_id", "account_id")) == [
        ("user.registered", user.pk, account.pk),
        ("account.created", user.pk, account.pk),
        ("subscription.started", user.pk, account.pk),
        ("user.signed_in", user.pk, account.pk),
    ]
    me = client.get("/api/auth/me", HTTP_AUTHORIZATION=f"Bearer {answer['access_token']}").json()
    assert me["user"]["id"] == str(user.pk)


def test_address_works_with_a_trailing_slash(client: APIClient, free_plan: Plan) -> None:
    response = client.post("/api/auth/register/", BODY, format="json")

    assert response.status_code == 201


def test_language_follows_accept_language(client: APIClient, free_plan: Plan) -> None:
    response = client.post("/api/auth/register", BODY, format="json", HTTP_ACCEPT_LANGUAGE="ar-DZ,fr;q=0.5")

    assert response.json()["user"]["language"] == "ar"


def test_password_is_stored_hashed_only(client: APIClient, free_plan: Plan) -> None:
    client.post("/api/auth/register", BODY, format="json")

    assert PASSWORD not in User.objects.get().password


def test_verification_mail_goes_out_after_the_commit(
    client: APIClient, free_plan: Plan, work: Any, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        client.post("/api/auth/register", BODY | {"language": "fr"}, format="json")

    assert mail.outbox == []
    assert work() == ["billing.accounts.email_verification_send"]
    [message] = mail.outbox
    assert message.to == ["amina@example.com"]
    assert message.subject == "Confirmez votre adresse e-mail"
    assert "http://127.0.0.1:8000/auth/verify-email?token=" in message.body


@pytest.fixture
def no_broker() -> Iterator[None]:
    before = app.conf.broker_url, app.conf.broker_transport_options

    def use(url: str, options: dict[str, Any]) -> None:
        app.conf.broker_url, app.conf.broker_transport_options = url, options
        # Celery keeps its connections: have it open new ones.
        app._pool = None
        app.amqp._producer_pool = None

    use("redis://127.0.0.1:1/0", {"max_retries": 0})
    yield
    use(*before)


def test_broker_that_is_away_does_not_fail_the_registration(
    client: APIClient, free_plan: Plan, no_broker: None, django_capture_on_commit_callbacks: Any, caplog: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        response = client.post("/api/auth/register", BODY, format="json")

    assert response.status_code == 201
    assert "task billing.accounts.email_verification_send could not be queued" in caplog.text


def test_taken_address_is_a_conflict(client: APIClient, free_plan: Plan, amina: User) -> None:
    events = Event.objects.count()

    response = client.post("/api/auth/register", BODY | {"email": "AMINA@example.com"}, format="json")

    assert code(response) == (409, "email_taken")
    assert User.objects.count() == 1
    assert Account.objects.count() == 1
    assert Event.objects.count() == events


def test_no_catalogue_no_registration(client: APIClient, db: None) -> None:
    response = client.post("/api/auth/register", BODY, format="json")

    assert code(response) == (503, "catalogue_missing")
    assert nothing_written()


@pytest.mark.parametrize("password", ["short", "password1234", "8273645198", "amina@example.com"])
def test_weak_password_is_refused(client: APIClient, free_plan: Plan, password: str) -> None:
    response = client.post("/api/auth/register", BODY | {"password": password}, format="json")

    assert refusal(response) == (400, "invalid_request", "password")
    assert nothing_written()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"email": "not an address"}, "email"),
        ({"email": 5}, "email"),
        ({"email": None}, "email"),
        ({"email": ["amina@example.com"]}, "email"),
        ({"email": {"a": 1}}, "email"),
        ({"email": "amina\x00@example.com"}, "email"),
        ({"email": "amina@exämple.com"}, "email"),
        ({"email": "a" * 10_000_000}, "email"),
        ({"password": 1234567890123}, "password"),
        ({"password": True}, "password"),
        ({"password": "correct\x00horse battery"}, "password"),
        ({"password": "x" * 10_000_000}, "password"),
        ({"name": 7}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "x" * 151}, "name"),
        ({"language": "de"}, "language"),
        ({"language": ["en"]}, "language"),
        ({"language": 1}, "language"),
    ],
)
def test_wrong_field_is_named(client: APIClient, free_plan: Plan, change: dict[str, Any], param: str) -> None:
    response = client.post("/api/auth/register", BODY | change, format="json")

    assert refusal(response) == (400, "invalid_request", param)
    assert nothing_written()


@pytest.mark.parametrize("missing", ["email", "password"])
def test_missing_field_is_named(client: APIClient, free_plan: Plan, missing: str) -> None:
    body = {name: value for name, value in BODY.items() if name != missing}

    response = client.post("/api/auth/register", body, format="json")

    assert refusal(response) == (400, "invalid_request", missing)
    assert nothing_written()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "invalid_request")),
        (b"[]", (400, "invalid_request")),
        (b'"text"', (400, "invalid_request")),
        (b"5", (400, "invalid_request")),
        (b"null", (400, "invalid_request")),
        (b"{", (400, "invalid_json")),
        (b"\xff\xfe", (400, "invalid_json")),
        (b'{"email": NaN}', (400, "invalid_json")),
        (b'{"email": "\\ud800"}', (400, "invalid_json")),
        (b"[" * 100_000, (400, "invalid_json")),
        (b'{"a":' * 100_000, (400, "invalid_json")),
        (b'{"email": ' + b"9" * 10_000 + b"}", (400, "invalid_json")),
    ],
)
@pytest.mark.parametrize("address", ["/api/auth/register", "/api/auth/login", "/api/auth/refresh"])
def test_body_that_is_no_object_is_refused(
    client: APIClient, free_plan: Plan, address: str, body: bytes, expected: tuple[int, str]
) -> None:
    response = client.post(address, body, content_type="application/json")

    assert code(response) == expected
    assert nothing_written()


def test_form_is_not_json(client: APIClient, free_plan: Plan) -> None:
    response = client.post("/api/auth/register", "email=a", content_type="application/x-www-form-urlencoded")

    assert code(response) == (415, "unsupported_media_type")


def test_body_above_the_limit_is_refused(client: APIClient, free_plan: Plan, settings: Any) -> None:
    settings.MAX_BODY_BYTES = 100

    response = client.post("/api/auth/register", BODY | {"name": "x" * 100}, format="json")

    assert code(response) == (413, "body_too_large")
    assert nothing_written()


def test_reading_it_is_not_allowed(client: APIClient, db: None) -> None:
    assert code(client.get("/api/auth/register")) == (405, "method_not_allowed")


@pytest.mark.django_db(transaction=True)
def test_one_of_many_parallel_registrations_wins(free_plan: Plan, settings: Any) -> None:
    settings.REGISTRATIONS_PER_ADDRESS = 8
    barrier = threading.Barrier(8)
    statuses: list[int] = []

    def register() -> None:
        barrier.wait()
        statuses.append(APIClient().post("/api/auth/register", BODY, format="json").status_code)
        connection.close()

    threads = [threading.Thread(target=register) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(statuses) == [201, *[409] * 7]
    assert User.objects.count() == Account.objects.count() == Wallet.objects.count() == 1
    assert Membership.objects.count() == Subscription.objects.count() == 1
    assert Event.objects.filter(kind="user.registered").count() == 1
    assert ApiKey.objects.count() == 0
