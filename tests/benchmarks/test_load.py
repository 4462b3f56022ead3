"""The load generator against the simulator: what it counts as an answer, what as a failure, and what of it must be billed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks import books_check
from benchmarks.books_check import BilledCalls, BooksWrong
from benchmarks.load import load
from benchmarks.mixed_load import KINDS, Connection
from benchmarks.windows import Scene
from benchmarks.wire import request_bytes
from routing.simulator import start_simulator
from routing.simulator.server import Simulator

PATH = "/openai/v1/chat/completions"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with start_simulator() as running:
        yield running


async def loaded(simulator: Simulator, scene: Scene, **behaviour: Any) -> dict[str, Any]:
    """Every client of the scene asks once."""
    simulator.controls.change("*", scene.behaviour() | behaviour)
    options = {"url": simulator.url, "path": PATH, "body": scene.body, "clients": scene.clients, "seconds": 0.02, "once": True}
    return await load(options)


async def test_whole_answers_and_streams_are_answers(simulator: Simulator) -> None:
    whole = await loaded(simulator, Scene("whole", 8))
    streamed = await loaded(simulator, Scene("streamed", 8, streamed=True, chunks=5))

    assert (whole["answered"], whole["requests"], whole["failures"]) == (8, 8, {})
    assert (streamed["answered"], streamed["requests"], streamed["failures"]) == (8, 8, {})
    assert whole["p99"] >= whole["p50"] >= whole["first_p50"] > 0


@pytest.mark.parametrize(
    ("behaviour", "failure"),
    [
        ({"fail_status": 503}, "503"),
        ({"drop_after_chunks": 2}, "connection lost"),
        ({"error_after_chunks": 2}, "stream that failed"),
    ],
)
async def test_whatever_goes_wrong_is_a_failure(simulator: Simulator, behaviour: dict[str, Any], failure: str) -> None:
    found = await loaded(simulator, Scene("streamed", 4, streamed=True, chunks=5), **behaviour)

    assert (found["answered"], found["requests"], found["failures"]) == (0, 0, {failure: 4})


async def test_clients_ask_again_and_again_until_the_time_is_over(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.load.WARM_SECONDS", 0.0)
    scene = Scene("whole", 2)
    simulator.controls.change("*", scene.behaviour())

    found = await load(
        {"url": simulator.url, "path": PATH, "body": scene.body, "clients": 2, "seconds": 0.2, "keys": ["a", "b"]}
    )

    assert found["answered"] == found["requests"] > 2
    assert simulator.controls.provider("openai").counters.completed == found["answered"]


async def test_a_client_of_the_mix_may_leave_in_the_middle(simulator: Simulator) -> None:
    scene = Scene("streamed", 1, streamed=True, chunk_interval_ms=20)
    simulator.controls.change("*", scene.behaviour())
    _, connection = await asyncio.get_running_loop().create_connection(Connection, simulator.host, simulator.port)

    whole = await connection.ask(request_bytes(simulator.url, PATH, {}, scene.body), leaves=400)

    assert (whole, connection.open, connection.answer.status) == (False, False, 200)
    assert 400 <= connection.answer.received < 4_000


def test_the_mix_is_told_in_percent() -> None:
    assert sum(kind.weight for kind in KINDS) == 100


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands run in the product, which is none here."""
    commands: list[str] = []
    monkeypatch.setattr(books_check, "manage", lambda _, command: commands.append(command))
    return commands


def calls_billed(count: int, monkeypatch: pytest.MonkeyPatch) -> BilledCalls:
    monkeypatch.setattr(BilledCalls, "count", lambda _: count)
    return BilledCalls.__new__(BilledCalls)


# Three failed: they may have been billed before they did.
@pytest.mark.parametrize("billed", [100, 103])
def test_what_is_answered_is_billed(monkeypatch: pytest.MonkeyPatch, verified: list[str], billed: int) -> None:
    product: Any = None

    calls_billed(billed, monkeypatch).check(product, 100, 3)

    assert verified == ["verify_books"]


@pytest.mark.parametrize("billed", [99, 104])
def test_an_answer_that_is_not_billed_and_a_bill_without_one_are_wrong(
    monkeypatch: pytest.MonkeyPatch, verified: list[str], billed: int
) -> None:
    product: Any = None

    with pytest.raises(BooksWrong, match=f"100 calls were answered, 3 failed, {billed} are billed"):
        calls_billed(billed, monkeypatch).check(product, 100, 3)
