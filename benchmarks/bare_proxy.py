"""The least an ASGI gateway can do: pass the request on with aiohttp, and the answer back chunk by chunk. Nothing is checked.

UPSTREAM=http://127.0.0.1:9000/openai/v1 uvicorn benchmarks.bare_proxy:application
"""

import os
from typing import Any

import aiohttp

UPSTREAM = os.environ.get("UPSTREAM", "")
_session: aiohttp.ClientSession | None = None


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """POST bodies go to UPSTREAM plus the path after /v1."""
    global _session
    if scope["type"] == "lifespan":
        await receive()
        _session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await _session.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert _session is not None
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    url = UPSTREAM + scope["path"].removeprefix("/v1")
    headers = {"content-type": "application/json", "authorization": "Bearer none"}
    async with _session.post(url, data=body, headers=headers) as answer:
        kind = answer.headers.get("content-type", "application/json").encode()
        await send({"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", kind)]})
        if kind.startswith(b"text/event-stream"):
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": await answer.read()})
