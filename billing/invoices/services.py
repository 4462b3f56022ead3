"""Everything that makes, issues, settles and corrects invoices.

Lock order: account, invoice, number series, money in hand. Each function writes its event and its entries in the money books in
the transaction of the change.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction

from billing.accounts.models import Account
from billing.accounts.services import task_enqueue
from billing.events.services import Actor, event_record
from billing.ledger.models import LedgerAccount, LedgerTransaction
from billing.ledger.money_books import money_book
from billing.plans.selectors import fx_rate_at
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO
from iafactory.common.texts import Text

from . import selectors
from .balance import money_balance_change, money_balance_take
from .lines import (
    LineItem,
    PricedInvoice,
    items_price,
    lines_make,
    lines_number,
    tax_lines,
    taxed_read,
    taxes_write,
    totals_write,
)
from .models import Invoice, InvoiceLine
from .numbering import number_take
from .parties import customer_snapshot, profile_of, rule_chooser, seller_for, seller_snapshot
from .rounding import minor_unit, split
from .stamp_duty import shipped_stamp_duties, stamp_duty_compute
from .tax import TaxAmount, TaxedAmount, credit_share
from .wording import words

_Account = LedgerAccount.Kind
_Booking = LedgerTransaction.Kind


class InvoiceMoveRefused(ApiError):
    """The state table has no such move: 409 `invoice_move_refused`."""

    def __init__(self, state: str, to: str) -> None:
        super().__init__(409, "invoice_move_refused", f"An invoice that is {state} cannot become {to}.")


def invoice_draft(
    *,
    account: Account,
    purpose: str,
    items: Iterable[LineItem],
    currency: str,
    subscription_id: UUID | None = None,
    period: tuple[datetime, datetime] | None = None,
    origin_key: str | None = None,
    checkout: dict[str, Any] | None = None,
    whole_units: bool = False,
    in_cash: bool = False,
    use_balance: bool = False,
) -> Invoice:
    """Write down what is sold, to whom and with which taxes, as of now; nothing is owed and no number is used yet.

    With `use_balance` money in hand is put aside for it. `in_cash` adds stamp duty. ValueError for a total below zero;
    ApiError 503 `seller_missing`, `tax_rule_missing`.
    """
    now = clock.now()
    profile = profile_of(account)
    seller = seller_for(country=profile.country, day=now.date())
    today = now.astimezone(seller.zone).date()

    def stamp_of(amount: Decimal) -> Decimal:
        return stamp_duty_compute(shipped_stamp_duties(), country=seller.country, currency=currency, amount=amount, on=today)

    priced = items_price(
        [_with_sac(item, seller.default_sac) for item in items],
        rule_of=rule_chooser(seller, profile, today),
        currency=currency,
        whole_units=whole_units,
        stamp_of=stamp_of if in_cash else None,
    )
    if priced.total < 0:
        raise ValueError(f"an invoice of {priced.total} {currency} would be a credit note")
    with transaction.atomic():
        invoice = Invoice.objects.create(
            purpose=purpose,
            account=account,
            seller=seller,
            seller_code=seller.code,
            subscription_id=subscription_id,
            period_start=period[0] if period else None,
            period_end=period[1] if period else None,
            currency=currency,
            fx_rate=fx_rate_at(currency, now),
            language=profile.language,
            seller_snapshot=seller_snapshot(seller),
            customer_snapshot=customer_snapshot(profile),
            tax_snapshot=totals_write(priced.totals),
            checkout=checkout or {},
            origin_key=origin_key,
            **_totals(priced),
        )
        InvoiceLine.objects.bulk_create(lines_make(invoice, priced))
        if use_balance:
            invoice.balance_applied = money_balance_take(
                invoice=invoice, most=invoice.total, key=f"reserve:{invoice.pk}", reason="Put aside for an invoice"
            )
            invoice.save(update_fields=["balance_applied"])
    return invoice


def _with_sac(item: LineItem, sac: str) -> LineItem:
    return item if item.sac or not sac else replace(item, sac=sac)


def _totals(priced: PricedInvoice) -> dict[str, Decimal]:
    return {
        "net": priced.net,
        "tax_total": priced.tax,
        "stamp_total": priced.stamp,
        "rounding_total": priced.rounding,
        "total": priced.total,
    }


def invoice_draft_discard(*, invoice: Invoice, reason: str) -> None:
    """Give up a draft that nobody paid: money put aside for it returns. A payment that comes all the same finds no invoice."""
    with transaction.atomic():
        invoice = _lock(invoice)
        if invoice.state != Invoice.State.DRAFT or invoice.closed_at is not None:
            return
        if invoice.balance_applied:
            money_balance_change(
                account=invoice.account,
                currency=invoice.currency,
                amount=invoice.balance_applied,
                key=f"unreserve:{invoice.pk}",
                reason=reason,
                invoice=invoice,
            )
        invoice.balance_applied = ZERO
        invoice.closed_at = clock.now()
        invoice.reason = reason[:300]
        # Its place among a subscription's periods is free again.
        invoice.subscription_id, invoice.origin_key = None, None
        invoice.save(update_fields=["balance_applied", "closed_at", "reason", "subscription_id", "origin_key"])


def invoice_finalise(*, invoice: Invoice, actor: Actor, due_at: datetime | None = None, use_balance: bool = True) -> Invoice:
    """Issue a draft: it gets its number and date and is owed from now on. Safe to repeat.

    With `use_balance` money in hand pays it, wholly or in part; what needs no payment is paid at once. ApiError 409
    `invoice_discarded` for a draft that was given up.
    """
    with transaction.atomic():
        invoice = _lock(invoice)
        if invoice.state != Invoice.State.DRAFT:
            return invoice
        if invoice.closed_at is not None:
            raise ApiError(409, "invoice_discarded", "This draft was given up.")
        taken = number_take(seller=invoice.seller, kind=invoice.kind)
        invoice.state = Invoice.State.OPEN
        invoice.number, invoice.fiscal_year, invoice.sequence = taken.number, taken.fiscal_year, taken.sequence
        invoice.issued_at, invoice.issue_date = taken.issued_at, taken.issue_date
        invoice.due_at = due_at or taken.issued_at
        reserved = invoice.balance_applied
        is_credit_note = invoice.kind == Invoice.Kind.CREDIT_NOTE
        if use_balance and not is_credit_note:
            invoice.balance_applied += money_balance_take(
                invoice=invoice, most=invoice.total - reserved, key=f"use:{invoice.pk}", reason=f"Invoice {taken.number}"
            )
        invoice.save()
        if is_credit_note:
            postings = {
                _Account.REFUNDS: invoice.net + invoice.rounding_total,
                _Account.TAX: invoice.tax_total + invoice.stamp_total,
                _Account.RECEIVABLE: -invoice.total,
            }
        else:
            postings = {
                _Account.RECEIVABLE: invoice.total,
                _Account.REVENUE: -(invoice.net + invoice.rounding_total),
                _Account.TAX: -(invoice.tax_total + invoice.stamp_total),
            }
        _book(_Booking.CREDIT_NOTE if is_credit_note else _Booking.INVOICE, invoice, postings, f"invoice:{invoice.pk}", actor)
        if invoice.balance_applied:
            postings = {_Account.MONEY_BALANCE: invoice.balance_applied, _Account.RECEIVABLE: -invoice.balance_applied}
            _book(_Booking.MONEY_MOVE, invoice, postings, f"invoice-balance:{invoice.pk}", actor)
        _event("issued", invoice, actor, after={"due": str(invoice.due)})
        if invoice.due == 0:
            _paid(invoice, at=taken.issued_at, means="balance" if invoice.balance_applied else "", actor=actor)
        invoice_id = str(invoice.pk)
        transaction.on_commit(lambda: task_enqueue("billing.invoices.deliver", invoice_id))
    return invoice


def invoice_balance_use(*, invoice: Invoice, actor: Actor) -> Invoice:
    """Pay an issued invoice from money in hand as far as that goes; what came to hand after it was issued counts too.

    The caller has the account locked, and does what a paid invoice is for.
    """
    with transaction.atomic():
        invoice = _lock(invoice)
        payable = invoice.kind == Invoice.Kind.INVOICE and invoice.state in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE)
        if not payable or invoice.due <= 0:
            return invoice
        key = f"use:{invoice.pk}:{invoice.due}"
        taken = money_balance_take(invoice=invoice, most=invoice.due, key=key, reason=f"Invoice {invoice.number}")
        if taken <= 0:
            return invoice
        settles = _Account.RECEIVABLE if invoice.state == Invoice.State.OPEN else _Account.WRITTEN_OFF
        invoice.balance_applied += taken
        invoice.save(update_fields=["balance_applied"])
        postings = {_Account.MONEY_BALANCE: taken, settles: -taken}
        _book(_Booking.MONEY_MOVE, invoice, postings, f"invoice-balance:{key}", actor)
        _event("balance_used", invoice, actor, after={"amount": str(taken), "due": str(invoice.due)})
        if invoice.due == 0:
            _paid(invoice, at=clock.now(), means="balance", actor=actor)
    return invoice


def invoice_payment_apply(*, invoice: Invoice, amount: Decimal, at: datetime, means: str, actor: Actor) -> tuple[Decimal, str]:
    """Pay an issued invoice with `amount` of its currency; returns what it took and which account of the books that settles.

    The caller books the money and has the account locked. Nothing is taken of an invoice that is neither open nor given up.
    """
    with transaction.atomic():
        invoice = _lock(invoice)
        if invoice.state not in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE):
            return ZERO, _Account.RECEIVABLE
        settles = _Account.RECEIVABLE if invoice.state == Invoice.State.OPEN else _Account.WRITTEN_OFF
        taken = min(amount, invoice.due)
        if taken <= 0:
            return ZERO, settles
        invoice.amount_paid += taken
        invoice.save(update_fields=["amount_paid"])
        if invoice.due == 0:
            _paid(invoice, at=at, means=means, actor=actor)
    return taken, settles


def _paid(invoice: Invoice, *, at: datetime, means: str, actor: Actor) -> None:
    before = invoice.state
    _move(invoice, Invoice.State.PAID)
    invoice.paid_at = at
    invoice.payment_means = means
    invoice.save(update_fields=["state", "paid_at", "payment_means"])
    _event("paid", invoice, actor, before={"state": before}, after={"state": invoice.state, "means": means})


def invoice_void(*, invoice: Invoice, reason: str, actor: Actor) -> Invoice:
    """Take an open invoice back as if it had never been owed; its number stays used. Money in hand that it used returns.

    Raises InvoiceMoveRefused; ApiError 409 `invoice_paid_in_part` where payments paid some of it. Safe to repeat.
    """
    with transaction.atomic():
        invoice = _lock(invoice)
        if invoice.state == Invoice.State.VOID:
            return invoice
        if invoice.amount_paid:
            raise ApiError(409, "invoice_paid_in_part", "A payment paid some of this invoice: correct it by a credit note.")
        _move(invoice, Invoice.State.VOID)
        if invoice.balance_applied:
            _balance_return(invoice, invoice.balance_applied, f"void:{invoice.pk}", reason, actor)
        invoice.closed_at = clock.now()
        invoice.reason = reason[:300]
        invoice.save(update_fields=["state", "closed_at", "reason"])
        postings = {
            _Account.RECEIVABLE: -invoice.total,
            _Account.REVENUE: invoice.net + invoice.rounding_total,
            _Account.TAX: invoice.tax_total + invoice.stamp_total,
        }
        _book(_Booking.INVOICE_VOID, invoice, postings, f"invoice-void:{invoice.pk}", actor, reason)
        _event("voided", invoice, actor, before={"state": "open"}, after={"state": invoice.state}, reason=reason)
    return invoice


def invoice_give_up(*, invoice: Invoice, reason: str, actor: Actor) -> Invoice:
    """Write an open invoice off as uncollectible; a late payment still pays it. Raises InvoiceMoveRefused. Safe to repeat."""
    with transaction.atomic():
        invoice = _lock(invoice)
        if invoice.state == Invoice.State.UNCOLLECTIBLE:
            return invoice
        _move(invoice, Invoice.State.UNCOLLECTIBLE)
        invoice.closed_at = clock.now()
        invoice.reason = reason[:300]
        invoice.save(update_fields=["state", "closed_at", "reason"])
        postings = {_Account.WRITTEN_OFF: invoice.due, _Account.RECEIVABLE: -invoice.due}
        _book(_Booking.WRITE_OFF, invoice, postings, f"invoice-write-off:{invoice.pk}", actor, reason)
        _event("given_up", invoice, actor, before={"state": "open"}, after={"state": invoice.state}, reason=reason)
    return invoice


def credit_note_issue(*, invoice: Invoice, amount: Decimal, reason: str, actor: Actor, key: str, to_balance: bool) -> Invoice:
    """Take back `amount` (tax included) of a paid invoice by a credit note with a number of its own; a used `key` answers it.

    Lines and taxes are credited in proportion, at their own rates and rounding. With `to_balance` the money is in hand for the
    next invoice at once; else the credit note stays open until the money was sent back (`credit_note_settle`). ApiError 409
    `invoice_not_paid`, `credit_too_large`.
    """
    with transaction.atomic():
        invoice = _lock(invoice)
        first = Invoice.objects.filter(origin_key=key).first()
        if first is not None:
            return first
        if invoice.state != Invoice.State.PAID or invoice.kind != Invoice.Kind.INVOICE:
            raise ApiError(409, "invoice_not_paid", "Only what was paid can be credited.")
        if not 0 < amount <= selectors.creditable(invoice):
            raise ApiError(
                409,
                "credit_too_large",
                Text(
                    "%(amount)s %(currency)s can be credited.", amount=selectors.creditable(invoice), currency=invoice.currency
                ),
            )
        shares = _credit_shares(invoice, amount)
        totals = _totals_by_rule(shares)
        net = sum((share.net for _, share in shares), ZERO)
        tax = sum((share.tax for _, share in shares), ZERO)
        note = Invoice.objects.create(
            kind=Invoice.Kind.CREDIT_NOTE,
            purpose=invoice.purpose,
            account=invoice.account,
            seller=invoice.seller,
            seller_code=invoice.seller_code,
            corrects=invoice,
            subscription_id=invoice.subscription_id,
            currency=invoice.currency,
            fx_rate=invoice.fx_rate,
            language=invoice.language,
            seller_snapshot=invoice.seller_snapshot,
            customer_snapshot=invoice.customer_snapshot,
            tax_snapshot=totals_write(totals),
            reason=reason[:300],
            origin_key=key,
            net=net,
            tax_total=tax,
            total=net + tax,
        )
        InvoiceLine.objects.bulk_create(_credit_lines(note, shares, totals))
        invoice.credited_total += amount
        invoice.save(update_fields=["credited_total"])
        note = invoice_finalise(invoice=note, actor=actor)
        if to_balance:
            _balance_return(note, note.total, f"credit:{note.pk}", reason, actor)
            note.balance_applied = note.total
            note.save(update_fields=["balance_applied"])
            _paid(note, at=clock.now(), means="balance", actor=actor)
    return note


def credit_note_settle(*, note: Invoice, means: str, actor: Actor) -> Invoice:
    """An open credit note's money was sent back; the caller books the money. Safe to repeat."""
    with transaction.atomic():
        note = _lock(note)
        if note.state == Invoice.State.PAID:
            return note
        note.amount_paid = note.total
        note.save(update_fields=["amount_paid"])
        _paid(note, at=clock.now(), means=means, actor=actor)
    return note


def _credit_shares(invoice: Invoice, amount: Decimal) -> list[tuple[InvoiceLine, TaxedAmount]]:
    """What of each sold line is credited, so that all together is `amount` (tax included)."""
    lines = [line for line in invoice.lines.order_by("position") if line.kind in InvoiceLine.SOLD and line.gross]
    credited = {line.pk: _credited_of(line, invoice) for line in lines}
    rest = [line.gross - (before.gross if (before := credited[line.pk]) else ZERO) for line in lines]
    parts = split(amount, rest, minor_unit(invoice.currency))
    return [
        (
            line,
            credit_share(taxed_read(line, invoice), gross=part, credited_before=credited[line.pk], currency=invoice.currency),
        )
        for line, part in zip(lines, parts, strict=True)
        if part
    ]


def _credited_of(line: InvoiceLine, invoice: Invoice) -> TaxedAmount | None:
    """What credit notes took back of a line so far."""
    notes = list(line.corrected_by.all())
    if not notes:
        return None
    taxed = taxed_read(line, invoice)
    taxes = tuple(
        TaxAmount(tax.code, tax.label, tax.rate, sum((Decimal(note.taxes[index]["amount"]) for note in notes), ZERO))
        for index, tax in enumerate(taxed.taxes)
    )
    net = sum((note.amount for note in notes), ZERO)
    return TaxedAmount(taxed.rule, net, taxes, sum((note.gross for note in notes), ZERO))


def _totals_by_rule(shares: Sequence[tuple[InvoiceLine, TaxedAmount]]) -> list[TaxedAmount]:
    totals: dict[str, TaxedAmount] = {}
    for _, share in shares:
        before = totals.get(share.rule.code)
        if before is None:
            totals[share.rule.code] = share
            continue
        taxes = tuple(
            TaxAmount(tax.code, tax.label, tax.rate, tax.amount + other.amount)
            for tax, other in zip(before.taxes, share.taxes, strict=True)
        )
        totals[share.rule.code] = TaxedAmount(share.rule, before.net + share.net, taxes, before.gross + share.gross)
    return list(totals.values())


def _credit_lines(
    note: Invoice, shares: Sequence[tuple[InvoiceLine, TaxedAmount]], totals: Sequence[TaxedAmount]
) -> list[InvoiceLine]:
    say = words(note.language)
    lines = [
        InvoiceLine(
            kind=line.kind,
            description=say.credit_note.format(line=line.description)[:300],
            unit_price=share.gross if line.tax_included else share.net,
            amount=share.net,
            tax_included=line.tax_included,
            tax_amount=share.tax,
            gross=share.gross,
            taxes=taxes_write(share.taxes),
            tax_code=line.tax_code,
            tax_rate=line.tax_rate,
            sac=line.sac,
            period_start=line.period_start,
            period_end=line.period_end,
            corrects=line,
        )
        for line, share in shares
    ]
    return lines_number(note, lines + tax_lines(totals))


def _balance_return(invoice: Invoice, amount: Decimal, key: str, reason: str, actor: Actor) -> None:
    """Money comes into the account's hand from `invoice`."""
    money_balance_change(
        account=invoice.account, currency=invoice.currency, amount=amount, key=key, reason=reason[:300], invoice=invoice
    )
    postings = {_Account.RECEIVABLE: amount, _Account.MONEY_BALANCE: -amount}
    _book(_Booking.MONEY_MOVE, invoice, postings, f"balance-{key}", actor, reason)


def _lock(invoice: Invoice) -> Invoice:
    return Invoice.objects.select_for_update(no_key=True, of=("self",)).select_related("account", "seller").get(pk=invoice.pk)


def _move(invoice: Invoice, to: str) -> None:
    if to not in Invoice.MOVES[invoice.state]:
        raise InvoiceMoveRefused(invoice.state, to)
    invoice.state = to


def _book(
    kind: str, invoice: Invoice, postings: dict[LedgerAccount.Kind, Decimal], key: str, actor: Actor, reason: str = ""
) -> None:
    money_book(
        kind=kind,
        currency=invoice.currency,
        postings=postings,
        idempotency_key=key,
        account_id=invoice.account_id,
        actor=actor,
        reason=(reason or f"{invoice.get_kind_display()} {invoice.number}")[:500],
    )


def _event(
    what: str,
    invoice: Invoice,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any],
    reason: str = "",
) -> None:
    event_record(
        kind=f"{'invoice' if invoice.kind == Invoice.Kind.INVOICE else 'credit_note'}.{what}",
        object_type="invoice",
        object_id=invoice.pk,
        account_id=invoice.account_id,
        actor=actor,
        before=before,
        after={"number": invoice.number, "currency": invoice.currency, "total": str(invoice.total)} | after,
        reason=reason,
    )


def invoice_draft_period_set(*, invoice: Invoice, subscription_id: UUID, period: tuple[datetime, datetime | None]) -> Invoice:
    """Say which period of which subscription a draft sells: it begins when it is paid, not when the checkout began.

    Amounts, taxes and parties stay as they were frozen. Does nothing to what was issued.
    """
    with transaction.atomic():
        invoice = _lock(invoice)
        if invoice.state == Invoice.State.DRAFT and invoice.closed_at is None:
            invoice.subscription_id = subscription_id
            invoice.period_start, invoice.period_end = period
            invoice.save(update_fields=["subscription_id", "period_start", "period_end"])
            sold = invoice.lines.filter(kind__in=InvoiceLine.SOLD)
            sold.update(period_start=period[0], period_end=period[1])
    return invoice
