"""How the simulator delivers an answer, in whatever dialect: late, failing, in pieces, cut, or broken off with an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from routing.simulator.answers import unique_id
from routing.simulator.controls import Behaviour, Simulated

_encode = msgspec.json.Encoder().encode


async def fail_or_wait(
    simulated: Simulated, behaviour: Behaviour, error_body: Callable[[int, str], Any]
) -> web.Response | None:
    """Let the latency pass; the configured failure if this call draws it, with `error_body(status, message)` by default."""
    if behaviour.latency_ms:
        await asyncio.sleep(behaviour.latency_ms / 1000)
    if not simulated.fails_now():
        return None
    # What was set during the latency is what fails now.
    behaviour = simulated.behaviour
    assert behaviour.fail_status is not None
    simulated.counters.failed += 1
    body = behaviour.fail_body
    if body is None:
        body = error_body(behaviour.fail_status, "IA Factory's simulator fails this call as it was told to.")
    return send_json(body, behaviour.fail_status)


def send_whole(request: web.BaseRequest, simulated: Simulated, behaviour: Behaviour, body: Any) -> web.StreamResponse:
    """A whole answer, or the cut in its place."""
    if behaviour.drop_after_chunks is not None:
        simulated.counters.dropped += 1
        return _cut(request, web.Response())
    simulated.counters.completed += 1
    return send_json(body)


async def send_stream(
    request: web.BaseRequest,
    simulated: Simulated,
    behaviour: Behaviour,
    opening: list[bytes],
    texts: list[bytes],
    closing: list[bytes],
    *,
    error_event: bytes,
    texts_per_chunk: int = 1,
) -> web.StreamResponse:
    """The events up to the first text, the texts and the end, as fast and as far as the behaviour says."""
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    stops = [stop for stop in (behaviour.drop_after_chunks, behaviour.error_after_chunks) if stop is not None]
    stop = min(stops, default=None)
    if stop is None and not behaviour.chunk_interval_ms:
        # Everything is known: one write, the cheapest answer a benchmark can have.
        simulated.counters.completed += 1
        return web.Response(body=b"".join((*opening, *texts, *closing)), headers={**headers, "x-request-id": unique_id()})

    response = web.StreamResponse(headers={**headers, "x-request-id": unique_id()})
    await response.prepare(request)
    events = [*opening, *texts] if stop is None else [*opening, *texts[: stop * texts_per_chunk]]
    for position, event in enumerate(events):
        if position and behaviour.chunk_interval_ms:
            await asyncio.sleep(behaviour.chunk_interval_ms / 1000)
        await response.write(event)
    if stop is None:
        await response.write(b"".join(closing))
        await response.write_eof()
        simulated.counters.completed += 1
        return response
    simulated.counters.dropped += 1
    if stop == behaviour.error_after_chunks:
        await response.write(error_event)
        await response.write_eof()
        return response
    # The client should have read what was sent before it learns of the cut.
    await asyncio.sleep(0.02)
    return _cut(request, response)


def send_json(body: Any, status: int = 200) -> web.Response:
    """A JSON body; a text is sent as HTML, as proxies in front of providers do."""
    raw = body.encode() if isinstance(body, str) else _encode(body)
    content_type = "text/html; charset=utf-8" if isinstance(body, str) else "application/json"
    headers = {"Content-Type": content_type, "x-request-id": unique_id()}
    if status == 429:
        headers["retry-after"] = "1"
    return web.Response(body=raw, status=status, headers=headers)


def _cut(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Cut the connection; the response goes nowhere but the server wants one."""
    if request.transport is not None:
        request.transport.abort()
    return response
