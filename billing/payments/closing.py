"""Closing checkouts that nobody needs any more, at their gateway, so that one invoice is not paid twice."""

import logging
from uuid import UUID

from billing.events.services import SYSTEM, Actor
from billing.invoices.models import Invoice

from .confirmation import payment_confirm, payment_gateway
from .gateways.base import Cancels, GatewayError, GatewayRefused
from .models import Payment
from .services import PaymentMoveRefused, payment_move

logger = logging.getLogger(__name__)

State = Payment.State


def still_wanted(payment: Payment) -> bool:
    """Whether what a payment was opened for can still be paid."""
    invoice = payment.invoice
    if invoice is None or invoice.state == Invoice.State.DRAFT:
        return invoice is None or invoice.closed_at is None
    return invoice.state in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE) and invoice.due > 0


def checkout_close(*, payment: Payment, actor: Actor, reason: str) -> Payment:
    """Have the gateway take no more money for an open checkout; one that was paid meanwhile is booked instead.

    It stays as it is where its gateway cannot close checkouts or does not answer: the poll comes back to it.
    """
    if payment.state != State.PENDING or not payment.checkout_id or payment.saved_card_id is not None:
        return payment
    try:
        adapter = payment_gateway(payment)
        if not isinstance(adapter, Cancels):
            return payment
        try:
            adapter.cancel_checkout(payment.checkout_id)
        except GatewayRefused:
            return payment_confirm(payment=payment, actor=actor, reason="it could not be closed").payment
        return payment_move(payment=payment, to=State.CANCELED, actor=actor, reason=reason, next_poll_at=None)
    except PaymentMoveRefused:
        # Somebody was faster.
        return Payment.objects.get(pk=payment.pk)
    except GatewayError as error:
        logger.info("payment %s is not closed: %s", payment.reference, error)
        return payment


def invoice_checkouts_close(*, invoice_id: UUID | str, actor: Actor = SYSTEM, reason: str = "Paid otherwise") -> int:
    """Close every checkout that is open for an invoice; how many are not open any more."""
    found = Payment.objects.filter(invoice__pk=invoice_id, state=State.PENDING, saved_card__isnull=True).exclude(checkout_id="")
    closed = [checkout_close(payment=one, actor=actor, reason=reason) for one in found.select_related("account", "invoice")]
    return sum(one.state != State.PENDING for one in closed)
