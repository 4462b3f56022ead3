"""`make soak MINUTES=10`: the running product under mixed traffic for long, at 70 % of what its web process can do.

    .venv/bin/python -m benchmarks.soak [--minutes 10] [--share 0.7] [--json FILE]

Whole answers, streams, clients that leave, errors, providers that fail, embeddings and images, by many keys. Prints a line
every few seconds, then what the last third of the run was against its first: memory, connections, keys in Redis, tables beyond
their rows, times. Fails when something grows, a call is answered wrongly, or the books do not verify.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import LiteralString

import httpx2
import psutil  # type: ignore[import-untyped]
import psycopg
import redis

from benchmarks.books_check import BilledCalls, BooksWrong
from benchmarks.contenders import ContenderFailed, quiet_product
from benchmarks.running import CommandFailed, machine, module, raise_file_limit
from benchmarks.steadiness import Sample, TooShort, Trend, trends
from benchmarks.table import as_text, machine_line
from chaos.product import PROJECT, Product, ProductFailed

CLIENTS = 64
ACCOUNTS = 16
CALIBRATION_SECONDS = 8.0
SAMPLES = 60
SHORTEST_SAMPLE_SECONDS = 3.0
# Every call is over by then, those whose clients left too.
DRAIN_SECONDS = 30.0
BEHAVIOURS = {
    "*": {"latency_ms": 20, "chunk_interval_ms": 2, "output_tokens": 80},
    "groq": {"fail_status": 500, "fail_rate": 0.05},
}
TABLES = """
SELECT relname, pg_total_relation_size(relid), n_live_tup FROM pg_stat_user_tables
"""
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


@dataclass(frozen=True, slots=True)
class Report:
    """What the traffic did in one interval. `billed`: answered whole and charged; `left`: hung up on; `wrong`: unexpected."""

    calls: int
    billed: int
    left: int
    wrong: dict[str, int]
    p50: float
    p99: float
    cpu_seconds: float


class Watch:
    """Looks at the product's processes and servers."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._web = psutil.Process(product.pid("web"))
        self._worker = psutil.Process(product.pid("worker"))
        self._database = psycopg.connect(product.environment["DATABASE_URL"], autocommit=True)
        self._redis = redis.Redis.from_url(product.environment["REDIS_URL"])

    def sample(self, seconds: float, report: Report) -> Sample:
        """The product now. Raises ContenderFailed when a process is another one than before."""
        if self._product.pid("web") != self._web.pid:
            raise ContenderFailed("the web process died")
        server = self._redis.info()
        return Sample(
            seconds=seconds,
            calls=report.calls,
            p50=report.p50,
            p99=report.p99,
            web_memory=self._web.memory_info().rss / 2**20,
            web_files=self._web.num_fds(),
            worker_memory=_tree_memory_mb(self._worker),
            postgres_connections=self._number(CONNECTIONS),
            redis_connections=server["connected_clients"],
            redis_keys=sum(keys["keys"] for name, keys in server.items() if name.startswith("db") and isinstance(keys, dict)),
            redis_memory=server["used_memory"] / 2**20,
            open_holds=self.open_holds(),
            tables={name: (size, rows) for name, size, rows in self._database.execute(TABLES)},
        )

    def open_holds(self) -> int:
        return self._number("SELECT count(*) FROM billing_hold")

    def _number(self, query: LiteralString) -> int:
        row = self._database.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def _tree_memory_mb(root: psutil.Process) -> float:
    """Resident memory of a process and all below it."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        # A child may end meanwhile.
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss / 2**20
    return total


def main() -> int:
    arguments = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--share", type=float, default=0.7, help="of the calls a second that the process can do")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = arguments.parse_args()
    raise_file_limit()
    product = quiet_product()
    try:
        return _soak(product, options)
    except (ProductFailed, ContenderFailed, CommandFailed, BooksWrong, TooShort) as error:
        print(f"soak: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130
    finally:
        for process in product.stop():
            print(f"left running: {process}", file=sys.stderr)
        product.remove()


def _soak(product: Product, options: argparse.Namespace) -> int:
    product.start()
    about = machine(product)
    print(machine_line(about))
    keys = list(module(product, "benchmarks.customers", "customers", str(ACCOUNTS)))
    billed = BilledCalls(product)
    for provider, behaviour in BEHAVIOURS.items():
        httpx2.put(f"{product.simulator_url}/_control/{provider}", json=behaviour).raise_for_status()
    traffic = {"url": product.url, "keys": keys, "clients": CLIENTS}
    reports = list(_reports({**traffic, "seconds": CALIBRATION_SECONDS, "every": CALIBRATION_SECONDS}))
    able = sum(report.calls for report in reports) / CALIBRATION_SECONDS
    rate = able * options.share
    print(f"{able:,.0f} calls a second are possible; {rate:,.0f} from here on, for {options.minutes:g} minutes\n", flush=True)

    seconds = options.minutes * 60
    every = max(seconds / SAMPLES, SHORTEST_SAMPLE_SECONDS)
    samples: list[Sample] = []
    watch, began = Watch(product), time.monotonic()
    print(_HEAD)
    for report in _reports({**traffic, "seconds": seconds, "every": every, "rate": rate}):
        reports.append(report)
        # The last report is of what was under way when the time was over.
        if len(samples) < seconds / every - 0.5:
            samples.append(watch.sample(time.monotonic() - began, report))
            print(_line(samples[-1]), flush=True)
    found = trends(samples)
    said = _drained(watch, reports)
    said.append(_books(billed, product, reports))
    _print(found, reports)
    print("\n".join(said))
    if options.json:
        written = {"machine": about, "rate": rate, "samples": [asdict(sample) for sample in samples]}
        options.json.write_text(json.dumps(written | {"trends": [asdict(trend) for trend in found]}, indent=1) + "\n")
    return 0 if all(trend.steady for trend in found) and not any(report.wrong for report in reports) else 1


def _reports(options: dict[str, object]) -> Iterator[Report]:
    """Traffic from a process of its own, and what it says of itself. Raises ContenderFailed."""
    command = [sys.executable, "-m", "benchmarks.mixed_load", json.dumps(options)]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert load.stdout is not None
        for line in load.stdout:
            yield Report(**json.loads(line))
    finally:
        if load.poll() is None:
            load.terminate()
        _, errors = load.communicate()
    if load.returncode:
        raise ContenderFailed(f"the load generator failed: {errors[-2000:]}")


def _drained(watch: Watch, reports: list[Report]) -> list[str]:
    """Waits until no hold is open. Raises BooksWrong when some stay."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while watch.open_holds():
        if time.monotonic() > deadline:
            raise BooksWrong(f"{watch.open_holds()} holds are still open {DRAIN_SECONDS:.0f} s after the last call")
        time.sleep(0.2)
    return [f"no hold is open; the load generator used {reports[-1].cpu_seconds:.0f} s of CPU"]


def _books(billed: BilledCalls, product: Product, reports: list[Report]) -> str:
    unclear = sum(report.left + sum(report.wrong.values()) for report in reports)
    return billed.check(product, sum(report.billed for report in reports), unclear)


_HEAD = (
    f"{'s':>6}{'calls':>8}{'p50':>8}{'p99':>8}{'web MB':>9}{'files':>7}{'worker':>8}{'PG con':>8}{'R con':>7}{'R keys':>8}"
    f"{'R MB':>7}{'holds':>7}{'tables MB':>11}"
)


def _line(sample: Sample) -> str:
    tables = sum(size for size, _ in sample.tables.values()) / 2**20
    return (
        f"{sample.seconds:6.0f}{sample.calls:8,}{sample.p50:8.1f}{sample.p99:8.1f}{sample.web_memory:9.1f}{sample.web_files:7.0f}"
        f"{sample.worker_memory:8.0f}{sample.postgres_connections:8.0f}{sample.redis_connections:7.0f}{sample.redis_keys:8.0f}"
        f"{sample.redis_memory:7.1f}{sample.open_holds:7.0f}{tables:11.1f}"
    )


def _print(found: list[Trend], reports: list[Report]) -> None:
    rows = [["figure", "first third", "last third", "allowed", ""]]
    rows += [
        [
            trend.text,
            f"{trend.first:,.1f}",
            f"{trend.last:,.1f}",
            f"{trend.allowed:,.1f}",
            "steady" if trend.steady else "GROWS",
        ]
        for trend in found
    ]
    print("\n" + as_text(rows) + "\n")
    wrong = sum((Counter(report.wrong) for report in reports), Counter[str]())
    print(f"{sum(report.calls for report in reports):,} calls; answered wrongly: {dict(wrong) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
