"""Every scheduled job run by two workers at once, twice over, and three days late: what is left is what one run leaves.

A small company is made anew for each way of running. What is compared is how many rows each table has, the sum of every amount,
and how many rows are in each state: the rows' ids and instants differ between two runs of anything.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.cache import cache
from django.core.management import call_command
from django.db import close_old_connections, connection, models
from django.db.models import Sum
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.preferences import account_change
from billing.accounts.services import account_block, api_key_create, session_begin
from billing.events.services import SYSTEM
from billing.ledger.foundations import usage_partitions_ensure
from billing.ledger.models import LedgerEntry
from billing.ledger.services import due_wallets_roll, hold_open
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from billing.plans.models import Plan
from billing.subscriptions.services import subscription_start
from billing.webhooks.services import endpoint_create
from dashboard.alerts.rules import rules_write
from iafactory.celery import app
from tests.billing.ledger.calls import hold_item_for
from tests.billing.subscriptions.selling import attempt, begin, plan_make, spend, subscribe, wrong
from tests.factories import account_make, lot_make

app.loader.import_default_modules()
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
GAP = timedelta(days=3)
# How each job went is told by run; a verification and a check of a route are looks, of which two leave two rows.
RUN_BY_RUN = {"dashboard.JobState", "billing.JobRun", "billing.BooksVerification", "routing.HealthCheck"}
# Not ours, or refilled with the catalogue.
ELSEWHERE = {"contenttypes", "auth", "django_celery_beat", "sessions", "admin"}

pytestmark = pytest.mark.django_db(transaction=True)
Fingerprint = dict[str, Any]


@pytest.fixture(autouse=True)
def nothing_is_mailed_by_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that jobs ask for are another worker's."""
    cache.clear()


@pytest.fixture
def time() -> Iterator[FrozenDateTimeFactory]:
    with freeze_time(START, real_asyncio=True) as frozen:
        assert isinstance(frozen, FrozenDateTimeFactory)
        yield frozen


def company_make() -> None:
    """Something for most jobs to do: in the next three days, or long since."""
    with catalog_writing() as writer:
        selling_write(writer)
        rules_write(writer)
    usage_partitions_ensure(now=START, months_ahead=2)
    free = plan_make("free", None, family="free", interval="none", daily_limit=3)
    pro = plan_make("pro", "2590", period_credits=Decimal(500), billing_mode="credits")
    short = plan_make("short", "300", interval="day", interval_count=4, family="short")
    # Whose plan renews within the gap, is paid, and was used.
    renewing = account_make()
    subscribe(renewing, short)
    spender = account_make()
    spend(spender_with(spender, pro), "7")
    # Whose credits end, begin, run low; whose call died; whose block, time zone and key have their day.
    ending = account_make(credits=10)
    lot_make(ending.pk, 5, expires_at=START + timedelta(days=1))
    lot_make(ending.pk, 8, effective_at=START + timedelta(days=2))
    assert hold_open(hold_item_for(ending.pk, "3", seconds=600)).verdict == "held"
    blocked = account_make()
    account_block(account=blocked, reason="for a day", actor=SYSTEM, until=START + timedelta(days=1))
    moving = account_make()
    subscription_start(account=moving, plan=Plan.objects.get(code="free"), actor=SYSTEM)
    account_change(account=moving, time_zone="Asia/Kolkata", actor=SYSTEM)
    # Who began and never paid, by hand too.
    waiting = account_make()
    begun = begin(waiting, pro)
    assert begun.to_pay is not None
    attempt(begun.to_pay)
    # Whom events are told, at an address where nobody listens, and who signed in.
    told = account_make()
    endpoint_create(account=told, url="http://127.0.0.1:1/hook", event_types=["key.created"], actor=SYSTEM)
    api_key_create(account=told, created_by=None, name="main", actor=SYSTEM)
    assert told.personal_of is not None
    session_begin(user=told.personal_of)
    assert free.code == "free"


def spender_with(account: Any, plan: Plan) -> Any:
    subscribe(account, plan)
    due_wallets_roll()
    return account


def company_forget() -> None:
    call_command("flush", interactive=False, verbosity=0)
    cache.clear()


def jobs_run(workers: int) -> None:
    """Run every job of the schedule in its order, each by so many workers at once."""
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        at_once(workers, app.tasks[entry["task"]])


def at_once(workers: int, job: Callable[[], object]) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(workers)

    def work() -> None:
        close_old_connections()
        start.wait()
        try:
            job()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


def fingerprint(*, only: set[str] | None = None) -> Fingerprint:
    """Of each table: how many rows, the sum of each amount, how many rows in each state."""
    found: Fingerprint = {}
    for model in apps.get_models():
        name = model._meta.label
        if name in RUN_BY_RUN or model._meta.app_label in ELSEWHERE or (only is not None and name not in only):
            continue
        manager = model._base_manager
        facts: dict[str, Any] = {"rows": manager.count()}
        for field in model._meta.concrete_fields:
            if isinstance(field, models.DecimalField):
                facts[field.name] = manager.aggregate(total=Sum(field.name))["total"]
            elif field.choices or field.name == "kind":
                facts[field.name] = dict(Counter(manager.values_list(field.name, flat=True)))
        found[name] = facts
    sums = LedgerEntry.objects.values_list("ledger_account__kind", "unit").annotate(total=Sum("amount")).order_by()
    return found | {"books": sorted(sums)}


def differences(one: Fingerprint, other: Fingerprint) -> dict[str, Any]:
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def after(time: FrozenDateTimeFactory, run: Callable[[], None], **which: Any) -> tuple[Fingerprint, list[Any]]:
    """What is left of a company made at the start when `run` has run, and which rules of the books do not hold."""
    time.move_to(START)
    company_make()
    run()
    left = fingerprint(**which), wrong()
    company_forget()
    return left


def test_two_workers_at_once_twice_over_leave_what_one_run_leaves(time: FrozenDateTimeFactory) -> None:
    def once() -> None:
        time.move_to(START + GAP)
        jobs_run(1)
        # What the first jobs cause is done by later ones, or in the next round.
        jobs_run(1)

    def together() -> None:
        time.move_to(START + GAP)
        jobs_run(2)
        jobs_run(2)

    one, wrong_one = after(time, once)
    both, wrong_both = after(time, together)

    assert differences(one, both) == {}
    assert (wrong_one, wrong_both) == ([], [])
    # It was something.
    assert one["billing.Hold"]["rows"] == 0
    assert one["billing.DaySeal"]["rows"] == 3


def test_three_days_late_leaves_what_every_six_hours_leave(time: FrozenDateTimeFactory) -> None:
    # A lot that ended while a dead call held some of it ends in two steps when both are late: its entries are more, not other.
    money = {
        f"billing.{name}" for name in ("Invoice", "Subscription", "Lot", "Wallet", "Payment", "DaySeal", "Hold", "Account")
    }

    def on_time() -> None:
        for _ in range(12):
            time.tick(timedelta(hours=6))
            jobs_run(1)

    def late() -> None:
        time.move_to(START + GAP)
        jobs_run(1)
        jobs_run(1)

    timely, wrong_timely = after(time, on_time, only=money)
    tardy, wrong_tardy = after(time, late, only=money)

    assert differences(timely, tardy) == {}
    assert (wrong_timely, wrong_tardy) == ([], [])
    assert timely["billing.DaySeal"]["rows"] == 3
