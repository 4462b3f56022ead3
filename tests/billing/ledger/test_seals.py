"""Closed days are sealed, and what was sealed cannot change unseen."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from freezegun import freeze_time
from pytest_django import Settings

from billing.ledger.models import BooksVerification, DaySeal, LedgerTransaction
from billing.ledger.seals import days_seal, kept_seals, seal_differences
from billing.ledger.tasks import seal_days, verify_books
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.django_db

MONDAY = datetime(2026, 11, 16, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def seal_file(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "seals" / "seals.txt"
    settings.BOOKS_SEAL_FILE = str(path)
    return path


def grants_on(*days: int) -> None:
    for day in days:
        with freeze_time(MONDAY + timedelta(days=day)):
            lot_make(account_make().pk, 5)


def tamper(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)
        cursor.execute("SET LOCAL session_replication_role = origin")


def test_closed_days_are_sealed_once_the_running_one_is_not(seal_file: Path) -> None:
    grants_on(0, 2)

    with freeze_time(MONDAY + timedelta(days=3)):
        first, again = seal_days(), seal_days()

    seals = list(DaySeal.objects.order_by("day"))
    assert (first, again) == (3, 0)
    assert [(seal.day.day, seal.transactions, seal.entries) for seal in seals] == [(16, 1, 2), (17, 0, 0), (18, 1, 2)]
    assert kept_seals() == {seal.day.isoformat(): seal.seal for seal in seals}
    assert len(seal_file.read_text().splitlines()) == 3
    assert list(seal_differences()) == []


def test_a_day_is_not_sealed_while_its_last_batch_may_be_under_way() -> None:
    grants_on(0)
    midnight = datetime(2026, 11, 17, tzinfo=UTC)

    early, late = days_seal(now=midnight + timedelta(minutes=9)), days_seal(now=midnight + timedelta(minutes=10))

    assert (len(early), len(late)) == (0, 1)


def test_nothing_is_sealed_before_the_first_transaction() -> None:
    assert days_seal(now=MONDAY) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_ledgerentry SET amount = amount * 2",
        "UPDATE billing_ledgertransaction SET reason = 'something else'",
        "DELETE FROM billing_ledgerentry WHERE amount < 0",
        "UPDATE billing_dayseal SET seal = repeat('0', 64)",
        "UPDATE billing_dayseal SET content_hash = repeat('0', 64)",
    ],
)
def test_what_was_sealed_cannot_change_unseen(statement: str) -> None:
    grants_on(0, 1)
    days_seal(now=MONDAY + timedelta(days=2))

    tamper(statement)

    assert list(seal_differences())
    with pytest.raises(CommandError, match="do not verify"):
        call_command("verify_books")
    assert not BooksVerification.objects.get().passed


def test_a_broken_chain_shows_without_the_copy(seal_file: Path) -> None:
    grants_on(0, 1)
    days_seal(now=MONDAY + timedelta(days=2))
    seal_file.unlink()

    tamper("UPDATE billing_dayseal SET seal = repeat('0', 64) WHERE day = '2026-11-16'")

    # The forged seal, and the next day's, which does not follow from it.
    assert [day for day, _, _ in seal_differences()] == ["2026-11-16", "2026-11-17"]


def test_a_chain_rewritten_in_the_database_differs_from_the_copy() -> None:
    grants_on(0)
    days_seal(now=MONDAY + timedelta(days=1))

    tamper("UPDATE billing_ledgertransaction SET reason = 'forged'")
    tamper("DELETE FROM billing_dayseal")
    copy = kept_seals()
    path_before = dict(copy)
    days_seal(now=MONDAY + timedelta(days=1))

    [seal] = DaySeal.objects.all()
    assert path_before[seal.day.isoformat()] != seal.seal


def test_seals_are_append_only() -> None:
    grants_on(0)
    days_seal(now=MONDAY + timedelta(days=1))

    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        DaySeal.objects.all().delete()


def test_a_verification_is_kept_for_the_console() -> None:
    grants_on(0)

    passed = verify_books()

    run = BooksVerification.objects.get()
    assert passed
    assert run.passed
    assert {tuple(check["differences"]) for check in run.checks} == {()}
    assert LedgerTransaction.objects.count() == 1
