"""ElevenLabs: speech and music. Both answer with the recording itself; what speech cost stands in a header."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.providers.failures import public_message
from routing.providers.media_base import CHARACTERS, CLIPS, OPENAI_VOICES, SECONDS, MediaAnswer, Mode
from routing.providers.media_exchange import Received, audio_bytes, exchange, explained
from routing.providers.registry import register_media
from routing.providers.session import ProviderSession

# Voices here have ids of their own; a client that names one of OpenAI's gets this one ("Rachel", in every account).
DEFAULT_VOICE = "21m00Tcm4TlvDq8ikWAM"
SLOWEST, FASTEST = 0.7, 1.2
SHORTEST_CLIP_SECONDS, LONGEST_CLIP_SECONDS = 3, 600
DEFAULT_CLIP_SECONDS = 30

_FORMATS: Mapping[str, tuple[str, str]] = {
    "mp3": ("mp3_44100_128", "audio/mpeg"),
    "opus": ("opus_48000_128", "audio/ogg"),
    "pcm": ("pcm_24000", "audio/pcm"),
    "wav": ("wav_24000", "audio/wav"),
}


class ElevenLabsSpeech:
    """See `MediaAdapter`. Endpoint: `{base_url}/v1/text-to-speech/{voice}`."""

    protocol = "elevenlabs"
    mode = Mode.SPEECH
    takes: frozenset[str] | None = frozenset({"model", "input", "voice", "response_format", "speed"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Formats it does not write; see `MediaAdapter.inexpressible`. Instructions and speeds beyond its range are hints."""
        return _unknown_format(request)

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`. Billed are the characters sent, or what the provider counts if that is more."""
        name, kind = _FORMATS[request.get("response_format") or "mp3"]
        voice = request.get("voice") or DEFAULT_VOICE
        voice = DEFAULT_VOICE if voice in OPENAI_VOICES else str(voice)
        body: dict[str, Any] = {"text": request["input"], "model_id": target.upstream_model}
        if request.get("speed") is not None:
            body["voice_settings"] = {"speed": min(max(request["speed"], SLOWEST), FASTEST)}
        url = f"{_root(target)}/v1/text-to-speech/{quote(voice, safe='')}"
        received = await _post(session, target, url, body, name)
        content = audio_bytes(received, target)
        # Light models count half a credit a character, at half the list price: fewer credits than characters are no discount.
        characters = max(Decimal(len(request["input"])), _counted(received))
        return MediaAnswer(
            Usage(units={CHARACTERS: characters}), content=content, content_type=kind, upstream_id=_request_id(received)
        )


class ElevenLabsMusic:
    """See `MediaAdapter`. Endpoint: `{base_url}/v1/music`; it answers when the music is made, after minutes at worst."""

    protocol = "elevenlabs"
    mode = Mode.MUSIC
    takes: frozenset[str] | None = None

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Lengths it does not make and formats it does not write; see `MediaAdapter.inexpressible`."""
        seconds = request.get("seconds")
        too_far = seconds is not None and not SHORTEST_CLIP_SECONDS <= seconds <= LONGEST_CLIP_SECONDS
        return [*(["seconds"] if too_far else []), *_unknown_format(request)]

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        name, kind = _FORMATS[request.get("response_format") or "mp3"]
        seconds = Decimal(str(request.get("seconds") or DEFAULT_CLIP_SECONDS))
        body: dict[str, Any] = {
            "prompt": request["prompt"],
            "music_length_ms": int(seconds * 1000),
            "model_id": target.upstream_model,
        }
        if request.get("instrumental") is not None:
            body["force_instrumental"] = request["instrumental"]
        if request.get("seed") is not None:
            body["seed"] = request["seed"]
        received = await _post(session, target, f"{_root(target)}/v1/music", body, name)
        content = audio_bytes(received, target)
        usage = Usage(units={CLIPS: Decimal(1), SECONDS: seconds})
        return MediaAnswer(usage, content=content, content_type=kind, upstream_id=_request_id(received))


async def _post(session: ProviderSession, target: Target, url: str, body: Mapping[str, Any], output_format: str) -> Received:
    headers = {"xi-api-key": target.secret}
    return await exchange(session, target, url, headers, body=body, query={"output_format": output_format}, explain=_explain)


def _explain(status: int, headers: Mapping[str, str], raw: bytes, target: Target) -> ProviderError:
    """An empty account says so with a 401, like a wrong key."""
    error = explained(status, headers, raw, target)
    if error.code != "quota_exceeded":
        return error
    return ProviderError(
        FailureClass.NO_FUNDS,
        public_message(FailureClass.NO_FUNDS),
        status=error.status,
        code=error.code,
        may_have_billed=error.may_have_billed,
        detail=error.detail,
    )


def _unknown_format(request: Mapping[str, Any]) -> list[str]:
    return [] if (request.get("response_format") or "mp3") in _FORMATS else ["response_format"]


def _counted(received: Received) -> Decimal:
    try:
        counted = Decimal(received.headers.get("character-cost", "0"))
    except InvalidOperation:
        return Decimal(0)
    return counted if counted.is_finite() and 0 <= counted < 10**7 else Decimal(0)


def _request_id(received: Received) -> str | None:
    return received.headers.get("request-id")


def _root(target: Target) -> str:
    return target.base_url.rstrip("/").removesuffix("/v1")


register_media(ElevenLabsSpeech())
register_media(ElevenLabsMusic())
