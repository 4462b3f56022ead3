"""What the media endpoints take and answer, for the API's description. Requests are checked in `media_requests`."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse

from ..media_requests import QUALITIES, SPEECH_FORMATS, TRANSCRIPT_FORMATS
from .schemas import BOOLEAN, INTEGER, JSON, NUMBER, STRING, USAGE


def _body(properties: JSON, *, required: list[str], kind: str = "application/json") -> JSON:
    return {kind: {"type": "object", "properties": properties, "required": required, "additionalProperties": False}}


def _one_of(*values: str) -> JSON:
    return {"type": "string", "enum": list(values)}


MODEL: JSON = {"type": "string", "description": "A name from `/v1/models`, or `auto`."}
BYTES: JSON = {"type": "string", "format": "binary"}

EMBEDDINGS_REQUEST = _body(
    {
        "model": MODEL,
        "input": {
            "oneOf": [
                STRING,
                {"type": "array", "items": STRING, "maxItems": 2048},
                {"type": "array", "items": INTEGER},
                {"type": "array", "items": {"type": "array", "items": INTEGER}},
            ]
        },
        "dimensions": {"type": "integer", "minimum": 1},
        "encoding_format": _one_of("float", "base64"),
        "input_type": _one_of("search_document", "search_query", "classification", "clustering"),
        "user": STRING,
    },
    required=["model", "input"],
)
EMBEDDINGS_ANSWER: JSON = {
    "type": "object",
    "properties": {
        "object": _one_of("list"),
        "model": STRING,
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "object": _one_of("embedding"),
                    "index": INTEGER,
                    "embedding": {"oneOf": [{"type": "array", "items": NUMBER}, STRING]},
                },
            },
        },
        "usage": USAGE,
    },
}

IMAGE_REQUEST = _body(
    {
        "model": MODEL,
        "prompt": STRING,
        "n": {"type": "integer", "minimum": 1, "maximum": 10},
        "size": {"type": "string", "description": "`auto`, or a width and a height like `1024x1024`."},
        "quality": _one_of(*QUALITIES),
        "background": _one_of("auto", "transparent", "opaque"),
        "moderation": _one_of("auto", "low"),
        "output_compression": {"type": "integer", "minimum": 0, "maximum": 100},
        "output_format": _one_of("png", "jpeg", "webp"),
        "response_format": {
            **_one_of("url", "b64_json"),
            "description": "`url` may be a `data:` address: images are not kept here.",
        },
        "stream": {"type": "boolean", "description": "The image comes as one event, once it is paid for."},
        "partial_images": {"type": "integer", "minimum": 0, "maximum": 3},
        "style": _one_of("vivid", "natural"),
        "user": STRING,
    },
    required=["model", "prompt"],
)
IMAGE_ANSWER: JSON = {
    "type": "object",
    "properties": {
        "created": INTEGER,
        "data": {
            "type": "array",
            "items": {"type": "object", "properties": {"b64_json": STRING, "url": STRING, "revised_prompt": STRING}},
        },
        "size": STRING,
        "quality": STRING,
        "output_format": STRING,
        "usage": {"type": "object", "additionalProperties": True},
    },
}

SPEECH_REQUEST = _body(
    {
        "model": MODEL,
        "input": {"type": "string", "maxLength": 40_000},
        "voice": {
            "oneOf": [STRING, {"type": "object", "properties": {"id": STRING}}],
            "description": "A voice of the model's provider; OpenAI's names work with ElevenLabs' and Google's models too.",
        },
        "instructions": STRING,
        "response_format": _one_of(*SPEECH_FORMATS),
        "speed": {"type": "number", "minimum": 0.25, "maximum": 4},
        "stream_format": _one_of("audio", "sse"),
    },
    required=["model", "input", "voice"],
)

TRANSCRIPTION_REQUEST = _body(
    {
        "file": BYTES
        | {"description": "A recording of at most 25 MiB: flac, m4a, mp3, mp4, mpeg, mpga, oga, ogg, opus, wav, webm."},
        "model": MODEL,
        "language": STRING,
        "prompt": STRING,
        "response_format": _one_of(*TRANSCRIPT_FORMATS),
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "timestamp_granularities[]": {"type": "array", "items": _one_of("word", "segment")},
    },
    required=["file", "model"],
    kind="multipart/form-data",
)
TRANSCRIPTION_ANSWER: JSON = {
    "type": "object",
    "properties": {"text": STRING, "usage": {"type": "object", "additionalProperties": True}},
    "additionalProperties": True,
}

MUSIC_REQUEST = _body(
    {
        "model": MODEL,
        "prompt": STRING,
        "seconds": {"type": "number", "minimum": 1, "maximum": 600, "description": "The provider's own length when absent."},
        "instrumental": BOOLEAN,
        "seed": {"type": "integer", "minimum": 0},
        "response_format": _one_of(*SPEECH_FORMATS),
    },
    required=["model", "prompt"],
)


def recording(description: str) -> dict[tuple[int, str], Any]:
    """A recording as the answer, for `extend_schema`."""
    return {(200, "audio/*"): OpenApiResponse(BYTES, description=description)}
