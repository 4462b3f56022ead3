"""The contract of adapters for everything that is not chat: embeddings, images, speech, transcription, music.

Requests and answers are in OpenAI's dialect (music has none there: see `media_requests`). The rules of `base` hold: one call is
one request to the provider (and the polls for its result), never retried here; whatever goes wrong is a `ProviderError`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from routing.providers.base import Target, Usage
from routing.providers.session import ProviderSession


class Mode(StrEnum):
    """Kinds of models beside chat, as the catalogue names them."""

    EMBEDDING = "embedding"
    IMAGE = "image"
    SPEECH = "tts"
    TRANSCRIPTION = "stt"
    MUSIC = "music"


IMAGES = "images"
CHARACTERS = "characters"
SECONDS = "seconds"
CLIPS = "clips"
"""Keys of `Usage.units`."""


OPENAI_VOICES = frozenset(
    {
        "alloy",
        "ash",
        "ballad",
        "cedar",
        "coral",
        "echo",
        "fable",
        "marin",
        "nova",
        "onyx",
        "sage",
        "shimmer",
        "verse",
    }
)


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A recording a client sent: `request["file"]` of a transcription. `seconds` is its length as far as we can tell."""

    name: str
    content_type: str
    content: bytes = field(repr=False)
    seconds: Decimal


@dataclass(slots=True)
class MediaAnswer:
    """What was made. `body` is a JSON object in OpenAI's dialect; without one, `content` is the answer, as `content_type`.

    `usage` holds the provider's figures, or our own count of what is known beforehand (images, characters, clips, seconds of
    the recording); `estimated` says that its tokens are a guess. Parts are billed as `Usage` says.
    """

    usage: Usage
    body: dict[str, Any] | None = None
    content: bytes = b""
    content_type: str = "application/json"
    upstream_id: str | None = None
    estimated: bool = False


class MediaAdapter(Protocol):
    """Serves one mode over one wire protocol; stateless.

    `request` is the client's body, checked, unknown fields included; it is not changed. Hints the target cannot
    take are dropped.
    """

    protocol: str
    mode: Mode
    takes: frozenset[str] | None
    """The fields it heeds, for whoever wants to name the hints that are dropped; None: it hands on all of them."""

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """The fields of `request` whose loss would change the meaning and that the protocol cannot say. No I/O."""

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """Make a whole call. Raises `ProviderError`; a cancelled call closes its connection."""


def embedding_list(target: Target, request: Mapping[str, Any], vectors: Iterable[Any], tokens: int) -> dict[str, Any]:
    """OpenAI's list of embeddings, each in the encoding the client asked for.

    Vectors come as lists of numbers or as base64 of little-endian float32. Raises ValueError for anything else.
    """
    wanted = request.get("encoding_format") or "float"
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, wanted)} for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": target.public_model, "usage": usage}


def _encoded(vector: Any, wanted: str) -> Any:
    if isinstance(vector, str):
        raw = base64.b64decode(vector, validate=True)
        if not raw or len(raw) % 4:
            raise ValueError("not a vector of float32")
        return vector if wanted == "base64" else list(struct.unpack(f"<{len(raw) // 4}f", raw))
    if not isinstance(vector, list) or not vector or not all(type(number) in (int, float) for number in vector):
        raise ValueError("not a vector of numbers")
    if wanted != "base64":
        return vector
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError):
        raise ValueError("a number beyond float32") from None


def texts_of(request: Mapping[str, Any]) -> list[str] | None:
    """The texts to embed; None when the client sent token ids."""
    given = request.get("input")
    texts = [given] if isinstance(given, str) else given
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def estimated_tokens(texts: Iterable[str]) -> int:
    """Tokens such texts usually count, for providers that report none: on the generous side."""
    return sum(max(1, len(text.encode("utf-8", "replace")) * 13 // 40) for text in texts)


def image_item(image: str, media_type: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """One made image, from base64: as it is, or as a `data:` address where the client asked for an address."""
    if request.get("response_format") == "url":
        return {"url": f"data:{media_type};base64,{image}"}
    return {"b64_json": image}


SIZE_RATIOS: Mapping[str, str] = {
    "1024x1024": "1:1",
    "512x512": "1:1",
    "256x256": "1:1",
    "1536x1024": "3:2",
    "1024x1536": "2:3",
    "1792x1024": "16:9",
    "1024x1792": "9:16",
}
"""The nearest aspect ratio of OpenAI's sizes, for providers that are asked for a shape instead."""


def wav_of_pcm(samples: bytes, *, rate: int, channels: int = 1) -> bytes:
    """16-bit little-endian samples with a WAV header in front."""
    frame = channels * 2
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(samples),
        b"WAVE",
        b"fmt ",
        16,
        1,
        channels,
        rate,
        rate * frame,
        frame,
        16,
        b"data",
        len(samples),
    )
    return header + samples
