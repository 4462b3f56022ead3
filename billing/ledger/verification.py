"""Recomputing the books: every cached figure from the rows behind it, in SQL, so that memory does not grow with the data."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from django.db import connection, transaction

from iafactory.common import clock

from .archive import DIGEST, checkpoint_differences
from .models import BooksVerification
from .seals import seal_differences


@dataclass(frozen=True, slots=True)
class Check:
    """A rule of the books. `sql` selects (what, expected, found) of each row that breaks it."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: the first rows that break it, none when it holds."""

    check: Check
    differences: tuple[tuple[object, ...], ...]
    seconds: float


# Calls of the ledger that are not in the log, and what the archives of months that are not either say of their calls.
_AWAY = """
    WITH away AS (
        SELECT count(*) > 0 AS any, max(last_booked_at) AS until, coalesce(sum(calls), 0) AS calls,
               coalesce(sum(credits_charged), 0) AS credits, coalesce(sum(digest), 0) AS digest
        FROM billing_usagearchive WHERE state IN ('detached', 'dropped'))
"""

CHECKS = (
    Check(
        "every transaction sums to zero in each unit",
        """SELECT transaction_id || ' ' || unit, 0, sum(amount) FROM billing_ledgerentry
           GROUP BY transaction_id, unit HAVING sum(amount) <> 0""",
    ),
    Check(
        "every wallet balance is the sum of its ledger entries",
        """SELECT w.account_id, coalesce(e.total, 0), w.balance FROM billing_wallet w
           LEFT JOIN (SELECT ledger_account_id, sum(amount) AS total FROM billing_ledgerentry
                      WHERE unit = 'credit' GROUP BY ledger_account_id) e ON e.ledger_account_id = w.account_id
           WHERE w.balance <> coalesce(e.total, 0)""",
    ),
    Check(
        "every debt is what the ledger says",
        """SELECT w.account_id, coalesce(e.total, 0), w.debt FROM billing_wallet w
           LEFT JOIN (SELECT a.account_id, -sum(e.amount) AS total FROM billing_ledgeraccount a
                      JOIN billing_ledgerentry e ON e.ledger_account_id = a.id WHERE a.kind = 'debt'
                      GROUP BY a.account_id) e ON e.account_id = w.account_id
           WHERE w.debt <> coalesce(e.total, 0)""",
    ),
    Check(
        "every wallet is the sum of its lots",
        """SELECT w.account_id, coalesce(l.remaining, 0) || ' held ' || coalesce(l.held, 0), w.balance || ' held ' || w.held
           FROM billing_wallet w
           LEFT JOIN (SELECT account_id, sum(remaining) FILTER (WHERE booked_at IS NOT NULL) AS remaining, sum(held) AS held
                      FROM billing_lot GROUP BY account_id) l ON l.account_id = w.account_id
           WHERE w.balance <> coalesce(l.remaining, 0) OR w.held <> coalesce(l.held, 0)""",
    ),
    Check(
        "every lot has left what its ledger entries left in it",
        """SELECT l.id, coalesce(m.total, 0), l.remaining FROM billing_lot l
           LEFT JOIN (SELECT p.lot_id, sum(sign(e.amount) * p.amount) AS total FROM billing_ledgerentry e
                      CROSS JOIN LATERAL unnest(e.lot_ids, e.lot_amounts) AS p (lot_id, amount)
                      WHERE e.lot_ids IS NOT NULL GROUP BY p.lot_id) m ON m.lot_id = l.id
           WHERE l.booked_at IS NOT NULL AND l.remaining <> coalesce(m.total, 0)""",
    ),
    Check(
        "every wallet entry names the lots it moved, in full",
        """SELECT e.id, abs(e.amount), (SELECT sum(a) FROM unnest(e.lot_amounts) AS a) FROM billing_ledgerentry e
           WHERE e.balance_after IS NOT NULL
             AND abs(e.amount) IS DISTINCT FROM (SELECT sum(a) FROM unnest(e.lot_amounts) AS a)""",
    ),
    Check(
        "every balance after an entry is the sum up to it",
        """SELECT id, total, balance_after FROM (
               SELECT id, balance_after, sum(amount) OVER (PARTITION BY ledger_account_id ORDER BY id) AS total
               FROM billing_ledgerentry WHERE balance_after IS NOT NULL) s
           WHERE total <> balance_after""",
    ),
    Check(
        "every lot holds what open holds pinned in it",
        """SELECT l.id, coalesce(h.amount, 0), l.held FROM billing_lot l
           LEFT JOIN (SELECT p.lot_id, sum(p.amount) AS amount FROM billing_hold h
                      CROSS JOIN LATERAL unnest(h.lot_ids, h.lot_amounts) AS p (lot_id, amount) GROUP BY p.lot_id) h
             ON h.lot_id = l.id
           WHERE l.held <> coalesce(h.amount, 0)""",
    ),
    Check(
        "every hold is pinned in full",
        """SELECT id, credits, coalesce((SELECT sum(a) FROM unnest(lot_amounts) AS a), 0) FROM billing_hold
           WHERE credits <> coalesce((SELECT sum(a) FROM unnest(lot_amounts) AS a), 0)""",
    ),
    Check(
        "every call in the usage log was charged what the ledger says",
        """SELECT u.id, u.credits_charged, -e.amount FROM billing_usagerecord u
           LEFT JOIN billing_ledgerentry e ON e.transaction_id = u.id AND e.ledger_account_id = u.account_id
           WHERE u.credits_charged <> coalesce(-e.amount, 0)""",
    ),
    Check(
        "every call in the ledger is in the usage log",
        f"""{_AWAY} SELECT t.id, 'a usage row', 'none' FROM billing_ledgertransaction t
            LEFT JOIN billing_usagerecord u ON u.id = t.id
            WHERE t.kind = 'call' AND u.id IS NULL AND t.at > coalesce((SELECT until FROM away), '-infinity')""",  # noqa: S608
    ),
    Check(
        "every call that left the usage log is in an archive",
        f"""{_AWAY}, missing AS (
            SELECT count(*) AS calls, coalesce(sum(m.credits), 0) AS credits, coalesce(sum(m.digest), 0) AS digest FROM (
                SELECT coalesce(-e.amount, 0) AS credits,
                       {DIGEST.format(id="t.id", account="t.account_id", credits="coalesce(-e.amount, 0)")} AS digest
                FROM billing_ledgertransaction t
                LEFT JOIN billing_usagerecord u ON u.id = t.id
                LEFT JOIN billing_ledgerentry e ON e.transaction_id = t.id AND e.ledger_account_id = t.account_id
                WHERE t.kind = 'call' AND u.id IS NULL AND t.at <= (SELECT until FROM away)) AS m)
            SELECT 'all archives', a.calls || ' calls, ' || a.credits || ' credits, digest ' || a.digest,
                   m.calls || ' calls, ' || m.credits::numeric(26, 6) || ' credits, digest ' || m.digest
            FROM away a, missing m
            WHERE a.any AND (a.calls, a.credits, a.digest) IS DISTINCT FROM (m.calls, m.credits, m.digest)""",  # noqa: S608
    ),
)


_FURTHER: list[Check] = []


def checks_register(*checks: Check) -> None:
    """Have the rules of a package above verified with the others; registering again changes nothing."""
    _FURTHER.extend(check for check in checks if check not in _FURTHER)


def number_of_checks() -> int:
    """How many findings `books_verify` yields."""
    return len(CHECKS) + len(_FURTHER) + len(_CHAINS)


SEALS = Check("every sealed day has the rows it was sealed with, in an unbroken chain", "")
CHECKPOINTS = Check("every archived month has the checkpoint that follows from the one before and its seal", "")
_CHAINS = ((SEALS, seal_differences), (CHECKPOINTS, checkpoint_differences))


def books_verify(*, first: int = 5) -> Iterator[Finding]:
    """Run every check on one snapshot of the database, yielding each with at most `first` differences."""
    own_transaction = not connection.in_atomic_block
    with transaction.atomic(), connection.cursor() as cursor:
        if own_transaction:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Sums over millions of rows: hash them in memory rather than in files.
        cursor.execute("SET LOCAL work_mem = '128MB'")
        for check in (*CHECKS, *_FURTHER):
            started = time.monotonic()
            cursor.execute(f"SELECT * FROM ({check.sql}) AS differences LIMIT %s", [first])  # noqa: S608  constant text
            yield Finding(check, tuple(cursor.fetchall()), time.monotonic() - started)
        for check, chain_differences in _CHAINS:
            started = time.monotonic()
            differences = tuple(islice(chain_differences(), first))
            yield Finding(check, differences, time.monotonic() - started)


def verification_run(*, report: Callable[[int, Finding], None] | None = None) -> BooksVerification:
    """Verify the books and keep the result for the console; `report` hears of each check (its number, its finding)."""
    started_at = clock.now()
    findings = []
    for number, finding in enumerate(books_verify(), start=1):
        findings.append(finding)
        if report is not None:
            report(number, finding)
    return BooksVerification.objects.create(
        started_at=started_at,
        finished_at=clock.now(),
        passed=not any(finding.differences for finding in findings),
        checks=[
            {"name": finding.check.name, "differences": [[str(part) for part in row] for row in finding.differences]}
            for finding in findings
        ],
    )
