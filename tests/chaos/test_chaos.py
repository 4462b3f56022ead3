"""A short `make chaos`: the real product, killed piece by piece under load, keeps every promise; and the planning behind it."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from chaos.disruption import KINDS, blows_plan
from chaos.invariants import beyond_the_longest

PROJECT = Path(__file__).resolve().parents[2]
VERDICTS = 11


def start_chaos(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "chaos", *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(folder: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(str(folder) in word for word in p.info["cmdline"] or ())]


def test_every_invariant_holds_while_everything_is_killed() -> None:
    arguments = ("--seconds", "14", "--seed", "11", "--clients", "16", "--call-timeout", "3", "--hold-grace", "2")

    chaos = start_chaos(*arguments)
    output, _ = chaos.communicate(timeout=300)

    assert chaos.returncode == 0, output
    assert "chaos: every invariant held (seed 11)" in output
    assert output.count(": OK (") == VERDICTS
    assert {name for name in ("web", "worker", "beat", "redis", "postgres") if f"s] {name}: " in output} == {
        "web",
        "worker",
        "beat",
        "redis",
        "postgres",
    }


def test_an_interrupt_leaves_neither_processes_nor_files() -> None:
    chaos = start_chaos("--seconds", "60", "--clients", "4")
    assert chaos.stdout is not None
    line = next(line for line in chaos.stdout if line.startswith("the product answers"))
    folder = Path(line.rsplit("(", 1)[1].rstrip(")\n"))
    running = len(processes_of(folder))

    os.kill(chaos.pid, signal.SIGINT)
    output, _ = chaos.communicate(timeout=90)

    assert running >= 2
    assert (chaos.returncode, "chaos: interrupted" in output) == (130, True)
    assert processes_of(folder) == []
    assert not folder.exists()


def test_a_seed_repeats_its_plan_and_a_minute_has_every_kind_of_blow() -> None:
    plan = blows_plan(random.Random(8), 60)

    again, other = blows_plan(random.Random(8), 60), blows_plan(random.Random(9), 60)

    assert plan == again
    assert plan != other
    assert {blow.kind for blow in plan} >= set(KINDS) - {"postgres stopped"}
    assert 0 < plan[0].at < plan[-1].at < 60


def test_only_further_restarts_add_to_the_seconds_a_hold_may_stay_open() -> None:
    one = beyond_the_longest([(5.0, 12.0)], 0.0, 20.0)
    apart = beyond_the_longest([(5.0, 12.0), (14.0, 16.0)], 0.0, 20.0)
    overlapping = beyond_the_longest([(0.0, 9.0), (3.0, 6.0), (5.0, 8.0)], 0.0, 20.0)
    outside = beyond_the_longest([(5.0, 12.0), (30.0, 40.0)], 0.0, 20.0)

    assert (one, apart, overlapping, outside) == (0.0, 2.0, 5.0, 0.0)
