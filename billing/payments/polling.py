"""Asking about open payments by ourselves: webhooks may never come."""

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from billing.events.services import SYSTEM
from iafactory.common import clock
from iafactory.common.errors import ApiError

from .closing import checkout_close, still_wanted
from .confirmation import payment_confirm
from .gateways.base import GatewayError, ObjectNotFound, PaymentState
from .models import Payment
from .renewal_charges import charge_resume
from .services import PaymentMoveRefused, payment_move

State = Payment.State
OPEN = (State.CREATED, State.PENDING, State.UNKNOWN)

# When an open payment is asked about, counted from when it was made; afterwards hourly.
POLL_AFTER = (timedelta(minutes=2), timedelta(minutes=10), timedelta(minutes=30))
POLL_EVERY = timedelta(hours=1)
# What its gateway still calls open, or has never heard of, is given up this long after it could last be paid.
GIVE_UP_AFTER = timedelta(hours=24)
# A checkout whose address nobody got cannot be paid.
GIVE_UP_UNREACHED_AFTER = timedelta(minutes=30)


def poll_at(created_at: datetime, polls: int) -> datetime:
    """When a payment that was asked about `polls` times is asked about next."""
    if polls < len(POLL_AFTER):
        return created_at + POLL_AFTER[polls]
    return clock.now() + POLL_EVERY


def payments_due(*, limit: int = 100) -> list[UUID]:
    """The open payments at gateways that it is time to ask about; those that nobody scheduled, too."""
    now = clock.now()
    forgotten = Q(next_poll_at__isnull=True, created_at__lte=now - POLL_AFTER[0])
    due = Payment.objects.filter(Q(next_poll_at__lte=now) | forgotten, state__in=OPEN).exclude(gateway="manual")
    return list(due.order_by("next_poll_at").values_list("pk", flat=True)[:limit])


def payment_poll(*, payment_id: UUID) -> Payment:
    """Ask about an open payment because its time has come, and set when to ask next.

    A gateway that cannot answer is asked again. What nobody can pay any more ends; money that comes late still counts.
    """
    with transaction.atomic():
        payment = Payment.objects.select_for_update(no_key=True).get(pk=payment_id)
        if payment.state not in OPEN:
            return payment
        polls = payment.polls + 1
        Payment.objects.filter(pk=payment_id).update(polls=polls, next_poll_at=poll_at(payment.created_at, polls))
    try:
        if payment.saved_card_id is not None and not payment.gateway_payment_id:
            return charge_resume(payment=payment)
        confirmed = payment_confirm(payment=payment, reason="asked")
    except ObjectNotFound as missing:
        return _give_up(payment_id, missing.code)
    except (GatewayError, ApiError):
        return Payment.objects.get(pk=payment_id)
    if confirmed.truth.state is PaymentState.OPEN:
        if not still_wanted(confirmed.payment):
            return checkout_close(payment=confirmed.payment, actor=SYSTEM, reason="Nothing is to be paid any more")
        return _give_up(payment_id, "not_paid_in_time")
    return confirmed.payment


def _give_up(payment_id: UUID, code: str) -> Payment:
    """End a payment whose time is over; before that, leave it."""
    payment = Payment.objects.get(pk=payment_id)
    unreached = payment.state != State.PENDING
    last = payment.created_at + GIVE_UP_UNREACHED_AFTER if unreached else _last_payable(payment) + GIVE_UP_AFTER
    if payment.state not in OPEN or clock.now() < last:
        return payment
    to = State.FAILED if unreached else State.EXPIRED
    try:
        return payment_move(payment=payment, to=to, actor=SYSTEM, failure_code=code, next_poll_at=None)
    except PaymentMoveRefused:
        # Somebody was faster.
        return Payment.objects.get(pk=payment_id)


def _last_payable(payment: Payment) -> datetime:
    return payment.expires_at or payment.created_at
