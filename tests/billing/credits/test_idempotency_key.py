"""`Idempotency-Key` on the charging POSTs: one result per key."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey
from billing.accounts.services import account_block, account_unblock
from billing.events.services import SYSTEM
from billing.ledger.models import StoredAnswer
from iafactory.common import clock

from .conftest import client_with, code, key_of, post, wallet_of, written

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books")]

D = Decimal


@pytest.fixture
def account(customer: Callable[..., Account]) -> Account:
    return customer(10)


def consume(service: APIClient, account: Account, request_id: str, key: str = "key-1") -> Any:
    body = {"user_id": str(account.pk), "service": "rag", "request_id": request_id}
    return post(service, "consume", body, HTTP_IDEMPOTENCY_KEY=key)


def test_the_same_key_and_body_get_the_stored_answer(service: APIClient, account: Account) -> None:
    first = consume(service, account, "order-1")
    before = written()

    again = consume(service, account, "order-1")

    assert (again.content, again.status_code, again.headers["content-type"]) == (first.content, 200, "application/json")
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert (written(), wallet_of(account)) == (before, (D(9), D(0)))


@pytest.mark.parametrize(
    ("path", "rest"),
    [("hold", {"service": "rag", "request_id": "job-2"}), ("settle", {"credits": 1, "request_id": "job-1"})],
)
def test_hold_and_settle_keep_their_answers_too(service: APIClient, account: Account, path: str, rest: dict[str, Any]) -> None:
    post(service, "hold", {"user_id": str(account.pk), "service": "rag", "request_id": "job-1"})
    body = {"user_id": str(account.pk), **rest}
    first = post(service, path, body, HTTP_IDEMPOTENCY_KEY="key-1")

    again = post(service, path, body, HTTP_IDEMPOTENCY_KEY="key-1")

    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert StoredAnswer.objects.get().status == 200


def test_what_is_stored_is_encrypted_and_ends_after_a_day(service: APIClient, account: Account) -> None:
    before = clock.now()
    consume(service, account, "order-1")

    answer = StoredAnswer.objects.get()
    with connection.cursor() as cursor:
        cursor.execute("SELECT content FROM billing_storedanswer")
        stored = cursor.fetchone()[0]
    assert ("order-1" in stored, '"order-1"' in (answer.content or "")) == (False, True)
    assert timedelta(hours=24) <= answer.expires_at - before < timedelta(hours=24, seconds=10)


def test_the_same_key_with_another_body(service: APIClient, account: Account) -> None:
    consume(service, account, "order-1")
    before = written()

    response = consume(service, account, "order-2")

    assert code(response) == (422, "idempotency_mismatch")
    assert (written(), wallet_of(account)) == (before, (D(9), D(0)))


def test_the_same_key_at_another_address(service: APIClient, account: Account) -> None:
    body = {"user_id": str(account.pk), "service": "rag", "request_id": "order-1"}
    post(service, "consume", body, HTTP_IDEMPOTENCY_KEY="key-1")

    response = post(service, "hold", body, HTTP_IDEMPOTENCY_KEY="key-1")

    assert code(response) == (422, "idempotency_mismatch")


def test_a_key_belongs_to_its_api_key(service: APIClient, account: Account) -> None:
    consume(service, account, "order-1")
    same_owner = ApiKey.objects.get().account
    other = client_with(key_of(same_owner, "credits:write"))

    response = consume(other, account, "order-2")

    assert (response.status_code, "idempotent-replayed" in response.headers) == (200, False)


def test_a_refusal_frees_the_key(service: APIClient, account: Account) -> None:
    account_block(account=account, reason="test", actor=SYSTEM)
    refused = consume(service, account, "order-1")
    account_unblock(account=account, actor=SYSTEM)

    served = consume(service, account, "order-1")

    assert code(refused) == (403, "account_blocked")
    assert (served.status_code, "idempotent-replayed" in served.headers) == (200, False)


def test_after_a_day_the_key_is_free(service: APIClient, account: Account) -> None:
    consume(service, account, "order-1")

    with freeze_time(clock.now() + timedelta(hours=24, seconds=1)):
        response = consume(service, account, "order-2")

    assert (response.status_code, wallet_of(account)) == (200, (D(8), D(0)))
    assert StoredAnswer.objects.count() == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9", "a\tb"])
def test_what_is_no_key(service: APIClient, account: Account, key: str) -> None:
    response = consume(service, account, "order-1", key)

    assert code(response) == (400, "invalid_idempotency_key")
    assert wallet_of(account) == (D(10), D(0))


def test_the_longest_key(service: APIClient, account: Account) -> None:
    assert consume(service, account, "order-1", "x" * 255).status_code == 200
