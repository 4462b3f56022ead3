"""What every chat adapter owes, checked on recorded answers. A new adapter adds its recordings to the three tables."""

import re
import time
from dataclasses import dataclass
from decimal import Decimal

import msgspec
import pytest

from routing.providers.base import ChatAdapter, ChatChunk, ChatStream, FailureClass, ProviderError, Target, Usage
from routing.providers.openai import OpenAIAdapter
from routing.providers.registry import adapter_for, register, registered_protocols
from routing.providers.session import ProviderSession
from tests.wire.replay import recorded

from .conftest import SECRET

GREETING = "Bonjour à tous, déjà prêts ? مرحبا بكم 👋🏽"
THOUGHT = "Deux langues."
PLAIN_USAGE = Usage(input_total=24, output_total=17)
REQUEST = {"model": "public-model", "messages": [{"role": "user", "content": "Dis bonjour."}]}


@dataclass(frozen=True)
class Said:
    """A recording and what an adapter must make of it."""

    recording: str
    text: str
    output_bytes: int
    usage: Usage | None
    finish_reason: str = "stop"
    reasoning: str = ""
    refusal: str = ""
    tool: tuple[str, str] | None = None
    provider: str = "openai"
    protocol: str = "openai"
    created: int | None = 1795166047
    """None where the protocol does not date its answers: then the adapter does."""


@dataclass(frozen=True)
class Failed:
    recording: str
    failure: FailureClass
    retryable: bool
    status: int
    code: str | None
    retry_after_seconds: float | None = None
    param: str | None = None
    may_have_billed: bool = False
    provider: str = "openai"
    protocol: str = "openai"


ANTHROPIC = {"provider": "anthropic", "protocol": "anthropic"}
GEMINI = {"provider": "google", "protocol": "gemini"}
COHERE = {"provider": "cohere", "protocol": "cohere"}
WEATHER_CALL = ("get_weather", '{"city":"Évreux","unit":"c"}')

WHOLE = [
    Said("openai_chat", GREETING, 59, PLAIN_USAGE),
    Said("openai_content_filter", "Voici le début de", 18, Usage(14, output_total=5), "content_filter"),
    Said(
        "openai_refusal",
        "",
        44,
        Usage(60, output_total=11),
        refusal="I'm sorry, I can't assist with that request.",
    ),
    Said(
        "openai_tool_call",
        "",
        40,
        Usage(71, output_total=19),
        "tool_calls",
        tool=("get_weather", '{"city":"Évreux","unit":"c"}'),
    ),
    Said(
        "deepseek_chat_blanklines",
        GREETING,
        72,
        Usage(24, output_total=41, reasoning=24),
        reasoning=THOUGHT,
        provider="deepseek",
    ),
    Said("mistral_chat", GREETING, 59, PLAIN_USAGE, provider="mistral"),
    Said("gemini_openai_chat", GREETING, 59, Usage(19, output_total=39), provider="google"),
    Said(
        "xai_chat",
        GREETING,
        72,
        Usage(24, cache_read=10, output_total=117, reasoning=100, provider_cost_usd=Decimal("0.000735")),
        reasoning=THOUGHT,
        provider="xai",
    ),
    Said("anthropic_chat", GREETING, 59, Usage(21, output_total=26), created=None, **ANTHROPIC),
    Said(
        "anthropic_chat_cached",
        GREETING,
        59,
        Usage(4429, cache_read=4096, cache_write=312, output_total=26),
        created=None,
        **ANTHROPIC,
    ),
    Said(
        "anthropic_tool_call",
        "Je regarde la météo à Évreux.",
        73,
        Usage(412, output_total=74),
        "tool_calls",
        tool=("get_weather", '{"city":"Évreux","unit":"c"}'),
        created=None,
        **ANTHROPIC,
    ),
    Said(
        "anthropic_refusal",
        "",
        48,
        Usage(21, output_total=1),
        "content_filter",
        refusal="The request was declined by a safety classifier.",
        created=None,
        **ANTHROPIC,
    ),
    Said("gemini_chat", GREETING, 59, Usage(19, output_total=39, reasoning=22), created=None, **GEMINI),
    Said("gemini_chat_cached", GREETING, 59, Usage(5019, cache_read=4096, output_total=17), created=None, **GEMINI),
    Said("gemini_safety", "", 0, Usage(19), "content_filter", created=None, **GEMINI),
    Said(
        "gemini_tool_call",
        "",
        40,
        Usage(54, output_total=58, reasoning=42),
        "tool_calls",
        tool=WEATHER_CALL,
        created=None,
        **GEMINI,
    ),
    Said("cohere_v2_chat", GREETING, 59, Usage(14, output_total=17), created=None, **COHERE),
    Said(
        "cohere_v2_tool_call",
        "",
        53,
        Usage(31, output_total=22),
        "tool_calls",
        reasoning=THOUGHT,
        tool=WEATHER_CALL,
        created=None,
        **COHERE,
    ),
]

STREAMED = [
    Said("openai_stream", GREETING, 59, PLAIN_USAGE),
    Said("openai_stream_split", GREETING, 59, PLAIN_USAGE),
    Said("openai_stream_u2028", "ligne un\u2028ligne deux\x85ligne trois\x0b\x1c fin", 40, PLAIN_USAGE),
    Said("openai_stream_no_usage", "Hi", 2, None),
    Said(
        "openai_stream_tool_call",
        "",
        40,
        Usage(71, output_total=19),
        "tool_calls",
        tool=("get_weather", '{"city":"Évreux","unit":"c"}'),
    ),
    Said("groq_stream", GREETING, 59, PLAIN_USAGE, provider="groq"),
    Said(
        "openrouter_stream",
        GREETING,
        59,
        Usage(24, output_total=17, provider_cost_usd=Decimal("0.00021405")),
        provider="openrouter",
    ),
    Said(
        "deepseek_stream_reasoning",
        GREETING,
        72,
        Usage(24, output_total=41, reasoning=24),
        reasoning=THOUGHT,
        provider="deepseek",
    ),
    Said("anthropic_stream", GREETING, 59, Usage(21, output_total=26), **ANTHROPIC),
    Said("anthropic_stream_split", GREETING, 59, Usage(21, output_total=26), **ANTHROPIC),
    Said(
        "anthropic_stream_thinking",
        "Bonjour !",
        31,
        Usage(21, output_total=31, reasoning=12),
        reasoning="Salut en deux langues.",
        **ANTHROPIC,
    ),
    Said(
        "anthropic_stream_tool_call",
        "Je regarde la météo à Évreux.",
        76,
        Usage(412, output_total=74),
        "tool_calls",
        tool=("get_weather", '{"city": "Évreux", "unit": "c"}'),
        **ANTHROPIC,
    ),
    Said(
        "anthropic_stream_refusal",
        "Voici",
        53,
        Usage(21, output_total=4),
        "content_filter",
        refusal="The request was declined by a safety classifier.",
        **ANTHROPIC,
    ),
    Said("gemini_stream", GREETING, 59, Usage(19, output_total=39, reasoning=22), **GEMINI),
    Said("gemini_stream_split", GREETING, 59, Usage(19, output_total=39, reasoning=22), **GEMINI),
    Said(
        "gemini_stream_u2028",
        "ligne un\u2028ligne deux\x85ligne trois",
        34,
        Usage(19, output_total=39, reasoning=22),
        **GEMINI,
    ),
    Said("gemini_stream_safety", "Voici", 5, Usage(19, output_total=24, reasoning=22), "content_filter", **GEMINI),
    Said(
        "gemini_stream_tool_call",
        "",
        40,
        Usage(19, output_total=38, reasoning=22),
        "tool_calls",
        tool=WEATHER_CALL,
        **GEMINI,
    ),
    Said("cohere_v2_stream", GREETING, 59, Usage(14, output_total=17), **COHERE),
    Said(
        "cohere_v2_stream_tool_call",
        "",
        53,
        Usage(31, output_total=22),
        "tool_calls",
        reasoning=THOUGHT,
        tool=WEATHER_CALL,
        **COHERE,
    ),
]

BROKEN_STREAMS = [
    Said("openai_stream_error", "Bonjour à tous,", 16, None),
    Said("openai_stream_truncated", "Bonjour à tous,", 16, None),
    Said("openrouter_stream_error", "Bonjour", 7, None, provider="openrouter"),
    Said("anthropic_stream_error", "Bonjour à tous,", 16, None, **ANTHROPIC),
    Said("anthropic_stream_truncated", "Bonjour à tous,", 16, None, **ANTHROPIC),
    # Figures come with every event: the latest are of what was delivered.
    Said("gemini_stream_error", "Bonjour à tous, déjà prêts ? ", 33, Usage(19, output_total=31, reasoning=22), **GEMINI),
    Said("gemini_stream_error_bare", "Bonjour à tous, déjà prêts ? ", 33, Usage(19, output_total=31, reasoning=22), **GEMINI),
    Said("cohere_v2_stream_error", "Bonjour à tous,", 16, None, **COHERE),
    Said("cohere_v2_stream_truncated", "Bonjour à tous,", 16, None, **COHERE),
]

FAILED = [
    Failed(
        "openai_400_context",
        FailureClass.BAD_REQUEST,
        False,
        400,
        "context_length_exceeded",
        param="messages",
    ),
    Failed("openai_401", FailureClass.AUTH, True, 401, "invalid_api_key"),
    Failed("openai_404_model", FailureClass.BAD_REQUEST, False, 404, "model_not_found"),
    Failed("openai_429", FailureClass.RATE_LIMITED, True, 429, "rate_limit_exceeded", 1.75),
    Failed("openai_429_quota", FailureClass.NO_FUNDS, True, 429, "insufficient_quota"),
    Failed("openai_500", FailureClass.INTERNAL, True, 500, "server_error"),
    Failed("openai_502_html", FailureClass.OVERLOADED, True, 502, None),
    Failed("openai_503", FailureClass.OVERLOADED, True, 503, "server_is_overloaded", 5.0),
    Failed("groq_429", FailureClass.RATE_LIMITED, True, 429, "rate_limit_exceeded", 2.0, provider="groq"),
    Failed("groq_498", FailureClass.OVERLOADED, True, 498, "capacity_exceeded", provider="groq"),
    Failed("openrouter_402", FailureClass.NO_FUNDS, True, 402, "payment_required", provider="openrouter"),
    Failed(
        "openrouter_403_moderation",
        FailureClass.REFUSED,
        False,
        403,
        "content_policy_violation",
        provider="openrouter",
    ),
    Failed("openrouter_429", FailureClass.RATE_LIMITED, True, 429, "rate_limit_exceeded", 60.0, provider="openrouter"),
    Failed("openrouter_503", FailureClass.OVERLOADED, True, 503, "provider_overloaded", 10.0, provider="openrouter"),
    Failed(
        "openrouter_200_error",
        FailureClass.OVERLOADED,
        True,
        200,
        "provider_unavailable",
        may_have_billed=True,
        provider="openrouter",
    ),
    Failed("deepseek_402", FailureClass.NO_FUNDS, True, 402, "invalid_request_error", provider="deepseek"),
    Failed(
        "mistral_422",
        FailureClass.BAD_REQUEST,
        False,
        422,
        "invalid_request_error",
        param="temperature",
        provider="mistral",
    ),
    Failed("mistral_429", FailureClass.RATE_LIMITED, True, 429, "rate_limit_error", 1.0, provider="mistral"),
    Failed("dashscope_400_arrears", FailureClass.NO_FUNDS, True, 400, "Arrearage", provider="dashscope"),
    Failed("dashscope_400_inspection", FailureClass.REFUSED, False, 400, "data_inspection_failed", provider="dashscope"),
    Failed("gemini_openai_429", FailureClass.RATE_LIMITED, True, 429, "RESOURCE_EXHAUSTED", 17.0, provider="google"),
    Failed("cohere_429", FailureClass.RATE_LIMITED, True, 429, None, provider="cohere"),
    Failed("anthropic_400", FailureClass.BAD_REQUEST, False, 400, "invalid_request_error", **ANTHROPIC),
    Failed("anthropic_401", FailureClass.AUTH, True, 401, "authentication_error", **ANTHROPIC),
    Failed("anthropic_429", FailureClass.RATE_LIMITED, True, 429, "rate_limit_error", 12.0, **ANTHROPIC),
    Failed("anthropic_429_spend", FailureClass.NO_FUNDS, True, 429, "enforced_spend_limit_reached", **ANTHROPIC),
    Failed("anthropic_500", FailureClass.INTERNAL, True, 500, "api_error", **ANTHROPIC),
    Failed("anthropic_529", FailureClass.OVERLOADED, True, 529, "overloaded_error", **ANTHROPIC),
    Failed("openai_502_html", FailureClass.OVERLOADED, True, 502, None, **ANTHROPIC),
    Failed("gemini_400_key", FailureClass.AUTH, True, 400, "API_KEY_INVALID", **GEMINI),
    Failed("gemini_402", FailureClass.NO_FUNDS, True, 402, "RESOURCE_EXHAUSTED", **GEMINI),
    Failed("gemini_429", FailureClass.RATE_LIMITED, True, 429, "RESOURCE_EXHAUSTED", 17.0, **GEMINI),
    Failed("gemini_500", FailureClass.INTERNAL, True, 500, "INTERNAL", **GEMINI),
    Failed("gemini_503", FailureClass.OVERLOADED, True, 503, "UNAVAILABLE", **GEMINI),
    Failed("openai_502_html", FailureClass.OVERLOADED, True, 502, None, **GEMINI),
    Failed("cohere_429", FailureClass.RATE_LIMITED, True, 429, None, **COHERE),
    Failed("openai_502_html", FailureClass.OVERLOADED, True, 502, None, **COHERE),
]


def recording_name(case: Said | Failed) -> str:
    return f"{case.protocol}:{case.recording}"


def undated(chunk: ChatChunk) -> bytes:
    return re.sub(rb'"created":\d+', b'"created":0', chunk.data)


def joined(chunks: list[dict], field: str) -> str:
    return "".join(choice["delta"].get(field) or "" for chunk in chunks for choice in chunk["choices"])


def joined_tool(chunks: list[dict]) -> tuple[str, str] | None:
    functions = [
        call["function"] for chunk in chunks for choice in chunk["choices"] for call in choice["delta"].get("tool_calls") or ()
    ]
    name = "".join(function.get("name") or "" for function in functions)
    return (name, "".join(function.get("arguments") or "" for function in functions)) if functions else None


async def read_into(chunks: list[ChatChunk], stream: ChatStream) -> None:
    async for chunk in stream:
        chunks.append(chunk)  # noqa: PERF401 (what came before an error counts)


async def call_whole(adapter: ChatAdapter, session: ProviderSession, target: Target) -> None:
    await adapter.chat(session, target, REQUEST)


async def call_streamed(adapter: ChatAdapter, session: ProviderSession, target: Target) -> None:
    async with adapter.open_chat_stream(session, target, {**REQUEST, "stream": True}):
        pass


@pytest.mark.parametrize("case", WHOLE, ids=recording_name)
async def test_whole_answer(case: Said, replay, session, target_at):
    target = target_at(replay.base_url(case.recording), case.provider)

    answer = await adapter_for(case.protocol).chat(session, target, REQUEST)

    choice = answer.body["choices"][0]
    message = choice["message"]
    calls = message.get("tool_calls") or []
    functions = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    assert message["content"] == (case.text or None)
    assert message["refusal"] == (case.refusal or None)
    assert message["role"] == "assistant"
    assert message.get("reasoning_content", "") == case.reasoning
    assert functions == ([case.tool] if case.tool else [])
    assert answer.output_bytes == case.output_bytes
    assert answer.usage == case.usage
    assert answer.finish_reason == choice["finish_reason"] == case.finish_reason
    assert answer.body["model"] == "public-model"
    assert answer.body["object"] == "chat.completion"
    assert answer.body["id"] == answer.upstream_id
    assert answer.body["created"] == (case.created or pytest.approx(time.time(), abs=60))
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert answer.body["usage"]["prompt_tokens"] == case.usage.input_total
    assert answer.body["usage"]["completion_tokens"] == case.usage.output_total
    assert answer.body["usage"]["total_tokens"] == case.usage.input_total + case.usage.output_total
    assert not {"cost", "cost_details", "cost_in_usd_ticks"} & answer.body["usage"].keys()


@pytest.mark.parametrize("case", STREAMED, ids=recording_name)
async def test_stream(case: Said, replay, session, target_at):
    target = target_at(replay.base_url(case.recording), case.provider)

    async with adapter_for(case.protocol).open_chat_stream(session, target, {**REQUEST, "stream": True}) as stream:
        chunks = [chunk async for chunk in stream]

    bodies = [msgspec.json.decode(chunk.data) for chunk in chunks]
    usage_chunks = [body for chunk, body in zip(chunks, bodies, strict=True) if chunk.usage_only]
    assert stream.completed is True
    assert stream.aborted is False
    assert joined(bodies, "content") == case.text
    assert joined(bodies, "reasoning_content") == case.reasoning
    assert joined(bodies, "refusal") == case.refusal
    assert joined_tool(bodies) == case.tool
    assert stream.output_bytes == sum(chunk.output_bytes for chunk in chunks) == case.output_bytes
    assert stream.usage == case.usage
    assert stream.finish_reason == case.finish_reason
    assert {body["model"] for body in bodies} == {"public-model"}
    assert {body["object"] for body in bodies} == {"chat.completion.chunk"}
    assert {body["id"] for body in bodies} == {stream.upstream_id}
    assert [body for body in bodies if body.get("usage")] == usage_chunks
    assert len(usage_chunks) == (case.usage is not None)
    assert [chunk.usage_only for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
    assert [body["choices"] for body in usage_chunks] == [[]] * len(usage_chunks)
    assert not any(b'"cost' in chunk.data for chunk in chunks)


@pytest.mark.parametrize("case", BROKEN_STREAMS, ids=recording_name)
async def test_stream_that_breaks_after_text_is_truncated(case: Said, replay, session, target_at):
    target = target_at(replay.base_url(case.recording), case.provider)
    chunks = []

    async with adapter_for(case.protocol).open_chat_stream(session, target, {**REQUEST, "stream": True}) as stream:
        with pytest.raises(ProviderError) as caught:
            await read_into(chunks, stream)

    bodies = [msgspec.json.decode(chunk.data) for chunk in chunks]
    assert caught.value.failure == FailureClass.TRUNCATED
    assert caught.value.retryable is False
    assert caught.value.may_have_billed is True
    assert caught.value.message == "The provider's answer broke off before its end."
    assert joined(bodies, "content") == case.text
    assert stream.output_bytes == case.output_bytes
    assert stream.completed is False
    assert stream.usage == case.usage


@pytest.mark.parametrize("call", [call_whole, call_streamed])
@pytest.mark.parametrize("case", FAILED, ids=recording_name)
async def test_failure(case: Failed, call, replay, session, target_at):
    target = target_at(replay.base_url(case.recording), case.provider)

    with pytest.raises(ProviderError) as caught:
        await call(adapter_for(case.protocol), session, target)

    error = caught.value
    assert error.failure == case.failure
    assert error.retryable is case.retryable
    assert error.status == case.status
    assert error.code == case.code
    assert error.param == case.param
    assert error.retry_after_seconds == case.retry_after_seconds
    assert error.may_have_billed is case.may_have_billed
    assert "sk-" not in error.message + error.detail
    assert "org-" not in error.message + error.detail
    assert len(replay.received) == 1


@pytest.mark.parametrize("case", STREAMED, ids=recording_name)
async def test_stream_received_byte_by_byte(case: Said, replay, session, target_at):
    whole = recorded(case.recording)
    body = b"".join(whole.pieces)
    whole.pieces = [body[position : position + 1] for position in range(len(body))]
    whole.pause_seconds = 0
    adapter = adapter_for(case.protocol)
    expected_target = target_at(replay.base_url(case.recording), case.provider)
    target = target_at(replay.serve(whole), case.provider)

    async with adapter.open_chat_stream(session, expected_target, REQUEST) as stream:
        expected = [undated(chunk) async for chunk in stream]
    async with adapter.open_chat_stream(session, target, REQUEST) as stream:
        received = [undated(chunk) async for chunk in stream]

    assert stream.completed is True
    assert received == expected


@pytest.mark.parametrize("protocol", registered_protocols())
async def test_client_body_is_left_as_it_was(protocol: str, replay, session, target_at):
    request = {**REQUEST, "stream": True, "stream_options": {"include_obfuscation": False}, "unknown": [1], "tools": []}
    before = msgspec.json.encode(request)
    case = next(case for case in STREAMED if case.protocol == protocol)
    target = target_at(replay.base_url(case.recording), case.provider)

    async with adapter_for(protocol).open_chat_stream(session, target, request) as stream:
        assert [chunk async for chunk in stream]

    assert msgspec.json.encode(request) == before


def test_every_adapter_is_held_to_the_contract():
    held = [{case.protocol for case in table} for table in (WHOLE, STREAMED, BROKEN_STREAMS, FAILED)]

    assert held == [set(registered_protocols())] * 4


@pytest.mark.parametrize("protocol", registered_protocols())
def test_a_plain_question_can_be_asked_in_every_protocol(protocol: str):
    hints = {
        "temperature": 0.2,
        "top_p": 0.9,
        "seed": 7,
        "user": "u1",
        "n": 1,
        "logprobs": False,
        "response_format": {"type": "text"},
    }

    assert adapter_for(protocol).inexpressible(REQUEST) == []
    assert adapter_for(protocol).inexpressible({**REQUEST, **hints}) == []


async def test_a_protocol_has_one_adapter():
    with pytest.raises(ValueError, match="already has an adapter"):
        register(OpenAIAdapter())

    assert adapter_for("openai").protocol == "openai"
    assert "openai" in registered_protocols()
    with pytest.raises(LookupError, match="no adapter speaks 'telex'"):
        adapter_for("telex")


@pytest.mark.parametrize(
    ("protocol", "header", "value"),
    [("openai", "Authorization", f"Bearer {SECRET}"), ("anthropic", "x-api-key", SECRET)],
)
async def test_secret_is_not_in_texts_of_target_and_error(protocol: str, header: str, value: str, replay, session, target_at):
    target = target_at(replay.base_url(f"{protocol}_401"), protocol)

    with pytest.raises(ProviderError) as caught:
        await adapter_for(protocol).chat(session, target, REQUEST)

    assert replay.received[0].headers[header] == value
    assert SECRET not in repr(target) + repr(caught.value) + str(caught.value) + caught.value.detail
