"""Drafting, issuing, settling and correcting invoices."""

import itertools
import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.utils import InternalError
from freezegun import freeze_time

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.invoices import services
from billing.invoices.balance import money_balance, money_balance_change
from billing.invoices.lines import LineItem
from billing.invoices.models import BillingProfile, Invoice, InvoiceLine, MoneyBalanceEntry, NumberSeries, SellerProfile
from billing.invoices.numbering import fiscal_year_of, number_text
from billing.ledger.models import LedgerEntry
from billing.ledger.verification import books_verify
from iafactory.common.errors import ApiError
from tests.billing.invoices.conftest import NOON
from tests.factories import account_make

PAIRS = list(itertools.product(Invoice.State.values, Invoice.State.values))


def item(amount: str, kind: str = "plan", **fields: Any) -> LineItem:
    return LineItem(kind=kind, description="Abonnement Pro", amount=Decimal(amount), **fields)


def draft(account: Account, *amounts: str, currency: str = "DZD", **fields: Any) -> Invoice:
    items = [item(amount) for amount in amounts or ("11900",)]
    return services.invoice_draft(account=account, purpose="other", items=items, currency=currency, **fields)


def issued(account: Account, *amounts: str, **fields: Any) -> Invoice:
    return services.invoice_finalise(invoice=draft(account, *amounts, **fields), actor=SYSTEM)


def paid(account: Account, *amounts: str) -> Invoice:
    invoice = issued(account, *amounts)
    services.invoice_payment_apply(invoice=invoice, amount=invoice.due, at=NOON, means="ccp", actor=SYSTEM)
    invoice.refresh_from_db()
    return invoice


def booked() -> dict[str, Decimal]:
    """What each account of the money books holds."""
    totals: dict[str, Decimal] = {}
    for kind, amount in LedgerEntry.objects.filter(unit="DZD").values_list("ledger_account__kind", "amount"):
        totals[kind] = totals.get(kind, Decimal(0)) + amount
    return {kind: amount for kind, amount in totals.items() if amount}


def wrong() -> list[tuple[str, Any]]:
    """The rules of the books that do not hold."""
    return [(finding.check.name, finding.differences) for finding in books_verify() if finding.differences]


# --- Draft ---


def test_draft_freezes_lines_taxes_and_parties(account: Account, seller: SellerProfile) -> None:
    invoice = draft(account, "11900")

    lines = [(line.kind, line.amount, line.tax_amount, line.gross) for line in invoice.lines.all()]
    assert (invoice.state, invoice.number, invoice.issued_at) == ("draft", None, None)
    assert (invoice.net, invoice.tax_total, invoice.total) == (Decimal("10000"), Decimal("1900"), Decimal("11900"))
    assert lines == [
        ("plan", Decimal("10000"), Decimal("1900"), Decimal("11900")),
        ("tax", Decimal("1900"), Decimal("0"), Decimal("1900")),
    ]
    assert invoice.seller_snapshot["legal_name"] == "IA Factory"
    assert invoice.customer_snapshot["name"] == account.name
    assert [total["net"] for total in invoice.tax_snapshot] == ["10000.00"]
    assert booked() == {}


def test_shipped_seller_charges_no_tax_and_says_why(account: Account, shipped: SellerProfile) -> None:
    invoice = draft(account, "11900")

    assert (invoice.net, invoice.tax_total) == (Decimal("11900"), Decimal(0))
    assert invoice.tax_snapshot[0]["rule"]["mention"]["fr"] == "Vendeur non assujetti : taxe non applicable."
    assert [line.kind for line in invoice.lines.all()] == ["plan"]


def test_nothing_is_sold_without_a_seller(account: Account) -> None:
    with pytest.raises(ApiError) as refused:
        draft(account)

    assert (refused.value.status, refused.value.code) == (503, "seller_missing")
    assert not Invoice.objects.exists()


def test_sale_that_no_rule_covers_is_refused(account: Account, seller: SellerProfile) -> None:
    seller.country = "FR"
    seller.save()

    with pytest.raises(ApiError) as refused:
        draft(account)

    assert (refused.value.status, refused.value.code) == (503, "tax_rule_missing")
    assert not Invoice.objects.exists()


def test_cash_bears_stamp_duty_and_whole_units_a_rounding_line(account: Account, seller: SellerProfile) -> None:
    in_cash = draft(account, "11901", in_cash=True)
    rounded = draft(account, "11900.60", whole_units=True)

    assert (in_cash.stamp_total, in_cash.total) == (Decimal("120"), Decimal("12021"))
    assert (rounded.rounding_total, rounded.total) == (Decimal("0.40"), Decimal("11901"))
    assert [line.kind for line in in_cash.lines.all()] == ["plan", "tax", "stamp"]
    assert [line.kind for line in rounded.lines.all()] == ["plan", "tax", "rounding"]


def test_total_below_zero_is_no_invoice(account: Account, seller: SellerProfile) -> None:
    with pytest.raises(ValueError, match="credit note"):
        draft(account, "100", "-200")

    assert not Invoice.objects.exists()


# --- Issue ---


def test_issuing_takes_number_date_and_books(account: Account, seller: SellerProfile) -> None:
    with freeze_time(NOON):
        invoice = issued(account)

    assert (invoice.state, invoice.number, invoice.sequence, invoice.fiscal_year) == ("open", "FAC-2026-000001", 1, 2026)
    assert (invoice.issue_date, invoice.issued_at, invoice.due) == (date(2026, 3, 31), NOON, Decimal("11900"))
    assert booked() == {"receivable": Decimal("11900"), "revenue": Decimal("-10000"), "tax": Decimal("-1900")}
    assert list(Event.objects.filter(object_id=str(invoice.pk)).values_list("kind", flat=True)) == ["invoice.issued"]
    assert wrong() == []


def test_issuing_again_changes_nothing(account: Account, seller: SellerProfile) -> None:
    invoice = issued(account)

    again = services.invoice_finalise(invoice=invoice, actor=SYSTEM)

    assert again.number == invoice.number
    assert NumberSeries.objects.get().next_number == 2
    assert wrong() == []


@pytest.mark.parametrize(
    ("country", "day", "year"),
    [("DZ", "2026-12-31", 2026), ("DZ", "2027-01-01", 2027), ("IN", "2027-03-31", 2026), ("IN", "2027-04-01", 2027)],
)
def test_fiscal_year(country: str, day: str, year: int) -> None:
    assert fiscal_year_of(country, date.fromisoformat(day)) == year


def test_numbers_of_india_keep_to_sixteen_characters() -> None:
    number = number_text(country="IN", prefix="SUI", fiscal_year=2026, sequence=15)

    assert number == "SUI/26-27/000015"
    assert len(number) == 16
    with pytest.raises(ApiError) as refused:
        number_text(country="IN", prefix="LONG", fiscal_year=2026, sequence=1)
    assert refused.value.code == "number_too_long"


def test_series_begins_anew_with_the_fiscal_year_of_the_sellers_zone(account: Account, seller: SellerProfile) -> None:
    with freeze_time(datetime(2026, 12, 31, 22, 59, tzinfo=UTC)):  # 23:59 in Algiers
        last = issued(account)
    with freeze_time(datetime(2026, 12, 31, 23, 0, tzinfo=UTC)):  # midnight in Algiers
        first = issued(account)

    assert (last.number, last.issue_date) == ("FAC-2026-000001", date(2026, 12, 31))
    assert (first.number, first.issue_date) == ("FAC-2027-000001", date(2027, 1, 1))


def test_dates_of_a_series_never_go_back(account: Account, seller: SellerProfile) -> None:
    with freeze_time(datetime(2026, 5, 2, tzinfo=UTC)):
        issued(account)
    with freeze_time(datetime(2026, 4, 30, tzinfo=UTC)):  # a machine whose clock is behind
        later = issued(account)

    assert (later.sequence, later.issue_date) == (2, date(2026, 5, 2))


def test_number_of_a_transaction_that_fails_is_used_by_the_next(account: Account, seller: SellerProfile) -> None:
    sequences = []
    with transaction.atomic():
        sequences.append(issued(account).sequence)
        transaction.set_rollback(True)

    sequences.append(issued(account).sequence)

    assert sequences == [1, 1]


@pytest.mark.django_db(transaction=True)
def test_parallel_issues_leave_no_gap(account: Account, seller: SellerProfile) -> None:
    drafts = [draft(account_make()) for _ in range(12)]
    barrier = threading.Barrier(12)

    def run(invoice: Invoice) -> None:
        barrier.wait()
        services.invoice_finalise(invoice=invoice, actor=SYSTEM)
        connection.close()

    threads = [threading.Thread(target=run, args=[invoice]) for invoice in drafts]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert sorted(Invoice.objects.values_list("sequence", flat=True)) == list(range(1, 13))
    assert wrong() == []


def test_discarded_draft_is_never_issued(account: Account, seller: SellerProfile) -> None:
    invoice = draft(account)
    services.invoice_draft_discard(invoice=invoice, reason="abandoned")

    with pytest.raises(ApiError) as refused:
        services.invoice_finalise(invoice=invoice, actor=SYSTEM)

    assert refused.value.code == "invoice_discarded"
    assert not NumberSeries.objects.exists()


# --- Money in hand ---


def in_hand(account: Account, amount: str) -> None:
    """Money in hand, as a credit note leaves it."""
    invoice = paid(account, amount)
    services.credit_note_issue(
        invoice=invoice, amount=Decimal(amount), reason="test", actor=SYSTEM, key=f"t:{invoice.pk}", to_balance=True
    )


def test_money_in_hand_pays_the_next_invoice_first(account: Account, seller: SellerProfile) -> None:
    in_hand(account, "5000")

    part = issued(account, "11900")

    assert (part.balance_applied, part.due, part.state) == (Decimal("5000"), Decimal("6900"), "open")
    assert money_balance(account.pk, "DZD") == 0


def test_invoice_within_money_in_hand_is_paid_at_once(account: Account, seller: SellerProfile) -> None:
    in_hand(account, "5000")

    invoice = issued(account, "1190")

    assert (invoice.state, invoice.payment_means, invoice.due) == ("paid", "balance", Decimal(0))
    assert money_balance(account.pk, "DZD") == Decimal("3810")


def test_money_put_aside_for_a_draft_returns_when_it_is_given_up(account: Account, seller: SellerProfile) -> None:
    in_hand(account, "5000")
    invoice = draft(account, "11900", use_balance=True)
    reserved = money_balance(account.pk, "DZD")

    services.invoice_draft_discard(invoice=invoice, reason="abandoned")
    services.invoice_draft_discard(invoice=invoice, reason="abandoned")

    assert (invoice.balance_applied, reserved) == (Decimal("5000"), Decimal(0))
    assert money_balance(account.pk, "DZD") == Decimal("5000")


def test_balance_is_never_negative_and_a_key_counts_once(account: Account) -> None:
    change = {"account": account, "currency": "DZD", "reason": "test"}
    money_balance_change(**change, amount=Decimal("10"), key="a")
    money_balance_change(**change, amount=Decimal("10"), key="a")

    with pytest.raises(ValueError, match="10"):
        money_balance_change(**change, amount=Decimal("-11"), key="b")

    assert money_balance(account.pk, "DZD") == Decimal("10")
    assert MoneyBalanceEntry.objects.count() == 1


# --- Settle ---


def test_payment_in_parts_pays_when_the_last_one_comes(account: Account, seller: SellerProfile) -> None:
    invoice = issued(account, "11900")

    first = services.invoice_payment_apply(invoice=invoice, amount=Decimal("900"), at=NOON, means="ccp", actor=SYSTEM)
    second = services.invoice_payment_apply(invoice=invoice, amount=Decimal("20000"), at=NOON, means="ccp", actor=SYSTEM)
    third = services.invoice_payment_apply(invoice=invoice, amount=Decimal("1"), at=NOON, means="ccp", actor=SYSTEM)

    invoice.refresh_from_db()
    assert [taken for taken, _ in (first, second, third)] == [Decimal("900"), Decimal("11000"), Decimal("0")]
    assert (invoice.state, invoice.paid_at, invoice.payment_means) == ("paid", NOON, "ccp")


@freeze_time(NOON)
def test_void_takes_it_out_of_the_books_and_keeps_the_number(account: Account, seller: SellerProfile) -> None:
    in_hand(account, "5000")
    before = booked()
    invoice = issued(account)

    services.invoice_void(invoice=invoice, reason="wrong customer", actor=SYSTEM)
    services.invoice_void(invoice=invoice, reason="again", actor=SYSTEM)

    invoice.refresh_from_db()
    assert (invoice.state, invoice.reason, invoice.number) == ("void", "wrong customer", "FAC-2026-000002")
    assert booked() == before
    assert money_balance(account.pk, "DZD") == Decimal("5000")


def test_invoice_paid_in_part_is_not_voided(account: Account, seller: SellerProfile) -> None:
    invoice = issued(account)
    services.invoice_payment_apply(invoice=invoice, amount=Decimal("1"), at=NOON, means="ccp", actor=SYSTEM)

    with pytest.raises(ApiError) as refused:
        services.invoice_void(invoice=invoice, reason="no", actor=SYSTEM)

    assert refused.value.code == "invoice_paid_in_part"


def test_given_up_invoice_is_a_loss_and_may_still_be_paid(account: Account, seller: SellerProfile) -> None:
    invoice = issued(account)

    services.invoice_give_up(invoice=invoice, reason="never answered", actor=SYSTEM)
    lost = booked()
    taken, settles = services.invoice_payment_apply(
        invoice=invoice, amount=Decimal("11900"), at=NOON, means="ccp", actor=SYSTEM
    )

    invoice.refresh_from_db()
    assert lost == {"written_off": Decimal("11900"), "revenue": Decimal("-10000"), "tax": Decimal("-1900")}
    assert (taken, settles, invoice.state) == (Decimal("11900"), "written_off", "paid")


@pytest.mark.parametrize(("state", "to"), [pair for pair in PAIRS if pair[1] not in Invoice.MOVES[pair[0]]])
def test_move_that_the_table_has_not_is_refused(state: str, to: str) -> None:
    with pytest.raises(services.InvoiceMoveRefused):
        services._move(Invoice(state=state), to)


@pytest.mark.parametrize(("state", "to"), [pair for pair in PAIRS if pair[1] in Invoice.MOVES[pair[0]]])
def test_move_that_the_table_has(state: str, to: str) -> None:
    invoice = Invoice(state=state)

    services._move(invoice, to)

    assert invoice.state == to


# --- Credit notes ---


@freeze_time(NOON)
def test_credit_note_mirrors_the_invoice_at_its_own_rate(account: Account, seller: SellerProfile) -> None:
    invoice = paid(account, "11900")
    seller.tax_registered = False
    seller.save()

    note = services.credit_note_issue(
        invoice=invoice, amount=Decimal("5950"), reason="half", actor=SYSTEM, key="half", to_balance=True
    )
    again = services.credit_note_issue(
        invoice=invoice, amount=Decimal("5950"), reason="half", actor=SYSTEM, key="half", to_balance=True
    )

    invoice.refresh_from_db()
    assert again == note
    assert (note.kind, note.number, note.state, note.corrects) == ("credit_note", "AV-2026-000001", "paid", invoice)
    assert (note.net, note.tax_total, note.total) == (Decimal("5000"), Decimal("950"), Decimal("5950"))
    assert invoice.credited_total == Decimal("5950")
    assert money_balance(account.pk, "DZD") == Decimal("5950")
    assert booked()["refunds"] == Decimal("5000")


def test_credit_notes_in_parts_add_up_to_the_line(account: Account, seller: SellerProfile) -> None:
    invoice = paid(account, "100")  # net 84.03, tax 15.97

    notes = [
        services.credit_note_issue(
            invoice=Invoice.objects.get(pk=invoice.pk),
            amount=Decimal(amount),
            reason="part",
            actor=SYSTEM,
            key=f"part-{amount}",
            to_balance=False,
        )
        for amount in ("33.33", "33.34", "33.33000")
    ]

    assert sum(note.net for note in notes) == Decimal("84.03")
    assert sum(note.tax_total for note in notes) == Decimal("15.97")
    assert [note.state for note in notes] == ["open", "open", "open"]
    with pytest.raises(ApiError) as refused:
        services.credit_note_issue(
            invoice=invoice, amount=Decimal("0.01"), reason="more", actor=SYSTEM, key="more", to_balance=False
        )
    assert refused.value.code == "credit_too_large"


def test_open_invoice_is_not_credited(account: Account, seller: SellerProfile) -> None:
    invoice = issued(account)

    with pytest.raises(ApiError) as refused:
        services.credit_note_issue(invoice=invoice, amount=Decimal(1), reason="x", actor=SYSTEM, key="x", to_balance=True)

    assert refused.value.code == "invoice_not_paid"
    assert Invoice.objects.count() == 1


def test_settled_credit_note_is_paid_once(account: Account, seller: SellerProfile) -> None:
    note = services.credit_note_issue(
        invoice=paid(account), amount=Decimal("11900"), reason="all", actor=SYSTEM, key="all", to_balance=False
    )

    services.credit_note_settle(note=note, means="bank_transfer", actor=SYSTEM)
    services.credit_note_settle(note=note, means="other", actor=SYSTEM)

    note.refresh_from_db()
    assert (note.state, note.amount_paid, note.payment_means) == ("paid", Decimal("11900"), "bank_transfer")


# --- The database's own guards ---


@pytest.mark.parametrize(
    "change",
    [{"total": Decimal("1"), "net": Decimal("1"), "tax_total": Decimal(0)}, {"number": "X"}, {"customer_snapshot": {}}],
)
def test_database_refuses_to_edit_an_issued_invoice(account: Account, seller: SellerProfile, change: dict[str, Any]) -> None:
    invoice = issued(account)

    with pytest.raises((IntegrityError, InternalError), match="was issued"), transaction.atomic():
        Invoice.objects.filter(pk=invoice.pk).update(**change)

    with pytest.raises((IntegrityError, InternalError), match="stay"), transaction.atomic():
        InvoiceLine.objects.filter(invoice=invoice).update(amount=0)


def test_profile_of_the_customer_is_frozen_when_the_draft_is_made(account: Account, seller: SellerProfile) -> None:
    BillingProfile.objects.create(
        account=account, name="SARL Amina", identifiers={"nif": "000016001234567"}, tax_status="business", language="ar"
    )

    invoice = issued(account)
    BillingProfile.objects.update(name="Other")

    invoice.refresh_from_db()
    assert invoice.customer_snapshot["name"] == "SARL Amina"
    assert invoice.customer_snapshot["identifiers"] == {"nif": "000016001234567"}
    assert invoice.language == "ar"


def test_period_is_billed_once(account: Account, seller: SellerProfile) -> None:
    subscription = Account.objects.get().pk  # any id
    period = (NOON, datetime(2026, 4, 30, 12, tzinfo=UTC))
    fields: dict[str, Any] = {"account": account, "purpose": "period", "items": [item("100")], "currency": "DZD"}
    services.invoice_draft(**fields, subscription_id=subscription, period=period)

    with pytest.raises(IntegrityError, match="invoice_one_per_period"), transaction.atomic():
        services.invoice_draft(**fields, subscription_id=subscription, period=period)

    assert Invoice.objects.count() == 1
