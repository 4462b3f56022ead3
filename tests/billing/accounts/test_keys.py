"""`/api/keys*`."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts import services
from billing.accounts.models import Account, ApiKey, Membership, User
from billing.events.models import Event
from billing.events.services import SYSTEM, Actor
from iafactory.common.errors import ApiError

from .conftest import code, logged_in, refusal, with_key

NOBODY = "0199e1a0-0000-7000-8000-000000000000"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
CUSTOMER_SCOPES = ["inference", "billing:read"]


def key_of(user: User, **fields: Any) -> tuple[ApiKey, str]:
    fields = {"name": "Laptop", "account": user.personal_account} | fields
    return services.api_key_create(created_by=user, actor=services.user_actor(user), **fields)


def kinds(key: ApiKey) -> list[str]:
    return list(Event.objects.filter(object_id=str(key.pk)).order_by("id").values_list("kind", flat=True))


@pytest.fixture
def atlas(amina: User, boris: User) -> Account:
    """An organisation that Amina owns and Boris belongs to."""
    account = Account.objects.create(name="Atlas", kind=Account.Kind.ORGANISATION)
    Membership.objects.create(account=account, user=amina, role=Membership.Role.OWNER)
    Membership.objects.create(account=account, user=boris, role=Membership.Role.MEMBER)
    return account


# --- Create ---


def test_new_key_shows_its_secret_once(amina: User) -> None:
    client = logged_in(amina)

    response = client.post("/api/keys", {"name": "Laptop"}, format="json")

    answer = response.json()
    secret = answer["secret"]
    key = ApiKey.objects.get()
    assert response.status_code == 201
    assert response["Cache-Control"] == "no-store"
    assert secret.startswith("iaf_")
    assert len(secret) == 47
    assert answer["id"] == str(key.pk)
    assert (answer["name"], answer["state"], answer["scopes"]) == ("Laptop", "active", CUSTOMER_SCOPES)
    assert (answer["prefix"], answer["last_four"]) == (secret[:10], secret[-4:])
    assert answer["created_by"] == str(amina.pk)
    assert (key.account, key.created_by, key.expires_at) == (amina.personal_account, amina, None)
    assert key.key_hash == hashlib.sha256(secret.encode()).hexdigest()
    assert kinds(key) == ["api_key.created"]
    assert secret not in client.get("/api/keys").content.decode()
    assert secret not in client.get(f"/api/keys/{key.pk}").content.decode()
    assert "key_hash" not in client.get("/api/keys").content.decode()


def test_secret_is_nowhere_in_the_database(amina: User) -> None:
    _, secret = key_of(amina)

    with connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT string_agg(k::text, '') FROM billing_apikey k)")
        keys = cursor.fetchone()[0]
        cursor.execute("SELECT (SELECT string_agg(e::text, '') FROM billing_event e)")
        events = cursor.fetchone()[0]

    assert secret[10:] not in keys + events
    assert secret[10:43] not in keys + events


def test_secrets_differ(amina: User) -> None:
    assert key_of(amina)[1] != key_of(amina)[1]


def test_key_takes_scopes_and_expiry(amina: User) -> None:
    body = {"name": "CI", "scopes": ["billing:read", "billing:read"], "expires_at": "2099-01-01T00:00:00+01:00"}

    answer = logged_in(amina).post("/api/keys/", body, format="json").json()

    assert answer["scopes"] == ["billing:read"]
    assert answer["expires_at"] == "2098-12-31T23:00:00Z"
    assert ApiKey.objects.get().expires_at == datetime(2098, 12, 31, 23, tzinfo=UTC)


@pytest.mark.parametrize("scope", ["credits:read", "credits:write", "credits:admin"])
def test_customer_cannot_give_service_scopes(amina: User, scope: str) -> None:
    response = logged_in(amina).post("/api/keys", {"name": "x", "scopes": ["inference", scope]}, format="json")

    assert refusal(response) == (403, "scope_not_allowed", "scopes")
    assert not ApiKey.objects.exists()
    assert not Event.objects.exists()


def test_operator_gives_service_scopes(amina: User) -> None:
    operator = Actor(Event.ActorKind.OPERATOR, label="root@example.com")

    key, _ = key_of(amina) and services.api_key_create(
        account=amina.personal_account, created_by=None, name="RAG", scopes=["credits:write"], actor=operator
    )

    assert key.scopes == ["credits:write"]


def test_known_secret_is_kept(amina: User) -> None:
    secret = "iaf_demo_0123456789abcdef0123456789"

    key, returned = services.api_key_create(
        account=amina.personal_account, created_by=None, name="Demo", actor=SYSTEM, secret=secret
    )

    assert returned == secret
    assert (key.prefix, key.last_four) == ("iaf_demo_0", "6789")
    assert with_key(secret).get("/api/keys").status_code == 403


@pytest.mark.parametrize("secret", ["sk_0123456789012345678901234567890", "iaf_short", ""])
def test_weak_known_secret_is_refused(amina: User, secret: str) -> None:
    with pytest.raises(ApiError, match="A secret starts with iaf_"):
        services.api_key_create(account=amina.personal_account, created_by=None, name="Demo", actor=SYSTEM, secret=secret)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": 5}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"name": "x", "scopes": "inference"}, "scopes"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": None}, "scopes"),
        ({"name": "x", "scopes": [["inference"]]}, "scopes.0"),
        ({"name": "x", "scopes": [5]}, "scopes.0"),
        ({"name": "x", "scopes": ["everything"]}, "scopes.0"),
        ({"name": "x", "scopes": ["inference"] * 11}, "scopes"),
        ({"name": "x", "expires_at": 5}, "expires_at"),
        ({"name": "x", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "expires_at": "9999-12-31T23:59:59-23:00"}, "expires_at"),
    ],
)
def test_create_names_the_wrong_field(amina: User, body: dict[str, Any], param: str) -> None:
    response = logged_in(amina).post("/api/keys", body, format="json")

    assert refusal(response) == (400, "invalid_request", param)
    assert not ApiKey.objects.exists()


def test_body_that_is_a_list_is_refused(amina: User) -> None:
    assert code(logged_in(amina).post("/api/keys", [], format="json")) == (400, "invalid_request")


def test_hundred_active_keys_are_enough(amina: User) -> None:
    keys = [key_of(amina)[0] for _ in range(100)]
    client = logged_in(amina)

    refused = client.post("/api/keys", {"name": "x"}, format="json")
    rotated = client.post(f"/api/keys/{keys[0].pk}/rotate", {}, format="json")
    client.delete(f"/api/keys/{keys[1].pk}")
    client.delete(f"/api/keys/{keys[2].pk}")
    accepted = client.post("/api/keys", {"name": "x"}, format="json")

    assert code(refused) == (409, "too_many_keys")
    assert rotated.status_code == 201
    assert accepted.status_code == 201


@pytest.mark.django_db(transaction=True)
def test_parallel_creations_do_not_pass_the_limit(amina: User) -> None:
    for _ in range(98):
        key_of(amina)
    client_token = logged_in(amina)._credentials["HTTP_AUTHORIZATION"]
    barrier = threading.Barrier(6)
    statuses: list[int] = []

    def create() -> None:
        barrier.wait()
        response = APIClient().post("/api/keys", {"name": "x"}, format="json", HTTP_AUTHORIZATION=client_token)
        statuses.append(response.status_code)
        connection.close()

    threads = [threading.Thread(target=create) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(statuses) == [201, 201, 409, 409, 409, 409]
    assert ApiKey.objects.count() == 100


def test_blocked_account_gets_no_key(amina: User) -> None:
    services.account_block(account=amina.personal_account, reason="abuse", actor=SYSTEM)

    response = logged_in(amina).post("/api/keys", {"name": "x"}, format="json")

    assert code(response) == (403, "account_blocked")
    assert not ApiKey.objects.exists()


# --- List and read ---


def test_list_shows_this_account_only_newest_first(amina: User, boris: User) -> None:
    first, _ = key_of(amina, name="first")
    second, _ = key_of(amina, name="second")
    key_of(boris)

    answer = logged_in(amina).get("/api/keys/").json()

    assert set(answer) == {"count", "next", "previous", "results"}
    assert answer["count"] == 2
    assert [key["id"] for key in answer["results"]] == [str(second.pk), str(first.pk)]
    assert set(answer["results"][0]) == {
        "id",
        "name",
        "prefix",
        "last_four",
        "scopes",
        "state",
        "created_at",
        "created_by",
        "expires_at",
        "revoked_at",
        "last_used_at",
        "replaced_by",
        "requests_per_minute",
        "tokens_per_minute",
        "concurrent_calls",
        "daily_credits",
        "monthly_credits",
        "allowed_networks",
        "allowed_models",
        "allowed_endpoints",
        "allowed_origins",
    }


def test_list_comes_in_pages(amina: User) -> None:
    keys = [key_of(amina, name=str(n))[0] for n in range(3)]

    answer = logged_in(amina).get("/api/keys?page=2&page_size=2").json()

    assert (answer["count"], [key["id"] for key in answer["results"]]) == (3, [str(keys[0].pk)])


@pytest.mark.parametrize("page", ["0", "7", "x", "99999999999999999999999"])
def test_page_that_does_not_exist_is_not_found(amina: User, page: str) -> None:
    assert code(logged_in(amina).get("/api/keys", {"page": page})) == (404, "not_found")


@pytest.mark.parametrize(("state", "expected"), [("active", "a"), ("revoked", "r"), ("expired", "e")])
def test_list_filters_by_state(amina: User, state: str, expected: str) -> None:
    with freeze_time("2026-11-20 12:00:00"):
        key_of(amina, name="a", expires_at=NOON + timedelta(hours=2))
        key_of(amina, name="e", expires_at=NOON + timedelta(hours=1))
        revoked, _ = key_of(amina, name="r", expires_at=NOON + timedelta(hours=1))
        services.api_key_revoke(key=revoked, actor=SYSTEM)

    with freeze_time("2026-11-20 13:00:00"):
        answer = logged_in(amina).get("/api/keys", {"state": state}).json()

    assert [(key["name"], key["state"]) for key in answer["results"]] == [(expected, state)]


@pytest.mark.parametrize("state", ["all", "a\x00", "5"])
def test_unknown_state_is_refused(amina: User, state: str) -> None:
    assert refusal(logged_in(amina).get("/api/keys", {"state": state})) == (400, "invalid_request", "state")


def test_list_costs_the_same_queries_for_two_keys_and_twenty(amina: User, django_assert_num_queries: Any) -> None:
    [key_of(amina) for _ in range(20)]
    client = logged_in(amina)

    with django_assert_num_queries(4):
        client.get("/api/keys?page_size=2")
    with django_assert_num_queries(4):
        client.get("/api/keys?page_size=20")


def test_key_is_read_by_id(amina: User) -> None:
    key, _ = key_of(amina)

    answer = logged_in(amina).get(f"/api/keys/{key.pk}/").json()

    assert (answer["id"], answer["name"]) == (str(key.pk), "Laptop")


# --- Somebody else's, nobody's, nonsense ---


@pytest.mark.parametrize(
    ("method", "suffix"), [("get", ""), ("delete", ""), ("post", "/rotate"), ("get", "/"), ("delete", "/")]
)
def test_somebody_elses_key_is_not_found(amina: User, boris: User, method: str, suffix: str) -> None:
    key, secret = key_of(boris)

    response = getattr(logged_in(amina), method)(f"/api/keys/{key.pk}{suffix}")

    key.refresh_from_db()
    assert code(response) == (404, "not_found")
    assert (key.revoked_at, key.replaced_by, ApiKey.objects.count()) == (None, None, 1)
    assert kinds(key) == ["api_key.created"]
    assert with_key(secret).get("/api/auth/me").status_code == 403


@pytest.mark.parametrize("key_id", [NOBODY, "nonsense", "1", "%00", "..", "x" * 500])
@pytest.mark.parametrize(("method", "suffix"), [("get", ""), ("delete", ""), ("post", "/rotate")])
def test_id_of_nothing_is_not_found(amina: User, method: str, suffix: str, key_id: str) -> None:
    response = getattr(logged_in(amina), method)(f"/api/keys/{key_id}{suffix}")

    assert code(response) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("get", "/api/keys"),
        ("post", "/api/keys"),
        ("get", f"/api/keys/{NOBODY}"),
        ("delete", f"/api/keys/{NOBODY}"),
        ("post", f"/api/keys/{NOBODY}/rotate"),
        ("get", "/api/auth/me"),
        ("post", "/api/auth/verify-email/resend"),
    ],
)
def test_keys_cannot_manage_keys_or_users(amina: User, method: str, address: str) -> None:
    key, secret = key_of(amina)
    real = address.replace(NOBODY, str(key.pk))

    anonymous = getattr(APIClient(), method)(real)
    by_key = getattr(with_key(secret), method)(real)

    key.refresh_from_db()
    assert code(anonymous) == (401, "not_authenticated")
    assert code(by_key) == (403, "user_session_required")
    assert (key.revoked_at, key.replaced_by, ApiKey.objects.count()) == (None, None, 1)


# --- Members ---


def test_member_sees_all_keys_and_makes_their_own(amina: User, boris: User, atlas: Account) -> None:
    owners, _ = key_of(amina, account=atlas)
    client = logged_in(boris, HTTP_X_ACCOUNT=str(atlas.pk))

    created = client.post("/api/keys", {"name": "mine"}, format="json")
    listed = client.get("/api/keys").json()["results"]

    assert created.status_code == 201
    assert ApiKey.objects.get(name="mine").account == atlas
    assert [key["id"] for key in listed] == [created.json()["id"], str(owners.pk)]
    assert client.get(f"/api/keys/{owners.pk}").status_code == 200
    assert client.post(f"/api/keys/{created.json()['id']}/rotate").status_code == 201
    assert client.delete(f"/api/keys/{created.json()['id']}").status_code == 204


@pytest.mark.parametrize(("method", "suffix"), [("delete", ""), ("post", "/rotate")])
def test_member_may_not_change_other_peoples_keys(amina: User, boris: User, atlas: Account, method: str, suffix: str) -> None:
    key, _ = key_of(amina, account=atlas)

    response = getattr(logged_in(boris, HTTP_X_ACCOUNT=str(atlas.pk)), method)(f"/api/keys/{key.pk}{suffix}")

    key.refresh_from_db()
    assert code(response) == (403, "owner_required")
    assert (key.revoked_at, key.replaced_by) == (None, None)
    assert kinds(key) == ["api_key.created"]


def test_owner_may_change_members_keys(amina: User, boris: User, atlas: Account) -> None:
    key, _ = key_of(boris, account=atlas)
    client = logged_in(amina, HTTP_X_ACCOUNT=str(atlas.pk))

    rotated = client.post(f"/api/keys/{key.pk}/rotate")
    revoked = client.delete(f"/api/keys/{key.pk}")

    assert (rotated.status_code, revoked.status_code) == (201, 204)
    assert rotated.json()["created_by"] == str(boris.pk)


# --- Revoke ---


def test_revoked_key_opens_nothing(amina: User) -> None:
    key, secret = key_of(amina)
    client = logged_in(amina)

    response = client.delete(f"/api/keys/{key.pk}")

    assert (response.status_code, response.content) == (204, b"")
    assert code(with_key(secret).get("/api/auth/me")) == (401, "api_key_revoked")
    assert client.get(f"/api/keys/{key.pk}").json()["state"] == "revoked"


def test_revoking_again_keeps_the_first_instant(amina: User) -> None:
    key, _ = key_of(amina)
    client = logged_in(amina)
    client.delete(f"/api/keys/{key.pk}")
    key.refresh_from_db()
    first = key.revoked_at

    again = client.delete(f"/api/keys/{key.pk}")

    key.refresh_from_db()
    assert again.status_code == 204
    assert key.revoked_at == first
    assert kinds(key) == ["api_key.created", "api_key.revoked"]


def test_revoking_keeps_the_reason(amina: User) -> None:
    key, _ = key_of(amina)

    services.api_key_revoke(key=key, actor=SYSTEM, reason="leaked")

    event = Event.objects.get(kind="api_key.revoked")
    assert (event.reason, event.actor_kind, event.account_id) == ("leaked", "system", amina.personal_account.pk)


# --- Rotate ---


def rotate(user: User, key: ApiKey, **body: Any) -> Any:
    return logged_in(user).post(f"/api/keys/{key.pk}/rotate", body, format="json")


def test_rotation_leaves_the_old_key_a_day(amina: User) -> None:
    with freeze_time(NOON):
        key, old = key_of(amina, name="CI", scopes=["inference"])
        response = rotate(amina, key)
        answer = response.json()
        now = [code(with_key(secret).get("/api/auth/me")) for secret in (old, answer["secret"])]
    with freeze_time(NOON + timedelta(hours=23, minutes=59, seconds=59)):
        before = code(with_key(old).get("/api/auth/me"))
    with freeze_time(NOON + timedelta(hours=24)):
        after = [code(with_key(secret).get("/api/auth/me")) for secret in (old, answer["secret"])]

    key.refresh_from_db()
    successor = ApiKey.objects.get(pk=answer["id"])
    assert response.status_code == 201
    assert answer["secret"] != old
    assert (successor.name, successor.scopes, successor.expires_at) == ("CI", ["inference"], None)
    assert (successor.account, successor.created_by) == (amina.personal_account, amina)
    assert (key.replaced_by, key.expires_at) == (successor, NOON + timedelta(days=1))
    assert now == [(403, "user_session_required")] * 2
    assert before == (403, "user_session_required")
    assert after == [(401, "api_key_expired"), (403, "user_session_required")]
    assert kinds(key) == ["api_key.created", "api_key.rotated"]
    assert kinds(successor) == ["api_key.created"]


def test_rotation_without_grace_ends_the_old_key_at_once(amina: User) -> None:
    with freeze_time(NOON):
        key, old = key_of(amina)
        answer = rotate(amina, key, grace_seconds=0).json()

        assert code(with_key(old).get("/api/auth/me")) == (401, "api_key_expired")
        assert code(with_key(answer["secret"]).get("/api/auth/me")) == (403, "user_session_required")


def test_rotation_never_prolongs_a_key(amina: User) -> None:
    with freeze_time(NOON):
        key, _ = key_of(amina, expires_at=NOON + timedelta(hours=1))
        answer = rotate(amina, key).json()

    key.refresh_from_db()
    assert key.expires_at == NOON + timedelta(hours=1)
    assert answer["expires_at"] == "2026-11-20T13:00:00Z"


def test_key_rotates_once(amina: User) -> None:
    key, _ = key_of(amina)
    rotate(amina, key)

    again = rotate(amina, key)

    assert code(again) == (409, "api_key_already_rotated")
    assert ApiKey.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_one_of_many_parallel_rotations_wins(amina: User) -> None:
    key, _ = key_of(amina)
    barrier = threading.Barrier(6)
    statuses: list[int] = []

    def run() -> None:
        barrier.wait()
        statuses.append(rotate(amina, key).status_code)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(statuses) == [201, *[409] * 5]
    assert ApiKey.objects.count() == 2


def test_revoked_key_does_not_rotate(amina: User) -> None:
    key, _ = key_of(amina)
    services.api_key_revoke(key=key, actor=SYSTEM)

    assert code(rotate(amina, key)) == (409, "api_key_revoked")
    assert ApiKey.objects.count() == 1


def test_expired_key_does_not_rotate(amina: User) -> None:
    with freeze_time(NOON):
        key, _ = key_of(amina, expires_at=NOON + timedelta(hours=1))
    with freeze_time(NOON + timedelta(hours=1)):
        response = rotate(amina, key)

    assert code(response) == (409, "api_key_expired")
    assert ApiKey.objects.count() == 1


def test_key_of_a_blocked_account_does_not_rotate(amina: User) -> None:
    key, _ = key_of(amina)
    services.account_block(account=amina.personal_account, reason="abuse", actor=SYSTEM)

    assert code(rotate(amina, key)) == (403, "account_blocked")
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("grace", [-1, 604_801, "3600", 1.5, True, None, [], 10**30])
def test_wrong_grace_is_named(amina: User, grace: Any) -> None:
    key, _ = key_of(amina)

    response = rotate(amina, key, grace_seconds=grace)

    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_request", "invalid_json")
    assert ApiKey.objects.count() == 1
