"""Old months of the usage log become files: checked, chained, once, wherever a run is cut off; the books go on verifying."""

import gzip
import json
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from freezegun import freeze_time
from pytest_django import Settings

from billing.accounts.models import Account
from billing.events.models import Event
from billing.ledger import archive as archiving
from billing.ledger.archive import (
    ArchiveBusy,
    ArchiveDiffers,
    ArchiveWaits,
    archive_file_differences,
    checkpoint_differences,
    retention_months,
    usage_archive,
    usage_month_archive,
    usage_month_release,
    usage_month_restore,
    usage_month_step,
)
from billing.ledger.foundations import usage_partitions_ensure
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.models import Hold, UsageArchive, UsageDay, UsageDayState, UsageRecord
from billing.ledger.rollups import usage_day_sum, usage_days_sum
from billing.ledger.seals import days_seal
from billing.ledger.services import call_settle, hold_open, holds_reap
from billing.ledger.tasks import archive_usage
from billing.ledger.usage_reports import usage_totals
from billing.ledger.verification import books_verify
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from billing.subscriptions.usage import subscription_usage
from iafactory.common.ids import uuid7
from tests.billing.ledger.test_rollups import call
from tests.factories import account_make

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
JUNE, JULY, AUGUST = date(2026, 6, 1), date(2026, 7, 1), date(2026, 8, 1)
State = UsageArchive.State
D = Decimal


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path) -> Path:
    """Where the files go; three months are kept."""
    settings.USAGE_ARCHIVE_FOLDER = str(tmp_path / "archive")
    settings.USAGE_RETENTION_MONTHS = 3
    settings.BOOKS_SEAL_FILE = str(tmp_path / "seals.txt")
    return tmp_path / "archive"


@pytest.fixture
def account() -> Account:
    """Calls in June, July and August, two of them at the very edges, and one whose process died; sealed and summed up."""
    usage_partitions_ensure(now=datetime(2026, 6, 1, tzinfo=UTC), months_ahead=5)
    account = account_make(credits=1000)
    call(account, datetime(2026, 6, 10, 8, tzinfo=UTC), model='=SUM(1), "quoted"\nand broken', price={"n": "1.5"})
    call(account, datetime(2026, 7, 1, tzinfo=UTC), model="second")
    call(account, datetime(2026, 8, 1, tzinfo=UTC) - timedelta(microseconds=1), cost_usd=D("0.123456789"))
    call(account, datetime(2026, 8, 5, tzinfo=UTC))
    died = datetime(2026, 7, 3, tzinfo=UTC)
    hold_open(
        HoldItem(
            id=uuid7(),
            account_id=account.pk,
            credits=D(2),
            worst_cost_usd=D("0.5"),
            endpoint="/v1/chat/completions",
            opened_at=died,
            expires_at=died + timedelta(minutes=10),
        ),
        now=died,
    )
    holds_reap(now=died + timedelta(minutes=11))
    close(datetime(2026, 8, 10, tzinfo=UTC))
    return account


def close(now: datetime) -> None:
    """Seal the days and sum them up, as the jobs do."""
    days_seal(now=now)
    while len(usage_days_sum(now=now)) > 3:
        pass


def broken() -> list[tuple[str, tuple[tuple[object, ...], ...]]]:
    """Checks that fail."""
    return [(finding.check.name, finding.differences) for finding in books_verify() if finding.differences]


def unguarded(statement: str) -> None:
    """What only somebody with the database's own rights could do."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)
        cursor.execute("SET LOCAL session_replication_role = origin")


def partitions() -> set[str]:
    """Months whose table exists, in the log or not."""
    with connection.cursor() as cursor:
        cursor.execute(r"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^billing_usagerecord_\d{4}'")
        return {name.removeprefix("billing_usagerecord_") for (name,) in cursor.fetchall()}


def test_months_beyond_the_retention_leave_the_log_and_the_books_verify(account: Account, folder: Path) -> None:
    before = usage_totals(since=JUNE, until=NOW.date())

    done = usage_archive(now=NOW)

    assert done == [JUNE, JULY]
    assert not {"2026_06", "2026_07"} & partitions()
    assert [str(at.date()) for at in UsageRecord.objects.values_list("started_at", flat=True)] == ["2026-08-05"]
    july = UsageArchive.objects.get(pk=JULY)
    assert (july.state, july.rows, july.calls, july.credits_charged) == (State.DROPPED, 3, 2, D(2))
    assert (july.cost_usd, july.sealed_day) == (D("0.624456789"), date(2026, 7, 31))
    assert july.previous == UsageArchive.objects.get(pk=JUNE).checkpoint
    assert sorted(path.name for path in folder.iterdir()) == [
        "usage-2026-06.csv.gz",
        "usage-2026-06.json",
        "usage-2026-07.csv.gz",
        "usage-2026-07.json",
    ]
    assert broken() == []
    assert usage_totals(since=JUNE, until=NOW.date()) == before
    assert [archive_file_differences(archive) for archive in UsageArchive.objects.all()] == [[], []]


def test_a_month_before_the_books_began_is_not_waited_for(account: Account) -> None:
    usage_partitions_ensure(now=datetime(2026, 4, 1, tzinfo=UTC), months_ahead=1)

    done = usage_archive(now=NOW)

    assert done == [JUNE, JULY]


def test_without_a_retention_everything_stays(account: Account, settings: Settings) -> None:
    settings.USAGE_RETENTION_MONTHS = 0

    assert usage_archive(now=NOW) == []
    assert UsageRecord.objects.count() == 5


@pytest.mark.parametrize(
    ("setting", "interval", "count", "kept"), [(1, "month", 1, 3), (3, "month", 12, 13), (3, "day", 100, 5), (24, "day", 1, 24)]
)
def test_the_log_keeps_what_periods_are_reckoned_from(
    settings: Settings, setting: int, interval: str, count: int, kept: int
) -> None:
    settings.USAGE_RETENTION_MONTHS = setting
    Plan.objects.create(code="p", family="f", name="P", billing_mode="credits", interval=interval, interval_count=count)

    assert retention_months() == kept


def test_a_second_run_finds_nothing_to_do(account: Account) -> None:
    usage_archive(now=NOW)
    first = list(UsageArchive.objects.values())

    assert usage_archive(now=NOW + timedelta(hours=1)) == []
    assert list(UsageArchive.objects.values()) == first


def test_steps_are_told_one_by_one(account: Account) -> None:
    states = [usage_month_step(JULY, now=NOW) for _ in range(4)]

    assert states == [State.WRITTEN, State.VERIFIED, State.DETACHED, State.DROPPED]
    assert list(Event.objects.filter(object_type="usagearchive").order_by("pk").values_list("kind", flat=True)) == [
        "usage_archive.detached",
        "usage_archive.dropped",
    ]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_that_was_cut_off_is_finished_by_the_next(account: Account, folder: Path, steps: int) -> None:
    for _ in range(steps):
        usage_month_step(JUNE, now=NOW)
    assert broken() == []

    assert usage_archive(now=NOW) == [JUNE, JULY]
    assert broken() == []


def test_a_file_half_written_is_written_again(account: Account, folder: Path) -> None:
    folder.mkdir()
    (folder / "usage-2026-06.csv.gz.part").write_bytes(b"half")
    (folder / "usage-2026-06.csv.gz").write_bytes(b"of a run whose transaction was lost")

    usage_month_archive(JUNE, now=NOW)

    assert archive_file_differences(UsageArchive.objects.get()) == []
    assert not (folder / "usage-2026-06.csv.gz.part").exists()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_file_that_was_damaged_keeps_its_month_in_the_log(account: Account, folder: Path, steps: int) -> None:
    for _ in range(steps):
        usage_month_step(JUNE, now=NOW)
    path = folder / "usage-2026-06.csv.gz"
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")

    with pytest.raises(ArchiveDiffers, match="the file usage-2026-06"):
        usage_archive(now=NOW)

    assert UsageRecord.objects.count() == 5
    assert usage_archive(now=NOW) == [JUNE, JULY]
    assert broken() == []


def test_a_file_without_a_row_of_the_log_is_not_believed(account: Account, folder: Path) -> None:
    usage_month_step(JULY, now=NOW)
    path = folder / "usage-2026-07.csv.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))
    UsageArchive.objects.update(file_sha256=archiving._file_sha256(path))

    with pytest.raises(ArchiveDiffers, match="rows: 3 in the log, 2 in the file"):
        usage_month_step(JULY, now=NOW)

    assert not UsageArchive.objects.exists()


def test_a_month_that_differs_from_the_ledger_stays(account: Account) -> None:
    UsageRecord.objects.filter(model="second").update(credits_charged=D(9))

    with pytest.raises(ArchiveDiffers, match=r"9.000000, booked in the log, 1.000000000 in the ledger"):
        usage_month_archive(JULY, now=NOW)

    assert "2026_07" in partitions()


def test_sums_of_days_that_are_behind_are_made_anew_first(account: Account) -> None:
    UsageDay.objects.filter(day=date(2026, 7, 1)).update(calls=0, credits_charged=0)

    usage_month_archive(JULY, now=NOW)

    assert usage_totals(since=JULY, until=date(2026, 7, 31)).calls == 3


def test_a_call_settled_after_the_file_was_written_brings_the_month_back(account: Account) -> None:
    for _ in range(2):
        usage_month_step(JULY, now=NOW)
    call(account, datetime(2026, 7, 9, tzinfo=UTC), settled_at=NOW)
    usage_month_step(JULY, now=NOW)

    with pytest.raises(ArchiveDiffers, match="back in the log"):
        usage_month_step(JULY, now=NOW)

    assert UsageRecord.objects.filter(started_at__lt=datetime(2026, 8, 1, tzinfo=UTC)).count() == 5
    assert broken() == []
    usage_month_archive(JULY, now=NOW)
    assert UsageArchive.objects.get().rows == 4
    assert broken() == []


def test_a_call_that_comes_late_for_a_month_that_is_away_is_in_the_log(account: Account) -> None:
    usage_archive(now=NOW)

    call(account, datetime(2026, 7, 9, tzinfo=UTC), settled_at=NOW)

    assert broken() == []
    assert usage_archive(now=NOW) == []
    assert UsageRecord.objects.filter(started_at__lt=datetime(2026, 8, 1, tzinfo=UTC)).count() == 1


def test_a_month_waits_for_its_seals(account: Account) -> None:
    unguarded("DELETE FROM billing_dayseal WHERE day >= '2026-07-31'")

    with pytest.raises(ArchiveWaits, match="2026-07-31 are not sealed"):
        usage_month_archive(JULY, now=NOW)


def test_a_month_waits_for_its_open_holds(account: Account) -> None:
    at = datetime(2026, 7, 30, tzinfo=UTC)
    hold_open(
        HoldItem(
            id=uuid7(),
            account_id=account.pk,
            credits=D(1),
            worst_cost_usd=D(0),
            endpoint="credits",
            opened_at=at,
            expires_at=NOW + timedelta(days=1),
        ),
        now=at,
    )

    with pytest.raises(ArchiveWaits, match="still open"):
        usage_month_archive(JULY, now=NOW)

    assert Hold.objects.count() == 1


def test_calls_that_were_lost_from_the_log_are_told_from_archived_ones(account: Account) -> None:
    usage_archive(now=NOW)
    UsageRecord.objects.all().delete()

    [(name, [(_, expected, found)])] = broken()

    assert (name, expected, found) == ("every call in the ledger is in the usage log", "a usage row", "none")


def test_an_archived_call_more_or_less_is_found(account: Account) -> None:
    usage_month_archive(JUNE, now=NOW)
    usage_month_archive(JULY, now=NOW)
    unguarded("UPDATE billing_usagearchive SET digest = digest + 1 WHERE month = '2026-06-01'")

    assert [name for name, _ in broken()] == [
        "every call that left the usage log is in an archive",
        "every archived month has the checkpoint that follows from the one before and its seal",
    ]


@pytest.mark.parametrize(
    "change",
    ["rows = rows + 1", "previous = repeat('1', 64)", "seal = repeat('1', 64)", "checkpoint = repeat('1', 64)"],
)
def test_a_checkpoint_cannot_be_changed_unseen(account: Account, change: str) -> None:
    usage_archive(now=NOW)
    assert list(checkpoint_differences()) == []

    unguarded(f"UPDATE billing_usagearchive SET {change} WHERE month = '2026-07-01'")

    assert [month for month, _, _ in checkpoint_differences()].count("2026-07") >= 1


def test_the_copy_outside_the_database_is_compared(account: Account, folder: Path) -> None:
    usage_archive(now=NOW)
    path = folder / "usage-2026-07.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": "another"}))

    assert [(month, expected) for month, expected, _ in checkpoint_differences()] == [("2026-07", "another (kept outside)")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_usagearchive SET rows = 9",
        "DELETE FROM billing_usagearchive",
        "TRUNCATE billing_usagearchive",
    ],
)
def test_the_database_refuses_to_change_what_an_archive_holds(account: Account, statement: str) -> None:
    usage_month_archive(JUNE, now=NOW)

    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


def test_a_month_comes_back_from_its_file_and_goes_again(account: Account) -> None:
    before = list(UsageRecord.objects.order_by("id").values())
    usage_archive(now=NOW)

    usage_month_restore(JUNE, now=NOW)
    usage_month_restore(JULY, now=NOW)

    assert list(UsageRecord.objects.order_by("id").values()) == before
    assert broken() == []
    assert usage_archive(now=NOW) == []

    released = usage_month_release(JUNE, now=NOW)

    assert released.state == State.DROPPED
    assert (UsageRecord.objects.count(), broken()) == (4, [])


def test_a_late_settle_takes_the_place_of_the_dead_call_it_corrects_when_its_month_comes_back(account: Account) -> None:
    died = UsageRecord.objects.get(end="process_died")
    usage_archive(now=NOW)
    late = UsageItem(
        id=died.pk,
        started_at=died.started_at,
        finished_at=NOW,
        account_id=account.pk,
        endpoint=died.endpoint,
        end="complete",
        credits_charged=D(2),
    )
    call_settle(CallItem(usage=late, held=D(2), charge=D(2), loss_usd=D(0)), now=NOW)
    assert broken() == []

    usage_month_restore(JULY, now=NOW)

    assert UsageRecord.objects.get(pk=died.pk).end == "complete"
    assert broken() == []
    with pytest.raises(ArchiveDiffers, match="calls came late"):
        usage_month_release(JULY, now=NOW)


def test_another_file_is_not_restored(account: Account, folder: Path) -> None:
    usage_archive(now=NOW)
    (folder / "usage-2026-07.csv.gz").write_bytes((folder / "usage-2026-06.csv.gz").read_bytes())

    with pytest.raises(ArchiveDiffers, match="the file usage-2026-07"):
        usage_month_restore(JULY, now=NOW)

    assert UsageArchive.objects.get(pk=JULY).state == State.DROPPED
    assert "2026_07" not in partitions()


def test_calls_of_a_past_month_without_a_partition_are_archived_too(account: Account) -> None:
    call(account, datetime(2026, 3, 5, tzinfo=UTC))
    assert "2026_03" not in partitions()
    unguarded("DELETE FROM billing_dayseal")
    Path(archiving.settings.BOOKS_SEAL_FILE).unlink()
    close(datetime(2026, 8, 10, tzinfo=UTC))

    done = usage_archive(now=NOW)

    assert date(2026, 3, 1) in done
    assert broken() == []


def test_the_command_lists_verifies_restores_and_releases(account: Account, capsys: Any) -> None:
    with freeze_time(NOW):
        call_command("usage_archive", "run")
        call_command("usage_archive", "verify")
        call_command("usage_archive", "restore", "2026-07", "--reason", "an auditor asks")
        call_command("usage_archive", "release", "2026-07")
        call_command("usage_archive", "list")

    told = capsys.readouterr().out
    assert "2026-07: the file is whole and agrees with the books" in told
    assert "2026-07  dropped" in told
    assert Event.objects.get(kind="usage_archive.restored").reason == "an auditor asks"


def test_the_command_fails_for_a_file_that_is_gone(account: Account, folder: Path) -> None:
    with freeze_time(NOW):
        call_command("usage_archive", "run", verbosity=0)
    (folder / "usage-2026-06.csv.gz").unlink()

    with pytest.raises(CommandError, match="2026-06: the file usage-2026-06.csv.gz is not in the archive folder"):
        call_command("usage_archive", "verify")


def test_the_job_fails_when_a_month_cannot_go(account: Account) -> None:
    UsageRecord.objects.filter(model="second").update(credits_charged=D(9))

    with freeze_time(NOW), pytest.raises(ArchiveDiffers):
        archive_usage()
    assert UsageArchive.objects.get().month == JUNE


@pytest.mark.django_db(transaction=True)
def test_several_runs_at_once_archive_once(account: Account) -> None:
    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(usage_archive(now=NOW))
        except (ArchiveBusy, ArchiveWaits) as error:
            outcomes.append(type(error).__name__)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    usage_archive(now=NOW)

    assert UsageArchive.objects.filter(state=State.DROPPED).count() == UsageArchive.objects.count() >= 2
    assert broken() == []


@pytest.mark.django_db(transaction=True)
def test_a_long_reader_of_the_log_is_waited_for_without_stalling_calls(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "DETACH_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(archiving, "DETACH_TRIES", 2)
    for _ in range(2):
        usage_month_step(JULY, now=NOW)
    reading, done = threading.Event(), threading.Event()

    def read() -> None:
        try:
            with transaction.atomic():
                UsageRecord.objects.count()
                reading.set()
                done.wait(20)
        finally:
            connection.close()

    reader = threading.Thread(target=read)
    reader.start()
    reading.wait(20)
    with pytest.raises(ArchiveWaits, match="read all the time"):
        usage_month_step(JULY, now=NOW)
    call(account, NOW)
    done.set()
    reader.join()

    usage_month_archive(JULY, now=NOW)

    assert broken() == []


def test_what_a_subscription_used_is_the_same_when_its_months_are_away(account: Account) -> None:
    plan = Plan.objects.create(code="pro", family="f", name="Pro", billing_mode="quota")
    subscription = Subscription.objects.create(
        account=account,
        plan=plan,
        state="active",
        current_period_start=NOW,
        billing_anchor=NOW,
    )
    UsageRecord.objects.update(subscription_id=subscription.pk)
    for day in UsageDayState.objects.values_list("day", flat=True):
        usage_day_sum(day, now=NOW)
    account.time_zone = "UTC"
    account.save()
    asked: dict[str, Any] = {"subscription": subscription, "start_date": date(2026, 6, 1), "end_date": date(2026, 8, 31)}
    before = subscription_usage(**asked)

    usage_archive(now=NOW)

    after = subscription_usage(**asked)
    assert before.totals["requests"] == 5
    assert after == before
    first = subscription_usage(subscription=subscription, start_date=JULY, end_date=JULY)
    assert first.totals["requests"] == 1


def test_a_month_taken_out_of_the_chain_is_found_although_its_follower_was_reckoned_anew(account: Account) -> None:
    usage_archive(now=NOW)
    july = UsageArchive.objects.get(pk=JULY)
    july.previous = archiving.FIRST_CHECKPOINT
    forged = archiving.checkpoint_of(july)
    (archiving.archive_folder() / "usage-2026-07.json").unlink()

    unguarded(
        f"UPDATE billing_usagearchive SET previous = '{july.previous}', checkpoint = '{forged}' WHERE month = '2026-07-01'"
    )

    june = UsageArchive.objects.get(pk=JUNE)
    assert list(checkpoint_differences()) == [("2026-07", f"the checkpoint before, {june.checkpoint}", july.previous)]
