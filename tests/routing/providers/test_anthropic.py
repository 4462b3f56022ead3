"""What is said to Anthropic, what is made of its answers, and where the two dialects do not meet."""

import base64
from typing import Any

import msgspec
import pytest
from anthropic.types import message_create_params
from pydantic import ConfigDict, TypeAdapter, with_config

from routing.providers.anthropic import AnthropicAdapter, usage_from_anthropic
from routing.providers.anthropic_request import build_request, closed_schema, model_version
from routing.providers.base import FailureClass, ProviderError, Target, Usage
from tests.wire.replay import EVENT_STREAM, Answer, recorded

from .conftest import SECRET

ADAPTER = AnthropicAdapter()
ASK = {"role": "user", "content": "Bonjour"}
REQUEST = {"model": "public-model", "messages": [ASK], "max_tokens": 64}
PNG = "iVBORw0KGgo="
WEATHER_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": WEATHER_SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
SAID_WEATHER = {"name": "weather", "description": "Weather", "input_schema": WEATHER_SCHEMA}
SAID_CLOCK = {"name": "clock", "input_schema": {"type": "object"}}
# The official client's own description of a request; it refuses fields it does not know.
OFFICIAL: TypeAdapter[Any] = TypeAdapter(
    with_config(ConfigDict(extra="forbid"))(message_create_params.MessageCreateParamsStreaming)
)


def target(model: str = "claude-opus-5-5", *quirks: str) -> Target:
    return Target("anthropic", "http://x", "k", model, "public-model", quirks=frozenset(quirks))


def read_through(value: Any) -> None:
    """Read a validated request to its depths: its lists are checked no earlier."""
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        for inner in value:
            read_through(inner)


def sent(request: dict[str, Any], model: str = "claude-opus-5-5", *quirks: str) -> dict[str, Any]:
    """The body for `request`, without what every body here has; the official client's types accept it."""
    body = build_request(target(model, *quirks), {**REQUEST, **request}, stream=True)
    read_through(OFFICIAL.validate_python(body))
    assert (body.pop("model"), body.pop("stream")) == (model, True)
    return body


def sent_messages(*messages: dict[str, Any]) -> dict[str, Any]:
    body = sent({"messages": list(messages)})
    assert body.pop("max_tokens") == 64
    return body


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def data_url(media_type: str, raw: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(raw).decode()}"


def event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


def delta(index: int, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def block(index: int, **fields: Any) -> bytes:
    return event("content_block_start", index=index, content_block=fields)


def stop(reason: str | None, **usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


START = event("message_start", message={"id": "msg_1", "usage": {"input_tokens": 5, "output_tokens": 1}})
END = event("message_stop")


def stream_of(*pieces: bytes, **changes: Any) -> Answer:
    return Answer(headers={"content-type": EVENT_STREAM}, pieces=pieces, **changes)


def json_of(body: Any, status: int = 200, **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json", **names}, msgspec.json.encode(body))


async def read(session, where: Target) -> tuple[Any, list[dict[str, Any]]]:
    """The stream after it was read to its end, and the bodies of its chunks."""
    async with ADAPTER.open_chat_stream(session, where, REQUEST) as stream:
        chunks = [msgspec.json.decode(chunk.data) async for chunk in stream]
    return stream, chunks


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([ASK], {"messages": [ASK]}, id="text"),
        pytest.param(
            [{"role": "system", "content": "Sois bref."}, ASK], {"system": "Sois bref.", "messages": [ASK]}, id="system"
        ),
        pytest.param(
            [{"role": "developer", "content": [text("A")]}, ASK, {"role": "system", "content": "B"}],
            {"system": [text("A"), text("B")], "messages": [ASK]},
            id="several system texts",
        ),
        pytest.param(
            [{"role": "system", "content": "Seul"}], {"messages": [{"role": "user", "content": "Seul"}]}, id="system alone"
        ),
        pytest.param(
            [{"role": "system", "content": [{**text("long"), "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, ASK],
            {
                "system": [{**text("long"), "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
                "messages": [ASK],
            },
            id="cache mark",
        ),
        pytest.param(
            [
                ASK,
                {**ASK, "name": "Ali"},
                {"role": "assistant", "content": [text("Oui"), {"type": "refusal", "refusal": "non"}]},
            ],
            {
                "messages": [
                    user(text("Bonjour"), text("Bonjour")),
                    {"role": "assistant", "content": [text("Oui"), text("non")]},
                ]
            },
            id="neighbours become one turn",
        ),
        pytest.param(
            [ASK, {"role": "assistant", "content": " \n"}, user(text(""), text("Et ?"))],
            {"messages": [user(text("Bonjour"), text("Et ?"))]},
            id="invisible texts are left out",
        ),
        pytest.param(
            [user(text("Vois"), {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}", "detail": "low"}})],
            {
                "messages": [
                    user(
                        text("Vois"),
                        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
                    )
                ]
            },
            id="image as data",
        ),
        pytest.param(
            [user({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})],
            {"messages": [user({"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}})]},
            id="image by address",
        ),
        pytest.param(
            [user({"type": "file", "file": {"filename": "a.pdf", "file_data": data_url("application/pdf", b"%PDF")}})],
            {
                "messages": [
                    user(
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
                            "title": "a.pdf",
                        }
                    )
                ]
            },
            id="PDF",
        ),
        pytest.param(
            [user({"type": "file", "file": {"file_data": data_url("text/plain", "é".encode())}})],
            {"messages": [user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}})]},
            id="text file",
        ),
        pytest.param(
            [
                ASK,
                {
                    "role": "assistant",
                    "content": "Je regarde.",
                    "tool_calls": [call("call_1", "weather", '{"city":"Évreux"}'), call("functions.clock:0", "clock", "")],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "12 °C"},
                {"role": "tool", "tool_call_id": "functions.clock:0", "content": [text("14"), text("h")]},
                {"role": "user", "content": "Et alors ?"},
            ],
            {
                "messages": [
                    ASK,
                    {
                        "role": "assistant",
                        "content": [
                            text("Je regarde."),
                            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Évreux"}},
                            {"type": "tool_use", "id": "functions_clock_0", "name": "clock", "input": {}},
                        ],
                    },
                    user(
                        {"type": "tool_result", "tool_use_id": "call_1", "content": "12 °C"},
                        {"type": "tool_result", "tool_use_id": "functions_clock_0", "content": [text("14"), text("h")]},
                        text("Et alors ?"),
                    ),
                ]
            },
            id="tools",
        ),
        pytest.param(
            [
                ASK,
                {"role": "assistant", "content": None, "tool_calls": [call("c", "clock", "{}")]},
                {"role": "tool", "tool_call_id": "c", "content": ""},
            ],
            {
                "messages": [
                    ASK,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "clock", "input": {}}]},
                    user({"type": "tool_result", "tool_use_id": "c"}),
                ]
            },
            id="tool without a word",
        ),
    ],
)
def test_messages(messages: list[dict[str, Any]], expected: dict[str, Any]):
    assert sent_messages(*messages) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"max_tokens": None, "max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": None}, {"max_tokens": 4096}),
        ({"stop": "FIN"}, {"stop_sequences": ["FIN"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": None}, {}),
        ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
        ({"safety_identifier": "s-1"}, {"metadata": {"user_id": "s-1"}}),
        ({"user": "u" * 257}, {}),
        ({"tools": [WEATHER, CLOCK]}, {"tools": [SAID_WEATHER, SAID_CLOCK], "tool_choice": {"type": "auto"}}),
        ({"tools": [CLOCK], "tool_choice": "auto"}, {"tools": [SAID_CLOCK], "tool_choice": {"type": "auto"}}),
        ({"tools": [CLOCK], "tool_choice": "required"}, {"tools": [SAID_CLOCK], "tool_choice": {"type": "any"}}),
        (
            {"tools": [CLOCK], "tool_choice": "none", "parallel_tool_calls": False},
            {"tools": [SAID_CLOCK], "tool_choice": {"type": "none"}},
        ),
        (
            {"tools": [CLOCK, WEATHER], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
            {"tools": [SAID_CLOCK, SAID_WEATHER], "tool_choice": {"type": "tool", "name": "clock"}},
        ),
        (
            {
                "tools": [CLOCK, {**WEATHER, "cache_control": {"type": "ephemeral"}}],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
            },
            {"tools": [{**SAID_WEATHER, "cache_control": {"type": "ephemeral"}}], "tool_choice": {"type": "any"}},
        ),
        (
            {"tools": [CLOCK], "parallel_tool_calls": False},
            {"tools": [SAID_CLOCK], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (
            {"tools": [CLOCK], "parallel_tool_calls": False, "tool_choice": "required"},
            {"tools": [SAID_CLOCK], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        ),
        ({"tools": [CLOCK], "parallel_tool_calls": True}, {"tools": [SAID_CLOCK], "tool_choice": {"type": "auto"}}),
        (
            {"tools": [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]},
            {
                "tools": [{**SAID_WEATHER, "strict": True, "input_schema": {**WEATHER_SCHEMA, "additionalProperties": False}}],
                "tool_choice": {"type": "auto"},
            },
        ),
        ({"tools": [], "tool_choice": "auto"}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER_SCHEMA}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {**WEATHER_SCHEMA, "additionalProperties": False}}}},
        ),
        ({"response_format": {"type": "text"}}, {}),
        # Hints, fields of others, and what would change the price.
        (
            {
                "seed": 7,
                "presence_penalty": 1,
                "prediction": {"type": "content", "content": "x"},
                "verbosity": "low",
                "store": True,
                "metadata": {"a": "b"},
                "stream_options": {"include_usage": True},
                "speed": "fast",
                "inference_geo": "us",
                "service_tier": "auto",
            },
            {},
        ),
    ],
)
def test_fields(fields: dict[str, Any], expected: dict[str, Any]):
    assert sent(fields) == {"max_tokens": 64, "messages": [ASK], **expected}


@pytest.mark.parametrize(
    ("model", "quirks", "fields", "expected"),
    [
        ("claude-sonnet-4-6", (), {"temperature": 0.5, "top_p": 0.9, "top_k": 5}, {"temperature": 0.5, "top_k": 5}),
        ("claude-sonnet-4-6", (), {"temperature": 1.7}, {"temperature": 1}),
        ("claude-haiku-4-5", (), {"temperature": None, "top_p": 0.9}, {"top_p": 0.9}),
        ("claude-3-7-sonnet-20250219", (), {"temperature": 0}, {"temperature": 0}),
        ("claude-sonnet-4-6", ("no_sampling",), {"temperature": 0.5, "top_k": 5}, {}),
        ("claude-opus-4-7", (), {"temperature": 0.5, "top_p": 0.9, "top_k": 5}, {}),
        ("claude-opus-5-5", (), {"temperature": 0.5}, {}),
        ("claude-mythos-preview", (), {"temperature": 0.5}, {}),
    ],
)
def test_sampling_goes_to_models_that_take_it(
    model: str, quirks: tuple[str, ...], fields: dict[str, Any], expected: dict[str, Any]
):
    body = build_request(target(model, *quirks), {**REQUEST, **fields}, stream=False)

    assert body == {"model": model, "max_tokens": 64, "messages": [ASK], **expected}


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        (
            "claude-opus-5-5",
            {"reasoning_effort": "minimal"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        ),
        (
            "claude-opus-5-5",
            {"reasoning_effort": "high"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
        (
            "claude-opus-4-7",
            {"reasoning_effort": "xhigh"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}},
        ),
        (
            "claude-sonnet-4-6",
            {"reasoning_effort": "xhigh"},
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
        ("claude-opus-5-5", {"reasoning_effort": "none"}, {"output_config": {"effort": "low"}}),
        ("claude-opus-5-5", {"reasoning_effort": "enormous"}, {}),
        ("claude-opus-5-5", {"reasoning_effort": None}, {}),
        (
            "claude-opus-5-5",
            {"reasoning_effort": "low", "tools": [CLOCK], "tool_choice": "required"},
            {"output_config": {"effort": "low"}, "tools": [SAID_CLOCK], "tool_choice": {"type": "any"}},
        ),
        (
            "claude-haiku-4-5",
            {"reasoning_effort": "medium", "max_tokens": 64_000, "temperature": 0.5},
            {"thinking": {"type": "enabled", "budget_tokens": 8192}, "max_tokens": 64_000},
        ),
        (
            "claude-haiku-4-5",
            {"reasoning_effort": "high", "max_tokens": 4096},
            {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 4096},
        ),
        ("claude-haiku-4-5", {"reasoning_effort": "high", "max_tokens": 2047}, {"max_tokens": 2047}),
        ("claude-haiku-4-5", {"reasoning_effort": "none", "max_tokens": 4096}, {"max_tokens": 4096}),
        (
            "claude-haiku-4-5",
            {"reasoning_effort": "high", "max_tokens": 2048},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048},
        ),
        (
            "claude-haiku-4-5",
            {"reasoning_effort": "low", "max_tokens": 8192, "tools": [CLOCK], "tool_choice": CLOCK},
            {"max_tokens": 8192, "tools": [SAID_CLOCK], "tool_choice": {"type": "tool", "name": "clock"}},
        ),
    ],
)
def test_effort_becomes_thinking(model: str, fields: dict[str, Any], expected: dict[str, Any]):
    assert sent(fields, model) == {"max_tokens": 64, "messages": [ASK], **expected}


@pytest.mark.parametrize(
    ("effort", "budget"), [("minimal", 1024), ("low", 2048), ("medium", 8192), ("high", 24_576), ("xhigh", 32_768)]
)
def test_effort_has_a_budget_in_older_models(effort: str, budget: int):
    body = sent({"reasoning_effort": effort, "max_tokens": 100_000}, "claude-haiku-4-5")

    assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}


def test_older_models_do_not_think_within_a_tool_loop():
    messages = [
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call("c", "clock", "{}")]},
        {"role": "tool", "tool_call_id": "c", "content": "14 h"},
    ]
    fields = {"reasoning_effort": "low", "max_tokens": 8192, "messages": messages}

    assert "thinking" not in sent(fields, "claude-haiku-4-5")
    assert sent(fields, "claude-opus-5-5")["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("claude-3-7-sonnet-20250219", (3, 7)),
        ("claude-opus-4-20250514", (4, 0)),
        ("claude-haiku-4-5-20251001", (4, 5)),
        ("claude-opus-4.8", (4, 8)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-mythos-preview", (99, 0)),
    ],
)
def test_model_version(model: str, version: tuple[int, int]):
    assert model_version(model) == version


def test_every_object_of_a_schema_is_closed_unless_it_says_otherwise():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/b"}}, "type": {"type": "string"}},
        "anyOf": [{"properties": {}}],
        "oneOf": [{"type": "object"}],
        "allOf": [{"type": "object"}],
        "prefixItems": [{"type": "object"}, True],
        "$defs": {"b": {"type": "object", "additionalProperties": {"type": "string"}}},
        "definitions": {"c": {"type": "object"}},
    }
    closed = {"type": "object", "additionalProperties": False}

    assert closed_schema(schema) == {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/b"}}, "type": {"type": "string"}},
        "anyOf": [{"properties": {}, "additionalProperties": False}],
        "oneOf": [closed],
        "allOf": [closed],
        "prefixItems": [closed, True],
        "definitions": {"c": closed},
        "$defs": {"b": {"type": "object", "additionalProperties": {"type": "string"}}},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"n": 2}, ["n"]),
        ({"logprobs": True, "top_logprobs": 3}, ["logprobs", "top_logprobs"]),
        ({"logit_bias": {"50256": -100}}, ["logit_bias"]),
        ({"response_format": {"type": "json_object"}}, ["response_format"]),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, ["response_format"]),
        ({"stop": ["a", "\n"]}, ["stop"]),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, ["tools"]),
        ({"tools": [CLOCK], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, ["tool_choice"]),
        ({"functions": [{"name": "x"}]}, ["functions"]),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, ["modalities", "audio"]),
        ({"web_search_options": {}}, ["web_search_options"]),
        ({"messages": [user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})]}, ["messages"]),
        ({"messages": [user({"type": "file", "file": {"file_id": "file-1"}})]}, ["messages"]),
        ({"messages": [{"role": "function", "name": "x", "content": "y"}]}, ["messages"]),
        ({"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "stop": [], "modalities": ["text"]}, []),
        ({"parallel_tool_calls": False, "tools": [CLOCK], "tool_choice": "required", "stop": "FIN"}, []),
    ],
)
def test_what_cannot_be_said(fields: dict[str, Any], missing: list[str]):
    assert ADAPTER.inexpressible({**REQUEST, **fields}) == missing


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [call("c", "clock", "{]")]}]},
            "invalid_value",
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "invalid_request", "tool_choice"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [call("c", "clock", "[1]")]}]},
            "invalid_value",
            "messages.0.tool_calls.0.function.arguments",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]}, "unsupported_parameter", "messages"),
        ({"messages": [user({"type": "image_url", "image_url": {"url": "ftp://x"}})]}, "invalid_value", "messages.0.content.0"),
        (
            {"messages": [user({"type": "file", "file": {"file_data": "data:image/png;base64,x"}})]},
            "unsupported_parameter",
            "messages",
        ),
        (
            {"messages": [user({"type": "file", "file": {"file_data": "data:text/plain;base64,*"}})]},
            "invalid_value",
            "messages.0.content.0",
        ),
    ],
)
async def test_nothing_is_sent_of_what_cannot_be_said(
    fields: dict[str, Any], code: str, param: str, replay, session, target_at
):
    where = target_at(replay.base_url("anthropic_stream"), "anthropic")

    with pytest.raises(ProviderError) as whole:
        await ADAPTER.chat(session, where, {**REQUEST, **fields})
    with pytest.raises(ProviderError) as streamed:
        await ADAPTER.open_chat_stream(session, where, {**REQUEST, **fields}).__aenter__()

    assert [error.value.failure for error in (whole, streamed)] == [FailureClass.BAD_REQUEST] * 2
    assert [(error.value.code, error.value.param) for error in (whole, streamed)] == [(code, param)] * 2
    assert whole.value.may_have_billed is False
    assert replay.received == []


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_call_as_it_goes_out(path: str, replay, session, target_at):
    base_url = replay.base_url("anthropic_chat") + path
    where = target_at(base_url, "anthropic", extra_headers={"anthropic-beta": "some-feature"})

    await ADAPTER.chat(session, where, {**REQUEST, "temperature": 0.3, "stream": False})

    [received] = replay.received
    assert received.path == "/t/anthropic_chat/v1/messages"
    assert received.headers["x-api-key"] == SECRET
    assert received.headers["anthropic-version"] == "2023-06-01"
    assert received.headers["anthropic-beta"] == "some-feature"
    assert "Authorization" not in received.headers
    assert received.body == {"model": "upstream-model", "max_tokens": 64, "messages": [ASK]}


async def test_the_new_version_is_a_quirk(replay, session, target_at):
    where = target_at(replay.base_url("anthropic_stream"), "anthropic", quirks=frozenset({"no_sampling"}))

    await read(session, where)

    assert replay.received[0].headers["anthropic-version"] == "2026-10-21"
    assert replay.received[0].headers["Accept-Encoding"] == "identity"
    assert replay.received[0].body["stream"] is True


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"input_tokens": 9, "output_tokens": 4}, Usage(9, output_total=4)),
        (
            {
                "input_tokens": 21,
                "cache_creation_input_tokens": 312,
                "cache_read_input_tokens": 4096,
                "cache_creation": {"ephemeral_5m_input_tokens": 112, "ephemeral_1h_input_tokens": 200},
                "output_tokens": 26,
                "output_tokens_details": {"thinking_tokens": 20},
            },
            Usage(4429, cache_read=4096, cache_write=312, cache_write_1h=200, output_total=26, reasoning=20),
        ),
        (
            {"input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}},
            Usage(6, cache_write=5, cache_write_1h=3),
        ),
        # A later total that is lower than the split told first; more thoughts than output.
        (
            {
                "input_tokens": 1,
                "cache_creation_input_tokens": 2,
                "cache_creation": {"ephemeral_1h_input_tokens": 3},
                "output_tokens": 4,
                "output_tokens_details": {"thinking_tokens": 5},
            },
            Usage(3, cache_write=2, cache_write_1h=2, output_total=4, reasoning=4),
        ),
        ({"input_tokens": None, "output_tokens": -1, "cache_creation": "x", "output_tokens_details": 1}, None),
        ({}, None),
    ],
)
def test_usage_is_normalised(raw: dict[str, Any], usage: Usage | None):
    assert usage_from_anthropic(raw) == usage


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
        (None, "stop"),
    ],
)
async def test_stop_reasons(stop_reason: str | None, finish_reason: str, replay, session, target_at):
    whole = json_of(
        {"id": "msg_1", "content": [], "stop_reason": stop_reason, "usage": {"input_tokens": 1, "output_tokens": 1}}
    )
    streamed = stream_of(START, stop(stop_reason, output_tokens=1), END)

    answer = await ADAPTER.chat(session, target_at(replay.serve(whole), "anthropic"), REQUEST)
    stream, chunks = await read(session, target_at(replay.serve(streamed), "anthropic"))

    assert answer.finish_reason == answer.body["choices"][0]["finish_reason"] == finish_reason
    assert stream.finish_reason == finish_reason
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]] == [None, finish_reason]


async def test_whole_answer_to_the_letter(replay, session, target_at):
    content = [
        {"type": "thinking", "thinking": "Hé.", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        text("A"),
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        text("b"),
        {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}},
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Évreux"}},
    ]
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 6}
    served = json_of({"id": "msg_1", "type": "message", "content": content, "stop_reason": "tool_use", "usage": usage})

    answer = await ADAPTER.chat(session, target_at(replay.serve(served), "anthropic"), REQUEST)

    assert answer.body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Ab",
                "refusal": None,
                "reasoning_content": "Hé.",
                "tool_calls": [
                    {"id": "toolu_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
                    {"id": "toolu_2", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Évreux"}'}},
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]
    assert answer.body["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": 6,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert answer.output_bytes == 2 + 4 + (5 + 2) + (7 + 18)


async def test_answer_without_figures(replay, session, target_at):
    where = target_at(replay.serve(json_of({"content": [text("A")]})), "anthropic")

    answer = await ADAPTER.chat(session, where, REQUEST)

    assert answer.usage is None
    assert "usage" not in answer.body
    assert answer.upstream_id is None
    assert answer.body["id"].startswith("chatcmpl-")


async def test_chunks_to_the_letter(replay, session, target_at):
    served = stream_of(
        START, block(0, type="text", text=""), delta(0, "text_delta", text='à "'), stop("end_turn", output_tokens=2), END
    )
    stream, chunks = await read(session, target_at(replay.serve(served), "anthropic", public_model='à "la carte"\\'))

    common = {"id": "msg_1", "object": "chat.completion.chunk", "created": chunks[0]["created"], "model": 'à "la carte"\\'}
    assert chunks == [
        {**common, "choices": [{"index": 0, "delta": said, "logprobs": None, "finish_reason": reason}]}
        for said, reason in [({"role": "assistant", "content": ""}, None), ({"content": 'à "'}, None), ({}, "stop")]
    ] + [
        {
            **common,
            "choices": [],
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        }
    ]
    assert stream.upstream_id == "msg_1"


async def test_parallel_calls_are_numbered_among_themselves(replay, session, target_at):
    served = stream_of(
        START,
        block(0, type="text", text=""),
        block(1, type="tool_use", id="toolu_1", name="clock", input={}),
        delta(1, "input_json_delta", partial_json=""),
        event("content_block_stop", index=1),
        block(2, type="server_tool_use", id="s", name="web_search", input={}),
        delta(2, "input_json_delta", partial_json='{"q":1}'),
        event("content_block_stop", index=2),
        block(3, type="tool_use", id="toolu_2", name="weather", input={}),
        delta(3, "input_json_delta", partial_json='{"city":'),
        delta(3, "input_json_delta", partial_json='"Évreux"}'),
        event("content_block_stop", index=3),
        stop("tool_use", output_tokens=9),
        END,
    )

    stream, chunks = await read(session, target_at(replay.serve(served), "anthropic"))

    calls = [one["tool_calls"] for one in deltas(chunks) if "tool_calls" in one]
    assert calls == [
        [{"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "clock", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": "{}"}}],
        [{"index": 1, "id": "toolu_2", "type": "function", "function": {"name": "weather", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": '{"city":'}}],
        [{"index": 1, "function": {"arguments": '"Évreux"}'}}],
    ]
    assert stream.output_bytes == 5 + 2 + 7 + 8 + 10


async def test_arguments_and_texts_that_come_with_the_start_of_their_block(replay, session, target_at):
    served = stream_of(
        START,
        block(0, type="thinking", thinking="Hé"),
        block(1, type="text", text="A"),
        block(2, type="tool_use", id="toolu_1", name="weather", input={"city": "Oran"}),
        event("content_block_stop", index=2),
        stop("tool_use", output_tokens=9),
        END,
    )

    stream, chunks = await read(session, target_at(replay.serve(served), "anthropic"))

    assert deltas(chunks)[1:3] == [{"reasoning_content": "Hé"}, {"content": "A"}]
    assert deltas(chunks)[4] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Oran"}'}}]}
    assert stream.output_bytes == 3 + 1 + 7 + 15


async def test_what_later_protocols_add_is_skipped(replay, session, target_at):
    served = stream_of(
        b": comment\n\n",
        START,
        event("ping"),
        event("fanfare", loud=True),
        block(0, type="hologram"),
        delta(0, "hologram_delta", hologram="x"),
        delta(0, "citations_delta", citation={}),
        event("content_block_delta", index=0),
        delta(1, "text_delta", text="A"),
        stop("end_turn", output_tokens=1, later={"a": 1}),
        END,
        b"data: [DONE]\n\n",
    )

    stream, chunks = await read(session, target_at(replay.serve(served), "anthropic"))

    assert deltas(chunks) == [{"role": "assistant", "content": ""}, {"content": "A"}, {}]
    assert stream.completed is True


async def test_figures_told_later_overwrite_and_those_left_out_stay(replay, session, target_at):
    first = {
        "input_tokens": 7,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
        "output_tokens": 1,
        "service_tier": "priority",
    }
    served = stream_of(
        event("message_start", message={"id": "msg_1", "usage": first}),
        stop(None, output_tokens=4),
        stop("end_turn", output_tokens=9, input_tokens=8, cache_read_input_tokens=None),
        END,
    )

    stream, _ = await read(session, target_at(replay.serve(served), "anthropic"))

    assert stream.usage == Usage(13, cache_read=2, cache_write=3, cache_write_1h=2, output_total=9)
    assert stream.service_tier == "priority"


async def test_no_figures_no_usage_chunk(replay, session, target_at):
    end = event("message_delta", delta={"stop_reason": "end_turn"})
    served = stream_of(event("message_start", message={}), delta(0, "text_delta", text="A"), end, END)

    stream, chunks = await read(session, target_at(replay.serve(served), "anthropic"))

    assert stream.completed is True
    assert stream.usage is None
    assert stream.upstream_id is None
    assert [len(chunk["choices"]) for chunk in chunks] == [1, 1, 1]
    assert chunks[0]["id"].startswith("chatcmpl-")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([START, stop("end_turn", output_tokens=2)], id="message_stop is missing"),
        pytest.param([START, stop("end_turn", output_tokens=2), END.rstrip(b"\n")], id="last blank line is missing"),
        pytest.param([stop("end_turn", input_tokens=5, output_tokens=2), END], id="message_start is missing"),
        pytest.param([START, stop(None, output_tokens=2), END], id="stop reason is missing"),
    ],
)
async def test_ends_that_count_as_ends(pieces: list[bytes], replay, session, target_at):
    stream, chunks = await read(session, target_at(replay.serve(stream_of(*pieces)), "anthropic"))

    assert stream.completed is True
    assert stream.finish_reason == "stop"
    assert stream.usage == Usage(5, output_total=2)
    assert chunks[-1]["usage"]["total_tokens"] == 7


@pytest.mark.parametrize(
    ("pieces", "failure", "code"),
    [
        ([event("error", error={"type": "overloaded_error", "message": "x"})], "overloaded", "overloaded_error"),
        ([START, event("error", error={"type": "api_error", "message": "x"})], "internal", "api_error"),
        ([START, event("error", error={"type": "rate_limit_error"})], "rate_limited", "rate_limit_error"),
        ([START, event("error", error={"type": "timeout_error"})], "overloaded", "timeout_error"),
        ([START, event("error")], "internal", None),
        ([START], "overloaded", "connection_error"),
        ([event("ping")], "overloaded", "connection_error"),
        ([b"data: {not json}\n\n"], "internal", "bad_stream"),
        ([b"data: 7\n\n"], "internal", "bad_stream"),
        ([delta(0, "text_delta", text=7)], "internal", "bad_stream"),
    ],
)
async def test_stream_that_fails_before_any_text_keeps_its_class(
    pieces: list[bytes], failure: str, code: str | None, replay, session, target_at
):
    with pytest.raises(ProviderError) as caught:
        await read(session, target_at(replay.serve(stream_of(*pieces)), "anthropic"))

    assert caught.value.failure == failure
    assert caught.value.code == code
    assert caught.value.retryable is True
    assert caught.value.may_have_billed is True


async def test_thoughts_are_delivered_text(replay, session, target_at):
    served = stream_of(START, delta(0, "thinking_delta", thinking="Hé"))

    with pytest.raises(ProviderError) as caught:
        await read(session, target_at(replay.serve(served), "anthropic"))

    assert caught.value.failure == FailureClass.TRUNCATED


def error_of(kind: str, message: str = "x", code: str | None = None) -> dict[str, Any]:
    details = {} if code is None else {"details": {"error_code": code}}
    return {"type": "error", "error": {"type": kind, "message": message, **details}, "request_id": "req_1"}


@pytest.mark.parametrize(
    ("answer", "failure", "code", "retry_after_seconds"),
    [
        (json_of(error_of("billing_error"), 402), "no_funds", "billing_error", None),
        (
            json_of(error_of("billing_error", code="linked_organization_spend_limit_reached"), 402),
            "no_funds",
            "linked_organization_spend_limit_reached",
            None,
        ),
        (
            json_of(error_of("rate_limit_error", code="contract_spend_limit_reached"), 429),
            "no_funds",
            "contract_spend_limit_reached",
            None,
        ),
        (
            json_of(error_of("rate_limit_error", code="ramp_limit_exceeded"), 429, retry_after="3"),
            "rate_limited",
            "rate_limit_error",
            3.0,
        ),
        (
            json_of(
                error_of("rate_limit_error"),
                429,
                anthropic_ratelimit_requests_remaining="9",
                anthropic_ratelimit_requests_reset="2999-01-01T00:00:00Z",
                anthropic_ratelimit_tokens_remaining="0",
                anthropic_ratelimit_tokens_reset="2020-01-01T00:00:00Z",
            ),
            "rate_limited",
            "rate_limit_error",
            0.0,
        ),
        (
            json_of(error_of("invalid_request_error", "Your credit balance is too low to access the API."), 400),
            "no_funds",
            "billing_error",
            None,
        ),
        (
            json_of(error_of("invalid_request_error", "You have reached your specified API usage limits."), 400),
            "no_funds",
            "billing_error",
            None,
        ),
        (
            json_of(error_of("invalid_request_error", "You said: your credit balance is too low"), 400),
            "bad_request",
            "invalid_request_error",
            None,
        ),
        (json_of(error_of("permission_error"), 403), "auth", "permission_error", None),
        (json_of(error_of("not_found_error"), 404), "bad_request", "not_found_error", None),
        (json_of(error_of("conflict_error"), 409), "bad_request", "conflict_error", None),
        (json_of(error_of("request_too_large"), 413), "bad_request", "request_too_large", None),
        (json_of(error_of("api_error", code="cmek_key_unavailable"), 503), "overloaded", "cmek_key_unavailable", None),
        (json_of(error_of("timeout_error"), 504), "overloaded", "timeout_error", None),
        (json_of(error_of("overloaded_error", code="compaction_unavailable"), 529), "overloaded", "overloaded_error", None),
        (json_of(error_of("overloaded_error")), "overloaded", "overloaded_error", None),
        (json_of({"type": "message", "content": "x"}), "internal", "bad_answer", None),
        (Answer(200, {"content-type": "text/html"}, b"<html>"), "internal", "bad_answer", None),
    ],
)
async def test_failures(answer: Answer, failure: str, code: str, retry_after_seconds: float | None, replay, session, target_at):
    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target_at(replay.serve(answer), "anthropic"), REQUEST)

    assert caught.value.failure == failure
    assert caught.value.code == code
    assert caught.value.retry_after_seconds == retry_after_seconds
    assert caught.value.status == (None if code == "bad_answer" else answer.status)
    assert caught.value.may_have_billed is (answer.status in (200, 504))
    assert len(replay.received) == 1


@pytest.mark.parametrize(
    ("served", "failure", "code"),
    [
        (recorded("anthropic_chat"), FailureClass.INTERNAL, "bad_answer"),
        (json_of(error_of("overloaded_error")), FailureClass.OVERLOADED, "overloaded_error"),
    ],
)
async def test_document_instead_of_a_stream(served: Answer, failure: FailureClass, code: str, replay, session, target_at):
    with pytest.raises(ProviderError) as caught:
        await read(session, target_at(replay.serve(served), "anthropic"))

    assert (caught.value.failure, caught.value.code) == (failure, code)
    assert caught.value.may_have_billed is True
