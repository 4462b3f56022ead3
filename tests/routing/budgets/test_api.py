"""`/api/admin/budget/update` and `/api/admin/costs/breakdown`: for operators, by session or key, with their reasons."""

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, User
from billing.accounts.services import api_key_create, operator_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM
from routing.models import Budget, Provider
from tests.billing.accounts.conftest import code, logged_in, with_key

from .conftest import NOW, spent, under_way

pytestmark = pytest.mark.django_db

UPDATE = "/api/admin/budget/update"
BREAKDOWN = "/api/admin/costs/breakdown"


def update(client: APIClient, **body: Any) -> Any:
    return client.post(UPDATE, {"reason": "a busy day", **body}, format="json")


def test_raising_the_daily_budget(staff: APIClient, boss: User, account: Account) -> None:
    Budget.objects.create(daily_limit_usd=50)
    spent(account, "openrouter", "46.5")
    under_way(account, "openrouter", "0.25")

    with freeze_time(NOW):
        answer = update(logged_in(boss), daily_limit_usd=60)

    assert answer.status_code == 200
    shared = {"provider": None, "spent_usd": 46.5, "reserved_usd": 0.25}
    assert answer.json() == {
        "budgets": [
            shared | {"period": "day", "limit_usd": 60, "remaining_usd": 13.25, "percent": 77, "level": "warning"},
            shared | {"period": "month", "limit_usd": None, "remaining_usd": None, "percent": None, "level": "ok"},
        ]
    }
    assert Budget.objects.get().daily_limit_usd == 60
    event = Event.objects.get(kind="budget.changed")
    assert (event.actor_kind, event.actor_id, event.reason) == ("operator", boss.pk, "a busy day")
    assert event.before == {"daily_limit_usd": "50", "monthly_limit_usd": None}
    assert event.after == {"provider": None, "daily_limit_usd": "60", "monthly_limit_usd": None}


def test_limits_of_one_provider_come_and_go(staff: APIClient, groq: Provider) -> None:
    made = update(staff, provider="groq", daily_limit_usd=5.5, monthly_limit_usd="100")
    kept = update(staff, provider="groq", daily_limit_usd=None)
    gone = update(staff, provider="groq", monthly_limit_usd=None)

    assert [state["limit_usd"] for state in made.json()["budgets"]] == [5.5, 100]
    assert [state["limit_usd"] for state in kept.json()["budgets"]] == [None, 100]
    assert [state["limit_usd"] for state in gone.json()["budgets"]] == [None, None]
    assert not Budget.objects.exists()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "daily_limit_usd"),
        ({"daily_limit_usd": -1}, "daily_limit_usd"),
        ({"daily_limit_usd": "fifty"}, "daily_limit_usd"),
        ({"daily_limit_usd": True}, "daily_limit_usd"),
        ({"monthly_limit_usd": 0.0000001}, "monthly_limit_usd"),
        ({"daily_limit_usd": 60, "reason": ""}, "reason"),
        ({"daily_limit_usd": 60, "reason": None}, "reason"),
        ({"daily_limit_usd": 60, "provider": "nobody"}, "provider"),
        ({"daily_limit_usd": 60, "provider": 5}, "provider"),
    ],
)
def test_what_makes_no_sense_changes_nothing(staff: APIClient, body: dict[str, Any], param: str) -> None:
    Budget.objects.create(daily_limit_usd=50)

    answer = update(staff, **body)

    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), param)
    assert Budget.objects.get().daily_limit_usd == 50
    assert not Event.objects.exists()


@pytest.fixture
def calls(account: Account) -> None:
    spent(account, "openrouter", "0.5", model="deepseek", plan="student", credits_charged=Decimal(2), input_tokens=7)
    spent(account, "groq", "0", model="=llama", plan="free")


def test_costs_broken_down(boss: User, calls: None) -> None:
    with freeze_time(NOW):
        answer = logged_in(boss).get(BREAKDOWN)

    free = {
        "calls": 1,
        "calls_complete": 1,
        "input_tokens": 0,
        "output_tokens": 0,
        "list_cost_usd": 0,
        "cost_usd": 0,
        "credits_charged": 0,
    }
    paid = free | {"input_tokens": 7, "cost_usd": 0.5, "credits_charged": 2}
    both = paid | {"calls": 2, "calls_complete": 2}
    assert answer.status_code == 200
    assert answer.json() == {
        "from": "2026-11-01",
        "to": "2026-11-20",
        "totals": both,
        "by_provider": [{"provider": "openrouter", **paid}, {"provider": "groq", **free}],
        "by_model": [{"model": "deepseek", **paid}, {"model": "=llama", **free}],
        "by_plan": [{"plan": "student", **paid}, {"plan": "free", **free}],
        "by_day": [{"day": "2026-11-20", **both}],
    }


def test_only_what_was_asked_for(staff: APIClient, calls: None) -> None:
    answer = staff.get(BREAKDOWN, {"from": "2026-11-20", "to": "2026-11-20", "group_by": "plan", "provider": "groq"})

    body = answer.json()
    assert set(body) == {"from", "to", "totals", "by_plan"}
    assert [line["plan"] for line in body["by_plan"]] == ["free"]


def test_as_a_table(staff: APIClient, calls: None) -> None:
    answer = staff.get(BREAKDOWN, {"from": "2026-11-01", "to": "2026-11-30", "format": "csv", "group_by": "model,day"})

    assert (answer.status_code, answer["content-type"]) == (200, "text/csv; charset=utf-8")
    assert answer["content-disposition"] == 'attachment; filename="costs-2026-11-01-2026-11-30.csv"'
    assert answer.content.decode().splitlines() == [
        "group,value,calls,calls_complete,input_tokens,output_tokens,list_cost_usd,cost_usd,credits_charged",
        "model,deepseek,1,1,7,0,0,0.5,2",
        "model,'=llama,1,1,0,0,0,0,0",
        "day,2026-11-20,2,2,7,0,0,0.5,2",
        "total,,2,2,7,0,0,0.5,2",
    ]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-11-21", "to": "2026-11-20"}, "from"),
        ({"from": "2025-11-19", "to": "2026-11-20"}, "from"),
        ({"group_by": "account"}, "group_by"),
    ],
)
def test_queries_that_make_no_sense(staff: APIClient, query: dict[str, str], param: str) -> None:
    answer = staff.get(BREAKDOWN, query | {"format": "csv"})

    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), param)


# --- Who may ---


def test_an_operators_key_may(boss: User, calls: None) -> None:
    _, secret = operator_key_create(user=boss, name="job", actor=SYSTEM)
    client = APIClient()
    client.credentials(HTTP_X_ADMIN_SECRET=secret)

    raised = update(client, daily_limit_usd=60)

    assert (raised.status_code, client.get(BREAKDOWN).status_code) == (200, 200)
    assert Event.objects.get(kind="budget.changed").actor_id == boss.pk


def test_others_may_not(account: Account) -> None:
    _, secret = api_key_create(account=account, created_by=None, name="x", scopes=["billing:read"], actor=SYSTEM)
    clerk = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_budget"))
    assert account.personal_of is not None

    clients = [APIClient(), with_key(secret), logged_in(account.personal_of), logged_in(clerk)]

    expected = [(401, "not_authenticated"), (403, "insufficient_scope"), (403, "permission_denied"), (403, "permission_denied")]
    assert [code(update(client, daily_limit_usd=60)) for client in clients] == expected
    assert [code(client.get(BREAKDOWN)) for client in clients] == expected
    assert not Budget.objects.exists()
