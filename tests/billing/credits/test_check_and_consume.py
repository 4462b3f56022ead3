"""Services check and consume credits: exact figures, every refusal, repetitions."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import pytest
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.accounts.services import account_block, account_unblock
from billing.events.services import SYSTEM
from billing.ledger.models import LedgerEntry, Lot, UsageRecord
from billing.ledger.services import dispute_lose
from billing.plans.models import Plan, ServicePrice
from billing.subscriptions.services import subscription_end, subscription_move
from iafactory.common import clock
from tests.factories import account_make, lot_make

from .conftest import client_with, code, key_of, post, wallet_of, written

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books")]

D = Decimal
Customers = Callable[..., Account]


def check(service: APIClient, account: Account, name: str = "rag", **more: Any) -> Any:
    return post(service, "check", {"user_id": str(account.pk), "service": name, **more})


def consume(service: APIClient, account: Account, request_id: str, name: str = "rag", **more: Any) -> Any:
    return post(service, "consume", {"user_id": str(account.pk), "service": name, "request_id": request_id, **more})


def test_check_tells_price_and_what_is_available(service: APIClient, customer: Customers) -> None:
    account = customer(10)

    response = check(service, account, "legal", units=2)

    assert response.status_code == 200
    assert response.json() == {
        "can_proceed": True,
        "reason": None,
        "message": None,
        "account_id": str(account.pk),
        "service": "legal",
        "units": 2,
        "credits_required": 6,
        "available": 10,
        "plan": "payg",
        "daily": None,
    }


def test_check_writes_nothing(service: APIClient, customer: Customers) -> None:
    account = customer(10)
    before = written()

    check(service, account)

    assert (written(), wallet_of(account)) == (before, (D(10), D(0)))


def test_check_says_when_credits_are_short(service: APIClient, customer: Customers) -> None:
    account = customer("5.9")

    body = check(service, account, "legal", units=2).json()

    assert (body["can_proceed"], body["reason"], body["credits_required"]) == (False, "insufficient_credits", 6)


def test_check_counts_lots_that_ended_unbooked_as_gone(service: APIClient, customer: Customers) -> None:
    account = customer(1)
    lot_make(account.pk, 50, kind=Lot.Kind.BONUS, expires_at=clock.now() + timedelta(hours=1))

    with freeze_time(clock.now() + timedelta(hours=2)):
        body = check(service, account).json()

    assert body["available"] == 1


def test_consume_charges_once_and_writes_the_usage_row(service: APIClient, customer: Customers) -> None:
    account = customer(10)

    response = consume(service, account, "order-1", "legal", units=2)

    body = response.json()
    call_id = uuid5(account.pk, "consume:order-1")
    assert response.status_code == 200
    assert (body["id"], body["credits"], body["available"], body["units"]) == (str(call_id), 6, 4, 2)
    assert wallet_of(account) == (D(4), D(0))
    usage = UsageRecord.objects.get(pk=call_id)
    assert (usage.endpoint, usage.model, usage.end, usage.credits_charged, usage.plan) == (
        "service:legal",
        "",
        "complete",
        D(6),
        "payg",
    )
    entries = LedgerEntry.objects.filter(transaction=call_id).order_by("id").values_list("ledger_account__kind", "amount")
    assert list(entries) == [("wallet", D(-6)), ("consumed", D(6))]


def test_units_may_be_parts(service: APIClient, customer: Customers) -> None:
    account = customer(10)

    body = consume(service, account, "v-1", "voice", units="1.5").json()

    assert (body["credits"], body["available"]) == (0.375, 9.625)
    assert wallet_of(account) == (D("9.625"), D(0))


def test_a_repetition_gets_the_first_answer(service: APIClient, customer: Customers) -> None:
    account = customer(10)
    first = consume(service, account, "order-1")
    consume(service, account, "order-2")
    before = written()

    again = consume(service, account, "order-1")

    assert again.json() == first.json()
    assert (again.headers["idempotent-replayed"], "idempotent-replayed" in first.headers) == ("true", False)
    assert (written(), wallet_of(account)) == (before, (D(8), D(0)))


def test_a_repetition_is_answered_though_the_account_could_not_pay_again(service: APIClient, customer: Customers) -> None:
    account = customer(1)
    first = consume(service, account, "order-1")
    account_block(account=account, reason="test", actor=SYSTEM)

    again = consume(service, account, "order-1")

    assert again.json() == first.json()


@pytest.mark.parametrize("other", [{"units": 2}, {"service": "legal"}])
def test_a_request_id_used_for_something_else(service: APIClient, customer: Customers, other: dict[str, Any]) -> None:
    account = customer(10)
    consume(service, account, "order-1")
    before = written()

    response = post(service, "consume", {"user_id": str(account.pk), "service": "rag", "request_id": "order-1", **other})

    assert code(response) == (422, "idempotency_mismatch")
    assert (written(), wallet_of(account)) == (before, (D(9), D(0)))


def test_request_ids_belong_to_an_account(service: APIClient, customer: Customers) -> None:
    amina, boris = customer(10), customer(10)
    consume(service, amina, "order-1")

    response = consume(service, boris, "order-1")

    assert (response.status_code, "idempotent-replayed" in response.headers) == (200, False)
    assert wallet_of(boris) == (D(9), D(0))


def blocked(account: Account) -> None:
    account_block(account=account, reason="test", actor=SYSTEM)


def indebted(account: Account) -> None:
    lot = Lot.objects.get(wallet=account.pk)
    lot_make(account.pk, 50, kind=Lot.Kind.BONUS)
    dispute_lose(lot=lot, reason="test", actor=SYSTEM, idempotency_key="dispute-1")
    lot.refresh_from_db()


def unsubscribed(account: Account) -> None:
    subscription_end(subscription=account.subscriptions.get(), actor=SYSTEM)


def paused(account: Account) -> None:
    subscription_move(subscription=account.subscriptions.get(), to="paused", actor=SYSTEM)


def without_service(account: Account) -> None:
    Plan.objects.filter(code="payg").update(features=["legal"])


REFUSALS = [
    pytest.param(blocked, 1, 403, "account_blocked", id="blocked"),
    pytest.param(unsubscribed, 1, 403, "no_active_plan", id="no plan"),
    pytest.param(paused, 1, 403, "no_active_plan", id="paused"),
    pytest.param(without_service, 1, 403, "service_not_in_plan", id="service not in plan"),
    pytest.param(lambda account: None, 11, 402, "insufficient_credits", id="credits"),
]


@pytest.mark.parametrize(("prepare", "units", "status", "reason"), REFUSALS)
@pytest.mark.parametrize("path", ["consume", "hold"])
def test_what_check_refuses_is_refused_and_writes_nothing(
    service: APIClient, customer: Customers, path: str, prepare: Callable[[Account], None], units: int, status: int, reason: str
) -> None:
    account = customer(10)
    prepare(account)
    before = written()
    body = {"user_id": str(account.pk), "service": "rag", "units": units, "request_id": "order-1"}

    response = post(service, path, body, HTTP_IDEMPOTENCY_KEY="key-1")

    assert code(response) == (status, reason)
    assert (written(), wallet_of(account)) == (before, (D(10), D(0)))
    assert check(service, account, units=units).json()["reason"] == reason


@pytest.mark.parametrize("path", ["consume", "hold"])
def test_debt_stops_spending(service: APIClient, customer: Customers, path: str) -> None:
    account = customer(10)
    consume(service, account, "order-0", units=4)
    indebted(account)
    before = written()

    response = post(service, path, {"user_id": str(account.pk), "service": "rag", "request_id": "order-1"})

    assert code(response) == (402, "account_in_debt")
    assert (written(), wallet_of(account)) == (before, (D(50), D(0)))
    assert check(service, account).json()["reason"] == "account_in_debt"


def test_daily_limit_counts_what_was_consumed_and_what_is_held(service: APIClient, customer: Customers, limited: Plan) -> None:
    account = customer(plan=limited)
    consume(service, account, "order-1", units=12)
    post(service, "hold", {"user_id": str(account.pk), "service": "rag", "units": 5, "request_id": "hold-1"})

    refused = consume(service, account, "order-2", units=4)
    served = consume(service, account, "order-3", units=3)
    after = check(service, account).json()

    assert (code(refused), refused.headers["x-should-retry"]) == ((429, "daily_limit_reached"), "false")
    assert served.status_code == 200
    assert (after["reason"], after["available"]) == ("daily_limit_reached", 80)
    assert (after["daily"]["limit"], after["daily"]["used"], after["daily"]["remaining"]) == (20, 20, 0)
    assert wallet_of(account) == (D(85), D(5))


def test_the_day_is_that_of_the_account(service: APIClient, customer: Customers, limited: Plan) -> None:
    Account.objects.update(time_zone="Africa/Algiers")
    with freeze_time("2026-12-10T21:00:00Z"):
        account = customer(plan=limited)
        # Algiers is an hour ahead of UTC: its day ends at 23:00.
        assert consume(service, account, "evening", units=20).status_code == 200

    with freeze_time("2026-12-10T22:59:59Z"):
        late = consume(service, account, "late")
    with freeze_time("2026-12-10T23:00:00Z"):
        midnight = check(service, account).json()
        consume(service, account, "next day", units=5)
    with freeze_time("2026-12-11T01:00:00Z"):
        morning = check(service, account).json()

    assert code(late) == (429, "daily_limit_reached")
    assert (midnight["can_proceed"], midnight["daily"]["used"]) == (True, 0)
    assert midnight["daily"]["resets_at"] == "2026-12-11T23:00:00Z"
    assert morning["daily"]["used"] == 5


def test_the_account_may_be_named_in_four_ways(service: APIClient, customer: Customers) -> None:
    account = customer(10)
    account.external_id = "crm-7"
    account.save()
    user_id = str(account.personal_of_id)

    answers = [
        post(service, "check", {"user_id": user_id, "service": "rag"}),
        post(service, "check", {"user_id": str(account.pk), "service": "rag"}),
        post(service, "check", {"external_id": "crm-7", "service": "rag"}),
        post(service, "check", {"service": "rag"}, HTTP_X_USER_ID=user_id),
    ]

    assert {answer.json()["account_id"] for answer in answers} == {str(account.pk)}


@pytest.mark.parametrize("path", ["check", "consume", "hold", "settle", "release"])
@pytest.mark.parametrize(
    "name", [{"user_id": "018f0000-0000-7000-8000-000000000000"}, {"user_id": "nobody"}, {"external_id": "nobody"}]
)
def test_unknown_accounts(service: APIClient, services: dict[str, ServicePrice], path: str, name: dict[str, str]) -> None:
    rest = {"settle": {"credits": 1}, "release": {}}.get(path, {"service": "rag"})

    response = post(service, path, {**name, "request_id": "order-1", **rest})

    assert code(response) == (404, "account_not_found")


def test_an_unknown_user_in_the_header(service: APIClient, services: dict[str, ServicePrice]) -> None:
    response = post(service, "check", {"service": "rag"}, HTTP_X_USER_ID="nobody")

    assert code(response) == (404, "account_not_found")


def test_two_accounts_at_once_or_none(service: APIClient, customer: Customers) -> None:
    amina, boris = customer(10), customer(10)

    both = post(service, "check", {"user_id": str(amina.pk), "service": "rag"}, HTTP_X_USER_ID=str(boris.pk))
    none = post(service, "check", {"service": "rag"})

    assert code(both) == (400, "invalid_request")
    assert code(none) == (400, "invalid_request")


def test_an_unknown_service(service: APIClient, customer: Customers) -> None:
    assert code(check(service, customer(10), "teleport")) == (404, "service_not_found")


GARBAGE = [
    {"units": 0},
    {"units": -1},
    {"units": True},
    {"units": "NaN"},
    {"units": "1e3"},
    {"units": "1_0"},
    {"units": [1]},
    {"units": 10**30},
    {"units": "0.0000001"},
    {"service": 5},
    {"service": ""},
    {"service": "r\x00g"},
    {"service": None},
    {"request_id": ""},
    {"request_id": 7},
    {"request_id": "x" * 129},
    {"request_id": "a\x00b"},
    {"request_id": None},
    {"user_id": 5},
    {"external_id": "a\x00b"},
]


@pytest.mark.parametrize("wrong", GARBAGE, ids=str)
def test_garbage_is_refused(service: APIClient, customer: Customers, wrong: dict[str, Any]) -> None:
    account = customer(10)
    before = written()

    response = post(service, "consume", {"user_id": str(account.pk), "service": "rag", "request_id": "order-1", **wrong})

    assert code(response) == (400, "invalid_request")
    assert written() == before


@pytest.mark.parametrize("body", ["[]", '"text"', "5", "null", "[1,2]"])
def test_bodies_that_are_no_objects(service: APIClient, body: str) -> None:
    response = service.post("/api/credits/consume", body, content_type="application/json")

    assert code(response) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("check", "credits:read"),
        ("consume", "credits:write"),
        ("hold", "credits:write"),
        ("settle", "credits:write"),
        ("release", "credits:write"),
        ("reset-monthly", "credits:admin"),
    ],
)
def test_each_endpoint_needs_its_scope(customer: Customers, path: str, scope: str) -> None:
    everything_else = {"inference", "billing:read", "credits:read", "credits:write", "credits:admin"} - {scope}
    lacking = client_with(key_of(customer(10), *everything_else))
    having = client_with(key_of(customer(10), scope))

    assert code(post(lacking, path, {})) == (403, "insufficient_scope")
    assert post(having, path, {}).status_code in (200, 400)
    assert code(post(APIClient(), path, {})) == (401, "not_authenticated")


def test_the_keys_own_account_is_not_charged(customer: Customers) -> None:
    operator_side, account = customer(10), customer(10)

    consume(client_with(key_of(operator_side, "credits:write")), account, "order-1")

    assert (wallet_of(operator_side), wallet_of(account)) == ((D(10), D(0)), (D(9), D(0)))


def test_an_account_without_a_wallet(service: APIClient, payg: Plan, services: dict[str, ServicePrice]) -> None:
    account = account_make()
    account.wallet.delete()

    response = consume(service, account, "order-1")

    assert code(response) == (403, "no_active_plan")
    assert check(service, account).json()["available"] == 0


def test_a_free_service_is_booked_too(service: APIClient, customer: Customers) -> None:
    account = customer()
    ServicePrice.objects.filter(code="rag").update(credits=0)

    body = consume(service, account, "order-1").json()
    again = consume(service, account, "order-1")

    assert (body["credits"], again.headers["idempotent-replayed"]) == (0, "true")
    assert UsageRecord.objects.filter(pk=UUID(body["id"]), credits_charged=0).count() == 1


def test_the_price_of_the_first_time_is_answered(service: APIClient, customer: Customers) -> None:
    account = customer(10)
    first = consume(service, account, "order-1")
    ServicePrice.objects.filter(code="rag").update(credits=5)

    again = consume(service, account, "order-1")

    assert again.json() == first.json()
    assert wallet_of(account) == (D(9), D(0))


def test_an_unblocked_account_goes_on(service: APIClient, customer: Customers) -> None:
    account = customer(10)
    blocked(account)
    consume(service, account, "order-1")
    account_unblock(account=account, actor=SYSTEM)

    assert consume(service, account, "order-1").status_code == 200
