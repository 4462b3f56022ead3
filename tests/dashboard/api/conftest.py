"""Operators who call the JSON."""

from collections.abc import Iterator

import pytest
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import User
from billing.accounts.services import operator_key_create
from billing.accounts.tokens import session_tokens
from billing.events.models import Event
from billing.events.services import Actor
from tests.dashboard.conftest import PASSWORD, account, free_plan, operator, populate

__all__ = ["account", "free_plan", "operator", "populate"]


@pytest.fixture
def noon(db: None) -> Iterator[None]:
    with freeze_time("2026-11-18T12:00:00Z"):
        yield


@pytest.fixture
def staff(operator: User) -> APIClient:
    """Shows the operator's access token."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_tokens(operator).access_token}")
    return client


@pytest.fixture
def secret(operator: User) -> str:
    """Of an API key with the scope `admin`."""
    actor = Actor(Event.ActorKind.OPERATOR, id=operator.pk, label=operator.email)
    return operator_key_create(user=operator, name="program", actor=actor)[1]


def clerk(*codenames: str) -> APIClient:
    """An operator who has these rights only."""
    from django.contrib.auth.models import Permission

    user = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_tokens(user).access_token}")
    return client
