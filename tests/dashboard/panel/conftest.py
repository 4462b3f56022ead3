"""A customer's browser, and something to see in it."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django_redis import get_redis_connection

from billing.accounts.models import Account, User
from billing.events.services import SYSTEM
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant
from billing.subscriptions.onboarding import customer_register
from iafactory.common.ids import uuid7
from routing.catalog import catalog_load

PASSWORD = "correct horse battery"


@pytest.fixture
def catalogue(db: None) -> None:
    """Everything that is shipped for sale, on an empty Redis."""
    catalog_load()
    get_redis_connection("default").flushdb()


@pytest.fixture
def account(catalogue: None) -> Account:
    return customer_register(email="sara@example.com", password=PASSWORD, name="Sara").account


@pytest.fixture
def user(account: Account) -> User:
    return User.objects.get(email="sara@example.com")


@pytest.fixture
def panel(user: User) -> Client:
    """Sara's browser."""
    return browser_of(user)


@pytest.fixture
def stranger(catalogue: None) -> Client:
    """The browser of somebody with nothing of Sara's."""
    return browser_of(customer_register(email="omar@example.com", password=PASSWORD).user)


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def grant(account: Account, credits: int, *, source: str = "Pack") -> Lot:
    return credits_grant(
        account_id=account.pk,
        amount=Decimal(credits),
        kind=Lot.Kind.PURCHASE,
        source=source,
        reason="test",
        actor=SYSTEM,
        idempotency_key=str(uuid7()),
    )


@pytest.fixture
def text_of(panel: Client) -> Callable[[str], str]:
    def read(path: str) -> str:
        response: Any = panel.get(path)
        assert response.status_code == 200
        return str(response.content.decode())

    return read
