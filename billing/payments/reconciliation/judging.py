"""What it means when our books and a gateway say different things about one payment or refund. Reads, writes nothing."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from billing.payments.gateways.base import GatewayPayment, GatewayRefund, Money, RefundState
from billing.payments.gateways.reading import storable
from billing.payments.inbox.elsewhere import without_key
from billing.payments.models import Payment, PaymentAllocation, Refund

from .models import ReconciliationRow

Outcome = ReconciliationRow.Outcome


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome of comparing one payment or refund, with the evidence of both sides."""

    subject: ReconciliationRow.Subject
    key: str
    outcome: Outcome
    note: str = ""
    payment: Payment | None = None
    refund: Refund | None = None
    ours: Money | None = None
    theirs: Money | None = None
    our_evidence: dict[str, Any] = field(default_factory=dict)
    their_evidence: dict[str, Any] = field(default_factory=dict)
    truth: GatewayPayment | None = None


def payment_judge(truth: GatewayPayment | None, payment: Payment | None) -> Judgement | None:
    """Compare what a gateway says of a payment (None: it knows none) with ours (None: we know none).

    None where neither has money: nothing happened. `payment` is ours by its id there, its checkout or its reference.
    """
    booked = payment is not None and payment.state == Payment.State.SUCCEEDED
    paid = truth.paid if truth else None
    if payment is not None and booked and (truth is None or paid is None or truth.payment_id == payment.gateway_payment_id):
        ours = Money(payment.received_amount or Decimal(0), payment.currency)
        return _payment(truth, payment, ours, *_booked(truth, payment, ours))
    if truth is None or paid is None:
        return None
    if payment is None:
        return _payment(truth, None, None, Outcome.MISSING, "It belongs to no payment of ours.")
    if booked:
        said = f"A second payment for {payment.reference}, which {payment.gateway_payment_id} paid."
        return _payment(truth, payment, None, Outcome.DUPLICATE, said)
    asked = Money(payment.amount, payment.currency)
    said = f"Here it is {payment.state}{': ' if payment.review_reason else ''}{payment.review_reason}."
    return _payment(truth, payment, None, _compared(paid, asked, same=Outcome.MISSING), said)


def refund_judge(truth: GatewayRefund | None, refund: Refund | None, payment: Payment | None) -> Judgement | None:
    """Compare what a gateway says of a refund with ours; `payment` is ours that it belongs to. None: nothing happened."""
    gone = refund is not None and refund.state == Refund.State.SUCCEEDED
    ours = Money(refund.amount, refund.currency) if refund else None
    if truth is None or truth.state is RefundState.FAILED:
        if not gone:
            return None
        said = f"It failed there: {truth.failure}" if truth else "The gateway knows no such refund."
        return _refund(truth, refund, payment, ours, Outcome.UNDER, said)
    if refund is None or ours is None:
        return _refund(truth, None, payment, None, Outcome.MISSING, "Nobody asked for it here.")
    if refund.gateway_refund_id and refund.gateway_refund_id != truth.refund_id:
        said = f"A second refund for {refund.reference}, which {refund.gateway_refund_id} was."
        return _refund(truth, refund, payment, None, Outcome.DUPLICATE, said)
    outcome = _compared(truth.money, ours, same=Outcome.EXPECTED)
    settled = truth.state is RefundState.SUCCEEDED
    if outcome is not Outcome.EXPECTED or gone or (not settled and refund.state != Refund.State.FAILED):
        return _refund(truth, refund, payment, ours, outcome, "")
    return _refund(truth, refund, payment, None, Outcome.MISSING, f"Here it is {refund.state}.")


def _compared(theirs: Money, ours: Money, *, same: Outcome) -> Outcome:
    if theirs.currency != ours.currency:
        return Outcome.CURRENCY
    if theirs.amount == ours.amount:
        return same
    return Outcome.OVER if theirs.amount > ours.amount else Outcome.UNDER


def _booked(truth: GatewayPayment | None, payment: Payment, ours: Money) -> tuple[Outcome, str]:
    if truth is None:
        return Outcome.UNDER, "The gateway knows no such payment."
    if truth.paid is None:
        return Outcome.UNDER, f"The gateway calls it {truth.state.value}."
    outcome = _compared(truth.paid, ours, same=Outcome.EXPECTED)
    if outcome is Outcome.EXPECTED and (first := _paid_before(payment)):
        return Outcome.DUPLICATE, f"{first} paid the invoice; this money is unapplied."
    return outcome, ""


def _paid_before(payment: Payment) -> str:
    """The reference of another payment that paid what this one was meant for, while its money has no use."""
    if payment.invoice_id is None or payment.unapplied_amount <= 0 or payment.applied_amount:
        return ""
    others = PaymentAllocation.objects.filter(invoice=payment.invoice_id).exclude(payment=payment)
    return others.values_list("payment__reference", flat=True).first() or ""


def _payment(
    truth: GatewayPayment | None, payment: Payment | None, ours: Money | None, outcome: Outcome, note: str
) -> Judgement:
    own_id = (payment.gateway_payment_id or payment.reference) if payment else ""
    return Judgement(
        subject=ReconciliationRow.Subject.PAYMENT,
        key=((truth.payment_id or truth.checkout_id) if truth else own_id)[:128],
        outcome=outcome,
        note=note,
        payment=payment,
        ours=ours,
        theirs=truth.paid if truth else None,
        our_evidence={
            "reference": payment.reference,
            "state": payment.state,
            "asked": str(Money(payment.amount, payment.currency)),
            "gateway_payment_id": payment.gateway_payment_id,
            "checkout_id": payment.checkout_id,
            "paid_at": payment.paid_at.isoformat() if payment.paid_at else None,
            "unapplied": str(payment.unapplied_amount),
        }
        if payment
        else {},
        their_evidence={
            "payment_id": truth.payment_id,
            "checkout_id": truth.checkout_id,
            "reference": truth.reference,
            "state": truth.state.value,
            "asked": str(truth.money),
            "refunded": str(truth.refunded),
            "said": storable(without_key(truth.raw)),
        }
        if truth
        else {},
        truth=truth,
    )


def _refund(
    truth: GatewayRefund | None, refund: Refund | None, payment: Payment | None, ours: Money | None, outcome: Outcome, note: str
) -> Judgement:
    own_id = (refund.gateway_refund_id or refund.reference) if refund else ""
    return Judgement(
        subject=ReconciliationRow.Subject.REFUND,
        key=(truth.refund_id if truth else own_id)[:128],
        outcome=outcome,
        note=note,
        payment=payment,
        refund=refund,
        ours=ours,
        theirs=truth.money if truth and truth.state is not RefundState.FAILED else None,
        our_evidence={
            "reference": refund.reference,
            "state": refund.state,
            "gateway_refund_id": refund.gateway_refund_id,
            "finished_at": refund.finished_at.isoformat() if refund.finished_at else None,
        }
        if refund
        else {},
        their_evidence={
            "refund_id": truth.refund_id,
            "payment_id": truth.payment_id,
            "reference": truth.key,
            "state": truth.state.value,
            "said": storable(without_key(truth.raw)),
        }
        if truth
        else {},
    )
