"""Stability AI: images and music. Requests are forms; a failed generation is never charged.

The newest music model answers with a ticket, and the result is fetched with the same key until it is there.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import aiohttp

from routing.providers.base import FailureClass, ProviderError, Target, Usage
from routing.providers.exchange import internal_failure
from routing.providers.failures import error_object_failure, parse_json, public_message, retry_after
from routing.providers.media_base import CLIPS, IMAGES, SECONDS, SIZE_RATIOS, MediaAnswer, Mode, image_item
from routing.providers.media_exchange import Received, audio_bytes, bearer, exchange, explained, json_object, not_an_answer
from routing.providers.registry import register_media
from routing.providers.session import ProviderSession

_RATIOS = frozenset({"1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21"})
_IMAGE_FORMATS = frozenset({"png", "jpeg", "webp"})
_AUDIO_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_REFUSALS = frozenset({"content_moderation", "public_figure"})
# Whoever goes beyond the rate limit is shut out for this long; no header says so.
_SHUT_OUT_SECONDS = 60.0
_ASYNCHRONOUS = "stable-audio-3"
_LONGEST_SECONDS = {"stable-audio-2": 190, "stable-audio-2.5": 190, _ASYNCHRONOUS: 380}
DEFAULT_CLIP_SECONDS = 30
_TICKET = re.compile(r"[A-Za-z0-9_-]{1,200}")


class StabilityImages:
    """See `MediaAdapter`. Endpoint: `{base_url}/v2beta/stable-image/generate/{core|ultra|sd3}`."""

    protocol = "stability"
    mode = Mode.IMAGE
    takes: frozenset[str] | None = frozenset({"model", "prompt", "n", "size", "background", "output_format", "response_format"})

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """More than one image, shapes and formats it does not make, transparency; see `MediaAdapter.inexpressible`."""
        lost = ["n"] if (request.get("n") or 1) > 1 else []
        if request.get("size") not in (None, "auto") and _ratio(request) is None:
            lost.append("size")
        if request.get("background") == "transparent":
            lost.append("background")
        if (request.get("output_format") or "png") not in _IMAGE_FORMATS:
            lost.append("output_format")
        return lost

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        kind = request.get("output_format") or "png"
        fields = {"prompt": request["prompt"], "output_format": kind}
        if (ratio := _ratio(request)) is not None:
            fields["aspect_ratio"] = ratio
        path = target.upstream_model.removeprefix("stable-image-")
        if path.startswith("sd3"):
            fields["model"] = target.upstream_model
            path = "sd3"
        url = f"{_root(target)}/v2beta/stable-image/generate/{path}"
        headers = {**bearer(target), "Accept": "application/json"}
        received = await exchange(session, target, url, headers, form=_form(fields), explain=_explain)
        image = _made_image(received, target)
        body = {"created": int(time.time()), "data": [image_item(image, f"image/{kind}", request)], "output_format": kind}
        return MediaAnswer(Usage(units={IMAGES: Decimal(1)}), body=body, upstream_id=received.headers.get("x-request-id"))


class StabilityMusic:
    """See `MediaAdapter`. Endpoints: `{base_url}/v2beta/audio/…/text-to-audio`, and `/v2beta/audio/results/{ticket}`.

    `polls_after_seconds` are the waits before a result is asked for; the last one repeats.
    """

    protocol = "stability"
    mode = Mode.MUSIC
    takes: frozenset[str] | None = frozenset({"model", "prompt", "seconds", "seed", "response_format"})

    def __init__(self, polls_after_seconds: Sequence[float] = (2, 5, 10)) -> None:
        self._polls_after_seconds = polls_after_seconds

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Lengths and formats it does not make; see `MediaAdapter.inexpressible`."""
        seconds = request.get("seconds")
        lost = ["seconds"] if seconds is not None and not 1 <= seconds <= max(_LONGEST_SECONDS.values()) else []
        if (request.get("response_format") or "mp3") not in _AUDIO_TYPES:
            lost.append("response_format")
        return lost

    async def make(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> MediaAnswer:
        """One call; see `MediaAdapter.make`."""
        kind = request.get("response_format") or "mp3"
        seconds = Decimal(str(request.get("seconds") or DEFAULT_CLIP_SECONDS))
        fields = {
            "prompt": request["prompt"],
            "model": target.upstream_model,
            "duration": f"{seconds:f}",
            "output_format": kind,
        }
        if request.get("seed") is not None:
            fields["seed"] = str(request["seed"])
        asynchronous = target.upstream_model.startswith(_ASYNCHRONOUS)
        name = "stable-audio" if asynchronous else "stable-audio-2"
        url = f"{_root(target)}/v2beta/audio/{name}/text-to-audio"
        headers = {**bearer(target), "Accept": "audio/*"}
        accepted = frozenset({200, 202})
        received = await exchange(session, target, url, headers, form=_form(fields), accepted=accepted, explain=_explain)
        upstream_id = received.headers.get("x-request-id")
        if received.status == 202:
            received = await self._result(session, target, json_object(received, target).get("id"))
        if received.headers.get("finish-reason") == "CONTENT_FILTERED":
            raise _filtered()
        content = audio_bytes(received, target)
        usage = Usage(units={CLIPS: Decimal(1), SECONDS: seconds})
        return MediaAnswer(usage, content=content, content_type=_AUDIO_TYPES[kind], upstream_id=upstream_id)

    async def _result(self, session: ProviderSession, target: Target, ticket: Any) -> Received:
        """Wait for the result of a ticket. The caller's deadline ends the waiting."""
        if not isinstance(ticket, str) or _TICKET.fullmatch(ticket) is None:
            raise internal_failure("bad_answer", "a ticket without an id")
        url = f"{_root(target)}/v2beta/audio/results/{ticket}"
        headers = {**bearer(target), "Accept": "audio/*"}
        accepted = frozenset({200, 202})
        polls = 0
        while True:
            await asyncio.sleep(self._polls_after_seconds[min(polls, len(self._polls_after_seconds) - 1)])
            polls += 1
            try:
                received = await exchange(session, target, url, headers, method="GET", accepted=accepted, explain=_explain)
            except ProviderError as error:
                raise _lost_result(error) from None
            if received.status == 200:
                return received


def _form(fields: Mapping[str, str]) -> aiohttp.FormData:
    """A form of parts, which it wants to be even without files."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value)
    return form


def _ratio(request: Mapping[str, Any]) -> str | None:
    size = request.get("size")
    ratio = SIZE_RATIOS.get(size, size) if isinstance(size, str) else None
    return ratio if ratio in _RATIOS else None


def _made_image(received: Received, target: Target) -> str:
    """The image, base64. A blurred one, made where the content was refused, is a refusal."""
    if received.content_type.startswith("image/"):
        answer: dict[str, Any] = {"finish_reason": received.headers.get("finish-reason")}
        answer["image"] = base64.b64encode(received.raw).decode()
    else:
        answer = json_object(received, target)
    if answer.get("finish_reason") == "CONTENT_FILTERED":
        raise _filtered()
    image = answer.get("image")
    if not isinstance(image, str) or not image:
        raise not_an_answer(received, target)
    return image


def _filtered() -> ProviderError:
    return ProviderError(
        FailureClass.REFUSED,
        public_message(FailureClass.REFUSED),
        status=200,
        code="content_policy_violation",
        may_have_billed=True,
        detail="the result was filtered",
    )


def _explain(status: int, headers: Mapping[str, str], raw: bytes, target: Target) -> ProviderError:
    """Errors are `{id, name, errors[]}`; refused content comes with a 403, like a forbidden key."""
    payload = parse_json(raw)
    if not isinstance(payload, dict) or not isinstance(payload.get("name"), str):
        return explained(status, headers, raw, target)
    said = payload.get("errors")
    name = payload["name"]
    error = {
        "code": "content_policy_violation" if name in _REFUSALS else name,
        "message": " ".join(line for line in said if isinstance(line, str)) if isinstance(said, list) else "",
    }
    hint = retry_after(headers, error)
    return error_object_failure(
        status,
        error,
        secret=target.secret,
        quirks=target.quirks,
        retry_after_seconds=_SHUT_OUT_SECONDS if hint is None and status == 429 else hint,
        may_have_billed=status in (408, 504),
    )


def _lost_result(error: ProviderError) -> ProviderError:
    """Not to get what was made is nobody's wrong request, and it may be charged."""
    failure = FailureClass.INTERNAL if error.failure == FailureClass.BAD_REQUEST else error.failure
    return ProviderError(
        failure,
        public_message(failure) if failure != error.failure else error.message,
        status=error.status,
        code=error.code,
        retry_after_seconds=error.retry_after_seconds,
        may_have_billed=True,
        detail=error.detail,
    )


def _root(target: Target) -> str:
    return target.base_url.rstrip("/").removesuffix("/v1").removesuffix("/v2beta")


register_media(StabilityImages())
register_media(StabilityMusic())
