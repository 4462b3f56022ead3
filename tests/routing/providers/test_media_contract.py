"""What every adapter beside chat owes, checked on recorded answers. A new adapter adds its recordings to the tables."""

import base64
import copy
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from routing.providers.base import FailureClass, ProviderError, Usage
from routing.providers.media_base import AudioFile, MediaAnswer, Mode
from routing.providers.openai_media import OpenAIImages
from routing.providers.registry import media_adapter_for, register_media, registered_media, speaks
from routing.providers.stability import StabilityMusic
from tests.wire.replay import Answer, recorded

from .conftest import SECRET

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
RECORDING = AudioFile("speech.wav", "audio/wav", b"RIFF-not-looked-at", Decimal("3.2"))
REQUESTS: Mapping[Mode, dict[str, Any]] = {
    Mode.EMBEDDING: {"model": "public-model", "input": ["bonjour", "مرحبا"], "encoding_format": "float"},
    Mode.IMAGE: {"model": "public-model", "prompt": "Un phare au crépuscule"},
    Mode.SPEECH: {"model": "public-model", "input": "Bonjour à tous", "voice": "alloy"},
    Mode.TRANSCRIPTION: {"model": "public-model", "file": RECORDING},
    Mode.MUSIC: {"model": "public-model", "prompt": "Calm piano with distant rain"},
}
VECTORS = [[0.0123, -0.4567, 0.7891, 0.4012], [-0.1023, 0.3311, 0.2207, -0.9114]]
IMAGE = {"images": Decimal(1)}
SPOKEN = {"characters": Decimal(14)}
MP3 = "audio/mpeg"


@dataclass(frozen=True)
class Made:
    """A recording and what an adapter must make of it: fields of the JSON answer, or the type of the bytes."""

    recording: str
    mode: Mode
    usage: Usage
    body: dict[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    asked: dict[str, Any] = field(default_factory=dict)
    upstream_model: str = "upstream-model"
    estimated: bool = False
    provider: str = "openai"
    protocol: str = "openai"


@dataclass(frozen=True)
class Failed:
    recording: str
    mode: Mode
    failure: FailureClass
    status: int
    code: str | None
    retry_after_seconds: float | None = None
    param: str | None = None
    may_have_billed: bool = False
    provider: str = "openai"
    protocol: str = "openai"


ELEVENLABS = {"provider": "elevenlabs", "protocol": "elevenlabs"}
STABILITY = {"provider": "stability", "protocol": "stability"}
GEMINI = {"provider": "google", "protocol": "gemini"}
COHERE = {"provider": "cohere", "protocol": "cohere"}
EMBEDDING, IMAGES, SPEECH, TRANSCRIPTION, MUSIC = Mode.EMBEDDING, Mode.IMAGE, Mode.SPEECH, Mode.TRANSCRIPTION, Mode.MUSIC

MADE = [
    Made("openai_embeddings", EMBEDDING, Usage(5), {"object": "list", "model": "public-model"}),
    Made(
        "openai_embeddings_base64",
        EMBEDDING,
        Usage(2),
        {"data": [{"object": "embedding", "index": 0, "embedding": "8IVJPJXU6b51Ako/FmrNPg=="}]},
        asked={"input": "bonjour", "encoding_format": "base64"},
    ),
    Made(
        "openai_image",
        IMAGES,
        Usage(12, output_total=1056, units=IMAGE),
        {"data": [{"b64_json": PNG}], "created": 1795166047, "quality": "medium", "size": "1024x1024"},
        upstream_model="gpt-image-2",
    ),
    Made(
        "openai_image_stream",
        IMAGES,
        Usage(12, output_total=1056, units=IMAGE),
        {"data": [{"b64_json": PNG}], "created": 1795166047, "quality": "medium", "size": "1024x1024"},
    ),
    Made("openai_speech", SPEECH, Usage(units=SPOKEN), content_type=MP3),
    Made(
        "openai_speech_sse", SPEECH, Usage(6, output_total=31, units=SPOKEN), content_type=MP3, upstream_model="gpt-4o-mini-tts"
    ),
    Made(
        "openai_transcription",
        TRANSCRIPTION,
        Usage(33, output_total=8, units={"seconds": Decimal("3.2")}),
        {"text": "Bonjour à tous."},
    ),
    Made(
        "openai_transcription_duration",
        TRANSCRIPTION,
        Usage(units={"seconds": Decimal(3)}),
        {"text": "Bonjour à tous.", "usage": {"type": "duration", "seconds": 3}},
    ),
    Made(
        "openai_transcription_duration",
        TRANSCRIPTION,
        Usage(units={"seconds": Decimal(3)}),
        content_type="text/plain; charset=utf-8",
        asked={"response_format": "text"},
    ),
    Made("elevenlabs_tts", SPEECH, Usage(units=SPOKEN), content_type=MP3, **ELEVENLABS),
    Made(
        "elevenlabs_music",
        MUSIC,
        Usage(units={"clips": Decimal(1), "seconds": Decimal(10)}),
        content_type=MP3,
        asked={"seconds": 10},
        **ELEVENLABS,
    ),
    Made("stability_image_core", IMAGES, Usage(units=IMAGE), {"data": [{"b64_json": PNG}]}, **STABILITY),
    Made(
        "stability_audio2_sync",
        MUSIC,
        Usage(units={"clips": Decimal(1), "seconds": Decimal(30)}),
        content_type=MP3,
        upstream_model="stable-audio-2.5",
        **STABILITY,
    ),
    Made(
        "stability_audio3_submit,stability_audio3_pending,stability_audio3_done",
        MUSIC,
        Usage(units={"clips": Decimal(1), "seconds": Decimal(30)}),
        content_type=MP3,
        upstream_model="stable-audio-3",
        **STABILITY,
    ),
    Made("gemini_embeddings", EMBEDDING, Usage(5), estimated=True, **GEMINI),
    Made("gemini_embeddings_usage", EMBEDDING, Usage(5), **GEMINI),
    # What was written and thought beside the image is billed apart from it.
    Made("gemini_image", IMAGES, Usage(9, output_total=43, units=IMAGE), {"data": [{"b64_json": PNG}]}, **GEMINI),
    Made("gemini_speech", SPEECH, Usage(6, output_total=31, units=SPOKEN), content_type="audio/wav", **GEMINI),
    Made("gemini_music", MUSIC, Usage(units={"clips": Decimal(1)}), content_type=MP3, **GEMINI),
    Made("cohere_embed", EMBEDDING, Usage(5), **COHERE),
]

FAILED = [
    Failed("openai_image_400", IMAGES, FailureClass.REFUSED, 400, "moderation_blocked"),
    Failed("openai_401", EMBEDDING, FailureClass.AUTH, 401, "invalid_api_key"),
    Failed("openai_404_model", SPEECH, FailureClass.BAD_REQUEST, 404, "model_not_found"),
    Failed("openai_429", IMAGES, FailureClass.RATE_LIMITED, 429, "rate_limit_exceeded", 1.75),
    Failed("openai_429_quota", TRANSCRIPTION, FailureClass.NO_FUNDS, 429, "insufficient_quota"),
    Failed("openai_500", SPEECH, FailureClass.INTERNAL, 500, "server_error"),
    Failed("openai_502_html", TRANSCRIPTION, FailureClass.OVERLOADED, 502, None),
    Failed("openai_503", EMBEDDING, FailureClass.OVERLOADED, 503, "server_is_overloaded", 5.0),
    Failed(
        "openrouter_200_error",
        EMBEDDING,
        FailureClass.OVERLOADED,
        200,
        "provider_unavailable",
        may_have_billed=True,
        provider="openrouter",
    ),
    Failed("elevenlabs_401", SPEECH, FailureClass.NO_FUNDS, 401, "quota_exceeded", **ELEVENLABS),
    Failed("elevenlabs_422", SPEECH, FailureClass.BAD_REQUEST, 422, "invalid_request_error", param="text", **ELEVENLABS),
    Failed("elevenlabs_429", MUSIC, FailureClass.RATE_LIMITED, 429, "too_many_concurrent_requests", **ELEVENLABS),
    Failed("openai_502_html", MUSIC, FailureClass.OVERLOADED, 502, None, **ELEVENLABS),
    Failed("openai_502_html", SPEECH, FailureClass.OVERLOADED, 502, None, **ELEVENLABS),
    Failed("stability_403", IMAGES, FailureClass.REFUSED, 403, "content_policy_violation", **STABILITY),
    Failed("stability_429", IMAGES, FailureClass.RATE_LIMITED, 429, "rate_limit_exceeded", 60.0, **STABILITY),
    Failed(
        "stability_image_core_json",
        IMAGES,
        FailureClass.REFUSED,
        200,
        "content_policy_violation",
        may_have_billed=True,
        **STABILITY,
    ),
    Failed(
        "stability_audio3_submit,stability_audio3_gone",
        MUSIC,
        FailureClass.INTERNAL,
        404,
        "not_found",
        may_have_billed=True,
        **STABILITY,
    ),
    Failed("openai_502_html", MUSIC, FailureClass.OVERLOADED, 502, None, **STABILITY),
    Failed("gemini_400_key", EMBEDDING, FailureClass.AUTH, 400, "API_KEY_INVALID", **GEMINI),
    Failed("gemini_402", IMAGES, FailureClass.NO_FUNDS, 402, "RESOURCE_EXHAUSTED", **GEMINI),
    Failed("gemini_429", SPEECH, FailureClass.RATE_LIMITED, 429, "RESOURCE_EXHAUSTED", 17.0, **GEMINI),
    Failed("gemini_503", MUSIC, FailureClass.OVERLOADED, 503, "UNAVAILABLE", **GEMINI),
    Failed(
        "gemini_prompt_blocked",
        IMAGES,
        FailureClass.REFUSED,
        200,
        "content_policy_violation",
        may_have_billed=True,
        **GEMINI,
    ),
    Failed(
        "gemini_image_refused", IMAGES, FailureClass.REFUSED, 200, "content_policy_violation", may_have_billed=True, **GEMINI
    ),
    Failed("openai_502_html", IMAGES, FailureClass.OVERLOADED, 502, None, **GEMINI),
    Failed("cohere_429", EMBEDDING, FailureClass.RATE_LIMITED, 429, None, **COHERE),
    Failed("openai_502_html", EMBEDDING, FailureClass.OVERLOADED, 502, None, **COHERE),
]

EVERY_ADAPTER = [(adapter.protocol, adapter.mode) for adapter in registered_media()]
PROVIDERS = {"gemini": "google"}


def case_name(case: Made | Failed) -> str:
    return f"{case.protocol}:{case.mode}:{case.recording}"


def adapter_of(case: Made | Failed) -> Any:
    patient = case.protocol == "stability" and case.mode == MUSIC
    return StabilityMusic(polls_after_seconds=(0,)) if patient else media_adapter_for(case.protocol, case.mode)


async def failure_of(adapter: Any, session: Any, target: Any, request: Mapping[str, Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await adapter.make(session, target, request)
    return caught.value


def plain_target(target_at: Any, url: str, protocol: str) -> Any:
    return target_at(url, PROVIDERS.get(protocol, protocol), quirks=frozenset())


@pytest.mark.parametrize("case", MADE, ids=case_name)
async def test_made(case: Made, replay, session, target_at):
    target = target_at(replay.base_url(case.recording), case.provider, upstream_model=case.upstream_model)
    request = {**REQUESTS[case.mode], **case.asked}
    before = copy.deepcopy(request)

    answer: MediaAnswer = await adapter_of(case).make(session, target, request)

    shown = {name: (answer.body or {}).get(name) for name in case.body}
    assert answer.usage == case.usage
    assert answer.estimated is case.estimated
    assert shown == case.body
    assert answer.content_type == case.content_type
    assert (answer.body is None) == (case.content_type != "application/json")
    assert bool(answer.content) == (answer.body is None)
    assert request == before


@pytest.mark.parametrize("case", FAILED, ids=case_name)
async def test_failed(case: Failed, replay, session, target_at):
    target = target_at(replay.base_url(case.recording), case.provider)

    error = await failure_of(adapter_of(case), session, target, REQUESTS[case.mode])

    assert (error.failure, error.code, error.param) == (case.failure, case.code, case.param)
    assert error.status in (case.status, None if case.status == 200 else case.status)
    assert error.retry_after_seconds == case.retry_after_seconds
    assert error.may_have_billed is case.may_have_billed
    assert SECRET not in repr(error) + error.detail


def test_every_adapter_is_held_to_the_contract():
    made = {(case.protocol, case.mode) for case in MADE}
    failed = {(case.protocol, case.mode) for case in FAILED}

    assert made == failed == set(EVERY_ADAPTER)


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
async def test_a_connection_that_breaks_off_may_have_been_billed(protocol: str, mode: Mode, replay, session, target_at):
    pieces = [b'{"data": [', b'{"b64_json": "']
    cut = Answer(200, {"Content-Type": "application/octet-stream"}, pieces=pieces, drop=True, hang_seconds=0.05)
    target = plain_target(target_at, replay.serve(cut), protocol)

    error = await failure_of(media_adapter_for(protocol, mode), session, target, REQUESTS[mode])

    assert (error.failure, error.retryable, error.may_have_billed) == (FailureClass.OVERLOADED, True, True)


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
@pytest.mark.parametrize("body", [b"", b"<html>hello</html>", b'{"data": [', b"[]", b"null", b'{"data": []}', b'{"text": 5}'])
async def test_a_200_that_is_no_answer_is_a_failure(body: bytes, protocol: str, mode: Mode, replay, session, target_at):
    kind = "text/html" if body[:1] == b"<" else "application/json"
    target = plain_target(target_at, replay.serve(Answer(200, {"Content-Type": kind}, body)), protocol)

    error = await failure_of(media_adapter_for(protocol, mode), session, target, REQUESTS[mode])

    assert (error.failure, error.retryable, error.may_have_billed) == (FailureClass.INTERNAL, True, True)


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
async def test_an_answer_too_large_is_not_read_to_its_end(protocol: str, mode: Mode, replay, session, target_at, monkeypatch):
    monkeypatch.setattr("routing.providers.media_exchange.MAX_ANSWER_BYTES", 1000)
    large = Answer(200, {"Content-Type": "audio/mpeg"}, pieces=[b"x" * 600, b"x" * 600], hang_seconds=30)
    target = plain_target(target_at, replay.serve(large), protocol)

    error = await failure_of(media_adapter_for(protocol, mode), session, target, REQUESTS[mode])

    assert (error.failure, error.code, error.may_have_billed) == (FailureClass.INTERNAL, "answer_too_large", True)


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
async def test_nobody_there_is_surely_not_billed(protocol: str, mode: Mode, session, target_at):
    target = plain_target(target_at, "http://127.0.0.1:9", protocol)

    error = await failure_of(media_adapter_for(protocol, mode), session, target, REQUESTS[mode])

    assert (error.failure, error.retryable, error.may_have_billed) == (FailureClass.OVERLOADED, True, False)


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
async def test_a_silent_provider_is_left(protocol: str, mode: Mode, replay, session, target_at):
    silent = replay.serve(Answer(200, {}, b"late", silence_seconds=1))
    target = target_at(silent, PROVIDERS.get(protocol, protocol), first_byte_timeout_seconds=0.05, read_timeout_seconds=0.05)

    error = await failure_of(media_adapter_for(protocol, mode), session, target, REQUESTS[mode])

    assert (error.failure, error.code, error.may_have_billed) == (FailureClass.OVERLOADED, "timeout", True)


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
async def test_a_redirect_is_not_followed(protocol: str, mode: Mode, replay, session, target_at):
    elsewhere = Answer(307, {"Location": replay.base_url("openai_embeddings")})
    target = plain_target(target_at, replay.serve(elsewhere), protocol)

    error = await failure_of(media_adapter_for(protocol, mode), session, target, REQUESTS[mode])

    assert error.failure == FailureClass.INTERNAL
    assert len(replay.received) == 1


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
def test_a_plain_request_can_be_said_in_every_protocol(protocol: str, mode: Mode):
    assert media_adapter_for(protocol, mode).inexpressible(REQUESTS[mode]) == []


@pytest.mark.parametrize("protocol", ["openai", "gemini", "cohere"])
@pytest.mark.parametrize("wanted", ["float", "base64"])
async def test_embeddings_come_in_the_encoding_asked_for(protocol: str, wanted: str, replay, session, target_at):
    recording = {"openai": "openai_embeddings", "gemini": "gemini_embeddings", "cohere": "cohere_embed"}[protocol]
    target = plain_target(target_at, replay.base_url(recording), protocol)
    request = {**REQUESTS[EMBEDDING], "encoding_format": wanted}

    answer = await media_adapter_for(protocol, EMBEDDING).make(session, target, request)

    shown = [item["embedding"] for item in answer.body["data"]]
    packed = [base64.b64encode(struct.pack("<4f", *vector)).decode() for vector in VECTORS]
    assert shown == {"float": VECTORS, "base64": packed}[wanted]
    assert [item["index"] for item in answer.body["data"]] == [0, 1]
    assert answer.body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


async def test_base64_becomes_numbers_for_who_asked_for_numbers(replay, session, target_at):
    target = target_at(replay.base_url("openai_embeddings_base64"))

    answer = await media_adapter_for("openai", EMBEDDING).make(session, target, {**REQUESTS[EMBEDDING], "input": "bonjour"})

    [item] = answer.body["data"]
    assert item["embedding"] == pytest.approx(VECTORS[0], abs=1e-6)


@pytest.mark.parametrize(
    ("protocol", "recording"),
    [("openai", "openai_image"), ("stability", "stability_image_core"), ("gemini", "gemini_image")],
)
async def test_an_image_comes_as_an_address_where_one_was_asked_for(protocol: str, recording: str, replay, session, target_at):
    target = plain_target(target_at, replay.base_url(recording), protocol)

    answer = await media_adapter_for(protocol, IMAGES).make(session, target, {**REQUESTS[IMAGES], "response_format": "url"})

    assert answer.body["data"] == [{"url": f"data:image/png;base64,{PNG}"}]


async def test_what_a_provider_says_an_image_cost_is_its_price_and_not_shown(replay, session, target_at):
    told = recorded("openai_image").body.replace(b'"total_tokens"', b'"cost_in_usd_ticks": 200000000, "total_tokens"')
    target = target_at(replay.serve(Answer(200, {"Content-Type": "application/json"}, told)), "xai")

    answer = await media_adapter_for("openai", IMAGES).make(session, target, REQUESTS[IMAGES])

    assert answer.usage.provider_cost_usd == Decimal("0.02")
    assert "cost_in_usd_ticks" not in answer.body["usage"]


@pytest.mark.parametrize(
    ("protocol", "mode", "asked", "lost"),
    [
        ("stability", IMAGES, {"n": 2}, ["n"]),
        ("stability", IMAGES, {"size": "1x77"}, ["size"]),
        ("stability", IMAGES, {"background": "transparent", "output_format": "gif"}, ["background", "output_format"]),
        ("stability", MUSIC, {"seconds": 381, "response_format": "flac"}, ["seconds", "response_format"]),
        ("gemini", IMAGES, {"n": 2, "output_format": "webp"}, ["n", "output_format"]),
        ("gemini", SPEECH, {"response_format": "mp3"}, ["response_format"]),
        ("gemini", MUSIC, {"seconds": 30}, ["seconds"]),
        ("gemini", EMBEDDING, {"input": [1, 2, 3]}, ["input"]),
        ("cohere", EMBEDDING, {"input": ["x"] * 97}, ["input"]),
        ("elevenlabs", SPEECH, {"response_format": "aac"}, ["response_format"]),
        ("elevenlabs", MUSIC, {"seconds": 2}, ["seconds"]),
        ("openai", EMBEDDING, {"input": [[1, 2], [3]]}, []),
        ("openai", IMAGES, {"n": 10, "size": "1x77", "background": "transparent"}, []),
    ],
)
def test_what_a_protocol_cannot_say_is_named(protocol: str, mode: Mode, asked: dict[str, Any], lost: list[str]):
    assert media_adapter_for(protocol, mode).inexpressible({**REQUESTS[mode], **asked}) == lost


def test_a_protocol_has_one_adapter_for_a_mode():
    with pytest.raises(ValueError, match="already has an adapter for image"):
        register_media(OpenAIImages())

    assert [speaks("openai", mode) for mode in ("chat", "stt", "music")] == [True, True, False]
    with pytest.raises(LookupError, match="no adapter serves music over 'openai'"):
        media_adapter_for("openai", "music")
