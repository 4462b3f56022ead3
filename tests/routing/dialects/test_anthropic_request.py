"""What a body of Anthropic's Messages API becomes: for other providers, and for Anthropic itself."""

from typing import Any

import msgspec
import pytest
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from iafactory.common.errors import ApiError
from routing.chat_request import FILE_TOKENS, IMAGE_TOKENS, ChatRequest
from routing.dialects.anthropic_request import TYPED_TOOL_TOKENS, count_request, messages_request
from routing.providers import anthropic_request, cohere_request, gemini_request
from routing.providers.base import FailureClass, ProviderError, Target
from routing.providers.native import NATIVE
from routing.providers.openai import OpenAIAdapter, build_request
from routing.providers.presets import REASONING_MODEL

ASK = {"role": "user", "content": "Bonjour"}
BASE: dict[str, Any] = {"model": "m", "max_tokens": 2000, "messages": [ASK]}
PNG = "iVBORw0KGgo="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
WEATHER = {"name": "weather", "description": "Weather", "input_schema": SCHEMA}
WEATHER_FUNCTION = {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": SCHEMA}}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Évreux"}}
CALL_SAID = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Évreux"}'}}
OFFICIAL: TypeAdapter[Any] = TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming)


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **more}


def asked(**fields: Any) -> ChatRequest:
    return messages_request({**BASE, **fields})


def chat(**fields: Any) -> dict[str, Any]:
    """The translation, without what every body here has; OpenAI's own types accept it."""
    body = {name: value for name, value in asked(**fields).body.items() if name != NATIVE}
    OFFICIAL.validate_python(msgspec.json.decode(msgspec.json.encode({**body, "stream": False})))
    assert (body.pop("model"), body.pop("max_tokens")) == ("m", 2000)
    return body


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([ASK], [ASK], id="text"),
        pytest.param([user(text("a"), text("b"))], [user(text("a"), text("b"))], id="texts"),
        pytest.param([user(text("a", **CACHED))], [{"role": "user", "content": "a"}], id="cache mark"),
        pytest.param(
            [ASK, assistant(THOUGHT, text("Oui"), text(" !")), ASK],
            [ASK, {"role": "assistant", "content": "Oui !"}, ASK],
            id="thoughts are for who had them",
        ),
        pytest.param(
            [ASK, assistant({"type": "redacted_thinking", "data": "x"})],
            [ASK, {"role": "assistant", "content": ""}],
            id="redacted",
        ),
        pytest.param([user(text("Vois"), IMAGE)], [user(text("Vois"), IMAGE_PART)], id="image"),
        pytest.param(
            [user({"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}})],
            [user({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})],
            id="image by address",
        ),
        pytest.param(
            [user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}, "title": "T"})],
            [{"role": "user", "content": "T\né"}],
            id="text document",
        ),
        pytest.param(
            [user({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}})],
            [
                user(
                    {
                        "type": "file",
                        "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
                    }
                )
            ],
            id="PDF",
        ),
        pytest.param(
            [ASK, assistant(text("Je regarde."), CALL), user(result("12 °C"), text("Et ?"))],
            [
                ASK,
                {"role": "assistant", "content": "Je regarde.", "tool_calls": [CALL_SAID]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "12 °C"},
                {"role": "user", "content": "Et ?"},
            ],
            id="tool and result",
        ),
        pytest.param(
            [ASK, assistant(CALL), user(result([text("a"), text("b")], is_error=True))],
            [
                ASK,
                {"role": "assistant", "content": None, "tool_calls": [CALL_SAID]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: a\nb"},
            ],
            id="failed tool",
        ),
        pytest.param(
            [ASK, assistant(CALL), user(result([IMAGE]))],
            [
                ASK,
                {"role": "assistant", "content": None, "tool_calls": [CALL_SAID]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "See the following message."},
                user(text("Result of the tool call toolu_1:"), IMAGE_PART),
            ],
            id="a picture as a result",
        ),
        pytest.param(
            [ASK, assistant(CALL), user({"type": "tool_result", "tool_use_id": "toolu_1"})],
            [
                ASK,
                {"role": "assistant", "content": None, "tool_calls": [CALL_SAID]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": ""},
            ],
            id="a result of nothing",
        ),
        pytest.param(
            [ASK, assistant({**CALL, "extra_content": {"google": {"thought_signature": "s"}}}), user(result("x"))],
            [
                ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{**CALL_SAID, "extra_content": {"google": {"thought_signature": "s"}}}],
                },
                {"role": "tool", "tool_call_id": "toolu_1", "content": "x"},
            ],
            id="a provider's mark on its call",
        ),
        pytest.param(
            [{"role": "system", "content": "Sois bref."}, ASK],
            [{"role": "system", "content": "Sois bref."}, ASK],
            id="system turn",
        ),
    ],
)
def test_messages(messages: list[Any], expected: list[Any]) -> None:
    assert chat(messages=messages) == {"messages": expected}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"system": "Bref."}, {"messages": [{"role": "system", "content": "Bref."}, ASK]}),
        ({"system": [text("A"), text("B", **CACHED)]}, {"messages": [{"role": "system", "content": "A\n\nB"}, ASK]}),
        ({"system": ""}, {}),
        ({"stop_sequences": ["\n\nHuman:"]}, {"stop": ["\n\nHuman:"]}),
        ({"stop_sequences": []}, {}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 40}, {"temperature": 0.5, "top_p": 0.9, "top_k": 40}),
        ({"metadata": {"user_id": "u1"}}, {"user": "u1"}),
        ({"metadata": {"user_id": "u" * 65}}, {}),
        ({"tools": [WEATHER]}, {"tools": [WEATHER_FUNCTION]}),
        ({"tools": []}, {}),
        ({"tools": [{**WEATHER, "type": "custom", **CACHED}]}, {"tools": [WEATHER_FUNCTION]}),
        ({"tools": [WEATHER], "tool_choice": {"type": "auto"}}, {"tools": [WEATHER_FUNCTION], "tool_choice": "auto"}),
        ({"tools": [WEATHER], "tool_choice": {"type": "any"}}, {"tools": [WEATHER_FUNCTION], "tool_choice": "required"}),
        ({"tools": [WEATHER], "tool_choice": {"type": "none"}}, {"tools": [WEATHER_FUNCTION], "tool_choice": "none"}),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}},
            {
                "tools": [WEATHER_FUNCTION],
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
                "parallel_tool_calls": False,
            },
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}),
        (
            {"output_config": {"effort": "max"}, "thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"reasoning_effort": "max"},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": False},
                }
            },
        ),
        ({"stream": False, "service_tier": "auto", "speed": "fast", "top_k": None}, {"stream": False}),
    ],
)
def test_fields(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(**fields) == {"messages": [ASK]} | expected


def to_anthropic(request: ChatRequest, model: str = "claude-opus-4-6", max_tokens: int = 2000, *quirks: str) -> dict[str, Any]:
    """What an adapter of the same dialect sends for a request whose limit is `max_tokens`."""
    target = Target("anthropic", "http://x", "k", model, "m", quirks=frozenset(quirks))
    return anthropic_request.build_request(target, {**request.body, "max_tokens": max_tokens}, stream=False)


EVERYTHING: dict[str, Any] = {
    "system": [text("A", **CACHED)],
    "messages": [
        user(text("q", **CACHED), IMAGE),
        assistant(THOUGHT, {"type": "redacted_thinking", "data": "x"}, text("a"), CALL),
        user(result([text("r"), IMAGE], is_error=True, **CACHED)),
        user({"type": "search_result", "source": "s", "title": "t", "content": [text("found")]}),
        user(
            {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}, "citations": {"enabled": True}}
        ),
    ],
    "tools": [{**WEATHER, **CACHED, "defer_loading": True}, {"type": "bash_20250124", "name": "bash"}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1500, "display": "summarized"},
    "output_config": {"effort": "high"},
    "metadata": {"user_id": "u" * 100},
    "stop_sequences": ["x"],
    "cache_control": {"type": "ephemeral"},
    "temperature": 1,
    "top_k": 5,
}


def test_anthropic_gets_the_request_as_it_was_said() -> None:
    sent = to_anthropic(asked(**EVERYTHING))

    assert sent == {**EVERYTHING, "model": "claude-opus-4-6", "max_tokens": 2000}


def test_what_changes_the_price_is_not_sent() -> None:
    sent = to_anthropic(asked(service_tier="auto", speed="fast"))

    assert sent == {"model": "claude-opus-4-6", "max_tokens": 2000, "messages": [ASK]}


@pytest.mark.parametrize(("model", "quirks"), [("claude-opus-4-7", ()), ("claude-opus-4-6", ("no_sampling",))])
def test_models_without_sampling_get_none_and_the_client_is_told(model: str, quirks: tuple[str, ...]) -> None:
    request = asked(temperature=0.5, top_k=3)
    target = Target("anthropic", "http://x", "k", model, "m", quirks=frozenset(quirks))

    assert to_anthropic(request, model, 2000, *quirks).keys() == {"model", "max_tokens", "messages"}
    assert anthropic_request.dropped(target, request.body) == ["temperature", "top_k"]


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [(2000, {"type": "enabled", "budget_tokens": 1500}), (1400, None), (3000, {"type": "enabled", "budget_tokens": 1500})],
)
def test_thoughts_stay_below_the_limit_of_the_call(max_tokens: int, expected: Any) -> None:
    request = asked(thinking={"type": "enabled", "budget_tokens": 1500})

    assert to_anthropic(request, max_tokens=max_tokens).get("thinking") == expected


def test_a_lower_limit_leaves_half_of_it_for_the_answer() -> None:
    request = messages_request({**BASE, "max_tokens": 20_000, "thinking": {"type": "enabled", "budget_tokens": 16_000}})

    assert to_anthropic(request, max_tokens=8000)["thinking"]["budget_tokens"] == 4000


def test_what_other_models_left_in_the_history_is_made_fit_for_anthropic() -> None:
    unsigned = {"type": "thinking", "thinking": "Hm", "signature": ""}
    call = {**CALL, "id": "functions.weather:0"}
    answer = {**result("x"), "tool_use_id": "functions.weather:0"}
    history = [ASK, assistant(unsigned), assistant(unsigned, {**call, "extra_content": {"google": {}}}), user(answer)]

    sent = to_anthropic(asked(messages=history))

    assert sent["messages"] == [
        ASK,
        assistant({**CALL, "id": "functions_weather_0"}),
        user({**answer, "tool_use_id": "functions_weather_0"}),
    ]


def test_only_features_without_a_price_are_switched_on() -> None:
    betas = "interleaved-thinking-2025-05-14, context-1m-2025-08-07,computer-use-2025-01-24,interleaved-thinking-é"

    request = messages_request(dict(BASE), betas=betas)

    assert anthropic_request.betas_of(request.body) == {
        "anthropic-beta": "interleaved-thinking-2025-05-14,computer-use-2025-01-24"
    }


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({}, []),
        ({"messages": [user(text("q", **CACHED), IMAGE)]}, []),
        ({"tools": [WEATHER, {"type": "bash_20250124", "name": "bash"}]}, ["tools.1"]),
        (
            {"messages": [user({"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}})]},
            ["messages.0.content.0.source"],
        ),
        (
            {
                "messages": [
                    user(
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                            "citations": {"enabled": True},
                        }
                    )
                ]
            },
            ["messages.0.content.0.citations"],
        ),
        (
            {"messages": [ASK, assistant({"type": "server_tool_use", "id": "s", "name": "x", "input": {}})]},
            ["messages.1.content.0"],
        ),
    ],
)
def test_what_only_anthropic_understands_rules_out_the_others(fields: dict[str, Any], lost: list[str]) -> None:
    body = asked(**fields).body

    assert OpenAIAdapter().inexpressible(body) == lost
    assert gemini_request.inexpressible(body)[: len(lost)] == lost
    assert cohere_request.inexpressible(body)[: len(lost)] == lost
    assert anthropic_request.inexpressible(body) == []


def test_the_original_is_not_sent_to_anybody_else() -> None:
    target = Target("openai", "http://x", "k", "gpt", "m")

    assert build_request(target, asked().body, stream=False) == {"model": "gpt", "messages": [ASK], "max_tokens": 2000}


def test_the_input_is_counted_with_everything_the_original_says() -> None:
    plain = asked()
    signed = asked(messages=[ASK, assistant({**THOUGHT, "signature": "s" * 5000})])
    pictured = asked(messages=[user({**IMAGE, "source": {**IMAGE["source"], "data": "A" * 50_000}})])
    paged = asked(messages=[user({"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}})])
    hidden = asked(
        messages=[
            user({"type": "document", "source": {"type": "content", "content": [text("t"), IMAGE]}}),
        ]
    )
    typed = asked(tools=[{"type": "bash_20250124", "name": "bash"}])

    assert signed.text_bytes > plain.text_bytes + 5000
    assert pictured.text_bytes < plain.text_bytes + 200
    assert pictured.overhead_tokens == plain.overhead_tokens + IMAGE_TOKENS
    assert paged.overhead_tokens == plain.overhead_tokens + FILE_TOKENS
    assert hidden.overhead_tokens == plain.overhead_tokens + IMAGE_TOKENS
    assert typed.overhead_tokens == plain.overhead_tokens + TYPED_TOOL_TOKENS


@pytest.mark.parametrize(
    ("fields", "must_stay"),
    [
        ({}, False),
        ({"tools": [WEATHER]}, True),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, True),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
    ],
)
def test_answers_that_need_their_length_keep_it(fields: dict[str, Any], must_stay: bool) -> None:
    assert asked(**fields).limit_must_stay is must_stay


def test_a_count_needs_no_limit() -> None:
    assert count_request({"model": "m", "messages": [ASK]}).max_tokens is None


@pytest.mark.parametrize(
    ("quirks", "sent", "dropped"),
    [
        ((), {"temperature": 0.1, "top_k": 2, "reasoning_effort": "high"}, []),
        (("no_top_k",), {"temperature": 0.1, "reasoning_effort": "high"}, ["top_k"]),
        (("effort_if_reasoning",), {"temperature": 0.1, "top_k": 2}, ["reasoning_effort"]),
        (("effort_if_reasoning", REASONING_MODEL), {"temperature": 0.1, "top_k": 2, "reasoning_effort": "high"}, []),
        (("no_sampling_if_reasoning",), {"temperature": 0.1, "top_k": 2, "reasoning_effort": "high"}, []),
        (("no_sampling_if_reasoning", REASONING_MODEL), {"top_k": 2, "reasoning_effort": "high"}, ["temperature"]),
    ],
)
def test_hints_a_company_refuses_are_left_out_and_named(
    quirks: tuple[str, ...], sent: dict[str, Any], dropped: list[str]
) -> None:
    target = Target("x", "http://x", "k", "u", "m", quirks=frozenset(quirks))
    body = asked(temperature=0.1, top_k=2, output_config={"effort": "high"}).body

    built = build_request(target, body, stream=False)

    assert {name: value for name, value in built.items() if name not in ("model", "max_tokens", "messages")} == sent
    assert OpenAIAdapter().dropped(target, body) == dropped


HINTS = {
    "temperature": 1.5,
    "top_p": 1,
    "top_k": 600,
    "seed": 1,
    "presence_penalty": -1,
    "verbosity": "low",
    "reasoning_effort": "low",
}


@pytest.mark.parametrize(
    ("dropped", "model", "expected"),
    [
        (gemini_request.dropped, "gemini-2.5-flash", ["verbosity"]),
        (gemini_request.dropped, "gemini-2.0-flash", ["reasoning_effort", "verbosity"]),
        (
            cohere_request.dropped,
            "command-a-03-2025",
            ["top_p", "top_k", "presence_penalty", "reasoning_effort", "verbosity"],
        ),
        (cohere_request.dropped, "command-a-reasoning-08-2025", ["top_p", "top_k", "presence_penalty", "verbosity"]),
        (
            anthropic_request.dropped,
            "claude-opus-5-5",
            ["temperature", "top_p", "top_k", "presence_penalty", "seed", "verbosity"],
        ),
        # Thinking excludes sampling there.
        (
            anthropic_request.dropped,
            "claude-sonnet-4-5",
            ["temperature", "top_p", "top_k", "presence_penalty", "seed", "verbosity"],
        ),
    ],
)
def test_hints_a_protocol_does_not_have_are_named(dropped: Any, model: str, expected: list[str]) -> None:
    target = Target("x", "http://x", "k", model, "m")

    assert dropped(target, {"messages": [ASK], "max_tokens": 4000, **HINTS}) == expected


def test_older_claude_models_take_one_way_of_sampling() -> None:
    target = Target("x", "http://x", "k", "claude-sonnet-4-5", "m")
    body = {"messages": [ASK], "max_tokens": 4000, "temperature": 0.5, "top_p": 0.5, "top_k": 2}

    assert anthropic_request.dropped(target, body) == ["top_p"]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"properties": value}
    return value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [7]}, "messages.0"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [user()]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages.0.content.0"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text"),
        ({"messages": [user({"text": "x"})]}, "messages.0.content.0.type"),
        ({"messages": [user({"type": ["text"]})]}, "messages.0.content.0.type"),
        ({"messages": [user({"type": "video"})]}, "messages.0.content.0.type"),
        ({"messages": [assistant(IMAGE)]}, "messages.0.content.0.type"),
        ({"messages": [user({"type": "image"})]}, "messages.0.content.0.source"),
        (
            {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
            "messages.0.content.0.source.type",
        ),
        ({"messages": [user({"type": "image", "source": {"type": ["url"]}})]}, "messages.0.content.0.source.type"),
        (
            {"messages": [user({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}})]},
            "messages.0.content.0.source.url",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": 7}})]},
            "messages.0.content.0.source.data",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "base64", "media_type": ["a"], "data": "x"}})]},
            "messages.0.content.0.source.media_type",
        ),
        ({"messages": [user({"type": "tool_result"})]}, "messages.0.content.0.tool_use_id"),
        ({"messages": [user(result(7))]}, "messages.0.content.0.content"),
        ({"messages": [user(result([7]))]}, "messages.0.content.0.content.0"),
        ({"messages": [user(result("x", is_error="no"))]}, "messages.0.content.0.is_error"),
        ({"messages": [assistant({**CALL, "input": "{}"})]}, "messages.0.content.0.input"),
        ({"messages": [assistant({**CALL, "id": 7})]}, "messages.0.content.0.id"),
        ({"messages": [assistant({**THOUGHT, "signature": 7})]}, "messages.0.content.0.signature"),
        ({"messages": [assistant({"type": "thinking"})]}, "messages.0.content.0.thinking"),
        ({"system": 7}, "system"),
        ({"system": [7]}, "system.0"),
        ({"system": [IMAGE]}, "system.0.type"),
        ({"temperature": 1.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": True}, "top_k"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": [7]}, "stop_sequences.0"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"metadata": "u"}, "metadata"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"tools": {}}, "tools"),
        ({"tools": "x"}, "tools"),
        ({"tools": [7]}, "tools.0"),
        ({"tools": [{"name": 7, "input_schema": SCHEMA}]}, "tools.0.name"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema"),
        ({"tools": [{"name": "x", "input_schema": nested(900)}]}, None),
        ({"output_config": {"format": {"type": "json_schema", "schema": nested(200)}}}, "output_config.format.schema"),
        ({"tools": [{**WEATHER, "type": 7}]}, "tools.0.type"),
        ({"tools": [{**WEATHER, "strict": "yes"}]}, "tools.0.strict"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "tools.0.type"),
        ({"tools": [{**WEATHER, "allowed_callers": ["code_execution_20250825"]}]}, "tools.0.allowed_callers"),
        ({"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": ["any"]}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": "yes"}, "thinking"),
        ({"thinking": {"type": 7}}, "thinking.type"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"new": 1}}, "output_config.new"),
        ({"cache_control": "yes"}, "cache_control"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"surprise": 1}, "surprise"),
        ({NATIVE: {"protocol": "anthropic"}}, NATIVE),
    ],
)
def test_broken_requests_are_refused_by_name(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        asked(**fields)

    assert (caught.value.status, caught.value.param) == (400, param)


def test_nesting_that_could_not_be_written_again_is_refused() -> None:
    value: Any = 1
    for _ in range(900):
        value = [value]

    with pytest.raises(ApiError) as caught:
        asked(messages=[assistant({**CALL, "input": {"a": value}})])

    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


def test_a_strict_tool_s_schema_may_not_be_nested_beyond_reason() -> None:
    target = Target("anthropic", "http://x", "k", "claude-opus-4-6", "m")
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": nested(400)}}

    with pytest.raises(ProviderError) as caught:
        anthropic_request.build_request(target, {"messages": [ASK], "tools": [tool]}, stream=False)

    assert caught.value.failure is FailureClass.BAD_REQUEST
