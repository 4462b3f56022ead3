"""The made-up company: the books verify, the same seed makes the same one, and it never gets into a real one."""

import os
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.db.models import Count, Max, Min, Sum
from pytest_django import Settings

from billing.accounts.models import Account, ApiKey
from billing.invoices.models import Invoice
from billing.ledger.models import DaySeal, LedgerEntry, UsageDay, UsageDayState, UsageRecord, Wallet
from billing.ledger.seals import days_seal
from billing.ledger.verification import books_verify
from billing.payments.models import Payment
from billing.subscriptions.models import Subscription
from iafactory.common import clock
from iafactory.local.processes import spawn
from routing.catalog import catalog_load
from tests.factories import account_make
from tests.live.conftest import PROJECT, wait_until

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def catalogue(settings: Settings, tmp_path: Path) -> None:
    settings.BOOKS_SEAL_FILE = str(tmp_path / "seals.txt")
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    catalog_load()


def seed(**options: Any) -> None:
    call_command("seed_demo", **{"usage_rows": 1000, "accounts": 10, "months": 1, "verbosity": 0, **options})


def figures() -> dict[str, Any]:
    """What the company adds up to."""
    sums = UsageRecord.objects.aggregate(
        calls=Count("id"), credits=Sum("credits_charged"), cost=Sum("cost_usd"), tokens=Sum("input_tokens")
    )
    invoiced = Invoice.objects.filter(state=Invoice.State.PAID).aggregate(invoices=Count("id"), total=Sum("total"))
    return {**sums, **invoiced, "balance": Wallet.objects.aggregate(total=Sum("balance"))["total"]}


def test_the_books_of_the_company_verify() -> None:
    seed()

    found = figures()
    assert [finding.check.name for finding in books_verify() if finding.differences] == []
    assert found["calls"] == 1000 == UsageDay.objects.aggregate(n=Sum("calls"))["n"] + _calls_not_summed()
    assert found["credits"] > 0 == LedgerEntry.objects.filter(unit="credit").aggregate(n=Sum("amount"))["n"]
    assert ApiKey.objects.count() >= 10
    assert Payment.objects.filter(state=Payment.State.SUCCEEDED).count() == found["invoices"] > 3
    assert Invoice.objects.filter(mailed_at__isnull=True, issued_at__isnull=False).count() == 0
    assert Subscription.objects.filter(state=Subscription.State.ACTIVE).count() >= 8


def _calls_not_summed() -> int:
    """Calls since the last day that is summed up: today, and yesterday as long as its last calls may still be settled."""
    last = UsageDayState.objects.aggregate(day=Max("day"))["day"]
    assert last >= clock.now().date() - timedelta(days=2)
    return UsageRecord.objects.filter(started_at__date__gt=last).count()


def test_the_past_is_spread_over_the_months() -> None:
    seed()

    edges = UsageRecord.objects.aggregate(first=Min("started_at"), last=Max("started_at"))
    today = clock.now().date()
    assert (today - edges["first"].date()).days in (29, 30)
    assert (today - edges["last"].date()).days in (0, 1)
    assert edges["last"] < clock.now()
    assert DaySeal.objects.count() in (29, 30)


def test_the_same_seed_makes_the_same_company() -> None:
    made = []
    for number in (1, 1, 2):
        with transaction.atomic():
            seed(seed=number)
            made.append(figures())
            transaction.set_rollback(True)

    assert made[0] == made[1] != made[2]


def test_a_past_does_not_fit_before_closed_days() -> None:
    account_make(credits=Decimal(5))
    with clock.moved_to(clock.now()):
        days_seal(now=clock.now() + timedelta(days=366))

    with pytest.raises(CommandError, match="closed days"):
        seed()

    assert not UsageRecord.objects.exists()


def test_it_refuses_in_production(settings: Settings) -> None:
    settings.PRODUCTION = True

    with pytest.raises(CommandError, match="no place in production"):
        seed()

    assert not UsageRecord.objects.exists()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[None]:
    """A worker at the broker of these tests, with nothing to do."""
    log = tmp_path / "worker.log"
    celery = [sys.executable, "-m", "celery", "-A", "iafactory", "worker", "-l", "info", "--pool", "solo", "-n", "seeding@test"]
    process = spawn([*celery, "-Q", "nothing"], environment=dict(os.environ), folder=PROJECT, log=log)
    wait_until(lambda: "ready." in log.read_text(), seconds=60)
    yield
    process.terminate()
    process.wait(30)


def test_it_refuses_beside_a_worker_unless_told_that_it_has_another_database(worker: None) -> None:
    with pytest.raises(CommandError, match=r"^Stop workers and beat first \(seeding@test\)"):
        seed()
    refused = (Account.objects.count(), UsageRecord.objects.count())
    seed(beside_workers=True)

    assert refused == (0, 0)
    assert UsageRecord.objects.count() == 1000


def test_the_clock_runs_on_where_it_was_moved_to_and_comes_back() -> None:
    then = clock.now().replace(year=2020)

    with clock.moved_to(then):
        first, second = clock.now(), clock.now()

    assert then < first < second
    assert first.date().year == 2020
    assert clock.now().date() > date(2026, 1, 1)
