"""Operators' keys: who may make one, what it opens under which header, and what ends it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey, Membership, User
from billing.accounts.services import api_key_create, api_key_revoke, api_key_rotate, operator_key_create, user_actor
from billing.events.models import Event
from billing.events.services import SYSTEM, Actor
from iafactory.common import clock
from iafactory.common.errors import ApiError
from tests.factories import account_make

from .conftest import code, logged_in, with_key

pytestmark = pytest.mark.django_db

ABUSIVE = "/api/admin/users/abusive"


@pytest.fixture
def boss() -> User:
    """A superuser without an account, as `createsuperuser` makes them."""
    return User.objects.create_superuser("boss@example.com", "correct horse battery")


@pytest.fixture
def clerk() -> User:
    """An operator who may read abuse signals and nothing else."""
    clerk = User.objects.create_user("clerk@example.com", "correct horse battery", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_abusesignal"))
    return clerk


def by(user: User) -> Actor:
    return Actor(Event.ActorKind.OPERATOR, id=user.pk, label=user.email)


def key_of(user: User, **options: Any) -> tuple[ApiKey, str]:
    return operator_key_create(user=user, name="backup job", actor=by(user), **options)


def with_header(header: str, value: str) -> APIClient:
    client = APIClient()
    client.credentials(**{f"HTTP_{header.upper().replace('-', '_')}": value})
    return client


def ban(client: APIClient, account: Account) -> Any:
    return client.post(f"/api/admin/users/{account.pk}/ban", {"reason": "resold"}, format="json")


def test_a_key_is_made_on_the_operators_own_account_which_is_made_if_missing(boss: User) -> None:
    first, secret = key_of(boss)
    second, _ = key_of(boss)

    account = Account.objects.get()
    assert (account.personal_of, first.account, second.account) == (boss, account, account)
    assert (first.scopes, first.created_by) == (["admin"], boss)
    assert secret.startswith("iaf_")
    assert Membership.objects.get().user == boss
    kinds = Event.objects.order_by("id").values_list("kind", "actor_label")
    assert list(kinds) == [
        ("account.created", "boss@example.com"),
        ("api_key.created", "boss@example.com"),
        ("api_key.created", "boss@example.com"),
    ]


@pytest.mark.parametrize("header", ["X-Admin-Key", "X-Admin-Secret"])
def test_it_opens_operators_addresses_under_each_header(boss: User, header: str) -> None:
    customer = account_make()
    key, secret = key_of(boss)

    listed = with_header(header, secret).get(ABUSIVE)
    banned = ban(with_header(header, secret), customer)

    assert (listed.status_code, banned.status_code) == (200, 200)
    event = Event.objects.get(kind="account.blocked")
    assert (event.actor_kind, event.actor_id) == ("operator", boss.pk)
    assert event.actor_label == f"boss@example.com ({key})"


def test_it_opens_them_as_a_bearer(boss: User) -> None:
    _, secret = key_of(boss)

    assert with_key(secret).get(ABUSIVE).status_code == 200


def test_a_bearer_that_is_shown_is_the_one_that_counts(boss: User, amina: User) -> None:
    _, secret = key_of(boss)
    client = logged_in(amina)
    client.credentials(**client._credentials, HTTP_X_ADMIN_KEY=secret)

    assert code(client.get(ABUSIVE)) == (403, "permission_denied")


@pytest.mark.parametrize("header", ["X-Admin-Key", "X-Admin-Secret", "X-Api-Key"])
def test_a_wrong_secret_opens_nothing(boss: User, header: str) -> None:
    key_of(boss)

    status, told = code(with_header(header, "iaf_wrong-wrong-wrong-wrong").get(ABUSIVE))

    assert (status, told) in {(401, "invalid_api_key"), (401, "not_authenticated")}


def test_other_addresses_do_not_know_the_headers_and_not_the_scope(boss: User) -> None:
    _, secret = key_of(boss)

    assert code(with_header("X-Admin-Key", secret).get("/api/billing/me")) == (401, "not_authenticated")
    assert code(with_key(secret).get("/api/billing/me")) == (403, "insufficient_scope")
    assert code(with_key(secret).get("/api/keys")) == (403, "user_session_required")


def test_it_may_do_what_its_operator_may(clerk: User) -> None:
    customer = account_make()
    _, secret = key_of(clerk)

    listed = with_key(secret).get(ABUSIVE)
    banned = ban(with_key(secret), customer)

    assert (listed.status_code, code(banned)) == (200, (403, "permission_denied"))
    customer.refresh_from_db()
    assert customer.status == "active"


@pytest.mark.parametrize("change", [{"is_staff": False}, {"is_active": False}])
def test_it_ends_with_its_operators_office(boss: User, change: dict[str, bool]) -> None:
    _, secret = key_of(boss)

    User.objects.filter(pk=boss.pk).update(**change)

    assert code(with_key(secret).get(ABUSIVE)) == (403, "permission_denied")


def test_it_is_revoked_and_expires_as_other_keys(boss: User) -> None:
    key, secret = key_of(boss)
    api_key_revoke(key=key, actor=SYSTEM)
    _, short = key_of(boss, expires_at=clock.now() + timedelta(hours=1))

    with freeze_time(clock.now() + timedelta(hours=2)):
        late = code(with_key(short).get(ABUSIVE))

    assert code(with_key(secret).get(ABUSIVE)) == (401, "api_key_revoked")
    assert late == (401, "api_key_expired")


@pytest.mark.parametrize("header", ["Authorization", "X-Admin-Key", "X-Admin-Secret"])
def test_its_networks_hold_under_every_header(boss: User, header: str) -> None:
    _, secret = key_of(boss, allowed_networks=["192.0.2.0/24"])
    client = with_header(header, f"Bearer {secret}" if header == "Authorization" else secret)

    inside = client.get(ABUSIVE, REMOTE_ADDR="192.0.2.7")
    outside = client.get(ABUSIVE, REMOTE_ADDR="198.51.100.7")

    assert (inside.status_code, code(outside)) == (200, (403, "network_not_allowed"))


# --- Who may not make one ---


def test_customers_hold_none(amina: User, boss: User) -> None:
    account = Account.objects.get(personal_of=amina)

    for refused in (
        lambda: operator_key_create(user=amina, name="x", actor=by(boss)),
        lambda: api_key_create(account=account, created_by=boss, name="x", scopes=["admin"], actor=by(boss)),
        lambda: api_key_create(account=account, created_by=amina, name="x", scopes=["admin"], actor=user_actor(amina)),
    ):
        with pytest.raises(ApiError) as refusal:
            refused()
        assert (refusal.value.status, refusal.value.code) == (403, "scope_not_allowed")
    assert not ApiKey.objects.exists()


def test_customers_cannot_ask_for_one(amina: User) -> None:
    answer = logged_in(amina).post("/api/keys", {"name": "x", "scopes": ["admin"]}, format="json")

    assert answer.status_code in (400, 403)
    assert not ApiKey.objects.exists()


def test_an_organisation_holds_none(boss: User) -> None:
    team = Account.objects.create(kind="organisation", name="Team")

    with pytest.raises(ApiError):
        api_key_create(account=team, created_by=boss, name="x", scopes=["admin"], actor=by(boss))

    assert not ApiKey.objects.exists()


def test_an_operator_makes_none_of_a_mightier_one(boss: User, clerk: User) -> None:
    key_of(boss)

    with pytest.raises(ApiError) as refusal:
        operator_key_create(user=boss, name="x", actor=by(clerk))

    assert refusal.value.code == "scope_not_allowed"
    assert operator_key_create(user=clerk, name="x", actor=by(boss))[0].account.personal_of == clerk


def test_another_member_of_the_account_does_not_get_its_successor(boss: User, amina: User, person: Callable[..., User]) -> None:
    key, _ = key_of(boss)
    Membership.objects.create(account=key.account, user=amina, role=Membership.Role.OWNER)
    client = logged_in(amina)
    client.credentials(**client._credentials, HTTP_X_ACCOUNT=str(key.account_id))

    answer = client.post(f"/api/keys/{key.pk}/rotate", {}, format="json")
    own, _ = api_key_rotate(key=key, actor=user_actor(boss))

    assert code(answer) == (403, "scope_not_allowed")
    assert own.scopes == ["admin"]
