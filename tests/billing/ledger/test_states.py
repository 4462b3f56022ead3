"""What every operation does to a hold in every state: one table. Then what comes back to lots in odd states."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.db.models import Sum
from freezegun import freeze_time

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.models import Hold, LedgerEntry, LedgerTransaction, Lot, UsageRecord, Wallet
from billing.ledger.services import (
    call_settle,
    dispute_lose,
    dispute_win,
    hold_extend,
    hold_open,
    holds_reap,
    lot_refund_fail,
    lot_refund_open,
)
from iafactory.common import clock
from iafactory.common.ids import uuid7
from tests.billing.ledger.calls import call_item_for, hold_item_for
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.django_db

D = Decimal


class Case:
    """A customer with 10 credits and a hold of 4 that expires after a minute."""

    def __init__(self) -> None:
        self.account: Account = account_make(credits=10)
        self.start: datetime = clock.now()
        self.item = HoldItem(
            id=uuid7(),
            account_id=self.account.pk,
            credits=D(4),
            worst_cost_usd=D("0.01"),
            opened_at=self.start,
            expires_at=self.start + timedelta(seconds=60),
            endpoint="/v1/chat/completions",
        )

    def at(self, seconds: int) -> datetime:
        return self.start + timedelta(seconds=seconds)

    def settle(self, charge: str, end: str, seconds: int) -> str:
        usage = UsageItem(
            id=self.item.id,
            started_at=self.start,
            finished_at=self.at(seconds),
            account_id=self.account.pk,
            endpoint=self.item.endpoint,
            end=end,
            credits_held=self.item.credits,
            credits_charged=D(charge),
        )
        item = CallItem(usage=usage, held=self.item.credits, charge=D(charge))
        verdict = call_settle(item, now=self.at(seconds))
        return f"{verdict.verdict} {verdict.charged.normalize() if verdict.charged is not None else None}"

    def reap(self, seconds: int) -> str:
        holds_reap(now=self.at(seconds))
        return "open" if Hold.objects.filter(pk=self.item.id).exists() else "closed"


STATES: dict[str, Callable[[Case], object]] = {
    "absent": lambda case: None,
    "open": lambda case: hold_open(case.item, now=case.start),
    "settled": lambda case: (hold_open(case.item, now=case.start), case.settle("1", "complete", 5)),
    "released": lambda case: (hold_open(case.item, now=case.start), case.settle("0", "refused", 5)),
    "reaped": lambda case: (hold_open(case.item, now=case.start), case.reap(61)),
    "expired": lambda case: hold_open(case.item, now=case.start),
}

# The second argument says when: an expired hold is met after its minute, the others in it.
OPERATIONS: dict[str, Callable[[Case, int], str]] = {
    "open": lambda case, seconds: hold_open(case.item, now=case.at(seconds)).verdict,
    "extend": lambda case, seconds: hold_extend(
        request_id=case.item.id, credits=D(6), worst_cost_usd=D("0.02"), now=case.at(seconds)
    ),
    "settle": lambda case, seconds: case.settle("3", "complete", seconds),
    "release": lambda case, seconds: case.settle("0", "refused", seconds),
    "reap": lambda case, seconds: case.reap(seconds),
    "late settle": lambda case, seconds: case.settle("3", "complete", 600),
}

SECONDS = {"absent": 10, "open": 10, "settled": 10, "released": 10, "reaped": 90, "expired": 90}

# state, operation: verdict (and credits charged), balance, held, unknown cost in USD, how the usage log says the call ended
TABLE: list[tuple[str, str, str, str, str, str, list[str]]] = [
    ("absent", "open", "held", "10", "4", "0", []),
    ("absent", "extend", "gone", "10", "0", "0", []),
    ("absent", "settle", "late 3", "7", "0", "0", ["complete"]),
    ("absent", "release", "late 0", "10", "0", "0", ["refused"]),
    ("absent", "reap", "closed", "10", "0", "0", []),
    ("absent", "late settle", "late 3", "7", "0", "0", ["complete"]),
    ("open", "open", "held", "10", "4", "0", []),
    ("open", "extend", "held", "10", "6", "0", []),
    ("open", "settle", "settled 3", "7", "0", "0", ["complete"]),
    ("open", "release", "settled 0", "10", "0", "0", ["refused"]),
    ("open", "reap", "open", "10", "4", "0", []),
    ("open", "late settle", "settled 3", "7", "0", "0", ["complete"]),
    ("settled", "open", "closed", "9", "0", "0", ["complete"]),
    ("settled", "extend", "gone", "9", "0", "0", ["complete"]),
    ("settled", "settle", "duplicate 1", "9", "0", "0", ["complete"]),
    ("settled", "release", "duplicate 1", "9", "0", "0", ["complete"]),
    ("settled", "reap", "closed", "9", "0", "0", ["complete"]),
    ("settled", "late settle", "duplicate 1", "9", "0", "0", ["complete"]),
    ("released", "open", "closed", "10", "0", "0", ["refused"]),
    ("released", "extend", "gone", "10", "0", "0", ["refused"]),
    ("released", "settle", "duplicate 0", "10", "0", "0", ["refused"]),
    ("released", "release", "duplicate 0", "10", "0", "0", ["refused"]),
    ("released", "reap", "closed", "10", "0", "0", ["refused"]),
    ("released", "late settle", "duplicate 0", "10", "0", "0", ["refused"]),
    ("reaped", "open", "closed", "10", "0", "0.01", ["process_died"]),
    ("reaped", "extend", "gone", "10", "0", "0.01", ["process_died"]),
    ("reaped", "settle", "late 3", "7", "0", "0", ["complete"]),
    ("reaped", "release", "late 0", "10", "0", "0", ["refused"]),
    ("reaped", "reap", "closed", "10", "0", "0.01", ["process_died"]),
    ("reaped", "late settle", "late 3", "7", "0", "0", ["complete"]),
    ("expired", "open", "held", "10", "4", "0", []),
    ("expired", "extend", "held", "10", "6", "0", []),
    ("expired", "settle", "settled 3", "7", "0", "0", ["complete"]),
    ("expired", "release", "settled 0", "10", "0", "0", ["refused"]),
    ("expired", "reap", "closed", "10", "0", "0.01", ["process_died"]),
    ("expired", "late settle", "settled 3", "7", "0", "0", ["complete"]),
]


def test_the_table_names_every_pair_once() -> None:
    pairs = [(state, operation) for state, operation, *_ in TABLE]

    assert sorted(pairs) == sorted((state, operation) for state in STATES for operation in OPERATIONS)


@pytest.mark.parametrize(
    ("state", "operation", "verdict", "balance", "held", "unknown_usd", "ends"),
    TABLE,
    ids=[f"{state}-{operation}" for state, operation, *_ in TABLE],
)
def test_hold(state: str, operation: str, verdict: str, balance: str, held: str, unknown_usd: str, ends: list[str]) -> None:
    case = Case()
    STATES[state](case)

    answer = OPERATIONS[operation](case, SECONDS[state])

    assert answer == verdict
    wallet = Wallet.objects.get(pk=case.account.pk)
    assert (wallet.balance, wallet.held) == (D(balance), D(held))
    holds = Hold.objects.filter(pk=case.item.id).aggregate(total=Sum("credits"))
    assert (holds["total"] or D(0)) == D(held)
    unknown = LedgerEntry.objects.filter(ledger_account__kind="unknown_cost", transaction__account=case.account)
    assert (unknown.aggregate(total=Sum("amount"))["total"] or D(0)) == D(unknown_usd)
    assert list(UsageRecord.objects.filter(pk=case.item.id).values_list("end", flat=True)) == ends
    assert LedgerTransaction.objects.filter(pk=case.item.id).count() == len([end for end in ends if end != "process_died"])
    call_command("verify_books")


# --- what comes back to a lot that ended, or that has no room left ----------------------------------------------------


def figures(account: Account) -> tuple[Decimal, Decimal, Decimal]:
    wallet = Wallet.objects.get(pk=account.pk)
    return wallet.balance, wallet.held, wallet.debt


def test_a_refund_that_fails_after_an_expiry_nobody_booked_yet_leaves_nothing_spendable() -> None:
    account = account_make()
    start = clock.now()
    lot = lot_make(account.pk, 10, expires_at=start + timedelta(hours=1))
    lot_refund_open(lot=lot, reason="asked", actor=SYSTEM, idempotency_key="r1")

    with freeze_time(start + timedelta(hours=2)):
        lot_refund_fail(lot=lot, reason="bank refused", actor=SYSTEM, idempotency_key="r1")

    assert figures(account) == (D(0), D(0), D(0))
    call_command("verify_books")


def test_a_dispute_won_while_calls_still_hold_the_lot_gives_paid_debt_back_beside_it() -> None:
    case = Case()
    hold_open(case.item)
    [lot] = Lot.objects.filter(wallet=case.account.pk)
    dispute_lose(lot=lot, reason="chargeback", actor=SYSTEM, idempotency_key="d1")
    lot_make(case.account.pk, 10)

    back = dispute_win(lot=lot, reason="won", actor=SYSTEM, idempotency_key="d1")

    # 10 bought twice; 6 were taken, 4 stayed held and were owed until the second purchase paid them.
    assert back == D(10)
    assert figures(case.account) == (D(20), D(4), D(0))
    beside = Lot.objects.get(grant_key="back:d1")
    assert (beside.remaining, beside.expires_at, beside.kind) == (D(4), None, "refund")
    call_command("verify_books")


def test_a_dispute_won_after_the_lot_expired_gives_back_what_a_purchase_paid() -> None:
    account = account_make()
    start = clock.now()
    lot = lot_make(account.pk, 10, expires_at=start + timedelta(hours=1))
    hold = hold_item_for(account.pk, "4")
    hold_open(hold)
    call_settle(call_item_for(hold, "4"))
    dispute_lose(lot=lot, reason="chargeback", actor=SYSTEM, idempotency_key="d1")
    lot_make(account.pk, 10)

    with freeze_time(start + timedelta(hours=2)):
        dispute_win(lot=lot, reason="won", actor=SYSTEM, idempotency_key="d1")

    # The 6 that were taken would have expired; the 4 that the second purchase paid were bought.
    assert figures(account) == (D(10), D(0), D(0))
    call_command("verify_books")


def test_a_purchase_that_begins_later_pays_debt_when_it_begins() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10)
    hold = hold_item_for(account.pk, "4")
    hold_open(hold)
    call_settle(call_item_for(hold, "4"))
    dispute_lose(lot=lot, reason="chargeback", actor=SYSTEM, idempotency_key="d1")
    lot_make(account.pk, 10, effective_at=clock.now() + timedelta(hours=1))

    verdict = hold_open(hold_item_for(account.pk, "1"), now=clock.now() + timedelta(hours=2))

    assert (verdict.verdict, verdict.available) == ("held", D(5))
    assert figures(account) == (D(6), D(1), D(0))
    call_command("verify_books")
