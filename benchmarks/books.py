"""How long `verify_books` takes on a large company's books, and how much memory.

    .venv/bin/python -m iafactory.local.with_servers \\
        .venv/bin/python -m benchmarks.books --calls 1000000

Makes its own database beside the one of DATABASE_URL, fills it with consistent books (1,000 accounts, one lot each, every call
one credit), seals the days, verifies in a process of its own, prints seconds and peak memory, and drops the database.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg

PROJECT = Path(__file__).resolve().parents[1]
DATABASE = "iafactory_books_benchmark"

FILL = """
SET session_replication_role = replica;
INSERT INTO billing_account (id, kind, name, billing_email, country, currency, language, time_zone, status, status_reason,
                             overflow_allowed, created_at)
SELECT gen_random_uuid(), 'organisation', 'Account ' || n, '', 'DZ', 'DZD', 'en', 'Africa/Algiers', 'active', '', true,
       now() - interval '40 days' FROM generate_series(1, %(accounts)s) AS n;
INSERT INTO billing_wallet (account_id, balance, held, debt)
SELECT id, %(each)s, 0, 0 FROM billing_account;
INSERT INTO billing_ledgeraccount (id, kind, unit, account_id) SELECT id, 'wallet', 'credit', id FROM billing_account;
INSERT INTO billing_lot (id, account_id, kind, amount, remaining, held, paid_amount, paid_currency, effective_at, priority,
                         source, created_at, grant_key, booked_at)
SELECT gen_random_uuid(), id, 'purchase', 2 * %(each)s, %(each)s, 0, 0, '', now() - interval '40 days', 40, 'benchmark',
       now() - interval '40 days', id::text, now() - interval '40 days' FROM billing_account;
CREATE TEMP TABLE party AS
SELECT row_number() OVER () - 1 AS n, l.account_id, l.id AS lot_id, gen_random_uuid() AS grant_id FROM billing_lot l;
INSERT INTO billing_ledgertransaction (id, kind, idempotency_key, at, account_id, reason, actor)
SELECT grant_id, 'grant', 'grant:' || account_id, now() - interval '40 days', account_id, '', 'system' FROM party;
INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
SELECT grant_id, account_id, 'credit', 2 * %(each)s, 2 * %(each)s, ARRAY[lot_id], ARRAY[2 * %(each)s] FROM party;
INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount)
SELECT grant_id, ledger_account('issued', 'credit'), 'credit', -2 * %(each)s FROM party;
CREATE TEMP TABLE call AS
SELECT gen_random_uuid() AS id, p.account_id, p.lot_id, i / %(accounts)s AS nth,
       now() - interval '30 days' + (i * interval '29 days' / %(calls)s) AS at
FROM generate_series(0, %(calls)s - 1) AS i JOIN party p ON p.n = i %% %(accounts)s;
INSERT INTO billing_ledgertransaction (id, kind, at, account_id, reason, actor)
SELECT id, 'call', at, account_id, '', '' FROM call;
INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount, balance_after, lot_ids, lot_amounts)
SELECT id, account_id, 'credit', -1, 2 * %(each)s - nth - 1, ARRAY[lot_id], ARRAY[1.000000] FROM call ORDER BY at;
INSERT INTO billing_ledgerentry (transaction_id, ledger_account_id, unit, amount)
SELECT id, ledger_account('consumed', 'credit'), 'credit', 1 FROM call ORDER BY at;
INSERT INTO billing_usagerecord
SELECT id, at, at, account_id, NULL, NULL, 'payg', '/v1/chat/completions', 'complete', '', 'm', 'm', 'p', 'p/m', false, 1,
       false, false, 10, 0, 0, 10, 0, false, 0.005, 0.005, 1, 1, 0, 0, '{}', 100, 50 FROM call;
ANALYZE;
"""

SEAL = """
from billing.ledger.seals import days_seal
from iafactory.common import clock
print(len(days_seal(now=clock.now())), "days sealed")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=1_000)
    options = parser.parse_args()
    if options.calls % options.accounts:
        parser.error("--calls must be a multiple of --accounts")

    url = os.environ["DATABASE_URL"]
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    own_url = url.replace(f"/{name}?", f"/{DATABASE}?") if "?" in url else url.removesuffix(str(name)) + DATABASE
    environment = os.environ | {"DATABASE_URL": own_url, "BOOKS_SEAL_FILE": os.devnull}
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        server.execute(f"CREATE DATABASE {DATABASE}")
        try:
            _measure(own_url, environment, options.calls, options.accounts)
        finally:
            server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")


def _run(environment: dict[str, str], *command: str) -> None:
    subprocess.run([sys.executable, "manage.py", *command], cwd=PROJECT, env=environment, check=True)


def _measure(url: str, environment: dict[str, str], calls: int, accounts: int) -> None:
    _run(environment, "migrate", "--verbosity", "0")
    started = time.monotonic()
    with psycopg.connect(url, autocommit=True) as database, psycopg.ClientCursor(database) as cursor:
        cursor.execute(FILL, {"calls": calls, "accounts": accounts, "each": calls // accounts})
    print(f"filled with {calls:,} calls in {time.monotonic() - started:.0f} s", flush=True)
    _run(environment, "shell", "--verbosity", "0", "-c", SEAL)
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "manage.py", "verify_books"], cwd=PROJECT, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    print(
        f"verify_books: exit {os.waitstatus_to_exitcode(status)}, {time.monotonic() - started:.1f} s, "
        f"peak {usage.ru_maxrss / 1024:.0f} MB"
    )


if __name__ == "__main__":
    main()
