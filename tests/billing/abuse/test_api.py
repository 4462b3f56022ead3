"""`/api/admin/users/*`: for operators, with their reasons; nobody else learns anything."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey, User
from billing.accounts.services import api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM
from iafactory.common import clock
from ratelimit.models import AbuseSignal
from ratelimit.signals import signal_close, signal_raise
from tests.billing.accounts.conftest import with_key
from tests.factories import account_make

from .conftest import NOW, calls, code, logged_in

pytestmark = pytest.mark.django_db
ABUSIVE = "/api/admin/users/abusive"


@pytest.fixture
def staff(operator: User) -> APIClient:
    return logged_in(operator)


def ban(client: APIClient, target: object, **body: Any) -> Any:
    return client.post(f"/api/admin/users/{target}/ban", body, format="json")


def unban(client: APIClient, target: object, **body: Any) -> Any:
    return client.post(f"/api/admin/users/{target}/unban", body, format="json")


def test_open_signals_by_account(staff: APIClient, on_plan: Callable[..., Account], account: Account) -> None:
    loud = on_plan(daily_limit=400)
    key, _ = api_key_create(account=loud, created_by=None, name="main", actor=SYSTEM)
    now = clock.now()
    calls(loud, 3, at=now)
    evidence = {"messages": 401, "limit": 400}
    signal_raise(subject=f"account:{loud.pk}", signal="messages_a_day", evidence=evidence, now=now - timedelta(minutes=2))
    signal_raise(subject=f"key:{key.pk}", signal="key_networks", evidence={"networks": 11}, now=now)
    signal_raise(subject=f"account:{account.pk}", signal="lost_calls", evidence={"calls": 30}, now=now - timedelta(minutes=1))
    signal_raise(subject="address:203.0.113.1", signal="many_accounts", evidence={}, now=now)
    signal_raise(subject=f"account:{account.pk}", signal="messages_a_day", evidence={}, now=now)
    signal_close(subjects=[f"account:{account.pk}"], signal="messages_a_day", state="dismissed", reason="x")

    answer = staff.get(ABUSIVE)

    assert answer.status_code == 200
    body = answer.json()
    assert body["count"] == 2
    first, second = body["results"]
    signals = first.pop("signals")
    assert loud.personal_of is not None
    assert first == {
        "id": str(loud.pk),
        "user_id": str(loud.personal_of_id),
        "email": loud.personal_of.email,
        "name": loud.name,
        "status": "active",
        "blocked_until": None,
        "messages_today": 3,
        "messages_limit": 400,
    }
    assert [(signal["signal"], signal["subject"], signal["evidence"]) for signal in signals] == [
        ("key_networks", f"key:{key.pk}", {"networks": 11}),
        ("messages_a_day", f"account:{loud.pk}", evidence),
    ]
    assert (second["id"], second["messages_limit"]) == (str(account.pk), 300)
    assert [signal["signal"] for signal in second["signals"]] == ["lost_calls"]


def test_the_list_is_paged_and_costs_the_same_for_many(staff: APIClient) -> None:
    def raise_for(count: int) -> None:
        for _ in range(count):
            signal_raise(subject=f"account:{account_make().pk}", signal="lost_calls", evidence={})

    def queries(address: str) -> tuple[int, Any]:
        with CaptureQueriesContext(connection) as captured:
            answer = staff.get(address)
        return len(captured), answer.json()

    raise_for(2)
    few, _ = queries(ABUSIVE)
    raise_for(10)
    many, body = queries(f"{ABUSIVE}?page_size=5&page=3")

    assert many == few
    assert (body["count"], len(body["results"]), body["next"]) == (12, 2, None)


@pytest.mark.parametrize("named", ["account", "user"])
def test_banning_by_either_id(staff: APIClient, account: Account, operator: User, named: str) -> None:
    signal_raise(subject=f"account:{account.pk}", signal="lost_calls", evidence={})
    target = account.pk if named == "account" else account.personal_of_id

    answer = ban(staff, target, reason="resold")

    expected = {"id": str(account.pk), "status": "blocked", "reason": "resold", "blocked_until": None}
    assert (answer.status_code, answer.json()) == (200, expected)
    event = Event.objects.get(kind="account.blocked")
    assert (event.actor_kind, event.actor_id, event.actor_label) == ("operator", operator.pk, "operator@example.com")
    assert (event.account_id, event.reason) == (account.pk, "resold")
    assert AbuseSignal.objects.get().state == "acted"


def test_banning_and_unbanning_again_is_the_same(staff: APIClient, account: Account) -> None:
    with freeze_time(NOW):
        token = logged_in(User.objects.get(email="operator@example.com"))
        until = "2026-11-21T12:00:00Z"
        banned = [ban(token, account.pk, reason="resold", until=until).json() for _ in range(2)]
        back = [unban(token, account.pk, reason="sorry").json() for _ in range(2)]

    assert banned == [{"id": str(account.pk), "status": "blocked", "reason": "resold", "blocked_until": until}] * 2
    assert back == [{"id": str(account.pk), "status": "active", "reason": "", "blocked_until": None}] * 2
    kinds = Event.objects.filter(object_type="account").order_by("id").values_list("kind", "reason")
    assert list(kinds) == [("account.blocked", "resold"), ("account.unblocked", "sorry")]


@pytest.mark.parametrize("deed", [ban, unban])
@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": "   "}, {"reason": 5}, {"reason": "x" * 201}, {"reason": None}]
)
def test_without_a_reason_nothing_happens(staff: APIClient, account: Account, deed: Any, body: dict[str, Any]) -> None:
    answer = deed(staff, account.pk, **body)

    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), "reason")
    assert not Event.objects.filter(object_type="account").exists()


@pytest.mark.parametrize("until", ["2020-01-01T00:00:00Z", "tomorrow", 5, []])
def test_an_end_is_an_instant_ahead(staff: APIClient, account: Account, until: Any) -> None:
    answer = ban(staff, account.pk, reason="x", until=until)

    account.refresh_from_db()
    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), "until")
    assert account.status == "active"


@pytest.mark.parametrize("target", ["019abcde-0000-7000-8000-000000000000", "nonsense", "0"])
@pytest.mark.parametrize("deed", [ban, unban])
def test_who_does_not_exist_is_not_found(staff: APIClient, deed: Any, target: str) -> None:
    assert code(deed(staff, target, reason="x")) == (404, "not_found")


def test_a_closed_account_stays_closed(staff: APIClient, account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(status="closed")

    assert code(ban(staff, account.pk, reason="x")) == (409, "account_closed")


# --- Who may not ---


def everything(client: APIClient, account: Account) -> list[tuple[int, str]]:
    return [
        code(client.get(ABUSIVE)),
        code(ban(client, account.pk, reason="x")),
        code(unban(client, account.pk, reason="x")),
    ]


def test_nobody(client: APIClient, account: Account) -> None:
    assert everything(client, account) == [(401, "not_authenticated")] * 3


def test_customers(account: Account) -> None:
    assert account.personal_of is not None

    assert everything(logged_in(account.personal_of), account) == [(403, "permission_denied")] * 3
    account.refresh_from_db()
    assert account.status == "active"


def test_rights_without_being_an_operator(account: Account) -> None:
    assert account.personal_of is not None
    account.personal_of.user_permissions.set(Permission.objects.filter(codename__in=["view_abusesignal", "change_account"]))

    assert everything(logged_in(account.personal_of), account) == [(403, "permission_denied")] * 3


def test_keys_of_customers_whatever_their_scopes(account: Account) -> None:
    scopes = [scope for scope in ApiKey.Scope.values if scope != ApiKey.Scope.ADMIN]
    key, secret = api_key_create(account=account, created_by=None, name="all", scopes=scopes, actor=SYSTEM)
    without = everything(with_key(secret), account)
    ApiKey.objects.filter(pk=key.pk).update(scopes=ApiKey.Scope.values)

    assert without == [(403, "insufficient_scope")] * 3
    assert everything(with_key(secret), account) == [(403, "permission_denied")] * 3


def test_operators_have_the_rights_they_were_given(account: Account) -> None:
    clerk = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    nothing = everything(logged_in(clerk), account)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_abusesignal"))
    reading = logged_in(clerk).get(ABUSIVE).status_code
    banning = code(ban(logged_in(clerk), account.pk, reason="x"))

    assert nothing == [(403, "permission_denied")] * 3
    assert (reading, banning) == (200, (403, "permission_denied"))
