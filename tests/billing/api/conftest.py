"""What the tests of billing reads share: customers with keys and sessions, and calls settled as the gateway settles them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.core.cache import cache
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.accounts.services import api_key_create
from billing.accounts.tokens import session_tokens
from billing.events.services import SYSTEM
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.services import call_settle, hold_open
from billing.ledger.verification import books_verify
from billing.plans.models import Plan
from billing.subscriptions.services import subscription_start
from iafactory.common.ids import uuid7
from tests.factories import account_make

# A call of 1,000 input tokens (200 cached) and 500 output tokens (100 reasoning).
PRICE = {
    "price_id": "018f0000-0000-7000-8000-00000000000a",
    "input_per_mtok": "2.5",
    "cached_input_per_mtok": "1.25",
    "output_per_mtok": "10",
    "cost_factor": "0.4",
    "margin_multiplier": "1.8",
    "usd_per_credit": "0.01",
    "rounding": "exact",
    "charged": True,
}
LIST_COST = Decimal("0.00725")
CHARGE = Decimal("1.305")


@pytest.fixture(autouse=True)
def _addresses(settings: Any) -> None:
    settings.ROOT_URLCONF = "billing.urls"


@pytest.fixture(autouse=True)
def _clean_redis() -> None:
    cache.clear()


@pytest.fixture
def books() -> Iterator[None]:
    """For tests that move credits: the books agree when they are done."""
    yield
    assert [(finding.check.name, finding.differences) for finding in books_verify() if finding.differences] == []


@pytest.fixture
def payg(db: None) -> Plan:
    return Plan.objects.create(
        code="payg", family="payg", name="Pay as you go", interval="none", billing_mode="credits", features=["rag"]
    )


@pytest.fixture
def customer(payg: Plan) -> Callable[..., Account]:
    """Makes an account with bought credits on a plan (pay as you go)."""

    def make(credits: str | int = 0, plan: Plan | None = None) -> Account:
        account = account_make(credits=credits)
        subscription_start(account=account, plan=plan or payg, actor=SYSTEM)
        return account

    return make


@pytest.fixture
def amina(customer: Callable[..., Account]) -> Account:
    return customer(100)


@pytest.fixture
def boris(customer: Callable[..., Account]) -> Account:
    return customer(100)


def key_client(account: Account, *scopes: str) -> APIClient:
    """A client with a new key of `account`."""
    _, secret = api_key_create(account=account, created_by=None, name="test", scopes=scopes or ("billing:read",), actor=SYSTEM)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


def session_client(account: Account, **headers: str) -> APIClient:
    """A client with a session of the account's user."""
    assert account.personal_of is not None
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_tokens(account.personal_of).access_token}", **headers)
    return client


def call_make(account: Account, charge: str | Decimal = CHARGE, *, at: datetime | None = None, **fields: Any) -> UUID:
    """A call of `account` held and settled; the id."""
    at = at or datetime.now(UTC)
    charge = Decimal(charge)
    held = fields.pop("held", charge)
    item = HoldItem(
        id=uuid7(),
        account_id=account.pk,
        credits=held,
        worst_cost_usd=Decimal("0.05"),
        opened_at=at,
        expires_at=at + timedelta(minutes=10),
        endpoint="/v1/chat/completions",
    )
    assert hold_open(item).verdict == "held"
    usage: dict[str, Any] = {
        "end": "complete",
        "plan": "payg",
        "requested_model": "auto",
        "model": "gpt-4o",
        "provider": "openai",
        "profile": "openai-gpt-4o-secret-profile",
        "attempts": 1,
        "input_tokens": 1000,
        "cache_read_tokens": 200,
        "output_tokens": 500,
        "reasoning_tokens": 100,
        "list_cost_usd": LIST_COST,
        "cost_usd": Decimal("0.0029"),
        "price": PRICE,
    }
    record = UsageItem(
        id=item.id,
        started_at=at,
        finished_at=at + timedelta(seconds=2),
        account_id=account.pk,
        endpoint=item.endpoint,
        credits_held=held,
        credits_charged=charge,
        **(usage | fields),
    )
    call_settle(CallItem(usage=record, held=held, charge=charge))
    return item.id


def code(response: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    return response.status_code, response.json()["error"]["code"]
