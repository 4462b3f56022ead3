"""A plan's day used, plans and credits that end: each crossing is told once, by event and by mail in the reader's language."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from celery import current_app
from django.core import mail
from django.db import connection
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, AccountLimits, User
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.models import Lot, UsageRecord
from billing.notices.crossings import endings_notice, expiries_notice, quotas_notice
from billing.notices.mails import TASK, notice_mail_send, notices_unsent, preference_set
from billing.notices.models import CustomerNotice, NoticeKind
from billing.notices.services import credits_notice
from billing.notices.tasks import mails_sweep
from billing.plans.models import Plan, PlanPrice
from billing.subscriptions.models import Subscription
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7
from tests.billing.accounts.conftest import logged_in
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
# The running day of Algiers began one hour before UTC's.
MIDNIGHT = datetime(2026, 11, 19, 23, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def queued(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was queued; no worker runs."""
    names: list[tuple[str, Any]] = []
    monkeypatch.setattr(current_app, "send_task", lambda name, args=(), **options: names.append((name, *args)))
    return names


@pytest.fixture
def account(db: None) -> Account:
    return account_make()


def subscribe(account: Account, *, paid: bool = True, plan: dict[str, Any] | None = None, **fields: Any) -> Subscription:
    """A live subscription to a plan of ten requests a day for 1,590 DZD a month, or for nothing."""
    defaults = {"family": "chat", "name": "Student", "billing_mode": "quota", "daily_limit": 10}
    made = Plan.objects.create(code=f"plan-{Plan.objects.count()}", **{**defaults, **(plan or {})})
    price = PlanPrice.objects.create(plan=made, currency="DZD", amount=1590, effective_from=NOW - 90 * DAY) if paid else None
    values = {"state": "active", "current_period_start": NOW - 10 * DAY, "billing_anchor": NOW - 10 * DAY}
    return Subscription.objects.create(account=account, plan=made, price=price, **{**values, **fields})


def calls(account: Account, count: int, at: datetime = NOW, *, quota: int = 1, credits: str = "0") -> None:
    UsageRecord.objects.bulk_create(
        UsageRecord(
            id=uuid7(),
            started_at=at,
            finished_at=at,
            account_id=account.pk,
            endpoint="/v1/chat/completions",
            end="complete",
            quota_units=quota,
            credits_charged=Decimal(credits),
        )
        for _ in range(count)
    )


def told(account: Account) -> list[tuple[str, str]]:
    """Event kinds about an account's notices, with the kind of the object."""
    kinds = ("quota.low", "quota.exhausted", "subscription.ending", "credits.expiring")
    events = Event.objects.filter(account_id=account.pk, kind__in=kinds).order_by("id")
    return list(events.values_list("kind", "object_type"))


# --- The plan's day ---


def test_a_day_is_low_at_80_percent_and_exhausted_at_100_each_told_once(account: Account) -> None:
    subscribe(account)
    calls(account, 7)
    below = quotas_notice(now=NOW)
    calls(account, 1)
    low = [quotas_notice(now=NOW), quotas_notice(now=NOW)]
    calls(account, 2)
    out = [quotas_notice(now=NOW), quotas_notice(now=NOW)]

    assert (below, low, out) == (0, [1, 0], [1, 0])
    assert told(account) == [("quota.low", "account"), ("quota.exhausted", "account")]
    assert Event.objects.get(kind="quota.low").after == {
        "plan": "plan-0",
        "unit": "requests",
        "used": "8",
        "limit": "10",
        "resets_at": "2026-11-20T23:00:00+00:00",
    }


def test_a_day_used_up_at_once_is_told_as_used_up_only(account: Account) -> None:
    subscribe(account)
    calls(account, 10)

    assert (quotas_notice(now=NOW), quotas_notice(now=NOW)) == (1, 0)
    assert told(account) == [("quota.exhausted", "account")]


def test_the_next_day_begins_at_the_accounts_midnight(account: Account) -> None:
    subscribe(account)
    calls(account, 10, MIDNIGHT - timedelta(seconds=1))
    yesterday = quotas_notice(now=MIDNIGHT - timedelta(seconds=1))
    today = quotas_notice(now=MIDNIGHT)
    calls(account, 10, MIDNIGHT)

    assert (yesterday, today, quotas_notice(now=MIDNIGHT)) == (1, 0, 1)


def test_credits_plans_count_credits_and_calls_beyond_the_quota_count_nothing(account: Account) -> None:
    other = account_make()
    subscribe(account, plan={"billing_mode": "credits", "daily_limit": 100})
    subscribe(other)
    calls(account, 4, quota=0, credits="20.5")
    calls(other, 50, quota=0, credits="1")

    assert quotas_notice(now=NOW) == 1
    assert (told(account), told(other)) == ([("quota.low", "account")], [])
    assert CustomerNotice.objects.get().facts["used"] == "82"


def test_an_operators_limit_and_the_accounts_own_share_count(account: Account) -> None:
    subscribe(account)
    AccountLimits.objects.create(account=account, daily_limit=100, reason="test")
    calls(account, 50)
    usual = quotas_notice(now=NOW)
    preference_set(account=account, kind="quota", threshold=50, actor=SYSTEM)

    assert (usual, quotas_notice(now=NOW)) == (0, 1)
    assert CustomerNotice.objects.get().facts["limit"] == "100"


def test_who_has_not_called_within_the_hour_is_not_added_up(account: Account) -> None:
    subscribe(account)
    calls(account, 10, NOW - timedelta(minutes=60))

    assert quotas_notice(now=NOW) == 0
    assert quotas_notice(now=NOW - timedelta(seconds=1)) == 1


# --- Ends ---


@pytest.mark.parametrize(
    ("fields", "plan", "count"),
    [
        ({"cancel_at_period_end": True}, {}, 1),
        ({}, {"renews": False}, 1),
        ({"state": "trialing", "trial_ends_at": NOW + 3 * DAY}, {}, 1),
        ({}, {}, 0),
        ({"state": "past_due", "cancel_at_period_end": True}, {}, 0),
    ],
)
def test_what_ends_by_itself_is_told_three_days_before(
    account: Account, fields: dict[str, Any], plan: dict[str, Any], count: int
) -> None:
    values: dict[str, Any] = {"current_period_start": NOW - 27 * DAY, "current_period_end": NOW + 3 * DAY}
    subscribe(account, plan=plan, **values, **fields)

    early = endings_notice(now=NOW - timedelta(seconds=1))
    due = [endings_notice(now=NOW), endings_notice(now=NOW + DAY)]

    assert (early, due) == (0, [count, 0])
    assert told(account) == [("subscription.ending", "subscription")] * count


def test_a_trial_of_a_day_is_told_when_a_fifth_of_it_is_left(account: Account) -> None:
    end = NOW + timedelta(hours=4, minutes=48)
    subscribe(account, state="trialing", current_period_start=end - DAY, current_period_end=end, trial_ends_at=end)

    assert endings_notice(now=NOW - timedelta(seconds=1)) == 0
    assert endings_notice(now=NOW) == 1


def test_a_later_end_is_told_again(account: Account) -> None:
    subscription = subscribe(
        account, cancel_at_period_end=True, current_period_start=NOW - 27 * DAY, current_period_end=NOW + 3 * DAY
    )
    endings_notice(now=NOW)
    Subscription.objects.filter(pk=subscription.pk).update(current_period_end=NOW + 33 * DAY)

    assert endings_notice(now=NOW + 3 * DAY) == 0
    assert endings_notice(now=NOW + 30 * DAY) == 1


def test_bought_and_given_credits_are_told_a_week_before_they_expire(account: Account) -> None:
    with freeze_time(NOW - 30 * DAY):
        end = NOW + 7 * DAY
        lot_make(account.pk, 10, expires_at=end)
        lot_make(account.pk, 5, kind=Lot.Kind.BONUS, expires_at=end + timedelta(hours=1))
        lot_make(account.pk, 100, kind=Lot.Kind.PLAN, expires_at=end)
        lot_make(account.pk, 7, expires_at=end + 30 * DAY)
        lot_make(account.pk, 3)

    early = expiries_notice(now=NOW - timedelta(seconds=1))
    due = [expiries_notice(now=NOW + timedelta(hours=1)), expiries_notice(now=NOW + timedelta(hours=2))]

    assert (early, due) == (0, [1, 0])
    assert Event.objects.get(kind="credits.expiring").after == {"credits": "15", "expires_at": end.isoformat()}


def test_credits_that_were_used_do_not_expire(account: Account) -> None:
    with freeze_time(NOW - 30 * DAY):
        lot_make(account.pk, 10, expires_at=NOW + DAY)
    Lot.objects.update(remaining=0)

    assert expiries_notice(now=NOW) == 0


# --- Mails ---


def reader(account: Account, language: str) -> None:
    assert account.personal_of_id is not None
    User.objects.filter(pk=account.personal_of_id).update(language=language, email=f"{language}@example.com")


@pytest.mark.parametrize(
    ("language", "subject", "line"),
    [
        ("en", "Today's plan-0 quota is nearly used up", "The next day begins on 21 Nov 2026, 00:00."),
        ("fr", "Le quota plan-0 du jour est presque épuisé", "Le jour suivant commence le 21 nov. 2026, 00:00."),
        ("ar", "حصة اليوم من plan-0 توشك على النفاد", "يبدأ اليوم التالي في 21 نوفمبر 2026, 00:00."),
    ],
)
def test_the_owner_gets_a_mail_in_their_language_and_zone(account: Account, language: str, subject: str, line: str) -> None:
    reader(account, language)
    subscribe(account)
    calls(account, 8)
    quotas_notice(now=NOW)
    notice = CustomerNotice.objects.get()

    sent = [notice_mail_send(notice_id=notice.pk), notice_mail_send(notice_id=notice.pk)]

    assert sent == [True, False]
    [message] = mail.outbox
    assert (message.to, message.subject) == ([f"{language}@example.com"], subject)
    assert line in message.body


FACTS: dict[str, dict[str, Any]] = {
    "credits": {"balance": "9.5"},
    "key_budget": {"name": "main", "window": "day", "limit": "10", "spent": "8"},
    "quota": {"plan": "pro", "unit": "credits", "used": "8", "limit": "10", "resets_at": NOW.isoformat()},
    "plan_ending": {"plan": "Pro", "is_trial": True, "ends_at": NOW.isoformat()},
    "credits_expiring": {"credits": "15", "expires_at": NOW.isoformat()},
    "price_change": {"plan": "Pro", "before": "3000 DZD", "after": "4000 DZD", "changes_at": NOW.isoformat()},
}


@pytest.mark.parametrize(
    ("language", "credits", "price"),
    [
        ("en", "1,234.5 credits", "DZD\N{NO-BREAK SPACE}4,000"),
        ("fr", "1\N{NARROW NO-BREAK SPACE}234,5 crédits", "4\N{NARROW NO-BREAK SPACE}000\N{NO-BREAK SPACE}DZD"),
        ("ar", "1.234,5", "4.000\N{NO-BREAK SPACE}د.ج."),
    ],
)
def test_a_mail_writes_figures_and_prices_as_its_language_does(
    account: Account, language: str, credits: str, price: str
) -> None:
    reader(account, language)
    facts = FACTS | {"credits_expiring": {"credits": "1234.5", "expires_at": NOW.isoformat()}}

    for kind in ("credits_expiring", "price_change"):
        notice = CustomerNotice.objects.create(
            account=account, kind=kind, level="low", key=kind, facts=facts[kind], is_mailed=True, created_at=NOW
        )
        assert notice_mail_send(notice_id=notice.pk)

    assert credits in mail.outbox[0].body
    assert price in mail.outbox[1].body


@pytest.mark.parametrize("level", ["low", "exhausted"])
@pytest.mark.parametrize("language", ["en", "fr", "ar"])
@pytest.mark.parametrize("kind", FACTS)
def test_every_mail_is_written_in_every_language(account: Account, kind: str, language: str, level: str) -> None:
    reader(account, language)
    notice = CustomerNotice.objects.create(account=account, kind=kind, level=level, key="x", facts=FACTS[kind])

    notice_mail_send(notice_id=notice.pk)

    [message] = mail.outbox
    assert message.subject
    assert "\n" not in message.subject
    assert f"{account.name}" in message.body
    assert "http://127.0.0.1:8000/billing/" in message.body
    assert "{" not in message.body


def test_the_facts_of_every_kind_are_those_of_its_mail() -> None:
    assert set(FACTS) == set(NoticeKind.values)


def test_a_mail_is_queued_once_and_lost_ones_are_queued_again_for_two_days(
    account: Account, queued: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    subscribe(account)
    calls(account, 8)
    with django_capture_on_commit_callbacks(execute=True):
        quotas_notice(now=NOW)
    notice = CustomerNotice.objects.get()
    first = list(queued)

    with freeze_time(NOW + timedelta(minutes=10)):
        again = mails_sweep()

    assert first == [(TASK, str(notice.pk))]
    assert (again, queued[1:]) == (1, [(TASK, str(notice.pk))])
    assert not notices_unsent(now=NOW + timedelta(minutes=9, seconds=59)).exists()
    assert not notices_unsent(now=NOW + 2 * DAY).exists()


def test_low_credits_are_mailed_too(account: Account) -> None:
    lot_make(account.pk, 100)
    credits_notice(now=NOW)
    Lot.objects.update(remaining=9)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE billing_wallet SET balance = 9")

    credits_notice(now=NOW)

    notice = CustomerNotice.objects.get()
    assert (notice.kind, notice.level, notice.facts) == ("credits", "low", {"balance": "9"})


def test_the_quota_of_a_free_plan_is_mailed_only_to_who_asks(account: Account) -> None:
    other = account_make()
    subscribe(account, paid=False)
    subscribe(other, paid=False)
    preference_set(account=other, kind="quota", mail=True, actor=SYSTEM)
    calls(account, 10)
    calls(other, 10)

    quotas_notice(now=NOW)

    assert dict(CustomerNotice.objects.values_list("account", "is_mailed")) == {account.pk: False, other.pk: True}
    assert told(account) == [("quota.exhausted", "account")]


def test_who_wants_no_mails_gets_none_and_events_all_the_same(account: Account) -> None:
    subscribe(account)
    preference_set(account=account, kind="quota", mail=False, actor=SYSTEM)
    calls(account, 10)
    quotas_notice(now=NOW)

    assert notice_mail_send(notice_id=CustomerNotice.objects.get().pk) is False
    assert mail.outbox == []
    assert told(account) == [("quota.exhausted", "account")]


# --- Wishes ---


def client_of(account: Account) -> APIClient:
    assert account.personal_of is not None
    return logged_in(account.personal_of)


ADDRESS = "/api/billing/notices/preferences"


def test_preferences_are_shown_and_changed(account: Account) -> None:
    subscribe(account)
    client = client_of(account)

    shown = client.get(ADDRESS).json()
    changed = client.patch(ADDRESS, {"kind": "plan_ending", "mail": False, "threshold": 5}, format="json")
    back = client.patch(ADDRESS, {"kind": "plan_ending", "threshold": None}, format="json").json()

    assert shown == [
        {"kind": "credits", "mail": True, "threshold": None, "unit": ""},
        {"kind": "key_budget", "mail": True, "threshold": None, "unit": ""},
        {"kind": "quota", "mail": True, "threshold": 80, "unit": "percent"},
        {"kind": "plan_ending", "mail": True, "threshold": 3, "unit": "days"},
        {"kind": "credits_expiring", "mail": True, "threshold": 7, "unit": "days"},
        {"kind": "price_change", "mail": True, "threshold": None, "unit": ""},
    ]
    assert changed.status_code == 200
    assert changed.json()[3] == {"kind": "plan_ending", "mail": False, "threshold": 5, "unit": "days"}
    assert back[3] == {"kind": "plan_ending", "mail": False, "threshold": 3, "unit": "days"}
    event = Event.objects.filter(kind="account.notice_preference_changed").order_by("id").first()
    assert event is not None
    assert event.after == {"kind": "plan_ending", "mail": False, "threshold": 5}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "kind"),
        ({"kind": "weather", "mail": True}, "kind"),
        ({"kind": "quota", "threshold": 100}, "threshold"),
        ({"kind": "quota", "threshold": 0}, "threshold"),
        ({"kind": "quota", "threshold": "80"}, "threshold"),
        ({"kind": "credits", "threshold": 5}, "threshold"),
        ({"kind": "quota", "mail": "yes"}, "mail"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(account: Account, body: dict[str, Any], param: str) -> None:
    answer = client_of(account).patch(ADDRESS, body, format="json")

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not Event.objects.filter(kind="account.notice_preference_changed").exists()


def test_someone_elses_account_is_not_found(account: Account) -> None:
    client = client_of(account)

    answer = client.patch(
        ADDRESS, {"kind": "quota", "mail": False}, format="json", headers={"X-Account": str(account_make().pk)}
    )

    assert answer.status_code == 404


def test_the_same_again_writes_nothing(account: Account) -> None:
    preference_set(account=account, kind="quota", threshold=50, actor=SYSTEM)
    preference_set(account=account, kind="quota", threshold=50, actor=SYSTEM)

    assert Event.objects.filter(kind="account.notice_preference_changed").count() == 1
    with pytest.raises(ApiError):
        preference_set(account=account, kind="weather", mail=True, actor=SYSTEM)


# --- At once ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("look", [quotas_notice, endings_notice, expiries_notice], ids=lambda look: look.__name__)
def test_many_that_look_at_once_tell_once(look: Callable[..., int]) -> None:
    account = account_make()
    subscribe(account, cancel_at_period_end=True, current_period_start=NOW - 27 * DAY, current_period_end=NOW + DAY)
    calls(account, 10)
    with freeze_time(NOW - 30 * DAY):
        lot_make(account.pk, 10, expires_at=NOW + DAY)
    begin = threading.Barrier(6)

    def run(_: int) -> int:
        try:
            begin.wait(10)
            return look(now=NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(run, range(6)))

    assert sum(counts) == 1
    assert CustomerNotice.objects.count() == 1
    assert len(told(account)) == 1
