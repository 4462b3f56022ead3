"""The group commit under the weather: locks, bad rows, lost connections, restarts, waiters who leave."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from billing.accounts.models import Account
from billing.ledger import writer as writer_module
from billing.ledger.items import (
    OPEN_SQL,
    SETTLE_SQL,
    CallItem,
    CallVerdict,
    HoldItem,
    HoldVerdict,
    open_parameters,
    settle_parameters,
)
from billing.ledger.models import Hold, LedgerTransaction, UsageRecord, Wallet
from billing.ledger.services import due_wallets_roll
from billing.ledger.writer import LedgerRejected, LedgerUnavailable, LedgerWriter
from iafactory.common import clock, database
from iafactory.local.servers import LocalServers
from tests.billing.ledger.calls import call_item_for, hold_item_for
from tests.billing.ledger.test_races import race
from tests.factories import account_make, lot_make
from tests.live.conftest import _database_url

pytestmark = pytest.mark.usefixtures("committed")

D = Decimal
PROJECT = Path(__file__).resolve().parents[3]
SECONDS = 30


@contextlib.asynccontextmanager
async def running(*, queue_limit: int = 10_000) -> AsyncIterator[LedgerWriter]:
    writer = LedgerWriter(queue_limit=queue_limit)
    writer.start()
    try:
        yield writer
    finally:
        await writer.stop()


@contextlib.asynccontextmanager
async def locked(statement: str, *parameters: object) -> AsyncIterator[None]:
    """Another connection's transaction that holds the locks of `statement`."""
    async with await database.connect() as other, other.transaction():
        await other.execute(statement, parameters)
        yield


WALLET_LOCK = "SELECT 1 FROM billing_wallet WHERE account_id = %s FOR UPDATE"
HOLDS_LOCK = "LOCK TABLE billing_hold IN EXCLUSIVE MODE"


async def opened(writer: LedgerWriter, item: HoldItem) -> HoldVerdict:
    return await writer.hold_open(item, timeout_seconds=SECONDS)


async def settled(writer: LedgerWriter, item: CallItem) -> CallVerdict:
    return await writer.call_settle(item, timeout_seconds=SECONDS)


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait for what the writer does on its own."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(_closing(condition)):
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


def _closing(condition: Callable[[], bool]) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return condition()
        finally:
            connection.close()

    return ask


def figures(account: Account) -> tuple[Decimal, Decimal]:
    wallet = Wallet.objects.get(pk=account.pk)
    return wallet.balance, wallet.held


def booked(ids: list[UUID]) -> Counter[int]:
    """How many of the calls are once in the books and once in the usage log (1), and how many are not (0 or more)."""
    transactions = Counter(LedgerTransaction.objects.filter(pk__in=ids).values_list("pk", flat=True))
    usages = Counter(UsageRecord.objects.filter(pk__in=ids).values_list("pk", flat=True))
    assert transactions == usages
    return Counter(usages[request_id] for request_id in ids)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_batch_gives_every_waiter_its_own_verdict() -> None:
    rich, poor = account_make(credits=100), account_make(credits=1)
    holds = [hold_item_for(account.pk, "1") for account in (rich, poor) * 20]

    async def scenario() -> list[HoldVerdict]:
        async with running() as writer:
            return await asyncio.gather(*(opened(writer, hold) for hold in holds))

    verdicts = asyncio.run(scenario())

    assert [verdict.request_id for verdict in verdicts] == [hold.id for hold in holds]
    assert Counter(verdict.verdict for verdict in verdicts[::2]) == {"held": 20}
    assert [verdict.verdict for verdict in verdicts[1::2]] == ["held"] + ["insufficient"] * 19


def test_who_is_ready_at_the_same_instant_shares_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    holds = [hold_item_for(account_make(credits=10).pk, "1") for _ in range(2)]

    def parameters(items: list[HoldItem], **fields: Any) -> tuple[Any, ...]:
        sizes.append(len(items))
        return open_parameters(items, **fields)

    async def scenario() -> None:
        async with running() as writer:
            await asyncio.sleep(0.01)
            sizes.clear()
            first = asyncio.create_task(opened(writer, holds[0]))
            # The first one is queued in the first turn; in the second the writer wakes, and then the second one is queued.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await opened(writer, holds[1])
            await first

    monkeypatch.setattr(writer_module, "open_parameters", parameters)
    asyncio.run(scenario())

    assert sizes == [2]


@pytest.mark.parametrize(("queued", "sizes"), [(20, [20]), (50, [20, 20, 10]), (100, [25, 20, 20, 20, 15])])
def test_a_queue_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch, queued: int, sizes: list[int]) -> None:
    taken: list[int] = []
    account = account_make(credits=1000)

    def parameters(items: list[HoldItem], **fields: Any) -> tuple[Any, ...]:
        taken.append(len(items))
        return open_parameters(items, **fields)

    async def scenario() -> None:
        async with running() as writer:
            await asyncio.gather(*(opened(writer, hold_item_for(account.pk, "1")) for _ in range(queued)))

    monkeypatch.setattr(writer_module, "open_parameters", parameters)
    asyncio.run(scenario())

    assert taken == sizes


def test_one_plan_serves_all_batch_sizes() -> None:
    async def scenario() -> list[tuple[Any, ...]]:
        lane = writer_module._Lane("test", lock_timeout_ms=1000)
        shown = [await lane.execute("SHOW plan_cache_mode", ()) for _ in range(2)]
        await lane.close()
        return [rows[0] for rows in shown]

    assert asyncio.run(scenario()) == [("force_generic_plan",)] * 2


def test_one_call_twice_in_a_batch_is_settled_and_then_a_duplicate() -> None:
    account = account_make(credits=10)
    hold = hold_item_for(account.pk, "2")

    async def scenario() -> list[str]:
        async with running() as writer:
            await opened(writer, hold)
            verdicts = await asyncio.gather(*(settled(writer, call_item_for(hold, "2")) for _ in range(3)))
            return [verdict.verdict for verdict in verdicts]

    verdicts = asyncio.run(scenario())

    assert verdicts == ["settled", "duplicate", "duplicate"]
    assert figures(account) == (D(8), D(0))


def test_digits_beyond_the_books_are_rounded_at_the_door() -> None:
    account = account_make(credits=1)
    holds = [hold_item_for(account.pk, "0.0000014") for _ in range(9)]

    async def scenario() -> list[CallVerdict]:
        async with running() as writer:
            await asyncio.gather(*(opened(writer, hold) for hold in holds))
            return await asyncio.gather(*(settled(writer, call_item_for(hold, "0.0000014")) for hold in holds))

    verdicts = asyncio.run(scenario())

    assert [verdict.charged for verdict in verdicts] == [D("0.000001")] * 9
    assert figures(account) == (D("0.999991"), D(0))
    call_command("verify_books")


# --- bad rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"endpoint": "x" * 65}, {"model": "nul \x00 inside"}, {"quota": {"surrogate": "\ud800"}}],
    ids=["too long", "NUL", "not UTF-8"],
)
def test_a_bad_hold_is_refused_alone(fields: dict[str, Any]) -> None:
    account = account_make(credits=100)
    holds = [hold_item_for(account.pk, "1") for _ in range(40)]
    bad = hold_item_for(account.pk, "1", **fields)

    async def scenario() -> list[Any]:
        async with running() as writer:
            items = [*holds[:17], bad, *holds[17:]]
            return await asyncio.gather(*(opened(writer, item) for item in items), return_exceptions=True)

    results = asyncio.run(scenario())

    assert isinstance(results.pop(17), LedgerRejected)
    assert Counter(result.verdict for result in results) == {"held": 40}
    assert figures(account) == (D(100), D(40))
    call_command("verify_books")


@pytest.mark.parametrize(
    ("charge", "fields"),
    [
        ("1", {"end": "a word that no end has"}),
        ("1", {"reason": "x" * 501}),
        ("1", {"reason": "nul \x00 inside"}),
        ("-1", {}),
        ("NaN", {}),
        ("900000000000000", {}),
    ],
    ids=["unknown end", "too long", "NUL", "negative", "NaN", "astronomic"],
)
def test_a_bad_settle_is_refused_alone(charge: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    account = account_make(credits=100)
    holds = [hold_item_for(account.pk, "1") for _ in range(41)]

    async def scenario() -> list[Any]:
        async with running() as writer:
            await asyncio.gather(*(opened(writer, hold) for hold in holds))
            items = [call_item_for(hold, "1") for hold in holds]
            items[23] = call_item_for(holds[23], charge, **fields)
            return await asyncio.gather(*(settled(writer, item) for item in items), return_exceptions=True)

    results = asyncio.run(scenario())

    assert isinstance(results.pop(23), LedgerRejected)
    assert Counter(result.verdict for result in results) == {"settled": 40}
    assert figures(account) == (D(60), D(1))
    assert "item refused" in caplog.text
    call_command("verify_books")


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_wallet_locked_for_three_seconds_stalls_nobody_else_and_is_served_afterwards() -> None:
    slow = account_make(credits=100)
    others = [account_make(credits=10_000) for _ in range(20)]
    latencies: list[float] = []

    async def call(writer: LedgerWriter, account: Account) -> None:
        began = time.monotonic()
        hold = hold_item_for(account.pk, "1")
        assert (await opened(writer, hold)).verdict == "held"
        assert (await settled(writer, call_item_for(hold, "1"))).verdict == "settled"
        latencies.append(time.monotonic() - began)

    async def caller(writer: LedgerWriter, account: Account, end: float) -> None:
        while time.monotonic() < end:
            await call(writer, account)
            await asyncio.sleep(0.02)

    async def scenario() -> tuple[list[float], float]:
        async with running() as writer:
            early = [hold_item_for(slow.pk, "1") for _ in range(5)]
            await asyncio.gather(*(opened(writer, hold) for hold in early))
            async with locked(WALLET_LOCK, slow.pk):
                waiting = [asyncio.create_task(settled(writer, call_item_for(hold, "1"))) for hold in early]
                waiting += [asyncio.create_task(opened(writer, hold_item_for(slow.pk, "1"))) for _ in range(5)]
                end = time.monotonic() + 3
                await asyncio.gather(*(caller(writer, account, end) for account in others))
                assert not any(task.done() for task in waiting)
            released = time.monotonic()
            await asyncio.gather(*waiting)
            return sorted(latencies), time.monotonic() - released

    ordered, afterwards = asyncio.run(scenario())

    # Half of what the wallet is locked for; a machine of its own needs a hundredth of it.
    assert ordered[int(len(ordered) * 0.99)] < 1.5
    assert afterwards < 3
    assert figures(slow) == (D(95), D(5))
    call_command("verify_books")


def test_a_free_call_does_not_wait_for_a_locked_wallet() -> None:
    account = account_make(credits=5)
    paid, free = hold_item_for(account.pk, "1"), hold_item_for(account.pk, "0")

    async def scenario() -> str:
        async with running() as writer, locked(WALLET_LOCK, account.pk):
            waiting = asyncio.create_task(opened(writer, paid))
            await asyncio.sleep(0.1)
            await writer.hold_open(free, timeout_seconds=SECONDS)
            verdict = await writer.call_settle(call_item_for(free, "0"), timeout_seconds=SECONDS)
            late = await writer.call_settle(call_item_for(hold_item_for(account.pk, "0"), "0"), timeout_seconds=SECONDS)
            waiting.cancel()
            return f"{verdict.verdict} {late.verdict}"

    assert asyncio.run(scenario()) == "settled late"


@pytest.mark.parametrize(
    ("limits", "log"),
    [({"LOCK_TIMEOUT_MS": 100}, "LockNotAvailable"), ({"STATEMENT_TIMEOUT_MS": 100}, "QueryCanceled")],
)
def test_a_timeout_is_tried_again(
    limits: dict[str, int], log: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    account = account_make(credits=10)
    hold = hold_item_for(account.pk, "2")
    caplog.set_level("INFO", "billing.ledger.writer")
    for name, value in limits.items():
        monkeypatch.setattr(writer_module, name, value)

    async def scenario() -> str:
        async with running() as writer:
            async with locked(HOLDS_LOCK):
                waiting = asyncio.create_task(opened(writer, hold))
                await until(lambda: log in caplog.text)
                assert not waiting.done()
            await waiting
            return (await settled(writer, call_item_for(hold, "1"))).verdict

    assert asyncio.run(scenario()) == "settled"
    assert log in caplog.text
    assert "connection lost" not in caplog.text
    assert figures(account) == (D(9), D(0))


def test_processes_and_services_on_the_same_wallets_never_deadlock() -> None:
    accounts = [account_make(credits=10_000) for _ in range(6)]
    names = [str(account.pk) for account in accounts]
    environment = os.environ | {"DATABASE_URL": _database_url()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.billing.ledger.load", str(seed), "24", "20", *order],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
        )
        for seed, order in enumerate((names, names[::-1], names[3:] + names[:3]))
    ]

    def whole_batch(order: list[Account]) -> int:
        """A batch over all wallets that waits for each of them."""
        holds = [hold_item_for(account.pk, "1") for account in order]
        with connection.cursor() as cursor:
            cursor.execute(OPEN_SQL, open_parameters(holds, now=clock.now(), wait=True))
            calls = [call_item_for(hold, "1") for hold in holds]
            cursor.execute(SETTLE_SQL, settle_parameters(calls, now=clock.now(), wait=True))
            return len(cursor.fetchall())

    jobs = [
        partial(whole_batch, accounts),
        partial(whole_batch, accounts[::-1]),
        due_wallets_roll,
        partial(lot_make, accounts[0].pk, 1, kind="bonus"),
    ]
    began = time.monotonic()
    race(jobs * 40, threads=4)
    results = [json.loads(process.communicate(timeout=180)[0]) for process in processes]

    assert time.monotonic() - began < 180
    assert [process.returncode for process in processes] == [0, 0, 0]
    verdicts = sum((Counter(result["verdicts"]) for result in results), Counter())
    assert verdicts == {"held": 1440, "settled": 1440}
    charged = sum((Counter(result["charged"]) for result in results), Counter())
    granted = {names[0]: 40}
    assert {str(account.pk): figures(account) for account in accounts} == {
        name: (D(10_000) + granted.get(name, 0) - charged[name] - 80, D(0)) for name in names
    }
    call_command("verify_books")


# --- queues and waiters -----------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_holds_and_takes_settles() -> None:
    account = account_make(credits=1000)
    early = [hold_item_for(account.pk, "1") for _ in range(30)]

    async def scenario() -> tuple[Counter[str], list[str]]:
        async with running(queue_limit=10) as writer:
            for hold in early:
                await opened(writer, hold)
            async with locked(HOLDS_LOCK):
                stuck = asyncio.create_task(opened(writer, hold_item_for(account.pk, "1")))
                await asyncio.sleep(0.05)
                tries = [asyncio.create_task(opened(writer, hold_item_for(account.pk, "1"))) for _ in range(15)]
                await asyncio.sleep(0.05)
                settles = [asyncio.create_task(settled(writer, call_item_for(early[0], "1")))]
                await asyncio.sleep(0.05)
                settles += [asyncio.create_task(settled(writer, call_item_for(hold, "1"))) for hold in early[1:]]
                await asyncio.sleep(0.05)
                with pytest.raises(LedgerUnavailable, match="settles"):
                    await opened(writer, hold_item_for(account.pk, "1"))
            await stuck
            results = await asyncio.gather(*tries, return_exceptions=True)
            kinds = Counter(result.verdict if isinstance(result, HoldVerdict) else type(result).__name__ for result in results)
            return kinds, [verdict.verdict for verdict in await asyncio.gather(*settles)]

    holds, settles = asyncio.run(scenario())

    assert holds == {"held": 10, "LedgerUnavailable": 5}
    assert settles == ["settled"] * 30
    assert figures(account) == (D(970), D(11))


def test_a_hold_whose_waiter_gave_up_is_given_back() -> None:
    account = account_make(credits=10)
    hold = hold_item_for(account.pk, "4")

    async def scenario() -> None:
        async with running() as writer:
            async with locked(HOLDS_LOCK):
                with pytest.raises(LedgerUnavailable):
                    await writer.hold_open(hold, timeout_seconds=1)
            await until(UsageRecord.objects.filter(pk=hold.id).exists)

    asyncio.run(scenario())

    usage = UsageRecord.objects.get(pk=hold.id)
    assert (usage.end, usage.error_code, usage.credits_charged) == ("refused", "hold_unclaimed", D(0))
    assert figures(account) == (D(10), D(0))
    assert not Hold.objects.filter(pk=hold.id).exists()


def test_a_hold_whose_waiter_left_before_it_was_sent_is_never_opened() -> None:
    account = account_make(credits=10)
    hold = hold_item_for(account.pk, "4")

    async def scenario() -> None:
        async with running() as writer, locked(WALLET_LOCK, account.pk):
            with pytest.raises(LedgerUnavailable):
                await writer.hold_open(hold, timeout_seconds=0.3)
            await asyncio.sleep(1.5)  # what was sent and waits for the lock comes back and is forgotten
            assert (writer._holds.depth, writer._calls.depth) == (0, 0)

    asyncio.run(scenario())

    assert figures(account) == (D(10), D(0))
    assert booked([hold.id]) == {0: 1}


def test_waiters_who_are_cancelled_kill_nobody() -> None:
    account = account_make(credits=100)
    holds = [hold_item_for(account.pk, "1") for _ in range(20)]
    late = hold_item_for(account.pk, "5")

    async def scenario() -> str:
        async with running() as writer:
            await asyncio.gather(*(opened(writer, hold) for hold in holds))
            async with locked(HOLDS_LOCK):
                tasks = [asyncio.create_task(settled(writer, call_item_for(hold, "1"))) for hold in holds]
                tasks += [asyncio.create_task(opened(writer, hold_item_for(account.pk, "1"))) for _ in range(20)]
                await asyncio.sleep(0.1)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await opened(writer, late)
            return (await settled(writer, call_item_for(late, "5"))).verdict

    verdict = asyncio.run(scenario())

    # The settles are booked though nobody waits; the holds are given back or were never opened.
    assert verdict == "settled"
    assert booked([hold.id for hold in holds]) == {1: 20}
    assert figures(account) == (D(75), D(0))


def test_a_settle_that_takes_too_long_stays_queued() -> None:
    account = account_make(credits=10)
    hold = hold_item_for(account.pk, "2")

    async def scenario() -> None:
        async with running() as writer:
            await opened(writer, hold)
            async with locked(HOLDS_LOCK):
                with pytest.raises(TimeoutError):
                    await writer.call_settle(call_item_for(hold, "2"), timeout_seconds=0.1)
            await until(UsageRecord.objects.filter(pk=hold.id).exists)

    asyncio.run(scenario())

    assert figures(account) == (D(8), D(0))


def test_stop_writes_what_is_queued() -> None:
    accounts = [account_make(credits=1000) for _ in range(5)]
    holds = [hold_item_for(account.pk, "1") for account in accounts for _ in range(120)]

    async def scenario() -> list[str]:
        writer = LedgerWriter(queue_limit=10_000)
        writer.start()
        await asyncio.gather(*(opened(writer, hold) for hold in holds))
        tasks = [asyncio.create_task(settled(writer, call_item_for(hold, "1"))) for hold in holds]
        await asyncio.sleep(0)
        await writer.stop()
        with pytest.raises(LedgerUnavailable):
            await opened(writer, hold_item_for(accounts[0].pk, "1"))
        return [verdict.verdict for verdict in await asyncio.gather(*tasks)]

    assert asyncio.run(scenario()) == ["settled"] * 600
    assert booked([hold.id for hold in holds]) == {1: 600}


def test_stop_gives_up_in_time_and_tells_every_waiter() -> None:
    account = account_make(credits=10)

    async def scenario() -> tuple[float, Any]:
        async with locked(WALLET_LOCK, account.pk):
            writer = LedgerWriter(queue_limit=10)
            writer.start()
            tasks = [asyncio.create_task(opened(writer, hold_item_for(account.pk, "1"))) for _ in range(3)]
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await writer.stop()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            return time.monotonic() - began, results

    seconds, results = asyncio.run(scenario())

    # The wallet is never unlocked.
    assert seconds < 15
    assert [type(result) for result in results] == [LedgerUnavailable] * 3


# --- lost connections -------------------------------------------------------------------------------------------------


def test_connections_killed_at_random_instants_lose_and_double_nothing() -> None:
    accounts = [account_make(credits=100_000) for _ in range(8)]
    ids: list[UUID] = []
    acknowledged: list[UUID] = []
    killed = 0

    async def caller(writer: LedgerWriter, end: float, number: int) -> None:
        choice = random.Random(number)
        while time.monotonic() < end or len(acknowledged) <= 40:
            hold = hold_item_for(choice.choice(accounts).pk, "2")
            ids.append(hold.id)
            assert (await opened(writer, hold)).verdict == "held"
            verdict = (await settled(writer, call_item_for(hold, "1"))).verdict
            # The first answer may have been lost with the connection.
            assert verdict in ("settled", "duplicate")
            acknowledged.append(hold.id)

    async def killer(end: float) -> None:
        nonlocal killed
        choice = random.Random(7)
        async with await database.connect() as other:
            while time.monotonic() < end or killed < 10:
                await asyncio.sleep(choice.uniform(0.01, 0.15))
                cursor = await other.execute(
                    """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE application_name LIKE 'iafactory-%%' AND datname = current_database() AND random() < 0.7"""
                )
                killed += (await cursor.fetchone() or [0])[0]

    async def scenario() -> None:
        async with running() as writer:
            end = time.monotonic() + 3
            callers = [caller(writer, end, number) for number in range(48)]
            await asyncio.wait_for(asyncio.gather(killer(end), *callers), 90)

    asyncio.run(scenario())

    assert killed >= 10
    assert len(acknowledged) > 40
    assert booked(ids) == {1: len(ids)}
    assert sum(figures(account)[0] for account in accounts) == D(800_000) - len(ids)
    assert [figures(account)[1] for account in accounts] == [D(0)] * 8
    call_command("verify_books")


@pytest.fixture(scope="module")
def stoppable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalServers, list[UUID]]]:
    """A PostgreSQL that may be stopped, with three customers of 10 credits. Its books verify at the end."""
    servers = LocalServers(tmp_path_factory.mktemp("own"), outer_environment={"REDIS_URL": os.environ["REDIS_URL"]})
    servers.start()

    def run(*command: str) -> str:
        environment = os.environ | servers.environment()
        return subprocess.run(
            [sys.executable, *command], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, check=True, text=True
        ).stdout

    try:
        script = (
            "import django; django.setup()\n"
            "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
            "from tests.factories import account_make; print(*(account_make(credits=10).pk for _ in range(3)))"
        )
        yield servers, [UUID(word) for word in run("-c", script).split()]
        run("manage.py", "verify_books")
    finally:
        servers.stop()
        servers.remove_outside()


@pytest.fixture
def own_server(stoppable: tuple[LocalServers, list[UUID]], monkeypatch: pytest.MonkeyPatch) -> tuple[LocalServers, UUID]:
    """That PostgreSQL and an account of its own; the writer connects there."""
    servers, accounts = stoppable
    monkeypatch.setattr(database, "conninfo", lambda **extra: psycopg.conninfo.make_conninfo(_own_url(servers), **extra))
    return servers, accounts.pop()


def _own_url(servers: LocalServers) -> str:
    assert servers.postgres is not None
    return servers.postgres.url()


def own_figures(servers: LocalServers, account_id: UUID, request_id: UUID) -> tuple[Any, ...]:
    """Balance, held, transactions and usage rows of one call."""
    with psycopg.connect(_own_url(servers)) as own:
        row = own.execute(
            """SELECT balance, held, (SELECT count(*) FROM billing_ledgertransaction WHERE id = %(id)s),
                      (SELECT count(*) FROM billing_usagerecord WHERE id = %(id)s)
               FROM billing_wallet WHERE account_id = %(account)s""",
            {"id": request_id, "account": account_id},
        ).fetchone()
    assert row is not None
    return row


def test_a_restart_between_hold_and_settle_loses_nothing(own_server: tuple[LocalServers, UUID]) -> None:
    servers, account_id = own_server
    hold = hold_item_for(account_id, "4")

    async def scenario() -> str:
        async with running() as writer:
            await opened(writer, hold)
            servers.stop()
            waiting = asyncio.create_task(settled(writer, call_item_for(hold, "3")))
            with pytest.raises(LedgerUnavailable):
                await writer.hold_open(hold_item_for(account_id, "1"), timeout_seconds=0.3)
            servers.start()  # in this thread: the server would end with another one
            return (await waiting).verdict

    assert asyncio.run(scenario()) == "settled"
    assert own_figures(servers, account_id, hold.id) == (D(7), D(0), 1, 1)


def test_a_connection_that_falls_silent_is_replaced_and_what_it_does_later_changes_nothing(
    own_server: tuple[LocalServers, UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers, account_id = own_server
    hold = hold_item_for(account_id, "4")
    monkeypatch.setattr(writer_module, "SILENCE_SECONDS", 1)

    async def backend(name: str) -> int:
        async with await database.connect() as other:
            cursor = await other.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [name])
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0])

    async def scenario() -> str:
        async with running() as writer:
            first = hold_item_for(account_id, "0")
            await opened(writer, first)
            await settled(writer, call_item_for(first, "0"))
            await opened(writer, hold)
            pid = await backend("iafactory-settles")
            os.kill(pid, signal.SIGSTOP)
            try:
                return (await settled(writer, call_item_for(hold, "3"))).verdict
            finally:
                os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(0.3)

    assert asyncio.run(scenario()) == "settled"
    assert own_figures(servers, account_id, hold.id) == (D(7), D(0), 1, 1)


def test_the_writer_starts_before_postgresql_answers(own_server: tuple[LocalServers, UUID]) -> None:
    servers, account_id = own_server
    hold = hold_item_for(account_id, "4")
    servers.stop()

    async def scenario() -> str:
        async with running() as writer:
            waiting = asyncio.create_task(opened(writer, hold))
            await asyncio.sleep(0.2)
            servers.start()  # in this thread: the server would end with another one
            await waiting
            return (await settled(writer, call_item_for(hold, "1"))).verdict

    assert asyncio.run(scenario()) == "settled"
    assert own_figures(servers, account_id, hold.id) == (D(9), D(0), 1, 1)


def test_an_extension_answers_through_the_writer() -> None:
    account = account_make(credits=10)
    hold = hold_item_for(account.pk, "2")

    async def scenario() -> list[str]:
        async with running() as writer:
            await opened(writer, hold)
            extend = partial(writer.hold_extend, worst_cost_usd=D("0.02"), timeout_seconds=5)
            answers = [await extend(request_id=hold.id, credits=credits) for credits in (D(10), D(11))]
            answers.append(await extend(request_id=hold_item_for(account.pk, "1").id, credits=D(1)))
            async with locked(WALLET_LOCK, account.pk):
                with pytest.raises(LedgerUnavailable):
                    await writer.hold_extend(request_id=hold.id, credits=D(10), worst_cost_usd=D(1), timeout_seconds=0.2)
            return answers

    assert asyncio.run(scenario()) == ["held", "insufficient", "gone"]
    assert figures(account) == (D(10), D(10))


def test_the_tests_write_where_the_writer_writes() -> None:
    assert settings.DATABASES["default"]["NAME"] == connection.settings_dict["NAME"]
