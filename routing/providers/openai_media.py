"""OpenAI's embeddings, images, speech and transcription, and everyone who copies them (Groq, xAI, Together, Qwen, ...).

What speech cost is reported in the form of events alone, so models that bill speech by tokens are asked for events; images may
come as events too.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import aiohttp

from routing.providers.base import ProviderError, Target, Usage
from routing.providers.exchange import broken_off, internal_failure
from routing.providers.failures import error_object_failure, find_error, parse_json
from routing.providers.media_base import (
    CHARACTERS,
    IMAGES,
    SECONDS,
    AudioFile,
    MediaAnswer,
    Mode,
    embedding_list,
    estimated_tokens,
    image_item,
    texts_of,
)
from routing.providers.media_exchange import Received, audio_bytes, bearer, exchange, json_object, not_an_answer
from routing.providers.openai import usage_from_openai
from routing.providers.registry import register_media
from routing.providers.session import ProviderSession
from routing.providers.sse import SseDecoder
from routing.providers.usage import token_count

_EVENT_STREAM = "text/event-stream"
# Their answers are always base64, and a response_format is an error.
_BASE64_ONLY = ("gpt-image", "chatgpt-image")
_SPEECH_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_TRANSCRIPT_TYPES = {"text": "text/plain; charset=utf-8", "srt": "text/plain; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}


class OpenAIEmbeddings:
    """See `MediaAdapter`. Endpoint: `{base_url}/embeddings`."""

    protocol = "openai"
    mode = Mode.EMBEDDING
    takes: frozenset[str] | None = frozenset({"model", "input", "dimensions", "encoding_format", "user"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Nothing; see `MediaAdapter.inexpressible`."""
        return []

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        body = {**request, "model": target.upstream_model}
        body.pop("input_type", None)
        received = await exchange(session, target, _url(target, "/embeddings"), bearer(target), body=body)
        answer = json_object(received, target)
        items = answer.get("data")
        if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
            raise not_an_answer(received, target)
        ordered = sorted(items, key=lambda item: item["index"] if isinstance(item.get("index"), int) else 0)
        usage = usage_from_openai(answer["usage"]) if isinstance(answer.get("usage"), dict) else None
        # Embeddings have no output, whatever the total says.
        counted = None if usage is None else Usage(usage.input_total, provider_cost_usd=usage.provider_cost_usd)
        counted = counted or Usage(input_total=_embedded_tokens(request))
        try:
            vectors = [item.get("embedding") for item in ordered]
            made = embedding_list(target, request, vectors, counted.input_total)
        except ValueError as error:
            raise internal_failure("bad_answer", str(error)) from None
        return MediaAnswer(counted, body=made, estimated=usage is None)


class OpenAIImages:
    """See `MediaAdapter`. Endpoint: `{base_url}/images/generations`."""

    protocol = "openai"
    mode = Mode.IMAGE
    takes: frozenset[str] | None = None

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Nothing; see `MediaAdapter.inexpressible`."""
        return []

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`. An answer in events is as good as a whole one."""
        body = {**request, "model": target.upstream_model}
        if target.upstream_model.startswith(_BASE64_ONLY):
            body.pop("response_format", None)
        received = await exchange(session, target, _url(target, "/images/generations"), bearer(target), body=body)
        answer = _image_events(received, target) if received.content_type == _EVENT_STREAM else json_object(received, target)
        items = answer.get("data")
        if not isinstance(items, list) or not items:
            raise not_an_answer(received, target)
        kind = answer.get("output_format") if isinstance(answer.get("output_format"), str) else "png"
        answer["data"] = [_image(item, f"image/{kind}", request) for item in items]
        answer["created"] = answer.get("created") or int(time.time())
        usage = _image_usage(answer.get("usage"), len(items))
        if isinstance(answer.get("usage"), dict):
            answer["usage"] = {name: value for name, value in answer["usage"].items() if name != "cost_in_usd_ticks"}
        return MediaAnswer(usage, body=answer)


class OpenAISpeech:
    """See `MediaAdapter`. Endpoint: `{base_url}/audio/speech`."""

    protocol = "openai"
    mode = Mode.SPEECH
    takes: frozenset[str] | None = None

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Nothing; see `MediaAdapter.inexpressible`."""
        return []

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        body = {**request, "model": target.upstream_model}
        body.pop("stream_format", None)
        if target.upstream_model.startswith("gpt-"):
            body["stream_format"] = "sse"
        received = await exchange(session, target, _url(target, "/audio/speech"), bearer(target), body=body)
        units = {CHARACTERS: Decimal(len(request["input"]))}
        wanted = _SPEECH_TYPES.get(request.get("response_format") or "mp3", "application/octet-stream")
        if received.content_type == _EVENT_STREAM:
            content, figures = _speech_events(received, target)
            usage = Usage(_tokens(figures, "input_tokens"), output_total=_tokens(figures, "output_tokens"), units=units)
            return MediaAnswer(usage, content=content, content_type=wanted, estimated=not figures)
        content = audio_bytes(received, target)
        kind = received.content_type if received.content_type.startswith("audio/") else wanted
        return MediaAnswer(Usage(units=units), content=content, content_type=kind)


class OpenAITranscription:
    """See `MediaAdapter`. Endpoint: `{base_url}/audio/transcriptions`, a form."""

    protocol = "openai"
    mode = Mode.TRANSCRIPTION
    takes: frozenset[str] | None = None

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Nothing; see `MediaAdapter.inexpressible`."""
        return []

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`. A bare text is asked for as JSON, which says what it cost."""
        file: AudioFile = request["file"]
        wanted = request.get("response_format") or "json"
        form = aiohttp.FormData()
        form.add_field("file", file.content, filename=file.name, content_type=file.content_type)
        form.add_field("model", target.upstream_model)
        form.add_field("response_format", "json" if wanted == "text" else wanted)
        for name, value in request.items():
            if name not in ("file", "model", "response_format"):
                for single in value if isinstance(value, list) else (value,):
                    form.add_field(name, str(single))
        received = await exchange(session, target, _url(target, "/audio/transcriptions"), bearer(target), form=form)
        if wanted in ("srt", "vtt"):
            if received.content_type in ("application/json", "text/html"):
                raise not_an_answer(received, target)
            units = {SECONDS: file.seconds}
            return MediaAnswer(Usage(units=units), content=received.raw, content_type=_TRANSCRIPT_TYPES[wanted])
        answer = json_object(received, target)
        text = answer.get("text")
        if not isinstance(text, str):
            raise not_an_answer(received, target)
        usage = _transcription_usage(answer, file)
        if wanted == "text":
            return MediaAnswer(usage, content=(text + "\n").encode(), content_type=_TRANSCRIPT_TYPES["text"])
        answer.setdefault("usage", {"type": "duration", "seconds": float(usage.units[SECONDS])})
        answer.pop("x_groq", None)
        return MediaAnswer(usage, body=answer)


def _url(target: Target, path: str) -> str:
    return target.base_url.rstrip("/") + path


def _embedded_tokens(request: Mapping[str, Any]) -> int:
    texts = texts_of(request)
    if texts is not None:
        return estimated_tokens(texts)
    given = request.get("input")
    return sum(len(item) if isinstance(item, list) else 1 for item in given) if isinstance(given, list) else 1


def _tokens(figures: Any, name: str) -> int:
    return (token_count(figures.get(name)) or 0) if isinstance(figures, dict) else 0


def _image(item: Any, media_type: str, request: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise internal_failure("bad_answer", "an image is not an object")
    further = {"revised_prompt": item["revised_prompt"]} if isinstance(item.get("revised_prompt"), str) else {}
    if isinstance(item.get("b64_json"), str) and item["b64_json"]:
        return {**image_item(item["b64_json"], media_type, request), **further}
    if isinstance(item.get("url"), str) and item["url"]:
        return {"url": item["url"], **further}
    raise internal_failure("bad_answer", "an image without data")


def _image_usage(raw: Any, images: int) -> Usage:
    cost = usage_from_openai({"prompt_tokens": 0, **raw}) if isinstance(raw, dict) else None
    return Usage(
        input_total=_tokens(raw, "input_tokens"),
        output_total=_tokens(raw, "output_tokens"),
        provider_cost_usd=cost.provider_cost_usd if cost is not None else None,
        units={IMAGES: Decimal(images)},
    )


def _transcription_usage(answer: Mapping[str, Any], file: AudioFile) -> Usage:
    """The provider's length of the recording where it tells one, else ours; tokens beside it where it counts them."""
    raw = answer.get("usage")
    told = [raw.get("seconds") if isinstance(raw, dict) else None, answer.get("duration")]
    seconds = next((length for value in told if (length := _seconds(value)) is not None), file.seconds)
    return Usage(input_total=_tokens(raw, "input_tokens"), output_total=_tokens(raw, "output_tokens"), units={SECONDS: seconds})


def _seconds(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = Decimal(str(value))
    except ArithmeticError:
        return None
    return seconds if seconds.is_finite() and 0 < seconds < 10**7 else None


def _events(received: Received, target: Target) -> Iterator[dict[str, Any]]:
    """The events of a stream that was read whole. Raises `ProviderError` for an error among them."""
    decoder = SseDecoder()
    for data, _ in [*decoder.feed(received.raw), *decoder.finish()]:
        if data == b"[DONE]":
            return
        event = parse_json(data)
        if not isinstance(event, dict):
            raise internal_failure("bad_stream", "an event is not an object")
        if event.get("error") or event.get("type") == "error":
            raise _error_event(event, target)
        yield event


def _error_event(event: Mapping[str, Any], target: Target) -> ProviderError:
    return error_object_failure(None, find_error(event) or {}, secret=target.secret, quirks=target.quirks)


def _image_events(received: Received, target: Target) -> dict[str, Any]:
    """The whole answer that a stream of images ends with; what came before the last one was a preview."""
    done = [event for event in _events(received, target) if event.get("type") == "image_generation.completed"]
    if not done:
        raise broken_off("the stream ended without an image")
    kept = ("background", "output_format", "quality", "size", "usage")
    return {
        "created": done[-1].get("created_at"),
        "data": [{"b64_json": event.get("b64_json")} for event in done],
        **{name: done[-1][name] for name in kept if name in done[-1]},
    }


def _speech_events(received: Received, target: Target) -> tuple[bytes, Any]:
    pieces: list[bytes] = []
    for event in _events(received, target):
        kind = event.get("type")
        if kind == "speech.audio.delta":
            try:
                pieces.append(base64.b64decode(event.get("audio") or "", validate=True))
            except (binascii.Error, TypeError, ValueError):
                raise internal_failure("bad_stream", "sound that is not base64") from None
        elif kind == "speech.audio.done":
            if not any(pieces):
                raise internal_failure("bad_answer", "an empty recording")
            return b"".join(pieces), event.get("usage")
    raise broken_off("the stream ended before the speech did")


register_media(OpenAIEmbeddings())
register_media(OpenAIImages())
register_media(OpenAISpeech())
register_media(OpenAITranscription())
