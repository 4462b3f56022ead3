"""Limits, allow lists, name and expiry that customers set on keys of their own."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts import services
from billing.accounts.models import Account, ApiKey, Membership, User
from billing.events.models import Event
from billing.events.services import SYSTEM

from .conftest import code, logged_in, refusal, with_key

NOBODY = "0199e1a0-0000-7000-8000-000000000000"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LIMITS: dict[str, Any] = {
    "requests_per_minute": 5,
    "tokens_per_minute": 1000,
    "concurrent_calls": 2,
    "daily_credits": 2.5,
    "monthly_credits": 40,
    "allowed_networks": ["10.0.0.0/8", "2001:db8::1"],
    "allowed_models": ["gpt-4o"],
    "allowed_endpoints": ["/v1/chat/completions", "/v1/models/gpt-4o"],
    "allowed_origins": ["https://app.example"],
}
NOTHING: dict[str, Any] = {name: [] if name.startswith("allowed_") else None for name in LIMITS}
WRONG = [
    ({"requests_per_minute": "5"}, "requests_per_minute"),
    ({"requests_per_minute": 5.0}, "requests_per_minute"),
    ({"requests_per_minute": True}, "requests_per_minute"),
    ({"requests_per_minute": -1}, "requests_per_minute"),
    ({"requests_per_minute": 2**31}, "requests_per_minute"),
    ({"tokens_per_minute": 2**31}, "tokens_per_minute"),
    ({"tokens_per_minute": []}, "tokens_per_minute"),
    ({"concurrent_calls": "many"}, "concurrent_calls"),
    ({"daily_credits": -1}, "daily_credits"),
    ({"daily_credits": True}, "daily_credits"),
    ({"daily_credits": "much"}, "daily_credits"),
    ({"daily_credits": "1\x00"}, "daily_credits"),
    ({"daily_credits": 0.0000001}, "daily_credits"),
    ({"daily_credits": 0.0000015}, "daily_credits"),
    ({"daily_credits": 1e300}, "daily_credits"),
    ({"monthly_credits": 1_000_000_000}, "monthly_credits"),
    ({"monthly_credits": [1]}, "monthly_credits"),
    ({"allowed_networks": None}, "allowed_networks"),
    ({"allowed_networks": "10.0.0.0/8"}, "allowed_networks"),
    ({"allowed_networks": {"10.0.0.0/8": 1}}, "allowed_networks"),
    ({"allowed_networks": [5]}, "allowed_networks.0"),
    ({"allowed_networks": ["here"]}, "allowed_networks"),
    ({"allowed_networks": ["10.0.0.0/33"]}, "allowed_networks"),
    ({"allowed_networks": ["10.0.0.1/8"]}, "allowed_networks"),
    ({"allowed_networks": ["fe80::1%eth0"]}, "allowed_networks"),
    ({"allowed_networks": ["10.0.0.0/8\x00"]}, "allowed_networks.0"),
    ({"allowed_networks": [f"10.0.{n}.0/24" for n in range(101)]}, "allowed_networks"),
    ({"allowed_models": [""]}, "allowed_models.0"),
    ({"allowed_models": ["x" * 201]}, "allowed_models.0"),
    ({"allowed_models": ["a", "b\x00"]}, "allowed_models.1"),
    ({"allowed_models": ["gpt-4o"] * 101}, "allowed_models"),
    ({"allowed_endpoints": ["/v1/nothing"]}, "allowed_endpoints"),
    ({"allowed_endpoints": ["v1/chat/completions"]}, "allowed_endpoints"),
    ({"allowed_endpoints": ["/v1/chat/completions/"]}, "allowed_endpoints"),
    ({"allowed_endpoints": ["/health"]}, "allowed_endpoints"),
    ({"allowed_endpoints": ["/api/keys"]}, "allowed_endpoints"),
    ({"allowed_endpoints": ["/v1/models/" + "x" * 60]}, "allowed_endpoints.0"),
    ({"allowed_origins": ["app.example"]}, "allowed_origins"),
    ({"allowed_origins": ["https://app.example/"]}, "allowed_origins"),
    ({"allowed_origins": ["https://app.example/path"]}, "allowed_origins"),
    ({"allowed_origins": ["https://user@app.example"]}, "allowed_origins"),
    ({"allowed_origins": ["https://*.example"]}, "allowed_origins"),
    ({"allowed_origins": ["https://app.example:0"]}, "allowed_origins"),
    ({"allowed_origins": ["https://app.example:65536"]}, "allowed_origins"),
    ({"allowed_origins": ["https://app.example:"]}, "allowed_origins"),
    ({"allowed_origins": ["https://[::g]"]}, "allowed_origins"),
    ({"allowed_origins": ["https://\u00e9t\u00e9.example"]}, "allowed_origins"),
    ({"allowed_origins": ["https://\u212aapp.example"]}, "allowed_origins"),
    ({"allowed_origins": ["null"]}, "allowed_origins"),
    ({"allowed_origins": ["*"]}, "allowed_origins"),
    ({"allowed_network": ["10.0.0.0/8"]}, "allowed_network"),
    ({"account": NOBODY}, "account"),
]


@pytest.fixture(autouse=True)
def _addresses(settings: Any) -> None:
    """Those of the whole product: endpoints are the gateway's."""
    settings.ROOT_URLCONF = "iafactory.urls"


@pytest.fixture
def key(amina: User) -> ApiKey:
    return key_of(amina)


def key_of(user: User, **fields: Any) -> ApiKey:
    fields = {"name": "Laptop", "account": user.personal_account} | fields
    return services.api_key_create(created_by=user, actor=services.user_actor(user), **fields)[0]


def change(user: User, key: ApiKey, body: Any, **headers: str) -> Any:
    return logged_in(user, **headers).patch(f"/api/keys/{key.pk}", body, format="json")


def events(key: ApiKey) -> list[Event]:
    return list(Event.objects.filter(object_id=str(key.pk)).exclude(kind="api_key.created").order_by("id"))


def stored(key: ApiKey) -> dict[str, Any]:
    key.refresh_from_db()
    return {name: getattr(key, name) for name in LIMITS}


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in LIMITS}


# --- Set and clear ---


def test_every_limit_is_set_at_once_with_one_event(amina: User, key: ApiKey) -> None:
    response = change(amina, key, LIMITS | {"name": "CI"})

    key.refresh_from_db()
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    assert shown(response.json()) == LIMITS
    assert stored(key) == LIMITS | {"daily_credits": Decimal("2.5"), "monthly_credits": Decimal(40)}
    assert (response.json()["name"], key.name) == ("CI", "CI")
    assert "secret" not in response.json()
    [event] = events(key)
    assert (event.kind, event.account_id, event.actor_id) == ("api_key.changed", amina.personal_account.pk, amina.pk)
    assert event.before == NOTHING | {"name": "Laptop"}
    assert event.after == LIMITS | {"name": "CI", "daily_credits": "2.5", "monthly_credits": "40"}


def test_list_and_detail_show_the_limits(amina: User, key: ApiKey) -> None:
    client = logged_in(amina)
    before = shown(client.get(f"/api/keys/{key.pk}").json())

    change(amina, key, LIMITS)

    assert before == NOTHING
    assert shown(client.get(f"/api/keys/{key.pk}/").json()) == LIMITS
    assert shown(client.get("/api/keys").json()["results"][0]) == LIMITS


def test_null_and_empty_lists_clear(amina: User, key: ApiKey) -> None:
    change(amina, key, LIMITS)

    response = change(amina, key, NOTHING)

    assert shown(response.json()) == NOTHING
    assert stored(key) == NOTHING
    assert [event.kind for event in events(key)] == ["api_key.changed"] * 2


def test_what_is_left_out_stays(amina: User, key: ApiKey) -> None:
    change(amina, key, LIMITS)

    response = change(amina, key, {"requests_per_minute": 9})

    assert shown(response.json()) == LIMITS | {"requests_per_minute": 9}
    assert events(key)[1].before == {"requests_per_minute": 5}
    assert events(key)[1].after == {"requests_per_minute": 9}


@pytest.mark.parametrize("body", [{}, LIMITS, {"daily_credits": "2.500000"}, {"name": "Laptop", "expires_at": None}])
def test_what_is_there_writes_nothing(amina: User, key: ApiKey, body: dict[str, Any]) -> None:
    change(amina, key, LIMITS)

    response = change(amina, key, body)

    assert (response.status_code, len(events(key))) == (200, 1)


@pytest.mark.parametrize("amount", [0, 0.000001, "0.000001", 0.5, "999999999.999999"])
def test_credits_are_exact(amina: User, key: ApiKey, amount: Any) -> None:
    response = change(amina, key, {"daily_credits": amount})

    key.refresh_from_db()
    assert response.status_code == 200
    assert key.daily_credits == Decimal(str(amount))


@pytest.mark.parametrize("rate", [0, 2**31 - 1])
def test_rates_reach_from_nothing_to_the_field_s_end(amina: User, key: ApiKey, rate: int) -> None:
    assert change(amina, key, {"requests_per_minute": rate}).json()["requests_per_minute"] == rate


@pytest.mark.parametrize(
    ("origin", "kept"),
    [
        ("https://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[0:0::1]:8000", "http://[::1]:8000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_are_kept_as_browsers_send_them(amina: User, key: ApiKey, origin: str, kept: str) -> None:
    assert change(amina, key, {"allowed_origins": [origin, kept]}).json()["allowed_origins"] == [kept]


def test_hundred_entries_are_taken_once_each(amina: User, key: ApiKey) -> None:
    names = [f"model-{n}" for n in range(99)]

    answer = change(amina, key, {"allowed_models": [*names, "model-0"]}).json()

    assert answer["allowed_models"] == names


# --- Refusals ---


@pytest.mark.parametrize(("body", "param"), WRONG)
def test_a_change_names_the_wrong_field(amina: User, key: ApiKey, body: dict[str, Any], param: str) -> None:
    response = change(amina, key, {"tokens_per_minute": 7} | body)

    assert refusal(response) == (400, "invalid_request", param)
    assert stored(key) == NOTHING
    assert events(key) == []


@pytest.mark.parametrize(("body", "param"), WRONG)
def test_a_creation_names_the_wrong_field(amina: User, body: dict[str, Any], param: str) -> None:
    response = logged_in(amina).post("/api/keys", {"name": "x"} | body, format="json")

    assert refusal(response) == (400, "invalid_request", param)
    assert not ApiKey.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"scopes": ["credits:admin"]}, "scopes"),
        ({"revoked_at": None}, "revoked_at"),
        ({"x" * 1000: 1}, "x" * 100),
    ],
)
def test_a_change_refuses_other_names_and_fields(amina: User, key: ApiKey, body: dict[str, Any], param: str) -> None:
    assert refusal(change(amina, key, body)) == (400, "invalid_request", param)
    assert events(key) == []


@pytest.mark.parametrize("body", [[], "x", 5])
def test_a_body_that_is_no_object_is_refused(amina: User, key: ApiKey, body: Any) -> None:
    assert code(change(amina, key, body)) in [(400, "invalid_request"), (400, "invalid_json")]
    assert events(key) == []


def test_a_revoked_key_does_not_change(amina: User, key: ApiKey) -> None:
    services.api_key_revoke(key=key, actor=SYSTEM)

    response = change(amina, key, LIMITS)

    assert code(response) == (409, "api_key_revoked")
    assert stored(key) == NOTHING


def test_an_expired_key_does_not_change(amina: User) -> None:
    with freeze_time(NOON):
        key = key_of(amina, expires_at=NOON + timedelta(hours=1))
    with freeze_time(NOON + timedelta(hours=1)):
        response = change(amina, key, LIMITS)

    assert code(response) == (409, "api_key_expired")
    assert stored(key) == NOTHING


# --- Who may ---


@pytest.mark.parametrize("path", ["/api/keys/{}", "/api/keys/{}/"])
def test_somebody_elses_key_is_not_found(amina: User, boris: User, path: str) -> None:
    key = key_of(boris)

    response = logged_in(amina).patch(path.format(key.pk), LIMITS, format="json")

    assert code(response) == (404, "not_found")
    assert (stored(key), events(key)) == (NOTHING, [])


@pytest.mark.parametrize("key_id", [NOBODY, "nonsense", "%00"])
def test_id_of_nothing_is_not_found(amina: User, key_id: str) -> None:
    assert code(logged_in(amina).patch(f"/api/keys/{key_id}", {}, format="json")) == (404, "not_found")


def test_a_key_changes_no_key(amina: User) -> None:
    key, secret = services.api_key_create(account=amina.personal_account, created_by=amina, name="x", actor=SYSTEM)

    anonymous = APIClient().patch(f"/api/keys/{key.pk}", LIMITS, format="json")
    by_key = with_key(secret).patch(f"/api/keys/{key.pk}", LIMITS, format="json")

    assert code(anonymous) == (401, "not_authenticated")
    assert code(by_key) == (403, "user_session_required")
    assert stored(key) == NOTHING


@pytest.fixture
def atlas(amina: User, boris: User) -> Account:
    """An organisation that Amina owns and Boris belongs to."""
    account = Account.objects.create(name="Atlas", kind=Account.Kind.ORGANISATION)
    Membership.objects.create(account=account, user=amina, role=Membership.Role.OWNER)
    Membership.objects.create(account=account, user=boris, role=Membership.Role.MEMBER)
    return account


def test_a_member_changes_their_own_key_only(amina: User, boris: User, atlas: Account) -> None:
    owners, members = key_of(amina, account=atlas), key_of(boris, account=atlas)

    refused = change(boris, owners, LIMITS, HTTP_X_ACCOUNT=str(atlas.pk))
    own = change(boris, members, {"requests_per_minute": 1}, HTTP_X_ACCOUNT=str(atlas.pk))
    by_owner = change(amina, members, {"requests_per_minute": 2}, HTTP_X_ACCOUNT=str(atlas.pk))

    assert code(refused) == (403, "owner_required")
    assert stored(owners) == NOTHING
    assert (own.status_code, by_owner.status_code) == (200, 200)
    assert stored(members)["requests_per_minute"] == 2


# --- Expiry ---


@pytest.mark.parametrize(
    ("has", "wanted", "kept"),
    [
        (None, "2026-11-20T13:00:00Z", "2026-11-20T13:00:00Z"),
        ("2026-11-21T12:00:00Z", "2026-11-20T13:00:00+00:00", "2026-11-20T13:00:00Z"),
        ("2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z"),
        (None, None, None),
    ],
)
def test_an_expiry_is_set_or_brought_forward(amina: User, has: str | None, wanted: str | None, kept: str | None) -> None:
    with freeze_time(NOON):
        key = key_of(amina, expires_at=has and datetime.fromisoformat(has))
        answer = change(amina, key, {"expires_at": wanted}).json()

    assert answer["expires_at"] == kept
    assert len(events(key)) == (has != kept)


@pytest.mark.parametrize(
    ("has", "wanted"),
    [
        ("2026-11-21T12:00:00Z", "2026-11-21T12:00:01Z"),
        ("2026-11-21T12:00:00Z", None),
        ("2026-11-21T12:00:00Z", "2026-11-20T12:00:00Z"),
        (None, "2026-11-20T12:00:00Z"),
        (None, "tomorrow"),
        (None, 5),
        (None, "9999-12-31T23:59:59-23:00"),
    ],
)
def test_an_expiry_is_neither_put_off_nor_taken_away_nor_past(amina: User, has: str | None, wanted: Any) -> None:
    with freeze_time(NOON):
        key = key_of(amina, expires_at=has and datetime.fromisoformat(has))
        response = change(amina, key, {"expires_at": wanted, "requests_per_minute": 5})

    assert refusal(response) == (400, "invalid_request", "expires_at")
    assert stored(key) == NOTHING
    assert events(key) == []


# --- Create and rotate ---


def test_a_key_is_born_with_limits(amina: User) -> None:
    response = logged_in(amina).post("/api/keys", LIMITS | {"name": "CI"}, format="json")

    key = ApiKey.objects.get()
    event = Event.objects.get()
    assert response.status_code == 201
    assert shown(response.json()) == LIMITS
    assert stored(key) == LIMITS | {"daily_credits": Decimal("2.5"), "monthly_credits": Decimal(40)}
    assert (event.kind, event.after["requests_per_minute"], event.after["daily_credits"]) == ("api_key.created", 5, "2.5")
    assert event.after["allowed_networks"] == LIMITS["allowed_networks"]


def test_a_key_without_limits_tells_none(amina: User) -> None:
    response = logged_in(amina).post("/api/keys", NOTHING | {"name": "CI"}, format="json")

    assert shown(response.json()) == NOTHING
    assert set(Event.objects.get().after) == {"name", "scopes", "prefix", "expires_at"}


def test_rotation_carries_limits_over(amina: User, key: ApiKey) -> None:
    change(amina, key, LIMITS)

    answer = logged_in(amina).post(f"/api/keys/{key.pk}/rotate").json()

    successor = ApiKey.objects.get(pk=answer["id"])
    assert shown(answer) == LIMITS
    assert stored(successor) == stored(key) == LIMITS | {"daily_credits": Decimal("2.5"), "monthly_credits": Decimal(40)}
    assert Event.objects.get(object_id=answer["id"]).after["allowed_models"] == ["gpt-4o"]


def test_an_entry_that_is_no_longer_known_stands_in_nobodys_way(amina: User, key: ApiKey) -> None:
    ApiKey.objects.filter(pk=key.pk).update(allowed_endpoints=["/v1/retired"])

    changed = change(amina, key, {"allowed_endpoints": ["/v1/retired"], "requests_per_minute": 3})
    rotated = logged_in(amina).post(f"/api/keys/{key.pk}/rotate")

    assert (changed.status_code, rotated.status_code) == (200, 201)
    assert rotated.json()["allowed_endpoints"] == ["/v1/retired"]


@pytest.mark.django_db(transaction=True)
def test_parallel_changes_lose_none_and_tell_each(amina: User, key: ApiKey) -> None:
    barrier = threading.Barrier(4)
    fields = ["requests_per_minute", "tokens_per_minute", "concurrent_calls", "monthly_credits"]

    def run(field: str) -> None:
        barrier.wait()
        change(amina, key, {field: 3})
        connection.close()

    threads = [threading.Thread(target=run, args=[field]) for field in fields]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert stored(key) == NOTHING | dict.fromkeys(fields, 3)
    assert sorted(next(iter(event.after)) for event in events(key)) == sorted(fields)


# --- The service, behind every door ---


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        ({"daily_credits": Decimal(-1)}, "daily_credits"),
        ({"daily_credits": Decimal("1000000000")}, "daily_credits"),
        ({"daily_credits": Decimal("NaN")}, "daily_credits"),
        ({"allowed_models": ["a\x00"]}, "allowed_models"),
        ({"allowed_models": [5]}, "allowed_models"),
        ({"allowed_models": ["m"] * 101}, "allowed_models"),
        ({"allowed_origins": ["app.example"]}, "allowed_origins"),
        ({"allowed_endpoints": ["/admin/"]}, "allowed_endpoints"),
    ],
)
def test_operators_meet_the_same_bounds(key: ApiKey, limits: dict[str, Any], param: str) -> None:
    with pytest.raises(services.ApiError) as refused:
        services.api_key_limits_set(key=key, actor=SYSTEM, **limits)

    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_request", param)
    assert stored(key) == NOTHING


def test_other_fields_are_neither_created_nor_changed(amina: User, key: ApiKey) -> None:
    with pytest.raises(TypeError, match="revoked_at"):
        services.api_key_change(key=key, actor=SYSTEM, revoked_at=None)
    with pytest.raises(TypeError, match="last_four"):
        services.api_key_create(account=amina.personal_account, created_by=None, name="x", actor=SYSTEM, last_four="0000")
