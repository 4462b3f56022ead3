"""A load generator that costs little itself: keep-alive connections, one request after the other on each, over a raw protocol.

    python -m benchmarks.load '{"url": …, "path": …, "headers": {…}, "bodies": […], "clients": 64, "seconds": 4}'

Prints one JSON object: requests, errors, seconds, and latencies in ms (`p50`, `p95`, `p99`, and of the first byte).
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

STREAM_END = b"0\r\n\r\n"


@dataclass
class Figures:
    """What the clients saw."""

    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Client(asyncio.Protocol):
    """One connection: sends the next body as soon as the last answer is whole."""

    def __init__(self, requests: list[bytes], figures: Figures, until: float, *, warm_until: float) -> None:
        self.requests, self.figures, self.until, self.warm_until = requests, figures, until, warm_until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.position = 0
        self.buffer = bytearray()
        self.began = 0.0
        self.first: float | None = None
        self.expected: int | None = None
        self.status = 0
        self.chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not say that they are asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        now = time.perf_counter()
        if now >= self.until:
            self.transport.close()
            return
        self.buffer.clear()
        self.first, self.expected, self.chunked = None, None, False
        self.began = now
        self.transport.write(self.requests[self.position % len(self.requests)])
        self.position += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.first is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            self.status = int(head[9:12])
            self.chunked = b"transfer-encoding: chunked" in head
            if not self.chunked:
                at = head.index(b"content-length: ") + 16
                stop = head.find(b"\r\n", at)
                self.expected = end + 4 + int(head[at : stop if stop >= 0 else len(head)])
            self.first = time.perf_counter()
        whole = self.buffer.endswith(STREAM_END) if self.chunked else len(self.buffer) >= (self.expected or 0)
        if whole:
            self._note()
            self._send()

    def _note(self) -> None:
        if self.began < self.warm_until or self.first is None:
            return
        self.figures.latencies.append(time.perf_counter() - self.began)
        self.figures.first_bytes.append(self.first - self.began)
        self.figures.statuses[self.status] += 1

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self.until and error is not None:
            self.figures.statuses[0] += 1
        if not self.done.done():
            self.done.set_result(None)


def request_bytes(url: str, path: str, headers: dict[str, str], body: str) -> bytes:
    """One HTTP/1.1 request, ready to be written again and again."""
    raw = body.encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {urlsplit(url).netloc}", "content-type: application/json"]
    lines += [f"content-length: {len(raw)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def percentile(values: list[float], share: float) -> float:
    """In ms, of values in seconds."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3) if ordered else 0.0


async def load(options: dict[str, Any]) -> dict[str, Any]:
    """Runs `clients` connections for `seconds` after a short warm-up. `keys`, if given, are shared out over the clients."""
    figures = Figures()
    parts = urlsplit(options["url"])
    loop = asyncio.get_running_loop()
    warm_until = time.perf_counter() + options.get("warm_seconds", 0.5)
    until = warm_until + options["seconds"]
    keys = options.get("keys") or [""]
    clients = []
    for number in range(options["clients"]):
        headers = dict(options.get("headers", {}))
        if keys[number % len(keys)]:
            headers["authorization"] = f"Bearer {keys[number % len(keys)]}"
        requests = [request_bytes(options["url"], options["path"], headers, body) for body in options["bodies"]]
        _, client = await loop.create_connection(
            lambda requests=requests: Client(requests, figures, until, warm_until=warm_until),  # type: ignore[misc]
            parts.hostname,
            parts.port,
        )
        clients.append(client)
    await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), options["seconds"] + 60)
    seconds = time.perf_counter() - warm_until
    good = figures.statuses[200]
    return {
        "requests": len(figures.latencies),
        "errors": sum(figures.statuses.values()) - good,
        "statuses": {str(status): count for status, count in figures.statuses.items()},
        "seconds": round(seconds, 3),
        "per_second": round(good / seconds, 1),
        "p50": percentile(figures.latencies, 0.5),
        "p95": percentile(figures.latencies, 0.95),
        "p99": percentile(figures.latencies, 0.99),
        "first_p50": percentile(figures.first_bytes, 0.5),
        "first_p99": percentile(figures.first_bytes, 0.99),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(load(json.loads(sys.argv[1] if sys.argv[1] != "-" else sys.stdin.read())))))
