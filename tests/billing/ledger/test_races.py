"""Money services raced by real threads, each on a connection of its own."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models import Sum

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.ledger.models import Hold, LedgerEntry, LedgerTransaction, UsageRecord, Wallet
from billing.ledger.services import (
    call_settle,
    credits_grant,
    dispute_lose,
    due_wallets_roll,
    hold_extend,
    hold_open,
    holds_reap,
    lot_refund_open,
    lot_void,
)
from iafactory.common import clock
from iafactory.common.ids import uuid7
from tests.billing.ledger.test_ledger import call_item, hold_item
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.usefixtures("committed")

D = Decimal


def race(jobs: Sequence[Callable[[], Any]], *, threads: int = 8) -> list[Any]:
    """Run `jobs` in `threads` threads that start together; their results, in the order of the jobs."""
    start = threading.Barrier(min(threads, len(jobs)))
    met = threading.local()

    def run(job: Callable[[], Any]) -> Any:
        if not hasattr(met, "ready"):
            met.ready = True
            connection.ensure_connection()
            start.wait(10)
        return job()

    with ThreadPoolExecutor(min(threads, len(jobs))) as pool:
        try:
            return list(pool.map(run, jobs, timeout=60))
        finally:
            # One goodbye for each thread: all must be busy at once for each to get one.
            leave = threading.Barrier(min(threads, len(jobs)))
            list(pool.map(lambda _: (leave.wait(10), connection.close()), range(min(threads, len(jobs)))))


def figures(account: Account) -> tuple[Decimal, Decimal, Decimal]:
    wallet = Wallet.objects.get(pk=account.pk)
    return wallet.balance, wallet.held, wallet.debt


def total(kind: str, account: Account, unit: str = "credit") -> Decimal:
    entries = LedgerEntry.objects.filter(ledger_account__kind=kind, transaction__account=account, unit=unit)
    return entries.aggregate(total=Sum("amount"))["total"] or D(0)


def booked(request_id: UUID) -> tuple[int, list[str]]:
    """Transactions of a call in the books, and how the usage log says it ended."""
    ends = UsageRecord.objects.filter(pk=request_id).values_list("end", flat=True)
    return LedgerTransaction.objects.filter(pk=request_id).count(), list(ends)


def test_two_hundred_holds_of_one_credit_get_ten_out_of_ten() -> None:
    account = account_make(credits=10)
    items = [hold_item(account, "1") for _ in range(200)]

    verdicts = race([partial(hold_open, item) for item in items], threads=16)

    assert Counter(verdict.verdict for verdict in verdicts) == {"held": 10, "insufficient": 190}
    assert figures(account) == (D(10), D(10), D(0))
    assert Hold.objects.filter(account=account).count() == 10
    race([partial(call_settle, call_item(item, "1")) for item in items if Hold.objects.filter(pk=item.id).exists()])
    assert figures(account) == (D(0), D(0), D(0))
    call_command("verify_books")


def test_grants_expiry_and_settles_at_once_lose_nothing() -> None:
    account = account_make()
    now = clock.now()
    lot_make(account.pk, 100, kind="plan", expires_at=now + timedelta(hours=1))
    items = [hold_item(account, "1") for _ in range(30)]
    race([partial(hold_open, item) for item in items])
    later = now + timedelta(hours=2)

    settles = [partial(call_settle, call_item(item, "0.5"), now=later) for item in items]
    grants = [partial(lot_make, account.pk, 2) for _ in range(30)]
    rolls = [partial(due_wallets_roll, now=later) for _ in range(30)]
    race([job for jobs in zip(settles, grants, rolls, strict=True) for job in jobs], threads=9)

    # Bought 60. Of the plan's 100: 15 consumed, the rest expired, whether it was free or came back from a hold.
    assert figures(account) == (D(60), D(0), D(0))
    assert total("consumed", account) == D(15)
    assert total("expired", account) == D(85)
    call_command("verify_books")


@pytest.mark.parametrize(("held", "charge"), [("4", "1.5"), ("1", "3"), ("0", "0")])
def test_one_call_settled_from_eight_threads_is_charged_once(held: str, charge: str) -> None:
    account = account_make(credits=10)
    item = hold_item(account, held)
    hold_open(item)

    verdicts = race([partial(call_settle, call_item(item, charge)) for _ in range(8)])

    assert Counter(verdict.verdict for verdict in verdicts) == {"settled": 1, "duplicate": 7}
    assert {verdict.charged for verdict in verdicts} == {D(charge)}
    assert figures(account) == (D(10) - D(charge), D(0), D(0))
    assert booked(item.id) == (1, ["complete"])
    call_command("verify_books")


@pytest.mark.parametrize("charge", ["1.5", "0"])
def test_one_call_without_a_hold_settled_from_eight_threads_is_charged_once(charge: str) -> None:
    account = account_make(credits=10)
    item = hold_item(account, "0")

    verdicts = race([partial(call_settle, call_item(item, charge)) for _ in range(8)])

    assert Counter(verdict.verdict for verdict in verdicts) == {"late": 1, "duplicate": 7}
    assert figures(account) == (D(10) - D(charge), D(0), D(0))
    assert booked(item.id) == (1, ["complete"])
    call_command("verify_books")


@pytest.mark.parametrize(("held", "charge"), [("4", "1.5"), ("0", "0")])
def test_the_reaper_and_a_settle_at_once_agree_on_one_end(held: str, charge: str) -> None:
    account = account_make(credits=40)
    items = [hold_item(account, held, seconds=1) for _ in range(10)]
    race([partial(hold_open, item) for item in items])
    later = clock.now() + timedelta(seconds=5)

    settles = [partial(call_settle, call_item(item, charge), now=later) for item in items]
    reapers = [partial(holds_reap, now=later) for _ in range(4)]
    results = race([*reapers, *settles], threads=8)

    reaped, verdicts = sum(results[:4]), Counter(verdict.verdict for verdict in results[4:])
    # Whoever came first: the customer pays the call once, and what the reaper assumed is taken back.
    assert verdicts.total() == verdicts["settled"] + verdicts["late"] == 10
    assert verdicts["late"] == reaped
    assert [booked(item.id) for item in items] == [(1, ["complete"])] * 10
    assert figures(account) == (D(40) - 10 * D(charge), D(0), D(0))
    assert total("unknown_cost", account, "USD") == 0
    call_command("verify_books")


@pytest.mark.parametrize("credits", ["1", "0"])
def test_calls_with_one_idempotency_key_open_one_hold(credits: str) -> None:
    account = account_make(credits=10)
    key = uuid7()
    items = [hold_item(account, credits, api_key_id=key, idempotency_key="k") for _ in range(16)]

    verdicts = race([partial(hold_open, item) for item in items])

    assert Counter(verdict.verdict for verdict in verdicts) == {"held": 1, "conflict": 15}
    assert Hold.objects.filter(account=account).count() == 1


def test_one_hold_opened_from_eight_threads_is_held_once() -> None:
    account = account_make(credits=10)
    item = hold_item(account, "3")

    verdicts = race([partial(hold_open, item) for _ in range(8)])

    assert [verdict.verdict for verdict in verdicts] == ["held"] * 8
    assert figures(account) == (D(10), D(3), D(0))


def test_extensions_never_pass_the_balance() -> None:
    account = account_make(credits=10)
    items = [hold_item(account, "1") for _ in range(8)]
    race([partial(hold_open, item) for item in items])

    verdicts = race([partial(hold_extend, request_id=item.id, credits=D(2), worst_cost_usd=D("0.02")) for item in items])

    assert Counter(verdicts) == {"held": 2, "insufficient": 6}
    assert figures(account) == (D(10), D(10), D(0))
    call_command("verify_books")


def test_an_extension_and_the_settle_of_one_hold_leave_nothing_pinned() -> None:
    account = account_make(credits=100)
    items = [hold_item(account, "1") for _ in range(20)]
    race([partial(hold_open, item) for item in items])

    extends = [partial(hold_extend, request_id=item.id, credits=D(2), worst_cost_usd=D("0.02")) for item in items]
    settles = [partial(call_settle, call_item(item, "1")) for item in items]
    race([job for pair in zip(extends, settles, strict=True) for job in pair])

    assert figures(account) == (D(80), D(0), D(0))
    call_command("verify_books")


def test_voids_refunds_and_disputes_beside_calls_never_take_what_is_held() -> None:
    account = account_make()
    lots = [lot_make(account.pk, 10, paid_amount=D(100), paid_currency="DZD") for _ in range(6)]
    items = [hold_item(account, "2") for _ in range(20)]

    def call(item: Any) -> Decimal:
        charged = D(0)
        if hold_open(item).verdict == "held":
            charged = call_settle(call_item(item, "2")).charged or D(0)
        return charged

    def correct(service: Callable[..., Decimal], lot: Any, key: str) -> Decimal:
        return service(lot=lot, reason="race", actor=SYSTEM, idempotency_key=f"race-{key}-{lot.pk}")

    calls = [partial(call, item) for item in items]
    voids = [partial(correct, lot_void, lot, "v") for lot in lots[:2] * 2]
    refunds = [partial(correct, lot_refund_open, lot, "r") for lot in lots[2:4] * 2]
    disputes = [partial(correct, dispute_lose, lot, "d") for lot in lots[4:] * 2]
    results = race([*calls[:10], *voids, *refunds, *disputes, *calls[10:]])

    charged = sum(results[:10]) + sum(results[22:])
    voided, refunded, debt = sum(results[10:12]), sum(results[14:16]), sum(results[18:20])
    balance, held, owed = figures(account)
    # Each key took once, its repetition answered the same.
    assert (results[10:12], results[14:16], results[18:20]) == (results[12:14], results[16:18], results[20:22])
    assert (held, owed) == (D(0), debt)
    assert balance == D(60) - charged - voided - refunded - (D(20) - debt)
    call_command("verify_books")


def test_one_grant_key_from_eight_threads_grants_once() -> None:
    account = account_make()
    grant = partial(
        credits_grant,
        account_id=account.pk,
        amount=D(5),
        kind="bonus",
        source="race",
        reason="race",
        actor=SYSTEM,
        idempotency_key=f"race-grant-{account.pk}",
    )

    lots = race([grant] * 8)

    assert len({lot.pk for lot in lots}) == 1
    assert figures(account) == (D(5), D(0), D(0))
