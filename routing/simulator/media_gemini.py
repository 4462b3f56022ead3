"""Gemini's dialect beside chat: `…:batchEmbedContents`, and `…:generateContent` asked for an image or a sound."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any

import msgspec
from aiohttp import web

from routing.simulator.answers import unique_id
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import send_json
from routing.simulator.gemini import GEMINI, generate_content
from routing.simulator.media import (
    DIMENSIONS,
    SAMPLE_RATE,
    counted_tokens,
    image_png,
    respond,
    sound_mp3,
    sound_pcm,
    spoken_seconds,
    vector_of,
)
from routing.simulator.replies import bad_request

_PATH = re.compile(r"v1(?:beta)?/models/(?P<model>[^:]+):(?P<method>generateContent|batchEmbedContents)")
_IMAGE_TOKENS = 1120


class _Part(msgspec.Struct):
    text: str


class _Content(msgspec.Struct):
    parts: Annotated[list[_Part], msgspec.Meta(min_length=1)]


class _Embed(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    model: str
    content: _Content
    output_dimensionality: Annotated[int, msgspec.Meta(ge=1, le=3072)] | None = None


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    requests: Annotated[list[_Embed], msgspec.Meta(min_length=1, max_length=100)]


class _Config(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    response_modalities: list[str] | None = None
    image_config: dict[str, Any] | None = None
    speech_config: dict[str, Any] | None = None
    seed: int | None = None


class _Generate(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    contents: Annotated[list[_Content], msgspec.Meta(min_length=1)]
    generation_config: _Config


class _Peek(msgspec.Struct, rename="camel"):
    generation_config: dict[str, Any] | None = None


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    found = _PATH.fullmatch(path) if method == "POST" else None
    return None if found is None else embed if found["method"] == "batchEmbedContents" else generate


async def embed(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for embeddings; they come without figures."""
    try:
        call = msgspec.json.decode(await request.read(), type=_Batch)
    except msgspec.DecodeError as error:
        return bad_request(request, simulated, GEMINI, f"Invalid request: {error}")
    texts = ["".join(part.text for part in item.content.parts) for item in call.requests]
    sizes = [item.output_dimensionality or DIMENSIONS for item in call.requests]

    def make(behaviour: Behaviour) -> web.Response:
        vectors = [vector_of(text, size) for text, size in zip(texts, sizes, strict=True)]
        return send_json({"embeddings": [{"values": vector} for vector in vectors]})

    return await respond(request, simulated, model=_model(request), question=texts[0], error=GEMINI.error, make=make)


async def generate(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for an image or a sound, where one is asked for; any other is a chat."""
    raw = await request.read()
    if not _asks_for_media(raw):
        return await generate_content(request, simulated)
    try:
        call = msgspec.json.decode(raw, type=_Generate)
    except msgspec.DecodeError as error:
        return bad_request(request, simulated, GEMINI, f"Invalid request: {error}")
    prompt = "".join(part.text for content in call.contents for part in content.parts)
    image = "IMAGE" in (call.generation_config.response_modalities or ())

    def make(behaviour: Behaviour) -> web.Response:
        output = _IMAGE_TOKENS if image else behaviour.output_tokens
        if image:
            mime, data = "image/png", image_png(prompt)
        elif call.generation_config.speech_config is not None:
            mime, data = f"audio/L16;codec=pcm;rate={SAMPLE_RATE}", sound_pcm(spoken_seconds(prompt))
        else:
            mime, data = "audio/mpeg", sound_mp3(2)
        part = {"inlineData": {"mimeType": mime, "data": base64.b64encode(data).decode()}}
        body: dict[str, Any] = {
            "candidates": [{"content": {"parts": [part], "role": "model"}, "finishReason": "STOP", "index": 0}],
            "modelVersion": _model(request),
            "responseId": unique_id(),
        }
        if not behaviour.omit_usage:
            given = counted_tokens(behaviour, prompt)
            body["usageMetadata"] = {
                "promptTokenCount": given,
                "candidatesTokenCount": output,
                "totalTokenCount": given + output,
                "candidatesTokensDetails": [{"modality": "IMAGE" if image else "AUDIO", "tokenCount": output}],
            }
        return send_json(body)

    return await respond(request, simulated, model=_model(request), question=prompt, error=GEMINI.error, make=make)


def _asks_for_media(raw: bytes) -> bool:
    try:
        config = msgspec.json.decode(raw, type=_Peek).generation_config
    except msgspec.DecodeError:
        return False
    return bool(config and config.get("responseModalities"))


def _model(request: web.BaseRequest) -> str:
    found = _PATH.search(request.path)
    assert found is not None, "find_handler saw the same path"
    return found["model"]
