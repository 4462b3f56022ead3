"""What the simulator makes beside texts, in no dialect: images, sounds, vectors; and how a provider's behaviour sends it."""

from __future__ import annotations

import hashlib
import io
import math
import random
import struct
import wave
import zlib
from collections.abc import Callable
from typing import Any

from aiohttp import web

from routing.simulator.answers import token_count, unique_id
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import fail_or_wait

SAMPLE_RATE = 24_000
DIMENSIONS = 256
_IMAGE_SIDE = 8
_CHARACTERS_A_SECOND = 15
_LONGEST_SECONDS = 2.0
# A frame of silence: MPEG-1 layer III, 128 kbit/s, 44.1 kHz, one channel.
_MP3_FRAME = bytes.fromhex("fffb90c4") + bytes(413)
_MP3_FRAME_SECONDS = 1152 / 44_100
_BYTES_A_SECOND = 16_000


def image_png(prompt: str) -> bytes:
    """A valid little image; its colour comes from the prompt."""
    colour = hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[:3]
    rows = (b"\0" + colour * _IMAGE_SIDE) * _IMAGE_SIDE

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", _IMAGE_SIDE, _IMAGE_SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def spoken_seconds(text: str) -> float:
    """How long the simulator speaks for a text: not long."""
    return min(_LONGEST_SECONDS, max(0.1, len(text) / _CHARACTERS_A_SECOND))


def sound_pcm(seconds: float) -> bytes:
    """A quiet tone as 16-bit samples of one channel."""
    count = int(seconds * SAMPLE_RATE)
    return struct.pack(f"<{count}h", *(int(800 * math.sin(math.tau * 440 * i / SAMPLE_RATE)) for i in range(count)))


def sound_wav(seconds: float) -> bytes:
    """The same as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(SAMPLE_RATE)
        written.writeframes(sound_pcm(seconds))
    return file.getvalue()


def sound_mp3(seconds: float) -> bytes:
    """Silence as an MP3 file."""
    return _MP3_FRAME * max(1, round(seconds / _MP3_FRAME_SECONDS))


SOUNDS: dict[str, tuple[str, Callable[[float], bytes]]] = {
    "mp3": ("audio/mpeg", sound_mp3),
    "wav": ("audio/wav", sound_wav),
    "pcm": ("audio/pcm", sound_pcm),
}
"""Type and maker of the formats it writes."""


def recording_seconds(recording: bytes) -> float:
    """The length of a recording: exact for WAV, guessed from the size for the rest."""
    try:
        with wave.open(io.BytesIO(recording)) as read:
            return float(read.getnframes() / read.getframerate())
    except (wave.Error, EOFError, ZeroDivisionError):
        return len(recording) / _BYTES_A_SECOND


def vector_of(text: str, dimensions: int) -> list[float]:
    """The same unit vector for the same text."""
    draw = random.Random(text)  # noqa: S311 (repeatable on purpose)
    vector = [draw.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(number * number for number in vector)) or 1.0
    return [round(number / length, 6) for number in vector]


def counted_tokens(behaviour: Behaviour, *texts: str) -> int:
    """Input tokens of texts: four bytes each, or what was set."""
    if behaviour.prompt_tokens is not None:
        return behaviour.prompt_tokens
    return sum(token_count(len(text.encode("utf-8", "replace")), 0) for text in texts)


async def respond(
    request: web.BaseRequest,
    simulated: Simulated,
    *,
    model: str,
    question: str,
    error: Callable[[int, str], Any],
    make: Callable[[Behaviour], web.Response],
) -> web.StreamResponse:
    """Answer one call as the provider behaves: late, failing, or cut."""
    behaviour = simulated.behaviour
    simulated.remember(request.path, model, False, question)
    if (failure := await fail_or_wait(simulated, behaviour, error)) is not None:
        return failure
    if behaviour.drop_after_chunks is not None:
        simulated.counters.dropped += 1
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    response = make(behaviour)
    response.headers["x-request-id"] = unique_id()
    simulated.counters.completed += 1
    return response


def send_sound(kind: str, seconds: float, **headers: str) -> web.Response:
    """A recording in one of `SOUNDS`."""
    content_type, make = SOUNDS[kind]
    return web.Response(body=make(seconds), headers={"Content-Type": content_type, **headers})
