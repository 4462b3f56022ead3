"""Low and exhausted credits are told once per crossing, of wallets and of keys' own budgets."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey
from billing.accounts.services import api_key_create
from billing.accounts.tokens import session_tokens
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.models import Lot
from billing.ledger.services import call_settle, hold_open
from billing.notices.models import CreditNotice, KeyBudgetNotice
from billing.notices.services import budgets_notice, credit_notice_set, credits_notice
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.django_db


def spend(account: Account, credits: str, *, key: ApiKey | None = None) -> None:
    """A call that costs `credits`."""
    now = clock.now()
    amount = Decimal(credits)
    item = HoldItem(
        id=uuid7(),
        account_id=account.pk,
        api_key_id=key.pk if key else None,
        credits=amount,
        worst_cost_usd=Decimal(0),
        opened_at=now,
        expires_at=now + timedelta(minutes=5),
        endpoint="/v1/chat/completions",
        provider="groq",
        model="m",
    )
    assert hold_open(item).verdict == "held"
    usage = UsageItem(
        id=item.id,
        started_at=now,
        finished_at=now,
        account_id=account.pk,
        api_key_id=item.api_key_id,
        endpoint=item.endpoint,
        end="complete",
        model="m",
        provider="groq",
        credits_held=amount,
        credits_charged=amount,
        cost_usd=Decimal(0),
    )
    assert call_settle(CallItem(usage=usage, held=amount, charge=amount, reason="test")).verdict == "settled"


def look() -> int:
    return credits_notice(now=clock.now())


def told(account: Account) -> list[tuple[str, str, str]]:
    events = Event.objects.filter(account_id=account.pk, object_type="wallet").order_by("id")
    return [(event.kind, event.after["balance"], event.after["threshold"]) for event in events]


@pytest.fixture
def account(db: None) -> Account:
    account = account_make(credits=100)
    assert look() == 0
    return account


def test_a_balance_at_a_tenth_is_low_and_below_one_credit_exhausted_each_told_once(account: Account) -> None:
    spend(account, "89.999999")
    above = look()
    spend(account, "0.000001")
    counts = [look(), look()]
    spend(account, "9.000001")
    counts += [look(), look()]

    assert above == 0
    assert counts == [1, 0, 1, 0]
    assert told(account) == [("credits.low", "10", "10"), ("credits.exhausted", "0.999999", "10")]


def test_from_enough_to_nothing_at_once_only_exhaustion_is_told(account: Account) -> None:
    spend(account, "100")

    assert look() == 1
    assert [kind for kind, _, _ in told(account)] == ["credits.exhausted"]


def test_a_balance_that_hovers_at_the_threshold_is_told_once(account: Account) -> None:
    spend(account, "90")
    look()
    lot_make(account.pk, 4, kind=Lot.Kind.BONUS)
    look()
    spend(account, "4")
    look()

    assert [kind for kind, _, _ in told(account)] == ["credits.low"]


def test_after_a_purchase_the_next_crossing_is_told_again(account: Account) -> None:
    spend(account, "100")
    look()
    lot_make(account.pk, 50)
    recovered = look()
    level = CreditNotice.objects.get(account=account).level
    spend(account, "46")
    look()

    assert (recovered, level) == (0, "ok")
    # Of the lot in use: a tenth of 50.
    assert told(account)[1:] == [("credits.low", "4", "5")]


def test_what_was_so_before_anybody_looked_is_not_told() -> None:
    account = account_make(credits=100)
    spend(account, "95")

    assert look() == 0
    assert told(account) == []
    assert CreditNotice.objects.get(account=account).level == "low"


def test_accounts_that_never_had_credits_are_left_alone() -> None:
    account = account_make()

    assert look() == 0
    assert not CreditNotice.objects.filter(account=account).exists()


@pytest.mark.parametrize(
    ("percent", "credits", "spent", "kinds"),
    [
        (50, None, "50", ["credits.low"]),
        (50, None, "49.999999", []),
        (10, Decimal(30), "70", ["credits.low"]),
        (10, Decimal(30), "69.999999", []),
        (0, None, "98", []),
        (10, Decimal(0), "98", []),
    ],
)
def test_the_customers_threshold_counts(
    account: Account, percent: int, credits: Decimal | None, spent: str, kinds: list[str]
) -> None:
    credit_notice_set(account=account, low_percent=percent, low_credits=credits, actor=SYSTEM)
    spend(account, spent)

    look()

    assert [kind for kind, _, _ in told(account)] == kinds


@pytest.mark.django_db(transaction=True)
def test_ten_detectors_at_once_tell_once() -> None:
    account = account_make(credits=100)
    look()
    spend(account, "95")
    barrier = threading.Barrier(10)

    def work() -> int:
        barrier.wait()
        count = look()
        connection.close()
        return count

    with ThreadPoolExecutor(10) as pool:
        counts = [future.result() for future in [pool.submit(work) for _ in range(10)]]

    assert sum(counts) == 1
    assert [kind for kind, _, _ in told(account)] == ["credits.low"]


# --- Settings ---


@pytest.fixture
def client(account: Account, settings: Any) -> APIClient:
    settings.ROOT_URLCONF = "billing.urls"
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {session_tokens(account.personal_of).access_token}")
    return client


def test_the_threshold_is_read_and_set(client: APIClient, account: Account) -> None:
    before = client.get("/api/billing/notices").json()
    fixed = client.patch("/api/billing/notices", {"low_credits": 25}, format="json").json()
    share = client.patch("/api/billing/notices", {"low_credits": None, "low_percent": 20}, format="json").json()
    client.patch("/api/billing/notices", {"low_percent": 20}, format="json")

    assert before == {"low_percent": 10, "low_credits": None, "level": "ok"}
    assert fixed == {"low_percent": 10, "low_credits": 25.0, "level": "ok"}
    assert share == {"low_percent": 20, "low_credits": None, "level": "ok"}
    assert Event.objects.filter(kind="account.credit_notice_changed").count() == 2


@pytest.mark.parametrize("body", [{}, {"low_percent": 100}, {"low_percent": -1}, {"low_percent": "10"}, {"low_credits": -5}])
def test_a_wrong_threshold_is_refused(client: APIClient, account: Account, body: dict[str, Any]) -> None:
    answer = client.patch("/api/billing/notices", body, format="json")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert CreditNotice.objects.get(account=account).low_percent == 10


def test_services_refuse_what_forms_might_let_through(account: Account) -> None:
    with pytest.raises(ApiError):
        credit_notice_set(account=account, low_percent=100, low_credits=None, actor=SYSTEM)
    with pytest.raises(ApiError):
        credit_notice_set(account=account, low_percent=10, low_credits=Decimal(-1), actor=SYSTEM)


# --- Budgets of keys ---

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
Make = Callable[..., ApiKey]


@pytest.fixture
def key_with(account: Account) -> Make:
    def make(**limits: Any) -> ApiKey:
        key, _ = api_key_create(account=account, created_by=None, name="robot", actor=SYSTEM, **limits)
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=clock.now())
        return key

    return make


def budgets(key: ApiKey) -> list[tuple[str, str, str, str]]:
    events = Event.objects.filter(object_type="api_key", object_id=str(key.pk), kind__startswith="budget.").order_by("id")
    return [(e.kind, e.after["window"], e.after["spent"], e.after["limit"]) for e in events]


def test_a_key_is_told_of_at_four_fifths_and_at_its_end_once_each(account: Account, key_with: Make) -> None:
    key = key_with(daily_credits=Decimal(10))
    counts = []

    for amount in ("7.99", "0.01", "1", "1", "1"):
        spend(account, amount, key=key)
        counts.append(budgets_notice(now=clock.now()))

    assert counts == [0, 1, 0, 1, 0]
    assert budgets(key) == [("budget.low", "day", "8", "10"), ("budget.exhausted", "day", "10", "10")]


def test_each_day_and_month_begins_anew_in_the_accounts_time_zone(account: Account, key_with: Make) -> None:
    with freeze_time(NOON, real_asyncio=True):
        key = key_with(daily_credits=Decimal(10), monthly_credits=Decimal(20))
        spend(account, "10", key=key)
        first = budgets_notice(now=clock.now())
    # 23:30 UTC is half past midnight in Algiers.
    with freeze_time(NOON + timedelta(hours=11, minutes=30), real_asyncio=True):
        ApiKey.objects.update(last_used_at=clock.now())
        spend(account, "10", key=key)
        second = budgets_notice(now=clock.now())

    assert (first, second) == (1, 2)
    assert sorted(budgets(key)) == [
        ("budget.exhausted", "day", "10", "10"),
        ("budget.exhausted", "day", "10", "10"),
        ("budget.exhausted", "month", "20", "20"),
    ]


def test_a_raised_limit_is_watched_anew_and_other_keys_do_not_count(account: Account, key_with: Make) -> None:
    key, other = key_with(daily_credits=Decimal(10)), key_with()
    spend(account, "30", key=other)
    spend(account, "10", key=key)
    first = budgets_notice(now=clock.now())
    ApiKey.objects.filter(pk=key.pk).update(daily_credits=Decimal(12))

    second = budgets_notice(now=clock.now())

    assert (first, second) == (1, 1)
    assert [kind for kind, *_ in budgets(key)] == ["budget.exhausted", "budget.low"]
    assert KeyBudgetNotice.objects.filter(api_key=other).count() == 0
