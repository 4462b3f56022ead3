"""Mixed traffic at a settled rate, for long runs: whole answers, streams, streams that are left, errors, other kinds of models.

    python -m benchmarks.mixed_load '{"url": …, "keys": […], "clients": 64, "seconds": 60, "rate": 500, "every": 5}'

Prints a line of JSON (`benchmarks.soak.Report`) every `every` seconds. Without `rate` each client asks as fast as it is
answered. Times are counted from the moment a call was due: a gateway that falls behind cannot hide it.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.measures import percentile_ms
from benchmarks.wire import AnswerReader, request_bytes

ANSWER_SECONDS = 60.0
MESSAGES = [{"role": "user", "content": "Say something short about the sea, please."}]
CHAT = {"model": "gpt-4o-mini", "messages": MESSAGES, "max_tokens": 100}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of call: how many of a hundred, what is sent, which statuses are right.

    `leaves`: hangs up after so many bytes of the answer. `timed`: its times count.
    """

    name: str
    weight: int
    path: str
    body: str
    right: frozenset[int] = frozenset({200})
    leaves: int | None = None
    timed: bool = False


def _kind(name: str, weight: int, path: str, body: dict[str, Any], **more: Any) -> Kind:
    return Kind(name, weight, path, json.dumps(body), **more)


KINDS = (
    _kind("whole", 48, "/v1/chat/completions", CHAT, timed=True),
    _kind("stream", 22, "/v1/chat/completions", CHAT | {"stream": True}),
    _kind("stream left", 6, "/v1/chat/completions", CHAT | {"stream": True}, leaves=600),
    _kind("whole left", 2, "/v1/chat/completions", CHAT, leaves=0),
    _kind("Anthropic's dialect", 4, "/v1/messages", CHAT),
    # Its first provider fails now and then: see `benchmarks.soak.BEHAVIOURS`.
    _kind("fallback", 5, "/v1/chat/completions", CHAT | {"model": "llama-3.3-70b"}, right=frozenset({200, 502, 503})),
    _kind("embedding", 5, "/v1/embeddings", {"model": "text-embedding-3-small", "input": "the sea"}),
    _kind(
        "image",
        1,
        "/v1/images/generations",
        {"model": "gpt-image-2", "prompt": "the sea", "quality": "low", "size": "1024x1024"},
    ),
    _kind("unknown model", 4, "/v1/chat/completions", CHAT | {"model": "no-such-model"}, right=frozenset({404})),
    _kind("wrong body", 3, "/v1/chat/completions", {"model": "gpt-4o-mini", "messages": 7}, right=frozenset({400})),
)


class Connection(asyncio.Protocol):
    """One keep-alive connection. `ask` may be awaited by one at a time."""

    def __init__(self) -> None:
        self.answer = AnswerReader()
        self.open = False
        self._whole: asyncio.Future[bool] | None = None
        self._leaves: int | None = None
        self._leaving: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open = True

    async def ask(self, request: bytes, *, leaves: int | None) -> bool:
        """Whether the answer came whole. With `leaves` it hangs up after so many bytes of it, at once if 0."""
        self.answer.reset()
        self._whole = asyncio.get_running_loop().create_future()
        self._leaves = leaves
        self.transport.write(request)
        if leaves == 0:
            # Long enough for the request to be read.
            self._leaving = asyncio.get_running_loop().call_later(0.01, self.transport.close)
        return await asyncio.wait_for(self._whole, ANSWER_SECONDS)

    def data_received(self, data: bytes) -> None:
        whole = self.answer.feed(data)
        if whole:
            self._end(True)
        elif self._leaves and self.answer.received >= self._leaves:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._end(False)

    def _end(self, whole: bool) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(whole)


@dataclass
class Interval:
    """What happened since the last report."""

    calls: int = 0
    billed: int = 0
    left: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)


class Crowd:
    """Clients that share one schedule of calls."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.url, self.keys, self.clients = options["url"], options["keys"], options["clients"]
        self.rate: float | None = options.get("rate")
        self.seconds, self.every = options["seconds"], options["every"]
        self.interval = Interval()
        self._parts = urlsplit(self.url)
        self._dice = random.Random(1)
        self._kinds, self._weights = KINDS, [kind.weight for kind in KINDS]
        self._due = 0.0

    async def run(self) -> None:
        self._due = time.perf_counter()
        until = self._due + self.seconds
        reporting = asyncio.create_task(self._report(until))
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._client(self.keys[number % len(self.keys)], until))
        await reporting
        self._say()

    async def _client(self, key: str, until: float) -> None:
        headers = {"authorization": f"Bearer {key}"}
        requests = {kind.name: request_bytes(self.url, kind.path, headers, kind.body) for kind in self._kinds}
        connection = Connection()
        while True:
            due = await self._turn(until)
            if due is None:
                break
            [kind] = self._dice.choices(self._kinds, self._weights)
            if not connection.open:
                _, connection = await asyncio.get_running_loop().create_connection(
                    Connection, self._parts.hostname, self._parts.port
                )
            whole = await connection.ask(requests[kind.name], leaves=kind.leaves)
            self._note(kind, connection.answer, whole, due)
        if connection.open:
            connection.transport.close()

    async def _turn(self, until: float) -> float | None:
        """When the next call is due, once it is; None when the time is over."""
        now = time.perf_counter()
        if self.rate is None:
            return now if now < until else None
        due = self._due
        if due >= until:
            return None
        self._due += self._dice.expovariate(self.rate)
        if due > now:
            await asyncio.sleep(due - now)
        return due

    def _note(self, kind: Kind, answer: AnswerReader, whole: bool, due: float) -> None:
        interval = self.interval
        interval.calls += 1
        if kind.leaves is not None:
            interval.left += 1
            return
        if not whole or answer.status not in kind.right:
            interval.wrong[f"{kind.name}: {answer.status if whole else 'connection lost'}"] += 1
            return
        if answer.status == 200:
            interval.billed += 1
        if kind.timed:
            interval.times.append(time.perf_counter() - due)

    async def _report(self, until: float) -> None:
        while time.perf_counter() < until:
            await asyncio.sleep(min(self.every, max(until - time.perf_counter(), 0.001)))
            self._say()

    def _say(self) -> None:
        done, self.interval = self.interval, Interval()
        report = {
            "calls": done.calls,
            "billed": done.billed,
            "left": done.left,
            "wrong": dict(done.wrong),
            "p50": percentile_ms(done.times, 0.5),
            "p99": percentile_ms(done.times, 0.99),
            "cpu_seconds": round(time.process_time(), 3),
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    uvloop.run(Crowd(json.loads(sys.argv[1])).run())
