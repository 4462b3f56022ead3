"""A client that calls from many connections at once."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Result:
    """What the clients saw: statuses, error codes, and how many answers came to their proper end."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    complete: int = 0


async def _call(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], body: dict[str, Any], result: Result
) -> None:
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        raw = await response.read()
        result.statuses[response.status] += 1
        if response.status != 200:
            result.codes[json.loads(raw)["error"]["code"]] += 1
        elif body.get("stream"):
            result.complete += raw.endswith(b"data: [DONE]\n\n")
        else:
            result.complete += json.loads(raw)["usage"]["total_tokens"] > 0


async def _run(url: str, headers: dict[str, str], bodies: list[dict[str, Any]], clients: int) -> Result:
    result = Result()
    queue = iter(bodies)

    async def client(session: aiohttp.ClientSession) -> None:
        for body in queue:
            await _call(session, url, headers, body, result)

    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return result


def run_load(url: str, headers: dict[str, str], bodies: list[dict[str, Any]], *, clients: int) -> Result:
    """Send `bodies` from `clients` parallel clients; returns when all are answered."""
    return asyncio.run(_run(url, headers, bodies, clients))


async def _hang_up(url: str, headers: dict[str, str], body: dict[str, Any], clients: int, after_chunks: int) -> int:
    """Open streams, read a few chunks of each, then close every connection at once. Returns how many streams had begun."""
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def begin() -> aiohttp.ClientResponse:
            response = await session.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            for _ in range(after_chunks):
                await response.content.readuntil(b"\n\n")
            return response

        responses = await asyncio.gather(*(begin() for _ in range(clients)))
        begun = sum(response.status == 200 for response in responses)
        for response in responses:
            response.close()
        return begun


def run_hang_up(url: str, headers: dict[str, str], body: dict[str, Any], *, clients: int, after_chunks: int = 2) -> int:
    """See `_hang_up`."""
    return asyncio.run(_hang_up(url, headers, body, clients, after_chunks))
