"""`make bench`: the running product with all of its billing, beside what the same machine does without a gateway.

    .venv/bin/python -m benchmarks.gateway [--quick] [--only NAME,NAME] [--rounds 3] [--seconds 4] [--json FILE]

In one run, in turns: the simulator directly, a bare pass-through proxy (`bare_proxy.py`), the product's web process with key
check, limits, hold and durable settle; and LiteLLM and Portkey where `make bench-peers` has installed them. Fails when a
target is missed, a call was answered and not billed (or the other way round), or the books do not verify. Ratios count:
the same machine is another one tomorrow.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.beside_console import ConsoleFailed, company_product, measure_beside_console
from benchmarks.books_check import BilledCalls, BooksWrong
from benchmarks.contenders import ContenderFailed, bare_proxy, quiet_product, the_product, the_simulator
from benchmarks.figures import (
    PEERS_SCENE,
    SCENES,
    Run,
    measure_memory,
    measure_open_streams,
    measure_rounds,
    measure_start,
)
from benchmarks.peers import PEERS
from benchmarks.running import CommandFailed, machine, module, raise_file_limit
from benchmarks.table import as_text, fact_lines, machine_line, medians, scene_rows, verdict_rows
from benchmarks.targets import Verdict, judge, missed
from chaos.product import Product, ProductFailed

ACCOUNTS = 16
ALL_SCENES = (*SCENES, PEERS_SCENE)
OTHERS = {"memory": measure_memory, "start": measure_start, "streams-open": measure_open_streams}
CONSOLE = "console"
NAMES = (*(scene.name for scene in ALL_SCENES), *OTHERS, CONSOLE)
QUICK = (*(scene.name for scene in SCENES if scene.short), PEERS_SCENE.name, "start")
QUICK_SECONDS, SECONDS = 2.0, 4.0


def options_of(words: list[str]) -> argparse.Namespace:
    """The command line; `only` becomes the names of the figures wanted, in the order in which they are taken."""
    arguments = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--quick", action="store_true", help="the figures that most targets need, in short windows")
    arguments.add_argument("--only", metavar="NAME,NAME", help=f"some figures only: {', '.join(NAMES)}")
    arguments.add_argument("--rounds", type=int, default=3, help="their median counts (default: 3)")
    arguments.add_argument("--seconds", type=float, help="of a window (default: 4; quick: 2)")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every window there")
    arguments.add_argument("--report-only", action="store_true", help="a missed target does not fail the run")
    options = arguments.parse_args(words)
    wanted = options.only.split(",") if options.only else QUICK if options.quick else NAMES
    if unknown := [name for name in wanted if name not in NAMES]:
        arguments.error(f"no such figure: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.rounds < 1:
        arguments.error("--rounds is at least 1")
    options.only = [name for name in NAMES if name in wanted]
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    return options


def main() -> int:
    options = options_of(sys.argv[1:])
    raise_file_limit()
    try:
        return _bench(options)
    except (ProductFailed, ContenderFailed, CommandFailed, ConsoleFailed, BooksWrong) as error:
        print(f"bench: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def _bench(options: argparse.Namespace) -> int:
    taken_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    for peer in PEERS:
        if PEERS_SCENE.name in options.only and not peer.installed:
            print(f"{peer.name} is not installed: its figures are left out (make bench-peers)")
    with _stopped(quiet_product(), remove=True) as product:
        product.start()
        about = machine(product)
        print(machine_line(about), flush=True)
        run, said = _measure(product, options)
    books = [said]
    if CONSOLE in options.only:
        with _stopped(company_product(), remove=False) as product:
            books.append(measure_beside_console(run, product))
    verdicts = judge(run.readings)
    figures = {
        scene: {name: [one.figures() for one in of] for name, of in found.items()} for scene, found in run.windows.items()
    }
    _print(run, figures, verdicts, books)
    if options.json:
        head, *rows = verdict_rows(verdicts)
        written = {
            "taken_at": taken_at,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "machine": about,
            "targets": [
                {**dict(zip(head, row, strict=True)), "key": verdict.target.key, "value": verdict.value}
                for row, verdict in zip(rows, verdicts, strict=True)
            ],
            "facts": run.facts,
            "books": books,
            "windows": figures,
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    return 0 if options.report_only or not missed(verdicts) else 1


def _measure(product: Product, options: argparse.Namespace) -> tuple[Run, str]:
    """Every figure wanted that one product gives, and what its books say."""
    keys = tuple(module(product, "benchmarks.customers", "customers", str(ACCOUNTS)))
    ours = the_product(product, keys)
    idle = ours.memory_mb()
    billed = BilledCalls(product)
    with bare_proxy(product) as proxy:
        run = Run(product, keys, [the_simulator(product), proxy, ours], options.rounds, options.seconds, _tell)
        run.readings["memory_idle"] = idle
        for contender in run.contenders:
            contender.check()
            run.count(contender, 1)
        measure_rounds(run, [scene for scene in ALL_SCENES if scene.name in options.only])
        for name, measure in OTHERS.items():
            if name in options.only:
                measure(run)
    return run, billed.check(product, run.answered, run.failed)


def _print(run: Run, figures: Any, verdicts: list[Verdict], books: list[str]) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if figures:
        print("\n" + as_text(scene_rows(medians(figures))))
    print("\n" + as_text(verdict_rows(verdicts)) + "\n")
    print("\n".join([*fact_lines(run.facts), *books]))
    if lost := missed(verdicts):
        print(f"MISSED: {'; '.join(verdict.target.text for verdict in lost)}")


@contextlib.contextmanager
def _stopped(product: Product, *, remove: bool) -> Iterator[Product]:
    """Stops it when the block ends, and removes its folder."""
    try:
        yield product
    finally:
        for process in product.stop():
            print(f"left running: {process}", file=sys.stderr)
        if remove:
            product.remove()


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K… {text}", end="", file=sys.stderr, flush=True)
    else:
        print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
