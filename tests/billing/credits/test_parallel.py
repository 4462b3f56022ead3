"""Credits raced by real threads, each with its own connection."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from django.db import connection, connections, transaction
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.ledger.foundations import foundations_ensure
from billing.ledger.idempotent_views import _lock
from billing.ledger.models import Lot, StoredAnswer, UsageRecord
from billing.plans.models import Plan

from .conftest import code, post, wallet_of
from .test_reset_monthly import renewed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("books")]

D = Decimal


@pytest.fixture(autouse=True)
def _operator_accounts(transactional_db: None) -> None:
    """The flush of the test before took them."""
    foundations_ensure()


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """`call(0)` to `call(count - 1)`, all started together."""
    barrier = Barrier(count)

    def run(number: int) -> Any:
        try:
            barrier.wait(10)
            return call(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_twenty_consumes_on_ten_credits(service: APIClient, customer: Callable[..., Account]) -> None:
    account = customer(10)

    responses = at_once(
        20,
        lambda number: post(
            service, "consume", {"user_id": str(account.pk), "service": "rag", "request_id": f"order-{number}"}
        ),
    )

    assert Counter(response.status_code for response in responses) == {200: 10, 402: 10}
    assert (wallet_of(account), UsageRecord.objects.filter(account=account).count()) == ((D(0), D(0)), 10)


def test_ten_consumes_with_one_request_id(service: APIClient, customer: Callable[..., Account]) -> None:
    account = customer(10)
    body = {"user_id": str(account.pk), "service": "rag", "request_id": "order-1"}

    responses = at_once(10, lambda number: post(service, "consume", body))

    assert {response.content for response in responses} == {responses[0].content}
    assert Counter(response.headers.get("idempotent-replayed") for response in responses) == {None: 1, "true": 9}
    assert (wallet_of(account), UsageRecord.objects.filter(account=account).count()) == ((D(9), D(0)), 1)


def test_the_daily_limit_is_exact(service: APIClient, customer: Callable[..., Account], limited: Plan) -> None:
    account = customer(plan=limited)

    responses = at_once(
        10,
        lambda number: post(
            service,
            "consume",
            {"user_id": str(account.pk), "service": "rag", "units": 4, "request_id": f"order-{number}"},
        ),
    )

    assert Counter(response.status_code for response in responses) == {200: 5, 429: 5}
    assert wallet_of(account) == (D(80), D(0))


def test_settle_and_release_at_once_have_one_winner(service: APIClient, customer: Callable[..., Account]) -> None:
    account = customer(10)
    name = {"user_id": str(account.pk), "request_id": "job-1"}
    post(service, "hold", {**name, "credits": 4})

    bodies = [("settle", {**name, "credits": 4}), ("release", name)]
    responses = at_once(8, lambda number: post(service, *bodies[number % 2]))

    assert Counter(response.status_code for response in responses) == {200: 4, 409: 4}
    assert wallet_of(account) in [(D(6), D(0)), (D(10), D(0))]


def test_reset_monthly_at_once(service: APIClient, customer: Callable[..., Account], limited: Plan) -> None:
    accounts = [customer(plan=limited) for _ in range(3)]
    [renewed(account) for account in accounts]

    responses = at_once(5, lambda number: post(service, "reset-monthly", {}))

    assert sum(response.json()["granted"] for response in responses) == 3
    assert [wallet_of(account)[0] for account in accounts] == [D(200)] * 3
    assert Lot.objects.count() == 6


def test_one_idempotency_key_charges_once(service: APIClient, customer: Callable[..., Account]) -> None:
    account = customer(10)
    body = {"user_id": str(account.pk), "service": "rag", "request_id": "order-1"}

    responses = at_once(10, lambda number: post(service, "consume", body, HTTP_IDEMPOTENCY_KEY="key-1"))

    assert {response.status_code for response in responses} <= {200, 409}
    assert {response.content for response in responses if response.status_code == 200} == {
        post(service, "consume", body, HTTP_IDEMPOTENCY_KEY="key-1").content
    }
    assert (wallet_of(account), StoredAnswer.objects.count()) == ((D(9), D(0)), 1)


def test_a_key_in_use_elsewhere(service: APIClient, customer: Callable[..., Account]) -> None:
    account = customer(10)
    body = {"user_id": str(account.pk), "service": "rag", "request_id": "order-1"}
    post(service, "consume", body, HTTP_IDEMPOTENCY_KEY="key-0")
    owner = StoredAnswer.objects.get()

    with transaction.atomic():
        assert _lock(f"{owner.account_id}:{owner.api_key_id}:key-1")
        [response] = at_once(1, lambda number: post(service, "consume", body, HTTP_IDEMPOTENCY_KEY="key-1"))

    assert (code(response), response.headers["retry-after"]) == ((409, "request_in_flight"), "2")


def test_a_crash_leaves_neither_charge_nor_answer(service: APIClient, customer: Callable[..., Account]) -> None:
    account = customer(10)
    body = {"user_id": str(account.pk), "service": "rag", "request_id": "order-1"}
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_storedanswer ADD CONSTRAINT crash CHECK (false) NOT VALID")
    client = APIClient(raise_request_exception=False)
    client.credentials(**service._credentials)

    crashed = post(client, "consume", body, HTTP_IDEMPOTENCY_KEY="key-1")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_storedanswer DROP CONSTRAINT crash")
    balance = wallet_of(account)
    served = post(client, "consume", body, HTTP_IDEMPOTENCY_KEY="key-1")

    assert (crashed.status_code, balance) == (500, (D(10), D(0)))
    assert (served.status_code, wallet_of(account)) == (200, (D(9), D(0)))
