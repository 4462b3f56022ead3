"""Accounts that behave strangely."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.core.cache import cache
from rest_framework.test import APIClient

from billing.accounts.models import Account, User
from billing.events.services import SYSTEM
from billing.ledger.models import UsageRecord
from billing.plans.models import Plan
from billing.subscriptions.services import subscription_start
from iafactory.celery import app
from iafactory.common.ids import uuid7
from tests.billing.accounts.conftest import code, logged_in, work
from tests.factories import account_make

__all__ = ["code", "logged_in", "work"]

# 13:00 in Algiers, where accounts live unless told otherwise.
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _clean_redis() -> None:
    cache.clear()
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")


@pytest.fixture
def client() -> APIClient:
    return APIClient()


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_superuser("operator@example.com", "correct horse battery")


@pytest.fixture
def account(db: None) -> Account:
    """An account of long ago."""
    made = account_make()
    Account.objects.filter(pk=made.pk).update(created_at=datetime(2026, 1, 1, tzinfo=UTC))
    made.refresh_from_db()
    return made


@pytest.fixture
def on_plan(db: None) -> Callable[..., Account]:
    """Makes an old account on a plan of its own with these fields."""

    def make(**fields: Any) -> Account:
        plan = Plan.objects.create(
            code=f"plan-{uuid7()}", family="test", name="Test", interval="none", **{"billing_mode": "quota", **fields}
        )
        made = account_make()
        Account.objects.filter(pk=made.pk).update(created_at=datetime(2026, 1, 1, tzinfo=UTC))
        subscription_start(account=made, plan=plan, actor=SYSTEM)
        return made

    return make


def calls(
    account: Account,
    count: int,
    *,
    at: datetime = NOW,
    end: str = "complete",
    credits: str = "0",
    endpoint: str = "/v1/chat/completions",
) -> list[UUID]:
    """`count` calls that ended at `at`; their ids."""
    rows = UsageRecord.objects.bulk_create(
        UsageRecord(
            id=uuid7(),
            started_at=at,
            finished_at=at,
            account_id=account.pk,
            endpoint=endpoint,
            end=end,
            credits_charged=Decimal(credits),
        )
        for _ in range(count)
    )
    return [row.pk for row in rows]
