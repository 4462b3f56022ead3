"""How long the renewal job takes for many due subscriptions, with their invoices and PDFs.

    VAR=/tmp/renewals .venv/bin/python -m iafactory.local.with_servers \\
        .venv/bin/python -m benchmarks.renewals --subscriptions 10000

Works in a database of its own beside the one of DATABASE_URL: accounts on a monthly credits plan whose next period is to be
invoiced. Two worker processes run the job at once; one is killed on the way and starts again. Then they render the PDFs. Prints
seconds, and the CPU time of workers and PostgreSQL, which other load on the machine does not change much; fails unless every
subscription has exactly one invoice and the books verify.
"""

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg

DATABASE = "iafactory_renewals_benchmark"
BATCH = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscriptions", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", choices=("renew", "render"), help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        _django()
        _work(options)
        return 0
    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {DATABASE}")
        try:
            os.environ["DATABASE_URL"] = url.replace("/iafactory?", f"/{DATABASE}?")
            return _measure(options)
        finally:
            from django.db import connections

            connections.close_all()
            server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")


def _measure(options: argparse.Namespace) -> int:
    _django()
    from django.core.management import call_command

    from billing.invoices.models import Invoice, InvoicePdf
    from billing.ledger.verification import books_verify
    from billing.subscriptions.models import JobRun

    call_command("migrate", verbosity=0)
    _seed(options.subscriptions)
    count = options.subscriptions
    postgres = _postgres()
    renewing, renewing_cpu = time.monotonic(), _cpu(postgres)
    workers = [_worker(options, "renew", number) for number in range(options.workers)]
    _wait_for(lambda: Invoice.objects.exclude(state="draft").count() >= count // 3)
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    print(f"killed one of {options.workers} workers after {Invoice.objects.exclude(state='draft').count()} invoices")
    workers[0] = _worker(options, "renew", 0)
    failed = [worker.wait() for worker in workers]
    renewing, renewing_cpu = time.monotonic() - renewing, _cpu(postgres) - renewing_cpu
    runs = [(run.due, run.done, run.failed, run.finished_at is not None) for run in JobRun.objects.order_by("started_at")]
    rendering, rendering_cpu = time.monotonic(), _cpu(postgres)
    failed += [worker.wait() for worker in [_worker(options, "render", number) for number in range(options.workers)]]
    rendering, rendering_cpu = time.monotonic() - rendering, _cpu(postgres) - rendering_cpu
    invoices, periods = Invoice.objects.count(), Invoice.objects.values("subscription_id", "period_start").distinct().count()
    pdfs = InvoicePdf.objects.count()
    wrong = [finding.check.name for finding in books_verify() if finding.differences]
    for due, done, lost, finished in runs:
        print(f"run: {done} of {due} done, {lost} failed, {'finished' if finished else 'killed'}")
    print(f"renewed {count} subscriptions in {renewing:.1f} s ({1000 * renewing_cpu / count:.1f} ms of CPU each)")
    print(f"rendered {pdfs} PDFs in {rendering:.1f} s ({1000 * rendering_cpu / count:.1f} ms of CPU each)")
    total = renewing + rendering
    cpu = renewing_cpu + rendering_cpu
    print(f"together {total:.1f} s; 10,000 at this pace: {10_000 * total / count / 60:.1f} min")
    print(f"together {cpu:.1f} s of CPU; 10,000 on two cores of one's own: {10_000 * cpu / count / 2 / 60:.1f} min")
    print(f"invoices {invoices}, periods {periods}, books {'WRONG: ' + ', '.join(wrong) if wrong else 'verify'}")
    return 0 if not wrong and not any(failed) and invoices == periods == pdfs == count else 1


def _worker(options: argparse.Namespace, work: str, number: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.renewals", "--work", work, "--number", str(number)]
    return subprocess.Popen([*command, "--workers", str(options.workers)])


def _work(options: argparse.Namespace) -> None:
    if options.work == "renew":
        from billing.subscriptions.jobs import renewals_run

        renewals_run()
        return
    from billing.invoices.delivery import invoice_pdf_ensure
    from billing.invoices.models import Invoice

    for invoice in Invoice.objects.order_by("sequence").iterator():
        if invoice.sequence % options.workers == options.number:
            invoice_pdf_ensure(invoice=invoice)


def _seed(count: int) -> None:
    from billing.accounts.models import Account
    from billing.ledger.models import LedgerAccount, Wallet
    from billing.payments.defaults import selling_write
    from billing.plans.catalog import catalog_writing
    from billing.plans.models import Plan, PlanPrice
    from billing.subscriptions.models import Subscription

    with catalog_writing() as writer:
        selling_write(writer)
    now = datetime.now(UTC)
    plan = Plan.objects.create(
        code="pro", family="credits", name="Pro", visibility="public", billing_mode="credits", period_credits=Decimal(2000)
    )
    price = PlanPrice.objects.create(plan=plan, currency="DZD", amount=Decimal(5000), effective_from=now - timedelta(days=90))
    start, end = now - timedelta(days=29), now + timedelta(days=1)
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        accounts = [Account(kind="organisation", name=f"Account {number}", language="fr") for number in numbers]
        Account.objects.bulk_create(accounts)
        Wallet.objects.bulk_create([Wallet(account=account) for account in accounts])
        LedgerAccount.objects.bulk_create(
            [LedgerAccount(id=account.pk, kind="wallet", unit="credit", account=account) for account in accounts]
        )
        Subscription.objects.bulk_create(
            [
                Subscription(
                    account=account,
                    plan=plan,
                    price=price,
                    state="active",
                    current_period_start=start,
                    current_period_end=end,
                    billing_anchor=start,
                    paid_through=end,
                )
                for account in accounts
            ]
        )


def _postgres() -> psutil.Process:
    """The server's first process."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = psutil.Process(cursor.fetchone()[0])
    parent = backend.parent()
    assert parent is not None
    return parent


def _cpu(postgres: psutil.Process) -> float:
    """CPU seconds of workers that ended and of PostgreSQL so far."""
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = postgres.cpu_times()
    seconds = own.ru_utime + own.ru_stime + ended.children_user + ended.children_system
    for process in postgres.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return float(seconds)


def _wait_for(condition: Any) -> None:
    while not condition():
        time.sleep(0.05)


def _django() -> None:
    import django

    # Nobody listens to the queue here; what is queued stays a row.
    os.environ["CELERY_BROKER_URL"] = "memory://"
    django.setup()


if __name__ == "__main__":
    sys.exit(main())
