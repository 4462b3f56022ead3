"""Prometheus metrics of this process, and the sum over all processes that share a folder.

Each process writes its figures to memory-mapped files in `METRICS_FOLDER`, so that any of them can answer for all. The library
reads the folder's name from its own environment variable when it is first imported, hence the order below.
"""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from django.conf import settings

FOLDER = Path(settings.METRICS_FOLDER)
FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(FOLDER)

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest  # noqa: E402  needs the folder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

# From a fast refusal to the longest call; seconds.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# More different values than this of one label are told as one, so that nobody can fill the memory with names.
MOST_VALUES = 300
OTHER = "other"

refusals = Counter("iafactory_refusals", "Requests answered with an error, by its code and status.", ("code", "status"))


class Bounded:
    """The first `MOST_VALUES` different values of a label pass, any further one is `other`."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._seen:
            if len(self._seen) >= MOST_VALUES:
                return OTHER
            self._seen.add(value)
        return value


class SummedHistogram(Histogram):
    """A histogram that takes the observations of a while at once."""

    def position(self, amount: float) -> int:
        """Which bucket `amount` belongs to, counted from the lowest."""
        return bisect_left(self._upper_bounds, amount)

    def observe_many(self, total: float, counts: Sequence[float]) -> None:
        """As `observe` for amounts that are `total` together, `counts` of them in each bucket."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)

    def no_counts(self) -> list[float]:
        """As many zeros as there are buckets."""
        return [0] * len(self._upper_bounds)


class Tally:
    """Figures of a hot path, added up in this process and passed on once a second: passing one on costs as much as a hundred
    additions. For the event loop's own thread."""

    def __init__(self) -> None:
        self._sums: dict[Counter, float] = {}
        self._totals: dict[SummedHistogram, float] = {}
        self._counts: dict[SummedHistogram, list[float]] = {}
        self._levels: dict[Gauge, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, counter: Counter, amount: float = 1) -> None:
        """As `counter.inc(amount)`, a moment later."""
        self._sums[counter] = self._sums.get(counter, 0) + amount
        if self._timer is None:
            self._start()

    def observe(self, histogram: SummedHistogram, amount: float) -> None:
        """As `histogram.observe(amount)`, a moment later."""
        counts = self._counts.get(histogram)
        if counts is None:
            counts = self._counts[histogram] = histogram.no_counts()
        counts[histogram.position(amount)] += 1
        self._totals[histogram] = self._totals.get(histogram, 0) + amount
        if self._timer is None:
            self._start()

    def set(self, gauge: Gauge, level: float) -> None:
        """As `gauge.set(level)`, a moment later; the last level counts."""
        self._levels[gauge] = level
        if self._timer is None:
            self._start()

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(1, self.flush)

    def flush(self) -> None:
        """Pass on what has been added."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        sums, self._sums = self._sums, {}
        totals, self._totals = self._totals, {}
        counts, self._counts = self._counts, {}
        levels, self._levels = self._levels, {}
        for counter, amount in sums.items():
            counter.inc(amount)
        for histogram, total in totals.items():
            histogram.observe_many(total, counts[histogram])
        for gauge, level in levels.items():
            gauge.set(level)


_code = Bounded()


def refused(code: str, status: int) -> None:
    """Count one answer that was an error."""
    refusals.labels(_code(code), str(status)).inc()


def forget_dead_processes() -> None:
    """Take back what dead processes said of the present (gauges); what they counted stays."""
    for file in FOLDER.glob("gauge_live*.db"):
        process_id = file.stem.rpartition("_")[2]
        if process_id.isdigit() and not psutil.pid_exists(int(process_id)):
            mark_process_dead(int(process_id), path=str(FOLDER))


def exposition(collectors: Iterable[Collector] = ()) -> bytes:
    """All processes' metrics and those of `collectors`, in Prometheus' text format."""
    forget_dead_processes()
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(FOLDER))
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry)
