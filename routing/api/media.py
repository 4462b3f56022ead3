"""Embeddings, images, speech and transcription as OpenAI's clients know them, and music."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from iafactory.common.hot import Answer, Exchange, HotView
from iafactory.common.rendering import encode_json

from ..chat_request import decode_object
from ..gateway import current_gateway
from ..media_call import MediaCall
from ..media_requests import MediaRequest, embeddings_parse, image_parse, music_parse, speech_parse, transcription_parse
from . import media_schemas, schemas
from .access import caller_with
from .chat import idempotency_of, run_of
from .media_form import form_parse

_ERRORS = schemas.errors(
    schemas.OPENAI_ERROR, **schemas.CALL_ERRORS | {"_404": "No such model, or not one for this.", "_504": "It took too long."}
)
_PARAMETERS = [schemas.IDEMPOTENCY_KEY, *schemas.RUN]


def _object_parse(parse: Callable[[dict[str, Any]], MediaRequest]) -> Callable[[Exchange, bytes], tuple[MediaRequest, bytes]]:
    """Reads a JSON body; what makes two requests the same is the body itself."""

    def read(exchange: Exchange, body: bytes) -> tuple[MediaRequest, bytes]:
        return parse(decode_object(body)), body

    return read


def _transcription_parse(exchange: Exchange, body: bytes) -> tuple[MediaRequest, bytes]:
    """Reads a form. A client draws a new boundary each time: the same fields and files make the same request."""
    fields, files = form_parse(exchange.header(b"content-type"), body)
    request = transcription_parse(fields, files)
    content = hashlib.sha256(files["file"][0].content).hexdigest()
    return request, encode_json([sorted(fields.items()), files["file"][0].name, content])


async def _answer(
    exchange: Exchange, endpoint: str, read: Callable[[Exchange, bytes], tuple[MediaRequest, bytes]]
) -> Answer | None:
    gateway = current_gateway()
    caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
    body = await exchange.read_body()
    # Forms of many megabytes take a while to read.
    request, identity = await asyncio.to_thread(read, exchange, body) if len(body) > 100_000 else read(exchange, body)
    call = MediaCall(
        gateway,
        exchange,
        caller,
        request,
        endpoint=endpoint,
        idempotency=idempotency_of(exchange, caller, identity),
        run=run_of(exchange),
    )
    gateway.uses.note(caller, exchange.client_address, identity)
    return await call.run()


class Embeddings(HotView):
    @extend_schema(
        operation_id="embeddings",
        tags=["OpenAI-compatible"],
        summary="Embeddings",
        parameters=_PARAMETERS,
        request=media_schemas.EMBEDDINGS_REQUEST,
        responses={200: media_schemas.EMBEDDINGS_ANSWER, **_ERRORS},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        return await _answer(exchange, "/v1/embeddings", _object_parse(embeddings_parse))


class ImageGenerations(HotView):
    @extend_schema(
        operation_id="images_generations",
        tags=["OpenAI-compatible"],
        summary="Images",
        parameters=_PARAMETERS,
        request=media_schemas.IMAGE_REQUEST,
        responses={200: media_schemas.IMAGE_ANSWER, **_ERRORS},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        return await _answer(exchange, "/v1/images/generations", _object_parse(image_parse))


class Speech(HotView):
    @extend_schema(
        operation_id="audio_speech",
        tags=["OpenAI-compatible"],
        summary="Speech",
        description="Billed by characters, or by tokens where the model is. With `stream_format: sse` it comes as events.",
        parameters=_PARAMETERS,
        request=media_schemas.SPEECH_REQUEST,
        responses={**media_schemas.recording("The recording."), **_ERRORS},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        return await _answer(exchange, "/v1/audio/speech", _object_parse(speech_parse))


class Transcriptions(HotView):
    @extend_schema(
        operation_id="audio_transcriptions",
        tags=["OpenAI-compatible"],
        summary="Transcription",
        description="Billed by the recording's length. `text`, `srt` and `vtt` are answered as text.",
        parameters=_PARAMETERS,
        request=media_schemas.TRANSCRIPTION_REQUEST,
        responses={200: media_schemas.TRANSCRIPTION_ANSWER, **_ERRORS},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        return await _answer(exchange, "/v1/audio/transcriptions", _transcription_parse)


class MusicGenerations(HotView):
    @extend_schema(
        operation_id="music_generations",
        tags=["Own"],
        summary="Music",
        description="Billed by the clip, or by its length where the model is. It may take minutes.",
        parameters=_PARAMETERS,
        request=media_schemas.MUSIC_REQUEST,
        responses={**media_schemas.recording("The clip."), **_ERRORS},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        return await _answer(exchange, "/v1/music/generations", _object_parse(music_parse))
