"""The figures of `make bench`, one function each, and the readings that targets are held against."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.contenders import Contender, ContenderFailed, another_web, peer
from benchmarks.measures import median, median_difference, median_ratio
from benchmarks.peers import LITELLM, PEERS
from benchmarks.windows import Scene, Window, generator_result, generator_start, simulator_behave, window
from chaos.product import Product

OURS, PROXY, DIRECT = "IA Factory", "bare proxy", "simulator"
SCENES = (
    Scene("whole-1", 1),
    Scene("whole-16", 16),
    Scene("whole-64", 64, short=True),
    Scene("whole-256", 256, short=True),
    Scene("stream-1", 1, streamed=True),
    Scene("stream-16", 16, streamed=True),
    Scene("stream-64", 64, streamed=True, short=True),
    Scene("stream-256", 256, streamed=True),
    Scene("slow-64", 64, latency_ms=60, short=True),
    Scene("slow-stream-16", 16, streamed=True, latency_ms=60, short=True),
)
PEERS_SCENE = Scene("peers", 64)
# Portkey's figures settle only in windows this long.
PEERS_SECONDS = 6.0
CALLS_REMEMBERED = 100_000
OPEN_STREAMS = Scene("streams-open", 2_000, streamed=True, chunk_interval_ms=500, chunks=50)
OPENING_SECONDS = 10.0
OPEN_SHARE = 0.95

# Scene, contender, and its windows in the order of the rounds.
Windows = dict[str, dict[str, list[Window]]]


@dataclass
class Run:
    """What all figures share: the product, who is compared, and what was found. `tell` hears of the progress."""

    product: Product
    keys: tuple[str, ...]
    contenders: Sequence[Contender]
    rounds: int
    seconds: float
    tell: Callable[[str], None]
    windows: Windows = field(default_factory=dict)
    readings: dict[str, float] = field(default_factory=dict)
    # What is worth telling beside the targets.
    facts: dict[str, Any] = field(default_factory=dict)
    # Good answers of the product, and calls that failed: what must be billed, and what may be.
    answered: int = 0
    failed: int = 0

    @property
    def ours(self) -> Contender:
        return next(contender for contender in self.contenders if contender.name == OURS)

    def measure(self, contender: Contender, scene: Scene, seconds: float, *, once: bool = False) -> Window:
        """One window, counted if it is ours."""
        self.tell(f"{scene.text}: {contender.name}")
        found = window(self.product, contender, scene, seconds, once=once)
        self.count(contender, found.load.answered, sum(found.load.failures.values()))
        return found

    def left_out(self, name: str, why: Exception) -> None:
        """Another gateway that fails is left out, and said so: its trouble is no result of ours."""
        self.tell(f"{name} is LEFT OUT: {why}")
        self.facts.setdefault("left_out", {})[name] = str(why)

    def count(self, contender: Contender, answered: int, failed: int = 0) -> None:
        if contender.name == OURS:
            self.answered += answered
            self.failed += failed


def measure_rounds(run: Run, scenes: Sequence[Scene]) -> None:
    """Every scene by every contender, in each round: what slows the machine for a while slows all of them."""
    with contextlib.ExitStack() as running:
        peers = _peers_start(run, running) if PEERS_SCENE in scenes else []
        for number in range(run.rounds):
            for scene in scenes:
                compared = [*peers, run.ours] if scene is PEERS_SCENE else run.contenders
                seconds = max(run.seconds, PEERS_SECONDS) if scene is PEERS_SCENE else run.seconds
                first = number % len(compared)
                for contender in [*compared[first:], *compared[:first]]:
                    try:
                        found = run.measure(contender, scene, seconds)
                    except ContenderFailed as error:
                        if contender not in peers:
                            raise
                        peers.remove(contender)
                        run.windows.get(scene.name, {}).pop(contender.name, None)
                        run.left_out(contender.name, error)
                        continue
                    run.windows.setdefault(scene.name, {}).setdefault(contender.name, []).append(found)
    run.readings |= rounds_readings(run.windows)


def _peers_start(run: Run, running: contextlib.ExitStack) -> list[Contender]:
    """Those installed that answer."""
    started = []
    for which in PEERS:
        if which.installed:
            try:
                started.append(running.enter_context(peer(which, run.product)))
            except ContenderFailed as error:
                run.left_out(which.name, error)
    return started


def rounds_readings(windows: Mapping[str, Mapping[str, Sequence[Window]]]) -> dict[str, float]:
    """What the scenes measured say about the targets."""
    readings: dict[str, float] = {}
    if "peers" in windows:
        for name, of in windows["peers"].items():
            if name != OURS:
                readings[f"rate_against_{name.lower()}"] = median_ratio(_rates(windows["peers"][OURS]), _rates(of))
    if "whole-64" in windows:
        ours, proxy = windows["whole-64"][OURS], windows["whole-64"][PROXY]
        readings["rate_against_proxy"] = median_ratio(_rates(ours), _rates(proxy))
        readings["cpu_against_proxy"] = median_ratio(_cpu(ours), _cpu(proxy))
        readings["postgres_cpu_share"] = median_ratio([one.postgres_ms for one in ours], _cpu(ours))
    if {"whole-64", "whole-256"} <= windows.keys():
        readings["rate_256_against_64"] = median_ratio(_rates(windows["whole-256"][OURS]), _rates(windows["whole-64"][OURS]))
    if "stream-64" in windows:
        readings["stream_cpu_against_proxy"] = median_ratio(_cpu(windows["stream-64"][OURS]), _cpu(windows["stream-64"][PROXY]))
    if "slow-64" in windows:
        ours, proxy = windows["slow-64"][OURS], windows["slow-64"][PROXY]
        readings["slow_p50_over_proxy"] = median_difference([one.load.p50 for one in ours], [one.load.p50 for one in proxy])
        readings["slow_p99_over_proxy"] = median_difference([one.load.p99 for one in ours], [one.load.p99 for one in proxy])
    if "slow-stream-16" in windows:
        ours, direct = windows["slow-stream-16"][OURS], windows["slow-stream-16"][DIRECT]
        readings["first_byte_over_direct"] = median_difference(
            [one.load.first_p50 for one in ours], [one.load.first_p50 for one in direct]
        )
    return readings


def measure_memory(run: Run) -> None:
    """Of the web process once it has answered 100,000 calls, those of the scenes among them."""
    scene = next(scene for scene in SCENES if scene.name == "whole-64")
    while run.answered < CALLS_REMEMBERED:
        run.measure(run.ours, scene, 10.0)
    run.readings["memory_after_calls"] = run.ours.memory_mb()


def measure_start(run: Run) -> None:
    """From the start of a process to its first right answer, ours and LiteLLM's in turns."""
    ours: list[float] = []
    theirs: list[float] = []
    simulator_behave(run.product, SCENES[0])
    for _ in range(run.rounds):
        run.tell("start: IA Factory")
        began = time.monotonic()
        with another_web(run.product, run.keys) as web:
            ours.append(time.monotonic() - began)
            run.count(web, 1)
        if LITELLM.installed:
            run.tell("start: LiteLLM")
            began = time.monotonic()
            try:
                with peer(LITELLM, run.product):
                    theirs.append(time.monotonic() - began)
            except ContenderFailed as error:
                run.left_out(LITELLM.name, error)
    run.facts["start_seconds"] = {OURS: round(median(ours), 2)}
    if len(theirs) == len(ours):
        run.facts["start_seconds"][LITELLM.name] = round(median(theirs), 2)
        run.readings["start_against_litellm"] = median_ratio(ours, theirs)


def measure_open_streams(run: Run) -> None:
    """2,000 slow streams at once through a new process: those that fail, and what each adds to its memory.

    Where they were not open at once, memory says nothing about open streams: it is not measured then.
    """
    with another_web(run.product, run.keys) as web:
        run.count(web, 1)
        # What the first calls load is no stream's memory.
        run.measure(web, next(scene for scene in SCENES if scene.name == "stream-16"), 1.0)
        simulator_behave(run.product, OPEN_STREAMS)
        before = most = web.memory_mb()
        run.tell(f"{OPEN_STREAMS.clients:,} open streams")
        generator = generator_start(web, OPEN_STREAMS, OPENING_SECONDS, once=True)
        under_way = 0
        while generator.poll() is None:
            most = max(most, web.memory_mb())
            under_way = max(under_way, _under_way(run.product))
            time.sleep(0.25)
        load = generator_result(generator)
    failed = sum(load.failures.values())
    run.count(web, load.answered, failed)
    refused = {f"answered_{status}": count for status, count in load.failures.items()}
    run.facts["open_streams"] = {"most_at_the_provider": under_way, "first_byte_p99_ms": load.first_p99, **refused}
    run.readings["open_stream_failures"] = failed
    if under_way >= OPEN_SHARE * OPEN_STREAMS.clients:
        run.readings["open_stream_memory"] = (most - before) * 1024 / OPEN_STREAMS.clients


def _under_way(product: Product) -> int:
    """Calls that the simulator is answering at the moment."""
    providers = httpx2.get(f"{product.simulator_url}/_control").json()["providers"]
    counters = [provider["counters"] for provider in providers.values()]
    return sum(2 * counted["received"] - sum(counted.values()) for counted in counters)


def _rates(windows: Sequence[Window]) -> list[float]:
    return [window.load.per_second for window in windows]


def _cpu(windows: Sequence[Window]) -> list[float]:
    return [window.cpu_ms for window in windows]
