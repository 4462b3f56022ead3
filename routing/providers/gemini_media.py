"""Google's Gemini API beside chat: embeddings, and images, speech and music out of generateContent.

Recordings come as raw samples or as a finished file; samples get a WAV header. Images are billed one by one, and what a model
reads and writes around them by tokens.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.providers.exchange import document_failure, internal_failure
from routing.providers.failures import public_message
from routing.providers.gemini import UsageMetadata, method_url, understood, usage_from_gemini
from routing.providers.media_base import (
    CHARACTERS,
    CLIPS,
    IMAGES,
    OPENAI_VOICES,
    SIZE_RATIOS,
    MediaAnswer,
    Mode,
    embedding_list,
    estimated_tokens,
    image_item,
    texts_of,
    wav_of_pcm,
)
from routing.providers.media_exchange import Received, exchange, explained, json_object, not_an_answer
from routing.providers.registry import register_media
from routing.providers.session import ProviderSession
from routing.providers.usage import token_count

# Voices here have names of their own; a client that names one of OpenAI's gets this one.
DEFAULT_VOICE = "Kore"
MOST_TEXTS = 100
_RATIOS = frozenset({"1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"})
_REFUSALS = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
    }
)
_SAMPLES = re.compile(r"audio/(?:l16|pcm)\b", re.IGNORECASE)
_RATE = re.compile(r"rate=(\d{4,6})", re.IGNORECASE)
_SAMPLE_RATE = 24_000


class _Blob(msgspec.Struct, gc=False, rename="camel"):
    mime_type: str = ""
    data: str = ""


class _Part(msgspec.Struct, gc=False, rename="camel"):
    inline_data: _Blob | None = None
    thought: bool | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _ModalityCount(msgspec.Struct, gc=False, rename="camel"):
    modality: str = ""
    token_count: int = 0


class _Figures(UsageMetadata, rename="camel"):
    candidates_tokens_details: list[_ModalityCount] | None = None


class _Response(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Figures | None = None
    response_id: str | None = None


class _Embedding(msgspec.Struct, gc=False):
    values: list[float]


class _Embeddings(msgspec.Struct, gc=False, rename="camel"):
    embeddings: list[_Embedding]
    usage_metadata: UsageMetadata | None = None


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


class GeminiEmbeddings:
    """See `MediaAdapter`. Endpoint: `{base_url}/models/{model}:batchEmbedContents`."""

    protocol = "gemini"
    mode = Mode.EMBEDDING
    takes: frozenset[str] | None = frozenset({"model", "input", "dimensions", "encoding_format"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Token ids, and more texts than it takes at once; see `MediaAdapter.inexpressible`."""
        texts = texts_of(request)
        return ["input"] if texts is None or len(texts) > MOST_TEXTS else []

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        texts = texts_of(request) or []
        model = target.upstream_model if "/" in target.upstream_model else f"models/{target.upstream_model}"
        further = {} if request.get("dimensions") is None else {"outputDimensionality": request["dimensions"]}
        body = {"requests": [{"model": model, "content": {"parts": [{"text": text}]}, **further} for text in texts]}
        received = await _post(session, target, "batchEmbedContents", body)
        try:
            answer = _decode_embeddings(received.raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise not_an_answer(received, target) from None
        if len(answer.embeddings) != len(texts):
            raise internal_failure("bad_answer", "not one embedding for each text")
        reported = usage_from_gemini(answer.usage_metadata) if answer.usage_metadata is not None else None
        usage = Usage(input_total=reported.input_total if reported is not None else estimated_tokens(texts))
        try:
            made = embedding_list(target, request, [item.values for item in answer.embeddings], usage.input_total)
        except ValueError as error:
            raise internal_failure("bad_answer", str(error)) from None
        return MediaAnswer(usage, body=made, estimated=reported is None)


class GeminiImages:
    """See `MediaAdapter`. Endpoint: `{base_url}/models/{model}:generateContent`, asked for an image."""

    protocol = "gemini"
    mode = Mode.IMAGE
    takes: frozenset[str] | None = frozenset({"model", "prompt", "n", "size", "background", "output_format", "response_format"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """More than one image, shapes and formats it does not make, transparency; see `MediaAdapter.inexpressible`."""
        lost = ["n"] if (request.get("n") or 1) > 1 else []
        if request.get("size") not in (None, "auto") and _ratio(request) is None:
            lost.append("size")
        if request.get("background") == "transparent":
            lost.append("background")
        if (request.get("output_format") or "png") != "png":
            lost.append("output_format")
        return lost

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        config: dict[str, Any] = {"responseModalities": ["IMAGE"]}
        if (ratio := _ratio(request)) is not None:
            config["imageConfig"] = {"aspectRatio": ratio}
        response = await _generate(session, target, request["prompt"], config)
        blobs = _blobs(response)
        tokens, images = _tokens_beside_images(response), Decimal(len(blobs))
        body = {
            "created": int(time.time()),
            "data": [image_item(blob.data, blob.mime_type or "image/png", request) for blob in blobs],
            "output_format": "png",
        }
        usage = Usage(input_total=tokens.input_total, output_total=tokens.output_total, units={IMAGES: images})
        return MediaAnswer(usage, body=body, upstream_id=response.response_id)


class GeminiSpeech:
    """See `MediaAdapter`. Endpoint: `{base_url}/models/{model}:generateContent`, asked for speech."""

    protocol = "gemini"
    mode = Mode.SPEECH
    takes: frozenset[str] | None = frozenset({"model", "input", "voice", "instructions", "response_format"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Any format but samples, bare or as WAV; see `MediaAdapter.inexpressible`. The speed is a hint."""
        return [] if request.get("response_format") in (None, "wav", "pcm") else ["response_format"]

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`. Instructions go before the text, as it wants them."""
        voice = request.get("voice")
        name = DEFAULT_VOICE if not voice or voice in OPENAI_VOICES else str(voice)
        config = {
            "responseModalities": ["AUDIO"],
            "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": name}}},
        }
        told = request.get("instructions")
        text = f"{told}\n\n{request['input']}" if told else request["input"]
        response = await _generate(session, target, text, config)
        content, kind = _recording(_blobs(response)[0], bare=request.get("response_format") == "pcm")
        figures = usage_from_gemini(response.usage_metadata) if response.usage_metadata is not None else None
        tokens = figures or Usage()
        usage = Usage(
            input_total=tokens.input_total,
            output_total=tokens.output_total,
            units={CHARACTERS: Decimal(len(request["input"]))},
        )
        return MediaAnswer(
            usage, content=content, content_type=kind, upstream_id=response.response_id, estimated=figures is None
        )


class GeminiMusic:
    """See `MediaAdapter`. Endpoint: `{base_url}/models/{model}:generateContent`, asked for a clip of the model's own length."""

    protocol = "gemini"
    mode = Mode.MUSIC
    takes: frozenset[str] | None = frozenset({"model", "prompt", "instrumental", "seed"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """A length and a format of the client's choice; see `MediaAdapter.inexpressible`."""
        return [name for name in ("seconds", "response_format") if request.get(name) is not None]

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        prompt = request["prompt"]
        if request.get("instrumental"):
            prompt += "\n\nInstrumental only, no vocals."
        config: dict[str, Any] = {"responseModalities": ["AUDIO"]}
        if request.get("seed") is not None:
            config["seed"] = request["seed"]
        response = await _generate(session, target, prompt, config)
        content, kind = _recording(_blobs(response)[0])
        return MediaAnswer(
            Usage(units={CLIPS: Decimal(1)}), content=content, content_type=kind, upstream_id=response.response_id
        )


async def _post(session: ProviderSession, target: Target, method: str, body: Mapping[str, Any]) -> Received:
    headers = {"x-goog-api-key": target.secret}
    return await exchange(session, target, method_url(target, method), headers, body=body, explain=_explain)


def _explain(status: int, headers: Mapping[str, str], raw: bytes, target: Target) -> ProviderError:
    return understood(explained(status, headers, raw, target))


async def _generate(session: ProviderSession, target: Target, text: str, config: Mapping[str, Any]) -> _Response:
    body = {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}
    received = await _post(session, target, "generateContent", body)
    try:
        response = _decode_response(received.raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise not_an_answer(received, target) from None
    if not response.candidates:
        blocked = response.prompt_feedback.block_reason if response.prompt_feedback is not None else None
        if blocked:
            raise _refused(f"the prompt was blocked: {blocked[:100]}")
        json_object(received, target)
        raise document_failure(received.status, received.headers, received.raw, target)
    return response


def _blobs(response: _Response) -> list[_Blob]:
    """What was made. Raises `ProviderError` when it was refused, or nothing came of it."""
    candidates = response.candidates or []
    parts = [part for candidate in candidates if candidate.content is not None for part in candidate.content.parts or ()]
    found = [part.inline_data for part in parts if part.inline_data is not None and part.inline_data.data and not part.thought]
    reason = next((candidate.finish_reason for candidate in candidates if candidate.finish_reason), None)
    if found:
        return found
    if reason in _REFUSALS:
        raise _refused(f"the generation ended with {reason}")
    raise internal_failure(reason or "bad_answer", "an answer without data")


def _refused(detail: str) -> ProviderError:
    return ProviderError(
        FailureClass.REFUSED,
        public_message(FailureClass.REFUSED),
        status=200,
        code="content_policy_violation",
        may_have_billed=True,
        detail=detail,
    )


def _tokens_beside_images(response: _Response) -> Usage:
    """Input, and what was written and thought around the images; without details all output is image."""
    figures = response.usage_metadata
    if figures is None:
        return Usage()
    written = sum(
        token_count(count.token_count) or 0
        for count in figures.candidates_tokens_details or ()
        if count.modality.upper() != "IMAGE"
    )
    given = (token_count(figures.prompt_token_count) or 0) + (token_count(figures.tool_use_prompt_token_count) or 0)
    return Usage(input_total=given, output_total=written + (token_count(figures.thoughts_token_count) or 0))


def _recording(blob: _Blob, *, bare: bool = False) -> tuple[bytes, str]:
    """The bytes of a recording and their type; samples as WAV unless they are wanted `bare`."""
    try:
        raw = base64.b64decode(blob.data, validate=True)
    except (binascii.Error, ValueError):
        raise internal_failure("bad_answer", "sound that is not base64") from None
    if not raw:
        raise internal_failure("bad_answer", "an empty recording")
    if _SAMPLES.match(blob.mime_type) is None:
        return raw, blob.mime_type or "application/octet-stream"
    if bare:
        return raw, "audio/pcm"
    rate = _RATE.search(blob.mime_type)
    return wav_of_pcm(raw, rate=int(rate[1]) if rate else _SAMPLE_RATE), "audio/wav"


def _ratio(request: Mapping[str, Any]) -> str | None:
    size = request.get("size")
    ratio = SIZE_RATIOS.get(size, size) if isinstance(size, str) else None
    return ratio if ratio in _RATIOS else None


register_media(GeminiEmbeddings())
register_media(GeminiImages())
register_media(GeminiSpeech())
register_media(GeminiMusic())
