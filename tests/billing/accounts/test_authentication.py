"""Credentials of requests, permissions, and blocking."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.urls import path
from freezegun import freeze_time
from rest_framework.response import Response
from rest_framework.test import APIClient
from rest_framework.views import APIView

from billing.accounts import services
from billing.accounts.credentials import KeyUser, request_account, request_actor
from billing.accounts.models import Account, ApiKey, Membership, User
from billing.accounts.permissions import HasScope
from billing.accounts.tokens import session_tokens
from billing.events.models import Event
from billing.events.services import SYSTEM
from iafactory.common.errors import ApiError

from .conftest import PASSWORD, code, logged_in, with_key

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


class WhoView(APIView):
    """Says what authentication found."""

    def get(self, request: Any) -> Response:
        actor = request_actor(request)
        return Response(
            {
                "user": type(request.user).__name__,
                "staff": request.user.is_staff,
                "auth": type(request.auth).__name__,
                "account": str(request_account(request).pk),
                "actor": [actor.kind, str(actor.id), actor.label],
            }
        )


class BillingReadView(WhoView):
    permission_classes = [HasScope("billing:read")]


class CreditsWriteView(WhoView):
    permission_classes = [HasScope("credits:write")]


urlpatterns = [
    path("who", WhoView.as_view()),
    path("v1/who", WhoView.as_view()),
    path("billing-read", BillingReadView.as_view()),
    path("credits-write", CreditsWriteView.as_view()),
]


@pytest.fixture(autouse=True)
def _own_addresses(_addresses: None, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def key(amina: User) -> tuple[ApiKey, str]:
    return services.api_key_create(
        account=amina.personal_account,
        created_by=amina,
        name="Laptop",
        scopes=["inference"],
        actor=services.user_actor(amina),
    )


# --- Keys ---


def test_key_acts_for_its_account_and_is_nobody(amina: User, key: tuple[ApiKey, str]) -> None:
    User.objects.update(is_staff=True, is_superuser=True)

    answer = with_key(key[1]).get("/who").json()

    assert answer == {
        "user": "KeyUser",
        "staff": False,
        "auth": "ApiKey",
        "account": str(amina.personal_account.pk),
        "actor": ["service", str(key[0].pk), str(key[0])],
    }


def test_key_user_is_authenticated_without_rights() -> None:
    user = KeyUser()

    assert (user.is_authenticated, user.is_anonymous, user.is_superuser) == (True, False, False)
    assert isinstance(user, AnonymousUser)


@pytest.mark.parametrize("secret", ["iaf_wrong", "sk-something", "x", "é", "a.b", "iaf_" + "x" * 10_000])
def test_wrong_key_is_refused(key: tuple[ApiKey, str], secret: str) -> None:
    response = with_key(secret).get("/who")

    assert code(response) == (401, "invalid_api_key")
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "bearer  ", "iaf_x"])
def test_other_headers_are_no_credentials(db: None, header: str) -> None:
    response = APIClient().get("/who", HTTP_AUTHORIZATION=header)

    assert response.status_code == 401


def test_openai_clients_get_openais_error(key: tuple[ApiKey, str]) -> None:
    response = with_key("iaf_wrong").get("/v1/who")

    assert response.status_code == 401
    assert response.json() == {
        "error": {
            "message": "The API key is wrong.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }


def test_revoked_key_is_refused(key: tuple[ApiKey, str]) -> None:
    services.api_key_revoke(key=key[0], actor=SYSTEM)

    assert code(with_key(key[1]).get("/who")) == (401, "api_key_revoked")


def test_key_ends_at_its_expiry(amina: User) -> None:
    with freeze_time(NOON):
        _, secret = services.api_key_create(
            account=amina.personal_account,
            created_by=amina,
            name="x",
            expires_at=NOON + timedelta(hours=1),
            actor=SYSTEM,
        )
    with freeze_time(NOON + timedelta(minutes=59, seconds=59)):
        before = with_key(secret).get("/who")
    with freeze_time(NOON + timedelta(hours=1)):
        after = with_key(secret).get("/who")

    assert before.status_code == 200
    assert code(after) == (401, "api_key_expired")


def test_key_survives_its_maker(amina: User, key: tuple[ApiKey, str]) -> None:
    ApiKey.objects.update(created_by=None)

    assert with_key(key[1]).get("/who").status_code == 200


def test_x_account_of_a_key_must_be_its_own(amina: User, boris: User, key: tuple[ApiKey, str]) -> None:
    own = with_key(key[1], HTTP_X_ACCOUNT=str(amina.personal_account.pk)).get("/who")
    other = with_key(key[1], HTTP_X_ACCOUNT=str(boris.personal_account.pk)).get("/who")
    nonsense = with_key(key[1], HTTP_X_ACCOUNT="nonsense").get("/who")

    assert own.status_code == 200
    assert code(other) == code(nonsense) == (404, "not_found")


def test_use_is_noted_to_the_minute(key: tuple[ApiKey, str]) -> None:
    client = with_key(key[1])

    with freeze_time(NOON):
        client.get("/who")
    with freeze_time(NOON + timedelta(seconds=59)):
        client.get("/who")
    key[0].refresh_from_db()
    within_the_minute = key[0].last_used_at
    with freeze_time(NOON + timedelta(seconds=60)):
        client.get("/who")
    key[0].refresh_from_db()

    assert within_the_minute == NOON
    assert key[0].last_used_at == NOON + timedelta(seconds=60)


def test_refused_key_is_not_noted_as_used(key: tuple[ApiKey, str]) -> None:
    services.api_key_revoke(key=key[0], actor=SYSTEM)

    with_key(key[1]).get("/who")

    key[0].refresh_from_db()
    assert key[0].last_used_at is None


# --- Sessions ---


def test_session_is_the_user(amina: User) -> None:
    answer = logged_in(amina).get("/who").json()

    assert answer == {
        "user": "User",
        "staff": False,
        "auth": "AccessToken",
        "account": str(amina.personal_account.pk),
        "actor": ["user", str(amina.pk), "amina@example.com"],
    }


def test_access_token_ends_after_thirty_minutes(amina: User) -> None:
    with freeze_time(NOON):
        client = logged_in(amina)
    with freeze_time(NOON + timedelta(minutes=29, seconds=59)):
        before = client.get("/who")
    with freeze_time(NOON + timedelta(minutes=30, seconds=1)):
        after = client.get("/who")

    assert before.status_code == 200
    assert code(after) == (401, "token_expired")


def test_switched_off_user_is_out_at_once(amina: User) -> None:
    client = logged_in(amina)
    User.objects.update(is_active=False)

    assert code(client.get("/who")) == (401, "token_revoked")


def test_changed_password_ends_the_session(amina: User) -> None:
    client = logged_in(amina)
    amina.set_password("another horse battery")
    amina.save()

    assert code(client.get("/who")) == (401, "token_revoked")


def test_refresh_token_opens_nothing(amina: User) -> None:
    client = with_key(session_tokens(amina).refresh_token)

    assert code(client.get("/who")) == (401, "invalid_token")


@pytest.mark.parametrize(
    "token",
    ["a.b.c", "..", "é.é.é", "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."],  # pragma: allowlist secret
)
def test_forged_token_is_refused(db: None, token: str) -> None:
    assert code(with_key(token).get("/who")) == (401, "invalid_token")


def test_user_without_personal_account_acts_for_the_oldest_membership(db: None) -> None:
    user = User.objects.create_user("member@example.com", PASSWORD)
    first = Account.objects.create(name="First", kind="organisation")
    second = Account.objects.create(name="Second", kind="organisation")
    Membership.objects.create(account=first, user=user)
    Membership.objects.create(account=second, user=user)

    assert logged_in(user).get("/who").json()["account"] == str(first.pk)


# --- Permissions ---


def test_scope_is_needed(amina: User, key: tuple[ApiKey, str]) -> None:
    _, secret = services.api_key_create(
        account=amina.personal_account, created_by=None, name="r", scopes=["billing:read"], actor=SYSTEM
    )

    assert with_key(secret).get("/billing-read").status_code == 200
    assert code(with_key(key[1]).get("/billing-read")) == (403, "insufficient_scope")
    assert logged_in(amina).get("/billing-read").status_code == 200
    assert code(APIClient().get("/billing-read")) == (401, "not_authenticated")


def test_session_has_no_service_scope(amina: User) -> None:
    _, secret = services.api_key_create(
        account=amina.personal_account, created_by=None, name="s", scopes=["credits:write"], actor=SYSTEM
    )

    assert with_key(secret).get("/credits-write").status_code == 200
    assert code(logged_in(amina).get("/credits-write")) == (403, "insufficient_scope")


def test_unknown_scope_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="everything"):
        HasScope("everything")


# --- Blocking ---


def test_blocked_account_stops_its_keys_until_unblocked(amina: User, key: tuple[ApiKey, str]) -> None:
    account = services.account_block(account=amina.personal_account, reason="abuse", actor=SYSTEM)
    blocked = with_key(key[1]).get("/who")
    session = logged_in(amina).get("/who")
    services.account_unblock(account=account, reason="talked", actor=SYSTEM)
    open_again = with_key(key[1]).get("/who")

    assert code(blocked) == (403, "account_blocked")
    assert session.status_code == 200
    assert open_again.status_code == 200
    events = Event.objects.filter(object_type="account").order_by("id")
    assert list(events.values_list("kind", "before", "after", "reason")) == [
        (
            "account.blocked",
            {"status": "active", "status_reason": ""},
            {"status": "blocked", "status_reason": "abuse"},
            "abuse",
        ),
        (
            "account.unblocked",
            {"status": "blocked", "status_reason": "abuse"},
            {"status": "active", "status_reason": ""},
            "talked",
        ),
    ]


def test_blocking_again_changes_nothing(amina: User) -> None:
    services.account_block(account=amina.personal_account, reason="first", actor=SYSTEM)

    again = services.account_block(account=amina.personal_account, reason="second", actor=SYSTEM)

    assert again.status_reason == "first"
    assert Event.objects.count() == 1


def test_closed_account_stays_closed(amina: User, key: tuple[ApiKey, str]) -> None:
    Account.objects.update(status="closed")

    assert code(with_key(key[1]).get("/who")) == (403, "account_closed")
    with pytest.raises(ApiError) as refused:
        services.account_unblock(account=amina.personal_account, actor=SYSTEM)
    assert (refused.value.status, refused.value.code) == (409, "account_closed")
    assert Account.objects.get().status == "closed"
