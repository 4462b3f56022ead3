"""What Anthropic's official client reads when answers of every protocol are told in its dialect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import msgspec
import pytest
from anthropic import Anthropic
from anthropic.types import Message

from iafactory.common import request_id
from iafactory.common.errors import ApiError
from routing.dialects.anthropic import AnthropicMessages, message_of
from routing.dialects.anthropic_request import messages_request
from routing.providers.base import ChatAnswer, ChatChunk, Target, Usage
from routing.providers.presets import PRESETS
from routing.providers.session import ProviderSession
from tests.routing.dialects.telling import call_of, stream_answer, streamed, whole, whole_answer
from tests.wire.replay import ReplayServer

GREETING = "Bonjour à tous, déjà prêts ? مرحبا بكم 👋🏽"
ASK: dict[str, Any] = {"model": "public-model", "max_tokens": 900, "messages": [{"role": "user", "content": "Dis bonjour."}]}
CITY = {"city": "Évreux", "unit": "c"}


@dataclass(frozen=True)
class Told:
    """A recording, and what the client must read of it: text, input and output tokens, reason, and what calls say."""

    recording: str
    text: str
    tokens: tuple[int, int]
    stop_reason: str = "end_turn"
    tool: str | None = None
    thinking: str = ""
    provider: str = "openai"


WHOLE = [
    Told("openai_chat", GREETING, (24, 17)),
    Told("openai_content_filter", "Voici le début de", (14, 5), "refusal"),
    Told("openai_refusal", "I'm sorry, I can't assist with that request.", (60, 11), "refusal"),
    Told("openai_tool_call", "", (71, 19), "tool_use", "get_weather"),
    Told("gemini_chat", GREETING, (19, 39), provider="google"),
    Told("gemini_tool_call", "", (54, 58), "tool_use", "get_weather", provider="google"),
    Told("cohere_v2_chat", GREETING, (14, 17), provider="cohere"),
    Told("anthropic_chat", GREETING, (21, 26), provider="anthropic"),
    Told("anthropic_chat_cached", GREETING, (21, 26), provider="anthropic"),
    Told("anthropic_tool_call", "Je regarde la météo à Évreux.", (412, 74), "tool_use", "get_weather", provider="anthropic"),
    Told("anthropic_refusal", "", (21, 1), "refusal", provider="anthropic"),
]
STREAMED = [
    Told("openai_stream", GREETING, (24, 17)),
    Told("openai_stream_split", GREETING, (24, 17)),
    Told("openai_stream_u2028", "ligne un\u2028ligne deux\x85ligne trois\x0b\x1c fin", (24, 17)),
    Told("openai_stream_tool_call", "", (71, 19), "tool_use", "get_weather"),
    Told("gemini_stream", GREETING, (19, 39), provider="google"),
    Told("gemini_stream_tool_call", "", (19, 38), "tool_use", "get_weather", provider="google"),
    Told("cohere_v2_stream", GREETING, (14, 17), provider="cohere"),
    Told("cohere_v2_stream_tool_call", "", (31, 22), "tool_use", "get_weather", "Deux langues.", provider="cohere"),
    Told("anthropic_stream", GREETING, (21, 26), provider="anthropic"),
    Told("anthropic_stream_split", GREETING, (21, 26), provider="anthropic"),
    Told("anthropic_stream_thinking", "Bonjour !", (21, 31), thinking="Salut en deux langues.", provider="anthropic"),
    Told(
        "anthropic_stream_tool_call",
        "Je regarde la météo à Évreux.",
        (412, 74),
        "tool_use",
        "get_weather",
        provider="anthropic",
    ),
    Told("anthropic_stream_refusal", "Voici", (21, 4), "refusal", provider="anthropic"),
]

TargetAt = Callable[..., Target]


def request() -> dict[str, Any]:
    """What the pipeline would hand to an adapter."""
    return dict(messages_request(dict(ASK)).body)


def dialect() -> AnthropicMessages:
    return AnthropicMessages("msg_ours", input_tokens=7)


def client(base_url: str) -> Anthropic:
    return Anthropic(base_url=base_url, api_key="sk", max_retries=0)


def check(message: Message, told: Told) -> None:
    texts = [block.text for block in message.content if block.type == "text"]
    calls = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
    thoughts = [block.thinking for block in message.content if block.type == "thinking"]
    assert (message.type, message.role, message.model) == ("message", "assistant", "public-model")
    assert message.id.startswith("msg_")
    assert "".join(texts) == told.text
    assert calls == ([(told.tool, CITY)] if told.tool else [])
    assert "".join(thoughts) == told.thinking
    assert (message.stop_reason, message.stop_sequence) == (told.stop_reason, None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == told.tokens


@pytest.mark.parametrize("told", WHOLE, ids=lambda told: told.recording)
async def test_whole_answers(told: Told, session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url(told.recording), told.provider)

    body = await whole(session, target, PRESETS[told.provider].protocol, request(), dialect())

    message = client(replay.serve(whole_answer(body))).messages.create(**ASK)
    check(message, told)


@pytest.mark.parametrize("told", STREAMED, ids=lambda told: told.recording)
async def test_streams(told: Told, session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url(told.recording), told.provider)

    said = await streamed(session, target, PRESETS[told.provider].protocol, request(), dialect())

    with client(replay.serve(stream_answer(said))).messages.stream(**ASK) as stream:
        kinds = [event.type for event in stream if event.type in ("message_start", "content_block_start", "message_stop")]
    check(stream.get_final_message(), told)
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


async def test_thoughts_and_signatures_arrive_as_they_came(
    session: ProviderSession, target_at: TargetAt, replay: ReplayServer
) -> None:
    target = target_at(replay.base_url("anthropic_stream_thinking"), "anthropic")

    said = await streamed(session, target, "anthropic", request(), dialect())

    with client(replay.serve(stream_answer(said))).messages.stream(**ASK) as stream:
        message = stream.get_final_message()
    assert message.id == "msg_01Example000000000000006"
    assert message.content[0].to_dict() == {
        "type": "thinking",
        "thinking": "Salut en deux langues.",
        "signature": "RXhhbXBsZVNpZ25hdHVyZQ==",
    }
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 12


async def test_cached_input_is_told_apart(session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url("anthropic_chat_cached"), "anthropic")

    body = msgspec.json.decode(await whole(session, target, "anthropic", request(), dialect()))

    usage = body["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (21, 4096, 312)
    assert sum(usage["cache_creation"].values()) == 312


async def test_a_refusal_keeps_its_reason(session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url("anthropic_stream_refusal"), "anthropic")

    said = await streamed(session, target, "anthropic", request(), dialect())

    with client(replay.serve(stream_answer(said))).messages.stream(**ASK) as stream:
        message = stream.get_final_message()
    assert message.stop_details is not None
    assert message.stop_details.explanation == "The request was declined by a safety classifier."


async def test_a_call_s_own_marks_travel_with_it(session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url("gemini_stream_tool_call"), "google")

    said = await streamed(session, target, "gemini", request(), dialect())

    with client(replay.serve(stream_answer(said))).messages.stream(**ASK) as stream:
        block = stream.get_final_message().content[0].to_dict()
    assert block["extra_content"] == {"google": {"thought_signature": "ZXhhbXBsZS10aG91Z2h0LXNpZ25hdHVyZQ=="}}


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0) -> ChatChunk:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return ChatChunk(msgspec.json.encode({"model": "public-model", "choices": [choice]}), finish_reason=finish_reason)


def call(index: int | None, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    return {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}


def read(replay: ReplayServer, *chunks: ChatChunk) -> Message:
    """What the client makes of these chunks."""
    told = dialect()
    said = b"".join([*map(told.event, chunks), told.end(call_of())])
    with client(replay.serve(stream_answer(said))).messages.stream(**ASK) as stream:
        return stream.get_final_message()


def blocks(message: Message) -> list[tuple[Any, ...]]:
    shown = {"text": ("text",), "thinking": ("thinking", "signature"), "tool_use": ("id", "name", "input")}
    return [(block.type, *(getattr(block, name) for name in shown[block.type])) for block in message.content]


@pytest.mark.parametrize(
    ("chunks", "expected", "stop_reason"),
    [
        pytest.param([], [], "end_turn", id="nothing"),
        pytest.param([chunk({}, "length")], [], "max_tokens", id="cut at once"),
        pytest.param(
            [chunk({"reasoning_content": "Hm"}), chunk({"reasoning": "m"}), chunk({"content": "Oui"}, "stop")],
            [("thinking", "Hmm", ""), ("text", "Oui")],
            "end_turn",
            id="thoughts nobody signed",
        ),
        pytest.param(
            [chunk({"content": "a"}), chunk({"content": "b", "tool_calls": [call(0, "c1", "f", "{}")]}, "stop")],
            [("text", "ab"), ("tool_use", "c1", "f", {})],
            "tool_use",
            id="text and call in one chunk, and a wrong reason",
        ),
        pytest.param(
            [
                chunk({"tool_calls": [call(0, "c1", "f", '{"a":'), call(1, "c2", "g", "")]}),
                chunk({"tool_calls": [call(0, None, None, "1}"), call(1, None, None, '{"b":2}')]}, "tool_calls"),
            ],
            [("tool_use", "c1", "f", {"a": 1}), ("tool_use", "c2", "g", {"b": 2})],
            "tool_use",
            id="calls told alternately",
        ),
        pytest.param(
            [
                chunk({"tool_calls": [call(0, "c1", "f", "{}")]}),
                chunk({"tool_calls": [call(0, "c2", "g", "{}")]}, "tool_calls"),
            ],
            [("tool_use", "c1", "f", {}), ("tool_use", "c2", "g", {})],
            "tool_use",
            id="whole calls that share an index",
        ),
        pytest.param(
            [chunk({"tool_calls": [call(None, None, "f", "{}")]}, "tool_calls")],
            [("tool_use", "toolu_ours_0", "f", {})],
            "tool_use",
            id="a call without id and index",
        ),
        pytest.param([chunk({"refusal": "No."}, "stop")], [("text", "No.")], "refusal", id="refusal in words"),
        pytest.param(
            [chunk({"content": "first"}), chunk({"content": "second"}, index=1)],
            [("text", "first")],
            "end_turn",
            id="one choice",
        ),
    ],
)
def test_what_streams_of_other_dialects_become(
    chunks: list[ChatChunk], expected: list[Any], stop_reason: str, replay: ReplayServer
) -> None:
    message = read(replay, *chunks)

    assert blocks(message) == expected
    assert message.stop_reason == stop_reason


def test_a_failing_stream_raises_in_the_client(replay: ReplayServer) -> None:
    told = dialect()
    said = told.event(chunk({"content": "Bon"})) + told.failed(ApiError(502, "provider_error", "It broke."))
    read = []

    stream = client(replay.serve(stream_answer(said))).messages.create(**ASK, stream=True)
    with pytest.raises(anthropic.APIStatusError) as caught:
        read += [event.type for event in stream]

    assert caught.value.body == {
        "type": "error",
        "error": {"type": "api_error", "message": "It broke.", "details": {"error_code": "provider_error"}},
        "request_id": request_id.current(),
    }
    assert b"message_stop" not in said


def test_an_event_s_name_is_nothing_but_a_name() -> None:
    told = dialect()
    evil = msgspec.json.encode({"type": "x\n\nevent: message_stop"})

    assert told.event(ChatChunk(b"", native=evil)) == b""


def test_an_event_that_nobody_knows_yet_is_passed_on() -> None:
    assert dialect().event(ChatChunk(b"", native=b'{"type":"new_one"}')) == b'event: new_one\ndata: {"type":"new_one"}\n\n'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a":1}', {"a": 1}),
        ("", {}),
        (" ", {}),
        (None, {}),
        ("{broken", {"INVALID_JSON": "{broken"}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ("[" * 5000, {"INVALID_JSON": "[" * 5000}),
    ],
)
def test_arguments_become_an_object_whatever_the_model_wrote(arguments: Any, expected: Any) -> None:
    said = {"content": None, "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": arguments}}]}
    answer = ChatAnswer({"choices": [{"message": said}]}, None, 0, "tool_calls", None)

    message = message_of(answer, message_id="msg_ours", model="m", usage=Usage())

    assert message["content"] == [{"type": "tool_use", "id": "c1", "name": "f", "input": expected}]
