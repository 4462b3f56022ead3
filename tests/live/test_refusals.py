"""Bad input gets the right 4xx with a stable code, in the dialect of its address; nothing is called or charged."""

import socket
import uuid
from typing import Any

import pytest

from billing.accounts.services import account_block, account_unblock, api_key_revoke
from billing.events.services import SYSTEM
from billing.ledger.models import Hold, LedgerTransaction, UsageRecord
from tests.live.conftest import Customer, Live, seconds_until, soonest

CHAT = "/v1/chat/completions"
OWN = "/api/v2/chat"
GOOD: dict[str, Any] = {"model": "llama-3.3-70b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


@pytest.fixture
def customer(live: Live) -> Customer:
    return live.customer()


def written(customer: Customer) -> int:
    """Rows that a call would have left."""
    return (
        UsageRecord.objects.filter(account=customer.account).count()
        + LedgerTransaction.objects.filter(account=customer.account, kind="call").count()
        + Hold.objects.filter(account=customer.account).count()
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 201}, "model"),
        ({"model": "a\0b"}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [7]}, "messages.0"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages.0.content.0"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"tools": {}}, "tools"),
        ({"tools": ["f"]}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_a_wrong_field_is_named(live: Live, customer: Customer, fields: dict[str, Any], param: str) -> None:
    response = live.post(CHAT, customer, json=GOOD | fields)

    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["code"] in ("invalid_request", "unsupported_parameter")
    assert written(customer) == 0


@pytest.mark.parametrize("path", [CHAT, OWN])
@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000, b'{"model": NaN}'],
)
def test_what_is_no_json_object_is_refused(live: Live, customer: Customer, path: str, raw: bytes) -> None:
    response = live.post(path, customer, content=raw, headers={"content-type": "application/json"})

    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
    assert written(customer) == 0


@pytest.mark.parametrize("path", [CHAT, OWN])
def test_a_body_over_the_limit_is_refused(live: Live, customer: Customer, path: str) -> None:
    response = live.post(path, customer, json=GOOD | {"user": "x" * 1_000_001})

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert written(customer) == 0


def test_a_chunked_body_over_the_limit_is_refused(live: Live, customer: Customer) -> None:
    response = live.post(CHAT, customer, content=iter([b"x" * 200_000] * 6))

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_a_body_over_the_limit_is_refused_elsewhere_too(live: Live) -> None:
    response = live.post("/api/auth/login", None, json={"email": "x" * 1_000_001, "password": "x"})

    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", [CHAT, OWN])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "invalid_api_key"),
        ({"authorization": "Bearer"}, "invalid_api_key"),
        ({"authorization": "Bearer iaf_wrong"}, "invalid_api_key"),
        ({"authorization": "Bearer e30.e30.e30"}, "invalid_api_key"),
        ({"authorization": "Basic aWFmOng="}, "invalid_api_key"),
    ],
)
def test_a_credential_that_opens_nothing_is_refused(live: Live, path: str, headers: dict[str, str], code: str) -> None:
    response = live.post(path, None, json=GOOD, headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (401, code)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/models/nothing", OWN])
def test_the_gateway_answers_in_english_whatever_is_asked_for(live: Live, path: str) -> None:
    asked = {"authorization": "Bearer iaf_wrong", "accept-language": "fr"}

    response = live.post(path, None, json=GOOD, headers=asked)
    elsewhere = live.post("/api/auth/refresh", None, json={"refresh_token": "x"}, headers=asked)

    assert response.json()["error"]["message"] in ("This API key does not exist.", "POST is not allowed here.")
    assert "content-language" not in response.headers
    assert elsewhere.json()["error"]["message"] == "Ce n’est pas un jeton de renouvellement."
    assert elsewhere.headers["content-language"] == "fr"


def seconds_to(live: Live, customer: Customer, status: int) -> float:
    """How long it takes until a call of the customer is answered with `status`."""
    return seconds_until(lambda: live.post(CHAT, customer, json=GOOD).status_code == status, what=f"answered with {status}")


def test_a_revoked_key_is_refused_within_a_second(live: Live) -> None:
    refused: list[str] = []

    def revoke() -> float:
        customer = live.customer()
        assert live.post(CHAT, customer, json=GOOD).status_code == 200
        api_key_revoke(key=customer.key, actor=SYSTEM, reason="test")
        seconds = seconds_to(live, customer, 401)
        refused.append(live.post(CHAT, customer, json=GOOD).json()["error"]["code"])
        return seconds

    assert soonest(revoke, promised_seconds=1) < 1
    assert set(refused) == {"api_key_revoked"}


def test_a_blocked_account_is_refused_within_a_second_until_unblocked(live: Live, customer: Customer) -> None:
    live.post(CHAT, customer, json=GOOD)
    refused: list[str] = []

    def block() -> float:
        account_block(account=customer.account, actor=SYSTEM, reason="test")
        seconds = seconds_to(live, customer, 403)
        refused.append(live.post(CHAT, customer, json=GOOD).json()["error"]["code"])
        return seconds

    def unblock() -> float:
        account_unblock(account=customer.account, actor=SYSTEM, reason="test")
        return seconds_to(live, customer, 200)

    assert soonest(lambda: max(block(), unblock()), promised_seconds=1) < 1
    assert set(refused) == {"account_blocked"}


def test_a_key_without_the_scope_is_refused(live: Live) -> None:
    customer = live.customer(scopes=["billing:read"])

    chat, balance = live.post(CHAT, customer, json=GOOD), live.get("/v1/balance", customer)

    assert (chat.status_code, chat.json()["error"]["code"]) == (403, "insufficient_scope")
    assert balance.status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/auto", "/v1/balance", "/api/v2/models", "/api/v2/usage/today"])
def test_reading_needs_a_key_too(live: Live, path: str) -> None:
    response = live.get(path)

    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


def test_an_unknown_model_is_a_404_in_openais_words(live: Live, customer: Customer) -> None:
    response = live.post(CHAT, customer, json=GOOD | {"model": "gpt-unheard-of"})

    assert response.status_code == 404
    assert response.json() == {
        "error": {
            "message": "The model `gpt-unheard-of` does not exist.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert written(customer) == 0


def test_a_model_outside_the_plan_is_refused(live: Live) -> None:
    student = live.customer(plan="student")

    response = live.post(CHAT, student, json=GOOD | {"model": "gpt-6-astra"})

    assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")


def test_a_model_that_does_not_chat_is_unknown_to_chat(live: Live, customer: Customer) -> None:
    response = live.post(CHAT, customer, json=GOOD | {"model": "text-embedding-3-small"})

    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_an_input_longer_than_the_model_is_refused(live: Live, customer: Customer) -> None:
    long = [{"role": "user", "content": "word " * 180_000}]

    response = live.post(CHAT, customer, json=GOOD | {"messages": long})

    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert written(customer) == 0


def test_somebody_elses_account_is_not_found(live: Live, customer: Customer) -> None:
    registered = live.post(
        "/api/auth/register", None, json={"email": f"{uuid.uuid4()}@example.com", "password": "a long pass phrase"}
    )
    token = registered.json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}

    own = live.post(CHAT, None, json=GOOD, headers=headers)
    other = live.post(CHAT, None, json=GOOD, headers=headers | {"x-account": str(customer.account.pk)})
    nonsense = live.post(CHAT, None, json=GOOD, headers=headers | {"x-account": "'; drop table"})

    assert registered.status_code == 201
    assert own.status_code == 200
    assert (other.status_code, other.json()["error"]["code"]) == (404, "account_not_found")
    assert (nonsense.status_code, nonsense.json()["error"]["code"]) == (404, "account_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/unheard-of", 404, "not_found"),
        ("POST", "/v1/moderations", 404, "not_found"),
        ("GET", "/v1/models/unheard-of", 404, "model_not_found"),
        ("GET", "/api/unheard-of", 404, "not_found"),
    ],
)
def test_wrong_methods_and_addresses(live: Live, customer: Customer, method: str, path: str, status: int, code: str) -> None:
    import httpx2

    response = httpx2.request(method, f"{live.url}{path}", headers=customer.headers)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "x-request-id" in response.headers


def test_a_foreign_host_header_is_refused(live: Live, customer: Customer) -> None:
    response = live.get("/v1/balance", customer)
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").read()

    assert response.status_code == 200
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"invalid_host" in answer


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": 7}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "hi", "messages": GOOD["messages"]}, "prompt"),
        ({}, "messages"),
        ({"prompt": "hi", "model": 7}, "model"),
        ({"prompt": "hi", "max_tokens": 0}, "max_tokens"),
    ],
)
def test_own_chat_names_the_wrong_field(live: Live, customer: Customer, body: dict[str, Any], param: str) -> None:
    response = live.post(OWN, customer, json=body)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_request", param)
    assert written(customer) == 0
