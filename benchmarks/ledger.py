"""How fast the group commit books calls: holds and settles through `LedgerWriter`, on a PostgreSQL of its own with fsync on.

    .venv/bin/python -m benchmarks.ledger [--seconds 5] [--wallets 10000] [--tasks 256]

One process and two, many wallets and a single hot one. Prints calls per second, the time that a task waited for its hold and
its settle, and the CPU that the writer's process and PostgreSQL spent per call; ends with a verification of the books.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from iafactory.local.secrets_file import local_secrets
from iafactory.local.servers import LocalServers

PROJECT = Path(__file__).resolve().parents[1]
LOTS_PER_WALLET = 3
SEED_BATCH = 500
# One hot wallet must reach this share of what many wallets reach: its lock may cost, not rule.
HOT_SHARE = 0.5


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--wallets", type=int, default=10_000)
    arguments.add_argument("--tasks", type=int, default=256)
    arguments.add_argument("--worker", choices=("many", "hot"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        _django()
        asyncio.run(_worker(options))
        return 0
    with _servers() as servers:
        _django()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        _seed(options.wallets)
        print(
            f"{options.tasks} tasks a process, {options.wallets} wallets with {LOTS_PER_WALLET} lots, {options.seconds} s each"
        )
        print(f"{'':24}{'calls/s':>9}{'hold p50/p99 ms':>18}{'settle p50/p99 ms':>19}{'Python us':>11}{'PostgreSQL us':>15}")
        assert servers.postgres is not None
        assert servers.postgres.process is not None
        postgres = psutil.Process(servers.postgres.process.pid)
        kept = True
        for processes in (1, 2):
            rates = {which: _round(which, processes, options, postgres) for which in ("many", "hot")}
            ratio = rates["hot"] / rates["many"]
            kept = kept and ratio >= HOT_SHARE
            print(f"hot / many: {ratio:.2f}")
        return 0 if _verify() and kept else 1


def _django() -> None:
    import django

    django.setup()


@contextlib.contextmanager
def _servers() -> Iterator[LocalServers]:
    """Servers in a throw-away folder, and the environment that leads Django to them."""
    with tempfile.TemporaryDirectory(prefix="iafactory-bench-", ignore_cleanup_errors=True) as folder:
        servers = LocalServers(Path(folder), outer_environment={})
        try:
            servers.start()
            secrets = local_secrets(Path(folder))
            os.environ.update(
                servers.environment(),
                DJANGO_SETTINGS_MODULE="iafactory.settings",
                IAFACTORY_ENV="test",
                MAIL_DIR=str(Path(folder) / "mail"),
                VAR=folder,
                **{name: secrets[name] for name in ("SECRET_KEY", "FIELD_ENCRYPTION_KEYS", "JWT_SIGNING_KEY")},
            )
            yield servers
        finally:
            servers.stop()
            servers.remove_outside()


def _seed(wallets: int) -> None:
    """Accounts, their wallets and three lots each, granted as the product grants them."""
    from django.db import connection

    from billing.accounts.models import Account
    from billing.ledger.items import GRANT_SQL, GrantItem, encode_items
    from billing.ledger.models import LedgerAccount, Lot, Wallet
    from iafactory.common import clock
    from iafactory.common.ids import uuid7

    now = clock.now()
    accounts = Account.objects.bulk_create(
        [Account(name=f"Bench {number}", kind=Account.Kind.ORGANISATION) for number in range(wallets)]
    )
    Wallet.objects.bulk_create([Wallet(account=account) for account in accounts])
    LedgerAccount.objects.bulk_create(
        [LedgerAccount(id=account.pk, kind=LedgerAccount.Kind.WALLET, unit="credit", account=account) for account in accounts]
    )
    lots = [
        GrantItem(
            lot_id=uuid7(),
            account_id=account.pk,
            kind=kind,
            # The first lot burns out soon, so that calls spread over lots.
            amount=Decimal(amount),
            paid_amount=Decimal(0),
            paid_currency="",
            payment_id=None,
            effective_at=now,
            expires_at=now + timedelta(days=30) if kind == Lot.Kind.PLAN else None,
            priority=Lot.DEFAULT_PRIORITY[kind],
            source="bench",
            reason="bench",
            actor="bench",
            idempotency_key=f"bench-{account.pk}-{kind}",
        )
        for account in accounts
        for kind, amount in ((Lot.Kind.PLAN, 1), (Lot.Kind.BONUS, 10), (Lot.Kind.PURCHASE, 10**9))
    ]
    with connection.cursor() as cursor:
        for start in range(0, len(lots), SEED_BATCH):
            cursor.execute(GRANT_SQL, [encode_items(lots[start : start + SEED_BATCH]).decode(), now])
        cursor.execute("ANALYZE")


def _round(which: str, processes: int, options: argparse.Namespace, postgres: psutil.Process) -> float:
    """Run the workers of one line, print it, return calls per second."""
    command = [sys.executable, "-m", "benchmarks.ledger", "--worker", which]
    command += ["--seconds", str(options.seconds), "--tasks", str(options.tasks)]
    workers = [subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(processes)]
    try:
        _lines(workers)  # ready
        cpu = _cpu_seconds(postgres)
        _continue(workers)
        results = _lines(workers)
        cpu = _cpu_seconds(postgres) - cpu
        _continue(workers)
    finally:
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.close()
            worker.wait(20)
    calls = sum(len(result["settle"]) for result in results)
    seconds = max(result["seconds"] for result in results)
    rate = float(calls / seconds)
    python = sum(result["cpu"] for result in results)
    hold, settle = (_percentiles([value for result in results for value in result[name]]) for name in ("hold", "settle"))
    name = f"{processes} process{'es' if processes > 1 else ''}, {'one hot wallet' if which == 'hot' else 'many wallets'}"
    print(f"{name:24}{rate:9,.0f}{hold:>18}{settle:>19}{python / calls * 1e6:11.0f}{cpu / calls * 1e6:15.0f}", flush=True)
    return rate


def _lines(workers: "list[subprocess.Popen[bytes]]") -> list[dict[str, Any]]:
    lines = []
    for worker in workers:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line:
            raise SystemExit("a worker died")
        lines.append(json.loads(line))
    return lines


def _continue(workers: "list[subprocess.Popen[bytes]]") -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()


def _cpu_seconds(postgres: psutil.Process) -> float:
    """What the server and its backends have used. The workers' connections live while it is asked."""
    total = 0.0
    for process in (postgres, *postgres.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _percentiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{ordered[len(ordered) // 2] * 1000:.1f} / {ordered[int(len(ordered) * 0.99)] * 1000:.1f}"


async def _worker(options: argparse.Namespace) -> None:
    import gc

    import uvloop
    from asgiref.sync import sync_to_async

    from billing.accounts.models import Account
    from billing.ledger.writer import LedgerWriter

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    accounts = await sync_to_async(lambda: list(Account.objects.order_by("pk").values_list("pk", flat=True)))()
    if options.worker == "hot":
        accounts = accounts[:1]
    writer = LedgerWriter(queue_limit=10_000)
    writer.start()
    gc.freeze()
    await _calls(writer, accounts, options.tasks, 0.5)  # warm: connections, prepared statements, caches
    _say({})
    sys.stdin.readline()
    cpu, started = time.process_time(), time.monotonic()
    holds, settles = await _calls(writer, accounts, options.tasks, options.seconds)
    result = {"cpu": time.process_time() - cpu, "seconds": time.monotonic() - started, "hold": holds, "settle": settles}
    _say(result)
    sys.stdin.readline()
    await writer.stop()


def _say(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


async def _calls(writer: Any, accounts: list[Any], tasks: int, seconds: float) -> tuple[list[float], list[float]]:
    """Calls one after another in each of `tasks` tasks, for `seconds`; how long each waited for its hold and its settle."""
    from billing.ledger.items import CallItem, HoldItem, UsageItem
    from iafactory.common import clock
    from iafactory.common.ids import uuid7

    holds: list[float] = []
    settles: list[float] = []
    deadline = time.monotonic() + seconds
    price = {"input": "0.59", "output": "0.79", "margin": "1.8", "usd_per_credit": "0.01"}

    async def caller() -> None:
        while time.monotonic() < deadline:
            now = clock.now()
            hold = HoldItem(
                id=uuid7(),
                account_id=random.choice(accounts),
                credits=Decimal("0.05"),
                worst_cost_usd=Decimal("0.0003"),
                opened_at=now,
                expires_at=now + timedelta(minutes=10),
                endpoint="/v1/chat/completions",
                provider="groq",
                model="llama-3.3-70b",
            )
            began = time.monotonic()
            verdict = await writer.hold_open(hold, timeout_seconds=30)
            opened = time.monotonic()
            assert verdict.verdict == "held", verdict
            usage = UsageItem(
                id=hold.id,
                started_at=now,
                finished_at=clock.now(),
                account_id=hold.account_id,
                endpoint=hold.endpoint,
                end="complete",
                plan="payg",
                requested_model="llama-3.3-70b",
                model="llama-3.3-70b",
                provider="groq",
                profile="groq-llama-3.3-70b",
                attempts=1,
                input_tokens=120,
                output_tokens=80,
                list_cost_usd=Decimal("0.000134"),
                cost_usd=Decimal("0.000134"),
                credits_held=hold.credits,
                credits_charged=Decimal("0.024120"),
                price=price,
                latency_ms=350,
                first_byte_ms=120,
            )
            sent = time.monotonic()
            settled = await writer.call_settle(
                CallItem(usage=usage, held=hold.credits, charge=usage.credits_charged), timeout_seconds=30
            )
            assert settled.verdict == "settled", settled
            holds.append(opened - began)
            settles.append(time.monotonic() - sent)

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(caller())
    return holds, settles


def _verify() -> bool:
    from django.db import connection

    from billing.ledger.models import UsageRecord
    from billing.ledger.verification import books_verify

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")  # the tables have just grown from nothing
    findings = [finding for finding in books_verify() if finding.differences]
    for finding in findings:
        print(f"BROKEN: {finding.check.name}: {finding.differences}")
    print(f"books of {UsageRecord.objects.count():,} calls: {'broken' if findings else 'verified'}")
    return not findings


if __name__ == "__main__":
    sys.exit(main())
