"""Counting what an account has already brought before it is asked for more: money in hand, and money without an invoice."""

from django.db import transaction

from billing.events.services import Actor
from billing.invoices import services as invoices
from billing.invoices.balance import money_balance
from billing.invoices.models import Invoice
from billing.subscriptions.moves import account_lock
from iafactory.common.money import ZERO

from .models import Dispute, Payment
from .services import checkouts_close_later, invoice_effects, unapplied_apply, unapplied_to_balance


def invoice_money_count(*, invoice: Invoice, actor: Actor) -> Invoice:
    """Pay an issued invoice with what its account brought before, as far as that goes; the invoice as it stands then.

    Money in hand first. Money of payments that found no invoice pays the rest if it suffices; else it comes to hand first, so
    that it returns should the invoice be voided. Contested money stays where it is.
    """
    with transaction.atomic():
        account_lock(invoice.account_id)
        invoice = Invoice.objects.select_related("account").get(pk=invoice.pk)
        if invoice.kind != Invoice.Kind.INVOICE or invoice.state not in (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE):
            return invoice
        contested = Dispute.objects.filter(state__in=(Dispute.State.OPEN, Dispute.State.LOST)).values("payment_id")
        left_over = Payment.objects.filter(account=invoice.account, currency=invoice.currency, unapplied_amount__gt=0)
        found = list(left_over.exclude(pk__in=contested).order_by("paid_at", "id"))
        in_hand = money_balance(invoice.account_id, invoice.currency)
        suffices = in_hand + sum((one.unapplied_amount for one in found), ZERO) >= invoice.due
        reason = f"Counted for invoice {invoice.number}"
        if not suffices:
            for payment in found:
                unapplied_to_balance(payment=payment, actor=actor, reason=reason)
            return invoices.invoice_balance_use(invoice=invoice, actor=actor)
        invoice = invoices.invoice_balance_use(invoice=invoice, actor=actor)
        if invoice.state == Invoice.State.PAID:
            invoice_effects(invoice=invoice, payment=None, actor=actor)
            checkouts_close_later(invoice)
        for payment in found:
            if invoice.state == Invoice.State.PAID:
                break
            unapplied_apply(payment=payment, invoice=invoice, actor=actor, reason=reason)
            invoice.refresh_from_db()
        return invoice
