"""What OpenAI's relatives do differently, and what the network does to a call."""

import asyncio
import socket
import time
from decimal import Decimal

import msgspec
import pytest

from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.providers.openai import OpenAIAdapter, build_request, usage_from_openai
from routing.providers.presets import PRESETS, QUIRKS
from tests.wire.replay import EVENT_STREAM, Answer, recorded

from .conftest import SECRET

ADAPTER = OpenAIAdapter()
REQUEST = {"model": "public-model", "messages": [{"role": "user", "content": "Bonjour"}]}


def event(**fields: object) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795166047, "model": "upstream-model"}
    return b"data: " + msgspec.json.encode({**chunk, **fields}) + b"\n\n"


def delta(finish_reason: str | None = None, **fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}])


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def stream_of(*pieces: bytes, **changes: object) -> Answer:
    return Answer(headers={"content-type": EVENT_STREAM}, pieces=pieces, **changes)


def json_of(body: object, status: int = 200, **headers: str) -> Answer:
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Answer(status, sent, msgspec.json.encode(body))


async def read_stream(session, target: Target, chunks: list[dict] | None = None):
    """The stream after it was read to its end; chunk bodies go to `chunks`."""
    chunks = [] if chunks is None else chunks
    async with ADAPTER.open_chat_stream(session, target, REQUEST) as stream:
        async for chunk in stream:
            chunks.append(msgspec.json.decode(chunk.data))
    return stream


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, Usage(9, output_total=4)),
        ({"prompt_tokens": 9, "total_tokens": 9}, Usage(9)),
        # Reasoning included, as OpenAI does.
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 40,
                "total_tokens": 49,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(9, output_total=40, reasoning=30),
        ),
        # Reasoning left out of completion_tokens, as xAI does.
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 40,
                "total_tokens": 79,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(9, output_total=70, reasoning=30),
        ),
        # The same without a total to tell.
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 30}},
            Usage(9, output_total=34, reasoning=30),
        ),
        # Thinking in the total alone, as Gemini's compatible endpoint does.
        ({"prompt_tokens": 19, "completion_tokens": 17, "total_tokens": 58}, Usage(19, output_total=39)),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 1,
                "total_tokens": 101,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
            },
            Usage(100, cache_read=60, cache_write=30, output_total=1),
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 1, "prompt_cache_hit_tokens": 64},
            Usage(100, cache_read=64, output_total=1),
        ),
        (
            {"completion_tokens": 1, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
            Usage(100, cache_read=64, output_total=1),
        ),
        # Cached tokens left out of the prompt: the parts may not exceed the total.
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 60}},
            Usage(60, cache_read=60, output_total=1),
        ),
        (
            {"prompt_tokens": 1, "completion_tokens": 1, "cost": 2.405e-05},
            Usage(1, output_total=1, provider_cost_usd=Decimal("0.00002405")),
        ),
        (
            {
                "prompt_tokens": 1,
                "completion_tokens": 1,
                "cost": 0.01,
                "is_byok": True,
                "cost_details": {"upstream_inference_cost": 0.2},
            },
            Usage(1, output_total=1, provider_cost_usd=Decimal("0.21")),
        ),
        (
            {"prompt_tokens": 1, "completion_tokens": 1, "cost_in_usd_ticks": 7350000},
            Usage(1, output_total=1, provider_cost_usd=Decimal("0.000735")),
        ),
        ({"prompt_tokens": -1, "completion_tokens": 3, "cost": "free"}, Usage(0, output_total=3)),
        ({"prompt_tokens": "many", "completion_tokens": None, "total_tokens": True}, None),
        ({}, None),
    ],
)
def test_usage_is_normalised(raw: dict, usage: Usage | None):
    assert usage_from_openai(raw) == usage


@pytest.mark.parametrize(
    ("provider", "request_fields", "sent_fields"),
    [
        ("openai", {"max_tokens": 7}, {"max_completion_tokens": 7}),
        ("openai", {"max_tokens": 7, "max_completion_tokens": 9}, {"max_completion_tokens": 7}),
        ("openai", {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        ("mistral", {"max_completion_tokens": 9}, {"max_tokens": 9}),
        ("mistral", {"max_tokens": None, "max_completion_tokens": 9}, {"max_tokens": 9}),
        ("mistral", {"seed": 3, "tool_choice": "required"}, {"random_seed": 3, "tool_choice": "any"}),
        ("mistral", {"stream": True, "stream_options": {"include_usage": True}}, {}),
        ("groq", {"max_tokens": 7, "seed": 3}, {"max_tokens": 7, "seed": 3}),
        ("groq", {"stream": True, "stream_options": {"include_usage": True}, "x": None}, {"x": None}),
    ],
)
def test_request_is_spelled_as_the_company_wants_it(provider: str, request_fields: dict, sent_fields: dict):
    target = Target(provider, "http://x", "k", "upstream-model", "public-model", quirks=PRESETS[provider].quirks)

    sent = build_request(target, {**REQUEST, **request_fields}, stream=False)

    assert sent == {"model": "upstream-model", "messages": REQUEST["messages"], **sent_fields}


@pytest.mark.parametrize(
    ("provider", "request_fields", "missing"),
    [
        ("openai", {"n": 2, "logprobs": True, "top_logprobs": 2, "logit_bias": {"1": 1}, "functions": [{"name": "x"}]}, []),
        ("groq", {"n": 2, "logprobs": True, "top_logprobs": 2, "seed": 1}, ["n", "logprobs", "top_logprobs"]),
        ("groq", {"logit_bias": {"1": 1}, "response_format": {"type": "json_object"}}, ["logit_bias"]),
        ("groq", {"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}}, []),
    ],
)
def test_what_a_company_cannot_take(provider: str, request_fields: dict, missing: list[str]):
    assert ADAPTER.inexpressible({**REQUEST, **request_fields}, PRESETS[provider].quirks) == missing


async def test_stream_asks_for_usage_and_keeps_other_stream_options(replay, session, target_at):
    target = target_at(replay.base_url("openai_stream") + "/v1/", extra_headers={"X-Title": "Example"})
    request = {**REQUEST, "stream_options": {"include_obfuscation": False, "include_usage": False}, "unknown": {"a": 1}}

    async with ADAPTER.open_chat_stream(session, target, request) as stream:
        await anext(stream)

    sent = replay.received[0]
    assert sent.path == "/t/openai_stream/v1/chat/completions"
    assert sent.headers["X-Title"] == "Example"
    assert sent.body == {
        "model": "upstream-model",
        "messages": REQUEST["messages"],
        "stream": True,
        "stream_options": {"include_obfuscation": False, "include_usage": True},
        "unknown": {"a": 1},
    }


async def test_mistral_stream_carries_no_stream_options(replay, session, target_at):
    target = target_at(replay.base_url("openai_stream"), "mistral")

    await read_stream(session, target)

    assert "stream_options" not in replay.received[0].body
    assert replay.received[0].body["stream"] is True


def test_every_quirk_of_a_preset_has_a_meaning():
    # Some are for servers that operators add themselves.
    assert {quirk for preset in PRESETS.values() for quirk in preset.quirks} <= QUIRKS.keys()


async def test_only_the_top_level_model_is_renamed(replay, session, target_at):
    text = 'say "model":"upstream-model" and \\"model\\":\\"upstream-model\\"'
    nested = (
        b'data: {"meta":{"model":"upstream-model"},"id":"chatcmpl-1","object":"chat.completion.chunk",'
        b'"created":1795166047,"model":"upstream-model","choices":[{"index":0,"delta":{"content":"model"}}]}\n\n'
    )
    answer = stream_of(delta(role="assistant", content=""), delta(content=text), nested, delta("stop"), DONE)
    chunks: list[dict] = []

    stream = await read_stream(session, target_at(replay.serve(answer)), chunks)

    assert [chunk["model"] for chunk in chunks] == ["public-model"] * 4
    assert chunks[1]["choices"][0]["delta"]["content"] == text
    assert chunks[2]["meta"] == {"model": "upstream-model"}
    assert chunks[2]["choices"][0]["delta"] == {"content": "model"}
    assert stream.output_bytes == len(text) + len("model")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "What the provider said about ***."),
        (401, "The provider cannot serve this request at the moment."),
        (402, "The provider cannot serve this request at the moment."),
        (429, "The provider is receiving too many requests; try again later."),
        (500, "The provider failed to answer."),
        (503, "The provider is overloaded or did not answer in time; try again later."),
    ],
)
async def test_clients_read_the_providers_words_only_about_their_own_request(
    status: int, message: str, replay, session, target_at
):
    said = {"error": {"message": f"What the provider said about {SECRET}."}}

    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target_at(replay.serve(json_of(said, status))), REQUEST)

    assert caught.value.message == str(caught.value) == message
    assert caught.value.detail == "What the provider said about ***."


async def test_chunks_are_passed_on_byte_for_byte_but_for_the_model(replay, session, target_at):
    target = target_at(replay.base_url("openai_stream"), upstream_model="gpt-6.1-sol", public_model="gpt-6.1-sol")
    sent = b"".join(recorded("openai_stream").pieces).split(b"\n\n")

    async with ADAPTER.open_chat_stream(session, target, REQUEST) as stream:
        received = [b"data: " + chunk.data async for chunk in stream]

    assert received[:-1] == sent[: len(received) - 1]
    assert len(received) == 14


async def test_public_name_that_needs_escaping(replay, session, target_at):
    chunks: list[dict] = []
    target = target_at(replay.base_url("openai_stream"), public_model='à "la carte"\\')

    await read_stream(session, target, chunks)

    assert {chunk["model"] for chunk in chunks} == {'à "la carte"\\'}


async def test_usage_on_every_chunk_reaches_the_client_once(replay, session, target_at):
    answer = stream_of(
        event(choices=[{"index": 0, "delta": {"content": "a"}}], usage={**USAGE, "completion_tokens": 1}),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage={**USAGE, "cost": 0.5}),
        DONE,
    )
    chunks: list[dict] = []

    stream = await read_stream(session, target_at(replay.serve(answer)), chunks)

    assert stream.usage == Usage(5, output_total=2, provider_cost_usd=Decimal("0.5"))
    assert [chunk["usage"] for chunk in chunks[:2]] == [None, None]
    assert chunks[2]["choices"] == []
    assert chunks[2]["usage"] == {
        **USAGE,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_usage_in_x_groq_alone(replay, session, target_at):
    answer = stream_of(
        delta(content="a"),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], x_groq={"id": "req_1", "usage": USAGE}),
        DONE,
    )
    chunks: list[dict] = []

    stream = await read_stream(session, target_at(replay.serve(answer), "groq"), chunks)

    assert stream.usage == Usage(5, output_total=2)
    assert chunks[1]["x_groq"] == {"id": "req_1"}
    assert chunks[2]["usage"]["total_tokens"] == 7


async def test_parts_and_argument_objects_become_text(replay, session, target_at):
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hé"}]}
    call = {"id": "c1", "index": 0, "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}
    answer = stream_of(
        delta(content=[thinking, {"type": "text", "text": "Oui"}]),
        delta(tool_calls=[call]),
        delta("tool_calls"),
        DONE,
    )
    chunks: list[dict] = []

    stream = await read_stream(session, target_at(replay.serve(answer), "mistral"), chunks)

    assert chunks[0]["choices"][0]["delta"] == {"content": "Oui", "reasoning_content": "Hé"}
    assert chunks[1]["choices"][0]["delta"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":"é"}'}
    assert stream.output_bytes == len("Oui") + len("Hé".encode()) + len("f") + len('{"a":"é"}'.encode())


async def test_whole_answer_gets_every_required_field(replay, session, target_at):
    parts = [{"type": "thinking", "thinking": [{"text": "Hé"}]}, {"type": "text", "text": "Oui"}]
    call = {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}
    answer = json_of({"choices": [{"message": {"content": parts, "tool_calls": [call]}, "finish_reason": "model_length"}]})

    result = await ADAPTER.chat(session, target_at(replay.serve(answer), "mistral"), REQUEST)

    choice = result.body["choices"][0]
    assert result.usage is None
    assert "usage" not in result.body
    assert result.upstream_id is None
    assert result.body["id"].startswith("chatcmpl-")
    assert abs(result.body["created"] - time.time()) < 60
    assert choice == {
        "index": 0,
        "logprobs": None,
        "finish_reason": "length",
        "message": {
            "role": "assistant",
            "content": "Oui",
            "reasoning_content": "Hé",
            "refusal": None,
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
    }
    assert result.output_bytes == 3 + 3 + 1 + 7


@pytest.mark.parametrize(
    ("provider", "answer", "failure", "code", "retry_after_seconds"),
    [
        (
            "xai",
            json_of({"code": "x", "error": "Incorrect API key provided: xa***Z"}, 400),
            "auth",
            "invalid_api_key",
            None,
        ),
        ("groq", json_of({"error": {"message": "Say 'incorrect API key'"}}, 400), "bad_request", None, None),
        ("xai", json_of({"error": {"message": "You said: incorrect API key"}}, 400), "bad_request", None, None),
        (
            "google",
            json_of([{"error": {"code": 400, "message": "x", "details": [{"reason": "API_KEY_INVALID"}]}}], 400),
            "auth",
            "API_KEY_INVALID",
            None,
        ),
        (
            "google",
            json_of({"error": {"code": 402, "status": "RESOURCE_EXHAUSTED"}}, 402),
            "no_funds",
            "RESOURCE_EXHAUSTED",
            None,
        ),
        ("together", json_of({"error": {"message": "too long"}}, 403), "bad_request", "context_length_exceeded", None),
        ("groq", json_of({"error": {"message": "no"}}, 403), "auth", None, None),
        ("cohere", json_of({"message": "invalid token"}, 498), "auth", None, None),
        (
            "dashscope",
            json_of({"error": {"code": "insufficient_quota"}}, 429),
            "rate_limited",
            "insufficient_quota",
            None,
        ),
        (
            "openrouter",
            json_of({"error": {"code": 402, "metadata": {"error_type": "in_flight_budget_exhausted"}}}, 402, retry_after="3"),
            "rate_limited",
            "in_flight_budget_exhausted",
            3.0,
        ),
        (
            "openrouter",
            json_of({"error": {"code": 403, "metadata": {"limit_source": "key"}}}, 403),
            "no_funds",
            "403",
            None,
        ),
        (
            "openrouter",
            json_of({"error": {"code": 503, "availability": {"retry_after": 10}}}, 503),
            "overloaded",
            "503",
            10.0,
        ),
        (
            "openai",
            json_of(
                {"error": {"type": "tokens"}},
                429,
                x_ratelimit_remaining_requests="9",
                x_ratelimit_reset_requests="6m0s",
                x_ratelimit_remaining_tokens="0",
                x_ratelimit_reset_tokens="1m2.5s",
            ),
            "rate_limited",
            "tokens",
            62.5,
        ),
        (
            "openai",
            json_of({"error": {"type": "requests"}}, 429, x_ratelimit_reset_requests="12ms"),
            "rate_limited",
            "requests",
            0.012,
        ),
        (
            "openai",
            json_of({"error": {"type": "requests"}}, 429, retry_after="Fri, 20 Nov 2020 09:14:07 GMT"),
            "rate_limited",
            "requests",
            0.0,
        ),
        ("openai", json_of({"error": {"type": "requests"}}, 429, retry_after="soon"), "rate_limited", "requests", None),
        ("openai", json_of({"error": {}}, 529), "overloaded", None, None),
        ("openai", json_of(None, 418), "internal", None, None),
        ("openai", json_of({"error": {"message": "x"}}, 302, location="http://127.0.0.1:9/"), "internal", None, None),
        ("openai", json_of({"choices": []}), "internal", "bad_answer", None),
        ("openai", json_of([1]), "internal", "bad_answer", None),
        ("openai", Answer(200, {"content-type": "application/json"}, b"<html>"), "internal", "bad_answer", None),
        ("mistral", json_of({"choices": [{"message": {}, "finish_reason": "error"}]}), "internal", "error", None),
        (
            "deepseek",
            json_of({"choices": [{"message": {}, "finish_reason": "insufficient_system_resource"}]}),
            "overloaded",
            "insufficient_system_resource",
            None,
        ),
    ],
)
async def test_same_words_other_meanings(
    provider: str,
    answer: Answer,
    failure: str,
    code: str | None,
    retry_after_seconds: float | None,
    replay,
    session,
    target_at,
):
    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target_at(replay.serve(answer), provider), REQUEST)

    assert caught.value.failure == failure
    assert caught.value.code == code
    assert caught.value.retry_after_seconds == retry_after_seconds
    assert caught.value.may_have_billed is (answer.status == 200)
    assert len(replay.received) == 1


@pytest.mark.parametrize(
    ("pieces", "failure", "code"),
    [
        ([b'data: {"error":{"message":"x","type":"server_error","code":null}}\n\n'], "internal", "server_error"),
        ([b'event: error\ndata: {"error":{"code":503,"message":"x"}}\n\n'], "overloaded", "503"),
        (
            [b'data: {"error":{"code":429,"metadata":{"error_type":"rate_limit_exceeded"}}}\n\n'],
            "rate_limited",
            "rate_limit_exceeded",
        ),
        ([b'data: {"error":"out of order"}\n\n'], "internal", None),
        ([b"data: {not json}\n\n"], "internal", "bad_stream"),
        ([b"data: 7\n\n"], "internal", "bad_stream"),
        ([b": keep-alive\n\n"], "overloaded", "connection_error"),
        ([delta(role="assistant", content="")], "overloaded", "connection_error"),
        ([delta("error", content="")], "internal", "error"),
        ([delta("insufficient_system_resource")], "overloaded", "insufficient_system_resource"),
    ],
)
async def test_stream_that_fails_before_any_text_keeps_its_class(
    pieces: list[bytes], failure: str, code: str | None, replay, session, target_at
):
    answer = stream_of(*pieces)

    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target_at(replay.serve(answer)))

    assert caught.value.failure == failure
    assert caught.value.code == code
    assert caught.value.retryable is True
    assert caught.value.may_have_billed is True


async def test_document_instead_of_a_stream(replay, session, target_at):
    error_body = json_of({"error": {"code": 502, "metadata": {"error_type": "provider_unavailable"}}})
    whole_answer = recorded("openai_chat")

    with pytest.raises(ProviderError) as first:
        await read_stream(session, target_at(replay.serve(error_body)))
    with pytest.raises(ProviderError) as second:
        await read_stream(session, target_at(replay.serve(whole_answer)))

    assert (first.value.failure, first.value.code) == (FailureClass.OVERLOADED, "provider_unavailable")
    assert (second.value.failure, second.value.code) == (FailureClass.INTERNAL, "bad_answer")
    assert first.value.may_have_billed is second.value.may_have_billed is True


async def test_finish_reason_and_clean_end_complete_a_stream_without_done(replay, session, target_at):
    chunks: list[dict] = []
    answer = stream_of(delta(content="a"), delta("stop"), event(choices=[], usage=USAGE))

    stream = await read_stream(session, target_at(replay.serve(answer)), chunks)

    assert stream.completed is True
    assert stream.usage == Usage(5, output_total=2)
    assert chunks[-1]["usage"]["total_tokens"] == 7


async def test_last_event_without_its_blank_line_still_counts(replay, session, target_at):
    answer = stream_of(delta(content="a"), DONE.rstrip(b"\n"))

    stream = await read_stream(session, target_at(replay.serve(answer)))

    assert stream.completed is True


async def test_clean_end_without_finish_reason_is_a_truncation(replay, session, target_at):
    chunks: list[dict] = []

    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target_at(replay.serve(stream_of(delta(content="a")))), chunks)

    assert caught.value.failure == FailureClass.TRUNCATED
    assert len(chunks) == 1


async def test_drop_after_finish_reason_is_a_truncation_with_known_usage(replay, session, target_at):
    answer = stream_of(delta(content="a"), delta("stop"), event(choices=[], usage=USAGE), hang_seconds=0.1, drop=True)
    stream = ADAPTER.open_chat_stream(session, target_at(replay.serve(answer)), REQUEST)

    async with stream:
        with pytest.raises(ProviderError) as caught:
            assert [chunk async for chunk in stream]

    assert caught.value.failure == FailureClass.TRUNCATED
    assert stream.completed is False
    assert stream.usage == Usage(5, output_total=2)


async def test_nobody_listens(session, target_at):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{closed.getsockname()[1]}"

    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target_at(base_url), REQUEST)

    assert caught.value.failure == FailureClass.OVERLOADED
    assert caught.value.status is None
    assert caught.value.may_have_billed is False
    assert caught.value.retryable is True


async def test_whole_answer_that_never_comes(replay, session, target_at):
    base_url = replay.serve(Answer(silence_seconds=1))
    target = target_at(base_url, first_byte_timeout_seconds=0.1, read_timeout_seconds=0.1)

    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target, REQUEST)

    assert caught.value.failure == FailureClass.OVERLOADED
    assert caught.value.code == "timeout"
    assert caught.value.may_have_billed is True


@pytest.mark.parametrize(
    "answer",
    [stream_of(DONE, silence_seconds=5), stream_of(*[b": keep-alive\n\n"] * 100, pause_seconds=0.05)],
    ids=["no headers", "only comments"],
)
async def test_first_event_that_comes_too_late(answer: Answer, replay, session, target_at):
    target = target_at(replay.serve(answer), first_byte_timeout_seconds=0.2)
    started = time.monotonic()

    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target)

    assert 0.15 < time.monotonic() - started < 4
    assert caught.value.failure == FailureClass.OVERLOADED
    assert caught.value.code == "timeout"
    assert caught.value.may_have_billed is True


async def test_silence_between_chunks(replay, session, target_at):
    chunks: list[dict] = []
    base_url = replay.serve(stream_of(delta(content="a"), hang_seconds=5))
    target = target_at(base_url, first_byte_timeout_seconds=20, read_timeout_seconds=0.2)
    started = time.monotonic()

    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target, chunks)

    assert 0.15 < time.monotonic() - started < 4
    assert caught.value.failure == FailureClass.TRUNCATED
    assert caught.value.code == "timeout"
    assert len(chunks) == 1


async def test_slow_consumer_is_not_the_providers_silence(replay, session, target_at):
    base_url = replay.serve(stream_of(delta(content="a"), delta("stop"), DONE))
    target = target_at(base_url, first_byte_timeout_seconds=20, read_timeout_seconds=1)

    async with ADAPTER.open_chat_stream(session, target, REQUEST) as stream:
        await anext(stream)
        await asyncio.sleep(1.3)
        rest = [chunk async for chunk in stream]

    assert len(rest) == 1
    assert stream.completed is True


async def test_abort_ends_a_waiting_reader(replay, session, target_at):
    base_url = replay.serve(stream_of(delta(content="a"), hang_seconds=5))
    loop = asyncio.get_running_loop()

    async with ADAPTER.open_chat_stream(session, target_at(base_url), REQUEST) as stream:
        chunks = [await anext(stream)]
        loop.call_later(0.1, stream.abort)
        started = loop.time()
        chunks += [chunk async for chunk in stream]

    assert loop.time() - started < 4
    assert len(chunks) == 1
    assert stream.aborted is True
    assert stream.completed is False
    assert stream.output_bytes == 1


async def test_abort_while_opening(replay, session, target_at):
    stream = ADAPTER.open_chat_stream(session, target_at(replay.serve(Answer(silence_seconds=5))), REQUEST)
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, stream.abort)
    started = loop.time()

    async with stream:
        chunks = [chunk async for chunk in stream]

    assert loop.time() - started < 4
    assert chunks == []
    assert stream.aborted is True
    assert stream.completed is False


async def test_abort_before_opening_sends_nothing(replay, session, target_at):
    stream = ADAPTER.open_chat_stream(session, target_at(replay.base_url("openai_stream")), REQUEST)
    stream.abort()

    async with stream:
        chunks = [chunk async for chunk in stream]

    assert chunks == []
    assert replay.received == []


async def test_abort_after_the_end_changes_nothing(replay, session, target_at):
    stream = await read_stream(session, target_at(replay.base_url("openai_stream")))

    stream.abort()

    assert stream.completed is True
    assert stream.aborted is False


async def test_cancelled_reader_leaves_no_connection(replay, session, target_at):
    base_url = replay.serve(stream_of(delta(content="a"), hang_seconds=5))
    reading = asyncio.create_task(read_stream(session, target_at(base_url)))
    await asyncio.sleep(0.1)

    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.sleep(0.05)
    assert session.connections == 0


async def test_completed_stream_returns_its_connection(replay, session, target_at):
    await read_stream(session, target_at(replay.base_url("openai_stream")))

    assert (session.connections, session.idle) == (1, 1)


async def test_stream_left_early_closes_its_connection(replay, session, target_at):
    async with ADAPTER.open_chat_stream(session, target_at(replay.base_url("openai_stream_split")), REQUEST) as stream:
        await anext(stream)

    assert stream.completed is False
    await asyncio.sleep(0.05)
    assert session.connections == 0
