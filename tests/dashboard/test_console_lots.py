"""What operators do with one lot: void, refund, dispute. Each once, with a reason, and only what the lot allows."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.accounts.models import Account, User
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.models import LedgerEntry, LedgerTransaction, Lot, Wallet
from billing.ledger.services import credits_grant, lot_refund_open
from iafactory.common import clock
from iafactory.common.ids import uuid7

from .conftest import call, hold
from .test_console_pages import text_of

D = Decimal
TAKES = ["void", "refund", "dispute-lost"]
STEPS = [*TAKES, "refund-failed", "dispute-won"]


@pytest.fixture
def lot(account: Account) -> Lot:
    """A bought lot of 100 credits for 1,000 DZD, the account's only one."""
    Lot.objects.filter(wallet_id=account.pk).update(paid_amount=1000, paid_currency="DZD")
    return Lot.objects.get(wallet_id=account.pk)


def step(lot: Lot, name: str) -> str:
    return reverse(f"admin:billing_lot_{name.replace('-', '_')}", args=[lot.pk])


def taking(**changes: Any) -> dict[str, Any]:
    return {"amount": "", "reason": "asked by mail", "deed": str(uuid7()), "_confirm": "Do"} | changes


def figures(lot: Lot) -> tuple[Decimal, Decimal, Decimal]:
    """Balance, debt, and what the lot has left."""
    wallet = Wallet.objects.get(pk=lot.wallet_id)
    return wallet.balance, wallet.debt, Lot.objects.get(pk=lot.pk).remaining


def written() -> tuple[int, int, int]:
    return LedgerTransaction.objects.count(), LedgerEntry.objects.count(), Event.objects.count()


def clerk_with(*codenames: str) -> Client:
    clerk = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(clerk)
    return client


# --- The page and its buttons ---


def test_bought_lot_has_every_button(console: Client, lot: Lot) -> None:
    page = console.get(reverse("admin:billing_lot_change", args=[lot.pk])).content.decode()

    assert [step(lot, name) in page for name in STEPS] == [True] * 5


def test_given_lot_can_only_be_voided(console: Client, account: Account) -> None:
    bonus = bonus_of(account)

    page = console.get(reverse("admin:billing_lot_change", args=[bonus.pk])).content.decode()
    answer = console.post(step(bonus, "refund"), taking(), follow=True)

    assert [step(bonus, name) in page for name in STEPS] == [True, False, False, False, False]
    assert "Nobody paid for this lot." in answer.content.decode()
    assert figures(bonus) == (D(105), D(0), D(5))


def test_viewer_has_no_button(lot: Lot) -> None:
    client = clerk_with("view_lot")

    page = client.get(reverse("admin:billing_lot_change", args=[lot.pk]))

    assert page.status_code == 200
    assert step(lot, "void") not in page.content.decode()


@pytest.mark.parametrize("name", STEPS)
def test_steps_need_the_right_to_change_lots(lot: Lot, name: str) -> None:
    client = clerk_with("view_lot", "delete_lot", "add_lot")
    before = written()

    opened = client.get(step(lot, name))
    sent = client.post(step(lot, name), taking())

    assert (opened.status_code, sent.status_code) == (403, 403)
    assert written() == before


def test_clerk_with_the_right_voids(lot: Lot) -> None:
    answer = clerk_with("change_lot").post(step(lot, "void"), taking())

    assert answer.status_code == 302
    assert figures(lot) == (D(0), D(0), D(0))


@pytest.mark.parametrize("name", STEPS)
def test_lot_that_does_not_exist(console: Client, db: None, name: str) -> None:
    target = reverse(f"admin:billing_lot_{name.replace('-', '_')}", args=[uuid7()])

    assert console.get(target).status_code == 404


# --- Void ---


def test_void_shows_what_is_held_and_asks_before_it_takes(console: Client, account: Account, lot: Lot) -> None:
    hold(account)
    before = written()

    opened = text_of(console.get(step(lot, "void")))
    data = taking(amount="10")
    del data["_confirm"]
    confirm = console.post(step(lot, "void"), data)

    assert "Free: 98 of 100 credits" in opened
    assert "Held by open calls, and stays: 2" in opened
    assert "Credits taken 10 Held, stays 2 Reason asked by mail" in text_of(confirm)
    assert 'name="_confirm"' in confirm.content.decode()
    assert written() == before


def test_void_takes_all_that_is_free_and_leaves_what_is_held(console: Client, account: Account, lot: Lot) -> None:
    hold(account)

    answer = console.post(step(lot, "void"), taking(), follow=True)

    assert figures(lot) == (D(2), D(0), D(2))
    booked = LedgerTransaction.objects.get(kind="void")
    assert (booked.reason, booked.actor) == ("asked by mail", "operator@example.com")
    event = Event.objects.get(kind="lot.void")
    assert (event.reason, event.object_id, event.account_id) == ("asked by mail", str(lot.pk), account.pk)
    assert "Voided 98 credits. The balance is now 2." in answer.content.decode()
    assert LogEntry.objects.get().object_id == str(lot.pk)
    call_command("verify_books")


def test_void_of_a_part(console: Client, lot: Lot) -> None:
    console.post(step(lot, "void"), taking(amount="2.5"))

    assert figures(lot) == (D("97.5"), D(0), D("97.5"))


@pytest.mark.parametrize("name", ["void", "refund"])
def test_double_submit_takes_once(console: Client, lot: Lot, name: str) -> None:
    data = taking(amount="60")
    console.post(step(lot, name), data)
    after_first = written()

    again = console.post(step(lot, name), data, follow=True)

    assert figures(lot) == (D(40), D(0), D(40))
    assert written() == after_first
    assert "nothing was moved again" in again.content.decode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", "0"),
        ("amount", "-1"),
        ("amount", "100.000001"),
        ("amount", "0.0000001"),
        ("amount", "NaN"),
        ("amount", "ten"),
        ("reason", ""),
        ("reason", "x" * 201),
        ("deed", ""),
        ("deed", "1"),
    ],
)
@pytest.mark.parametrize("name", ["void", "refund"])
def test_wrong_input_writes_nothing(console: Client, lot: Lot, name: str, field: str, value: str) -> None:
    before = written()

    page = console.post(step(lot, name), taking(**{field: value}))

    assert page.status_code == 200
    assert page.context["form"].errors
    assert (figures(lot), written()) == ((D(100), D(0), D(100)), before)


def test_spent_lot_has_nothing_to_void(console: Client, lot: Lot) -> None:
    console.post(step(lot, "void"), taking())
    before = written()

    answer = console.post(step(lot, "void"), taking(), follow=True)

    assert "Nothing of this lot is free" in answer.content.decode()
    assert written() == before


def test_lot_that_has_not_begun_is_not_voided(console: Client, account: Account) -> None:
    later = bonus_of(account, effective_at=clock.now() + timedelta(days=366))
    before = written()

    answer = console.post(step(later, "void"), taking(), follow=True)

    assert "has not begun" in answer.content.decode()
    assert written() == before


# --- Refund ---


def test_refund_shows_what_the_credits_are_worth(console: Client, account: Account, lot: Lot) -> None:
    call(account)
    hold(account)

    opened = text_of(console.get(step(lot, "refund")))
    confirm = console.post(step(lot, "refund"), {"amount": "10", "reason": "x", "deed": str(uuid7())})

    assert "Paid: 1,000 DZD" in opened
    assert "Refundable: 966.5 DZD" in opened
    assert "Credits taken 10 Held, stays 2 Worth 100 DZD" in text_of(confirm)


def test_parked_refund_is_restored_once(console: Client, lot: Lot) -> None:
    parked = console.post(step(lot, "refund"), taking(amount="30"), follow=True)
    while_parked = figures(lot)
    key = LedgerTransaction.objects.get(kind="refund").idempotency_key
    listed = text_of(console.get(step(lot, "refund-failed")))

    restored = console.post(step(lot, "refund-failed"), {"taking": key, "reason": "bank said no", "_confirm": "x"}, follow=True)
    after = written()
    again = console.post(step(lot, "refund-failed"), {"taking": key, "reason": "bank said no", "_confirm": "x"}, follow=True)

    assert "Parked 30 credits, worth 300 DZD. The balance is now 70." in parked.content.decode()
    assert while_parked == (D(70), D(0), D(70))
    assert "30 credits on" in listed
    assert "Restored 30 credits. The balance is now 100." in restored.content.decode()
    assert figures(lot) == (D(100), D(0), D(100))
    assert "nothing was moved again" in again.content.decode()
    assert written() == after
    assert Event.objects.get(kind="lot.given_back").reason == "bank said no"
    call_command("verify_books")


def test_refund_parked_elsewhere_is_restored_here(console: Client, lot: Lot) -> None:
    lot_refund_open(lot=lot, reason="gateway", actor=SYSTEM, idempotency_key="payment-7")

    console.post(step(lot, "refund-failed"), {"taking": "payment-7", "reason": "bank said no", "_confirm": "x"})

    assert figures(lot) == (D(100), D(0), D(100))


def test_refund_of_another_lot_is_not_restored_here(console: Client, account: Account, lot: Lot) -> None:
    other = bought_by(account)
    lot_refund_open(lot=lot, reason="x", actor=SYSTEM, idempotency_key="mine")
    lot_refund_open(lot=other, reason="x", actor=SYSTEM, idempotency_key="other")
    before = written()

    page = console.post(step(lot, "refund-failed"), {"taking": "other", "reason": "x", "_confirm": "x"})

    assert page.context["form"].errors
    assert written() == before


def test_nothing_parked_nothing_to_restore(console: Client, lot: Lot) -> None:
    before = written()

    answer = console.post(step(lot, "refund-failed"), {"taking": "x", "reason": "x", "_confirm": "x"}, follow=True)

    assert "Nothing was taken from this lot" in answer.content.decode()
    assert written() == before


def test_restoring_without_reason_writes_nothing(console: Client, lot: Lot) -> None:
    lot_refund_open(lot=lot, reason="x", actor=SYSTEM, idempotency_key="mine")
    before = written()

    page = console.post(step(lot, "refund-failed"), {"taking": "mine", "reason": " ", "_confirm": "x"})

    assert page.context["form"].errors
    assert written() == before


# --- Dispute ---


def test_lost_dispute_leaves_debt_that_a_won_one_forgives(console: Client, account: Account, lot: Lot) -> None:
    call(account)
    opened = text_of(console.get(step(lot, "dispute-lost")))

    lost = console.post(step(lot, "dispute-lost"), taking(), follow=True)
    after_loss = figures(lot)
    key = LedgerTransaction.objects.get(kind="dispute").idempotency_key
    won = console.post(step(lot, "dispute-won"), {"taking": key, "reason": "bank agreed", "_confirm": "x"}, follow=True)

    assert "Debt it leaves: 1.35 credits" in opened
    assert "Took 98.65 credits; 1.35 became debt. The balance is now 0." in lost.content.decode()
    assert after_loss == (D(0), D("1.35"), D(0))
    assert "Restored 98.65 credits. Debt forgiven: 1.35. The balance is now 98.65." in won.content.decode()
    assert figures(lot) == (D("98.65"), D(0), D("98.65"))
    call_command("verify_books")


def test_dispute_is_lost_once_even_by_two_forms(console: Client, account: Account, lot: Lot) -> None:
    call(account)
    console.post(step(lot, "dispute-lost"), taking())
    before = written()

    answer = console.post(step(lot, "dispute-lost"), taking(), follow=True)

    assert "booked already" in answer.content.decode()
    assert figures(lot) == (D(0), D("1.35"), D(0))
    assert written() == before


def test_dispute_of_a_spent_lot_is_found_again(console: Client, lot: Lot) -> None:
    console.post(step(lot, "void"), taking())
    console.post(step(lot, "dispute-lost"), taking())
    after_loss = figures(lot)
    key = LedgerTransaction.objects.get(kind="dispute").idempotency_key

    won = console.post(step(lot, "dispute-won"), {"taking": key, "reason": "bank agreed", "_confirm": "x"}, follow=True)
    again = console.post(step(lot, "dispute-won"), {"taking": key, "reason": "bank agreed", "_confirm": "x"}, follow=True)

    assert after_loss == (D(0), D(100), D(0))
    assert "Restored 0 credits. Debt forgiven: 100." in won.content.decode()
    assert "nothing was moved again" in again.content.decode()
    assert figures(lot) == (D(0), D(0), D(0))


def test_dispute_warns_of_a_parked_refund(console: Client, lot: Lot) -> None:
    lot_refund_open(lot=lot, reason="asked", actor=SYSTEM, idempotency_key="mine", amount=D(40))

    opened = text_of(console.get(step(lot, "dispute-lost")))

    assert "becomes debt too: 40 credits on" in opened
    assert "Debt it leaves: 40 credits" in opened


def test_dispute_without_reason_writes_nothing(console: Client, lot: Lot) -> None:
    before = written()

    page = console.post(step(lot, "dispute-lost"), taking(reason=" "))

    assert page.context["form"].errors
    assert (figures(lot), written()) == ((D(100), D(0), D(100)), before)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["void", "dispute-lost"])
def test_two_submits_at_once_take_once(console: Client, lot: Lot, name: str) -> None:
    data = taking(amount="10")
    cookie = console.cookies["sessionid"].value

    def submit(_number: int) -> int:
        browser = Client()
        browser.cookies["sessionid"] = cookie
        try:
            return browser.post(step(lot, name), data).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(submit, range(4)))

    assert answers == [302] * 4
    assert LedgerTransaction.objects.filter(kind__in=("void", "dispute")).count() == 1
    assert Event.objects.filter(kind__in=("lot.void", "lot.dispute")).count() == 1
    assert LogEntry.objects.count() == 1


def test_steps_cost_the_same_for_1_taking_and_10(console: Client, account: Account, lot: Lot) -> None:
    def queries(name: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert console.get(step(lot, name)).status_code == 200
        return len(captured)

    lot_refund_open(lot=lot, reason="x", actor=SYSTEM, idempotency_key="r0", amount=D(1))
    console.get(step(lot, "refund-failed"))
    few = queries("refund-failed"), queries("dispute-lost")
    keys = [f"r{number}" for number in range(1, 10)]
    [lot_refund_open(lot=lot, reason="x", actor=SYSTEM, idempotency_key=key, amount=D(1)) for key in keys]
    many = queries("refund-failed"), queries("dispute-lost")

    assert many == few


def bonus_of(account: Account, **fields: Any) -> Lot:
    return lot_of(account, kind="bonus", **fields)


def bought_by(account: Account) -> Lot:
    return lot_of(account, kind="purchase", paid_amount=D(50), paid_currency="DZD")


def lot_of(account: Account, **fields: Any) -> Lot:
    return credits_grant(
        account_id=account.pk,
        amount=D(5),
        source="test",
        reason="test",
        actor=SYSTEM,
        idempotency_key=str(uuid7()),
        **fields,
    )
