"""What Cohere is told and what its answers mean; what every adapter owes is in the contract."""

from typing import Any

import msgspec
import pytest

from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.providers.cohere import CohereAdapter, usage_from_cohere
from routing.providers.cohere_request import build_request
from routing.simulator import start_simulator
from tests.wire.replay import EVENT_STREAM, Answer

from .conftest import SECRET

ADAPTER = CohereAdapter()
HELLO = [{"role": "user", "content": "Bonjour"}]
REQUEST = {"model": "public-model", "messages": HELLO}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": True}}
CLOCK = {"type": "function", "function": {"name": "get_time", "description": "The time"}}
USAGE = {"billed_units": {"input_tokens": 5, "output_tokens": 2}, "tokens": {"input_tokens": 201, "output_tokens": 3}}


def sent(model: str = "command-a-03-2025", **fields: Any) -> dict[str, Any]:
    """What goes out for a request with these fields, but for model and stream."""
    body = build_request(Target("cohere", "http://x", "k", model, "public-model"), {**REQUEST, **fields}, stream=False)
    assert body.pop("model") == model
    assert body.pop("stream") is False
    return body


def event(kind: str, **delta: Any) -> bytes:
    body = {"type": kind, "id": "m1", "delta": delta}
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"


def text(said: str) -> bytes:
    return event("content-delta", message={"content": {"text": said}})


START = event("message-start", message={"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []})
END = event("message-end", finish_reason="COMPLETE", usage=USAGE)


def stream_of(*pieces: bytes) -> Answer:
    return Answer(headers={"content-type": EVENT_STREAM}, pieces=pieces)


def json_of(body: object, status: int = 200) -> Answer:
    return Answer(status, {"content-type": "application/json"}, msgspec.json.encode(body))


async def read_stream(session, target: Target, chunks: list[dict] | None = None):
    """The stream after it was read to its end; chunk bodies go to `chunks`."""
    chunks = [] if chunks is None else chunks
    async with ADAPTER.open_chat_stream(session, target, REQUEST) as stream:
        async for chunk in stream:
            chunks.append(msgspec.json.decode(chunk.data))
    return stream


# -- requests ------------------------------------------------------------------------------------------------------------


def test_a_conversation_with_images_calls_and_results():
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Évreux"}'}}
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": "A town."},
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " the weather?"}]},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [{**call, "extra_content": {"x": 1}}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "12"}]},
    ]

    assert sent(messages=messages, tools=[WEATHER, CLOCK]) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                ],
            },
            {"role": "assistant", "content": "A town."},
            {"role": "user", "content": "And the weather?"},
            {"role": "assistant", "tool_plan": "Let me see.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "12"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
            {
                "type": "function",
                "function": {
                    "name": "get_time",
                    "description": "The time",
                    "parameters": {"type": "object", "properties": {}},
                },
            },
        ],
    }


def test_the_plan_a_client_kept_as_reasoning_goes_back_as_the_plan():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "reasoning_content": "First f.", "tool_calls": [call]}

    assert sent(messages=[*HELLO, message])["messages"][1]["tool_plan"] == "First f."


@pytest.mark.parametrize(
    ("choice", "names", "theirs"),
    [
        ("auto", ["get_weather", "get_time"], None),
        ("none", ["get_weather", "get_time"], "NONE"),
        ("required", ["get_weather", "get_time"], "REQUIRED"),
        ({"type": "function", "function": {"name": "get_time"}}, ["get_time"], "REQUIRED"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}, ["get_time"], None),
    ],
)
def test_tool_choice(choice: Any, names: list[str], theirs: str | None):
    body = sent(tools=[WEATHER, CLOCK], tool_choice=choice)

    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert body.get("tool_choice") == theirs


@pytest.mark.parametrize(
    ("model", "fields", "theirs"),
    [
        ("command-r", {"max_tokens": 9, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ("command-r", {"stop": ["a"]}, {"stop_sequences": ["a"]}),
        ("command-r", {"temperature": 0, "top_p": 1, "top_k": 40}, {"temperature": 0, "p": 0.99, "k": 40}),
        (
            "command-r",
            {"presence_penalty": -2, "frequency_penalty": 1.5, "seed": 7},
            {"presence_penalty": 0, "frequency_penalty": 1, "seed": 7},
        ),
        ("command-r", {"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        (
            "command-r",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": PARAMETERS}}},
            {"response_format": {"type": "json_object", "json_schema": PARAMETERS}},
        ),
        ("command-a-reasoning-08-2025", {"reasoning_effort": "high"}, {"thinking": {"type": "enabled"}}),
        ("command-a-reasoning-08-2025", {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ("command-a-03-2025", {"reasoning_effort": "high"}, {}),
        ("command-r", {"n": 1, "user": "u", "metadata": {}, "logit_bias": {}, "service_tier": "flex", "unknown": 1}, {}),
    ],
)
def test_further_fields(model: str, fields: dict, theirs: dict):
    body = sent(model, **fields)

    assert body.pop("messages") == HELLO
    assert body == theirs


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({"temperature": 1, "reasoning_effort": "low", "stop": "x"}, []),
        ({"n": 2, "logprobs": True, "logit_bias": {"1": 1}}, ["n", "logprobs", "logit_bias"]),
        ({"response_format": {"type": "json_object"}}, []),
        ({"response_format": {"type": "json_object"}, "tools": [WEATHER]}, ["response_format"]),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, ["parallel_tool_calls"]),
        ({"parallel_tool_calls": False}, []),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, ["tools"]),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, ["tool_choice"]),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, ["messages"]),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f1"}}]}]}, ["messages"]),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, ["messages"]),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]}, ["messages"]),
    ],
)
def test_what_cohere_cannot_be_told(fields: dict, missing: list[str]):
    assert ADAPTER.inexpressible({**REQUEST, **fields}) == missing


async def test_what_cannot_be_told_is_refused_unsent(replay, session, target_at):
    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target_at(replay.base_url("cohere_v2_chat"), "cohere"), {**REQUEST, "n": 2})

    assert (caught.value.failure, caught.value.code) == (FailureClass.BAD_REQUEST, "unsupported_parameter")
    assert caught.value.param == "n"
    assert replay.received == []


async def test_where_and_with_what_a_call_goes_out(replay, session, target_at):
    await ADAPTER.chat(session, target_at(replay.base_url("cohere_v2_chat") + "/v2/", "cohere"), REQUEST)

    [received] = replay.received
    assert received.path == "/t/cohere_v2_chat/v2/chat"
    assert received.headers["Authorization"] == f"Bearer {SECRET}"
    assert received.body == {"model": "upstream-model", "messages": HELLO, "stream": False}


# -- answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (USAGE, Usage(5, output_total=2)),
        (
            {"billed_units": {"input_tokens": 5.0, "output_tokens": 2.0}, "cached_tokens": 3},
            Usage(5, cache_read=3, output_total=2),
        ),
        # The cache holds Cohere's own prompt too: what is not billed cannot have been billed less.
        ({**USAGE, "cached_tokens": 190}, Usage(5, cache_read=5, output_total=2)),
        ({"tokens": {"input_tokens": 201, "output_tokens": 3}}, Usage(201, output_total=3)),
        ({"billed_units": {"search_units": 1}}, None),
        ({}, None),
    ],
)
def test_usage_is_what_is_billed(raw: dict, usage: Usage | None):
    assert usage_from_cohere(raw) == usage


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("COMPLETE", "stop"), ("STOP_SEQUENCE", "stop"), ("MAX_TOKENS", "length"), ("ERROR_TOXIC", "content_filter")],
)
async def test_finish_reasons(theirs: str, ours: str, replay, session, target_at):
    body = {"id": "m1", "finish_reason": theirs, "message": {"role": "assistant", "content": [{"type": "text", "text": "a"}]}}

    answer = await ADAPTER.chat(session, target_at(replay.serve(json_of(body)), "cohere"), REQUEST)

    assert answer.finish_reason == ours
    assert answer.usage is None
    assert "usage" not in answer.body


@pytest.mark.parametrize(("reason", "failure"), [("ERROR", "internal"), ("TIMEOUT", "overloaded"), ("NEW", "internal")])
async def test_generation_that_failed(reason: str, failure: str, replay, session, target_at):
    whole = replay.serve(json_of({"id": "m1", "finish_reason": reason, "message": {"role": "assistant"}}))
    streamed = replay.serve(stream_of(START, event("message-end", finish_reason=reason, error="no plainkey", usage=USAGE)))
    stream = ADAPTER.open_chat_stream(session, target_at(streamed, "cohere", secret="plainkey"), REQUEST)

    with pytest.raises(ProviderError) as first:
        await ADAPTER.chat(session, target_at(whole, "cohere"), REQUEST)
    async with stream:
        with pytest.raises(ProviderError) as second:
            assert [chunk async for chunk in stream]

    assert first.value.failure == second.value.failure == failure
    assert first.value.code == second.value.code == reason
    assert first.value.may_have_billed is second.value.may_have_billed is True
    assert second.value.detail == "no ***"
    assert stream.usage == Usage(5, output_total=2)


async def test_thinking_is_reasoning_and_citations_are_left_out(replay, session, target_at):
    answer = stream_of(
        START,
        event("content-start", message={"content": {"type": "thinking", "thinking": "H"}}),
        event("content-delta", message={"content": {"thinking": "é"}}),
        text("Oui"),
        event("citation-start", message={"citations": {"start": 0, "end": 3, "text": "Oui"}}),
        event("never-heard-of"),
        END,
    )
    chunks: list[dict] = []

    stream = await read_stream(session, target_at(replay.serve(answer), "cohere"), chunks)

    assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
        {"role": "assistant", "content": None, "reasoning_content": "H"},
        {"reasoning_content": "é"},
        {"content": "Oui"},
        {},
    ]
    assert stream.output_bytes == 6
    assert stream.usage == Usage(5, output_total=2)


async def test_two_calls_are_numbered(replay, session, target_at):
    def start(call_id: str, name: str) -> bytes:
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        return event("tool-call-start", message={"tool_calls": call})

    def arguments(piece: str) -> bytes:
        return event("tool-call-delta", message={"tool_calls": {"function": {"arguments": piece}}})

    end = event("message-end", finish_reason="TOOL_CALL", usage=USAGE)
    answer = stream_of(START, start("a", "f"), arguments("{"), arguments("}"), start("b", "g"), arguments("{}"), end)
    chunks: list[dict] = []

    stream = await read_stream(session, target_at(replay.serve(answer), "cohere"), chunks)

    calls = [call for chunk in chunks[:-2] for call in chunk["choices"][0]["delta"]["tool_calls"]]
    assert [(call["index"], call.get("id"), call["function"]["arguments"]) for call in calls] == [
        (0, "a", ""),
        (0, None, "{"),
        (0, None, "}"),
        (1, "b", ""),
        (1, None, "{}"),
    ]
    assert stream.finish_reason == "tool_calls"
    assert stream.output_bytes == len("f{}g{}")


@pytest.mark.parametrize(
    ("pieces", "failure", "code"),
    [
        ([b'data: {"message":"too many requests"}\n\n'], "internal", None),
        ([b"data: {not json}\n\n"], "internal", "bad_stream"),
        ([b"data: 7\n\n"], "internal", "bad_stream"),
        ([START], "overloaded", "connection_error"),
        ([b"data: [DONE]\n\n"], "internal", "bad_stream"),
    ],
)
async def test_stream_that_fails_before_any_text_keeps_its_class(
    pieces: list[bytes], failure: str, code: str | None, replay, session, target_at
):
    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target_at(replay.serve(stream_of(*pieces)), "cohere"))

    assert (caught.value.failure, caught.value.code) == (failure, code)
    assert caught.value.may_have_billed is True


async def test_end_without_message_end_is_a_truncation(replay, session, target_at):
    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target_at(replay.serve(stream_of(START, text("a"))), "cohere"))

    assert caught.value.failure == FailureClass.TRUNCATED


@pytest.mark.parametrize(
    ("status", "failure", "retryable"),
    [
        (400, "bad_request", False),
        (401, "auth", True),
        (402, "no_funds", True),
        (404, "bad_request", False),
        (422, "bad_request", False),
        (429, "rate_limited", True),
        (498, "auth", True),
        (499, "internal", True),
        (500, "internal", True),
        (501, "internal", True),
        (503, "overloaded", True),
        (504, "overloaded", True),
    ],
)
async def test_failure_classes(status: int, failure: str, retryable: bool, replay, session, target_at):
    target = target_at(replay.serve(json_of({"id": "e1", "message": "about plainkey"}, status)), "cohere", secret="plainkey")

    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target, REQUEST)

    assert caught.value.failure == failure
    assert caught.value.retryable is retryable
    assert caught.value.status == status
    assert caught.value.detail == "about ***"
    assert "plainkey" not in caught.value.message


# -- against the simulator -----------------------------------------------------------------------------------------------


async def test_whole_and_streamed_from_the_simulator(session, target_at):
    request = {**REQUEST, "max_tokens": 20, "top_p": 1, "presence_penalty": -1, "stop": "END", "seed": 1}
    async with start_simulator() as simulator:
        target = target_at(f"{simulator.url}/cohere/v2", "cohere")
        whole = await ADAPTER.chat(session, target, request)
        stream = ADAPTER.open_chat_stream(session, target, request)
        async with stream:
            chunks = [msgspec.json.decode(chunk.data) async for chunk in stream]

    streamed = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1])
    assert whole.body["choices"][0]["message"]["content"] == streamed
    assert streamed.startswith("IA Factory's simulator answers for cohere. You asked: Bonjour")
    assert whole.usage == stream.usage == Usage(5, output_total=20)
    assert whole.finish_reason == stream.finish_reason == "length"


async def test_tools_and_formats_from_the_simulator(session, target_at):
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": PARAMETERS}}
    async with start_simulator() as simulator:
        target = target_at(f"{simulator.url}/cohere/v2", "cohere")
        called = await ADAPTER.chat(session, target, {**REQUEST, "tools": [WEATHER], "tool_choice": "required"})
        message = called.body["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "12"}
        told = await ADAPTER.chat(session, target, {**REQUEST, "messages": [*HELLO, message, result], "tools": [WEATHER]})
        formatted = await ADAPTER.chat(session, target, {**REQUEST, "response_format": wanted})

    assert message["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city":"example"}'}
    assert (called.finish_reason, told.finish_reason) == ("tool_calls", "stop")
    assert formatted.body["choices"][0]["message"]["content"] == '{"city":"example"}'


async def test_failures_of_the_simulator(session, target_at):
    async with start_simulator() as simulator:
        target = target_at(f"{simulator.url}/cohere/v2", "cohere")
        simulator.controls.change("cohere", {"fail_status": 402})
        with pytest.raises(ProviderError) as unpaid:
            await ADAPTER.chat(session, target, REQUEST)
        simulator.controls.change("cohere", {"fail_status": None, "error_after_chunks": 2})
        with pytest.raises(ProviderError) as reported:
            await read_stream(session, target)
        simulator.controls.change("cohere", {"error_after_chunks": None, "drop_after_chunks": 2})
        with pytest.raises(ProviderError) as dropped:
            await read_stream(session, target)

    assert unpaid.value.failure == FailureClass.NO_FUNDS
    assert (reported.value.failure, reported.value.code) == (FailureClass.TRUNCATED, "ERROR")
    assert (dropped.value.failure, dropped.value.code) == (FailureClass.TRUNCATED, "connection_error")
