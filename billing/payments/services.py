"""Attempts to pay and what they bring about. `payment_succeeded` is the one function that turns money into invoices paid,
subscriptions that run and credits granted; whoever hears of the money first calls it, and it happens once.

Lock order: account, payment, subscription, invoice, number series, money in hand, then what the ledger locks.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from billing.accounts.models import Account
from billing.accounts.services import task_enqueue
from billing.events.services import Actor, event_record
from billing.invoices import services as invoices
from billing.invoices.balance import money_balance_change
from billing.invoices.models import Invoice
from billing.ledger.models import LedgerAccount, LedgerTransaction
from billing.ledger.money_books import money_book
from billing.plans.selectors import fx_rate_at
from billing.subscriptions.checkout import checkout_prepare
from billing.subscriptions.moves import account_lock
from billing.subscriptions.settlement import invoice_settled
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO
from iafactory.common.texts import Text

from .models import Payment, PaymentAllocation, PaymentEffect
from .topup import topup_grant

_Account = LedgerAccount.Kind
_Booking = LedgerTransaction.Kind
State = Payment.State
CLOSE_TASK = "billing.payments.checkouts_close"


class PaymentMoveRefused(ApiError):
    """The state table has no such move: 409 `payment_move_refused`."""

    def __init__(self, state: str, to: str) -> None:
        super().__init__(409, "payment_move_refused", f"A payment that is {state} cannot become {to}.")


def payment_create(
    *,
    invoice: Invoice,
    purpose: str,
    gateway: str,
    actor: Actor,
    method: str = "",
    mode: str = Payment.Mode.LIVE,
    expires_at: datetime | None = None,
    idempotency_key: str | None = None,
    **fields: Any,
) -> Payment:
    """An attempt to pay what is due of an invoice, or of a draft; the row is there before any gateway is called.

    A used `idempotency_key` of the account answers the first attempt. `fields` are set with it. ApiError 409 `nothing_due`.
    """
    with transaction.atomic():
        if idempotency_key is not None:
            account_lock(invoice.account_id)
            first = Payment.objects.filter(account=invoice.account_id, idempotency_key=idempotency_key).first()
            if first is not None:
                return first
        payable = (Invoice.State.DRAFT, Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE)
        discarded = invoice.state == Invoice.State.DRAFT and invoice.closed_at is not None
        if invoice.state not in payable or discarded or invoice.due <= 0:
            raise ApiError(409, "nothing_due", "Nothing is due on this invoice.")
        now = clock.now()
        payment = Payment.objects.create(
            account=invoice.account,
            invoice=invoice,
            purpose=purpose,
            gateway=gateway,
            method=method,
            mode=mode,
            amount=invoice.due,
            currency=invoice.currency,
            fx_rate=fx_rate_at(invoice.currency, now),
            expires_at=expires_at,
            idempotency_key=idempotency_key,
            created_at=now,
            **fields,
        )
        after = {"amount": str(payment.amount), "currency": payment.currency, "gateway": gateway, "method": method}
        _event("created", payment, actor, after=after)
    return payment


def payment_lock(payment_id: UUID) -> Payment:
    """The payment as it is now, with its account and then its own row locked."""
    account_lock(Payment.objects.values_list("account_id", flat=True).get(pk=payment_id))
    return Payment.objects.select_for_update(no_key=True, of=("self",)).select_related("account", "invoice").get(pk=payment_id)


def payment_move(
    *,
    payment: Payment,
    to: str,
    actor: Actor,
    reason: str = "",
    failure_code: str = "",
    failure_message: str = "",
    **fields: Any,
) -> Payment:
    """Move a payment to any state but `succeeded`; `fields` are set with it. The state it has already: nothing happens.

    Raises PaymentMoveRefused for a move that `Payment.MOVES` does not have.
    """
    if to == State.SUCCEEDED:
        raise ValueError("money is recorded by payment_succeeded")
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        if payment.state == to:
            return payment
        before = payment.state
        if to not in Payment.MOVES[before]:
            raise PaymentMoveRefused(before, to)
        payment.state = to
        if failure_code or failure_message:
            payment.failure_code, payment.failure_message = failure_code[:100], failure_message[:500]
        if to == State.REVIEW:
            payment.review_reason = reason[:500]
        for name, value in fields.items():
            setattr(payment, name, value)
        payment.save()
        after = {"state": to} | ({"failure": failure_code} if failure_code else {})
        _event(to, payment, actor, before={"state": before}, after=after, reason=reason)
    return payment


def payment_succeeded(
    *,
    payment: Payment,
    actor: Actor,
    received: Decimal | None = None,
    currency: str | None = None,
    paid_at: datetime | None = None,
    gateway_payment_id: str = "",
    method: str = "",
    fee: Decimal | None = None,
    facts: dict[str, Any] | None = None,
    reason: str = "",
) -> Payment:
    """Money came: `received` (the amount asked for). Its invoice is issued and paid, what that is for happens; all or nothing.

    Exactly once, however often and from wherever it is called. What finds no open invoice, or is more than due, is unapplied
    money, which operators see. ApiError 409 `payment_currency_differs` where other money came than was asked for: nothing is
    booked, put it under review. Raises PaymentMoveRefused.
    """
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        if payment.state == State.SUCCEEDED:
            return payment
        if currency is not None and currency != payment.currency:
            raise ApiError(
                409,
                "payment_currency_differs",
                Text("%(came)s came, %(currency)s was asked for.", came=currency, currency=payment.currency),
            )
        before = payment.state
        if State.SUCCEEDED not in Payment.MOVES[before]:
            raise PaymentMoveRefused(before, State.SUCCEEDED)
        effect_record(payment, "succeeded")
        amount = payment.amount if received is None else received
        if amount <= 0:
            raise ValueError("a payment that succeeded brought money")
        payment.state = State.SUCCEEDED
        payment.received_amount = payment.unapplied_amount = amount
        payment.paid_at = paid_at or clock.now()
        payment.gateway_payment_id = gateway_payment_id or payment.gateway_payment_id
        payment.method = method or payment.method
        payment.fee_amount = payment.fee_amount if fee is None else fee
        payment.gateway_facts = payment.gateway_facts if facts is None else facts
        payment.next_poll_at = None
        payment.save()
        _book(
            _Booking.PAYMENT,
            payment,
            {_Account.CASH: amount, _Account.UNAPPLIED: -amount},
            f"payment:{payment.pk}",
            actor,
            reason or f"Payment {payment.reference}",
        )
        if payment.invoice is not None and _payable(payment.invoice, amount, actor):
            _apply(payment, payment.invoice, actor)
        after = {
            "state": payment.state,
            "received": str(amount),
            "currency": payment.currency,
            "applied": str(payment.applied_amount),
            "unapplied": str(payment.unapplied_amount),
        }
        _event("succeeded", payment, actor, before={"state": before}, after=after, reason=reason)
    return payment


def payment_received_more(*, payment: Payment, received: Decimal, actor: Actor, reason: str) -> Payment:
    """More came for a payment that succeeded than was booked, `received` in all: the surplus is unapplied. Safe to repeat.

    Raises PaymentMoveRefused for a payment that did not succeed.
    """
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        if payment.state != State.SUCCEEDED or payment.received_amount is None:
            raise PaymentMoveRefused(payment.state, State.SUCCEEDED)
        before = payment.received_amount
        if received <= before:
            return payment
        payment.received_amount = received
        payment.unapplied_amount += received - before
        payment.save(update_fields=["received_amount", "unapplied_amount", "updated_at"])
        postings = {_Account.CASH: received - before, _Account.UNAPPLIED: before - received}
        _book(_Booking.PAYMENT, payment, postings, f"payment-more:{payment.pk}:{before}", actor, reason)
        after = {"received": str(received), "unapplied": str(payment.unapplied_amount)}
        _event("received_more", payment, actor, before={"received": str(before)}, after=after, reason=reason)
    return payment


def payment_found(
    *,
    account: Account,
    gateway: str,
    mode: str,
    gateway_payment_id: str,
    amount: Decimal,
    currency: str,
    purpose: str,
    actor: Actor,
    reason: str,
    facts: dict[str, Any] | None = None,
) -> Payment:
    """Money that a gateway has and no attempt of ours brought: a payment of its own, all of it unapplied. Once per
    gateway's id, which is needed."""
    if not gateway_payment_id:
        raise ValueError("found money has its gateway's id")
    with transaction.atomic():
        account_lock(account.pk)
        payment, _made = Payment.objects.get_or_create(
            gateway=gateway,
            mode=mode,
            gateway_payment_id=gateway_payment_id,
            defaults={
                "account": account,
                "purpose": purpose,
                "amount": amount,
                "currency": currency,
                "fx_rate": fx_rate_at(currency, clock.now()),
            },
        )
        return payment_succeeded(payment=payment, actor=actor, facts=facts, reason=reason)


def unapplied_apply(*, payment: Payment, invoice: Invoice, actor: Actor, reason: str) -> Payment:
    """Pay an open invoice of the same account with money that had none. ApiError 409 `nothing_unapplied`, `nothing_due`."""
    with transaction.atomic():
        payment = _with_unapplied(payment)
        invoice = Invoice.objects.get(pk=invoice.pk)
        fits = invoice.account_id == payment.account_id and invoice.currency == payment.currency
        if not fits or not _payable(invoice, payment.unapplied_amount, actor):
            raise ApiError(409, "nothing_due", "This payment cannot pay this invoice.")
        _apply(payment, invoice, actor)
        after = {"invoice": str(invoice.pk), "applied": str(payment.applied_amount), "unapplied": str(payment.unapplied_amount)}
        _event("applied", payment, actor, after=after, reason=reason)
    return payment


def unapplied_to_balance(*, payment: Payment, actor: Actor, reason: str) -> Payment:
    """Put money that had no invoice into the account's hand, for its next one. ApiError 409 `nothing_unapplied`."""
    with transaction.atomic():
        payment = _with_unapplied(payment)
        amount = payment.unapplied_amount
        key = f"unapplied:{payment.pk}:{payment.applied_amount}"
        money_balance_change(account=payment.account, currency=payment.currency, amount=amount, key=key, reason=reason[:300])
        payment.unapplied_amount = ZERO
        payment.save(update_fields=["unapplied_amount", "updated_at"])
        postings = {_Account.UNAPPLIED: amount, _Account.MONEY_BALANCE: -amount}
        _book(_Booking.MONEY_MOVE, payment, postings, f"balance-{key}", actor, reason)
        _event("kept_in_hand", payment, actor, after={"amount": str(amount)}, reason=reason)
    return payment


def effect_record(payment: Payment, effect: str) -> None:
    """Note that `effect` of a payment happens now; ApiError 409 `effect_happened` where it did before."""
    try:
        with transaction.atomic():
            PaymentEffect.objects.create(payment=payment, gateway=payment.gateway, effect=effect, at=clock.now())
    except IntegrityError:
        raise ApiError(409, "effect_happened", Text("%(effect)s of this payment happened before.", effect=effect)) from None


def _payable(invoice: Invoice, amount: Decimal, actor: Actor) -> bool:
    """Whether `amount` may go to this invoice. A draft is issued first, if all of it is paid and its offer still holds."""
    invoice.refresh_from_db()
    if invoice.state == Invoice.State.DRAFT:
        if invoice.closed_at is not None or amount < invoice.due or not checkout_prepare(invoice=invoice, actor=actor):
            return False
        invoices.invoice_finalise(invoice=invoice, actor=actor, use_balance=False)
        return True
    return invoice.state in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE) and invoice.due > 0


def _apply(payment: Payment, invoice: Invoice, actor: Actor) -> None:
    """Pay an issued invoice with unapplied money of a locked payment, and do what the invoice is for."""
    assert payment.paid_at is not None
    taken, settles = invoices.invoice_payment_apply(
        invoice=invoice,
        amount=payment.unapplied_amount,
        at=payment.paid_at,
        means=payment.printed_means,
        actor=actor,
    )
    if taken <= 0:
        return
    PaymentAllocation.objects.create(payment=payment, invoice=invoice, amount=taken, at=clock.now())
    payment.applied_amount += taken
    payment.unapplied_amount -= taken
    payment.save(update_fields=["applied_amount", "unapplied_amount", "updated_at"])
    _book(
        _Booking.PAYMENT,
        payment,
        {_Account.UNAPPLIED: taken, LedgerAccount.Kind(settles): -taken},
        f"payment-applied:{payment.pk}:{invoice.pk}",
        actor,
        f"Payment {payment.reference}",
    )
    invoice.refresh_from_db()
    if invoice.state == Invoice.State.PAID:
        invoice_effects(invoice=invoice, payment=payment, actor=actor)
        checkouts_close_later(invoice)


def checkouts_close_later(invoice: Invoice) -> None:
    """After the commit, have gateways close what else is open for an invoice that needs no payment any more."""
    others = Payment.objects.filter(invoice=invoice, state=State.PENDING, saved_card__isnull=True).exclude(checkout_id="")
    if others.exists():
        invoice_id = str(invoice.pk)
        transaction.on_commit(lambda: task_enqueue(CLOSE_TASK, invoice_id))


def invoice_effects(*, invoice: Invoice, payment: Payment | None, actor: Actor) -> None:
    """What a paid invoice is for: credits, or a subscription's period or plan."""
    payment_id = payment.pk if payment else None
    if invoice.purpose == Invoice.Purpose.TOPUP:
        topup_grant(invoice=invoice, actor=actor, payment_id=payment_id)
    else:
        invoice_settled(invoice=invoice, actor=actor, payment_id=payment_id)


def _with_unapplied(payment: Payment) -> Payment:
    payment = payment_lock(payment.pk)
    if payment.unapplied_amount <= 0:
        raise ApiError(409, "nothing_unapplied", "All money of this payment has been put to use.")
    return payment


def _book(
    kind: str, payment: Payment, postings: dict[LedgerAccount.Kind, Decimal], key: str, actor: Actor, reason: str
) -> None:
    money_book(
        kind=kind,
        currency=payment.currency,
        postings=postings,
        idempotency_key=key,
        account_id=payment.account_id,
        actor=actor,
        reason=reason[:500],
    )


def _event(
    what: str,
    payment: Payment,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any],
    reason: str = "",
) -> None:
    event_record(
        kind=f"payment.{what}",
        object_type="payment",
        object_id=payment.pk,
        account_id=payment.account_id,
        actor=actor,
        before=before,
        after={"reference": payment.reference} | after,
        reason=reason,
    )
