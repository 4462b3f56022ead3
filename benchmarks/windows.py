"""Windows of traffic: one kind of it, sent to one contender by a process of its own, with what that cost."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import httpx2

from benchmarks.contenders import MODEL, Contender, ContenderFailed, tree_cpu_seconds
from chaos.product import PROJECT, Product

PROMPT = "Say something short about the sea, please."
CHUNKS = 50


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of traffic: whole answers or streams, so many clients, an upstream so slow. `short`: also in a quick run."""

    name: str
    clients: int
    streamed: bool = False
    latency_ms: int = 0
    chunk_interval_ms: int = 2
    chunks: int = CHUNKS
    short: bool = False

    @property
    def text(self) -> str:
        kind = f"streams of {self.chunks}" if self.streamed else "whole"
        slow = f", {self.latency_ms} ms upstream" if self.latency_ms else ""
        return f"{kind}, {self.clients} client{'s' if self.clients > 1 else ''}{slow}"

    @property
    def body(self) -> str:
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200}
        return json.dumps(body | ({"stream": True} if self.streamed else {}))

    def behaviour(self) -> dict[str, Any]:
        """What the simulator is told. A stream's chunks come one after the other, as models send them."""
        if not self.streamed:
            return {"latency_ms": self.latency_ms, "chunk_interval_ms": 0, "chunks": None, "output_tokens": 60}
        tokens = 4 * self.chunks
        streamed = {"chunk_interval_ms": self.chunk_interval_ms, "chunks": self.chunks, "output_tokens": tokens}
        return {"latency_ms": self.latency_ms, **streamed}


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients saw. `requests` are those of the window, `answered` all good answers, warm-up included; times in ms."""

    requests: int
    answered: int
    failures: Mapping[str, int]
    seconds: float
    per_second: float
    p50: float
    p95: float
    p99: float
    first_p50: float
    first_p99: float
    generator_share: float


@dataclass(frozen=True, slots=True)
class Window:
    """One window: the load, CPU in ms per answer of the contender, PostgreSQL and Redis, and the contender's memory."""

    load: Load
    cpu_ms: float
    postgres_ms: float
    redis_ms: float
    memory_mb: float

    def figures(self) -> dict[str, Any]:
        """Flat, for JSON."""
        return asdict(self.load) | {name.name: getattr(self, name.name) for name in fields(self) if name.name != "load"}


def simulator_behave(product: Product, scene: Scene) -> None:
    httpx2.put(f"{product.simulator_url}/_control/*", json=scene.behaviour()).raise_for_status()


def window(product: Product, contender: Contender, scene: Scene, seconds: float, *, once: bool = False) -> Window:
    """Set the simulator and measure. Raises ContenderFailed when a call fails, unless `once`: then failures are a figure."""
    simulator_behave(product, scene)
    generator = generator_start(contender, scene, seconds, once=once)
    before = _cpu(product, contender)
    load = generator_result(generator)
    used = [after - first for after, first in zip(_cpu(product, contender), before, strict=True)]
    if load.failures and not once:
        raise ContenderFailed(f"{contender.name}, {scene.text}: {load.answered} answers, and {dict(load.failures)}")
    cpu_ms, postgres_ms, redis_ms = (round(value / max(load.answered, 1) * 1000, 4) for value in used)
    return Window(load, cpu_ms, postgres_ms, redis_ms, round(contender.memory_mb(), 1))


def generator_start(contender: Contender, scene: Scene, seconds: float, *, once: bool = False) -> "subprocess.Popen[str]":
    options = {
        "url": contender.url,
        "path": contender.path,
        "headers": dict(contender.headers),
        "keys": contender.keys,
        "body": scene.body,
        "clients": scene.clients,
        "seconds": seconds,
        "once": once,
    }
    command = [sys.executable, "-m", "benchmarks.load", json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT)


def generator_result(generator: "subprocess.Popen[str]") -> Load:
    output, errors = generator.communicate()
    if generator.returncode:
        raise ContenderFailed(f"the load generator failed: {errors[-2000:]}")
    return Load(**json.loads(output))


def _cpu(product: Product, contender: Contender) -> tuple[float, float, float]:
    redis = tree_cpu_seconds(product.pid("redis"))
    return contender.cpu_seconds(), tree_cpu_seconds(product.pid("postgres")), redis
