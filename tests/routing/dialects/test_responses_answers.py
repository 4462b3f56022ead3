"""What OpenAI's official client reads when answers of every protocol are told as responses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response

from iafactory.common.errors import ApiError
from routing.dialects.responses import Responses
from routing.dialects.responses_request import responses_request
from routing.providers.base import ChatChunk, Target
from routing.providers.presets import PRESETS
from routing.providers.session import ProviderSession
from tests.routing.dialects.telling import call_of, stream_answer, streamed, whole, whole_answer
from tests.wire.replay import ReplayServer

GREETING = "Bonjour à tous, déjà prêts ? مرحبا بكم 👋🏽"
ASK: dict[str, Any] = {"model": "public-model", "max_output_tokens": 900, "input": "Dis bonjour.", "metadata": {"a": "b"}}
CITY = {"city": "Évreux", "unit": "c"}


@dataclass(frozen=True)
class Told:
    """A recording, and what the client must read of it: text, input and output tokens, status, and what calls say."""

    recording: str
    text: str
    tokens: tuple[int, int]
    status: str = "completed"
    reason: str | None = None
    tool: str | None = None
    refusal: str = ""
    thinking: str = ""
    provider: str = "openai"


DECLINED = "The request was declined by a safety classifier."
WHOLE = [
    Told("openai_chat", GREETING, (24, 17)),
    Told("openai_content_filter", "Voici le début de", (14, 5), "incomplete", "content_filter"),
    Told("openai_refusal", "", (60, 11), refusal="I'm sorry, I can't assist with that request."),
    Told("openai_tool_call", "", (71, 19), tool="get_weather"),
    Told("gemini_chat", GREETING, (19, 39), provider="google"),
    Told("gemini_tool_call", "", (54, 58), tool="get_weather", provider="google"),
    Told("cohere_v2_chat", GREETING, (14, 17), provider="cohere"),
    Told("anthropic_chat", GREETING, (21, 26), provider="anthropic"),
    Told("anthropic_chat_cached", GREETING, (4429, 26), provider="anthropic"),
    Told("anthropic_tool_call", "Je regarde la météo à Évreux.", (412, 74), tool="get_weather", provider="anthropic"),
    Told("anthropic_refusal", "", (21, 1), "incomplete", "content_filter", refusal=DECLINED, provider="anthropic"),
]
STREAMED = [
    Told("openai_stream", GREETING, (24, 17)),
    Told("openai_stream_split", GREETING, (24, 17)),
    Told("openai_stream_u2028", "ligne un\u2028ligne deux\x85ligne trois\x0b\x1c fin", (24, 17)),
    Told("openai_stream_tool_call", "", (71, 19), tool="get_weather"),
    Told("gemini_stream", GREETING, (19, 39), provider="google"),
    Told("gemini_stream_tool_call", "", (19, 38), tool="get_weather", provider="google"),
    Told("cohere_v2_stream", GREETING, (14, 17), provider="cohere"),
    Told("cohere_v2_stream_tool_call", "", (31, 22), tool="get_weather", thinking="Deux langues.", provider="cohere"),
    Told("anthropic_stream", GREETING, (21, 26), provider="anthropic"),
    Told("anthropic_stream_thinking", "Bonjour !", (21, 31), thinking="Salut en deux langues.", provider="anthropic"),
    Told("anthropic_stream_tool_call", "Je regarde la météo à Évreux.", (412, 74), tool="get_weather", provider="anthropic"),
    Told("anthropic_stream_refusal", "Voici", (21, 4), "incomplete", "content_filter", refusal=DECLINED, provider="anthropic"),
]

TargetAt = Callable[..., Target]


def request() -> dict[str, Any]:
    return dict(responses_request(dict(ASK)).chat.body)


def dialect() -> Responses:
    return Responses("resp_ours", echo=responses_request(dict(ASK)).echo)


def client(base_url: str) -> OpenAI:
    return OpenAI(base_url=base_url, api_key="sk", max_retries=0)


def check(response: Response, told: Told) -> None:
    calls = [(item.name, msgspec.json.decode(item.arguments)) for item in response.output if item.type == "function_call"]
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.content or ()]
    assert (response.id, response.object, response.model, response.error) == ("resp_ours", "response", "public-model", None)
    assert response.output_text == told.text
    assert "".join(part.refusal for part in parts if part.type == "refusal") == told.refusal
    assert calls == ([(told.tool, CITY)] if told.tool else [])
    assert "".join(thoughts) == told.thinking
    assert response.status == told.status
    assert (response.incomplete_details and response.incomplete_details.reason) == told.reason
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == told.tokens
    assert response.usage.total_tokens == sum(told.tokens)
    assert (response.metadata, response.max_output_tokens, response.parallel_tool_calls) == ({"a": "b"}, 900, True)
    assert len({item.id for item in response.output}) == len(response.output)


@pytest.mark.parametrize("told", WHOLE, ids=lambda told: told.recording)
async def test_whole_answers(told: Told, session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url(told.recording), told.provider)

    body = await whole(session, target, PRESETS[told.provider].protocol, request(), dialect())

    check(client(replay.serve(whole_answer(body))).responses.create(**ASK), told)


@pytest.mark.parametrize("told", STREAMED, ids=lambda told: told.recording)
async def test_streams(told: Told, session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url(told.recording), told.provider)

    said = await streamed(session, target, PRESETS[told.provider].protocol, request(), dialect())

    events = list(client(replay.serve(stream_answer(said))).responses.create(**ASK, stream=True))
    with client(replay.serve(stream_answer(said))).responses.stream(**ASK) as stream:
        helped = [event.type for event in stream]
    last: Any = events[-1]
    check(last.response, told)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert last.type == f"response.{told.status}"
    assert helped == [event.type for event in events]
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == told.text


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0) -> ChatChunk:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return ChatChunk(msgspec.json.encode({"model": "public-model", "choices": [choice]}), finish_reason=finish_reason)


def call(index: int | None, call_id: str | None, name: str | None, arguments: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}, **more}


def items(response: Response) -> list[tuple[Any, ...]]:
    shown: list[tuple[Any, ...]] = []
    for item in response.output:
        match item.type:
            case "function_call":
                shown.append((item.call_id, item.name, item.arguments))
            case "message":
                shown.append(tuple(part.to_dict().get("text", part.to_dict().get("refusal")) for part in item.content))
            case "reasoning":
                shown.append(("reasoning", *(part.text for part in item.content or ())))
    return shown


@pytest.mark.parametrize(
    ("chunks", "expected", "status"),
    [
        pytest.param([], [], "completed", id="nothing"),
        pytest.param([chunk({}, "length")], [], "incomplete", id="cut at once"),
        pytest.param([chunk({"content": "Oui, m"}, "length")], [("Oui, m",)], "incomplete", id="cut"),
        pytest.param([chunk({"content": "Oui"})], [("Oui",)], "completed", id="no reason told"),
        pytest.param(
            [chunk({"reasoning_content": "Hm"}), chunk({"reasoning": "m"}), chunk({"content": "Oui"}, "stop")],
            [("reasoning", "Hmm"), ("Oui",)],
            "completed",
            id="thoughts",
        ),
        pytest.param(
            [chunk({"content": "a"}), chunk({"content": "b", "tool_calls": [call(0, "c1", "f", "{}")]}, "stop")],
            [("ab",), ("c1", "f", "{}")],
            "completed",
            id="text and call in one chunk",
        ),
        pytest.param(
            [
                chunk({"tool_calls": [call(0, "c1", "f", '{"a":'), call(1, "c2", "g", "")]}),
                chunk({"tool_calls": [call(0, None, None, "1}"), call(1, None, None, '{"b":2}')]}, "tool_calls"),
            ],
            [("c1", "f", '{"a":1}'), ("c2", "g", '{"b":2}')],
            "completed",
            id="calls told alternately",
        ),
        pytest.param(
            [
                chunk({"tool_calls": [call(0, "c1", "f", "{}")]}),
                chunk({"tool_calls": [call(0, "c2", "g", "{}")]}, "tool_calls"),
            ],
            [("c1", "f", "{}"), ("c2", "g", "{}")],
            "completed",
            id="whole calls that share an index",
        ),
        pytest.param(
            [chunk({"tool_calls": [call(None, None, "f", "{}")]}, "tool_calls")],
            [("call_ours_0", "f", "{}")],
            "completed",
            id="a call without id and index",
        ),
        pytest.param(
            [chunk({"tool_calls": [call(0, "c1", "f", "{}")]}), chunk({"content": "so"}), chunk({"content": "!"}, "stop")],
            [("c1", "f", "{}"), ("so!",)],
            "completed",
            id="text after a call",
        ),
        pytest.param([chunk({"content": "N"}), chunk({"refusal": "o."}, "stop")], [("N",), ("o.",)], "completed", id="refusal"),
        pytest.param([chunk({"content": "1"}), chunk({"content": "2"}, index=1)], [("1",)], "completed", id="one choice"),
    ],
)
def test_what_streams_become(chunks: list[ChatChunk], expected: list[Any], status: str, replay: ReplayServer) -> None:
    told = dialect()
    said = b"".join([*map(told.event, chunks), told.end(call_of())])

    events = list(client(replay.serve(stream_answer(said))).responses.create(**ASK, stream=True))

    last: Any = events[-1]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert items(last.response) == expected
    assert (last.type, last.response.status) == (f"response.{status}", status)
    assert sorted(done, key=lambda item: last.response.output.index(item)) == last.response.output


def test_a_call_s_own_marks_travel_with_it() -> None:
    told = dialect()
    mark = {"google": {"thought_signature": "s"}}

    said = told.event(chunk({"tool_calls": [call(0, "c1", "f", "{}", extra_content=mark)]}, "tool_calls"))

    assert b'"extra_content":{"google":{"thought_signature":"s"}}' in said


def test_a_failing_stream_raises_in_the_client(replay: ReplayServer) -> None:
    told = dialect()
    said = told.event(chunk({"content": "Bon"})) + told.failed(ApiError(502, "provider_error", "It broke."))
    read: list[Any] = []

    stream = client(replay.serve(stream_answer(said))).responses.create(**ASK, stream=True)
    with pytest.raises(openai.APIError) as caught:
        read.extend(stream)

    assert (caught.value.message, caught.value.code) == ("It broke.", "provider_error")
    assert [event.type for event in read][-1] == "response.output_text.delta"
