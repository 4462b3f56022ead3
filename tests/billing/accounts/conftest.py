"""What the tests of accounts share: a clean Redis, a client, people, and a worker for the queue."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from rest_framework.test import APIClient

from billing.accounts.models import Account, Membership, User
from billing.accounts.tokens import session_tokens
from billing.plans.models import Plan
from iafactory.celery import app

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _addresses(settings: Any) -> None:
    settings.ROOT_URLCONF = "billing.urls"


@pytest.fixture(autouse=True)
def _clean_redis() -> None:
    cache.clear()
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")


@pytest.fixture
def work() -> Callable[[], list[str]]:
    """Runs what the product queued in Redis, as a worker would; the names of the tasks."""

    app.loader.import_default_modules()

    def run() -> list[str]:
        names = []
        with app.connection_for_read() as connection:
            queue = connection.SimpleQueue("celery")
            with contextlib.suppress(queue.Empty):
                while True:
                    message = queue.get(block=False)
                    message.ack()
                    names.append(message.headers["task"])
                    app.tasks[message.headers["task"]](*message.payload[0])
            queue.close()
        return names

    return run


@pytest.fixture
def free_plan(db: None) -> Plan:
    return Plan.objects.create(
        code="free", family="requests", name="Free", interval=Plan.Interval.NONE, billing_mode="quota", daily_limit=3
    )


@pytest.fixture
def client() -> APIClient:
    return APIClient()


@pytest.fixture
def person(db: None) -> Callable[..., User]:
    """Makes a user with a personal account."""

    def make(email: str, **fields: Any) -> User:
        user = User.objects.create_user(email, PASSWORD, **fields)
        account = Account.objects.create(name=email, personal_of=user)
        Membership.objects.create(account=account, user=user, role=Membership.Role.OWNER)
        return user

    return make


@pytest.fixture
def amina(person: Callable[..., User]) -> User:
    return person("amina@example.com")


@pytest.fixture
def boris(person: Callable[..., User]) -> User:
    return person("boris@example.com")


def logged_in(user: User, **headers: str) -> APIClient:
    """A client with a session of `user`."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_tokens(user).access_token}", **headers)
    return client


def with_key(secret: str, **headers: str) -> APIClient:
    """A client with an API key."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}", **headers)
    return client


def code(response: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    return response.status_code, response.json()["error"]["code"]


def refusal(response: Any) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal."""
    error = response.json()["error"]
    return response.status_code, error["code"], error.get("param")
