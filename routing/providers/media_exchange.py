"""One HTTP exchange with a provider of media: JSON or a form goes out, JSON or bytes come back, bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec

from routing.providers.base import ProviderError, Target
from routing.providers.exchange import MAX_ANSWER_BYTES, document_failure, internal_failure, read_limited
from routing.providers.failures import MAX_ERROR_BYTES, http_failure, network_failure, parse_json
from routing.providers.session import ProviderSession

_encode = msgspec.json.Encoder().encode

Explain = Callable[[int, Mapping[str, str], bytes, Target], ProviderError]
_OK = frozenset({200})


@dataclass(frozen=True, slots=True)
class Received:
    """A whole answer that was accepted; `content_type` without parameters."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    raw: bytes


def explained(status: int, headers: Mapping[str, str], raw: bytes, target: Target) -> ProviderError:
    """The failure of an answer in one of the usual shapes."""
    return http_failure(status, headers, raw, secret=target.secret, quirks=target.quirks)


async def exchange(
    session: ProviderSession,
    target: Target,
    url: str,
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    body: Mapping[str, Any] | None = None,
    form: aiohttp.FormData | None = None,
    query: Mapping[str, str] | None = None,
    accepted: frozenset[int] = _OK,
    explain: Explain = explained,
) -> Received:
    """Send one request and read its whole answer. Raises `ProviderError` for any status that is not `accepted`.

    `explain` makes the failure of a refused request. Answers too large to take are a failure that may have been billed.
    """
    content, kind = b"", {}
    if form is not None:
        payload = form()
        content, kind = await payload.as_bytes(), {"Content-Type": payload.headers["Content-Type"]}
    elif body is not None:
        content, kind = _encode(body), {"Content-Type": "application/json"}
    try:
        answer = await session.send(
            method,
            f"{url}?{urlencode(query)}" if query else url,
            headers={**kind, **headers, **target.extra_headers},
            content=content,
            connect_seconds=target.connect_timeout_seconds,
            silence_seconds=target.first_byte_timeout_seconds + target.read_timeout_seconds,
        )
        try:
            if target.on_headers is not None:
                target.on_headers(answer.headers)
            if answer.status not in accepted:
                raw = await read_limited(answer, MAX_ERROR_BYTES, strict=False)
                raise explain(answer.status, answer.headers, raw, target)
            raw = await read_limited(answer, MAX_ANSWER_BYTES)
            return Received(answer.status, answer.headers, answer.content_type, raw)
        finally:
            answer.close()
    except (TimeoutError, OSError) as error:
        raise network_failure(error) from error


def json_object(received: Received, target: Target) -> dict[str, Any]:
    """The JSON object of an answer that has no error in it. Raises `ProviderError`."""
    body = parse_json(received.raw)
    if not isinstance(body, dict) or body.get("error"):
        raise not_an_answer(received, target)
    return body


def audio_bytes(received: Received, target: Target) -> bytes:
    """The bytes of an answer that is a recording. Raises `ProviderError` for an empty one, and for documents of any kind."""
    if received.content_type.startswith("text/") or received.content_type == "application/json":
        raise not_an_answer(received, target)
    if not received.raw:
        raise internal_failure("bad_answer", "an empty recording")
    return received.raw


def not_an_answer(received: Received, target: Target) -> ProviderError:
    """The failure of a 200 that is not what was asked for: it may be billed all the same."""
    return document_failure(received.status, received.headers, received.raw, target)


def bearer(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.secret}"}
