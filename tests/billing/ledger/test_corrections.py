"""Voids, refunds and disputes: entries like any other, and never what a hold has pinned."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.db.models import Sum

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.models import LedgerEntry, Lot, Wallet
from billing.ledger.selectors import balance_at
from billing.ledger.services import (
    call_settle,
    dispute_lose,
    dispute_win,
    due_wallets_roll,
    hold_open,
    lot_refund_fail,
    lot_refund_open,
    lot_refundable,
    lot_void,
)
from iafactory.common import clock
from tests.billing.ledger.test_ledger import call_item, hold_item
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.django_db

D = Decimal


def figures(account: Account) -> tuple[Decimal, Decimal, Decimal]:
    wallet = Wallet.objects.get(pk=account.pk)
    return wallet.balance, wallet.held, wallet.debt


def total(account_kind: str, account: Account) -> Decimal:
    entries = LedgerEntry.objects.filter(ledger_account__kind=account_kind, transaction__account=account)
    return entries.aggregate(total=Sum("amount"))["total"] or D(0)


def test_void_takes_only_what_is_not_held_and_only_once() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10, paid_amount=D(100), paid_currency="DZD")
    hold = hold_item(account, "4")
    hold_open(hold)

    taken = lot_void(lot=lot, reason="mistake", actor=SYSTEM, idempotency_key="v1")
    again = lot_void(lot=lot, reason="mistake", actor=SYSTEM, idempotency_key="v1")
    charged = call_settle(call_item(hold, "3")).charged

    assert (taken, again, charged) == (D(6), D(6), D(3))
    assert figures(account) == (D(1), D(0), D(0))
    assert total("issued", account) == D(-4)
    call_command("verify_books")


def test_void_of_a_part() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10)

    lot_void(lot=lot, amount=D("2.5"), reason="x", actor=SYSTEM, idempotency_key="v1")

    assert figures(account) == (D("7.5"), D(0), D(0))
    assert Event.objects.filter(account_id=account.pk, kind="lot.void").count() == 1


def test_refundable_is_the_share_of_unspent_unheld_credits() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10, paid_amount=D("100"), paid_currency="DZD")
    spent = hold_item(account, "3")
    hold_open(spent)
    call_settle(call_item(spent, "3"))
    hold_open(hold_item(account, "1"))
    lot.refresh_from_db()

    # 100 DZD x (7 - 1) / 10
    assert lot_refundable(lot) == D("60.0000")


def test_refund_parks_and_failure_restores() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10, paid_amount=D(100), paid_currency="DZD")

    parked = lot_refund_open(lot=lot, reason="asked", actor=SYSTEM, idempotency_key="r1")
    while_parked = figures(account), total("refunded", account)
    back = lot_refund_fail(lot=lot, reason="bank refused", actor=SYSTEM, idempotency_key="r1")
    again = lot_refund_fail(lot=lot, reason="bank refused", actor=SYSTEM, idempotency_key="r1")

    assert (parked, back, again) == (D(10), D(10), D(0))
    assert while_parked == ((D(0), D(0), D(0)), D(10))
    assert figures(account) == (D(10), D(0), D(0))
    assert total("refunded", account) == 0
    call_command("verify_books")


def test_refund_that_fails_after_the_lot_expired_restores_nothing_spendable() -> None:
    account = account_make()
    now = clock.now()
    lot = lot_make(account.pk, 10, expires_at=now + timedelta(hours=1))
    lot_refund_open(lot=lot, reason="asked", actor=SYSTEM, idempotency_key="r1")
    due_wallets_roll(now=now + timedelta(hours=2))

    lot_refund_fail(lot=lot, reason="bank refused", actor=SYSTEM, idempotency_key="r1")

    assert figures(account) == (D(0), D(0), D(0))
    assert total("expired", account) == D(10)
    call_command("verify_books")


def test_a_lost_dispute_leaves_debt_that_stops_calls_and_that_a_purchase_pays() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10, paid_amount=D(100), paid_currency="DZD")
    spent = hold_item(account, "4")
    hold_open(spent)
    call_settle(call_item(spent, "4"))

    debt = dispute_lose(lot=lot, reason="chargeback", actor=SYSTEM, idempotency_key="d1")
    in_debt = figures(account)
    lot_make(account.pk, 3, kind="bonus")
    refused = hold_open(hold_item(account, "1")).verdict
    lot_make(account.pk, 10)
    paid = figures(account)
    served = hold_open(hold_item(account, "1")).verdict

    assert debt == D(4)
    assert in_debt == (D(0), D(0), D(4))
    assert refused == "indebted"
    assert paid == (D(9), D(0), D(0))
    assert served == "held"
    call_command("verify_books")


def test_a_won_dispute_gives_everything_back() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10, paid_amount=D(100), paid_currency="DZD")
    spent = hold_item(account, "4")
    hold_open(spent)
    call_settle(call_item(spent, "4"))
    dispute_lose(lot=lot, reason="chargeback", actor=SYSTEM, idempotency_key="d1")

    dispute_win(lot=lot, reason="won", actor=SYSTEM, idempotency_key="d1")

    assert figures(account) == (D(6), D(0), D(0))
    call_command("verify_books")


def test_a_dispute_won_after_its_debt_was_paid_gives_that_back_too() -> None:
    account = account_make()
    lot = lot_make(account.pk, 10)
    spent = hold_item(account, "4")
    hold_open(spent)
    call_settle(call_item(spent, "4"))
    dispute_lose(lot=lot, reason="chargeback", actor=SYSTEM, idempotency_key="d1")
    lot_make(account.pk, 10)

    dispute_win(lot=lot, reason="won", actor=SYSTEM, idempotency_key="d1")

    # 10 bought, 4 spent, then 10 bought: 16 in all.
    assert figures(account) == (D(16), D(0), D(0))
    assert Lot.objects.get(pk=lot.pk).remaining == D(10)
    call_command("verify_books")


def test_the_balance_at_any_date_is_a_query() -> None:
    account = account_make()
    start = clock.now()
    lot_make(account.pk, 5, expires_at=start + timedelta(days=10))
    lot_make(account.pk, 7, effective_at=start + timedelta(days=5))
    middle = clock.now()
    hold = hold_item(account, "2")
    hold_open(hold)
    call_settle(call_item(hold, "2"))
    now = clock.now()

    assert balance_at(account.pk, start - timedelta(days=1), now=now) == 0
    assert balance_at(account.pk, middle, now=now) == D(5)
    assert balance_at(account.pk, now, now=now) == D(3)
    assert balance_at(account.pk, now + timedelta(days=6), now=now) == D(10)
    assert balance_at(account.pk, now + timedelta(days=11), now=now) == D(7)
