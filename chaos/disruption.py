"""What goes wrong, and when: a seeded plan of kills and a provider that misbehaves now and then."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from .product import Product

PROVIDERS = ("groq", "openai", "openrouter", "google", "deepseek", "*")
# A kind of blow, and what it kills, in this order.
KINDS = {
    "web": ("web",),
    "second web": ("second web",),
    "worker": ("worker",),
    "beat": ("beat",),
    "redis": ("redis",),
    "postgres stopped": ("postgres",),
    "postgres crashed, then both webs": ("postgres", "web", "second web"),
    "redis, then postgres crashed": ("redis", "postgres"),
}
# Calls that nothing disturbs have promises of their own: the load begins with some.
_QUIET_SECONDS = 5.0
_SHORT_SECONDS = 30.0
# The supervisor waits 1, 2, 4 .. 30 s before it starts again what keeps dying and forgives after 30 s of health: more kills
# than this in a row would only test its patience.
_KILLS_IN_A_ROW = 3
_HEALTH_SECONDS = 40.0
_RESTART_SECONDS = 4.0
_PATIENCE_SECONDS = 6.0
# What the closing of holds needs, and how long after its new process exists it works again: the worker and beat load the
# product, a worker asks a returned Redis every two seconds, PostgreSQL recovers.
_READY_SECONDS = {"worker": 5.5, "beat": 4.0, "redis": 2.5, "postgres": 3.0}


@dataclass(frozen=True, slots=True)
class Blow:
    """One planned kill, `at` seconds after the start of the load."""

    at: float
    kind: str


def blows_plan(chance: random.Random, seconds: float) -> list[Blow]:
    """A plan for `seconds` of load: the same each minute at random instants, on nothing that still restarts."""
    rounds = max(1, round(seconds / 60))
    each_round = list(KINDS) if seconds < _SHORT_SECONDS else [*KINDS, "web", "worker"]
    quiet = min(_QUIET_SECONDS, seconds / 5)
    slot = (seconds - quiet - 1.0) / (rounds * len(each_round))
    kills: Counter[str] = Counter()
    last: dict[str, float] = {}

    def ready(kind: str, at: float) -> bool:
        for service in KINDS[kind]:
            since = at - last.get(service, -_HEALTH_SECONDS)
            if since >= _HEALTH_SECONDS:
                kills[service] = 0
            if kills[service] >= _KILLS_IN_A_ROW or since < min(slot, _RESTART_SECONDS) + 2.0 ** (kills[service] - 1):
                return False
        return True

    plan: list[Blow] = []
    for round_number in range(rounds):
        waiting = chance.sample(each_round, len(each_round))
        for position in range(len(each_round)):
            at = quiet + slot * (round_number * len(each_round) + position + chance.uniform(0.1, 0.9))
            kind = next((kind for kind in waiting if ready(kind, at)), None)
            if kind is None:
                continue
            waiting.remove(kind)
            plan.append(Blow(at, kind))
            for service in KINDS[kind]:
                kills[service] += 1
                last[service] = at
    return plan


@dataclass
class Disruption:
    """Carries the plan out.

    `kills` are (what, monotonic seconds) as they happened, `restarts` the spans in which something was away that closes holds.
    """

    product: Product
    chance: random.Random
    say: Callable[[str], None]
    behaviour: dict[str, Any]
    kills: list[tuple[str, float]] = field(default_factory=list)
    restarts: list[tuple[float, float]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _returns: set["asyncio.Task[None]"] = field(default_factory=set)

    async def run(self, seconds: float) -> None:
        """Returns when every blow of the plan has fallen and the simulator behaves again."""
        misbehaviour = asyncio.create_task(self._misbehave())
        began = time.monotonic()
        try:
            for blow in blows_plan(self.chance, seconds):
                await asyncio.sleep(max(0.0, began + blow.at - time.monotonic()))
                await self._strike(blow.kind)
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        finally:
            misbehaviour.cancel()
            await asyncio.gather(misbehaviour, return_exceptions=True)
            await self.calm()

    async def calm(self) -> None:
        """Every simulated provider is slow and reliable."""
        async with aiohttp.ClientSession() as session:
            await session.delete(f"{self.product.simulator_url}/_control")
            await self._behave(session, "*", self.behaviour)

    async def _strike(self, kind: str) -> None:
        for position, service in enumerate(KINDS[kind]):
            if position:
                # Calls under way go on meanwhile: they end and wait for the database, or reserve and wait for it.
                await asyncio.sleep(self.chance.uniform(0.1, 1.0))
            await self._wait_for(service)
            at = time.monotonic()
            if service == "redis":
                pid = self.product.kill_redis_with_its_data()
            elif kind == "postgres stopped":
                pid = self.product.kill("postgres", signal.SIGINT)
            else:
                pid = self.product.kill(service)
            if not pid:
                self.counts["kills that found nothing running"] += 1
                continue
            how = "fast restart" if kind == "postgres stopped" else "SIGKILL, data lost" if service == "redis" else "SIGKILL"
            self.kills.append((service, at))
            if service in _READY_SECONDS:
                task = asyncio.create_task(self._note_return(service, at, pid))
                self._returns.add(task)
                task.add_done_callback(self._returns.discard)
            self.counts[f"{service}: {how}"] += 1
            self.say(f"{service}: {how} (process {pid})")

    async def _wait_for(self, service: str) -> None:
        """A restart may take longer than planned; a kill that hits nothing tries nothing."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.product.pid(service) and time.monotonic() < deadline:  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.2)

    async def _note_return(self, service: str, at: float, killed: int) -> None:
        while self.product.pid(service) in (0, killed):  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.1)
        self.restarts.append((at, time.monotonic() + _READY_SECONDS[service]))

    async def _misbehave(self) -> None:
        """Errors and broken streams from one provider, or all, for a moment, again and again."""
        troubles: list[tuple[str, dict[str, Any]]] = [
            ("moments of provider errors (500)", {"fail_status": 500, "fail_rate": 0.6}),
            ("moments of providers that are busy (503)", {"fail_status": 503, "fail_rate": 0.6}),
            ("moments of streams dropped by providers", {"drop_after_chunks": 3}),
            ("moments of errors inside streams", {"error_after_chunks": 2}),
            ("moments of answers without usage", {"omit_usage": True}),
        ]
        async with aiohttp.ClientSession() as session:
            while True:
                await asyncio.sleep(self.chance.uniform(0.3, 1.2))
                name, trouble = self.chance.choice(troubles)
                provider = self.chance.choice(PROVIDERS)
                self.counts[name] += 1
                seed = self.chance.randrange(1_000_000)
                await self._behave(session, provider, {**trouble, "seed": seed})
                await asyncio.sleep(self.chance.uniform(0.3, 1.2))
                await self._behave(session, provider, dict.fromkeys((*trouble, "seed")))

    async def _behave(self, session: aiohttp.ClientSession, provider: str, behaviour: dict[str, Any]) -> None:
        async with session.put(f"{self.product.simulator_url}/_control/{provider}", json=behaviour) as response:
            response.raise_for_status()
