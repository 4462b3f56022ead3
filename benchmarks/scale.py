"""How fast the console and its reports answer on a large company's data, and what a long CSV costs in memory.

    VAR=/tmp/scale .venv/bin/python -m iafactory.local.with_servers \\
        .venv/bin/python -m benchmarks.scale --usage-rows 10000000

On an empty database it migrates, loads the catalogue and makes the company (`seed_demo`) first; on one that has calls it
measures those. Each page is opened once to warm up, then `--times` times, in this process, middleware and templates
included. The CSV is read from a server of its own whose memory is watched. Fails when a median is above `--target` ms.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil  # type: ignore[import-untyped]

PROJECT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--usage-rows", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--target", type=int, default=300, help="Milliseconds.")
    parser.add_argument("--csv-rows", type=int, default=1_000_000, help="About how many rows the CSV has; 0: none.")
    options = parser.parse_args()

    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    from billing.ledger.models import UsageRecord

    if not UsageRecord.objects.exists():
        call_command("load_catalog", verbosity=0)
        call_command("seed_demo", usage_rows=options.usage_rows, accounts=options.accounts)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), min(started_at)::date, max(started_at)::date FROM billing_usagerecord")
        rows, first, last = cursor.fetchone()
    print(f"{rows:,} calls from {first} to {last}; times in ms, warm, {options.times} of each\n")
    slow = _pages(options.times, options.target)
    if options.csv_rows:
        _csv(options.csv_rows)
    if slow:
        print(f"\nabove {options.target} ms: {', '.join(slow)}")
    return 1 if slow else 0


def _pages(times: int, target: int) -> list[str]:
    """Measure every page; returns those that are too slow."""
    from django.conf import settings
    from django.test import Client

    settings.ALLOWED_HOSTS = ["*"]
    client = Client()
    client.force_login(_operator())
    slow = []
    print(f"{'page':<44} {'median':>8} {'p95':>8} {'queries':>8}")
    for name, ask in _asked(client).items():
        median, p95, queries = _measure(ask, times)
        print(f"{name:<44} {median:>8.0f} {p95:>8.0f} {queries:>8}", flush=True)
        if median > target:
            slow.append(name)
    return slow


def _measure(ask: Callable[[], Any], times: int) -> tuple[float, float, int]:
    from django.db import connection

    queries = []

    def count(execute: Any, sql: str, *arguments: Any) -> Any:
        queries.append(sql)
        return execute(sql, *arguments)

    with connection.execute_wrapper(count):
        _opened(ask())
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        _opened(ask())
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken), sorted(taken)[max(round(len(taken) * 0.95) - 1, 0)], len(queries)


def _opened(answer: Any) -> None:
    """An HTTP answer must be a page; what a selector returns is enough as it is."""
    status = getattr(answer, "status_code", 200)
    if status != 200:
        raise SystemExit(f"{answer.request['PATH_INFO']} answered {status}")


def _operator() -> Any:
    from billing.accounts.models import User

    operator, _ = User.objects.get_or_create(email="scale@example.com", defaults={"is_staff": True, "is_superuser": True})
    return operator


def _asked(client: Any) -> dict[str, Callable[[], Any]]:
    """Name of each page to how it is opened."""
    from django.db import connection
    from django.urls import reverse

    from billing.accounts.models import Account
    from billing.ledger.usage_reports import By, usage_by_account, usage_by_day, usage_report
    from iafactory.common import clock
    from routing.costs import cost_breakdown

    today = clock.now().date()
    month, half_year = today - timedelta(days=29), today - timedelta(days=182)
    with connection.cursor() as cursor:
        cursor.execute("SELECT account_id FROM billing_usageday GROUP BY account_id ORDER BY sum(calls) DESC LIMIT 1")
        account = Account.objects.get(pk=cursor.fetchone()[0])
        cursor.execute("SELECT model FROM billing_usagedayofall GROUP BY model ORDER BY sum(calls) LIMIT 1")
        model = cursor.fetchone()[0]
        cursor.execute("SELECT provider FROM billing_usagedayofall WHERE provider <> '' GROUP BY 1 ORDER BY sum(calls) LIMIT 1")
        provider = cursor.fetchone()[0]
    usage = reverse("admin:billing_usagerecord_changelist")

    def page(path: str, **query: Any) -> Callable[[], Any]:
        return lambda: client.get(path, query)

    pages = {
        "operator home": page(reverse("admin:index")),
        "operator home, 90 days": page(reverse("admin:index"), since=today - timedelta(days=89), until=today),
        "operator home, half a year": page(reverse("admin:index"), since=half_year, until=today),
        "usage list": page(usage),
        "usage list, of the largest account": page(usage, account__id__exact=account.pk),
        "usage list, of the rarest model": page(usage, model=model),
        "usage list, of the rarest provider": page(usage, provider=provider),
        "usage list, of no model there is": page(usage, model="none"),
        "usage list, of one day": page(
            usage, started_at__gte=f"{month} 00:00Z", started_at__lt=f"{month + timedelta(1)} 00:00Z"
        ),
        "usage list, provider errors": page(usage, end__exact="provider_error"),
        "usage list, of a plan there is not": page(usage, plan="none"),
        "usage list, budget fallbacks": page(usage, budget_fallback__exact="1"),
        "usage list, of no key there is": page(usage, api_key__id__exact=account.pk),
        "usage list, last page offered": page(usage, p=200),
        "usage list, search by an e-mail": page(usage, q="demo-0001@example.com"),
        "account page of the largest": page(reverse("admin:billing_account_change", args=[account.pk])),
        "ledger entries": page(reverse("admin:billing_ledgerentry_changelist")),
        "ledger transactions": page(reverse("admin:billing_ledgertransaction_changelist")),
        "wallets": page(reverse("admin:billing_wallet_changelist")),
        "cost breakdown, 30 days": lambda: cost_breakdown(since=month, until=today),
        "cost breakdown, half a year": lambda: cost_breakdown(since=half_year, until=today),
        "report by day, model, provider; 30 days": lambda: usage_report(
            [By.DAY, By.MODEL, By.PROVIDER], since=month, until=today
        ),
        "top accounts, 30 days": lambda: usage_by_account(since=month, until=today),
        "top accounts, half a year": lambda: usage_by_account(since=half_year, until=today),
        "half a year by day": lambda: usage_by_day(since=half_year, until=today),
    }
    pages.update(_customer_pages(account, month, today))
    return pages


def _customer_pages(account: Any, since: Any, until: Any) -> dict[str, Callable[[], Any]]:
    """What the largest customer opens, with a key that may read the bills."""
    from django.test import Client

    from billing.accounts.services import api_key_create
    from billing.events.services import SYSTEM
    from billing.ledger.usage_reports import By, UsageScope, usage_report

    _, secret = api_key_create(account=account, created_by=None, name="Scale", scopes=["billing:read"], actor=SYSTEM)
    client = Client(headers={"authorization": f"Bearer {secret}"})
    first = client.get("/api/billing/usage", {"page_size": 100}).json()
    return {
        "GET /api/billing/me": lambda: client.get("/api/billing/me"),
        "GET /api/billing/usage": lambda: client.get("/api/billing/usage", {"page_size": 100}),
        "GET /api/billing/usage, next page": lambda: client.get("/api/billing/usage", {"cursor": first["next_cursor"]}),
        "GET /api/billing/usage, a model": lambda: client.get("/api/billing/usage", {"model": "none"}),
        "customer's report; 30 days": lambda: usage_report(
            [By.DAY, By.MODEL, By.KEY], since=since, until=until, scope=UsageScope(account_id=account.pk)
        ),
    }


def _csv(wanted: int) -> None:
    """Read the console's list of calls of as many days as make about `wanted` rows, and watch the server's memory."""
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT day, sum(calls) FROM billing_usagedayofall GROUP BY day ORDER BY day DESC")
        days, total = cursor.fetchall(), 0
    since = days[-1][0]
    for day, calls in days:
        total += calls
        if total >= wanted:
            since = day
            break
    operator = _operator()
    session = SessionStore()
    session[SESSION_KEY] = str(operator.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = operator.get_session_auth_hash()
    session.save()
    connection.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "iafactory.asgi:application", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(command, cwd=PROJECT, env=os.environ | {"ALLOWED_HOSTS": "127.0.0.1"})
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(f"{address}/health")
        process = psutil.Process(server.pid)
        cookies = {"sessionid": str(session.session_key)}
        httpx.get(f"{address}/admin/billing/usagerecord/", cookies=cookies, timeout=60)
        before = peak = process.memory_info().rss
        rows = size = 0
        started = time.monotonic()
        path = f"{address}/admin/billing/usagerecord/csv/?started_at__gte={since}%2000:00Z"
        with httpx.stream("GET", path, cookies=cookies, timeout=120) as answer:
            if answer.status_code != 200:
                raise SystemExit(f"the CSV answered {answer.status_code}")
            for chunk in answer.iter_bytes():
                rows += chunk.count(b"\n")
                size += len(chunk)
                peak = max(peak, process.memory_info().rss)
        print(
            f"\nCSV of {rows - 1:,} rows, {size / 2**20:.0f} MiB in {time.monotonic() - started:.0f} s; the server's memory: "
            f"{before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at most"
        )
    finally:
        server.terminate()
        server.wait()


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(address).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    sys.exit(main())
