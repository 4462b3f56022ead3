"""What a body of OpenAI's Responses API becomes, and what of it would need a memory."""

from typing import Any

import msgspec
import pytest
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from iafactory.common.errors import ApiError
from routing.dialects.responses_request import responses_request

ASK = {"role": "user", "content": "Bonjour"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "Weather", "parameters": SCHEMA, "strict": None}
WEATHER_FUNCTION = {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": SCHEMA}}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}", "status": "completed"}
CALL_SAID = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
IMAGE = {"type": "input_image", "detail": "low", "image_url": "https://example.org/a.png"}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}
OFFICIAL: TypeAdapter[Any] = TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming)


def chat(**fields: Any) -> dict[str, Any]:
    """The translation, without the model; OpenAI's own types for chat accept it."""
    body = dict(responses_request({"model": "m", "input": "Bonjour", **fields}).chat.body)
    OFFICIAL.validate_python(msgspec.json.decode(msgspec.json.encode({**body, "stream": False})))
    assert body.pop("model") == "m"
    return body


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param("Bonjour", [ASK], id="text"),
        pytest.param([ASK], [ASK], id="message without a type"),
        pytest.param(
            [{"type": "message", "role": "developer", "content": "Bref."}, ASK],
            [{"role": "system", "content": "Bref."}, ASK],
            id="developer",
        ),
        pytest.param([{"role": "user", "content": [{"type": "input_text", "text": "Bonjour"}]}], [ASK], id="one text part"),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_text", "text": "Vois"}, IMAGE]}],
            [{"role": "user", "content": [{"type": "text", "text": "Vois"}, IMAGE_PART]}],
            id="picture",
        ),
        pytest.param(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}}
                    ],
                }
            ],
            id="file",
        ),
        pytest.param(
            [
                ASK,
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "status": "completed",
                    "content": [
                        {"type": "output_text", "text": "Je ", "annotations": []},
                        {"type": "refusal", "refusal": "refuse"},
                    ],
                },
                CALL,
                {**CALL, "call_id": "c2"},
                {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "12"}, IMAGE]},
                {"type": "function_call_output", "call_id": "c2", "output": "13"},
                ASK,
            ],
            [
                ASK,
                {"role": "assistant", "content": "Je refuse", "tool_calls": [CALL_SAID, {**CALL_SAID, "id": "c2"}]},
                {"role": "tool", "tool_call_id": "c1", "content": "12"},
                {"role": "tool", "tool_call_id": "c2", "content": "13"},
                {"role": "user", "content": [{"type": "text", "text": "Result of the tool call c1:"}, IMAGE_PART]},
                ASK,
            ],
            id="a turn with calls, results and a picture",
        ),
        pytest.param(
            [
                ASK,
                {**CALL, "extra_content": {"google": {}}},
                {"type": "function_call_output", "call_id": "c1", "output": [IMAGE]},
            ],
            [
                ASK,
                {"role": "assistant", "content": None, "tool_calls": [{**CALL_SAID, "extra_content": {"google": {}}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "See the following message."},
                {"role": "user", "content": [{"type": "text", "text": "Result of the tool call c1:"}, IMAGE_PART]},
            ],
            id="a call alone, a provider's mark on it, and a picture at the end",
        ),
    ],
)
def test_input(items: Any, expected: list[Any]) -> None:
    assert chat(input=items) == {"messages": expected}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"instructions": "Bref."}, {"messages": [{"role": "system", "content": "Bref."}, ASK]}),
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"temperature": 2, "top_p": 0.5, "user": "u"}, {"temperature": 2, "top_p": 0.5, "user": "u"}),
        ({"reasoning": {"effort": "minimal", "summary": "auto"}}, {"reasoning_effort": "minimal"}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True, "description": "d"}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "description": "d", "strict": True},
                }
            },
        ),
        ({"tools": []}, {}),
        ({"tools": [WEATHER]}, {"tools": [WEATHER_FUNCTION]}),
        (
            {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False},
            {"tools": [WEATHER_FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather"}},
            {"tools": [WEATHER_FUNCTION], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
            },
            {
                "tools": [WEATHER_FUNCTION],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]},
                },
            },
        ),
        (
            {
                "store": False,
                "background": False,
                "previous_response_id": None,
                "truncation": "disabled",
                "service_tier": "flex",
                "metadata": {"a": "b"},
                "include": ["reasoning.encrypted_content"],
                "prompt_cache_key": "k",
            },
            {},
        ),
    ],
)
def test_fields(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(**fields) == {"messages": [ASK]} | expected


def test_the_answer_repeats_what_was_asked() -> None:
    echo = responses_request(
        {
            "model": "m",
            "input": "x",
            "instructions": "i",
            "tools": [WEATHER],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "text": {"verbosity": "low"},
            "reasoning": {"effort": "low"},
            "temperature": 0.5,
            "metadata": {"a": "b"},
        }
    ).echo

    assert echo == {
        "background": False,
        "instructions": "i",
        "max_output_tokens": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "reasoning": {"effort": "low", "summary": None},
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": "required",
        "tools": [WEATHER],
        "top_p": None,
        "truncation": "disabled",
        "user": None,
    }


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"store": True}, "store", "state_not_kept"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "state_not_kept"),
        ({"conversation": "conv_1"}, "conversation", "state_not_kept"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "state_not_kept"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0", "state_not_kept"),
        ({"background": True}, "background", "background_not_offered"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"moderation": {}}, "moderation", "unsupported_parameter"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"surprise": 1}, "surprise", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported_parameter"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools.0.type", "unsupported_parameter"),
        ({"tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice.type", "unsupported_parameter"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type", "unsupported_parameter"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input.0.content.0.type",
            "unsupported_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
            "unsupported_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://x"}]}]},
            "input.0.content.0.file_url",
            "unsupported_parameter",
        ),
        ({"model": None}, "model", "invalid_request"),
        ({"input": None}, "input", "invalid_request"),
        ({"input": []}, "input", "invalid_request"),
        ({"input": 7}, "input", "invalid_request"),
        ({"input": [7]}, "input.0", "invalid_request"),
        ({"input": [{"type": ["message"]}]}, "input.0.type", "unsupported_parameter"),
        ({"input": [{"role": "king", "content": "x"}]}, "input.0.role", "invalid_request"),
        ({"input": [{"role": ["user"], "content": "x"}]}, "input.0.role", "invalid_request"),
        ({"input": [{"role": "user"}]}, "input.0.content", "invalid_request"),
        ({"input": [{"role": "user", "content": [7]}]}, "input.0.content.0", "invalid_request"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text", "invalid_request"),
        (
            {"input": [{"role": "user", "content": [{**IMAGE, "image_url": "file:///etc/passwd"}]}]},
            "input.0.content.0.image_url",
            "invalid_request",
        ),
        ({"input": [{"role": "assistant", "content": [IMAGE]}]}, "input.0.content", "invalid_request"),
        ({"input": [{**CALL, "arguments": {}}]}, "input.0.arguments", "invalid_request"),
        ({"input": [{**CALL, "call_id": None}]}, "input.0.call_id", "invalid_request"),
        ({"input": [{"type": "function_call_output", "call_id": "c1"}]}, "input.0.output", "invalid_request"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id", "invalid_request"),
        ({"instructions": 7}, "instructions", "invalid_request"),
        ({"stream": "yes"}, "stream", "invalid_request"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_request"),
        ({"max_output_tokens": "many"}, "max_output_tokens", "invalid_request"),
        ({"temperature": 3}, "temperature", "invalid_request"),
        ({"metadata": {"a": 7}}, "metadata.a", "invalid_request"),
        ({"metadata": "x"}, "metadata", "invalid_request"),
        ({"reasoning": "high"}, "reasoning", "invalid_request"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_request"),
        ({"text": "x"}, "text", "invalid_request"),
        ({"text": {"verbosity": "endless"}}, "text.verbosity", "invalid_request"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_request"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "invalid_request"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "invalid_request"),
        ({"tools": {}}, "tools", "invalid_request"),
        ({"tools": [7]}, "tools.0", "invalid_request"),
        ({"tools": [{"name": "x"}]}, "tools.0.type", "invalid_request"),
        ({"tools": [{"type": "function"}]}, "tools.0.name", "invalid_request"),
        ({"tools": [{**WEATHER, "parameters": "{}"}]}, "tools.0.parameters", "invalid_request"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice", "invalid_request"),
        ({"tools": [WEATHER], "tool_choice": 7}, "tool_choice", "invalid_request"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name", "invalid_request"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        responses_request({"model": "m", "input": "Bonjour", **fields})

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
