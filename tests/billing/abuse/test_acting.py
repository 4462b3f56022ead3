"""What operators do: warn, slow down, ban, dismiss, keep networks out: each with a reason, an event and the signal closed."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from freezegun import freeze_time

from billing.abuse import services
from billing.accounts.models import Account, AccountLimits, Membership, User
from billing.accounts.services import account_block, account_limits_set, accounts_unblock_due, api_key_create
from billing.accounts.tasks import unblock_due
from billing.events.models import Event
from billing.events.services import SYSTEM, Actor
from iafactory.common import clock
from iafactory.common.errors import ApiError
from ratelimit.models import AbuseSignal, NetworkBlock
from ratelimit.signals import signal_raise
from tests.billing.accounts.conftest import with_key

from .conftest import NOW, code

pytestmark = pytest.mark.django_db
Work = Callable[[], list[str]]


@pytest.fixture
def actor(operator: User) -> Actor:
    return Actor(Event.ActorKind.OPERATOR, id=operator.pk, label=operator.email)


def signal_about(subject: str) -> None:
    signal_raise(subject=subject, signal="messages_a_day", evidence={"messages": 301})


@pytest.fixture
def signals(account: Account) -> str:
    """Open signals about the account, one of its keys, and somebody else; the key's secret."""
    key, secret = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)
    signal_about(f"account:{account.pk}")
    signal_about(f"key:{key.pk}")
    signal_about("account:019abcde-0000-7000-8000-000000000000")
    return secret


def states() -> list[str]:
    return sorted(AbuseSignal.objects.values_list("state", flat=True))


def refused(deed: Callable[..., Any], **arguments: Any) -> tuple[int, str, str | None]:
    with pytest.raises(ApiError) as caught:
        deed(**arguments)
    return caught.value.status, caught.value.code, caught.value.param


# --- Warn ---


def test_a_warning_is_mailed_and_told(
    account: Account, actor: Actor, signals: str, work: Work, django_capture_on_commit_callbacks: Any
) -> None:
    User.objects.filter(pk=account.personal_of_id).update(language="fr")

    with django_capture_on_commit_callbacks(execute=True):
        services.account_warn(account=account, actor=actor, reason="301 messages", message="Please use batches.")

    assert work() == ["billing.abuse.warning_send"]
    [message] = mail.outbox
    assert account.personal_of is not None
    assert message.to == [account.personal_of.email]
    assert message.subject == "À propos de l'utilisation de votre compte IA Factory"
    assert "Please use batches." in message.body
    assert "301 messages" not in message.body
    event = Event.objects.get(kind="account.warned")
    assert (event.account_id, event.actor_id, event.reason) == (account.pk, actor.id, "301 messages")
    assert event.after == {"message": "Please use batches."}
    assert states() == ["acted", "acted", "open"]
    assert AbuseSignal.objects.filter(closed_reason="warned: 301 messages").count() == 2


def test_every_owner_is_warned_and_no_member(account: Account, actor: Actor) -> None:
    for name, role in (("owner", "owner"), ("member", "member")):
        user = User.objects.create_user(f"{name}@example.com", "x")
        Membership.objects.create(account=account, user=user, role=role)
    event = services.account_warn(account=account, actor=actor, reason="x", message="y")

    told = services.warning_send(event_id=event.pk)

    assert account.personal_of is not None
    assert told == 2
    assert sorted(to for message in mail.outbox for to in message.to) == [account.personal_of.email, "owner@example.com"]


@pytest.mark.parametrize(("reason", "message", "param"), [("", "y", "reason"), ("  ", "y", "reason"), ("x", " ", "message")])
def test_a_warning_needs_reason_and_message(
    account: Account, actor: Actor, signals: str, reason: str, message: str, param: str
) -> None:
    answer = refused(services.account_warn, account=account, actor=actor, reason=reason, message=message)

    assert answer == (400, "invalid_request", param)
    assert not Event.objects.filter(kind="account.warned").exists()
    assert states() == ["open"] * 3


# --- Slow down ---


def test_slowing_down_writes_limits_until_an_instant(account: Account, actor: Actor, signals: str) -> None:
    row = services.account_slow_down(
        account=account, actor=actor, reason="bursts", until=NOW, requests_per_minute=5, concurrent_calls=1
    )

    assert AccountLimits.objects.get() == row
    assert (row.requests_per_minute, row.concurrent_calls, row.requests_per_day) == (5, 1, None)
    assert (row.until, row.reason) == (NOW, "bursts")
    event = Event.objects.get(kind="account.limits_changed")
    assert (event.account_id, event.actor_id, event.reason, event.before) == (account.pk, actor.id, "bursts", {})
    assert event.after == {"requests_per_minute": 5, "concurrent_calls": 1, "until": NOW.isoformat()}
    assert states() == ["acted", "acted", "open"]


def test_slowing_down_needs_a_limit_and_a_reason(account: Account, actor: Actor, signals: str) -> None:
    no_limit = refused(services.account_slow_down, account=account, actor=actor, reason="x")
    no_reason = refused(services.account_slow_down, account=account, actor=actor, reason="", requests_per_minute=1)

    assert no_limit == (400, "invalid_request", "requests_per_minute")
    assert no_reason == (400, "invalid_request", "reason")
    assert not AccountLimits.objects.exists()
    assert states() == ["open"] * 3


def test_limits_replace_those_before_and_none_gives_the_plans_back(account: Account, actor: Actor) -> None:
    account_limits_set(account=account, actor=actor, reason="a", requests_per_minute=5, daily_limit=10)
    account_limits_set(account=account, actor=actor, reason="b", requests_per_minute=5, daily_limit=10)
    replaced = account_limits_set(account=account, actor=actor, reason="c", tokens_per_minute=7)
    gone = account_limits_set(account=account, actor=actor, reason="d")

    assert replaced is not None
    assert (replaced.requests_per_minute, replaced.daily_limit, replaced.tokens_per_minute) == (None, None, 7)
    assert gone is None
    assert not AccountLimits.objects.exists()
    told = Event.objects.filter(kind="account.limits_changed").order_by("id").values_list("reason", "before", "after")
    assert list(told) == [
        ("a", {}, {"requests_per_minute": 5, "daily_limit": "10"}),
        ("c", {"requests_per_minute": 5, "daily_limit": "10"}, {"tokens_per_minute": 7}),
        ("d", {"tokens_per_minute": 7}, {}),
    ]


# --- Ban ---


def test_a_ban_for_good_stops_the_keys(account: Account, actor: Actor, signals: str) -> None:
    before = with_key(signals).get("/api/billing/me").status_code
    services.account_ban(account=account, actor=actor, reason="resold")
    banned = code(with_key(signals).get("/api/billing/me"))
    services.account_unban(account=account, actor=actor, reason="sorry")
    after = with_key(signals).get("/api/billing/me").status_code

    assert (before, banned, after) == (200, (403, "account_blocked"), 200)
    events = Event.objects.filter(object_type="account").order_by("id").values_list("kind", "actor_id", "reason")
    assert list(events) == [("account.blocked", actor.id, "resold"), ("account.unblocked", actor.id, "sorry")]
    assert states() == ["acted", "acted", "open"]


def test_a_ban_until_an_instant_is_over_at_that_instant(account: Account, actor: Actor, signals: str) -> None:
    with freeze_time(NOW):
        services.account_ban(account=account, actor=actor, reason="resold", until=NOW + timedelta(hours=1))
    with freeze_time(NOW + timedelta(minutes=59, seconds=59)):
        banned = code(with_key(signals).get("/api/billing/me"))
    with freeze_time(NOW + timedelta(hours=1)):
        after = with_key(signals).get("/api/billing/me").status_code

    assert (banned, after) == ((403, "account_blocked"), 200)


def test_the_task_ends_bans_that_are_over(account: Account, actor: Actor, on_plan: Callable[..., Account]) -> None:
    others = on_plan(), on_plan()
    with freeze_time(NOW):
        services.account_ban(account=account, actor=actor, reason="resold", until=NOW + timedelta(hours=1))
        services.account_ban(account=others[0], actor=actor, reason="resold", until=NOW + timedelta(hours=2))
        services.account_ban(account=others[1], actor=actor, reason="resold")
    with freeze_time(NOW + timedelta(hours=1)):
        first, again = unblock_due(), unblock_due()

    account.refresh_from_db()
    assert (first, again) == (1, 0)
    assert (account.status, account.status_reason, account.blocked_until) == ("active", "", None)
    assert Account.objects.filter(status="blocked").count() == 2
    event = Event.objects.get(kind="account.unblocked")
    assert (event.account_id, event.actor_kind, event.reason) == (account.pk, "system", "the block ended")
    assert event.before["blocked_until"] == (NOW + timedelta(hours=1)).isoformat()


def test_another_end_replaces_the_one_before(account: Account, actor: Actor) -> None:
    later, good = clock.now() + timedelta(hours=1), None
    services.account_ban(account=account, actor=actor, reason="a", until=later)
    services.account_ban(account=account, actor=actor, reason="again", until=later)
    services.account_ban(account=account, actor=actor, reason="for good", until=good)

    account.refresh_from_db()
    assert (account.status, account.blocked_until, account.status_reason) == ("blocked", None, "for good")
    told = Event.objects.filter(kind="account.blocked").order_by("id").values_list("reason", flat=True)
    assert list(told) == ["a", "for good"]


def test_a_ban_has_a_reason_and_an_end_ahead(account: Account, actor: Actor, signals: str) -> None:
    no_reason = refused(services.account_ban, account=account, actor=actor, reason=" ")
    over = refused(services.account_ban, account=account, actor=actor, reason="x", until=clock.now())
    no_reason_back = refused(services.account_unban, account=account, actor=actor, reason="")

    account.refresh_from_db()
    assert no_reason == no_reason_back == (400, "invalid_request", "reason")
    assert over == (400, "invalid_request", "until")
    assert account.status == "active"
    assert not Event.objects.filter(object_type="account").exists()
    assert states() == ["open"] * 3


def test_a_closed_account_is_not_banned(account: Account, actor: Actor, signals: str) -> None:
    Account.objects.filter(pk=account.pk).update(status="closed")

    answer = refused(services.account_ban, account=account, actor=actor, reason="x")

    assert answer == (409, "account_closed", None)
    assert states() == ["open"] * 3


@pytest.mark.django_db(transaction=True)
def test_a_ban_that_was_prolonged_meanwhile_stays(account: Account) -> None:
    over = clock.now() + timedelta(milliseconds=50)
    account_block(account=account, reason="a", actor=SYSTEM, until=over)
    later = over + timedelta(hours=1)
    barrier = threading.Barrier(2)

    def run(deed: Callable[[], Any]) -> None:
        barrier.wait()
        deed()
        connection.close()

    threads = [
        threading.Thread(target=run, args=(lambda: account_block(account=account, reason="b", actor=SYSTEM, until=later),)),
        threading.Thread(target=run, args=(lambda: accounts_unblock_due(now=over),)),
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    # Whichever came first: the operator's block is what stands.
    account.refresh_from_db()
    assert (account.status, account.blocked_until) == ("blocked", later)


# --- Dismiss ---


def test_dismissing_closes_the_signal_alone(account: Account, actor: Actor, signals: str) -> None:
    chosen = AbuseSignal.objects.get(subject=f"account:{account.pk}")

    closed = services.signals_dismiss(signals=[chosen], actor=actor, reason="a customer's test")
    again = services.signals_dismiss(signals=[chosen], actor=actor, reason="x")

    assert (closed, again) == (1, 0)
    assert states() == ["dismissed", "open", "open"]
    event = Event.objects.get(kind="abuse_signal.dismissed")
    assert (event.object_id, event.account_id, event.reason) == (str(chosen.pk), account.pk, "a customer's test")


# --- Networks ---


def test_keeping_a_network_out_is_told(actor: Actor) -> None:
    services.network_ban(network="10.0.0.0/8", actor=actor, reason="bots")
    services.network_ban(network="10.0.0.0/8", actor=actor, reason="bots")
    row = services.network_ban(network="10.0.0.0/8", actor=actor, reason="bots", expires_at=NOW)
    services.network_unban(block=row, actor=actor, reason="gone")
    services.network_unban(block=row, actor=actor, reason="gone")

    assert not NetworkBlock.objects.exists()
    told = Event.objects.filter(object_type="network_block").order_by("id").values_list("kind", "reason", "actor_label")
    assert list(told) == [
        ("network_block.created", "bots", "operator@example.com"),
        ("network_block.changed", "bots", "operator@example.com"),
        ("network_block.deleted", "gone", "operator@example.com"),
    ]


def test_a_network_needs_a_reason(actor: Actor) -> None:
    assert refused(services.network_ban, network="10.0.0.0/8", actor=actor, reason="") == (400, "invalid_request", "reason")
    assert not NetworkBlock.objects.exists()


@pytest.mark.parametrize("subject", ["account:nonsense", "address:10.0.0.1", "key:019abcde-0000-7000-8000-000000000000", "odd"])
def test_subjects_without_an_account(subject: str) -> None:
    assert services.account_id_of_subject(subject) is None
