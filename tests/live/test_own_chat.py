"""The product's own ways to chat: at a provider of the caller's choice, and by the plan's policy alone."""

from decimal import Decimal
from typing import Any

import httpx2
import msgspec
import pytest

from billing.ledger.models import UsageRecord
from tests.live.conftest import Customer, Live

CHAT = "/v1/chat"
ROUTE = "/api/route"
HELLO = [{"role": "user", "content": "hello"}]


def usage_rows(customer: Customer) -> list[UsageRecord]:
    return list(UsageRecord.objects.filter(account=customer.account).order_by("started_at"))


as_written = msgspec.json.Decoder(float_hook=Decimal).decode


def exact(response: httpx2.Response) -> Any:
    """The body with its numbers as they were written."""
    return as_written(response.content)


@pytest.mark.parametrize("provider", ["groq", "openrouter"])
def test_the_provider_asked_for_serves_and_the_answer_says_what_it_cost(provider: str, live: Live) -> None:
    customer = live.customer()
    live.behave(provider, prompt_tokens=1000, output_tokens=100)

    response = live.post(CHAT, customer, json={"provider": provider, "model": "llama-3.3-70b", "messages": HELLO})

    body = exact(response)
    row = usage_rows(customer)[0]
    assert response.status_code == 200
    assert body["response"].startswith(f"IA Factory's simulator answers for {provider}. You asked: hello")
    assert body["message"]["role"] == "assistant"
    assert {name: body[name] for name in ("provider", "model", "fallback", "budget_fallback", "attempts")} == {
        "provider": provider,
        "model": "llama-3.3-70b",
        "fallback": False,
        "budget_fallback": False,
        "attempts": 1,
    }
    assert (row.provider, row.endpoint, row.requested_model) == (provider, "/v1/chat", "llama-3.3-70b")
    assert (body["cost"], body["credits"]) == (row.cost_usd, row.credits_charged)
    assert row.credits_charged > 0
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (1000, 100)
    assert body["request_id"] == response.headers["x-request-id"] == str(row.id)


def test_a_pinned_call_asks_nobody_else(live: Live) -> None:
    customer = live.customer()
    live.behave("groq", fail_status=500)

    response = live.post(CHAT, customer, json={"provider": "groq", "model": "llama-3.3-70b", "messages": HELLO})

    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_error")
    assert live.received("openrouter") == 0
    assert customer.wallet() == (100, 0)


def test_without_a_provider_it_is_the_model_that_counts(live: Live) -> None:
    customer = live.customer()

    named = live.post(CHAT, customer, json={"model": "claude-haiku-5-5", "messages": HELLO}).json()
    free = live.post(CHAT, customer, json={"prompt": "hello", "provider": None}).json()
    unknown = live.post(CHAT, customer, json={"model": "gpt-0", "messages": HELLO})

    assert (named["provider"], named["model"]) == ("anthropic", "claude-haiku-5-5")
    assert free["response"].endswith("hello") or "You asked: hello" in free["response"]
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_streams_are_openai_s_with_the_facts_before_their_end(live: Live) -> None:
    customer = live.customer()

    response = live.post(CHAT, customer, json={"model": "llama-3.3-70b", "messages": HELLO, "stream": True})

    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    said = [msgspec.json.decode(event) for event in events[:-2]]
    told = as_written(events[-2])
    row = usage_rows(customer)[0]
    assert events[-1] == "[DONE]"
    assert {chunk["object"] for chunk in said} == {"chat.completion.chunk"}
    assert (told["object"], told["provider"], told["attempts"], told["fallback"]) == ("chat.facts", "groq", 1, False)
    assert (told["cost"], told["credits"], told["request_id"]) == (row.cost_usd, row.credits_charged, str(row.id))
    assert row.streamed


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"provider": 7, "messages": HELLO}, 400, "invalid_request"),
        ({"provider": "gr\0oq", "messages": HELLO}, 400, "invalid_request"),
        ({"messages": HELLO, "prompt": "x"}, 400, "invalid_request"),
        ({"prompt": ""}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
    ],
)
def test_broken_requests_are_refused(body: Any, status: int, code: str, live: Live) -> None:
    customer = live.customer()

    response = live.post(CHAT, customer, json=body)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert customer.wallet() == (100, 0)


def test_a_plan_may_forbid_pins_and_providers_must_exist(live: Live) -> None:
    bound = live.customer(plan="free", credits=0)
    body = {"provider": "groq", "model": "llama-3.3-70b", "messages": HELLO}

    forbidden = live.post(CHAT, bound, json=body)
    missing = live.post(CHAT, live.customer(), json=body | {"provider": "nobody"})
    elsewhere = live.post(CHAT, live.customer(), json=body | {"provider": "anthropic"})

    assert (forbidden.status_code, forbidden.json()["error"]["code"]) == (403, "provider_pin_not_allowed")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "provider_not_found")
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (503, "model_unavailable")


# -- by the policy alone ---------------------------------------------------------------------------------------------


def test_a_payload_is_routed_by_the_plan_and_its_key_may_stand_inside(live: Live) -> None:
    customer = live.customer(plan="free", credits=0)
    payload = {"messages": HELLO, "model": "gpt-4o", "cost_units": 1}

    inside = live.post(ROUTE, None, json={"api_key": customer.secret, "payload": payload})
    beside = live.post(ROUTE, customer, json=payload)
    text = live.post(ROUTE, customer, json={"payload": "hello"})

    for response in (inside, beside, text):
        body = response.json()
        assert response.status_code == 200
        assert (body["provider"], body["cost"], body["credits"], body["cost_units"]) == ("groq", 0, 0, 0)
        assert "You asked: hello" in body["response"]
    assert [row.endpoint for row in usage_rows(customer)] == ["/api/route"] * 3


def test_cost_units_are_the_most_a_call_may_cost(live: Live) -> None:
    customer = live.customer()
    call = {"model": "claude-haiku-5-5", "messages": HELLO, "max_tokens": 100_000}
    live.behave("anthropic", output_tokens=100_000)

    within = live.post(ROUTE, customer, json={"payload": call | {"cost_units": 1.5}})
    beyond = live.post(ROUTE, customer, json={"payload": call | {"cost_units": 0.001}})

    body = exact(within)
    row = usage_rows(customer)[0]
    assert within.status_code == 200
    assert body["model"] == "claude-haiku-5-5"
    assert body["cost_units"] == body["credits"] == row.credits_charged
    assert Decimal(1) < row.credits_charged <= Decimal("1.5")
    assert row.credits_held <= Decimal("1.5")
    assert int(within.headers["x-iaf-max-tokens-lowered-to"]) == row.output_tokens
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (402, "cost_units_exceeded")
    assert beyond.headers["x-should-retry"] == "false"
    assert len(usage_rows(customer)) == 1
    assert customer.wallet() == (100 - row.credits_charged, 0)


def test_what_may_not_be_shortened_is_refused_instead(live: Live) -> None:
    customer = live.customer()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    call = {"model": "claude-haiku-5-5", "messages": HELLO, "max_tokens": 100_000, "tools": [tool], "cost_units": 1.5}

    response = live.post(ROUTE, customer, json={"payload": call})

    assert (response.status_code, response.json()["error"]["code"]) == (402, "cost_units_exceeded")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"payload": 7}, 400, "invalid_request", "payload"),
        ({"payload": {"prompt": "x", "cost_units": 0}}, 400, "invalid_request", "cost_units"),
        ({"payload": {"prompt": "x", "cost_units": "many"}}, 400, "invalid_request", "cost_units"),
        ({"payload": {"prompt": "x", "cost_units": True}}, 400, "invalid_request", "cost_units"),
        ({"payload": {"prompt": "x", "cost_units": 10**30}}, 400, "invalid_request", "cost_units"),
        ({"payload": {}}, 400, "invalid_request", "messages"),
        ({"payload": {"messages": "x"}}, 400, "invalid_request", "messages"),
    ],
)
def test_broken_payloads_are_refused(body: Any, status: int, code: str, param: str, live: Live) -> None:
    customer = live.customer()

    response = live.post(ROUTE, customer, json=body)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert customer.wallet() == (100, 0)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"payload": "x"}, 401, "invalid_api_key"),
        ({"payload": "x", "api_key": "sk-no"}, 401, "invalid_api_key"),
        ({"payload": "x", "api_key": "é\0\r\nx: y"}, 401, "invalid_api_key"),
        ({"payload": "x", "api_key": 7}, 400, "invalid_request"),
    ],
)
def test_a_credential_in_the_body_must_open_something(body: Any, status: int, code: str, live: Live) -> None:
    response = live.post(ROUTE, None, json=body)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_a_header_wins_over_the_body(live: Live) -> None:
    customer = live.customer()

    response = live.post(ROUTE, customer, json={"payload": "hello", "api_key": "sk-no"})

    assert response.status_code == 200
