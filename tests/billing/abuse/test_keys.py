"""Keys that leaked, keys that nobody uses, and limits of one key."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey, User
from billing.accounts.services import (
    API_KEY_LIMITS,
    account_block,
    api_key_create,
    api_key_limits_set,
    api_key_revoke,
    unused_keys_warn,
)
from billing.events.models import Event
from billing.events.services import SYSTEM
from iafactory.common.errors import ApiError
from tests.billing.accounts.conftest import with_key

from .conftest import NOW, code

pytestmark = pytest.mark.django_db
Work = Callable[[], list[str]]
LEAKED = "/api/keys/leaked"


@pytest.fixture
def key(account: Account) -> tuple[ApiKey, str]:
    return api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)


def report(client: APIClient, secret: Any, address: str = "10.0.0.1") -> Any:
    return client.post(LEAKED, {"secret": secret}, format="json", REMOTE_ADDR=address)


# --- Leaked ---


def test_a_leaked_key_is_revoked_and_its_owner_told(
    client: APIClient, account: Account, key: tuple[ApiKey, str], work: Work, django_capture_on_commit_callbacks: Any
) -> None:
    before = with_key(key[1]).get("/api/billing/me").status_code
    with django_capture_on_commit_callbacks(execute=True):
        answer = report(client, key[1])
    after = code(with_key(key[1]).get("/api/billing/me"))

    assert (before, answer.status_code, after) == (200, 202, (401, "api_key_revoked"))
    event = Event.objects.get(kind="api_key.revoked")
    assert (event.object_id, event.account_id, event.actor_kind) == (str(key[0].pk), account.pk, "system")
    assert event.reason == "reported as leaked"
    assert work() == ["billing.accounts.leaked_key_mail_send"]
    [message] = mail.outbox
    assert account.personal_of is not None
    assert message.to == [account.personal_of.email]
    assert message.subject == f"Your API key {key[0]} was revoked"
    assert key[1] not in message.body


def test_the_answer_is_the_same_for_every_secret(
    client: APIClient, key: tuple[ApiKey, str], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        answers = [report(client, secret) for secret in (key[1], key[1], "iaf_unknown", "sk-somebody-else", "é")]

    told = {(answer.status_code, answer.content, tuple(sorted(answer.headers))) for answer in answers}
    assert len(told) == 1
    assert answers[0].json() == {"accepted": True}
    assert len(callbacks) == 1
    assert Event.objects.filter(kind="api_key.revoked").count() == 1


def test_the_secret_of_another_key_stays(client: APIClient, account: Account, key: tuple[ApiKey, str]) -> None:
    other, _ = api_key_create(account=account, created_by=None, name="other", actor=SYSTEM)

    report(client, key[1])

    assert list(ApiKey.objects.filter(revoked_at__isnull=True)) == [other]


@pytest.mark.parametrize("secret", [None, 5, "", "x" * 201, ["iaf_x"], {"a": 1}, "a\x00b"])
def test_what_is_no_secret_is_refused(client: APIClient, key: tuple[ApiKey, str], secret: Any) -> None:
    answer = report(client, secret)

    assert (code(answer), answer.json()["error"]["param"]) == ((400, "invalid_request"), "secret")


def test_reports_are_braked_per_address(client: APIClient, settings: Any, key: tuple[ApiKey, str]) -> None:
    settings.LEAKED_KEY_REPORTS_PER_ADDRESS = 2
    with freeze_time("2026-11-20 10:00:00"):
        answers = [report(client, "iaf_x").status_code for _ in range(2)]
        refused = report(client, key[1])
        elsewhere = report(client, "iaf_x", "10.0.0.2").status_code

    key[0].refresh_from_db()
    assert answers == [202, 202]
    assert code(refused) == (429, "too_many_attempts")
    assert elsewhere == 202
    assert key[0].revoked_at is None


# --- Unused ---


def unused(account: Account, name: str, **fields: Any) -> ApiKey:
    made, _ = api_key_create(account=account, created_by=None, name=name, actor=SYSTEM)
    ApiKey.objects.filter(pk=made.pk).update(**{"created_at": NOW - timedelta(days=200)} | fields)
    return made


def test_owners_are_told_once_of_all_their_unused_keys(
    account: Account, on_plan: Callable[..., Account], work: Work, django_capture_on_commit_callbacks: Any
) -> None:
    never = unused(account, "never used")
    long_ago = unused(account, "used long ago", last_used_at=NOW - timedelta(days=90))
    unused(account, "used lately", last_used_at=NOW - timedelta(days=90) + timedelta(seconds=1))
    unused(account, "made lately", created_at=NOW - timedelta(days=89))
    unused(account, "expired", expires_at=NOW)
    api_key_revoke(key=unused(account, "revoked"), actor=SYSTEM)
    blocked = on_plan()
    unused(blocked, "of a blocked account")
    account_block(account=blocked, reason="x", actor=SYSTEM)

    with freeze_time(NOW), django_capture_on_commit_callbacks(execute=True):
        warned = unused_keys_warn(now=NOW)
    with freeze_time(NOW + timedelta(days=7)), django_capture_on_commit_callbacks(execute=True):
        week_later = unused_keys_warn(now=NOW + timedelta(days=7))

    # A week later the one made lately has become unused too.
    assert (warned, week_later) == (2, 2)
    assert work() == ["billing.accounts.unused_keys_mail_send"] * 2
    first, second = mail.outbox
    assert account.personal_of is not None
    assert first.to == [account.personal_of.email]
    assert first.subject == "API keys that nobody uses"
    assert f"- never used ({never})\n- used long ago ({long_ago})\n" in first.body
    assert "90 days or more" in first.body
    assert "used lately" in second.body
    assert "made lately" in second.body
    assert "never used" not in second.body


def test_a_new_period_tells_again(account: Account) -> None:
    key = unused(account, "never used")
    told = []
    for days in (0, 89, 90):
        with freeze_time(NOW + timedelta(days=days)):
            told.append(unused_keys_warn(now=NOW + timedelta(days=days)))

    assert told == [1, 0, 1]
    assert Event.objects.filter(kind="api_key.unused", object_id=str(key.pk)).count() == 2


def test_the_number_of_days_is_a_setting(account: Account, settings: Any) -> None:
    settings.UNUSED_KEY_DAYS = 201
    unused(account, "never used")

    assert unused_keys_warn(now=NOW) == 0
    assert unused_keys_warn(now=NOW + timedelta(days=1)) == 1


# --- Limits of one key ---


def test_limits_of_a_key_are_set_with_an_event(account: Account, key: tuple[ApiKey, str], operator: User) -> None:
    changed = api_key_limits_set(
        key=key[0],
        actor=SYSTEM,
        reason="asked for",
        requests_per_minute=5,
        daily_credits=Decimal("2.5"),
        allowed_networks=["10.0.0.0/8", "2001:db8::/32"],
        tokens_per_minute=None,
    )

    key[0].refresh_from_db()
    assert changed.pk == key[0].pk
    assert (key[0].requests_per_minute, key[0].daily_credits) == (5, Decimal("2.5"))
    assert key[0].allowed_networks == ["10.0.0.0/8", "2001:db8::/32"]
    event = Event.objects.get(kind="api_key.limits_changed")
    assert (event.account_id, event.reason) == (account.pk, "asked for")
    assert event.before == {"requests_per_minute": None, "daily_credits": None, "allowed_networks": []}
    networks = ["10.0.0.0/8", "2001:db8::/32"]
    assert event.after == {"requests_per_minute": 5, "daily_credits": "2.5", "allowed_networks": networks}


def test_the_same_limits_again_write_nothing(key: tuple[ApiKey, str]) -> None:
    api_key_limits_set(key=key[0], actor=SYSTEM, daily_credits=Decimal("10.000"), allowed_models=["gpt-4o"])
    api_key_limits_set(key=key[0], actor=SYSTEM, daily_credits=10, allowed_models=["gpt-4o"])

    assert Event.objects.filter(kind="api_key.limits_changed").count() == 1


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        ({"allowed_networks": ["here"]}, "allowed_networks"),
        ({"allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"daily_credits": "much"}, "daily_credits"),
        ({"allowed_models": ["x" * 201]}, "allowed_models"),
    ],
)
def test_a_wrong_limit_is_named(key: tuple[ApiKey, str], limits: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        api_key_limits_set(key=key[0], actor=SYSTEM, **limits)

    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_request", param)
    assert not Event.objects.filter(kind="api_key.limits_changed").exists()


def test_other_fields_are_no_limits(key: tuple[ApiKey, str]) -> None:
    assert "scopes" not in API_KEY_LIMITS
    with pytest.raises(TypeError, match="scopes"):
        api_key_limits_set(key=key[0], actor=SYSTEM, scopes=["credits:admin"])
