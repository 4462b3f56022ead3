import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import httpx2
import openai
import pytest

from routing.simulator import start_simulator
from routing.simulator.answers import answer_text, example_of, split_text
from routing.simulator.server import Simulator

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Où est le phare d'Alger ?"}]
# 9 bytes and 26 bytes (one ù of two bytes) make 35: 9 tokens, and 3 for each message.
PROMPT_TOKENS = 15
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "days": {"type": "integer", "minimum": 2},
                "hours": {"type": "array", "items": {"type": "number"}},
            },
        },
    },
}
OTHER = {"type": "function", "function": {"name": "other"}}
WEATHER_ARGUMENTS = '{"city":"example","unit":"c","days":2,"hours":[1.5]}'


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with start_simulator() as running:
        yield running


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=simulator.base_url("groq"), api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def control(simulator: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(simulator.url) as opened:
        yield opened


async def collect(client: openai.AsyncOpenAI, **request: object) -> list:
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True, **request)
    return [chunk async for chunk in stream]


def text_of(chunks: list) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def test_whole_answer(client):
    answer = await client.chat.completions.create(model="llama", messages=MESSAGES)

    choice = answer.choices[0]
    assert choice.message.content.startswith("IA Factory's simulator answers for groq. You asked: Où est le phare")
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert len(choice.message.content.encode()) == 24 * 4
    assert answer.model == "llama"
    assert answer.object == "chat.completion"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (PROMPT_TOKENS, 24)
    assert answer.usage.total_tokens == PROMPT_TOKENS + 24
    assert answer._request_id.startswith("sim")


async def test_max_tokens_cuts_the_answer(client):
    shortest = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=9, max_completion_tokens=5, n=2)
    loosest = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=24)

    assert [choice.finish_reason for choice in shortest.choices] == ["length", "length"]
    assert [choice.index for choice in shortest.choices] == [0, 1]
    assert [choice.message.content for choice in shortest.choices] == ["IA Factory's simulat"[:20]] * 2
    assert shortest.usage.completion_tokens == 10
    assert loosest.choices[0].finish_reason == "stop"


async def test_ids_are_unique(client):
    answers = [await client.chat.completions.create(model="m", messages=MESSAGES) for _ in range(3)]

    assert len({answer.id for answer in answers}) == 3
    assert len({answer._request_id for answer in answers}) == 3


async def test_stream_without_usage(client):
    whole = await client.chat.completions.create(model="m", messages=MESSAGES)

    chunks = await collect(client)

    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 7 + ["stop"]
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1


async def test_stream_with_usage(client):
    chunks = await collect(client, stream_options={"include_usage": True})

    assert all(len(chunk.choices) == 1 for chunk in chunks[:-1])
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == PROMPT_TOKENS
    assert chunks[-1].usage.total_tokens == PROMPT_TOKENS + 24


async def test_stream_ends_with_done(control):
    body = {"model": "m", "messages": MESSAGES, "stream": True}

    async with control.post("/groq/v1/chat/completions", json=body) as response:
        raw = await response.read()

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-request-id"].startswith("sim")
    assert raw.endswith(b"}\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(
    ("question", "tool_choice", "called"),
    [
        ("Use a tool", "auto", True),
        ("Hello", "auto", False),
        ("Hello", "required", True),
        ("Hello", {"type": "function", "function": {"name": "get_weather"}}, True),
        ("Use a tool", "none", False),
    ],
)
async def test_tools(question: str, tool_choice: object, called: bool, client):
    answer = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": question}], tools=[WEATHER, OTHER], tool_choice=tool_choice
    )

    calls = answer.choices[0].message.tool_calls or []
    expected = [("get_weather", WEATHER_ARGUMENTS)] if called else []
    assert [(call.function.name, call.function.arguments) for call in calls] == expected
    assert answer.choices[0].finish_reason == ("tool_calls" if called else "stop")
    assert (answer.choices[0].message.content is None) is called


async def test_named_tool_is_called_though_not_first(client):
    choice = {"type": "function", "function": {"name": "get_weather"}}

    answer = await client.chat.completions.create(model="m", messages=MESSAGES, tools=[OTHER, WEATHER], tool_choice=choice)

    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


async def test_tool_result_is_answered_with_text(client):
    messages = [{"role": "user", "content": "Use a tool"}, {"role": "tool", "tool_call_id": "c", "content": "42"}]

    answer = await client.chat.completions.create(model="m", messages=messages, tools=[WEATHER])

    assert answer.choices[0].finish_reason == "stop"


async def test_streamed_tool_call(client):
    chunks = await collect(client, tools=[WEATHER], tool_choice="required")

    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [call.function.name for call in calls if call.function.name] == ["get_weather"]
    assert "".join(call.function.arguments for call in calls) == WEATHER_ARGUMENTS
    assert {call.index for call in calls} == {0}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_models(client):
    await client.chat.completions.create(model="llama", messages=MESSAGES)

    names = [model.id async for model in client.models.list()]

    assert names == ["llama", "simulated-model"]
    assert (await client.models.retrieve("org/any")).id == "org/any"


async def test_settings_of_one_provider_win_over_those_of_all(simulator, client, control):
    await control.put("/_control/*", json={"output_tokens": 40, "prompt_tokens": 1000})
    await control.put("/_control/groq", json={"output_tokens": 8})
    mine = await client.chat.completions.create(model="m", messages=MESSAGES)
    other = await client.with_options(base_url=simulator.base_url("xai")).chat.completions.create(model="m", messages=MESSAGES)
    await control.delete("/_control")
    after = await client.chat.completions.create(model="m", messages=MESSAGES)

    assert (mine.usage.prompt_tokens, mine.usage.completion_tokens) == (1000, 8)
    assert (other.usage.prompt_tokens, other.usage.completion_tokens) == (1000, 40)
    assert (after.usage.prompt_tokens, after.usage.completion_tokens) == (PROMPT_TOKENS, 24)


async def test_null_takes_a_setting_back(client, control):
    await control.put("/_control/groq", json={"output_tokens": 8, "omit_usage": True})
    await control.put("/_control/groq", json={"output_tokens": None})

    answer = await client.chat.completions.create(model="m", messages=MESSAGES)

    assert answer.usage is None
    assert len(answer.choices[0].message.content.encode()) == 96


@pytest.mark.parametrize("settings", [{"speed": 1}, {"latency_ms": -1}, {"fail_rate": 2}, {"fail_status": 200}, []])
async def test_wrong_settings_are_refused(settings: object, control):
    async with control.put("/_control/groq", json=settings) as response:
        refusal = await response.json()
    async with control.get("/_control") as response:
        overview = await response.json()

    assert "error" in refusal
    assert overview["settings"] == {}


async def test_failures_follow_the_seed(client, control):
    await control.put("/_control/groq", json={"fail_status": 503, "fail_rate": 0.5, "seed": 7})
    first = [await status_of(client) for _ in range(12)]
    await control.delete("/_control/groq")
    await control.put("/_control/groq", json={"fail_status": 503, "fail_rate": 0.5, "seed": 7})
    second = [await status_of(client) for _ in range(12)]

    assert first == second
    assert set(first) == {200, 503}


async def status_of(client: openai.AsyncOpenAI) -> int:
    try:
        await client.chat.completions.create(model="m", messages=MESSAGES)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


async def test_failure_body(client, control):
    await control.put("/_control/groq", json={"fail_status": 429, "fail_body": {"error": {"code": "mine"}}})

    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="m", messages=MESSAGES)

    assert caught.value.code == "mine"
    assert caught.value.response.headers["retry-after"] == "1"


async def test_drop_mid_stream(client, control):
    await control.put("/_control/groq", json={"drop_after_chunks": 2, "chunks": 8})
    seen = []

    with pytest.raises(openai.APIConnectionError):
        await read_into(seen, client)

    async with control.get("/_control/groq/requests") as response:
        counters = (await response.json())["counters"]
    assert len(seen) == 3
    assert counters == {"received": 1, "completed": 0, "failed": 0, "dropped": 1, "disconnected": 0}


async def read_into(seen: list, client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    async for chunk in stream:
        seen.append(chunk)  # noqa: PERF401 (what came before an error counts)


async def test_drop_of_a_whole_answer(client, control):
    await control.put("/_control/groq", json={"drop_after_chunks": 0})

    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(model="m", messages=MESSAGES)


async def test_error_mid_stream(client, control):
    await control.put("/_control/groq", json={"error_after_chunks": 1})
    seen = []

    with pytest.raises(openai.APIError, match="simulator breaks this stream"):
        await read_into(seen, client)

    assert len(seen) == 2


async def test_latency_and_interval(client, control):
    await control.put("/_control/groq", json={"latency_ms": 100, "chunk_interval_ms": 20, "chunks": 5})
    started = time.monotonic()

    chunks = await collect(client)

    assert len(chunks) == 7
    # A tenth of a second, then five pieces a fiftieth apart.
    assert 0.2 <= time.monotonic() - started < 5


async def test_requests_are_remembered_and_counted(client, control):
    long_question = [{"role": "user", "content": "x" * 500}]
    await client.chat.completions.create(model="m1", messages=long_question)
    await collect(client)
    await control.put("/_control/groq", json={"latency_ms": 60_000})
    hurried = client.with_options(timeout=1)
    with pytest.raises(openai.APITimeoutError):
        await hurried.chat.completions.create(model="m3", messages=MESSAGES)

    seen = await seen_with(control, disconnected=1)

    assert seen["counters"] == {"received": 3, "completed": 2, "failed": 0, "dropped": 0, "disconnected": 1}
    assert [(request["model"], request["stream"]) for request in seen["requests"]] == [
        ("m1", False),
        ("m", True),
        ("m3", False),
    ]
    assert seen["requests"][0]["path"] == "/groq/v1/chat/completions"
    assert seen["requests"][0]["question"] == "x" * 200
    assert abs(seen["requests"][0]["time"] - time.time()) < 60


async def seen_with(control, *, disconnected: int):
    """What the simulator has seen, once it has noticed that so many clients left."""
    async with asyncio.timeout(20):
        while True:
            async with control.get("/_control/groq/requests") as response:
                seen = await response.json()
            if seen["counters"]["disconnected"] == disconnected:
                return seen
            await asyncio.sleep(0.02)


async def test_client_that_leaves_mid_stream_is_counted(client, control):
    await control.put("/_control/groq", json={"chunk_interval_ms": 500})
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    await anext(stream)
    await stream.close()

    counters = (await seen_with(control, disconnected=1))["counters"]

    assert counters["completed"] == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/groq/v1/chat/completions", b"{", 400),
        ("POST", "/groq/v1/chat/completions", b'{"model":"m"}', 400),
        ("GET", "/groq/v1/chat/completions", b"", 404),
        ("POST", "/groq/v1/nothing", b"{}", 404),
        ("GET", "/", b"", 404),
        ("GET", "/_control/groq/nothing", b"", 404),
    ],
)
async def test_what_is_not_understood(method: str, path: str, body: bytes, status: int, control):
    async with control.request(method, path, data=body) as response:
        answer = await response.json()

    assert response.status == status
    assert "error" in answer


def test_texts_have_their_length():
    text = answer_text("groq", "مرحبا بكم " * 30, 50)

    assert 196 <= len(text.encode()) <= 200
    assert "".join(split_text(text, 7)) == text
    assert len(split_text(text, 7)) == 7
    assert split_text("ab", 9) == ["a", "b"]
    assert split_text("", 3) == [""]


def test_examples_fit_their_schema():
    schema = {
        "type": "object",
        "properties": {
            "a": {"const": 5},
            "b": {"type": ["null", "boolean"]},
            "c": {"anyOf": [{"type": "object", "properties": {"d": {"type": "array"}}}, {"type": "null"}]},
        },
    }

    assert example_of(schema) == {"a": 5, "b": True, "c": {"d": []}}


def test_command_stops_at_sigterm_though_calls_are_under_way():
    command = [sys.executable, "manage.py", "simulator", "--port", "0"]
    root = Path(__file__).resolve().parents[3]
    body = b'{"model":"m","messages":[],"stream":true}'
    call = b"POST /groq/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        url = process.stdout.readline().split()[1].split("/{")[0]
        with (
            openai.OpenAI(base_url=f"{url}/groq/v1", api_key="none") as client,
            socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as streaming,
        ):
            answer = client.chat.completions.create(model="m", messages=MESSAGES)
            httpx2.put(f"{url}/_control/groq", json={"chunk_interval_ms": 60000})
            streaming.sendall(call)
            opening = streaming.recv(65536)

            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            status = process.wait(timeout=50)
            seconds = time.monotonic() - started

    assert answer.usage.completion_tokens == 24
    assert opening.startswith(b"HTTP/1.1 200 OK")
    assert status == 0
    # One second on a machine of its own; shared ones are slower. The call would take minutes.
    assert seconds < 30
