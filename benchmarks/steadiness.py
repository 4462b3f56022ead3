"""Whether a long run stayed as it was: the last third of its samples against the first, warm-up left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measures import median

WARM_SHARE = 0.1
FEWEST_SAMPLES = 6
# A table may take this much more than its rows do: pages that wait for the next vacuum.
TABLE_SHARE, TABLE_SPARE_BYTES = 1.25, 8 * 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """The running product at one moment, and the traffic since the sample before. Memory in MB, times in ms."""

    seconds: float
    calls: int
    p50: float
    p99: float
    web_memory: float
    web_files: float
    worker_memory: float
    postgres_connections: float
    redis_connections: float
    redis_keys: float
    redis_memory: float
    open_holds: float
    # Bytes with indexes, and rows, of every table.
    tables: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Limit:
    """How far one figure may grow from the first third to the last: to `share` of it and `spare` on top."""

    text: str
    of: Callable[[Sample], float]
    share: float
    spare: float


LIMITS = (
    Limit("memory of the web process, MB", lambda sample: sample.web_memory, 1.03, 4),
    Limit("files and sockets of the web process", lambda sample: sample.web_files, 1.1, 10),
    Limit("memory of the worker, MB", lambda sample: sample.worker_memory, 1.05, 20),
    Limit("connections to PostgreSQL", lambda sample: sample.postgres_connections, 1.0, 3),
    Limit("connections to Redis", lambda sample: sample.redis_connections, 1.0, 3),
    Limit("keys in Redis", lambda sample: sample.redis_keys, 1.1, 100),
    Limit("memory of Redis, MB", lambda sample: sample.redis_memory, 1.25, 4),
    Limit("open holds", lambda sample: sample.open_holds, 2.0, 64),
    Limit("p50, ms", lambda sample: sample.p50, 1.5, 5),
    Limit("p99, ms", lambda sample: sample.p99, 1.5, 10),
)


class TooShort(Exception):
    """Too few samples to compare thirds of."""


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure's first and last third. `steady`: it stayed within what is allowed."""

    text: str
    first: float
    last: float
    allowed: float

    @property
    def steady(self) -> bool:
        return self.last <= self.allowed


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """Every figure's trend, and that of each table that outgrew its rows. Raises TooShort."""
    first, last = thirds(samples)
    found = []
    for limit in LIMITS:
        before, after = median([limit.of(sample) for sample in first]), median([limit.of(sample) for sample in last])
        found.append(Trend(limit.text, before, after, before * limit.share + limit.spare))
    outgrown = table_trends(first[-1].tables, last[-1].tables)
    return [*found, *outgrown]


def thirds(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The first and the last third of what follows the warm-up. Raises TooShort."""
    warm = samples[int(len(samples) * WARM_SHARE) :]
    if len(warm) < FEWEST_SAMPLES:
        raise TooShort(f"{len(warm)} samples after the warm-up, {FEWEST_SAMPLES} are needed")
    third = len(warm) // 3
    return warm[:third], warm[-third:]


def table_trends(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> list[Trend]:
    """The tables that grew by more than their rows did, as MB of the whole table."""
    found = []
    for name, (size, rows) in sorted(after.items()):
        size_before, rows_before = before.get(name, (0, 0))
        by_rows = size_before * max(rows / rows_before, 1.0) if rows_before else size_before
        trend = Trend(
            f"table {name}, MB", size_before / 2**20, size / 2**20, (by_rows * TABLE_SHARE + TABLE_SPARE_BYTES) / 2**20
        )
        if not trend.steady:
            found.append(trend)
    return found
