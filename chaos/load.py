"""Clients of the product: they ask, hang up, repeat themselves, and remember exactly what they were told."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

CHAT = "/v1/chat/completions"
# `auto` on the quota plan; the others are served by four providers, two of them also by free tiers.
MODELS = ("auto", "llama-3.3-70b", "gpt-4o-mini", "deepseek-v4.1-flash", "gemini-2.5-flash", "gpt-oss-120b")
DONE = b"data: [DONE]"
ATTEMPT_SECONDS = 25.0
# How often a client repeats a request with a key until it has its answer.
REPETITIONS = 6


@dataclass(frozen=True, slots=True)
class Customer:
    """An account as its client sees it. `charged`: its calls cost credits."""

    name: str
    account_id: str
    secret: str
    charged: bool = True


@dataclass(frozen=True, slots=True)
class OnceKey:
    """An idempotency key with an API key of its own, by which the books tell its calls from all others."""

    key: str
    api_key_id: str
    customer: Customer


@dataclass(slots=True)
class Seen:
    """One request and what its client saw of the answer. Times are monotonic seconds."""

    customer: Customer
    streamed: bool
    began: float
    once: OnceKey | None = None
    changed_body: bool = False
    ended: float = 0.0
    status: int = 0
    code: str = ""
    request_id: str = ""
    complete: bool = False
    replayed: bool = False
    texts: int = 0
    answer_id: str = ""
    hung_up: bool = False


@dataclass
class Load:
    """A crowd of clients. `seen` is what they remember; `counts` what they did.

    `look_up` is awaited with the id of some answers the moment their end arrived; it notes those that are not booked.
    """

    urls: tuple[str, ...]
    customers: list[Customer]
    weights: list[int]
    once_keys: Iterator[OnceKey]
    random: random.Random
    look_up: Callable[[str], Awaitable[None]]
    seen: list[Seen] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _stopping: bool = False

    async def run(self, clients: int) -> None:
        """Ask until `stop`; every request under way is finished."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._client(session) for _ in range(clients)))

    def stop(self) -> None:
        """No new requests."""
        self._stopping = True

    async def fresh_call(self, customer: Customer, *, streamed: bool) -> Seen:
        """One plain request outside the load."""
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await self._ask(session, customer, self._body(customer, streamed=streamed))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping:
            [customer] = self.random.choices(self.customers, self.weights)
            dice = self.random.random()
            if dice < 0.12 and (once := next(self.once_keys, None)) is not None:
                await self._repeat(session, once)
                continue
            if dice < 0.24:
                await self._ask(session, customer, self._body(customer, streamed=True), texts_wanted=self.random.randint(1, 6))
                continue
            if dice < 0.28:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.random.uniform(0.01, 0.4)):
                        await self._ask(session, customer, self._body(customer, streamed=False))
                self.counts["whole answers not waited for"] += 1
                continue
            seen = await self._ask(session, customer, self._body(customer, streamed=dice < 0.7))
            if not seen.complete:
                # A client out of luck, quota or credits does not hammer.
                await asyncio.sleep(self.random.uniform(0.05, 0.3))

    async def _repeat(self, session: aiohttp.ClientSession, once: OnceKey) -> None:
        """One request sent again and again under its key, as impatient and unlucky clients do."""
        body = self._body(once.customer, streamed=self.random.random() < 0.5)
        style = self.random.choice(("together", "in turn", "after hanging up"))
        self.counts[f"requests repeated {style}"] += 1
        tries: list[Seen] = []
        if style == "together":
            copies = (self._ask(session, once.customer, body, once=once) for _ in range(self.random.randint(2, 3)))
            tries += await asyncio.gather(*copies)
        else:
            texts_wanted = 2 if style == "after hanging up" else None
            tries.append(await self._ask(session, once.customer, body, once=once, texts_wanted=texts_wanted))
        for _ in range(REPETITIONS):
            if any(seen.complete for seen in tries):
                break
            await asyncio.sleep(self.random.uniform(0.1, 1.0))
            tries.append(await self._ask(session, once.customer, body, once=once))
        else:
            return
        await self._ask(session, once.customer, body, once=once)
        other = body | {"max_tokens": body["max_tokens"] + 1}
        await self._ask(session, once.customer, other, once=once, changed_body=True)

    def _body(self, customer: Customer, *, streamed: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.random.choice(MODELS) if customer.charged else "auto",
            "messages": [{"role": "user", "content": "Bonjour ! " * self.random.randint(1, 20)}],
            "max_tokens": self.random.choice((16, 32, 64)),
        }
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": self.random.random() < 0.5}}
        return body

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        customer: Customer,
        body: dict[str, Any],
        *,
        once: OnceKey | None = None,
        changed_body: bool = False,
        texts_wanted: int | None = None,
    ) -> Seen:
        """Send one request; with `texts_wanted` hang up after so many pieces of text."""
        seen = Seen(customer, bool(body.get("stream")), time.monotonic(), once=once, changed_body=changed_body)
        self.seen.append(seen)
        headers = {"authorization": f"Bearer {customer.secret}"}
        if once is not None:
            headers["idempotency-key"] = once.key
        try:
            async with session.post(self.random.choice(self.urls) + CHAT, json=body, headers=headers) as response:
                seen.status = response.status
                seen.request_id = response.headers.get("x-request-id", "")
                seen.replayed = response.headers.get("idempotent-replayed") == "true"
                if seen.streamed and response.status == 200:
                    await self._read_stream(response, seen, texts_wanted)
                else:
                    self._read_whole(await response.read(), seen)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            seen.code = seen.code or type(error).__name__
        finally:
            seen.ended = time.monotonic()
        self.counts[f"{'streamed' if seen.streamed else 'whole'} requests"] += 1
        if seen.complete and not seen.replayed and self.random.random() < 0.25:
            await self.look_up(seen.request_id)
        return seen

    def _read_whole(self, raw: bytes, seen: Seen) -> None:
        try:
            answer = json.loads(raw)
        except ValueError:
            seen.code = "not_json"
            return
        if seen.status == 200:
            seen.complete = bool(answer["choices"][0]["message"])
            seen.answer_id = answer["id"]
        else:
            seen.code = str(answer.get("error", {}).get("code"))

    async def _read_stream(self, response: aiohttp.ClientResponse, seen: Seen, texts_wanted: int | None) -> None:
        received = b""
        try:
            async for part in response.content.iter_any():
                received += part
                seen.texts = received.count(b'"content":"') - received.count(b'"content":""')
                seen.complete = DONE in received
                if texts_wanted is not None and seen.texts >= texts_wanted and not seen.complete:
                    seen.hung_up = True
                    self.counts["streams hung up on"] += 1
                    response.close()
                    break
        finally:
            _, found, rest = received.partition(b'"id":"')
            seen.answer_id = rest.split(b'"', 1)[0].decode() if found else ""
            if b'"error":{' in received:
                seen.code = "error_in_stream"
