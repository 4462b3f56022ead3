"""OpenAI's dialect beside chat: embeddings, images, speech and transcription under `/{provider}/v1/`."""

from __future__ import annotations

import base64
import math
import struct
import time
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from routing.simulator.answers import answer_text
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import send_json
from routing.simulator.media import (
    DIMENSIONS,
    SOUNDS,
    counted_tokens,
    image_png,
    recording_seconds,
    respond,
    send_sound,
    spoken_seconds,
    vector_of,
)
from routing.simulator.openai import error_body

_encode = msgspec.json.Encoder().encode
_IMAGE_TOKENS = 1056
_TRANSCRIPT_TYPES = {"text": "text/plain; charset=utf-8", "srt": "text/plain; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Ids = Annotated[list[int], msgspec.Meta(min_length=1)]


class _Embeddings(msgspec.Struct):
    model: str
    input: _Text | Annotated[list[_Text | int | _Ids], msgspec.Meta(min_length=1)]
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class _Images(msgspec.Struct):
    model: str
    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    n: Annotated[int, msgspec.Meta(ge=1, le=10)] | None = None
    size: str | None = None
    quality: str | None = None
    response_format: Literal["url", "b64_json"] | None = None


class _Speech(msgspec.Struct):
    model: str
    input: Annotated[str, msgspec.Meta(min_length=1)]
    voice: str | dict[str, Any]
    response_format: str | None = None
    stream_format: Literal["audio", "sse"] | None = None


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    return _HANDLERS.get(path) if method == "POST" else None


def _refuse(request: web.BaseRequest, simulated: Simulated, message: str) -> web.Response:
    simulated.remember(request.path, "", False, "")
    simulated.counters.failed += 1
    return send_json(error_body(400, message), 400)


async def embeddings(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for embeddings."""
    try:
        call = msgspec.json.decode(await request.read(), type=_Embeddings)
    except msgspec.DecodeError as error:
        return _refuse(request, simulated, f"Invalid request: {error}")
    given = call.input if isinstance(call.input, list) and not isinstance(call.input[0], int) else [call.input]
    items = [item if isinstance(item, str) else _encode(item).decode() for item in given]

    def make(behaviour: Behaviour) -> web.Response:
        tokens = counted_tokens(behaviour, *items)
        data = [{"object": "embedding", "index": index, "embedding": _vector(item, call)} for index, item in enumerate(items)]
        body: dict[str, Any] = {"object": "list", "data": data, "model": call.model}
        if not behaviour.omit_usage:
            body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return send_json(body)

    return await respond(request, simulated, model=call.model, question=items[0], error=error_body, make=make)


def _vector(text: str, call: _Embeddings) -> Any:
    vector = vector_of(text, call.dimensions or DIMENSIONS)
    if call.encoding_format != "base64":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def images(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for images. Models that are billed by tokens report them, and take no `response_format`."""
    try:
        call = msgspec.json.decode(await request.read(), type=_Images)
    except msgspec.DecodeError as error:
        return _refuse(request, simulated, f"Invalid request: {error}")
    by_tokens = call.model.startswith("gpt-image")
    if by_tokens and call.response_format is not None:
        return _refuse(request, simulated, "Unknown parameter: 'response_format'.")

    def make(behaviour: Behaviour) -> web.Response:
        image = base64.b64encode(image_png(call.prompt)).decode()
        as_url = call.response_format == "url"
        item = {"url": f"data:image/png;base64,{image}"} if as_url else {"b64_json": image}
        count = call.n or 1
        body: dict[str, Any] = {"created": int(time.time()), "data": [item] * count}
        if by_tokens:
            quality = call.quality if call.quality not in (None, "auto") else "medium"
            size = call.size if call.size not in (None, "auto") else "1024x1024"
            body |= {"background": "opaque", "output_format": "png", "quality": quality, "size": size}
            if not behaviour.omit_usage:
                given, output = counted_tokens(behaviour, call.prompt), _IMAGE_TOKENS * count
                body["usage"] = {"input_tokens": given, "output_tokens": output, "total_tokens": given + output}
        return send_json(body)

    return await respond(request, simulated, model=call.model, question=call.prompt, error=error_body, make=make)


async def speech(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for speech, as bytes or as events."""
    try:
        call = msgspec.json.decode(await request.read(), type=_Speech)
    except msgspec.DecodeError as error:
        return _refuse(request, simulated, f"Invalid request: {error}")
    kind = call.response_format or "mp3"
    if kind not in SOUNDS:
        return _refuse(request, simulated, f"The simulator speaks {', '.join(SOUNDS)} alone.")

    def make(behaviour: Behaviour) -> web.Response:
        seconds = spoken_seconds(call.input)
        if call.stream_format != "sse":
            return send_sound(kind, seconds)
        sound = base64.b64encode(SOUNDS[kind][1](seconds)).decode()
        given, output = counted_tokens(behaviour, call.input), behaviour.output_tokens
        done: dict[str, Any] = {"type": "speech.audio.done"}
        if not behaviour.omit_usage:
            done["usage"] = {"input_tokens": given, "output_tokens": output, "total_tokens": given + output}
        events = [{"type": "speech.audio.delta", "audio": sound}, done]
        body = b"".join(b"data: " + _encode(event) + b"\n\n" for event in events)
        return web.Response(body=body, headers={"Content-Type": "text/event-stream; charset=utf-8"})

    return await respond(request, simulated, model=call.model, question=call.input, error=error_body, make=make)


async def transcriptions(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for a transcription, in any of the formats."""
    fields = await request.post()
    file, model = fields.get("file"), fields.get("model")
    if not isinstance(file, web.FileField) or not isinstance(model, str):
        return _refuse(request, simulated, "`file` and `model` are required.")
    wanted = str(fields.get("response_format") or "json")
    if wanted not in ("json", "verbose_json", *_TRANSCRIPT_TYPES):
        return _refuse(request, simulated, f"Unknown response_format {wanted!r}.")
    seconds = recording_seconds(file.file.read())

    def make(behaviour: Behaviour) -> web.Response:
        text = answer_text(simulated.slug, "", behaviour.output_tokens)
        match wanted:
            case "text":
                return web.Response(text=text + "\n")
            case "srt" | "vtt":
                return web.Response(
                    body=_subtitles(wanted, text, seconds).encode(), headers={"Content-Type": _TRANSCRIPT_TYPES[wanted]}
                )
        body: dict[str, Any] = {"text": text}
        if wanted == "verbose_json":
            segment = {"id": 0, "start": 0.0, "end": seconds, "text": text}
            body |= {"task": "transcribe", "language": "english", "duration": seconds, "segments": [segment]}
        if not behaviour.omit_usage:
            body["usage"] = _usage(model, seconds, behaviour)
        return send_json(body)

    return await respond(request, simulated, model=model, question=file.filename, error=error_body, make=make)


def _usage(model: str, seconds: float, behaviour: Behaviour) -> dict[str, Any]:
    if not model.startswith("gpt-4o"):
        return {"type": "duration", "seconds": math.ceil(seconds)}
    given = math.ceil(seconds * 10)
    figures = {"input_tokens": given, "output_tokens": behaviour.output_tokens, "total_tokens": given + behaviour.output_tokens}
    return {"type": "tokens", **figures, "input_token_details": {"text_tokens": 0, "audio_tokens": given}}


def _subtitles(kind: str, text: str, seconds: float) -> str:
    mark = "," if kind == "srt" else "."
    end = f"{int(seconds // 3600):02}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02}{mark}{int(seconds * 1000 % 1000):03}"
    cue = f"00:00:00{mark}000 --> {end}\n{text}\n"
    return f"1\n{cue}" if kind == "srt" else f"WEBVTT\n\n{cue}"


_HANDLERS = {
    "v1/embeddings": embeddings,
    "v1/images/generations": images,
    "v1/audio/speech": speech,
    "v1/audio/transcriptions": transcriptions,
}
