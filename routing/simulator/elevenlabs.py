"""ElevenLabs: `/{provider}/v1/text-to-speech/{voice}` and `/{provider}/v1/music`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from aiohttp import web

from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import send_json
from routing.simulator.media import SOUNDS, respond, send_sound, spoken_seconds

_SPEECH_PATH = re.compile(r"v1/text-to-speech/[^/]+")


class _Speech(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(min_length=1)]
    model_id: str
    voice_settings: dict[str, float] | None = None


class _Music(msgspec.Struct, forbid_unknown_fields=True):
    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    model_id: str
    music_length_ms: Annotated[int, msgspec.Meta(ge=3000, le=600_000)] | None = None
    force_instrumental: bool | None = None
    seed: int | None = None


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    if method != "POST":
        return None
    return music if path == "v1/music" else speech if _SPEECH_PATH.fullmatch(path) else None


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error in its shape."""
    return {"detail": {"status": f"simulated_{status}", "message": message}}


def _kind(request: web.BaseRequest) -> str:
    return request.query.get("output_format", "mp3_44100_128").partition("_")[0]


def _refuse(request: web.BaseRequest, simulated: Simulated, message: str) -> web.Response:
    simulated.remember(request.path, "", False, "")
    simulated.counters.failed += 1
    return send_json({"detail": [{"loc": ["body"], "msg": message, "type": "invalid"}]}, 422)


async def speech(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for speech; a character costs one credit."""
    try:
        call = msgspec.json.decode(await request.read(), type=_Speech)
    except msgspec.DecodeError as error:
        return _refuse(request, simulated, str(error))
    if _kind(request) not in SOUNDS:
        return _refuse(request, simulated, f"The simulator speaks {', '.join(SOUNDS)} alone.")

    def make(behaviour: Behaviour) -> web.Response:
        return send_sound(_kind(request), spoken_seconds(call.text), **{"character-cost": str(len(call.text))})

    return await respond(request, simulated, model=call.model_id, question=call.text, error=error_body, make=make)


async def music(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for music, which the simulator keeps short."""
    try:
        call = msgspec.json.decode(await request.read(), type=_Music)
    except msgspec.DecodeError as error:
        return _refuse(request, simulated, str(error))
    if _kind(request) not in SOUNDS:
        return _refuse(request, simulated, f"The simulator plays {', '.join(SOUNDS)} alone.")

    def make(behaviour: Behaviour) -> web.Response:
        return send_sound(_kind(request), 2)

    return await respond(request, simulated, model=call.model_id, question=call.prompt, error=error_body, make=make)
