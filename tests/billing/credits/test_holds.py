"""Holds of services: every operation in every state, with exact figures."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Sum
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.ledger.models import Hold, LedgerEntry, UsageRecord
from billing.ledger.services import holds_reap
from billing.plans.models import ServicePrice
from iafactory.common import clock

from .conftest import code, post, wallet_of, written

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books")]

D = Decimal
Customers = Callable[..., Account]


@pytest.fixture
def account(customer: Customers) -> Account:
    return customer(10)


def hold(service: APIClient, account: Account, **more: Any) -> Any:
    body = {"user_id": str(account.pk), "request_id": "job-1", "expires_in_seconds": 60}
    return post(service, "hold", {**body, **(more or {"service": "rag", "units": 4})})


def settle(service: APIClient, account: Account, **more: Any) -> Any:
    return post(service, "settle", {"user_id": str(account.pk), "request_id": "job-1", **(more or {"credits": 3})})


def release(service: APIClient, account: Account) -> Any:
    return post(service, "release", {"user_id": str(account.pk), "request_id": "job-1"})


def expire(service: APIClient, account: Account) -> None:
    """The hold's time passes and the reaper closes it."""
    hold(service, account)
    assert holds_reap(now=clock.now() + timedelta(seconds=61)) == 1


def operator_loss() -> Decimal:
    entries = LedgerEntry.objects.filter(ledger_account__kind="operator_loss", unit="credit")
    return entries.aggregate(total=Sum("amount"))["total"] or D(0)


def test_hold_sets_credits_aside(service: APIClient, account: Account) -> None:
    response = hold(service, account)

    body = response.json()
    row = Hold.objects.get(pk=body["id"])
    assert (response.status_code, body["state"], body["credits_held"], body["available"]) == (200, "open", 4, 6)
    assert row.expires_at - row.opened_at == timedelta(seconds=60)
    assert wallet_of(account) == (D(10), D(4))


def test_hold_of_named_credits(service: APIClient, account: Account) -> None:
    body = hold(service, account, credits="2.5").json()

    assert (body["credits_held"], body["available"]) == (2.5, 7.5)
    assert code(settle(service, account, units=1)) == (400, "invalid_request")
    assert settle(service, account, credits=2).json()["credits_charged"] == 2


# -- open ----------------------------------------------------------------------------------------------------------------


def test_open_hold_again(service: APIClient, account: Account) -> None:
    first = hold(service, account)
    before = written()

    again = hold(service, account)

    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert (written(), wallet_of(account)) == (before, (D(10), D(4)))


def test_open_hold_for_something_else(service: APIClient, account: Account) -> None:
    hold(service, account)

    response = hold(service, account, credits=4)

    assert code(response) == (422, "idempotency_mismatch")
    assert wallet_of(account) == (D(10), D(4))


@pytest.mark.parametrize(
    ("asked", "charged", "lost", "left"),
    [
        ({"credits": 3}, 3, 0, D(7)),
        ({"credits": 4}, 4, 0, D(6)),
        ({"credits": 9}, 9, 0, D(1)),
        ({"credits": 12}, 10, 2, D(0)),
        ({"credits": 0}, 0, 0, D(10)),
        ({"units": "1.5"}, 1.5, 0, D("8.5")),
    ],
)
def test_open_settle(
    service: APIClient, account: Account, asked: dict[str, Any], charged: float, lost: float, left: Decimal
) -> None:
    hold(service, account)

    response = settle(service, account, **asked)

    body = response.json()
    assert (response.status_code, body["state"], body["late"]) == (200, "settled", False)
    assert (body["credits_held"], body["credits_charged"], body["credits_lost"]) == (4, charged, lost)
    assert (wallet_of(account), operator_loss()) == ((left, D(0)), D(-lost))
    assert UsageRecord.objects.get(pk=body["id"]).credits_charged == D(10) - left


def test_open_release(service: APIClient, account: Account) -> None:
    hold(service, account)

    body = release(service, account).json()

    assert (body["state"], body["credits_held"]) == ("released", 4)
    assert wallet_of(account) == (D(10), D(0))
    usage = UsageRecord.objects.get(pk=body["id"])
    assert (usage.end, usage.error_code, usage.credits_charged) == ("refused", "hold_released", D(0))


def test_units_are_settled_at_the_price_of_the_hold(service: APIClient, account: Account) -> None:
    hold(service, account)
    ServicePrice.objects.filter(code="rag").update(credits=3)

    body = settle(service, account, units=2).json()

    assert body["credits_charged"] == 2


# -- unknown -------------------------------------------------------------------------------------------------------------


def test_unknown_settle(service: APIClient, account: Account) -> None:
    before = written()

    assert code(settle(service, account)) == (404, "hold_not_found")
    assert code(settle(service, account, units=1)) == (404, "hold_not_found")
    assert (written(), wallet_of(account)) == (before, (D(10), D(0)))


def test_unknown_release(service: APIClient, account: Account) -> None:
    assert code(release(service, account)) == (404, "hold_not_found")


def test_somebody_elses_hold_is_unknown(service: APIClient, account: Account, customer: Customers) -> None:
    other = customer(10)
    hold(service, account)

    assert code(settle(service, other)) == (404, "hold_not_found")
    assert code(release(service, other)) == (404, "hold_not_found")
    assert wallet_of(account) == (D(10), D(4))


# -- settled -------------------------------------------------------------------------------------------------------------


def test_settled_hold_again(service: APIClient, account: Account) -> None:
    hold(service, account)
    settle(service, account)

    assert code(hold(service, account)) == (409, "hold_settled")
    assert wallet_of(account) == (D(7), D(0))


def test_settled_settle_again(service: APIClient, account: Account) -> None:
    hold(service, account)
    first = settle(service, account)
    before = written()

    again = settle(service, account)

    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert (written(), wallet_of(account)) == (before, (D(7), D(0)))


def test_settled_settle_again_in_units(service: APIClient, account: Account) -> None:
    hold(service, account)
    first = settle(service, account, units=3)

    assert settle(service, account, units=3).json() == first.json()


def test_settled_beyond_the_balance_again(service: APIClient, account: Account) -> None:
    hold(service, account)
    first = settle(service, account, credits=12)

    assert settle(service, account, credits=12).json() == first.json()


def test_settled_settle_of_another_amount(service: APIClient, account: Account) -> None:
    hold(service, account)
    settle(service, account)

    assert code(settle(service, account, credits=2)) == (422, "idempotency_mismatch")
    assert wallet_of(account) == (D(7), D(0))


def test_settled_release(service: APIClient, account: Account) -> None:
    hold(service, account)
    settle(service, account)

    assert code(release(service, account)) == (409, "hold_settled")
    assert wallet_of(account) == (D(7), D(0))


# -- released ------------------------------------------------------------------------------------------------------------


def test_released_hold_again(service: APIClient, account: Account) -> None:
    hold(service, account)
    release(service, account)

    assert code(hold(service, account)) == (409, "hold_released")


def test_released_settle(service: APIClient, account: Account) -> None:
    hold(service, account)
    release(service, account)

    assert code(settle(service, account)) == (409, "hold_released")
    assert wallet_of(account) == (D(10), D(0))


def test_released_release_again(service: APIClient, account: Account) -> None:
    hold(service, account)
    first = release(service, account)
    before = written()

    again = release(service, account)

    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert written() == before


# -- expired, not reaped yet ---------------------------------------------------------------------------------------------


def test_overdue_hold_again(service: APIClient, account: Account) -> None:
    hold(service, account)

    with freeze_time(clock.now() + timedelta(seconds=60)):
        assert code(hold(service, account)) == (409, "hold_expired")


def test_overdue_settle(service: APIClient, account: Account) -> None:
    hold(service, account)

    with freeze_time(clock.now() + timedelta(seconds=60)):
        body = settle(service, account).json()

    assert (body["state"], body["credits_charged"], body["late"]) == ("settled", 3, True)
    assert wallet_of(account) == (D(7), D(0))


def test_overdue_release(service: APIClient, account: Account) -> None:
    hold(service, account)

    with freeze_time(clock.now() + timedelta(seconds=60)):
        body = release(service, account).json()

    assert body["state"] == "released"
    assert wallet_of(account) == (D(10), D(0))


# -- expired and reaped --------------------------------------------------------------------------------------------------


def test_expired_hold_again(service: APIClient, account: Account) -> None:
    expire(service, account)

    assert code(hold(service, account)) == (409, "hold_expired")
    assert wallet_of(account) == (D(10), D(0))


def test_expired_settle_is_booked_late(service: APIClient, account: Account) -> None:
    expire(service, account)

    body = settle(service, account).json()

    assert (body["state"], body["credits_held"], body["credits_charged"], body["late"]) == ("settled", 4, 3, True)
    assert wallet_of(account) == (D(7), D(0))
    assert list(UsageRecord.objects.filter(pk=body["id"]).values_list("end", "credits_charged")) == [("complete", D(3))]


def test_expired_settle_in_units_has_the_present_price(service: APIClient, account: Account) -> None:
    expire(service, account)
    ServicePrice.objects.filter(code="rag").update(credits=2)

    first = settle(service, account, units=2)
    ServicePrice.objects.filter(code="rag").update(credits=5)
    again = settle(service, account, units=2)

    assert first.json()["credits_charged"] == 4
    assert again.json() == first.json()


def test_expired_settle_again(service: APIClient, account: Account) -> None:
    expire(service, account)
    first = settle(service, account)

    again = settle(service, account)

    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert wallet_of(account) == (D(7), D(0))


def test_expired_release(service: APIClient, account: Account) -> None:
    expire(service, account)
    before = written()

    body = release(service, account).json()

    assert (body["state"], body["credits_held"]) == ("expired", 4)
    assert (written(), wallet_of(account)) == (before, (D(10), D(0)))


# -- what is asked -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"service": "rag", "credits": 1},
        {"credits": 1, "units": 1},
        {"credits": 0},
        {"credits": "1e2"},
        {"credits": 1, "expires_in_seconds": 0},
        {"credits": 1, "expires_in_seconds": 86401},
        {"credits": 1, "expires_in_seconds": "60"},
    ],
    ids=str,
)
def test_holds_that_say_too_little_or_too_much(service: APIClient, account: Account, wrong: dict[str, Any]) -> None:
    response = post(service, "hold", {"user_id": str(account.pk), "request_id": "job-1", **wrong})

    assert code(response) == (400, "invalid_request")
    assert wallet_of(account) == (D(10), D(0))


@pytest.mark.parametrize("wrong", [{}, {"credits": 1, "units": 1}, {"credits": -1}, {"credits": 10**9}], ids=str)
def test_settles_that_say_too_little_or_too_much(service: APIClient, account: Account, wrong: dict[str, Any]) -> None:
    hold(service, account)

    response = post(service, "settle", {"user_id": str(account.pk), "request_id": "job-1", **wrong})

    assert code(response) == (400, "invalid_request")
    assert wallet_of(account) == (D(10), D(4))
