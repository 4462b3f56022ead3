"""Closing days of the books: a hash over each day's rows, chained to the day before, kept also outside the database.

Whoever changes a row of a closed day, or a seal, breaks the chain or differs from the copy.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Min

from .models import DaySeal, LedgerTransaction

FIRST_SEAL = "0" * 64
# A batch sent just before midnight may still be under way: its rows carry the old day.
CLOSING_MARGIN = timedelta(minutes=10)

_AT = """to_char(t.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US')"""
_TRANSACTIONS = f"""
    COPY (SELECT t.id, t.kind, t.idempotency_key, {_AT}, t.account_id, t.reason, t.actor FROM billing_ledgertransaction t
          WHERE t.at >= %(start)s AND t.at < %(end)s ORDER BY t.id) TO STDOUT
"""  # noqa: S608  constant text
_ENTRIES = """
    COPY (SELECT e.id, e.transaction_id, e.ledger_account_id, e.unit, e.amount, e.balance_after, e.lot_ids, e.lot_amounts
          FROM billing_ledgerentry e JOIN billing_ledgertransaction t ON t.id = e.transaction_id
          WHERE t.at >= %(start)s AND t.at < %(end)s ORDER BY e.id) TO STDOUT
"""


def _hash_rows(sql: str, day: date, digest: "hashlib._Hash") -> int:
    """Feed the rows of `day` to `digest` as PostgreSQL writes them, a line each; returns how many."""
    start = datetime.combine(day, time.min, UTC)
    rows = 0
    with connection.cursor() as cursor, cursor.cursor.copy(sql, {"start": start, "end": start + timedelta(days=1)}) as copy:
        for block in copy:
            data = bytes(block)
            rows += data.count(b"\n")
            digest.update(data)
    return rows


def day_hash(day: date) -> tuple[int, int, str]:
    """Number of transactions, of entries, and the SHA-256 over them, of one UTC day; memory does not grow with the day."""
    digest = hashlib.sha256()
    transactions = _hash_rows(_TRANSACTIONS, day, digest)
    digest.update(b"--\n")
    entries = _hash_rows(_ENTRIES, day, digest)
    return transactions, entries, digest.hexdigest()


def seal_of(previous: str, day: date, content_hash: str) -> str:
    """The seal of `day` after the seal `previous`."""
    return hashlib.sha256(f"{previous} {day.isoformat()} {content_hash}".encode()).hexdigest()


def seal_file() -> Path:
    """Where the seals are kept outside the database."""
    return Path(settings.BOOKS_SEAL_FILE)


def days_seal(*, now: datetime) -> list[DaySeal]:
    """Seal every day that has closed since the last seal; safe to repeat and at once. Returns the new seals."""
    made: list[DaySeal] = []
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('billing.ledger.days_seal'))")
        last = DaySeal.objects.order_by("-day").first()
        first_at = LedgerTransaction.objects.aggregate(first=Min("at"))["first"]
        if first_at is None:
            return made
        day = last.day + timedelta(days=1) if last else first_at.astimezone(UTC).date()
        previous = last.seal if last else FIRST_SEAL
        while datetime.combine(day + timedelta(days=1), time.min, UTC) + CLOSING_MARGIN <= now:
            transactions, entries, content_hash = day_hash(day)
            seal = DaySeal.objects.create(
                day=day,
                transactions=transactions,
                entries=entries,
                content_hash=content_hash,
                seal=seal_of(previous, day, content_hash),
                sealed_at=now,
            )
            made.append(seal)
            previous = seal.seal
            day += timedelta(days=1)
    if made:
        path = seal_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as copy:
            copy.writelines(f"{seal.day.isoformat()} {seal.content_hash} {seal.seal}\n" for seal in made)
    return made


def kept_seals() -> dict[str, str]:
    """Day to seal, from the copy outside the database; empty when there is none."""
    path = seal_file()
    if not path.is_file():
        return {}
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {parts[0]: parts[2] for parts in lines if len(parts) == 3}


def seal_differences() -> Iterator[tuple[str, str, str]]:
    """(day, expected, found) of every seal that its day's rows, the chain or the copy outside contradict."""
    previous = FIRST_SEAL
    outside = kept_seals()
    for seal in DaySeal.objects.order_by("day").iterator():
        day = seal.day.isoformat()
        transactions, entries, content_hash = day_hash(seal.day)
        if (transactions, entries, content_hash) != (seal.transactions, seal.entries, seal.content_hash):
            yield (
                day,
                f"{seal.transactions} + {seal.entries} rows {seal.content_hash}",
                f"{transactions} + {entries} rows {content_hash}",
            )
        if seal.seal != seal_of(previous, seal.day, seal.content_hash):
            yield day, "a seal that follows from the day before", seal.seal
        if day in outside and outside[day] != seal.seal:
            yield day, f"{outside[day]} (kept outside)", seal.seal
        previous = seal.seal
