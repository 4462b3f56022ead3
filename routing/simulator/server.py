"""The simulator's HTTP server: finds the dialect of a path, and answers `/_control`.

GET    /_control                        settings, behaviour and counters
PUT    /_control/{provider or *}        set fields of `Behaviour` (null takes one back)
DELETE /_control[/{provider or *}]      forget settings, counters and requests
GET    /_control/{provider}/requests    counters and the latest requests
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from routing.simulator import anthropic, cohere, elevenlabs, gemini, media_cohere, media_gemini, media_openai, openai, stability
from routing.simulator.controls import EVERY_PROVIDER, Controls, Simulated

MAX_BODY_BYTES = 64 * 1024 * 1024
_SHUTDOWN_SECONDS = 0.3
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Handler = Callable[[web.BaseRequest, Simulated], Awaitable[web.StreamResponse]]
# A further dialect is a further module with its own find_handler.
_DIALECTS: tuple[Callable[[str, str], Handler | None], ...] = (
    openai.find_handler,
    media_openai.find_handler,
    anthropic.find_handler,
    # Both know generateContent: what is asked for an image or a sound is no chat.
    media_gemini.find_handler,
    gemini.find_handler,
    cohere.find_handler,
    media_cohere.find_handler,
    elevenlabs.find_handler,
    stability.find_handler,
)


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator."""

    host: str
    port: int
    controls: Controls

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def base_url(self, provider: str) -> str:
        """What a provider's OpenAI-compatible base URL becomes here."""
        return f"{self.url}/{provider}/v1"


@contextlib.asynccontextmanager
async def start_simulator(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Simulator]:
    """Run a simulator inside the current loop, on a free port by default."""
    loop = asyncio.get_running_loop()

    def build_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

    controls = Controls()
    server = web.Server(_dispatcher(controls), request_factory=build_request, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        yield Simulator(host, runner.addresses[0][1], controls)
    finally:
        await runner.cleanup()


def run(host: str, port: int, announce: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT. `announce` gets the URL once connections are accepted."""
    serving = _serve(host, port, announce)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


async def _serve(host: str, port: int, announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with start_simulator(host, port) as simulator:
        announce(simulator.url)
        await stop.wait()


def _dispatcher(controls: Controls) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    async def dispatch(request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        slug, _, rest = path[1:].partition("/")
        if slug == "_control":
            return await _control(request, controls, rest)
        handler = None
        for find_handler in _DIALECTS:
            handler = find_handler(request.method, rest)
            if handler is not None:
                break
        if handler is None or _SLUG.fullmatch(slug) is None:
            return _answer(openai.error_body(404, f"The simulator does not know {request.method} {path}."), 404)
        simulated = controls.provider(slug)
        try:
            return await handler(request, simulated)
        except asyncio.CancelledError:
            simulated.counters.disconnected += 1
            raise
        except ConnectionError:
            simulated.counters.disconnected += 1
            # Nobody reads it; an exception would be logged as an error of the server.
            return web.Response()

    return dispatch


async def _control(request: web.BaseRequest, controls: Controls, rest: str) -> web.Response:
    slug, _, what = rest.partition("/")
    if slug and slug != EVERY_PROVIDER and _SLUG.fullmatch(slug) is None:
        return _answer({"error": "not a provider name"}, 404)
    match request.method, bool(slug), what:
        case "GET", False, _:
            return _answer(controls.overview())
        case "GET", True, "requests":
            return _answer(_seen(controls.provider(slug)))
        case "GET", True, "":
            return _answer(controls.provider(slug).behaviour)
        case "PUT", True, "":
            try:
                settings = msgspec.json.decode(await request.read(), type=dict[str, Any])
                return _answer(controls.change(slug, settings))
            except msgspec.DecodeError as error:
                return _answer({"error": str(error)}, 400)
        case "DELETE", False, _:
            controls.reset()
            return _answer({})
        case "DELETE", True, "":
            controls.forget(slug)
            return _answer({})
    return _answer({"error": "see the simulator's documentation for what /_control understands"}, 404)


def _seen(simulated: Simulated) -> dict[str, Any]:
    names = ("time", "path", "model", "stream", "question")
    return {
        "counters": simulated.counters,
        "requests": [dict(zip(names, request, strict=True)) for request in simulated.requests],
    }


def _answer(body: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
