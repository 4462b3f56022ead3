"""`GET /api/billing/me`: what the account has, in exact figures."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.ledger.items import HoldItem
from billing.ledger.models import Lot
from billing.ledger.services import hold_open
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from billing.subscriptions.services import subscription_end, subscription_move
from iafactory.common import clock
from iafactory.common.ids import uuid7
from tests.factories import lot_make

from .conftest import call_make, code, key_client, session_client

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books")]

D = Decimal


def test_me_with_a_key(amina: Account) -> None:
    lot = Lot.objects.get(wallet=amina.pk)
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    bonus = lot_make(amina.pk, 5, kind=Lot.Kind.BONUS, expires_at=expires_at)
    call_make(amina, "7.25")
    now = clock.now()
    hold_open(
        HoldItem(
            id=uuid7(),
            account_id=amina.pk,
            credits=D(2),
            worst_cost_usd=D(0),
            opened_at=now,
            expires_at=now + timedelta(minutes=1),
            endpoint="/v1/chat/completions",
        )
    )

    response = key_client(amina).get("/api/billing/me")

    body = response.json()
    subscription = Subscription.objects.get(account=amina)
    assert response.status_code == 200
    assert body["account"]["id"] == str(amina.pk)
    assert body["plan"] == {"code": "payg", "name": "Pay as you go", "billing_mode": "credits", "features": ["rag"]}
    assert (body["subscription"]["id"], body["subscription"]["state"]) == (str(subscription.pk), "active")
    assert (body["balance"], body["held"], body["available"], body["debt"]) == (97.75, 2, 95.75, 0)
    assert [(row["id"], row["remaining"], row["held"]) for row in body["lots"]] == [(str(lot.pk), 97.75, 2)]
    assert Lot.objects.get(pk=bonus.pk).remaining == 0
    assert (body["today"]["requests"], body["today"]["credits"], body["today"]["input_tokens"]) == (1, 7.25, 1000)
    assert (body["daily"], body["next_change"]) == (None, None)
    assert response.headers["cache-control"] == "private, no-store"


def test_lots_come_in_burn_order_and_the_next_change_is_told(amina: Account) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    lot_make(amina.pk, 5, kind=Lot.Kind.PLAN, expires_at=soon)
    lot_make(amina.pk, 3, kind=Lot.Kind.BONUS, expires_at=soon)
    lot_make(amina.pk, 9, kind=Lot.Kind.BONUS, effective_at=soon + timedelta(days=1))

    today = session_client(amina).get("/api/billing/me").json()
    with freeze_time(soon):
        tomorrow = key_client(amina).get("/api/billing/me").json()

    at = soon.isoformat().replace("+00:00", "Z")
    assert [row["kind"] for row in today["lots"]] == ["plan", "bonus", "purchase"]
    assert (today["balance"], today["next_change"]) == (108, {"at": at, "change": "credits_expire", "credits": 8})
    assert tomorrow["balance"] == 100
    assert (tomorrow["next_change"]["change"], tomorrow["next_change"]["credits"]) == ("credits_begin", 9)


def test_a_quota_plan_tells_its_requests(customer: Callable[..., Account]) -> None:
    plan = Plan.objects.create(
        code="free", family="requests", name="Free", interval="none", billing_mode="quota", daily_limit=D(3)
    )
    account = customer(0, plan)
    call_make(account, 0, quota_units=1, price={})

    body = key_client(account).get("/api/billing/me").json()

    daily = body["daily"]
    assert (daily["unit"], daily["limit"], daily["used"], daily["remaining"]) == ("requests", 3, 1, 2)
    assert body["today"]["requests"] == 1


def test_without_a_plan_and_with_a_paused_one(amina: Account, boris: Account) -> None:
    subscription_end(subscription=Subscription.objects.get(account=amina), actor=SYSTEM)
    subscription_move(subscription=Subscription.objects.get(account=boris), to="paused", actor=SYSTEM)

    ended = key_client(amina).get("/api/billing/me").json()
    paused = key_client(boris).get("/api/billing/me").json()

    assert (ended["plan"], ended["subscription"]) == (None, None)
    assert (paused["plan"], paused["subscription"]["state"]) == (None, "paused")


@pytest.mark.parametrize("path", ["me", "usage", "usage/018f0000-0000-7000-8000-000000000000"])
def test_who_may_read(amina: Account, path: str) -> None:
    assert code(APIClient().get(f"/api/billing/{path}")) == (401, "not_authenticated")
    assert code(key_client(amina, "inference").get(f"/api/billing/{path}")) == (403, "insufficient_scope")


@pytest.mark.parametrize("path", ["me", "usage"])
def test_somebody_elses_account(amina: Account, boris: Account, path: str) -> None:
    client = session_client(amina, HTTP_X_ACCOUNT=str(boris.pk))

    assert code(client.get(f"/api/billing/{path}")) == (404, "not_found")
