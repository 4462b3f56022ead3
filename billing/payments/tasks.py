"""Scheduled work on payments; each task calls one service and is safe to run late, twice and at once."""

from celery import shared_task

from billing.accounts.services import task_enqueue
from billing.events.services import SYSTEM
from iafactory.common import clock

from . import auto_renewal, closing, refunds, renewal_charges
from .manual import manual_payments_expire
from .services import CLOSE_TASK

CHARGE_TASK = "billing.payments.renewal_charge"


@shared_task(name="billing.payments.manual_expire", time_limit=600)
def manual_expire() -> int:
    """Close payments by hand that nobody made in time."""
    return manual_payments_expire(actor=SYSTEM)


@shared_task(name="billing.payments.refund_ask", time_limit=110)
def refund_ask(refund_id: str) -> None:
    """Have a gateway send a refund. What it does not answer is asked again by the poll."""
    refunds.refund_ask(refund_id=refund_id)


@shared_task(name="billing.payments.refunds_poll", time_limit=280)
def refunds_poll() -> int:
    """Send the refunds that were not sent, and ask what became of those under way."""
    due = refunds.refunds_due()
    for refund_id in due:
        refunds.refund_ask(refund_id=refund_id)
    return len(due)


@shared_task(name="billing.payments.renewals_charge", time_limit=280)
def renewals_charge() -> int:
    """Hand over the renewals that a saved card is to be charged for now; how many."""
    due = renewal_charges.charges_due(now=clock.now())
    for invoice_id in due:
        task_enqueue(CHARGE_TASK, str(invoice_id))
    return len(due)


@shared_task(name=CHARGE_TASK, time_limit=110)
def renewal_charge(invoice_id: str) -> None:
    """Charge the saved card for one renewal; nothing where that was done or is not agreed to any more."""
    renewal_charges.renewal_charge(invoice_id=invoice_id)


@shared_task(name=CLOSE_TASK, time_limit=280)
def checkouts_close(invoice_id: str) -> None:
    """Close the checkouts of an invoice that needs no payment any more. What is left open the poll closes."""
    closing.invoice_checkouts_close(invoice_id=invoice_id)


@shared_task(name=auto_renewal.DETACH_TASK, time_limit=60)
def card_detach(card_id: str) -> None:
    """Have a gateway forget a card that its owner took back. What it does not answer is asked again by the sweep."""
    auto_renewal.card_detach(card_id=card_id)


@shared_task(name="billing.payments.cards_sweep", time_limit=280)
def cards_sweep() -> int:
    """Forget the cards of closed accounts, and those that a gateway did not forget yet."""
    return auto_renewal.cards_sweep()
