"""A load generator that costs little itself: keep-alive connections, one request after the other on each, over a raw protocol.

    python -m benchmarks.load '{"url": …, "path": …, "headers": {…}, "body": …, "clients": 64, "seconds": 4}'

Prints one JSON object: what `benchmarks.windows.Load` names. With `"once": true` every connection asks once, all of them
opened over `seconds`, and all answers are awaited.
"""

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.measures import percentile_ms
from benchmarks.wire import AnswerReader, request_bytes

WARM_SECONDS = 0.5
LONGEST_ANSWER_SECONDS = 120


@dataclass
class Seen:
    """What the clients saw: times in seconds of the answers counted, and how every request ended."""

    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    good: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class Client(asyncio.Protocol):
    """One connection: sends the request again as soon as the last answer is whole, until a moment."""

    def __init__(self, request: bytes, seen: Seen, *, counts_from: float, until: float, once: bool) -> None:
        self.request, self.seen, self.counts_from, self.until, self.once = request, seen, counts_from, until, once
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answer = AnswerReader()
        self.asking = False
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not say that they are asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self.answer.reset()
        self.asking = True
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.answer.feed(data):
            return
        self._note()
        if self.once or time.perf_counter() >= self.until:
            self.transport.close()
        else:
            self._ask()

    def _note(self) -> None:
        self.asking = False
        if not self.answer.good:
            self.seen.failures[str(self.answer.status) if self.answer.status != 200 else "stream that failed"] += 1
            return
        self.seen.good += 1
        if self.began >= self.counts_from and self.answer.first_byte_at is not None:
            self.seen.latencies.append(time.perf_counter() - self.began)
            self.seen.first_bytes.append(self.answer.first_byte_at - self.began)

    def connection_lost(self, error: Exception | None) -> None:
        if self.asking:
            self.seen.failures["connection lost"] += 1
        if not self.done.done():
            self.done.set_result(None)


async def load(options: dict[str, Any]) -> dict[str, Any]:
    """Runs `clients` connections for `seconds` after a short warm-up. `keys`, if given, are shared out over the clients."""
    seen = Seen()
    parts = urlsplit(options["url"])
    loop = asyncio.get_running_loop()
    seconds, once, count = options["seconds"], options.get("once", False), options["clients"]
    started = time.perf_counter()
    counts_from = started if once else started + WARM_SECONDS
    keys = options.get("keys") or [""]
    clients = []
    for number in range(count):
        key = keys[number % len(keys)]
        headers = options.get("headers", {}) | ({"authorization": f"Bearer {key}"} if key else {})
        request = request_bytes(options["url"], options["path"], headers, options["body"])
        client = Client(request, seen, counts_from=counts_from, until=counts_from + seconds, once=once)
        await loop.create_connection(lambda client=client: client, parts.hostname, parts.port)  # type: ignore[misc]
        clients.append(client)
        if once:
            await asyncio.sleep(max(0.0, started + seconds * (number + 1) / count - time.perf_counter()))
    cpu = time.process_time()
    await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), seconds + LONGEST_ANSWER_SECONDS)
    lasted = time.perf_counter() - counts_from
    return {
        "requests": len(seen.latencies),
        "answered": seen.good,
        "failures": dict(seen.failures),
        "seconds": round(lasted, 3),
        "per_second": round(len(seen.latencies) / lasted, 1),
        "p50": percentile_ms(seen.latencies, 0.5),
        "p95": percentile_ms(seen.latencies, 0.95),
        "p99": percentile_ms(seen.latencies, 0.99),
        "first_p50": percentile_ms(seen.first_bytes, 0.5),
        "first_p99": percentile_ms(seen.first_bytes, 0.99),
        "generator_share": round((time.process_time() - cpu) / max(lasted, 1e-9), 3),
    }


if __name__ == "__main__":
    gc.disable()
    print(json.dumps(uvloop.run(load(json.loads(sys.argv[1] if sys.argv[1] != "-" else sys.stdin.read())))))
