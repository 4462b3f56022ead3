"""`/api/admin/dashboard` and `/api/admin/billing/*`: exact shapes, live numbers, who may ask."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey, User
from billing.accounts.services import account_block, api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.models import Lot, UsageRecord, Wallet
from billing.models import Payment, SellerProfile, StoredAnswer, Subscription
from dashboard.alerts.models import Alert
from ratelimit.signals import signal_raise
from routing.models import Budget
from tests.billing.accounts.conftest import with_key
from tests.dashboard.conftest import alerted, call, grant
from tests.dashboard.test_console_home import sell, seller

from .conftest import clerk

__all__ = ["seller"]

D = Decimal
DASHBOARD = "/api/admin/dashboard"
USERS = "/api/admin/billing/users"
GRANT = "/api/admin/billing/grant"
STATS = "/api/admin/billing/stats"
ADD = "/api/admin/add-credits"


def _text(at: Any) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- Dashboard ---


def test_dashboard_of_a_new_installation(noon: None, staff: APIClient) -> None:
    answer = staff.get(DASHBOARD)

    assert answer.status_code == 200
    assert answer.json() == {
        "budget": {"spent_usd": 0, "limit_usd": None, "remaining_usd": None, "percent_used": None, "alert_level": "ok"},
        "users": {"active_today": 0, "avg_cost_per_user": 0, "abusive_count": 0, "abusive_users": []},
        "providers": [],
        "economics": {"revenue_usd": 0, "costs_usd": 0, "profit_usd": 0, "margin_percent": None},
        "alerts": [],
    }


def test_dashboard_tells_live_numbers(noon: None, staff: APIClient, account: Account, seller: SellerProfile) -> None:
    call(account)
    failed = call(account)
    UsageRecord.objects.filter(pk=failed).update(end="provider_error", latency_ms=None)
    sell(account, "2737")
    Budget.objects.create(daily_limit_usd=D("0.016"))
    signal_raise(subject=f"account:{account.pk}", signal="messages_a_day", evidence={"messages": 401})

    body = staff.get(DASHBOARD).json()

    [abusive] = body["users"].pop("abusive_users")
    assert (abusive["id"], abusive["signals"][0]["signal"]) == (str(account.pk), "messages_a_day")
    assert body["budget"] == {
        "spent_usd": 0.015,
        "limit_usd": 0.016,
        "remaining_usd": 0.001,
        "percent_used": 93,
        "alert_level": "critical",
    }
    assert body["users"] == {"active_today": 1, "avg_cost_per_user": 0.015, "abusive_count": 1}
    assert body["providers"] == [
        {"provider": "groq", "requests_count": 2, "cost_total": 0.015, "success_rate": 50, "avg_latency_ms": 840}
    ]
    assert body["economics"] == {"revenue_usd": 10, "costs_usd": 0.015, "profit_usd": 9.985, "margin_percent": 99.85}
    assert body["alerts"] == []


def test_dashboard_tells_open_alerts(staff: APIClient) -> None:
    alerted(1)
    Alert.objects.update(title="Budget", text="Half is spent.", link="/admin/routing/budget/")

    assert staff.get(DASHBOARD).json()["alerts"] == [
        {"level": "warning", "message": "Budget. Half is spent.", "action": "/admin/routing/budget/"}
    ]


def test_dashboard_of_chosen_days(noon: None, staff: APIClient, account: Account) -> None:
    call(account)

    assert staff.get(DASHBOARD, {"from": "2026-11-01", "to": "2026-11-17"}).json()["providers"] == []
    assert error(staff.get(DASHBOARD, {"from": "2026-11-02", "to": "2026-11-01"})) == (400, "invalid_request")
    assert error(staff.get(DASHBOARD, {"from": "2020-01-01"})) == (400, "invalid_request")
    assert error(staff.get(DASHBOARD, {"from": "soon"})) == (400, "invalid_request")


@pytest.mark.parametrize("address", [DASHBOARD, "/admin/dashboard", "/admin/dashboard/"])
@pytest.mark.parametrize("header", ["Authorization", "X-Admin-Key", "X-Admin-Secret"])
def test_programs_get_json_by_each_header(secret: str, address: str, header: str) -> None:
    value = f"Bearer {secret}" if header == "Authorization" else secret

    answer = Client().get(address, headers={header: value})

    assert (answer.status_code, answer["content-type"]) == (200, "application/json")
    assert set(answer.json()) == {"budget", "users", "providers", "economics", "alerts"}


def test_browsers_get_the_consoles_home(db: None) -> None:
    answer = Client().get("/admin/dashboard")

    assert (answer.status_code, answer["location"]) == (302, reverse("admin:index"))


@pytest.mark.parametrize("address", [DASHBOARD, USERS, STATS, "/admin/dashboard"])
def test_a_wrong_credential_is_refused(db: None, address: str) -> None:
    assert error(APIClient().get(address, headers={"X-Admin-Secret": "wrong"})) == (401, "invalid_api_key")


@pytest.mark.parametrize("address", [DASHBOARD, USERS, STATS])
def test_nobody_and_customers_are_refused(account: Account, address: str) -> None:
    _, key = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)

    assert error(APIClient().get(address)) == (401, "not_authenticated")
    assert error(with_key(key).get(address)) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    ("address", "rights"),
    [
        (DASHBOARD, ["view_usagerecord", "view_invoice", "view_ledgerentry", "view_account", "view_budget"]),
        (USERS, ["view_account", "view_wallet", "view_subscription"]),
        (STATS, ["view_usagerecord", "view_invoice", "view_ledgerentry", "view_payment", "view_wallet", "view_subscription"]),
    ],
)
def test_every_right_is_needed(db: None, address: str, rights: list[str]) -> None:
    client = clerk(*rights)
    user = User.objects.get(email="clerk@example.com")
    allowed = client.get(address).status_code
    refused = []
    for permission in list(user.user_permissions.all()):
        user.user_permissions.remove(permission)
        refused.append(error(client.get(address)))
        user.user_permissions.add(permission)

    assert allowed == 200
    assert refused == [(403, "permission_denied")] * len(rights)


# --- Users ---


def test_users_with_plan_and_balance(noon: None, staff: APIClient, account: Account) -> None:
    body = staff.get(USERS).json()

    assert (body["count"], len(body["results"])) == (1, 1)
    [row] = body["results"]
    assert account.personal_of is not None
    assert row.pop("created_at").startswith("2026-11-18T12:00:00")
    assert row.pop("current_period_end") == _text(Subscription.objects.get().current_period_end)
    assert row == {
        "id": str(account.pk),
        "user_id": str(account.personal_of_id),
        "email": "sara@example.com",
        "name": "Sara",
        "kind": "personal",
        "status": "active",
        "country": account.country,
        "currency": account.currency,
        "external_id": None,
        "plan": "free",
        "subscription_state": "active",
        "balance": 100,
        "held": 0,
        "debt": 0,
    }


def test_users_by_filters(staff: APIClient, populate: Any) -> None:
    populate(1, 3)
    blocked = Account.objects.get(name="C 2")
    account_block(account=blocked, reason="spam", actor=SYSTEM)
    Wallet.objects.filter(account__name="C 3").update(debt=1)
    Account.objects.filter(name="C 1").update(country="IN")

    def names(**query: Any) -> list[str]:
        return [row["name"] for row in staff.get(USERS, {"ordering": "name", **query}).json()["results"]]

    assert names(q="c2@example.com") == ["C 2"]
    assert names(status="blocked") == ["C 2"]
    assert names(in_debt="true") == ["C 3"]
    assert names(country="in") == ["C 1"]
    assert names(plan="free", in_debt="false", status="active", q="C ") == ["C 1"]
    assert names(plan="pro") == []
    assert names(state="canceled") == []
    assert error(staff.get(USERS, {"status": "gone"})) == (400, "invalid_request")


def test_users_by_balance_and_in_pages(staff: APIClient, account: Account, populate: Any) -> None:
    populate(1, 2)
    grant(Account.objects.get(name="C 2"), D(500))

    first = staff.get(USERS, {"ordering": "-balance", "page_size": 2}).json()
    second = staff.get(USERS, {"ordering": "-balance", "page_size": 2, "page": 2}).json()

    assert [row["name"] for row in first["results"]] == ["C 2", "Sara"]
    assert (len(second["results"]), first["count"]) == (2, second["count"])
    assert error(staff.get(USERS, {"page": 99})) == (404, "not_found")


def test_users_cost_the_same_however_many(staff: APIClient, populate: Any, django_assert_max_num_queries: Any) -> None:
    populate(1, 8)

    with django_assert_max_num_queries(6):
        assert len(staff.get(USERS).json()["results"]) > 8


# --- Grants ---


@pytest.mark.parametrize("name", ["user_id", "account", "external_id", "email"])
def test_grant_names_the_account_in_each_way(staff: APIClient, account: Account, name: str) -> None:
    Account.objects.filter(pk=account.pk).update(external_id="crm-7")
    named = {
        "user_id": {"user_id": str(account.personal_of_id)},
        "account": {"user_id": str(account.pk)},
        "external_id": {"external_id": "crm-7"},
        "email": {"email": "Sara@Example.com"},
    }[name]

    answer = staff.post(GRANT, {**named, "credits": "12.5", "reason": "sorry"}, format="json")

    assert answer.status_code == 201
    lot = Lot.objects.get(pk=answer.json()["id"])
    assert answer.json() == {
        "id": str(lot.pk),
        "account_id": str(account.pk),
        "credits": 12.5,
        "kind": "bonus",
        "expires_at": None,
        "balance": 112.5,
    }
    event = Event.objects.get(kind="credits.granted", object_id=str(lot.pk))
    assert (event.actor_label, event.reason, event.account_id) == ("operator@example.com", "sorry", account.pk)


def test_grant_with_a_key_happens_once(staff: APIClient, account: Account) -> None:
    body = {"user_id": str(account.pk), "credits": 5, "reason": "sorry"}
    headers = {"Idempotency-Key": "order-7"}

    first = staff.post(GRANT, body, format="json", headers=headers)
    again = staff.post(GRANT, body, format="json", headers=headers)
    other = staff.post(GRANT, {**body, "credits": 6}, format="json", headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert (first.get("idempotent-replayed"), again["idempotent-replayed"]) == (None, "true")
    assert error(other) == (422, "idempotency_mismatch")
    assert Wallet.objects.get(pk=account.pk).balance == 105


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"credits": 5, "reason": "x"}, (400, "user_id")),
        ({"user_id": "{id}", "email": "sara@example.com", "credits": 5, "reason": "x"}, (400, "user_id")),
        ({"user_id": "{id}", "credits": 0, "reason": "x"}, (400, "credits")),
        ({"user_id": "{id}", "credits": -5, "reason": "x"}, (400, "credits")),
        ({"user_id": "{id}", "credits": 5}, (400, "reason")),
        ({"user_id": "{id}", "credits": 5, "reason": "x", "kind": "overage"}, (400, "kind")),
        ({"user_id": "{id}", "credits": 5, "reason": "x", "expires_at": "2020-01-01T00:00:00Z"}, (400, "expires_at")),
        ({"external_id": "nobody", "credits": 5, "reason": "x"}, (404, "external_id")),
        ({"email": "nobody@example.com", "credits": 5, "reason": "x"}, (404, "email")),
    ],
)
def test_grant_that_makes_no_sense_is_refused(staff: APIClient, account: Account, body: Any, told: tuple[int, str]) -> None:
    sent = {name: str(account.pk) if value == "{id}" else value for name, value in body.items()}

    answer = staff.post(GRANT, sent, format="json")

    assert (answer.status_code, answer.json()["error"]["param"]) == told
    assert Wallet.objects.get(pk=account.pk).balance == 100


def test_grant_needs_the_right(account: Account) -> None:
    answer = clerk("view_lot", "view_account").post(
        GRANT, {"user_id": str(account.pk), "credits": 5, "reason": "x"}, format="json"
    )

    assert error(answer) == (403, "permission_denied")
    assert Wallet.objects.get(pk=account.pk).balance == 100


@pytest.mark.parametrize("address", [ADD, "/admin/add-credits", "/admin/add-credits/"])
def test_older_programs_add_credits(account: Account, secret: str, address: str) -> None:
    _key, customers = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)

    answer = APIClient().post(
        address, {"apiKey": customers, "credits": 40}, format="json", headers={"X-Admin-Secret": secret, "Idempotency-Key": "a"}
    )

    lot = Lot.objects.filter(wallet=account.pk).latest("created_at")
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "credits": 40, "balance": 140, "id": str(lot.pk)}
    assert customers not in str(list(Event.objects.values())) + str(list(StoredAnswer.objects.values()))
    assert "operator@example.com" in Event.objects.get(kind="credits.granted", object_id=str(lot.pk)).actor_label


def test_older_programs_need_right_secrets(account: Account, secret: str) -> None:
    _, customers = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)
    body = {"apiKey": customers, "credits": 40}

    unknown = APIClient().post(ADD, {**body, "apiKey": "iaf_no"}, format="json", headers={"X-Admin-Secret": secret})
    wrong = APIClient().post("/admin/add-credits", body, format="json", headers={"X-Admin-Secret": "no"})
    customer = APIClient().post(ADD, body, format="json", headers={"X-Admin-Secret": customers})

    assert error(unknown) == (404, "account_not_found")
    assert error(wrong) == (401, "invalid_api_key")
    assert error(customer) == (403, "insufficient_scope")
    assert Wallet.objects.get(pk=account.pk).balance == 100
    assert ApiKey.objects.count() == 2


# --- Stats ---


def test_stats(noon: None, staff: APIClient, account: Account, seller: SellerProfile) -> None:
    call(account)
    sell(account, "2737")
    Payment.objects.create(account=account, purpose="topup", gateway="stripe", amount=10, currency="USD", state="pending")

    body = staff.get(STATS, {"from": "2026-11-18"}).json()

    assert body == {
        "from": "2026-11-18",
        "to": "2026-11-18",
        "accounts": {"total": 1, "by_status": {"active": 1, "blocked": 0, "closed": 0}},
        "subscriptions": [{"plan": "free", "subscriptions": 1}],
        "credits": {"balance": 98.65, "held": 0, "debt": 0, "charged": 1.35},
        "usage": {"calls": 1, "calls_failed": 0, "cost_usd": 0.0075, "active_accounts": 1},
        "economics": {"revenue_usd": 10, "costs_usd": 0.0075, "profit_usd": 9.9925, "margin_percent": 99.92},
        "payments": [{"state": "pending", "currency": "USD", "payments": 1, "amount": 10}],
        "invoices": [],
    }
