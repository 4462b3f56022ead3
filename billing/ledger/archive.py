"""Moving old months of the usage log into files, so that the log stays as large as its retention.

A month goes in steps, each a transaction of its own that begins with the month's state, so that a run that is killed, repeated
or late goes on where the last one ended, and two at once do not meet:

    file written -> read back and compared -> cut off from the log -> compared once more -> dropped

What stays in the database is the checkpoint (`UsageArchive`), from which `verify_books` goes on, and the sums of the days,
which reports read. Calls that come late for a month that is away stay in the log's default partition.
"""

import csv
import gzip
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.db import OperationalError, connection, transaction

from billing.events.services import SYSTEM, Actor, event_record
from billing.plans.models import Plan

from .models import DaySeal, Hold, UsageArchive, UsageRecord
from .rollups import day_begin, usage_day_sum

logger = logging.getLogger(__name__)

FIRST_CHECKPOINT = "0" * 64
# Cutting a month off locks the whole log for an instant. Calls settle behind whoever waits for that lock, so it is not waited
# for long: better another try when the long reader is gone.
DETACH_LOCK_TIMEOUT_MS = 400
DETACH_TRIES = 30
DETACH_PAUSE_SECONDS = 10
# Counters that Redis lost are rebuilt from the running month, alerts and invoices look back two.
LEAST_MONTHS = 3

_COLUMNS = tuple(str(field.column) for field in UsageRecord._meta.concrete_fields)
_PARTITION = re.compile(r"billing_usagerecord_(\d{4})_(\d{2})")
# What both the log and the ledger say of a call, as a number that can be summed up in any order.
DIGEST = """('x' || left(encode(sha256(convert_to({id}::text || {account}::text || {credits}::numeric(20, 6)::text, 'UTF8')),
                                'hex'), 15))::bit(60)::bigint"""
_FIGURES = f"""
    SELECT count(*), count(*) FILTER (WHERE "end" <> 'process_died'), coalesce(sum(credits_charged), 0),
           coalesce(sum(list_cost_usd), 0), coalesce(sum(cost_usd), 0),
           coalesce(sum({DIGEST.format(id="id", account="account_id", credits="credits_charged")})
                    FILTER (WHERE "end" <> 'process_died'), 0)
    FROM {{table}}
"""  # noqa: S608  constant text
_AGAINST_LEDGER = """
    SELECT u.id::text, u.credits_charged || CASE WHEN t.id IS NULL THEN ', not booked' ELSE ', booked' END, -e.amount
    FROM {table} u
    LEFT JOIN billing_ledgertransaction t ON t.id = u.id AND t.kind = 'call'
    LEFT JOIN billing_ledgerentry e ON e.transaction_id = u.id AND e.ledger_account_id = u.account_id
    WHERE u.credits_charged <> coalesce(-e.amount, 0) OR (t.id IS NULL) <> (u."end" = 'process_died') LIMIT 5
"""
_LAST_BOOKED = """
    SELECT max(t.at) FROM {table} u JOIN billing_ledgertransaction t ON t.id = u.id AND t.kind = 'call'
"""
_DAYS_THAT_DIFFER = """
    SELECT day FROM (
        SELECT (started_at AT TIME ZONE 'UTC')::date AS day, count(*) AS calls, sum(credits_charged) AS credits,
               sum(cost_usd) AS cost, sum(list_cost_usd) AS list_cost
        FROM {table} GROUP BY 1) l
    FULL JOIN (
        SELECT day, sum(calls) AS calls, sum(credits_charged) AS credits, sum(cost_usd) AS cost, sum(list_cost_usd) AS list_cost
        FROM billing_usageday WHERE day >= %(begin)s AND day < %(end)s GROUP BY day) d USING (day)
    WHERE (l.calls, l.credits, l.cost, l.list_cost) IS DISTINCT FROM (d.calls, d.credits, d.cost, d.list_cost) ORDER BY day
"""


class ArchiveBusy(Exception):
    """Another process is archiving at this moment."""


class ArchiveWaits(Exception):
    """A month cannot go yet; nothing was changed. The message says what it waits for."""


class ArchiveDiffers(Exception):
    """File, log, ledger and sums of a month do not agree; the month stays where it is. The message says how."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a month adds up to. `digest` is of its calls, those of dead processes left out."""

    rows: int
    calls: int
    credits_charged: Decimal
    list_cost_usd: Decimal
    cost_usd: Decimal
    digest: Decimal


def archive_folder() -> Path:
    """Where the files are."""
    return Path(settings.USAGE_ARCHIVE_FOLDER)


def retention_months() -> int | None:
    """How many whole months before the running one the log keeps; None: all of them.

    Never fewer than `LEAST_MONTHS`, nor than the longest period of a plan and one more: allowances and invoices of a period are
    reckoned from its calls.
    """
    if not settings.USAGE_RETENTION_MONTHS:
        return None
    longest = 0
    for interval, count in Plan.objects.values_list("interval", "interval_count").distinct():
        months = {Plan.Interval.MONTH: count, Plan.Interval.DAY: -(-count // 28)}.get(Plan.Interval(interval), 0)
        longest = max(longest, months)
    return max(int(settings.USAGE_RETENTION_MONTHS), longest + 1, LEAST_MONTHS)


def months_due(*, now: datetime) -> list[date]:
    """First days of the months that are in the log and older than its retention, oldest first.

    Months that ended before the books began hold nothing and are never sealed: they are not waited for.
    """
    keep = retention_months()
    if keep is None:
        return []
    running = now.astimezone(UTC).date().replace(day=1)
    first_kept = running
    for _ in range(keep):
        first_kept = (first_kept - timedelta(days=1)).replace(day=1)
    state = dict(UsageArchive.objects.values_list("month", "state"))
    done = {month for month, name in state.items() if name in (UsageArchive.State.DROPPED, UsageArchive.State.RESTORED)}
    begun = DaySeal.objects.order_by("day").values_list("day", flat=True).first()
    months = {*_partitions(), *state} - done
    return sorted(month for month in months if month < first_kept and (begun is None or _next(month) > begun))


def usage_archive(*, now: datetime) -> list[date]:
    """Archive every month that is due; returns those that left the log. Safe to repeat, at once, and after a kill.

    Raises ArchiveBusy, ArchiveWaits or ArchiveDiffers; months before that one are done all the same.
    """
    done: list[date] = []
    if retention_months() is None:
        return done
    _default_partition_sort(before=now.astimezone(UTC).date().replace(day=1))
    for month in months_due(now=now):
        usage_month_archive(month, now=now)
        logger.info("the usage log of %s is archived and dropped", f"{month:%Y-%m}")
        done.append(month)
    return done


def usage_month_archive(month: date, *, now: datetime) -> None:
    """Take one month all the way out of the log. Raises ArchiveBusy, ArchiveWaits, ArchiveDiffers."""
    while usage_month_step(month, now=now) not in (UsageArchive.State.DROPPED, UsageArchive.State.RESTORED):
        pass


def usage_month_step(month: date, *, now: datetime) -> str:
    """Take a month one step further, in one transaction; returns its state then. Raises as `usage_month_archive`."""
    differences: list[str] = []
    detaching = False
    with transaction.atomic():
        _lock()
        archive = UsageArchive.objects.select_for_update().filter(pk=month).first()
        if archive is None:
            archive = _write(month, now=now)
        elif archive.state == UsageArchive.State.WRITTEN:
            differences = _verify(archive, now=now)
        elif archive.state == UsageArchive.State.VERIFIED:
            if not (differences := _file_differences(archive)):
                detaching = True
            else:
                archive.delete()
        elif archive.state == UsageArchive.State.DETACHED:
            differences = _drop(archive, now=now)
    if detaching:
        return _detach(month, now=now)
    if differences:
        raise ArchiveDiffers(f"{month:%Y-%m}: {'; '.join(differences)}")
    return str(archive.state)


def usage_month_restore(month: date, *, now: datetime, actor: Actor = SYSTEM, reason: str = "") -> UsageArchive:
    """Bring a dropped month back into the log from its file; it stays until `usage_month_release`.

    Raises ArchiveBusy, ArchiveWaits (it is in the log), ArchiveDiffers (not the file that was archived).
    """
    with transaction.atomic():
        _lock()
        archive = UsageArchive.objects.select_for_update().filter(pk=month).first()
        if archive is None or archive.state != UsageArchive.State.DROPPED:
            raise ArchiveWaits(f"{month:%Y-%m} is not away.")
        if differences := _file_differences(archive):
            raise ArchiveDiffers(f"{month:%Y-%m}: {'; '.join(differences)}")
        table = _table(month)
        _execute(f"CREATE TABLE {table} (LIKE billing_usagerecord INCLUDING ALL)")
        columns = _load(table, archive_folder() / archive.file)
        if _content_sha256(table, columns) != archive.content_sha256:
            raise ArchiveDiffers(f"{month:%Y-%m}: the restored rows are not those that were archived")
        _attach(month)
        _move(archive, UsageArchive.State.RESTORED, actor=actor, reason=reason, restored_at=now)
    return archive


def usage_month_release(month: date, *, now: datetime, actor: Actor = SYSTEM, reason: str = "") -> UsageArchive:
    """Drop a restored month again; its file is as it was. Raises ArchiveBusy, ArchiveWaits, ArchiveDiffers."""
    with transaction.atomic():
        _lock()
        archive = UsageArchive.objects.get(pk=month)
        if archive.state != UsageArchive.State.RESTORED:
            raise ArchiveWaits(f"{month:%Y-%m} was not restored.")
        differences = _file_differences(archive)
        if _content_sha256(_table(month), _columns_of(archive)) != archive.content_sha256:
            differences.append("calls came late for it: it stays in the log")
        if differences:
            raise ArchiveDiffers(f"{month:%Y-%m}: {'; '.join(differences)}")
    _detach(month, now=now, actor=actor, reason=reason)
    usage_month_archive(month, now=now)
    archive.refresh_from_db()
    return archive


def archive_file_differences(archive: UsageArchive) -> list[str]:
    """What speaks against an archive's file: all of it is read, added up and, for a month away, held against the ledger."""
    differences = _file_differences(archive)
    if differences:
        return differences
    figures, content_sha256 = figures_of_file(archive_folder() / archive.file)
    differences = _figures_differ(archive, figures, content_sha256)
    if not differences and archive.state in UsageArchive.AWAY:
        with transaction.atomic():
            _execute("CREATE TEMP TABLE usage_archive_read (LIKE billing_usagerecord) ON COMMIT DROP")
            _load("usage_archive_read", archive_folder() / archive.file)
            _execute("ANALYZE usage_archive_read")
            differences = _ledger_differences("usage_archive_read")
            _execute("DROP TABLE usage_archive_read")
    return differences


def checkpoint_differences() -> Iterator[tuple[str, str, str]]:
    """(month, expected, found) of every checkpoint that its figures, the chain, the day seals or its copy contradict."""
    previous = FIRST_CHECKPOINT
    archives = UsageArchive.objects.exclude(state=UsageArchive.State.WRITTEN).order_by("verified_at", "month")
    for archive in archives:
        if archive.previous != previous:
            yield str(archive), f"the checkpoint before, {previous}", archive.previous
        if archive.checkpoint != checkpoint_of(archive):
            yield str(archive), checkpoint_of(archive), archive.checkpoint
        seal = DaySeal.objects.filter(pk=archive.sealed_day).values_list("seal", flat=True).first()
        if seal != archive.seal:
            yield str(archive), f"the seal {archive.seal}", str(seal)
        kept = _manifest(archive)
        if kept.is_file() and (copy := json.loads(kept.read_text(encoding="ascii"))["checkpoint"]) != archive.checkpoint:
            yield str(archive), f"{copy} (kept outside)", archive.checkpoint
        previous = archive.checkpoint


def checkpoint_of(archive: UsageArchive) -> str:
    """SHA-256 over an archive's figures, the checkpoint before it and the seal of its last day."""
    told = (
        archive.previous,
        f"{archive.month:%Y-%m}",
        archive.content_sha256,
        f"{archive.rows} {archive.calls} {archive.credits_charged:.6f}",
        f"{archive.list_cost_usd:.9f} {archive.cost_usd:.9f} {archive.digest:.0f}",
        f"{archive.sealed_day} {archive.seal}",
    )
    return hashlib.sha256(" ".join(told).encode()).hexdigest()


def figures_of_file(path: Path) -> tuple[Figures, str]:
    """Figures of an archive's file, reckoned from its rows without the database, and the SHA-256 of its content."""
    rows = calls = digest = 0
    credits_charged = list_cost = cost = Decimal(0)
    content = hashlib.sha256()

    def lines() -> Iterator[str]:
        with gzip.open(path, "rb") as stream:
            for line in stream:
                content.update(line)
                yield line.decode()

    reader = csv.reader(lines())
    head = next(reader)
    at = {name: head.index(name) for name in head}
    for row in reader:
        rows += 1
        credits_charged += Decimal(row[at["credits_charged"]])
        list_cost += Decimal(row[at["list_cost_usd"]])
        cost += Decimal(row[at["cost_usd"]])
        if row[at["end"]] != UsageRecord.End.PROCESS_DIED:
            calls += 1
            told = row[at["id"]] + row[at["account_id"]] + row[at["credits_charged"]]
            digest += int(hashlib.sha256(told.encode()).hexdigest()[:15], 16)
    return Figures(rows, calls, credits_charged, list_cost, cost, Decimal(digest)), content.hexdigest()


def _lock() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext('billing.ledger.archive'))")
        if not cursor.fetchone()[0]:
            raise ArchiveBusy("Another process is archiving at this moment.")


def _write(month: date, *, now: datetime) -> UsageArchive:
    """The first step: the month's file, and what the database says it holds."""
    table, last_day = _table(month), _next(month) - timedelta(days=1)
    if month not in _partitions():
        raise ArchiveWaits(f"{month:%Y-%m} has no partition of its own.")
    if Hold.objects.filter(opened_at__lt=day_begin(_next(month))).exists():
        raise ArchiveWaits(f"A hold of {month:%Y-%m} or before is still open.")
    seal = DaySeal.objects.filter(pk=last_day).first()
    if seal is None:
        raise ArchiveWaits(f"The books of {last_day} are not sealed yet.")
    for day in _days_that_differ(month):
        usage_day_sum(day, now=now)
    name = f"usage-{month:%Y-%m}.csv.gz"
    folder = archive_folder()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        content_sha256 = _export(table, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / name)
    _folder_sync(folder)
    figures = _figures(table)
    return UsageArchive.objects.create(
        month=month,
        file=name,
        file_bytes=(folder / name).stat().st_size,
        file_sha256=_file_sha256(folder / name),
        content_sha256=content_sha256,
        **{field: getattr(figures, field) for field in Figures.__slots__},
        last_booked_at=_one(_LAST_BOOKED.format(table=table))[0],
        sealed_day=last_day,
        seal=seal.seal,
        previous="",
        checkpoint="",
        written_at=now,
    )


def _verify(archive: UsageArchive, *, now: datetime) -> list[str]:
    """The second step: read the file back, hold it against log, ledger and sums, and write the checkpoint.

    What differs has the file written anew by the next run; returns how.
    """
    table = _table(archive.month)
    differences = _file_differences(archive)
    if not differences:
        figures, content_sha256 = figures_of_file(archive_folder() / archive.file)
        differences = _figures_differ(archive, figures, content_sha256) + _ledger_differences(table)
        differences += [f"the sums of {day} are not those of the log" for day in _days_that_differ(archive.month)]
    if differences:
        archive.delete()
        return differences
    before = UsageArchive.objects.exclude(state=UsageArchive.State.WRITTEN).order_by("-verified_at", "-month").first()
    archive.previous = before.checkpoint if before else FIRST_CHECKPOINT
    archive.checkpoint = checkpoint_of(archive)
    manifest = {
        "month": str(archive),
        "file": archive.file,
        "file_sha256": archive.file_sha256,
        "content_sha256": archive.content_sha256,
        **{field: str(getattr(archive, field)) for field in Figures.__slots__},
        "sealed_day": archive.sealed_day.isoformat(),
        "seal": archive.seal,
        "previous": archive.previous,
        "checkpoint": archive.checkpoint,
    }
    _manifest(archive).write_text(json.dumps(manifest, indent=2) + "\n", encoding="ascii")
    archive.verified_at = now
    archive.state = UsageArchive.State.VERIFIED
    archive.save()
    return []


def _detach(month: date, *, now: datetime, actor: Actor = SYSTEM, reason: str = "") -> str:
    """The third step: cut the month off from the log, without stalling those who settle calls."""
    for attempt in range(DETACH_TRIES):
        try:
            with transaction.atomic():
                _lock()
                archive = UsageArchive.objects.select_for_update().get(pk=month)
                if archive.state not in (UsageArchive.State.VERIFIED, UsageArchive.State.RESTORED):
                    return str(archive.state)
                _execute(f"SET LOCAL lock_timeout = {DETACH_LOCK_TIMEOUT_MS}")
                _execute(f"ALTER TABLE billing_usagerecord DETACH PARTITION {_table(month)}")
                _execute("SET LOCAL lock_timeout = DEFAULT")
                _move(archive, UsageArchive.State.DETACHED, actor=actor, reason=reason, detached_at=now)
                return str(archive.state)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", "") != "55P03":  # lock_not_available
                raise
            logger.info("the usage log is being read; cutting off %s later (%d)", f"{month:%Y-%m}", attempt + 1)
            time.sleep(DETACH_PAUSE_SECONDS)
    raise ArchiveWaits(f"The usage log is read all the time: {month:%Y-%m} could not be cut off.")


def _drop(archive: UsageArchive, *, now: datetime) -> list[str]:
    """The last step: nothing writes to the month any more. What the file holds is dropped; else it goes back into the log."""
    table = _table(archive.month)
    if _content_sha256(table, _columns_of(archive)) == archive.content_sha256:
        _execute(f"DROP TABLE {table}")
        _move(archive, UsageArchive.State.DROPPED, actor=SYSTEM, reason="", dropped_at=now)
        return []
    _attach(archive.month)
    if archive.restored_at is not None:
        _move(archive, UsageArchive.State.RESTORED, actor=SYSTEM, reason="", restored_at=now)
    else:
        archive.delete()
    return ["a call was settled after the file was written: the month is back in the log"]


def _move(archive: UsageArchive, state: UsageArchive.State, *, actor: Actor, reason: str, **times: datetime) -> None:
    before = archive.state
    archive.state = state
    for field, at in times.items():
        setattr(archive, field, at)
    archive.save(update_fields=["state", *times])
    event_record(
        kind=f"usage_archive.{state}",
        object_type="usagearchive",
        object_id=archive.pk,
        actor=actor,
        before={"state": str(before)},
        after={"state": str(state), "checkpoint": archive.checkpoint},
        reason=reason,
    )


def _file_differences(archive: UsageArchive) -> list[str]:
    path = archive_folder() / archive.file
    if not path.is_file():
        return [f"the file {archive.file} is not in the archive folder"]
    found = _file_sha256(path)
    return [] if found == archive.file_sha256 else [f"the file {archive.file} is {found}, not {archive.file_sha256}"]


def _figures_differ(archive: UsageArchive, figures: Figures, content_sha256: str) -> list[str]:
    told = [
        f"{field}: {getattr(archive, field)} in the log, {getattr(figures, field)} in the file"
        for field in Figures.__slots__
        if getattr(archive, field) != getattr(figures, field)
    ]
    return told if content_sha256 == archive.content_sha256 else [*told, "the content is not what was written"]


def _ledger_differences(table: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_AGAINST_LEDGER.format(table=table))
        return [f"call {call}: {log} in the log, {ledger} in the ledger" for call, log, ledger in cursor.fetchall()]


def _figures(table: str) -> Figures:
    return Figures(*_one(_FIGURES.format(table=table)))


def _days_that_differ(month: date) -> list[date]:
    """Days of the month whose sums are not what its calls add up to."""
    with connection.cursor() as cursor:
        cursor.execute(_DAYS_THAT_DIFFER.format(table=_table(month)), {"begin": month, "end": _next(month)})
        return [day for (day,) in cursor.fetchall()]


def _copy_out(table: str, columns: Sequence[str]) -> Iterator[bytes]:
    """The rows as CSV with a head line, always in the same order and spelling."""
    _execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL extra_float_digits = 1")
    names = ", ".join(f'"{name}"' for name in columns)
    sql = f"COPY (SELECT {names} FROM {table} ORDER BY started_at, id) TO STDOUT (FORMAT csv, HEADER)"  # noqa: S608  names
    with connection.cursor() as cursor, cursor.cursor.copy(sql) as copy:
        for block in copy:
            yield bytes(block)


def _export(table: str, file: IO[bytes]) -> str:
    """Write the compressed rows; returns the SHA-256 of what was compressed. Memory does not grow with the month."""
    content = hashlib.sha256()
    # No name and no time inside: the same rows make the same file.
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed:
        for block in _copy_out(table, _COLUMNS):
            content.update(block)
            packed.write(block)
    return content.hexdigest()


def _content_sha256(table: str, columns: Sequence[str]) -> str:
    content = hashlib.sha256()
    for block in _copy_out(table, columns):
        content.update(block)
    return content.hexdigest()


def _columns_of(archive: UsageArchive) -> list[str]:
    """The columns its file has: later versions may know more."""
    return _head(archive_folder() / archive.file)


def _head(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        columns = next(csv.reader(stream))
    if unknown := set(columns) - set(_COLUMNS):
        raise ArchiveDiffers(f"{path.name} has columns that the log does not have: {', '.join(sorted(unknown))}")
    return columns


def _load(table: str, path: Path) -> list[str]:
    """Copy a file's rows into `table`; returns its columns."""
    columns = _head(path)
    names = ", ".join(f'"{name}"' for name in columns)
    _execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'")
    sql = f"COPY {table} ({names}) FROM STDIN (FORMAT csv, HEADER)"
    with gzip.open(path, "rb") as stream, connection.cursor() as cursor, cursor.cursor.copy(sql) as copy:
        while block := stream.read(1 << 20):
            copy.write(block)
    return columns


def _attach(month: date) -> None:
    """Put the month's table into the log; calls that came late for it move over and take the place of what they correct."""
    table, parameters = _table(month), {"begin": day_begin(month), "end": day_begin(_next(month))}
    late = "SELECT id FROM billing_usagerecord_default WHERE started_at >= %(begin)s AND started_at < %(end)s"
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE id IN ({late})", parameters)  # noqa: S608  a partition's name
        cursor.execute(
            f"""WITH late AS (DELETE FROM billing_usagerecord_default WHERE started_at >= %(begin)s AND started_at < %(end)s
                              RETURNING *) INSERT INTO {table} SELECT * FROM late""",  # noqa: S608  a partition's name
            parameters,
        )
        bounds = f"FROM ('{month} 00:00Z') TO ('{_next(month)} 00:00Z')"
        cursor.execute(f"ALTER TABLE billing_usagerecord ATTACH PARTITION {table} FOR VALUES {bounds}")


def _default_partition_sort(*, before: date) -> None:
    """Give calls of past months that have no partition one, unless their month is archived."""
    archived = set(UsageArchive.objects.values_list("month", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT date_trunc('month', started_at, 'UTC') FROM billing_usagerecord_default WHERE started_at < %s",
            [day_begin(before)],
        )
        found = [begin for (begin,) in cursor.fetchall() if begin.astimezone(UTC).date() not in archived]
    for begin in found:
        # A transaction of its own that has read nothing yet: it locks the default partition.
        with transaction.atomic(), connection.cursor() as cursor:
            _lock()
            cursor.execute("SELECT usage_partition_ensure(%s)", [begin])


def _partitions() -> list[date]:
    """First days of the months that are part of the log."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing_usagerecord'::regclass")
        found = [_PARTITION.fullmatch(name) for (name,) in cursor.fetchall()]
    return [date(int(match[1]), int(match[2]), 1) for match in found if match]


def _table(month: date) -> str:
    return f"billing_usagerecord_{month:%Y_%m}"


def _next(month: date) -> date:
    return (month + timedelta(days=32)).replace(day=1)


def _manifest(archive: UsageArchive) -> Path:
    """What the checkpoint says, kept beside the file, outside the database."""
    return archive_folder() / archive.file.replace(".csv.gz", ".json")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder_sync(folder: Path) -> None:
    """A rename is safe when its folder is on the disk; network folders may refuse to say."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def _one(sql: str) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row: tuple[Any, ...] = cursor.fetchone()
        return row
