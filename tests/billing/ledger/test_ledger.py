"""The SQL behind every credit, one item at a time, with exact figures."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import IntegrityError, InternalError, connection, transaction
from django.db.models import Sum

from billing.accounts.models import Account
from billing.events.models import Event
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.models import Hold, LedgerEntry, LedgerTransaction, Lot, UsageRecord, Wallet
from billing.ledger.services import call_settle, due_wallets_roll, hold_extend, hold_open, holds_reap
from iafactory.common import clock
from iafactory.common.ids import uuid7
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.django_db

D = Decimal


def hold_item(account: Account, credits: str, *, seconds: int = 600, **fields: object) -> HoldItem:
    now = clock.now()
    return HoldItem(
        id=uuid7(),
        account_id=account.pk,
        credits=D(credits),
        worst_cost_usd=D("0.01"),
        opened_at=now,
        expires_at=now + timedelta(seconds=seconds),
        endpoint="/v1/chat/completions",
        **fields,  # type: ignore[arg-type]
    )


def call_item(hold: HoldItem, charge: str, **fields: object) -> CallItem:
    usage = UsageItem(
        id=hold.id,
        started_at=hold.opened_at,
        finished_at=clock.now(),
        account_id=hold.account_id,
        endpoint=hold.endpoint,
        end="complete",
        credits_held=hold.credits,
        credits_charged=D(charge),
    )
    return CallItem(usage=usage, held=hold.credits, charge=D(charge), **fields)  # type: ignore[arg-type]


def wallet_of(account: Account) -> tuple[Decimal, Decimal]:
    wallet = Wallet.objects.get(pk=account.pk)
    return wallet.balance, wallet.held


def entries_of(transaction_id: UUID) -> list[tuple[str, Decimal, Decimal | None]]:
    return list(
        LedgerEntry.objects.filter(transaction_id=transaction_id)
        .order_by("id")
        .values_list("ledger_account__kind", "amount", "balance_after")
    )


def test_grant_enters_the_balance_the_books_and_the_timeline() -> None:
    account = account_make()

    lot = lot_make(account.pk, "12.5")

    assert wallet_of(account) == (D("12.5"), 0)
    assert lot.remaining == D("12.5")
    [tx] = LedgerTransaction.objects.filter(account=account)
    assert entries_of(tx.pk) == [("wallet", D("12.5"), D("12.5")), ("issued", D("-12.5"), None)]
    assert Event.objects.get(account_id=account.pk).kind == "credits.granted"


def test_hold_pins_lots_in_burn_order() -> None:
    account = account_make()
    now = clock.now()
    bought = lot_make(account.pk, 10)
    late = lot_make(account.pk, 3, kind="plan", expires_at=now + timedelta(days=9))
    soon = lot_make(account.pk, 2, kind="plan", expires_at=now + timedelta(days=1))
    item = hold_item(account, "6")

    verdict = hold_open(item)

    assert (verdict.verdict, verdict.available) == ("held", D(9))
    hold = Hold.objects.get(pk=item.id)
    assert list(zip(hold.lot_ids, hold.lot_amounts, strict=True)) == [
        (soon.pk, D(2)),
        (late.pk, D(3)),
        (bought.pk, D(1)),
    ]
    assert wallet_of(account) == (D(15), D(6))


def test_hold_above_the_available_credits_writes_nothing() -> None:
    account = account_make(credits=5)
    hold_open(hold_item(account, "4"))

    verdict = hold_open(hold_item(account, "1.000001"))

    assert (verdict.verdict, verdict.available) == ("insufficient", D(1))
    assert Hold.objects.filter(account=account).count() == 1
    assert wallet_of(account) == (D(5), D(4))


def test_opening_a_hold_twice_holds_once() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "4")
    hold_open(item)

    again = hold_open(item)

    assert again.verdict == "held"
    assert wallet_of(account) == (D(5), D(4))


def test_settle_for_less_returns_the_rest() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "4")
    hold_open(item)

    verdict = call_settle(call_item(item, "1.25"))

    assert (verdict.verdict, verdict.charged, verdict.lost, verdict.balance_after) == (
        "settled",
        D("1.25"),
        D(0),
        D("3.75"),
    )
    assert wallet_of(account) == (D("3.75"), 0)
    assert entries_of(item.id) == [("wallet", D("-1.25"), D("3.75")), ("consumed", D("1.25"), None)]
    assert UsageRecord.objects.get(pk=item.id).credits_charged == D("1.25")
    assert not Hold.objects.filter(pk=item.id).exists()


def test_settle_twice_charges_once_and_answers_what_was_charged() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "4")
    hold_open(item)
    call_settle(call_item(item, "1.25"))

    again = call_settle(call_item(item, "3"))

    assert (again.verdict, again.charged, again.balance_after) == ("duplicate", D("1.25"), D("3.75"))
    assert wallet_of(account) == (D("3.75"), 0)
    assert UsageRecord.objects.filter(pk=item.id).count() == 1


def test_settle_above_the_hold_takes_what_is_free_and_books_the_rest_as_loss() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "2")
    hold_open(item)

    verdict = call_settle(call_item(item, "7"))

    assert (verdict.verdict, verdict.charged, verdict.lost) == ("settled", D(5), D(2))
    assert wallet_of(account) == (0, 0)
    assert entries_of(item.id) == [
        ("wallet", D(-5), D(0)),
        ("consumed", D(7), None),
        ("operator_loss", D(-2), None),
    ]
    usage = UsageRecord.objects.get(pk=item.id)
    assert (usage.credits_charged, usage.credits_lost) == (D(5), D(2))


def test_settle_above_the_hold_leaves_what_other_holds_pinned() -> None:
    account = account_make(credits=5)
    other, item = hold_item(account, "3"), hold_item(account, "1")
    hold_open(other)
    hold_open(item)

    verdict = call_settle(call_item(item, "4"))

    assert (verdict.charged, verdict.lost) == (D(2), D(2))
    assert wallet_of(account) == (D(3), D(3))


def test_settle_without_a_hold_is_booked_all_the_same() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "2")

    verdict = call_settle(call_item(item, "2"))

    assert (verdict.verdict, verdict.charged, verdict.balance_after) == ("late", D(2), D(3))


def test_free_call_leaves_a_transaction_without_entries_and_is_booked_once() -> None:
    account = account_make()
    item = hold_item(account, "0")
    hold_open(item)

    first, second = call_settle(call_item(item, "0")), call_settle(call_item(item, "0"))

    assert (first.verdict, second.verdict) == ("settled", "duplicate")
    assert LedgerTransaction.objects.filter(pk=item.id, kind="call").count() == 1
    assert entries_of(item.id) == []


def test_cost_nobody_pays_is_booked_in_usd() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "2")
    hold_open(item)

    call_settle(call_item(item, "0", loss_usd=D("0.004"), reason="The provider failed after billing."))

    assert entries_of(item.id) == [("operator_loss", D("0.004"), None), ("provider_cost", D("-0.004"), None)]
    assert wallet_of(account) == (D(5), 0)


def test_a_lot_that_expires_under_a_hold_still_pays_and_its_rest_expires() -> None:
    account = account_make()
    now = clock.now()
    lot = lot_make(account.pk, 10, kind="plan", expires_at=now + timedelta(hours=1))
    item = hold_item(account, "4")
    hold_open(item)
    later = now + timedelta(hours=2)

    due_wallets_roll(now=later)
    held_only = wallet_of(account)
    verdict = call_settle(call_item(item, "1"), now=later)

    assert held_only == (D(4), D(4))
    assert (verdict.verdict, verdict.charged) == ("settled", D(1))
    assert wallet_of(account) == (0, 0)
    lot.refresh_from_db()
    assert (lot.remaining, lot.held) == (0, 0)
    expired = LedgerEntry.objects.filter(ledger_account__kind="expired", transaction__account=account)
    assert expired.aggregate(total=Sum("amount"))["total"] == D(9)


def test_a_stale_lot_is_not_spendable_even_if_no_job_ran() -> None:
    account = account_make()
    now = clock.now()
    lot_make(account.pk, 10, kind="plan", expires_at=now + timedelta(hours=1))

    verdict = hold_open(hold_item(account, "1"), now=now + timedelta(hours=2))

    assert (verdict.verdict, verdict.available) == ("insufficient", D(0))


def test_a_future_lot_enters_the_balance_when_it_begins() -> None:
    account = account_make()
    now = clock.now()
    lot_make(account.pk, 7, effective_at=now + timedelta(days=1))

    before = hold_open(hold_item(account, "1")).verdict
    after = hold_open(hold_item(account, "1"), now=now + timedelta(days=2)).verdict

    assert (before, after) == ("insufficient", "held")
    assert wallet_of(account) == (D(7), D(1))


def test_extend_raises_a_hold_and_refuses_what_is_not_there() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "2")
    hold_open(item)

    enough = hold_extend(request_id=item.id, credits=D(4), worst_cost_usd=D("0.02"))
    too_much = hold_extend(request_id=item.id, credits=D("5.1"), worst_cost_usd=D("0.03"))
    unknown = hold_extend(request_id=uuid7(), credits=D(1), worst_cost_usd=D(0))

    assert (enough, too_much, unknown) == ("held", "insufficient", "gone")
    hold = Hold.objects.get(pk=item.id)
    assert (hold.credits, hold.worst_cost_usd, sum(hold.lot_amounts)) == (D(4), D("0.02"), D(4))
    assert wallet_of(account) == (D(5), D(4))


def test_reaper_closes_dead_holds_and_a_late_settle_corrects_it() -> None:
    account = account_make(credits=5)
    item = hold_item(account, "2", seconds=1)
    hold_open(item)
    now = clock.now() + timedelta(seconds=5)

    reaped = holds_reap(now=now)
    after_reap = (wallet_of(account), UsageRecord.objects.get(pk=item.id).end)
    late = call_settle(call_item(item, "1.5"))

    assert reaped == 1
    assert after_reap == ((D(5), 0), "process_died")
    assert (late.verdict, late.charged) == ("late", D("1.5"))
    assert UsageRecord.objects.get(pk=item.id).end == "complete"
    unknown = LedgerEntry.objects.filter(ledger_account__kind="unknown_cost", transaction__account=account)
    assert unknown.aggregate(total=Sum("amount"))["total"] == 0
    assert holds_reap(now=now) == 0


def test_reaper_leaves_living_holds_alone() -> None:
    account = account_make(credits=5)
    hold_open(hold_item(account, "2", seconds=60))

    assert holds_reap() == 0
    assert wallet_of(account) == (D(5), D(2))


def test_an_idempotency_key_admits_one_open_call() -> None:
    account = account_make(credits=5)
    key = uuid7()
    hold_open(hold_item(account, "1", api_key_id=key, idempotency_key="k"))

    verdict = hold_open(hold_item(account, "1", api_key_id=key, idempotency_key="k"))

    assert verdict.verdict == "conflict"
    assert wallet_of(account) == (D(5), D(1))


def test_a_grant_key_grants_once() -> None:
    account = account_make()
    first = lot_make(account.pk, 5)

    from billing.events.services import SYSTEM
    from billing.ledger.services import credits_grant

    again = credits_grant(
        account_id=account.pk,
        amount=D(99),
        kind="bonus",
        source="x",
        reason="x",
        actor=SYSTEM,
        idempotency_key=first.grant_key,
    )

    assert again.pk == first.pk
    assert wallet_of(account) == (D(5), 0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_ledgerentry SET amount = 0",
        "DELETE FROM billing_ledgerentry",
        "UPDATE billing_ledgertransaction SET reason = 'x'",
        "DELETE FROM billing_ledgertransaction",
        "UPDATE billing_ledgeraccount SET kind = 'wallet'",
        "DELETE FROM billing_ledgeraccount",
        "DELETE FROM billing_event",
        "TRUNCATE billing_ledgerentry",
    ],
)
def test_the_database_refuses_to_rewrite_the_books(statement: str) -> None:
    account_make(credits=5)

    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET CONSTRAINTS ALL IMMEDIATE; {statement}")


def test_the_database_refuses_entries_that_do_not_balance() -> None:
    account = account_make(credits=5)
    [tx] = LedgerTransaction.objects.filter(account=account)

    with pytest.raises((IntegrityError, InternalError), match="sum to zero"), transaction.atomic():
        LedgerEntry.objects.create(transaction=tx, ledger_account_id=account.pk, unit="credit", amount=D(1))


@pytest.mark.parametrize("missing", ["transaction", "ledger account", "account"])
def test_the_database_refuses_entries_that_belong_to_nothing(missing: str) -> None:
    account = account_make(credits=5)
    nowhere = uuid7()
    tx = LedgerTransaction.objects.create(
        id=uuid7(), kind="correction", at=clock.now(), account_id=nowhere if missing == "account" else account.pk
    )
    entries = [
        LedgerEntry(
            transaction_id=nowhere if missing == "transaction" else tx.pk,
            ledger_account_id=nowhere if missing == "ledger account" else account.pk,
            unit="credit",
            amount=amount,
        )
        for amount in (D(1), D(-1))
    ]

    with pytest.raises((IntegrityError, InternalError), match="belong to nothing"), transaction.atomic():
        LedgerEntry.objects.bulk_create(entries)


def test_the_database_refuses_a_negative_wallet() -> None:
    account = account_make(credits=5)

    with pytest.raises(IntegrityError, match="wallet_balance_not_negative"), transaction.atomic():
        Wallet.objects.filter(pk=account.pk).update(balance=D(-1))


def test_lot_parts_of_a_wallet_add_up_to_its_balance() -> None:
    account = account_make(credits=5)
    lot_make(account.pk, 3, kind="bonus")
    item = hold_item(account, "6")
    hold_open(item)

    call_settle(call_item(item, "5.5"))

    lots = Lot.objects.filter(wallet=account.pk).aggregate(remaining=Sum("remaining"), held=Sum("held"))
    assert (lots["remaining"], lots["held"]) == wallet_of(account) == (D("2.5"), D(0))
