"""The simulator's Anthropic dialect: as the adapter and the official client see it."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import msgspec
import pytest

from routing.providers.anthropic import AnthropicAdapter
from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.simulator import start_simulator
from routing.simulator.server import Simulator

ADAPTER = AnthropicAdapter()
REQUEST = {
    "model": "claude",
    "max_tokens": 100,
    "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Où est le phare d'Alger ?"}],
}
# 9 bytes and 26 bytes make 35: 9 tokens, and 3 for the one message beside the system's text.
PROMPT_TOKENS = 12
TEXT = "IA Factory's simulator answers for anthropic. You asked: Où est le phare d'Alger ? The rest of "
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with start_simulator() as running:
        yield running


@pytest.fixture
def where(simulator: Simulator) -> Target:
    return Target("anthropic", simulator.base_url("anthropic"), "none", "claude-haiku-5-5", "public-model")


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    url = f"{simulator.url}/anthropic"
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as opened:
        yield opened


async def streamed(session: Any, where: Target, request: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    async with ADAPTER.open_chat_stream(session, where, request) as stream:
        chunks = [msgspec.json.decode(chunk.data) async for chunk in stream]
    return stream, [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


async def test_whole_and_streamed_answers_agree(session, where):
    whole = await ADAPTER.chat(session, where, REQUEST)
    stream, deltas = await streamed(session, where, REQUEST)

    said = "".join(delta.get("content") or "" for delta in deltas)
    assert whole.body["choices"][0]["message"]["content"] == said == TEXT
    assert whole.usage == stream.usage == Usage(PROMPT_TOKENS, output_total=24)
    assert (whole.finish_reason, stream.finish_reason) == ("stop", "stop")
    assert len(deltas) == 1 + 6 + 1
    assert stream.output_bytes == whole.output_bytes == 96


async def test_limit_ends_the_answer(session, where):
    answer = await ADAPTER.chat(session, where, {**REQUEST, "max_tokens": 5})

    assert answer.finish_reason == "length"
    assert answer.usage == Usage(PROMPT_TOKENS, output_total=5)


async def test_tool_is_called_once_required_and_answered(session, where):
    request = {**REQUEST, "tools": [WEATHER], "tool_choice": "required"}

    whole = await ADAPTER.chat(session, where, request)
    stream, deltas = await streamed(session, where, request)
    said = whole.body["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "use no tool"}
    after = await ADAPTER.chat(
        session, where, {**REQUEST, "tools": [WEATHER], "messages": [*REQUEST["messages"], said, result]}
    )

    assert said["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"example","days":1}'}
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    assert "".join(call["arguments"] for call in calls) == '{"city":"example","days":1}'
    assert (whole.finish_reason, stream.finish_reason) == ("tool_calls", "tool_calls")
    assert after.finish_reason == "stop"


async def test_schema_is_answered_with_an_example(session, where):
    schema = WEATHER["function"]["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}

    answer = await ADAPTER.chat(session, where, {**REQUEST, "response_format": wanted})

    assert answer.body["choices"][0]["message"]["content"] == '{"city":"example","days":1}'


@pytest.mark.parametrize(
    ("settings", "failure", "status"),
    [
        ({"fail_status": 529}, FailureClass.OVERLOADED, 529),
        ({"fail_status": 429}, FailureClass.RATE_LIMITED, 429),
        ({"fail_status": 402}, FailureClass.NO_FUNDS, 402),
        ({"fail_status": 502, "fail_body": "<html>"}, FailureClass.OVERLOADED, 502),
        ({"drop_after_chunks": 0}, FailureClass.OVERLOADED, None),
    ],
)
async def test_failures(settings: dict[str, Any], failure: FailureClass, status: int | None, simulator, session, where):
    simulator.controls.change("anthropic", settings)

    with pytest.raises(ProviderError) as caught:
        await ADAPTER.chat(session, where, REQUEST)

    assert (caught.value.failure, caught.value.status) == (failure, status)


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"drop_after_chunks": 2}, "connection_error"), ({"error_after_chunks": 2}, "overloaded_error")],
)
async def test_stream_breaks_as_told(settings: dict[str, Any], code: str, simulator, session, where):
    simulator.controls.change("anthropic", settings)

    stream = ADAPTER.open_chat_stream(session, where, REQUEST)
    with pytest.raises(ProviderError) as caught:
        async with stream:
            assert [chunk async for chunk in stream]

    assert (caught.value.failure, caught.value.code) == (FailureClass.TRUNCATED, code)
    assert stream.output_bytes == 32
    assert simulator.controls.provider("anthropic").counters.dropped == 1


async def test_no_figures_when_told(simulator, session, where):
    simulator.controls.change("anthropic", {"omit_usage": True})

    whole = await ADAPTER.chat(session, where, REQUEST)
    stream, _ = await streamed(session, where, REQUEST)

    assert (whole.usage, stream.usage, stream.completed) == (None, None, True)


@pytest.mark.parametrize(
    ("body", "version", "said"),
    [
        ({}, "2023-06-01", "Object missing required field `max_tokens`"),
        ({"max_tokens": 5, "n": 2}, "2023-06-01", "Object contains unknown field `n`"),
        ({"max_tokens": 5, "temperature": 1}, "2026-10-21", "temperature: Extra inputs are not permitted"),
        ({"max_tokens": 5}, "", "anthropic-version: header is required"),
    ],
)
async def test_wrong_requests_are_refused(body: dict[str, Any], version: str, said: str, simulator, session):
    request = {"model": "claude", "messages": [{"role": "user", "content": "Bonjour"}], **body}

    response = await session.send(
        "POST",
        f"{simulator.url}/anthropic/v1/messages",
        headers={"anthropic-version": version},
        content=msgspec.json.encode(request),
        connect_seconds=5,
    )
    answer = msgspec.json.decode(await response.read(10_000))

    assert response.status == 400
    assert answer["error"] == {"type": "invalid_request_error", "message": said}
    assert simulator.controls.provider("anthropic").counters.failed == 1


async def test_the_official_client_understands_it(client: anthropic.AsyncAnthropic):
    request: dict[str, Any] = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "Bonjour"}]}
    tools = [{"name": "weather", "input_schema": WEATHER["function"]["parameters"]}]

    whole = await client.messages.create(**request)
    async with client.messages.stream(**request) as stream:
        final = await stream.get_final_message()
    called = await client.messages.create(**request, tools=tools, tool_choice={"type": "any"})

    assert whole.content[0].text == final.content[0].text
    assert whole.usage == final.usage
    assert (final.stop_reason, called.stop_reason) == ("end_turn", "tool_use")
    assert called.content[0].input == {"city": "example", "days": 1}


async def test_the_official_client_understands_its_errors(simulator, client: anthropic.AsyncAnthropic):
    simulator.controls.change("anthropic", {"fail_status": 529})

    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "Bonjour"}])

    assert (caught.value.status_code, caught.value.type) == (529, "overloaded_error")
