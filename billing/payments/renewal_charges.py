"""Renewals charged to a card that the customer let us keep, while the customer agrees to that.

The attempt's row stands before the gateway is called, made under the account's lock and named after its invoice and number, so
that two jobs make one. The name is the gateway's idempotency key. What the gateway did not answer is looked up; a charge is
repeated, with the same key, only where it certainly was not made. Refused ones are told to the customer, with a link to pay.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.utils.crypto import salted_hmac

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.invoices.models import Invoice
from billing.invoices.paying import AutomaticPayment
from billing.subscriptions.models import Subscription
from billing.subscriptions.moves import account_lock
from iafactory.common import clock

from .auto_renewal import card_remove, consent_in_force
from .card_mails import EXPIRED, card_mail_queue, charge_failed_tell
from .closing import invoice_checkouts_close
from .configuration import gateways_offered
from .confirmation import payment_gateway, truth_apply
from .gateways.base import (
    GatewayError,
    GatewayMisconfigured,
    GatewayRefused,
    GatewayUnavailable,
    Money,
    MoneyNotAccepted,
    ObjectNotFound,
    OutcomeUnknown,
    SavedCardCharge,
    SavedCards,
)
from .models import Payment, SavedCard
from .money_in_hand import invoice_money_count
from .services import PaymentMoveRefused, payment_create, payment_lock, payment_move

logger = logging.getLogger(__name__)

State = Payment.State
OPEN = (State.CREATED, State.PENDING, State.UNKNOWN)
ENDED = (State.FAILED, State.EXPIRED, State.CANCELED)

# A card is charged this long before the period begins, at most a tenth of the period.
CHARGE_LEAD = timedelta(hours=1)
CHARGE_LEAD_PARTS = 10
# A refused card is tried again this much later, at most a thirtieth of the period; so often in all.
RETRY_AFTER = timedelta(hours=24)
RETRY_PARTS = 30
ATTEMPTS = 4
# Who opened a checkout so recently is paying, or about to.
CUSTOMER_PAYS = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A charge that is due: whose card, at which gateway, and which attempt it is."""

    card: SavedCard
    adapter: SavedCards
    number: int


def charge_at(invoice: Invoice) -> datetime | None:
    """When the invoice of a period is charged to a saved card; None for one without a period."""
    if invoice.period_start is None or invoice.period_end is None:
        return None
    period = invoice.period_end - invoice.period_start
    return invoice.period_start - min(CHARGE_LEAD, period / CHARGE_LEAD_PARTS)


def charges_due(*, now: datetime, limit: int = 1000) -> list[UUID]:
    """Invoices of periods that a card is to be charged for at `now`, the oldest first."""
    agreed = Invoice.objects.filter(
        kind=Invoice.Kind.INVOICE,
        purpose=Invoice.Purpose.PERIOD,
        state=Invoice.State.OPEN,
        period_start__lte=now + CHARGE_LEAD,
        account__status=Account.Status.ACTIVE,
        account__auto_renewal_consents__withdrawn_at__isnull=True,
        account__auto_renewal_consents__card__isnull=False,
        account__auto_renewal_consents__card__removed_at__isnull=True,
    )
    found = agreed.select_related("account").order_by("period_start", "id")
    return [invoice.pk for invoice in found.iterator() if _wanted(invoice, now) is not None][:limit]


def automatic_payment_of(invoice: Invoice) -> AutomaticPayment | None:
    """The card that an open invoice will be charged to, and when; None where its customer has to pay."""
    now, at = clock.now(), charge_at(invoice)
    if at is None:
        return None
    wanted = _wanted(invoice, max(at, now))
    if wanted is None or wanted.card.expired_at(max(at, now)):
        return None
    return AutomaticPayment(str(wanted.card), max(at, now))


def renewal_charge(*, invoice_id: UUID | str) -> Payment | None:
    """Charge the saved card for a renewal, if that is due and its customer agrees; the attempt, None where nothing was tried.

    Safe from any number of workers at once. Raises nothing of the gateway's: an attempt without an answer is polled.
    """
    now = clock.now()
    invoice = Invoice.objects.select_related("account").get(pk=invoice_id)
    wanted = _wanted(invoice, now)
    if wanted is None or _customer_pays(invoice, now):
        return None
    if not wanted.card.expired_at(now):
        # Whoever left a checkout open must not pay there what the card pays here.
        invoice_checkouts_close(invoice_id=invoice.pk, reason="The saved card is charged")
    payment = _attempt(invoice, now)
    return None if payment is None else _charge(payment)


def charge_resume(*, payment: Payment) -> Payment:
    """Find out what became of a charge that the gateway did not answer, or that was never sent.

    Found: booked as it stands. Not found: sent with the same key while that is safe and still wanted, else given up. Raises
    GatewayError where the gateway cannot be asked.
    """
    try:
        truth = _adapter(payment).find_saved_card_charge(_charge_of(payment), since=payment.created_at)
    except ObjectNotFound:
        if _still_wanted(payment):
            return _charge(payment)
        return _end(payment, "not_made", "The charge was not made, and is not to be made any more.")
    return truth_apply(payment=payment, truth=truth, actor=SYSTEM, reason="asked").payment


def _wanted(invoice: Invoice, now: datetime) -> _Wanted | None:
    """The charge that is due for an invoice at `now`, as its rows tell."""
    at = charge_at(invoice)
    renews = invoice.kind == Invoice.Kind.INVOICE and invoice.purpose == Invoice.Purpose.PERIOD
    if (
        at is None
        or invoice.subscription_id is None
        or not renews
        or invoice.state != Invoice.State.OPEN
        or invoice.due <= 0
        or now < at
    ):
        return None
    served = (Subscription.State.TRIALING, Subscription.State.ACTIVE, Subscription.State.PAST_DUE)
    if not Subscription.objects.filter(pk=invoice.subscription_id, state__in=served).exists():
        return None
    consent = consent_in_force(invoice.account)
    if consent is None or consent.card is None or invoice.account.status != Account.Status.ACTIVE:
        return None
    card = consent.card
    adapter = next((one for one in gateways_offered() if one.slug == card.gateway and one.mode == card.mode), None)
    if not isinstance(adapter, SavedCards) or adapter.money_refusal(Money(invoice.due, invoice.currency)):
        return None
    before = list(Payment.objects.filter(invoice=invoice, saved_card__isnull=False).order_by("created_at", "id"))
    if len(before) >= ATTEMPTS or any(one.state not in ENDED for one in before):
        return None
    if before and before[-1].saved_card_id == card.pk:
        last = before[-1]
        over = last.failure_code in adapter.card_is_over or last.failure_code in adapter.needs_buyer
        if over or now < last.created_at + _retry_pause(invoice):
            return None
    return _Wanted(card, adapter, len(before) + 1)


def _retry_pause(invoice: Invoice) -> timedelta:
    assert invoice.period_start is not None
    assert invoice.period_end is not None
    return min(RETRY_AFTER, (invoice.period_end - invoice.period_start) / RETRY_PARTS)


def _customer_pays(invoice: Invoice, now: datetime) -> bool:
    """Whether the customer is paying by other means just now, or sent a proof that an operator has to look at."""
    waiting = Payment.objects.filter(invoice=invoice, state__in=OPEN, saved_card__isnull=True)
    by_hand = waiting.filter(gateway="manual", proofs__isnull=False)
    at_a_gateway = waiting.exclude(gateway="manual").filter(created_at__gt=now - CUSTOMER_PAYS)
    return by_hand.exists() or at_a_gateway.exists()


def _attempt(invoice: Invoice, now: datetime) -> Payment | None:
    """The row of a charge, made once: whoever comes second finds it, and nothing to do."""
    with transaction.atomic():
        account = account_lock(invoice.account_id)
        invoice = Invoice.objects.get(pk=invoice.pk)
        invoice.account = account
        wanted = _wanted(invoice, now)
        if wanted is None or _customer_pays(invoice, now):
            return None
        if wanted.card.expired_at(now):
            card_mail_queue(invoice=invoice, card=wanted.card, template=EXPIRED)
            return None
        invoice = invoice_money_count(invoice=invoice, actor=SYSTEM)
        if invoice.state != Invoice.State.OPEN:
            return None
        return payment_create(
            invoice=invoice,
            purpose=Payment.Purpose.RENEW,
            gateway=wanted.card.gateway,
            mode=wanted.card.mode,
            method="card",
            actor=SYSTEM,
            saved_card=wanted.card,
            reference=_reference(invoice, wanted.number),
            idempotency_key=f"renewal:{invoice.pk}:{wanted.number}",
        )


def _reference(invoice: Invoice, number: int) -> str:
    """The name of an invoice's attempt: the same even if the row were lost, and nobody can guess it."""
    return f"pa{salted_hmac('billing.payments.renewal', f'{invoice.pk}:{number}').hexdigest()[:20]}"


def _charge_of(payment: Payment) -> SavedCardCharge:
    """What the gateway is asked for: made of what the row keeps, so that a repetition says the same."""
    assert payment.saved_card is not None
    assert payment.invoice is not None
    return SavedCardCharge(
        reference=payment.reference,
        money=Money(payment.amount, payment.currency),
        customer_id=payment.saved_card.gateway_customer_id,
        card_id=payment.saved_card.gateway_card_id,
        description=payment.invoice.number or payment.reference,
        invoice_number=payment.invoice.number or "",
    )


def _adapter(payment: Payment) -> SavedCards:
    adapter = payment_gateway(payment)
    if not isinstance(adapter, SavedCards):
        raise GatewayUnavailable(payment.gateway, "no_saved_cards", "the gateway keeps no cards")
    return adapter


def _charge(payment: Payment) -> Payment:
    """Ask the gateway for the money of an attempt whose row stands; without any lock."""
    try:
        truth = _adapter(payment).charge_saved_card(_charge_of(payment))
    except ObjectNotFound as gone:
        assert payment.saved_card is not None
        card_remove(card=payment.saved_card, actor=SYSTEM, reason="The gateway does not know it any more")
        return _end(payment, gone.code, gone.message)
    except (MoneyNotAccepted, GatewayRefused) as refusal:
        if not isinstance(refusal, GatewayMisconfigured):
            return _end(payment, refusal.code, refusal.message)
        # Ours to mend, and no fault of the card: it is tried again by the poll.
        logger.error("charge %s: %s", payment.reference, refusal)
        return payment
    except GatewayError as error:
        logger.warning("charge %s: %s", payment.reference, error)
        return _unanswered(payment, error)
    return truth_apply(payment=payment, truth=truth, actor=SYSTEM).payment


def _unanswered(payment: Payment, error: GatewayError) -> Payment:
    """Certainly not done stays as it began, anything else is unknown; the poll goes on with both."""
    payment = Payment.objects.get(pk=payment.pk)
    if not isinstance(error, OutcomeUnknown) or payment.state != State.CREATED:
        return payment
    try:
        return payment_move(
            payment=payment, to=State.UNKNOWN, actor=SYSTEM, failure_code=error.code, failure_message=error.message
        )
    except PaymentMoveRefused:
        # A webhook was faster.
        return Payment.objects.get(pk=payment.pk)


def _still_wanted(payment: Payment) -> bool:
    """Whether a charge that was not made may be sent again: same money, same card, the customer still agrees, the key holds."""
    adapter, now = _adapter(payment), clock.now()
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        invoice, consent = payment.invoice, consent_in_force(payment.account)
        return (
            payment.state in OPEN
            and now < payment.created_at + adapter.charges_repeatable_for
            and payment.account.status == Account.Status.ACTIVE
            and invoice is not None
            and invoice.state == Invoice.State.OPEN
            and invoice.due == payment.amount
            and consent is not None
            and consent.card_id == payment.saved_card_id
        )


def _end(payment: Payment, code: str, message: str) -> Payment:
    try:
        with transaction.atomic():
            payment = payment_move(
                payment=payment,
                to=State.FAILED,
                actor=SYSTEM,
                failure_code=code,
                failure_message=message,
                next_poll_at=None,
            )
            charge_failed_tell(payment)
        return payment
    except PaymentMoveRefused:
        # A webhook was faster.
        return Payment.objects.get(pk=payment.pk)
