"""Telling customers that a saved card could not be charged for a renewal: each once per invoice, with a link to pay."""

from billing.invoices.models import Invoice
from billing.subscriptions.dunning import notice_queue
from billing.subscriptions.models import DunningNotice, Subscription

from .configuration import gateway_configured
from .gateways.base import SavedCards
from .models import Payment, SavedCard

FAILED = "renewal_card_failed"
CONFIRM = "renewal_card_confirm"
EXPIRED = "renewal_card_expired"


def charge_failed_tell(payment: Payment) -> None:
    """Have the customer told that a charge of a saved card came to nothing; nothing for other payments.

    Call it in the transaction that ends the payment.
    """
    if payment.saved_card is None or payment.invoice is None or payment.state != Payment.State.FAILED:
        return
    adapter = gateway_configured(payment.gateway)
    confirm = isinstance(adapter, SavedCards) and payment.failure_code in adapter.needs_buyer
    card_mail_queue(invoice=payment.invoice, card=payment.saved_card, template=CONFIRM if confirm else FAILED)


def card_mail_queue(*, invoice: Invoice, card: SavedCard, template: str) -> None:
    """Queue one of these mails, if it was not sent for this invoice yet and its subscription still runs."""
    invoice.refresh_from_db(fields=["state"])
    if invoice.subscription_id is None:
        return
    subscription = Subscription.objects.filter(pk=invoice.subscription_id, state__in=Subscription.LIVE).first()
    if subscription is None or invoice.state != Invoice.State.OPEN:
        return
    if not DunningNotice.objects.filter(invoice_id=invoice.pk, template=template).exists():
        notice_queue(subscription=subscription, invoice_id=invoice.pk, template=template, facts={"card": str(card)})
