"""Anthropic's official client against the product: with a model of every protocol, whole and streamed."""

from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic

from billing.ledger.models import UsageRecord
from tests.live.conftest import Customer, Live, wait_until

# One model of each protocol the simulator speaks, and its provider.
MODELS = [
    ("claude-haiku-5-5", "anthropic"),
    ("gpt-5-mini", "openai"),
    ("llama-3.3-70b", "groq"),
    ("gemini-2.5-flash", "google"),
    ("command-a-03-2025", "cohere"),
]
ASK: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def client_of(live: Live, customer: Customer, **options: Any) -> Anthropic:
    return Anthropic(base_url=live.url, auth_token=customer.secret, max_retries=0, **options)


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_whole_and_streamed_answers_are_served_and_charged(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)
    live.behave(provider, prompt_tokens=1000, output_tokens=100)

    whole = client.messages.create(model=model, max_tokens=500, system="Be short.", messages=ASK)
    with client.messages.stream(model=model, max_tokens=500, system="Be short.", messages=ASK) as stream:
        said = "".join(stream.text_stream)
        streamed = stream.get_final_message()

    assert whole.content[0].text == said  # type: ignore[union-attr]
    assert said.startswith(f"IA Factory's simulator answers for {provider}. You asked: hello")
    assert (whole.type, whole.role, whole.model, whole.stop_reason) == ("message", "assistant", model, "end_turn")
    assert (streamed.type, streamed.role, streamed.model, streamed.stop_reason) == ("message", "assistant", model, "end_turn")
    assert [block.type for block in streamed.content] == ["text"]
    for usage in (whole.usage, streamed.usage):
        assert (usage.input_tokens, usage.output_tokens) == (1000, 100)
    rows = UsageRecord.objects.filter(account=customer.account).order_by("started_at")
    assert [(row.provider, row.end, row.endpoint, row.estimated, row.streamed) for row in rows] == [
        (provider, "complete", "/v1/messages", False, False),
        (provider, "complete", "/v1/messages", False, True),
    ]
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(1000, 100)] * 2
    assert min(row.credits_charged for row in rows) > 0
    assert customer.wallet() == (100 - sum(row.credits_charged for row in rows), 0)
    assert live.received(provider) == 2


def usage_rows(customer: Customer) -> list[UsageRecord]:
    return list(UsageRecord.objects.filter(account=customer.account).order_by("started_at"))


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_tools_travel_both_ways(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)

    first = client.messages.create(
        model=model, max_tokens=500, messages=ASK, tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"}
    )
    with client.messages.stream(
        model=model, max_tokens=500, messages=ASK, tools=[WEATHER], tool_choice={"type": "any"}
    ) as stream:
        streamed = stream.get_final_message()
    call: Any = first.content[-1]
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "12 °C"}]}
    history: list[Any] = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client.messages.create(model=model, max_tokens=500, messages=history, tools=[WEATHER])

    assert (first.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "weather")
    assert list(call.input) == ["city"]
    said: Any = streamed.content[-1]
    assert (streamed.stop_reason, said.name, said.input) == ("tool_use", "weather", call.input)
    assert second.stop_reason == "end_turn"
    assert [row.end for row in usage_rows(customer)] == ["complete"] * 3


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_pictures_are_seen_by_every_protocol(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    question: Any = {"role": "user", "content": [picture, {"type": "text", "text": "what is this?"}]}

    answer = client_of(live, customer).messages.create(model=model, max_tokens=50, messages=[question])

    assert "You asked: what is this?" in answer.content[0].text  # type: ignore[union-attr]
    assert usage_rows(customer)[0].end == "complete"


def test_both_ways_of_sending_the_key_open_the_door(live: Live) -> None:
    customer = live.customer()
    body = {"model": "claude-haiku-5-5", "max_tokens": 5, "messages": ASK}

    by_key = httpx2.post(f"{live.url}/v1/messages?beta=true", json=body, headers={"x-api-key": customer.secret})
    by_bearer = httpx2.post(f"{live.url}/v1/messages", json=body, headers=customer.headers)
    by_client = Anthropic(base_url=live.url, api_key=customer.secret).messages.create(**body)  # type: ignore[call-overload]

    assert (by_key.status_code, by_bearer.status_code) == (200, 200)
    assert by_key.headers["request-id"] == by_key.headers["x-request-id"]
    assert by_client._request_id is not None
    assert by_client.stop_reason == "max_tokens"
    assert len(usage_rows(customer)) == 3


def test_thoughts_and_cache_marks_reach_anthropic(live: Live) -> None:
    customer = live.customer()
    thought: Any = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
    history: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "a"}]},
        *ASK,
    ]

    answer = client_of(live, customer).messages.create(
        model="claude-haiku-5-5",
        max_tokens=4000,
        messages=history,
        thinking={"type": "enabled", "budget_tokens": 2000},
        system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    )

    assert answer.stop_reason == "end_turn"
    assert usage_rows(customer)[0].provider == "anthropic"


@pytest.mark.parametrize("model", [model for model, provider in MODELS if provider != "anthropic"])
def test_what_only_anthropic_understands_is_refused_elsewhere(model: str, live: Live) -> None:
    customer = live.customer()
    bash: Any = {"type": "bash_20250124", "name": "bash"}

    with pytest.raises(anthropic.BadRequestError) as caught:
        client_of(live, customer).messages.create(model=model, max_tokens=50, messages=ASK, tools=[bash])

    assert "`tools.0`" in str(caught.value)
    assert customer.wallet() == (100, 0)
    assert usage_rows(customer) == []


def test_hints_nobody_takes_are_dropped_and_named(live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)
    wishes: Any = {"temperature": 0.3, "top_k": 5, "thinking": {"type": "enabled", "budget_tokens": 1024}}

    by_claude = client.messages.with_raw_response.create(
        model="claude-haiku-5-5", max_tokens=2000, messages=ASK, extra_body=wishes
    )
    by_llama = client.messages.with_raw_response.create(model="llama-3.3-70b", max_tokens=2000, messages=ASK, extra_body=wishes)
    by_gemini = client.messages.with_raw_response.create(
        model="gemini-2.5-flash", max_tokens=2000, messages=ASK, extra_body=wishes
    )
    by_gpt = client.messages.with_raw_response.create(model="gpt-5-mini", max_tokens=2000, messages=ASK, extra_body=wishes)

    assert by_claude.headers["x-iaf-dropped"] == "temperature, top_k"
    assert by_llama.headers["x-iaf-dropped"] == "top_k, thinking"
    assert "x-iaf-dropped" not in by_gemini.headers
    assert by_gpt.headers["x-iaf-dropped"] == "temperature, top_k"


@pytest.mark.parametrize(
    ("behaviour", "error", "kind"),
    [
        ({"fail_status": 400}, anthropic.BadRequestError, "invalid_request_error"),
        ({"fail_status": 500}, anthropic.InternalServerError, "api_error"),
        ({"fail_status": 529}, anthropic.InternalServerError, "overloaded_error"),
    ],
)
def test_providers_failures_are_said_in_anthropic_s_words(behaviour: Any, error: Any, kind: str, live: Live) -> None:
    customer = live.customer()
    live.behave("anthropic", **behaviour)

    with pytest.raises(error) as caught:
        client_of(live, customer).messages.create(model="claude-haiku-5-5", max_tokens=50, messages=ASK)

    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == caught.value.request_id
    assert customer.wallet() == (100, 0)


def test_refusals_before_the_call_are_the_client_s_exceptions(live: Live) -> None:
    customer = live.customer()
    poor = live.customer(credits=0)
    call: Any = {"model": "claude-haiku-5-5", "max_tokens": 50, "messages": ASK}

    with pytest.raises(anthropic.AuthenticationError) as unknown:
        Anthropic(base_url=live.url, api_key="sk-no", max_retries=0).messages.create(**call)
    with pytest.raises(anthropic.NotFoundError) as missing:
        client_of(live, customer).messages.create(**call | {"model": "claude-0"})
    with pytest.raises(anthropic.APIStatusError) as broke:
        client_of(live, poor).messages.create(**call)
    with pytest.raises(anthropic.BadRequestError) as wrong:
        client_of(live, customer).messages.create(**call | {"messages": [{"role": "user", "content": []}]})

    kinds = [caught.value.body["error"]["type"] for caught in (unknown, missing, broke, wrong)]  # type: ignore[index]
    codes = [caught.value.body["error"]["details"]["error_code"] for caught in (unknown, missing, broke, wrong)]  # type: ignore[index]
    assert kinds == ["authentication_error", "not_found_error", "billing_error", "invalid_request_error"]
    assert codes == ["invalid_api_key", "model_not_found", "insufficient_credits", "invalid_request"]
    assert broke.value.status_code == 402
    assert broke.value.response.headers["x-should-retry"] == "false"


def test_a_stream_that_breaks_raises_and_is_charged_for_what_was_delivered(live: Live) -> None:
    customer = live.customer()
    read: list[str] = []

    for model, provider in MODELS:
        live.behave(provider, drop_after_chunks=2)
        stream = client_of(live, customer).messages.create(model=model, max_tokens=50, messages=ASK, stream=True)
        with pytest.raises(anthropic.APIStatusError) as caught:
            read.extend(event.type for event in stream)
        assert caught.value.body["error"]["details"] == {"error_code": "provider_error"}  # type: ignore[index]

    assert "message_stop" not in read
    rows = usage_rows(customer)
    assert [row.end for row in rows] == ["upstream_dropped"] * len(MODELS)
    assert min(row.credits_charged for row in rows) > 0


@pytest.mark.parametrize(
    ("model", "first", "second", "attempts"),
    # groq has a free and a paid profile.
    [("claude-opus-5-5", "openrouter", "anthropic", 2), ("llama-3.3-70b", "groq", "openrouter", 3)],
)
def test_another_provider_takes_over_before_the_first_word(
    model: str, first: str, second: str, attempts: int, live: Live
) -> None:
    customer = live.customer(plan="whole")
    live.behave(first, error_after_chunks=0)

    with client_of(live, customer).messages.stream(model=model, max_tokens=50, messages=ASK) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()

    assert kinds.count("message_start") == 1
    assert message.content[0].text.startswith(f"IA Factory's simulator answers for {second}")  # type: ignore[union-attr]
    row = usage_rows(customer)[0]
    assert (row.provider, row.end, row.fallback, row.attempts) == (second, "complete", True, attempts)


def test_a_repetition_gets_the_same_events_once_paid(live: Live) -> None:
    customer = live.customer()
    body = {"model": "claude-haiku-5-5", "max_tokens": 50, "messages": ASK, "stream": True}
    headers = {"idempotency-key": "once"}

    first = live.post("/v1/messages", customer, json=body, headers=headers)
    second = live.post("/v1/messages", customer, json=body, headers=headers)

    assert first.text == second.text
    assert first.text.rstrip().endswith('data: {"type":"message_stop"}')
    assert second.headers["idempotent-replayed"] == "true"
    assert live.received("anthropic") == 1
    assert len(usage_rows(customer)) == 1


def test_counting_is_free_and_says_that_it_is_an_estimate(live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)

    short = client.messages.with_raw_response.count_tokens(model="claude-haiku-5-5", messages=ASK)
    long = client.messages.count_tokens(model="auto", messages=[{"role": "user", "content": "hello " * 1000}], tools=[WEATHER])
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="claude-0", messages=ASK)

    assert short.headers["x-iaf-estimated"] == "true"
    assert 0 < short.parse().input_tokens < 100
    assert 1000 < long.input_tokens < 3000
    assert customer.wallet() == (100, 0)
    assert usage_rows(customer) == []
    assert live.received("anthropic") == 0


def test_models_are_listed_in_anthropic_s_shape_for_its_clients(live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)

    first = client.models.list(limit=3)
    names = [model.id for model in client.models.list(limit=3)]
    detail = client.models.retrieve("claude-haiku-5-5")
    back = client.models.list(limit=2, before_id=names[5])
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.models.retrieve("claude-0")
    with pytest.raises(anthropic.BadRequestError):
        client.models.list(limit=0)
    plain = live.get("/v1/models", customer).json()

    assert (len(first.data), first.has_more, first.first_id, first.last_id) == (3, True, "auto", names[2])
    assert names == [model["id"] for model in plain["data"] if model.get("mode", "chat") == "chat"]
    assert [model.id for model in back.data] == names[3:5]
    assert (detail.type, detail.id, detail.max_input_tokens, detail.max_tokens) == (
        "model",
        "claude-haiku-5-5",
        1_000_000,
        128_000,
    )
    assert detail.created_at.year >= 2025
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert plain["object"] == "list"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/v1/messages", 405, "invalid_request_error"),
        ("GET", "/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("POST", "/v1/messages", 401, "authentication_error"),
    ],
)
def test_errors_outside_the_view_have_anthropic_s_shape(method: str, path: str, status: int, kind: str, live: Live) -> None:
    response = httpx2.request(method, f"{live.url}{path}")

    body = response.json()
    assert response.status_code == status
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"model":', 400),
        (b'{"model": "claude-haiku-5-5", "max_tokens": 5, "messages": ' + b"[" * 5000, 400),
        (b'{"model": "claude-haiku-5-5", "max_tokens": 5, "messages": ' + b"[" * 990 + b"]" * 990 + b"}", 400),
        (b'{"model": "a\\u0000b", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}', 400),
        (b'{"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"model": "m", "max_tokens": 5, "messages": [' + b'{"role": "king"},' * 20_000 + b"0]}", 400),
        (b'{"a": "' + b"x" * 1_100_000 + b'"}', 413),
    ],
    ids=["empty", "list", "cut", "unclosed", "deep", "NUL", "surrogate", "many wrong", "huge"],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_broken_bodies_are_the_client_s_fault(path: str, content: bytes, status: int, live: Live) -> None:
    customer = live.customer()

    response = live.post(path, customer, content=content)

    assert response.status_code == status
    assert response.json()["type"] == "error"
    assert customer.wallet() == (100, 0)


def test_thousands_of_blocks_and_a_nul_are_just_text(live: Live) -> None:
    customer = live.customer(credits=10_000)
    blocks: Any = [{"type": "text", "text": f"\0 {number}"} for number in range(8000)]

    for model, _ in MODELS:
        answer = client_of(live, customer).messages.create(
            model=model, max_tokens=50, messages=[{"role": "user", "content": blocks}]
        )
        assert answer.stop_reason is not None


def test_a_client_that_leaves_pays_for_what_it_got(live: Live) -> None:
    customer = live.customer()
    live.behave("anthropic", output_tokens=400, chunks=100, chunk_interval_ms=100)
    client = client_of(live, customer)

    with client.messages.stream(model="claude-haiku-5-5", max_tokens=500, messages=ASK) as stream:
        read = [text for text, _ in zip(stream.text_stream, range(5), strict=False)]

    wait_until(lambda: usage_rows(customer) != [], what="settled")
    row = usage_rows(customer)[0]
    assert len(read) == 5
    assert (row.end, row.estimated) == ("client_gone", True)
    assert 0 < row.output_tokens < 400
    assert customer.wallet() == (100 - row.credits_charged, 0)
