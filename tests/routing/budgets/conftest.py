"""Calls that cost something, and operators who look at them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing.accounts.models import Account, User
from billing.ledger.items import HoldItem
from billing.ledger.models import UsageRecord
from billing.ledger.services import hold_open
from iafactory.common.ids import uuid7
from routing.models import Provider
from tests.billing.accounts.conftest import logged_in
from tests.factories import account_make

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def account(db: None) -> Account:
    return account_make()


@pytest.fixture
def boss(db: None) -> User:
    return User.objects.create_superuser("boss@example.com", "correct horse battery")


@pytest.fixture
def staff(boss: User) -> APIClient:
    return logged_in(boss)


@pytest.fixture
def groq(db: None) -> Provider:
    return Provider.objects.create(slug="groq", name="Groq", protocol="openai", base_url="https://api.groq.com/openai/v1")


@pytest.fixture
def openrouter(db: None) -> Provider:
    return Provider.objects.create(slug="openrouter", name="O", protocol="openai", base_url="https://openrouter.ai/api/v1")


def spent(account: Account, provider: str, usd: str, at: datetime = NOW, **fields: Any) -> None:
    """A call that ended, and what it cost us."""
    UsageRecord.objects.create(
        id=uuid7(),
        started_at=at,
        finished_at=at,
        account_id=account.pk,
        endpoint="/v1/chat/completions",
        provider=provider,
        cost_usd=Decimal(usd),
        **{"end": "complete", **fields},
    )


def under_way(account: Account, provider: str, usd: str) -> None:
    """A call that has not ended, and what it may cost us."""
    item = HoldItem(
        id=uuid7(),
        account_id=account.pk,
        credits=Decimal(0),
        worst_cost_usd=Decimal(usd),
        opened_at=NOW,
        expires_at=NOW + timedelta(minutes=10),
        endpoint="/v1/chat/completions",
        provider=provider,
        model="m",
        api_key_id=None,
    )
    assert hold_open(item).verdict == "held"
