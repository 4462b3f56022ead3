"""Each detector with exact figures: one below its threshold it is silent, at the first too many it tells."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django_redis import get_redis_connection

from billing.abuse import detectors
from billing.abuse.detectors import Finding, detect
from billing.abuse.tasks import detect as detect_task
from billing.accounts.models import Account, User
from billing.accounts.services import account_limits_set
from billing.events.services import SYSTEM
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.services import call_settle, hold_open
from billing.payments.models import Payment
from iafactory.common import clock
from iafactory.common.ids import uuid7
from ratelimit.models import AbuseSignal
from tests.factories import account_make

from .conftest import NOW, calls

pytestmark = pytest.mark.django_db
OnPlan = Callable[..., Account]
# Midnight in Algiers (UTC+1) before and after NOW.
MIDNIGHT = datetime(2026, 11, 19, 23, tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


# --- Messages a day ---


@pytest.mark.parametrize(
    ("plan", "count", "limit"),
    [
        ({"daily_limit": 3}, 300, None),
        ({"daily_limit": 3}, 301, 300),
        ({"daily_limit": 400}, 400, None),
        ({"daily_limit": 400}, 401, 400),
        ({"daily_limit": None}, 301, 300),
        ({"daily_limit": None, "requests_per_day": 350}, 351, 350),
        ({"billing_mode": "credits", "daily_limit": 500}, 500, None),
        ({"billing_mode": "credits", "daily_limit": 500}, 501, 500),
        # paid calls without a number promised are never too many
        ({"billing_mode": "credits", "daily_limit": None}, 600, None),
        ({"billing_mode": "metered", "daily_limit": None}, 600, None),
    ],
)
def test_messages_a_day(on_plan: OnPlan, plan: dict[str, Any], count: int, limit: int | None) -> None:
    account = on_plan(**plan)
    calls(account, count, at=ago(minutes=90))

    found = detectors.messages_a_day(NOW)

    told = Finding(f"account:{account.pk}", "messages_a_day", {"messages": count, "limit": limit}, MIDNIGHT + timedelta(days=1))
    assert found == ([] if limit is None else [told])


def test_messages_of_an_account_without_a_plan(account: Account) -> None:
    calls(account, 301)

    [found] = detectors.messages_a_day(NOW)

    assert found.evidence == {"messages": 301, "limit": 300}


def test_a_day_begins_at_the_accounts_midnight(on_plan: OnPlan) -> None:
    account = on_plan(daily_limit=3)
    calls(account, 200, at=MIDNIGHT - timedelta(microseconds=1))
    calls(account, 300, at=MIDNIGHT)

    before = detectors.messages_a_day(NOW)
    calls(account, 1, at=NOW)
    calls(account, 50, at=NOW + timedelta(seconds=1))
    after = detectors.messages_a_day(NOW)

    assert before == []
    assert [found.evidence["messages"] for found in after] == [301]


def test_charges_of_services_are_no_messages(on_plan: OnPlan) -> None:
    account = on_plan(daily_limit=3)
    calls(account, 300)
    calls(account, 100, endpoint="service:rag")
    calls(account, 100, endpoint="credits")

    assert detectors.messages_a_day(NOW) == []


def test_limits_of_the_account_stand_before_those_of_the_plan(on_plan: OnPlan) -> None:
    account = on_plan(daily_limit=3)
    calls(account, 450)
    account_limits_set(account=account, actor=SYSTEM, reason="agreed", daily_limit=450)

    agreed = detectors.messages_a_day(NOW)
    account_limits_set(account=account, actor=SYSTEM, reason="agreed", until=NOW, daily_limit=450)
    ended = detectors.messages_a_day(NOW)

    assert agreed == []
    assert [found.evidence for found in ended] == [{"messages": 450, "limit": 300}]


def test_messages_of_named_accounts(on_plan: OnPlan, account: Account) -> None:
    quiet = on_plan(billing_mode="credits", daily_limit=None)
    calls(account, 2)

    assert detectors.messages_today([account.pk, quiet.pk], NOW) == {account.pk: (2, 300), quiet.pk: (0, None)}


# --- Many accounts from one address ---


def registered(count: int, address: str, at: datetime = NOW) -> list[str]:
    accounts = [account_make() for _ in range(count)]
    User.objects.filter(personal_account__in=accounts).update(registered_from=address, date_joined=at)
    return [str(account.pk) for account in accounts]


def test_many_accounts_from_one_address(db: None) -> None:
    nine = registered(9, "203.0.113.1")
    registered(9, "203.0.113.2")
    silent = detectors.many_accounts(NOW)
    tenth = registered(1, "203.0.113.1", ago(hours=23))

    [found] = detectors.many_accounts(NOW)

    assert silent == []
    assert (found.subject, found.signal, found.until) == ("address:203.0.113.1", "many_accounts", NOW + timedelta(days=1))
    accounts = found.evidence.pop("accounts")
    assert accounts[0] == tenth[0]
    assert sorted(accounts) == sorted(nine + tenth)
    assert found.evidence == {"registrations": 10, "threshold": 10, "hours": 24}


def test_registrations_of_a_day_ago_do_not_count(db: None) -> None:
    registered(9, "203.0.113.1")
    registered(5, "203.0.113.1", ago(hours=24))

    assert detectors.many_accounts(NOW) == []


def test_a_house_of_ipv6_is_one_address(db: None) -> None:
    registered(5, "2001:db8:1:2::1")
    registered(5, "2001:db8:1:2:ffff::9")
    registered(9, "2001:db8:1:3::1")

    [found] = detectors.many_accounts(NOW)

    assert found.subject == "address:2001:db8:1:2::/64"


# --- Burst after sign-up ---


def born(account: Account, at: datetime) -> Account:
    Account.objects.filter(pk=account.pk).update(created_at=at)
    return account


def test_burst_after_signup(account: Account) -> None:
    born(account, ago(hours=23))
    calls(account, 100, at=ago(minutes=59))
    calls(account, 50, at=ago(minutes=60))

    silent = detectors.burst_after_signup(NOW)
    calls(account, 1)
    found = detectors.burst_after_signup(NOW)

    evidence = {"calls": 101, "limit": 100, "age_minutes": 23 * 60}
    assert silent == []
    assert found == [Finding(f"account:{account.pk}", "burst_after_signup", evidence, NOW + timedelta(hours=1))]


def test_an_old_account_may_burst(account: Account) -> None:
    born(account, ago(hours=24))
    calls(account, 500)

    assert detectors.burst_after_signup(NOW) == []


# --- Calls without a whole answer ---


def test_lost_calls(account: Account) -> None:
    calls(account, 20)
    calls(account, 8, end="client_gone")
    calls(account, 6, end="upstream_dropped")
    calls(account, 5, end="provider_error")
    calls(account, 40, end="client_gone", at=ago(hours=1))

    nineteen = detectors.lost_calls(NOW)
    calls(account, 1, end="provider_error")
    found = detectors.lost_calls(NOW)

    evidence = {
        "calls": 40,
        "client_gone": 8,
        "upstream_dropped": 6,
        "provider_error": 6,
        "percent": 50,
        "borne_by_us_usd": "0",
    }
    assert nineteen == []
    assert found == [Finding(f"account:{account.pk}", "lost_calls", evidence, NOW + timedelta(hours=1))]


def test_a_small_share_of_lost_calls_is_normal(account: Account) -> None:
    calls(account, 21)
    calls(account, 20, end="client_gone")

    assert detectors.lost_calls(NOW) == []


def test_lost_calls_tell_what_they_cost_us(settings: Any) -> None:
    settings.ABUSE_LOST_CALLS_AN_HOUR = 2
    account = account_make(credits=10)
    now = clock.now()
    for loss, kind in ((Decimal("0.001"), "operator_loss"), (Decimal("0.0025"), "unknown_cost")):
        request_id = uuid7()
        hold_open(
            HoldItem(
                id=request_id,
                account_id=account.pk,
                api_key_id=None,
                credits=Decimal(1),
                worst_cost_usd=Decimal("0.01"),
                opened_at=now,
                expires_at=now + timedelta(minutes=5),
                endpoint="/v1/chat/completions",
                provider="groq",
                model="m",
            )
        )
        usage = UsageItem(
            id=request_id,
            started_at=now,
            finished_at=now,
            account_id=account.pk,
            api_key_id=None,
            endpoint="/v1/chat/completions",
            end="client_gone",
            credits_held=Decimal(1),
        )
        call_settle(CallItem(usage=usage, held=Decimal(1), charge=Decimal(0), loss_usd=loss, loss_kind=kind, reason="test"))

    [found] = detectors.lost_calls(now)

    assert found.evidence["borne_by_us_usd"] == "0.0035"


# --- Refused payments ---


def payment_make(
    account: Account, *, state: str, amount: int = 1590, at: datetime = NOW, code: str = "card_declined"
) -> Payment:
    paid = state == Payment.State.SUCCEEDED
    return Payment.objects.create(
        account=account,
        purpose=Payment.Purpose.TOPUP,
        state=state,
        gateway="stripe",
        amount=Decimal(amount),
        currency="DZD",
        paid_at=at if paid else None,
        received_amount=amount if paid else None,
        failure_code=code if state == Payment.State.FAILED else "",
        created_at=at,
    )


def test_refused_payments(account: Account) -> None:
    failed = Payment.State.FAILED
    for minutes in range(4):
        payment_make(account, state=failed, amount=100 + minutes, at=ago(minutes=minutes))
    payment_make(account, state=Payment.State.CANCELED)
    payment_make(account, state=failed, at=ago(hours=24))

    four = detectors.refused_payments(NOW)
    payment_make(account, state=failed, amount=100, at=ago(hours=23), code="expired_card")
    five = detectors.refused_payments(NOW)

    assert four == []
    evidence = {
        "refused": 5,
        "succeeded": 0,
        "amounts": 4,
        "gateways": ["stripe"],
        "reasons": ["card_declined", "expired_card"],
        "threshold": 5,
        "hours": 24,
    }
    assert five == [Finding(f"account:{account.pk}", "refused_payments", evidence, NOW + timedelta(days=1))]


def test_refusals_among_as_many_payments_are_bad_luck(account: Account) -> None:
    for _ in range(5):
        payment_make(account, state=Payment.State.FAILED)
        payment_make(account, state=Payment.State.SUCCEEDED)

    assert detectors.refused_payments(NOW) == []


# --- Spending ---


def test_spend_velocity(account: Account) -> None:
    calls(account, 168, at=ago(days=2), credits="50")
    calls(account, 5, at=ago(days=7, hours=1), credits="1000")
    calls(account, 1, at=ago(minutes=10), credits="500")

    ten_times = detectors.spend_velocity(NOW)
    calls(account, 1, credits="0.000001")
    found = detectors.spend_velocity(NOW)

    evidence = {
        "credits_last_hour": "500.000001",
        "credits_seven_days": "8400",
        "credits_an_hour_normally": "50",
        "times": 10,
        "floor": 100,
    }
    assert ten_times == []
    assert found == [Finding(f"account:{account.pk}", "spend_velocity", evidence, NOW + timedelta(hours=1))]


def test_little_money_is_never_too_fast(account: Account) -> None:
    calls(account, 1, credits="100")

    at_the_floor = detectors.spend_velocity(NOW)
    calls(account, 1, credits="0.5")
    above = detectors.spend_velocity(NOW)

    assert at_the_floor == []
    assert [found.evidence["credits_last_hour"] for found in above] == ["100.5"]
    assert above[0].evidence["credits_an_hour_normally"] == "0"


# --- What the gateway counts in Redis ---


@pytest.fixture
def redis() -> Iterator[Any]:
    connection = get_redis_connection("default")
    connection.flushdb()
    yield connection
    connection.flushdb()


def test_key_used_from_many_networks(redis: Any) -> None:
    key, other = str(uuid7()), str(uuid7())
    redis.sadd("{iaf}:use:seen:2026-11-20", key, other)
    redis.sadd(f"{{iaf}}:use:nets:{key}:2026-11-20", *(f"10.0.{n}.0/24" for n in range(10)))
    redis.sadd(f"{{iaf}}:use:nets:{other}:2026-11-20", "10.0.0.0/24")
    redis.sadd(f"{{iaf}}:use:nets:{key}:2026-11-19", *(f"10.1.{n}.0/24" for n in range(50)))

    ten = detectors.key_networks(NOW)
    redis.sadd(f"{{iaf}}:use:nets:{key}:2026-11-20", "2001:db8:1::/48")
    [found] = detectors.key_networks(NOW)

    assert ten == []
    assert (found.subject, found.signal, found.until) == (f"key:{key}", "key_networks", datetime(2026, 11, 21, tzinfo=UTC))
    examples = ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
    assert found.evidence.pop("examples")[:3] == examples
    assert found.evidence == {"networks": 11, "limit": 10}


def test_the_same_prompt_again_and_again(redis: Any) -> None:
    account, other = str(uuid7()), str(uuid7())
    redis.sadd("{iaf}:use:accounts:2026-11-20", account, other)
    redis.zadd(f"{{iaf}}:use:prompts:{account}:2026-11-20", {"aa": 100, "bb": 3})
    redis.zadd(f"{{iaf}}:use:prompts:{other}:2026-11-20", {f"h{n}": 90 for n in range(20)})

    hundred = detectors.repeated_prompts(NOW)
    redis.zincrby(f"{{iaf}}:use:prompts:{account}:2026-11-20", 1, "aa")
    found = detectors.repeated_prompts(NOW)

    evidence = {"repetitions": 101, "limit": 100}
    assert hundred == []
    assert found == [Finding(f"account:{account}", "repeated_prompts", evidence, datetime(2026, 11, 21, tzinfo=UTC))]


def test_many_keys_are_asked_in_batches(redis: Any) -> None:
    keys = [str(uuid7()) for _ in range(1_200)]
    redis.sadd("{iaf}:use:seen:2026-11-20", *keys)
    redis.sadd(f"{{iaf}}:use:nets:{keys[0]}:2026-11-20", *range(11))
    redis.sadd(f"{{iaf}}:use:nets:{keys[-1]}:2026-11-20", *range(11))

    found = detectors.key_networks(NOW)

    assert sorted(f.subject for f in found) == sorted([f"key:{keys[0]}", f"key:{keys[-1]}"])


# --- All of them ---


def test_what_is_found_is_raised_once(on_plan: OnPlan) -> None:
    account = on_plan(daily_limit=3)
    calls(account, 301)

    first, again = detect(NOW), detect(NOW + timedelta(minutes=5))

    row = AbuseSignal.objects.get()
    assert (first, again) == (1, 0)
    assert (row.subject, row.evidence) == (f"account:{account.pk}", {"messages": 301, "limit": 300})
    assert (row.first_seen_at, row.last_seen_at) == (NOW, NOW + timedelta(minutes=5))


def test_it_fades_when_its_day_is_over(on_plan: OnPlan) -> None:
    calls(on_plan(daily_limit=3), 301)
    detect(NOW)

    detect(MIDNIGHT + timedelta(days=1))

    assert AbuseSignal.objects.get().state == "dismissed"


def test_a_detector_that_fails_stops_no_other(on_plan: OnPlan, settings: Any, caplog: Any) -> None:
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}
    calls(on_plan(daily_limit=3), 301)

    new = detect(NOW)

    assert new == 1
    assert "the detector key_networks failed" in caplog.text


def test_the_task_looks_at_what_is_now(on_plan: OnPlan) -> None:
    calls(on_plan(daily_limit=3), 301, at=clock.now())

    assert detect_task() == 1
    assert detect_task() == 0
