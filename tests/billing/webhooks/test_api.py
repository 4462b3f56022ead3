"""`/api/billing/webhooks*`: owners manage, members read, strangers find nothing, and a secret is seen once."""

import json
from datetime import timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing.accounts.models import Account, Membership, User
from billing.accounts.services import api_key_create, user_actor
from billing.accounts.tokens import session_tokens
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.webhooks import services
from billing.webhooks.catalogue import CATALOGUE
from billing.webhooks.models import WebhookDelivery, WebhookEndpoint
from iafactory.common import clock
from tests.factories import account_make

from .conftest import Register, fan_out, key_made, pass_on
from .receiver import Receiver

pytestmark = pytest.mark.django_db

BASE = "/api/billing/webhooks"
NOBODY = "0199e1a0-0000-7000-8000-000000000000"
GOOD = {"url": "https://hooks.example.com/in", "event_types": ["key.created", "credits.low"]}


@pytest.fixture(autouse=True)
def _addresses(settings: Any) -> None:
    settings.ROOT_URLCONF = "billing.urls"


def logged_in(user: User, account: Account | None = None) -> APIClient:
    client = APIClient()
    headers = {"HTTP_AUTHORIZATION": f"Bearer {session_tokens(user).access_token}"}
    client.credentials(**headers, **({"HTTP_X_ACCOUNT": str(account.pk)} if account else {}))
    return client


@pytest.fixture
def owner(account: Account) -> APIClient:
    return logged_in(account.personal_of)


@pytest.fixture
def member(account: Account) -> APIClient:
    user = User.objects.create_user("member@example.com", "correct horse battery")
    Membership.objects.create(account=account, user=user, role=Membership.Role.MEMBER)
    return logged_in(user, account)


@pytest.fixture
def stranger(db: None) -> APIClient:
    return logged_in(account_make().personal_of)


def refusal(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_an_endpoint_is_made_read_changed_and_forgotten(owner: APIClient) -> None:
    made = owner.post(BASE, GOOD | {"description": "books"}, format="json")
    address = f"{BASE}/{made.json()['id']}"
    listed = owner.get(BASE).json()
    changed = owner.patch(address, {"event_types": ["key.revoked"], "description": ""}, format="json")
    read = owner.get(address).json()
    deleted = owner.delete(address)

    assert made.status_code == 201
    assert made.json()["secret"].startswith("whsec_")
    assert made["cache-control"] == "no-store"
    assert [row["id"] for row in listed["results"]] == [made.json()["id"]]
    assert "secret" not in json.dumps(listed).replace("previous_secret_until", "")
    assert changed.status_code == 200
    assert (read["event_types"], read["description"], read["url"]) == (["key.revoked"], "", GOOD["url"])
    assert (deleted.status_code, refusal(owner.get(address))) == (204, (404, "not_found"))
    kinds = Event.objects.filter(object_type="webhook_endpoint").order_by("id").values_list("kind", flat=True)
    assert list(kinds) == ["webhook_endpoint.created", "webhook_endpoint.changed", "webhook_endpoint.deleted"]


def test_secrets_are_encrypted_at_rest_and_in_no_event(owner: APIClient, account: Account) -> None:
    secret = owner.post(BASE, GOOD, format="json").json()["secret"]
    endpoint = WebhookEndpoint.objects.get()
    rotated = owner.post(f"{BASE}/{endpoint.pk}/rotate-secret", {}, format="json").json()["secret"]

    stored = WebhookEndpoint.objects.extra(select={"raw": "secret", "raw_previous": "previous_secret"}).get()
    events = json.dumps(list(Event.objects.values("before", "after", "reason")))

    endpoint.refresh_from_db()
    assert (endpoint.secret, endpoint.previous_secret) == (rotated, secret)
    assert secret != rotated
    assert (stored.raw == rotated, stored.raw_previous == secret) == (False, False)
    assert (secret in events, rotated in events) == (False, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://169.254.169.254/"}, "url"),
        ({"url": 7}, "url"),
        ({"url": None}, "url"),
        ({"event_types": []}, "event_types"),
        ({"event_types": ["key.exploded"]}, "event_types"),
        ({"event_types": "key.created"}, "event_types"),
        ({"events": ["key.created"]}, "events"),
        ({"description": "x" * 201}, "description"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_made(owner: APIClient, fields: dict[str, Any], param: str) -> None:
    response = owner.post(BASE, GOOD | fields, format="json")

    assert refusal(response) == (400, "invalid_request")
    assert response.json()["error"]["param"] == param
    assert (WebhookEndpoint.objects.count(), Event.objects.filter(object_type="webhook_endpoint").count()) == (0, 0)


def test_a_change_to_a_forbidden_address_is_refused(owner: APIClient, register: Register) -> None:
    endpoint = register()

    response = owner.patch(f"{BASE}/{endpoint.pk}", {"url": "https://10.0.0.1/"}, format="json")

    before = endpoint.url
    endpoint.refresh_from_db()
    assert refusal(response) == (400, "invalid_request")
    assert endpoint.url == before


CALLS = [
    ("get", ""),
    ("patch", ""),
    ("delete", ""),
    ("post", "/rotate-secret"),
    ("post", "/test"),
    ("post", "/replay"),
    ("get", "/deliveries"),
    ("get", f"/deliveries/{NOBODY}"),
    ("post", f"/deliveries/{NOBODY}/replay"),
]
BODY = {"since": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_somebody_elses_endpoint_is_not_found(stranger: APIClient, register: Register, method: str, path: str) -> None:
    endpoint = register()
    body = BODY if path == "/replay" else {}

    answer = getattr(stranger, method)(f"{BASE}/{endpoint.pk}{path}", body if method != "get" else None, format="json")

    assert refusal(answer) == (404, "not_found")
    assert WebhookEndpoint.objects.filter(pk=endpoint.pk, secret__isnull=False).count() == 1
    assert WebhookDelivery.objects.count() == 0


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_a_session_nothing_opens(register: Register, account: Account, method: str, path: str) -> None:
    endpoint = register()
    _, secret = api_key_create(account=account, created_by=None, name="key", actor=SYSTEM)
    keyed = APIClient()
    keyed.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")

    nobody = getattr(APIClient(), method)(f"{BASE}/{endpoint.pk}{path}")
    with_key = getattr(keyed, method)(f"{BASE}/{endpoint.pk}{path}")

    assert nobody.status_code == 401
    assert refusal(with_key) == (403, "user_session_required")


def test_members_read_and_only_owners_change(member: APIClient, register: Register) -> None:
    endpoint = register()
    address = f"{BASE}/{endpoint.pk}"

    read = [member.get(BASE), member.get(address), member.get(f"{address}/deliveries")]
    refused = [
        member.post(BASE, GOOD, format="json"),
        member.patch(address, {"description": "mine"}, format="json"),
        member.delete(address),
        member.post(f"{address}/rotate-secret", {}, format="json"),
        member.post(f"{address}/test"),
        member.post(f"{address}/replay", BODY, format="json"),
    ]

    assert [answer.status_code for answer in read] == [200, 200, 200]
    assert {refusal(answer) for answer in refused} == {(403, "owner_required")}


def test_the_catalogue_is_listed_with_its_fields(owner: APIClient) -> None:
    listed = owner.get(f"{BASE}/event-types").json()

    assert {row["name"] for row in listed} == set(CATALOGUE)
    [low] = [row for row in listed if row["name"] == "credits.low"]
    assert low["fields"] == ["balance", "credits", "kind", "previous_level", "threshold"]


def test_an_account_has_at_most_twenty_endpoints(owner: APIClient, register: Register) -> None:
    for _ in range(services.ENDPOINTS_MAX):
        register()

    assert refusal(owner.post(BASE, GOOD, format="json")) == (409, "too_many_webhooks")


def test_rotation_without_overlap_forgets_the_old_secret(owner: APIClient, register: Register) -> None:
    endpoint = register()

    answer = owner.post(f"{BASE}/{endpoint.pk}/rotate-secret", {"overlap_seconds": 0}, format="json")
    wrong = owner.post(f"{BASE}/{endpoint.pk}/rotate-secret", {"overlap_seconds": 604801}, format="json")

    endpoint.refresh_from_db()
    assert (answer.status_code, endpoint.previous_secret, endpoint.secret) == (200, None, answer.json()["secret"])
    assert refusal(wrong) == (400, "invalid_request")


@pytest.mark.django_db(transaction=True)
def test_a_test_message_arrives_whatever_was_chosen_and_its_delivery_tells(
    owner: APIClient, register: Register, receiver: Receiver
) -> None:
    endpoint = register(event_types=["key.revoked"])
    address = f"{BASE}/{endpoint.pk}"

    queued = owner.post(f"{address}/test")
    pass_on()
    delivery = owner.get(f"{address}/deliveries/{queued.json()['id']}").json()

    [request] = receiver.requests
    message = json.loads(request.body)
    assert queued.status_code == 202
    assert message["type"] == "webhook.test"
    assert message["data"] == {
        "object": "webhook_endpoint",
        "id": str(endpoint.pk),
        "account_id": str(endpoint.account_id),
    }
    assert (delivery["state"], delivery["kind"], delivery["body"]) == ("delivered", "test", request.body)
    [attempt] = delivery["log"]
    assert (attempt["number"], attempt["status"], attempt["response"]) == (1, 200, "ok")


def test_tests_are_limited_by_the_minute(owner: APIClient, register: Register) -> None:
    endpoint = register()
    answers = [owner.post(f"{BASE}/{endpoint.pk}/test").status_code for _ in range(services.BY_HAND_A_MINUTE)]

    one_more = owner.post(f"{BASE}/{endpoint.pk}/test")

    assert set(answers) == {202}
    assert refusal(one_more) == (429, "rate_limited")
    assert WebhookDelivery.objects.count() == services.BY_HAND_A_MINUTE


@pytest.mark.django_db(transaction=True)
def test_a_delivery_is_replayed_with_the_same_id_and_body(
    owner: APIClient, account: Account, register: Register, receiver: Receiver
) -> None:
    endpoint = register()
    key_made(account)
    fan_out()
    address = f"{BASE}/{endpoint.pk}/deliveries/{WebhookDelivery.objects.get().pk}/replay"

    too_early = owner.post(address)
    pass_on()
    replayed = owner.post(address)
    again = owner.post(address)
    pass_on()

    first, second = receiver.requests
    assert refusal(too_early) == (409, "webhook_delivery_pending")
    assert (replayed.status_code, refusal(again)) == (202, (409, "webhook_delivery_pending"))
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert list(WebhookDelivery.objects.values_list("state", flat=True)) == ["delivered", "delivered"]


@pytest.mark.django_db(transaction=True)
def test_what_was_lost_while_disabled_is_replayed_once(
    owner: APIClient, account: Account, register: Register, receiver: Receiver
) -> None:
    endpoint = register()
    address = f"{BASE}/{endpoint.pk}"
    key_made(account, "arrived")
    pass_on()
    off = owner.patch(address, {"is_enabled": False}, format="json")
    key_made(account, "lost")
    fan_out()
    while_off = owner.post(f"{address}/replay", BODY, format="json")
    on = owner.patch(address, {"is_enabled": True}, format="json")

    replayed = owner.post(f"{address}/replay", BODY, format="json").json()
    twice = owner.post(f"{address}/replay", BODY, format="json").json()
    pass_on()

    assert (off.json()["disabled_by"], on.json()["is_enabled"]) == ("customer", True)
    assert refusal(while_off) == (409, "webhook_disabled")
    assert (replayed, twice) == ({"replayed": 1}, {"replayed": 0})
    names = [json.loads(request.body)["data"]["after"]["name"] for request in receiver.requests]
    assert names == ["arrived", "lost"]


def test_only_an_operator_enables_what_an_operator_disabled(owner: APIClient, register: Register) -> None:
    endpoint = register()
    services.endpoint_disable(endpoint=endpoint, by="customer", actor=SYSTEM)
    services.endpoint_disable(endpoint=endpoint, by="operator", actor=SYSTEM, reason="spam")

    refused = owner.patch(f"{BASE}/{endpoint.pk}", {"is_enabled": True}, format="json")
    services.endpoint_enable(endpoint=endpoint, actor=SYSTEM, by_operator=True)

    endpoint.refresh_from_db()
    assert refusal(refused) == (409, "webhook_disabled_by_operator")
    assert (endpoint.is_enabled, endpoint.disabled_by) == (True, "")


def test_deliveries_are_filtered_and_the_reason_of_an_operator_is_not_shown(
    owner: APIClient, account: Account, register: Register
) -> None:
    endpoint = register()
    key_made(account)
    fan_out()
    services.endpoint_disable(endpoint=endpoint, by="operator", actor=SYSTEM, reason="suspected of fraud")
    address = f"{BASE}/{endpoint.pk}"

    counts = [
        owner.get(f"{address}/deliveries", query).json()["count"]
        for query in ({}, {"state": "canceled"}, {"state": "pending"}, {"event_type": "key.created"}, {"event_type": "x"})
    ]

    assert counts == [1, 1, 0, 1, 0]
    assert refusal(owner.get(f"{address}/deliveries", {"state": "odd"})) == (400, "invalid_request")
    assert "fraud" not in owner.get(address).content.decode()


def test_a_blocked_account_registers_nothing(account: Account) -> None:
    Account.objects.update(status="blocked", blocked_until=clock.now() + timedelta(days=1))

    with pytest.raises(Exception, match="blocked"):
        services.endpoint_create(account=account, **GOOD, actor=user_actor(account.personal_of))

    assert WebhookEndpoint.objects.count() == 0
