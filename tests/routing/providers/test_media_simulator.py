"""Every media adapter against the simulator: what it makes is what it says, and it behaves as it is told."""

import base64
import io
import wave
import zlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from tinytag import TinyTag

from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.providers.media_base import AudioFile, MediaAnswer, Mode
from routing.providers.registry import media_adapter_for, registered_media
from routing.providers.session import ProviderSession
from routing.providers.stability import StabilityMusic
from routing.simulator import start_simulator
from routing.simulator.media import sound_wav
from routing.simulator.server import Simulator

EMBEDDING, IMAGE, SPEECH, TRANSCRIPTION, MUSIC = Mode.EMBEDDING, Mode.IMAGE, Mode.SPEECH, Mode.TRANSCRIPTION, Mode.MUSIC
RECORDING = AudioFile("a.wav", "audio/wav", sound_wav(1.5), Decimal("1.5"))
REQUESTS: dict[Mode, dict[str, Any]] = {
    EMBEDDING: {"input": ["bonjour", "مرحبا"]},
    IMAGE: {"prompt": "Un phare"},
    SPEECH: {"input": "Bonjour à tous", "voice": "alloy"},
    TRANSCRIPTION: {"file": RECORDING},
    MUSIC: {"prompt": "Calm piano"},
}
VERSIONS = {"openai": "v1", "gemini": "v1beta", "cohere": "v2", "elevenlabs": "v1", "stability": "v1"}
EVERY_ADAPTER = [(adapter.protocol, adapter.mode) for adapter in registered_media()]


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with start_simulator() as running:
        yield running


def target_of(simulator: Simulator, protocol: str, model: str) -> Target:
    return Target(protocol, f"{simulator.url}/{protocol}/{VERSIONS[protocol]}", "none", model, "public-model")


async def make(
    simulator: Simulator,
    session: ProviderSession,
    protocol: str,
    mode: Mode,
    model: str = "stable-image-core",
    **asked: Any,
) -> MediaAnswer:
    patient = (protocol, mode) == ("stability", MUSIC)
    adapter = StabilityMusic(polls_after_seconds=(0,)) if patient else media_adapter_for(protocol, mode)
    return await adapter.make(session, target_of(simulator, protocol, model), {**REQUESTS[mode], **asked})


def image_pixels(encoded: str) -> bytes:
    """The raw rows of a PNG whose chunks all have the right check sums."""
    raw = base64.b64decode(encoded)
    chunks: dict[bytes, bytes] = {}
    position = 8
    while position < len(raw):
        size = int.from_bytes(raw[position : position + 4])
        kind, data = raw[position + 4 : position + 8], raw[position + 8 : position + 8 + size]
        assert int.from_bytes(raw[position + 8 + size : position + 12 + size]) == zlib.crc32(kind + data)
        chunks[kind] = data
        position += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    return zlib.decompress(chunks[b"IDAT"])


@pytest.mark.parametrize("protocol", ["openai", "gemini", "cohere"])
async def test_embeddings_are_the_same_for_the_same_text(protocol: str, simulator, session):
    first = await make(simulator, session, protocol, EMBEDDING)
    again = await make(simulator, session, protocol, EMBEDDING, input="bonjour")

    vectors = [item["embedding"] for item in first.body["data"]]
    assert [len(vector) for vector in vectors] == [256, 256]
    assert vectors[0] == again.body["data"][0]["embedding"]
    assert sum(number * number for number in vectors[1]) == pytest.approx(1, abs=1e-3)
    assert first.usage.input_total in (5, 4)


@pytest.mark.parametrize("protocol", ["openai", "gemini", "stability"])
async def test_images_are_real(protocol: str, simulator, session):
    answer = await make(simulator, session, protocol, IMAGE)

    [item] = answer.body["data"]
    assert len(image_pixels(item["b64_json"])) == 8 * (1 + 8 * 3)
    assert answer.usage.units == {"images": Decimal(1)}


async def test_images_billed_by_tokens_report_them(simulator, session):
    answer = await make(simulator, session, "openai", IMAGE, "gpt-image-2", n=2, response_format="url", quality="high")

    assert answer.usage == Usage(2, output_total=2112, units={"images": Decimal(2)})
    assert [item["url"][:22] for item in answer.body["data"]] == ["data:image/png;base64,"] * 2
    assert answer.body["quality"] == "high"


@pytest.mark.parametrize(("protocol", "kind"), [("openai", "mp3"), ("openai", "wav"), ("elevenlabs", "mp3"), ("gemini", "wav")])
async def test_speech_can_be_played(protocol: str, kind: str, simulator, session):
    answer = await make(simulator, session, protocol, SPEECH, response_format=kind)

    played = TinyTag.get(f"speech.{kind}", file_obj=io.BytesIO(answer.content))
    assert played.duration == pytest.approx(14 / 15, abs=0.03)
    assert answer.content_type == {"mp3": "audio/mpeg", "wav": "audio/wav"}[kind]
    assert answer.usage.units == {"characters": Decimal(14)}


async def test_speech_in_events_reports_tokens(simulator, session):
    answer = await make(simulator, session, "openai", SPEECH, "gpt-4o-mini-tts", response_format="wav")

    with wave.open(io.BytesIO(answer.content)) as played:
        assert played.getframerate() == 24_000
    assert answer.usage == Usage(4, output_total=24, units={"characters": Decimal(14)})


@pytest.mark.parametrize("wanted", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_transcription_in_every_format(wanted: str, simulator, session):
    answer = await make(simulator, session, "openai", TRANSCRIPTION, response_format=wanted)

    said = "IA Factory's simulator answers for openai."
    text = answer.content.decode() if answer.body is None else answer.body["text"]
    exact = Decimal(2) if wanted in ("json", "text", "verbose_json") else Decimal("1.5")
    assert said in text
    assert answer.usage.units == {"seconds": exact}
    assert (answer.body is None) == (wanted in ("text", "srt", "vtt"))


@pytest.mark.parametrize(
    ("protocol", "model"),
    [
        ("elevenlabs", "music_v1"),
        ("stability", "stable-audio-2.5"),
        ("stability", "stable-audio-3"),
        ("gemini", "lyria-3.5"),
    ],
)
async def test_music_can_be_played(protocol: str, model: str, simulator, session):
    answer = await make(simulator, session, protocol, MUSIC, model)

    played = TinyTag.get("music.mp3", file_obj=io.BytesIO(answer.content))
    assert played.duration == pytest.approx(2, abs=0.03)
    assert answer.usage.units["clips"] == 1


@pytest.mark.parametrize(("protocol", "mode"), EVERY_ADAPTER)
async def test_failures_and_cuts_as_they_were_set(protocol: str, mode: Mode, simulator, session):
    simulator.controls.change(protocol, {"fail_status": 503})
    with pytest.raises(ProviderError) as failed:
        await make(simulator, session, protocol, mode)
    simulator.controls.change(protocol, {"fail_status": None, "drop_after_chunks": 0})
    with pytest.raises(ProviderError) as cut:
        await make(simulator, session, protocol, mode)

    counters = simulator.controls.provider(protocol).counters
    assert (failed.value.failure, failed.value.status) == (FailureClass.OVERLOADED, 503)
    assert (cut.value.failure, cut.value.may_have_billed) == (FailureClass.OVERLOADED, True)
    assert (counters.received, counters.failed, counters.dropped) == (2, 1, 1)


# Google's chat takes any text.
STRICT = [pair for pair in EVERY_ADAPTER if pair[0] != "gemini" or pair[1] == EMBEDDING]
WRONG = {
    EMBEDDING: {"input": []},
    IMAGE: {"prompt": ""},
    SPEECH: {"input": ""},
    TRANSCRIPTION: {"response_format": "telex"},
    MUSIC: {"prompt": ""},
}


@pytest.mark.parametrize(("protocol", "mode"), STRICT)
async def test_what_is_wrong_is_refused(protocol: str, mode: Mode, simulator, session):
    with pytest.raises(ProviderError) as refused:
        await make(simulator, session, protocol, mode, **WRONG[mode])

    assert refused.value.failure == FailureClass.BAD_REQUEST
    assert simulator.controls.provider(protocol).counters.failed == 1
