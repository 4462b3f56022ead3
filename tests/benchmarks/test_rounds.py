"""Rounds of windows: who is asked in which order, what is counted, and what becomes of another gateway that fails."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import figures
from benchmarks.contenders import Contender, ContenderFailed
from benchmarks.figures import PEERS_SCENE, SCENES, Run, measure_rounds
from benchmarks.windows import Load, Scene, Window

WHOLE_64 = SCENES[2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was asked, in order: every window has ten answers, those of LiteLLM's second fail."""
    names: list[str] = []

    def window(product: Any, contender: Contender, scene: Scene, seconds: float, *, once: bool = False) -> Window:
        names.append(contender.name)
        if names.count("LiteLLM") == 2 and contender.name == "LiteLLM":
            raise ContenderFailed("LiteLLM: 7 answers, and {'500': 3}")
        return Window(Load(9, 10, {}, seconds, 100.0, 1.0, 2.0, 3.0, 1.0, 1.0, 0.1), 0.1, 0.05, 0.01, 100.0)

    @contextlib.contextmanager
    def peer(which: Any, product: Any) -> Iterator[Contender]:
        if which.name == "Portkey":
            raise ContenderFailed("Portkey ended with 1")
        yield Contender(which.name, "http://127.0.0.1:9", pid=0)

    monkeypatch.setattr(figures, "window", window)
    monkeypatch.setattr(figures, "peer", peer)
    monkeypatch.setattr("benchmarks.peers.Peer.installed", True)
    return names


def run_of(told: list[str], *, rounds: int) -> Run:
    contenders = [Contender(name, "http://127.0.0.1:9", pid=0) for name in ("simulator", "bare proxy", "IA Factory")]
    product: Any = None
    return Run(product, ("key",), contenders, rounds, 1.0, told.append)


def test_each_round_begins_with_another_one(asked: list[str]) -> None:
    run = run_of([], rounds=2)

    measure_rounds(run, [WHOLE_64])

    assert asked == ["simulator", "bare proxy", "IA Factory", "bare proxy", "IA Factory", "simulator"]
    assert [len(windows) for windows in run.windows["whole-64"].values()] == [2, 2, 2]
    assert run.readings == {"rate_against_proxy": 1.0, "cpu_against_proxy": 1.0, "postgres_cpu_share": 0.5}


def test_only_our_answers_must_be_billed(asked: list[str]) -> None:
    run = run_of([], rounds=3)

    measure_rounds(run, [WHOLE_64])

    assert (run.answered, run.failed) == (30, 0)


def test_another_gateway_that_fails_is_left_out(asked: list[str]) -> None:
    told: list[str] = []
    run = run_of(told, rounds=3)

    measure_rounds(run, [PEERS_SCENE])

    assert asked == ["LiteLLM", "IA Factory", "IA Factory", "LiteLLM", "IA Factory"]
    assert list(run.windows["peers"]) == ["IA Factory"]
    assert run.readings == {}
    assert run.facts == {"left_out": {"Portkey": "Portkey ended with 1", "LiteLLM": "LiteLLM: 7 answers, and {'500': 3}"}}
    assert [text for text in told if "LEFT OUT" in text] == [
        "Portkey is LEFT OUT: Portkey ended with 1",
        "LiteLLM is LEFT OUT: LiteLLM: 7 answers, and {'500': 3}",
    ]


def test_when_we_fail_the_run_fails(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    def window(*_: Any, **__: Any) -> Window:
        raise ContenderFailed("IA Factory: 0 answers")

    monkeypatch.setattr(figures, "window", window)

    with pytest.raises(ContenderFailed, match="IA Factory: 0 answers"):
        measure_rounds(run_of([], rounds=1), [WHOLE_64])
