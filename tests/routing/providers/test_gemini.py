"""What Gemini is told and what its answers mean; what every adapter owes is in the contract."""

from typing import Any

import msgspec
import pytest

from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.providers.dialect import data_url
from routing.providers.gemini import GeminiAdapter, UsageMetadata, usage_from_gemini
from routing.providers.gemini_request import build_request
from routing.simulator import start_simulator
from tests.wire.replay import EVENT_STREAM, Answer, recorded

from .conftest import SECRET

ADAPTER = GeminiAdapter()
HELLO = [{"role": "user", "content": "Bonjour"}]
REQUEST = {"model": "public-model", "messages": HELLO}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
PNG = "iVBORw0KGgo="


def sent(model: str = "gemini-2.5-flash", **fields: Any) -> dict[str, Any]:
    """What goes out for a request with these fields."""
    return build_request(Target("google", "http://x", "k", model, "public-model"), {**REQUEST, **fields})


def event(*candidates: dict[str, Any], **fields: Any) -> bytes:
    body = {"candidates": list(candidates), "responseId": "r1", **fields} if candidates else {"responseId": "r1", **fields}
    return b"data: " + msgspec.json.encode(body) + b"\r\n\r\n"


def says(*parts: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": index}
    return candidate if finish is None else {**candidate, "finishReason": finish}


def stream_of(*pieces: bytes, **changes: Any) -> Answer:
    return Answer(headers={"content-type": EVENT_STREAM}, pieces=pieces, **changes)


def json_of(body: object, status: int = 200, **headers: str) -> Answer:
    sent_headers = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Answer(status, sent_headers, msgspec.json.encode(body))


async def read_stream(session, target: Target, chunks: list[dict] | None = None):
    """The stream after it was read to its end; chunk bodies go to `chunks`."""
    chunks = [] if chunks is None else chunks
    async with ADAPTER.open_chat_stream(session, target, REQUEST) as stream:
        async for chunk in stream:
            chunks.append(msgspec.json.decode(chunk.data))
    return stream


async def call_whole(session, target: Target) -> None:
    await ADAPTER.chat(session, target, REQUEST)


async def call_streamed(session, target: Target) -> None:
    await read_stream(session, target)


# -- requests ------------------------------------------------------------------------------------------------------------


def test_a_conversation_becomes_turns_and_one_instruction():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Answer in French."}]},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Bonjour"},
        {"role": "user", "content": [{"type": "text", "text": "And"}, " this?"]},
    ]

    assert sent(messages=messages) == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "Answer in French."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hello"}]},
            {"role": "model", "parts": [{"text": "Bonjour"}]},
            {"role": "user", "parts": [{"text": "And"}, {"text": " this?"}]},
        ],
    }


def test_instructions_alone_are_asked_as_a_question():
    assert sent(messages=[{"role": "system", "content": "Say hello."}]) == {
        "contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]
    }


def test_an_empty_text_is_not_sent_as_an_empty_part():
    assert sent(messages=[{"role": "user", "content": ""}])["contents"] == [{"role": "user", "parts": [{"text": " "}]}]


def test_images_sounds_and_documents_travel_inside_the_request():
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
    ]

    assert sent(messages=[{"role": "user", "content": content}])["contents"][0]["parts"] == [
        {"text": "What is this?"},
        {"inlineData": {"mimeType": "image/png", "data": PNG}},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
    ]


@pytest.mark.parametrize(
    ("url", "read"),
    [
        (f"data:image/png;base64,{PNG}", ("image/png", PNG)),
        (f"DATA:image/PNG;charset=x;BASE64,{PNG}", ("image/png", PNG)),
        ("data:image/png,abc", None),
        ("data:;base64,abc", None),
        ("data:image/png;base64,", None),
        ("https://example.com/a.png", None),
        (None, None),
    ],
)
def test_addresses_that_hold_their_own_data(url: str | None, read: tuple[str, str] | None):
    assert data_url(url) == read


def test_calls_and_their_results_become_parts_of_two_turns():
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Évreux"}'}},
        {"id": "c2", "type": "function", "function": {"name": "get_time", "arguments": ""}},
    ]
    messages = [
        *HELLO,
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": '{"celsius":12}'},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "noon"}]},
        {"role": "assistant", "tool_calls": [{**calls[1], "id": "c3"}]},
        {"role": "tool", "tool_call_id": "c3", "content": "one"},
        {"role": "user", "content": "Thanks"},
    ]

    assert sent(messages=messages, tools=[WEATHER, CLOCK]) == {
        "contents": [
            {"role": "user", "parts": [{"text": "Bonjour"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "Let me see."},
                    {"functionCall": {"id": "c1", "name": "get_weather", "args": {"city": "Évreux"}}},
                    {"functionCall": {"id": "c2", "name": "get_time", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "get_weather", "response": {"celsius": 12}}},
                    {"functionResponse": {"id": "c2", "name": "get_time", "response": {"output": "noon"}}},
                ],
            },
            {"role": "model", "parts": [{"functionCall": {"id": "c3", "name": "get_time", "args": {}}}]},
            {
                "role": "user",
                "parts": [{"functionResponse": {"id": "c3", "name": "get_time", "response": {"output": "one"}}}],
            },
            {"role": "user", "parts": [{"text": "Thanks"}]},
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "get_weather",
                        "description": "Weather for a city",
                        "parametersJsonSchema": WEATHER["function"]["parameters"],
                    },
                    {"name": "get_time"},
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    }


@pytest.mark.parametrize(
    ("model", "extra", "signatures"),
    [
        ("gemini-3.8-flash", {"extra_content": {"google": {"thought_signature": "c2ln"}}}, ["c2ln", None]),
        ("gemini-2.5-flash", {"extra_content": {"google": {"thought_signature": "c2ln"}}}, ["c2ln", None]),
        # A call another model made, or whose signature the client lost: only the first of a turn is looked at.
        ("gemini-3.8-flash", {}, ["skip_thought_signature_validator", None]),
        ("gemini-flash-latest", {}, ["skip_thought_signature_validator", None]),
        ("gemini-2.5-flash", {}, [None, None]),
    ],
)
def test_the_signature_of_a_thought_goes_back_with_its_call(model: str, extra: dict, signatures: list[str | None]):
    function = {"name": "get_time", "arguments": "{}"}
    calls = [{"id": "c1", "type": "function", "function": function, **extra}, {"id": "c2", "function": function}]

    parts = sent(model, messages=[*HELLO, {"role": "assistant", "tool_calls": calls}])["contents"][1]["parts"]

    assert [part.get("thoughtSignature") for part in parts] == signatures


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([*HELLO, {"role": "tool", "tool_call_id": "c9", "content": "x"}], "messages.1.tool_call_id"),
        (
            [*HELLO, {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{"}}]}],
            "messages.1.tool_calls",
        ),
    ],
)
async def test_a_conversation_that_does_not_hold_together_is_refused_unsent(
    messages: list, param: str, replay, session, target_at
):
    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target_at(replay.base_url("gemini_chat"), "google"), {**REQUEST, "messages": messages})

    assert caught.value.failure == FailureClass.BAD_REQUEST
    assert caught.value.param == param
    assert replay.received == []


@pytest.mark.parametrize(
    ("choice", "names", "calling"),
    [
        (None, ["get_weather", "get_time"], {"mode": "AUTO"}),
        ("auto", ["get_weather", "get_time"], {"mode": "AUTO"}),
        ("none", ["get_weather", "get_time"], {"mode": "NONE"}),
        ("required", ["get_weather", "get_time"], {"mode": "ANY", "allowedFunctionNames": ["get_weather", "get_time"]}),
        (
            {"type": "function", "function": {"name": "get_time"}},
            ["get_time"],
            {"mode": "ANY", "allowedFunctionNames": ["get_time"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}},
            ["get_time"],
            {"mode": "AUTO"},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}},
            ["get_time"],
            {"mode": "ANY", "allowedFunctionNames": ["get_time"]},
        ),
    ],
)
def test_tool_choice(choice: Any, names: list[str], calling: dict):
    body = sent(tools=[WEATHER, CLOCK], tool_choice=choice)

    assert [function["name"] for function in body["tools"][0]["functionDeclarations"]] == names
    assert body["toolConfig"]["functionCallingConfig"] == calling


def test_a_choice_among_tools_that_are_not_there_is_refused():
    with pytest.raises(ProviderError) as caught:
        sent(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "get_time"}})

    assert (caught.value.failure, caught.value.param) == (FailureClass.BAD_REQUEST, "tool_choice")


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        (
            {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "presence_penalty": 1, "frequency_penalty": -1},
            {"temperature": 0.5, "topP": 0.9, "topK": 40, "seed": 7, "presencePenalty": 1, "frequencyPenalty": -1},
        ),
        ({"max_tokens": 7}, {"maxOutputTokens": 7}),
        ({"max_tokens": 9, "max_completion_tokens": 7}, {"maxOutputTokens": 7}),
        ({"max_tokens": None, "max_completion_tokens": 7}, {"maxOutputTokens": 7}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}),
        ({"n": 3}, {"candidateCount": 3}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            {"responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}},
        ),
        # Nothing that changes the meaning: dropped.
        (
            {"n": 1, "stop": None, "response_format": {"type": "text"}, "user": "u", "logit_bias": {}, "stream_options": {}},
            None,
        ),
        ({"service_tier": "flex", "metadata": {}, "store": True, "verbosity": "low", "unknown": 1}, None),
    ],
)
def test_generation_config(fields: dict, config: dict | None):
    assert sent(**fields).get("generationConfig") == config


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-2.5-flash", "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-flash", "medium", {"thinkingBudget": 8192}),
        ("models/gemini-2.5-pro", "high", {"thinkingBudget": 24576}),
        ("gemini-3.8-flash", "minimal", {"thinkingLevel": "minimal"}),
        ("gemini-3.8-flash", "none", {"thinkingLevel": "minimal"}),
        ("gemini-3.1-pro-preview", "none", {"thinkingLevel": "low"}),
        ("gemini-4-argon", "xhigh", {"thinkingLevel": "high"}),
        ("gemini-3.8-flash", "surprising", None),
        ("gemini-2.0-flash", "high", None),
        ("gemma-4", "high", None),
    ],
)
def test_reasoning_effort(model: str, effort: str, thinking: dict | None):
    assert sent(model, reasoning_effort=effort).get("generationConfig", {}).get("thinkingConfig") == thinking


@pytest.mark.parametrize(
    ("asked", "thinking"),
    [
        ({"thinking_budget": 99, "include_thoughts": True}, {"thinkingBudget": 99, "includeThoughts": True}),
        ({"thinking_level": "low"}, {"thinkingLevel": "low"}),
        ({"include_thoughts": True}, {"thinkingLevel": "high", "includeThoughts": True}),
    ],
)
def test_googles_own_field_for_thinking_wins(asked: dict, thinking: dict):
    fields = {"reasoning_effort": "high", "extra_body": {"google": {"thinking_config": asked}}}

    assert sent("gemini-3.8-flash", **fields)["generationConfig"] == {"thinkingConfig": thinking}


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({}, []),
        ({"temperature": 1, "seed": 1, "reasoning_effort": "low", "prediction": {}, "n": 8}, []),
        ({"n": 9}, ["n"]),
        ({"logprobs": True, "top_logprobs": 2}, ["logprobs", "top_logprobs"]),
        ({"logprobs": False, "top_logprobs": 0, "logit_bias": {}}, []),
        ({"logit_bias": {"1": -100}}, ["logit_bias"]),
        ({"tools": [WEATHER], "tool_choice": "required"}, []),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, ["tools"]),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, ["tool_choice"]),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, ["parallel_tool_calls"]),
        ({"parallel_tool_calls": False}, []),
        ({"functions": [{"name": "f"}]}, ["functions"]),
        ({"response_format": {"type": "grammar"}}, ["response_format"]),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, ["modalities", "audio"]),
        ({"web_search_options": {}}, ["web_search_options"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}]}]},
            ["messages"],
        ),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f1"}}]}]}, ["messages"]),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x", "format": "midi"}}]}
                ]
            },
            ["messages"],
        ),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]}, ["messages"]),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, ["messages"]),
        ({"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]}, []),
    ],
)
async def test_what_gemini_cannot_be_told(fields: dict, missing: list[str]):
    assert ADAPTER.inexpressible({**REQUEST, **fields}) == missing


async def test_what_cannot_be_told_is_refused_unsent(replay, session, target_at):
    target = target_at(replay.base_url("gemini_chat"), "google")
    request = {**REQUEST, "logprobs": True}

    with pytest.raises(ProviderError) as whole:
        await ADAPTER.chat(session, target, request)
    with pytest.raises(ProviderError) as streamed:
        async with ADAPTER.open_chat_stream(session, target, request):
            pass

    assert whole.value.failure == streamed.value.failure == FailureClass.BAD_REQUEST
    assert whole.value.code == streamed.value.code == "unsupported_parameter"
    assert whole.value.param == streamed.value.param == "logprobs"
    assert replay.received == []


async def test_the_key_travels_in_a_header_alone(replay, session, target_at):
    base_url = replay.base_url("gemini_chat") + "/v1beta/"
    models = ["gemini-3.8-flash", "models/gemini-3.8-flash", "tunedModels/a b"]

    for model in models:
        await ADAPTER.chat(session, target_at(base_url, "google", upstream_model=model), REQUEST)
    async with ADAPTER.open_chat_stream(session, target_at(replay.base_url("gemini_stream"), "google"), REQUEST) as stream:
        assert [chunk async for chunk in stream]

    assert [received.path for received in replay.received] == [
        "/t/gemini_chat/v1beta/models/gemini-3.8-flash:generateContent",
        "/t/gemini_chat/v1beta/models/gemini-3.8-flash:generateContent",
        "/t/gemini_chat/v1beta/tunedModels/a%20b:generateContent",
        "/t/gemini_stream/models/upstream-model:streamGenerateContent?alt=sse",
    ]
    assert {received.headers["x-goog-api-key"] for received in replay.received} == {SECRET}
    assert not any("Authorization" in received.headers for received in replay.received)


# -- answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (USAGE, Usage(5, output_total=2)),
        # Thoughts are billed as output and counted apart.
        (
            {"promptTokenCount": 19, "candidatesTokenCount": 17, "thoughtsTokenCount": 22, "totalTokenCount": 58},
            Usage(19, output_total=39, reasoning=22),
        ),
        (
            {"promptTokenCount": 19, "candidatesTokenCount": 17, "thoughtsTokenCount": 22},
            Usage(19, output_total=39, reasoning=22),
        ),
        # What tools put into the prompt counts as input, wherever the total counts it.
        (
            {"promptTokenCount": 10, "toolUsePromptTokenCount": 90, "candidatesTokenCount": 5, "totalTokenCount": 105},
            Usage(100, output_total=5),
        ),
        (
            {"promptTokenCount": 10, "toolUsePromptTokenCount": 90, "candidatesTokenCount": 5, "totalTokenCount": 15},
            Usage(100, output_total=5),
        ),
        (
            {"promptTokenCount": 5019, "cachedContentTokenCount": 4096, "candidatesTokenCount": 17, "totalTokenCount": 5036},
            Usage(5019, cache_read=4096, output_total=17),
        ),
        # Candidates left out: the total knows.
        ({"promptTokenCount": 10, "totalTokenCount": 14}, Usage(10, output_total=4)),
        ({"promptTokenCount": 10, "cachedContentTokenCount": 60}, Usage(60, cache_read=60)),
        ({"promptTokenCount": None, "candidatesTokenCount": -1}, None),
        ({}, None),
    ],
)
def test_usage_is_normalised(raw: dict, usage: Usage | None):
    assert usage_from_gemini(msgspec.convert(raw, UsageMetadata)) == usage


async def test_prompt_that_is_blocked(replay, session, target_at):
    feedback = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 19}}
    streamed_url = replay.serve(stream_of(event(**feedback)))

    with pytest.raises(ProviderError) as whole:
        await ADAPTER.chat(session, target_at(replay.base_url("gemini_prompt_blocked"), "google"), REQUEST)
    with pytest.raises(ProviderError) as streamed:
        await read_stream(session, target_at(streamed_url, "google"))

    assert whole.value.failure == streamed.value.failure == FailureClass.REFUSED
    assert whole.value.code == streamed.value.code == "content_policy_violation"
    assert whole.value.message == "The provider refused the request because of its content policy."
    assert whole.value.detail == streamed.value.detail == "the prompt was blocked: PROHIBITED_CONTENT"
    assert whole.value.may_have_billed is streamed.value.may_have_billed is True


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("SPII", "content_filter"),
        ("MODEL_ARMOR", "content_filter"),
    ],
)
async def test_finish_reasons(theirs: str, ours: str, replay, session, target_at):
    target = target_at(replay.serve(json_of({"candidates": [says({"text": "a"}, finish=theirs)]})), "google")

    answer = await ADAPTER.chat(session, target, REQUEST)

    assert answer.finish_reason == ours


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "OTHER", "MISSING_THOUGHT_SIGNATURE", "NEVER_HEARD_OF"])
async def test_generation_that_failed(reason: str, replay, session, target_at):
    whole = replay.serve(json_of({"candidates": [says({"text": "a"}, finish=reason)]}))
    streamed = replay.serve(stream_of(event(says(finish=reason))))

    with pytest.raises(ProviderError) as first:
        await ADAPTER.chat(session, target_at(whole, "google"), REQUEST)
    with pytest.raises(ProviderError) as second:
        await read_stream(session, target_at(streamed, "google"))

    assert first.value.failure == second.value.failure == FailureClass.INTERNAL
    assert first.value.code == second.value.code == reason
    assert first.value.may_have_billed is True


async def test_thoughts_and_parallel_calls_of_a_whole_answer(replay, session, target_at):
    parts = [
        {"text": "Deux villes.", "thought": True},
        {"text": "Voyons."},
        {"functionCall": {"name": "f", "args": {"a": 1}}},
        {"functionCall": {"id": "c2", "name": "g"}},
        {"executableCode": {"code": "1"}},
    ]
    target = target_at(replay.serve(json_of({"candidates": [says(*parts, finish="STOP")]})), "google")

    answer = await ADAPTER.chat(session, target, REQUEST)

    message = answer.body["choices"][0]["message"]
    generated_id = message["tool_calls"][0].pop("id")
    assert generated_id.startswith("call_")
    assert message == {
        "role": "assistant",
        "content": "Voyons.",
        "refusal": None,
        "reasoning_content": "Deux villes.",
        "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert answer.finish_reason == "tool_calls"
    assert answer.output_bytes == len("Voyons.") + len("Deux villes.") + len('f{"a":1}') + len("g{}")
    assert answer.usage is None
    assert "usage" not in answer.body
    assert answer.upstream_id is None
    assert answer.body["id"].startswith("chatcmpl-")


async def test_candidates_keep_their_numbers(replay, session, target_at):
    candidates = [says({"text": "b"}, finish="STOP", index=1), says({"text": "a"}, finish="STOP", index=0)]

    answer = await ADAPTER.chat(session, target_at(replay.serve(json_of({"candidates": candidates})), "google"), REQUEST)

    choices = answer.body["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(1, "b"), (0, "a")]


async def test_signature_reaches_the_client_and_comes_back(replay, session, target_at):
    target = target_at(replay.base_url("gemini_tool_call"), "google", upstream_model="gemini-3.8-flash")
    answer = await ADAPTER.chat(session, target, {**REQUEST, "tools": [WEATHER]})
    message = answer.body["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": "fc-0001", "content": "12"}

    await ADAPTER.chat(session, target, {**REQUEST, "messages": [*HELLO, message, result], "tools": [WEATHER]})

    call = {"id": "fc-0001", "name": "get_weather", "args": {"city": "Évreux", "unit": "c"}}
    answered = {"id": "fc-0001", "name": "get_weather", "response": {"output": "12"}}
    assert replay.received[1].body["contents"][1:] == [
        {"role": "model", "parts": [{"functionCall": call, "thoughtSignature": "ZXhhbXBsZS10aG91Z2h0LXNpZ25hdHVyZQ=="}]},
        {"role": "user", "parts": [{"functionResponse": answered}]},
    ]


# -- streams -------------------------------------------------------------------------------------------------------------


async def test_two_candidates_with_thoughts_and_calls(replay, session, target_at):
    answer = stream_of(
        event(says({"text": ""}), usageMetadata=USAGE),
        event(says({"text": "Hm.", "thought": True}), usageMetadata=USAGE),
        event(says({"text": "Un"}), says({"text": "Deux"}, index=1), usageMetadata=USAGE),
        event(says({"functionCall": {"id": "a", "name": "f"}}), usageMetadata=USAGE),
        event(says({"functionCall": {"id": "b", "name": "g"}}, finish="STOP"), usageMetadata=USAGE),
        event(says({"text": ""}, finish="MAX_TOKENS", index=1), usageMetadata={**USAGE, "totalTokenCount": 9}),
    )
    chunks: list[dict] = []

    stream = await read_stream(session, target_at(replay.serve(answer), "google"), chunks)

    calls = [{"type": "function", "index": index} for index in (0, 1)]
    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"]) for chunk in chunks[:-1]] == [
        (0, {"role": "assistant", "content": None, "reasoning_content": "Hm."}),
        (0, {"content": "Un"}),
        (1, {"role": "assistant", "content": "Deux"}),
        (0, {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}, **calls[0]}]}),
        (0, {"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "{}"}, **calls[1]}]}),
        (1, {}),
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 4 + ["tool_calls", "length"]
    assert chunks[-1]["usage"]["total_tokens"] == 9
    assert stream.usage == Usage(5, output_total=4)
    assert stream.completed is True


async def test_end_before_every_candidate_ended_is_a_truncation(replay, session, target_at):
    answer = stream_of(event(says({"text": "a"}, finish="STOP"), says({"text": "b"}, index=1), usageMetadata=USAGE))

    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target_at(replay.serve(answer), "google"))

    assert caught.value.failure == FailureClass.TRUNCATED


async def test_figures_without_output_are_not_the_price_of_a_text(replay, session, target_at):
    prompt_alone = {"promptTokenCount": 5, "totalTokenCount": 5}
    answer = stream_of(event(says({"text": "Bonjour"}), usageMetadata=prompt_alone), hang_seconds=0.1, drop=True)
    stream = ADAPTER.open_chat_stream(session, target_at(replay.serve(answer), "google"), REQUEST)

    async with stream:
        with pytest.raises(ProviderError) as caught:
            assert [chunk async for chunk in stream]

    assert caught.value.failure == FailureClass.TRUNCATED
    assert stream.usage is None


BARE = b'{\r\n  "error": {\r\n    "code": 503,\r\n    "message": "busy",\r\n    "status": "UNAVAILABLE"\r\n  }\r\n}\r\n'
SAID = b'{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"1.5s"}]}}'


@pytest.mark.parametrize(
    ("pieces", "failure", "code"),
    [
        ([BARE], "overloaded", "UNAVAILABLE"),
        ([BARE + b"\r\n"], "overloaded", "UNAVAILABLE"),
        ([b"[" + BARE + b"]"], "overloaded", "UNAVAILABLE"),
        ([BARE[:20], BARE[20:60], BARE[60:]], "overloaded", "UNAVAILABLE"),
        ([b": ping\r\n\r\n", BARE], "overloaded", "UNAVAILABLE"),
        ([b"data: " + SAID + b"\r\n\r\n"], "rate_limited", "RESOURCE_EXHAUSTED"),
        ([b"data: [" + SAID + b"]\r\n\r\n"], "rate_limited", "RESOURCE_EXHAUSTED"),
        ([b'data: {"error":{"code":500,"status":"INTERNAL"}}\r\n\r\n'], "internal", "INTERNAL"),
        ([b"data: {not json}\r\n\r\n"], "internal", "bad_stream"),
        ([b"data: 7\r\n\r\n"], "internal", "bad_stream"),
        ([b'data: {"candidates":7}\r\n\r\n'], "internal", "bad_stream"),
        ([b": ping\r\n\r\n"], "overloaded", "connection_error"),
        ([event(usageMetadata=USAGE)], "overloaded", "connection_error"),
        ([event(says(), usageMetadata=USAGE)], "overloaded", "connection_error"),
    ],
)
async def test_stream_that_fails_before_any_text_keeps_its_class(
    pieces: list[bytes], failure: str, code: str, replay, session, target_at
):
    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target_at(replay.serve(stream_of(*pieces)), "google"))

    assert caught.value.failure == failure
    assert caught.value.code == code
    assert caught.value.may_have_billed is True


async def test_a_large_last_event_is_no_bare_error(replay, session, target_at):
    """What was remembered of it begins inside its text, with a brace."""
    text = "{" * 100_000
    answer = stream_of(event(says({"text": text}, finish="STOP"), usageMetadata=USAGE))

    stream = await read_stream(session, target_at(replay.serve(answer), "google"))

    assert stream.completed is True
    assert stream.output_bytes == 100_000


async def test_bare_error_however_it_is_cut(replay, session, target_at):
    whole = recorded("gemini_stream_error_bare")
    body = b"".join(whole.pieces)
    whole.pieces = [body[position : position + 1] for position in range(len(body))]
    whole.pause_seconds = 0

    with pytest.raises(ProviderError) as caught:
        await read_stream(session, target_at(replay.serve(whole), "google"))

    assert (caught.value.failure, caught.value.code) == (FailureClass.TRUNCATED, "UNAVAILABLE")


# -- failures ------------------------------------------------------------------------------------------------------------


EXHAUSTED = "RESOURCE_EXHAUSTED"
DEPLETED = "Your prepayment credits are depleted. Please go to AI Studio."
TOO_LONG = "The input token count (1210000) exceeds the maximum number of tokens allowed (1048576)."
KEY_INVALID = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
RETRY_INFO = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.25s"}]


@pytest.mark.parametrize(
    ("status", "error", "failure", "code", "retry_after_seconds"),
    [
        # The same status and name, two meanings.
        (429, {"status": EXHAUSTED, "message": "Slow down."}, "rate_limited", EXHAUSTED, None),
        (429, {"status": EXHAUSTED, "message": DEPLETED}, "no_funds", EXHAUSTED, None),
        (429, {"status": EXHAUSTED, "details": RETRY_INFO}, "rate_limited", EXHAUSTED, 17.25),
        (402, {"status": EXHAUSTED}, "no_funds", EXHAUSTED, None),
        (400, {"status": "INVALID_ARGUMENT", "message": "x"}, "bad_request", "INVALID_ARGUMENT", None),
        (400, {"status": "INVALID_ARGUMENT", "details": KEY_INVALID}, "auth", "API_KEY_INVALID", None),
        (400, {"status": "INVALID_ARGUMENT", "message": TOO_LONG}, "bad_request", "context_length_exceeded", None),
        (400, {"status": "FAILED_PRECONDITION", "message": "x"}, "no_funds", "FAILED_PRECONDITION", None),
        (403, {"status": "PERMISSION_DENIED"}, "auth", "PERMISSION_DENIED", None),
        (404, {"status": "NOT_FOUND"}, "bad_request", "NOT_FOUND", None),
        (503, {"status": "UNAVAILABLE"}, "overloaded", "UNAVAILABLE", None),
        (504, {"status": "DEADLINE_EXCEEDED"}, "overloaded", "DEADLINE_EXCEEDED", None),
    ],
)
@pytest.mark.parametrize("call", [call_whole, call_streamed])
@pytest.mark.parametrize("wrap", [lambda body: body, lambda body: [body]], ids=["bare", "in a list"])
async def test_same_status_other_meaning(
    status: int,
    error: dict,
    failure: str,
    code: str,
    retry_after_seconds: float | None,
    call: Any,
    wrap: Any,
    replay,
    session,
    target_at,
):
    body = wrap({"error": {"code": status, **error}})

    with pytest.raises(ProviderError) as caught:
        await call(session, target_at(replay.serve(json_of(body, status)), "google"))

    assert caught.value.failure == failure
    assert caught.value.code == code
    assert caught.value.retry_after_seconds == retry_after_seconds
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("answer", "failure", "code"),
    [
        (json_of({"candidates": []}), "internal", "bad_answer"),
        (json_of({"error": {"code": 503, "status": "UNAVAILABLE"}}), "overloaded", "UNAVAILABLE"),
        (Answer(200, {"content-type": "text/html"}, b"<html>"), "internal", "bad_answer"),
    ],
)
@pytest.mark.parametrize("call", [call_whole, call_streamed])
async def test_document_that_is_no_answer(answer: Answer, failure: str, code: str, call: Any, replay, session, target_at):
    with pytest.raises(ProviderError) as caught:
        await call(session, target_at(replay.serve(answer), "google"))

    assert (caught.value.failure, caught.value.code) == (failure, code)
    assert caught.value.may_have_billed is True


async def test_no_key_and_no_project_in_what_clients_read(replay, session, target_at):
    message = f"Key {SECRET} of projects/123456 (AIzaSyA1234567890abcdef) may not do this."
    target = target_at(replay.serve(json_of({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": message}}, 403)))

    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, target, REQUEST)

    assert caught.value.message == "The provider cannot serve this request at the moment."
    assert caught.value.detail == "Key *** of projects/123456 (***) may not do this."


# -- against the simulator -----------------------------------------------------------------------------------------------


async def test_whole_and_streamed_from_the_simulator(session, target_at):
    async with start_simulator() as simulator:
        target = target_at(f"{simulator.url}/google/v1beta", "google", upstream_model="gemini-2.5-flash")
        whole = await ADAPTER.chat(
            session, target, {**REQUEST, "max_tokens": 20, "temperature": 0.1, "reasoning_effort": "low"}
        )
        stream = ADAPTER.open_chat_stream(session, target, {**REQUEST, "max_tokens": 20})
        async with stream:
            chunks = [msgspec.json.decode(chunk.data) async for chunk in stream]

    streamed = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1])
    assert whole.body["choices"][0]["message"]["content"] == streamed
    assert streamed.startswith("IA Factory's simulator answers for google. You asked: Bonjour")
    assert whole.usage == stream.usage == Usage(5, output_total=20)
    assert whole.finish_reason == stream.finish_reason == "length"
    assert len(chunks) == 7


async def test_tools_formats_and_choices_from_the_simulator(session, target_at):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    async with start_simulator() as simulator:
        target = target_at(f"{simulator.url}/google/v1beta", "google")
        called = await ADAPTER.chat(session, target, {**REQUEST, "tools": [CLOCK, WEATHER], "tool_choice": "required"})
        message = called.body["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "noon"}
        told = await ADAPTER.chat(session, target, {**REQUEST, "messages": [*HELLO, message, result], "tools": [CLOCK]})
        formatted = await ADAPTER.chat(session, target, {**REQUEST, "response_format": wanted, "n": 2})

    assert message["tool_calls"][0]["function"] == {"name": "get_time", "arguments": "{}"}
    assert called.finish_reason == "tool_calls"
    assert told.finish_reason == "stop"
    assert [choice["message"]["content"] for choice in formatted.body["choices"]] == ['{"city":"example"}'] * 2
    assert [choice["index"] for choice in formatted.body["choices"]] == [0, 1]


async def test_failures_of_the_simulator(session, target_at):
    async with start_simulator() as simulator:
        target = target_at(f"{simulator.url}/google/v1beta", "google")
        simulator.controls.change("google", {"fail_status": 429})
        with pytest.raises(ProviderError) as limited:
            await ADAPTER.chat(session, target, REQUEST)
        simulator.controls.change("google", {"fail_status": None, "error_after_chunks": 2})
        with pytest.raises(ProviderError) as reported:
            await read_stream(session, target)
        simulator.controls.change("google", {"error_after_chunks": None, "drop_after_chunks": 2})
        with pytest.raises(ProviderError) as dropped:
            await read_stream(session, target)

    assert (limited.value.failure, limited.value.code) == (FailureClass.RATE_LIMITED, "RESOURCE_EXHAUSTED")
    assert limited.value.retry_after_seconds == 1
    assert (reported.value.failure, reported.value.code) == (FailureClass.TRUNCATED, "INTERNAL")
    assert (dropped.value.failure, dropped.value.code) == (FailureClass.TRUNCATED, "connection_error")
