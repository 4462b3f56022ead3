"""What the tests of credits share: plans and services of the catalogue, customers on a plan, a service with its key."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.accounts.services import api_key_create
from billing.events.services import SYSTEM
from billing.ledger.models import Hold, LedgerTransaction, StoredAnswer, UsageRecord, Wallet
from billing.ledger.verification import books_verify
from billing.plans.models import Plan, ServicePrice
from billing.subscriptions.services import subscription_start
from tests.factories import account_make

SERVICE_SCOPES = ("credits:read", "credits:write", "credits:admin")


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
def services(db: None) -> dict[str, ServicePrice]:
    prices = {"rag": "1", "legal": "3", "voice": "0.25"}
    return {code: ServicePrice.objects.create(code=code, name=code, credits=Decimal(price)) for code, price in prices.items()}


@pytest.fixture
def payg(db: None) -> Plan:
    """Every service, no period credits, no daily limit."""
    return Plan.objects.create(
        code="payg",
        family="payg",
        name="Pay as you go",
        interval="none",
        billing_mode="credits",
        features=["rag", "legal", "voice"],
    )


@pytest.fixture
def limited(db: None) -> Plan:
    """One service, 100 credits a month, 20 a day."""
    return Plan.objects.create(
        code="limited",
        family="credits",
        name="Limited",
        billing_mode="credits",
        period_credits=Decimal(100),
        daily_limit=Decimal(20),
        features=["rag"],
    )


@pytest.fixture
def customer(payg: Plan, services: dict[str, ServicePrice]) -> Callable[..., Account]:
    """Makes an account with bought credits on a plan (pay as you go)."""

    def make(credits: str | int = 0, plan: Plan | None = None) -> Account:
        account = account_make(credits=credits)
        subscription_start(account=account, plan=plan or payg, actor=SYSTEM)
        return account

    return make


def key_of(account: Account, *scopes: str) -> str:
    """The secret of a new key of `account`, given by the operator."""
    return api_key_create(account=account, created_by=None, name="test", scopes=scopes, actor=SYSTEM)[1]


def client_with(secret: str, **headers: str) -> APIClient:
    client = APIClient(raise_request_exception=True)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}", **headers)
    return client


@pytest.fixture
def service(db: None) -> APIClient:
    """Another service, with every scope an operator gives."""
    return client_with(key_of(account_make(), *SERVICE_SCOPES))


def post(client: APIClient, path: str, body: Any, **headers: Any) -> Any:
    return client.post(f"/api/credits/{path}", body, format="json", **headers)


def code(response: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    return response.status_code, response.json()["error"]["code"]


def wallet_of(account: Account) -> tuple[Decimal, Decimal]:
    """Balance and held."""
    wallet = Wallet.objects.get(pk=account.pk)
    return wallet.balance, wallet.held


def written() -> tuple[int, int, int, int]:
    """How many rows a charge would add to."""
    models = (LedgerTransaction, UsageRecord, Hold, StoredAnswer)
    return tuple(model.objects.count() for model in models)  # type: ignore[return-value, attr-defined]
