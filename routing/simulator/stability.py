"""Stability AI: images, and music at once or by ticket, under `/{provider}/v2beta/`."""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
from aiohttp import web

from routing.simulator.answers import unique_id
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import send_json
from routing.simulator.media import image_png, respond, send_sound

_IMAGE_PATH = re.compile(r"v2beta/stable-image/generate/(?P<model>core|ultra|sd3)")
_RESULT_PATH = re.compile(r"v2beta/audio/results/(?P<ticket>[A-Za-z0-9_-]+)")
_TICKETS = "v2beta/audio/stable-audio/text-to-audio"
_NOW = "v2beta/audio/stable-audio-2/text-to-audio"


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    if method == "GET":
        return result if _RESULT_PATH.fullmatch(path) else None
    if method != "POST":
        return None
    return image if _IMAGE_PATH.fullmatch(path) else music if path in (_TICKETS, _NOW) else None


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error in its shape."""
    return {"id": unique_id(), "name": f"simulated_{status}", "errors": [message]}


async def _prompt(request: web.BaseRequest) -> tuple[str, Any]:
    if not request.content_type.startswith("multipart/"):
        return "", {}
    fields = await request.post()
    return str(fields.get("prompt") or ""), fields


def _refuse(request: web.BaseRequest, simulated: Simulated) -> web.Response:
    simulated.remember(request.path, "", False, "")
    simulated.counters.failed += 1
    return send_json({"id": unique_id(), "name": "bad_request", "errors": ["prompt: is required, in a form of parts"]}, 400)


async def image(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for an image, as bytes or as JSON."""
    prompt, fields = await _prompt(request)
    if not prompt:
        return _refuse(request, simulated)
    found = _IMAGE_PATH.search(request.path)
    assert found is not None, "find_handler saw the same path"

    def make(behaviour: Behaviour) -> web.Response:
        made = image_png(prompt)
        if request.headers.get("Accept") == "application/json":
            return send_json({"image": base64.b64encode(made).decode(), "finish_reason": "SUCCESS", "seed": 1})
        return web.Response(body=made, headers={"Content-Type": "image/png", "finish-reason": "SUCCESS", "seed": "1"})

    model = str(fields.get("model") or found["model"])
    return await respond(request, simulated, model=model, question=prompt, error=error_body, make=make)


async def music(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call for music: the sound itself, or a ticket for it."""
    prompt, fields = await _prompt(request)
    if not prompt:
        return _refuse(request, simulated)
    by_ticket = request.path.endswith(_TICKETS)
    kind = "wav" if fields.get("output_format") == "wav" else "mp3"

    def make(behaviour: Behaviour) -> web.Response:
        if by_ticket:
            return web.Response(
                body=msgspec.json.encode({"id": f"{kind}-{unique_id()}"}), status=202, content_type="application/json"
            )
        return send_sound(kind, 2, **{"finish-reason": "SUCCESS", "seed": "1"})

    model = str(fields.get("model") or "")
    return await respond(request, simulated, model=model, question=prompt, error=error_body, make=make)


async def result(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """What a ticket stands for; it is ready when it is asked for."""
    found = _RESULT_PATH.search(request.path)
    assert found is not None, "find_handler saw the same path"
    kind = "wav" if found["ticket"].startswith("wav-") else "mp3"
    return send_sound(kind, 2, **{"finish-reason": "SUCCESS", "seed": "1"})
