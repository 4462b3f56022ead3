"""Working verified webhooks: find the payment, ask the gateway, book what is true. Repeating is harmless at every point."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from billing.accounts.services import task_enqueue
from billing.events.services import Actor, event_record
from billing.payments.configuration import gateway_configured
from billing.payments.confirmation import payment_confirm, payment_find
from billing.payments.disputes import dispute_told
from billing.payments.gateways.base import (
    Disputes,
    Fetches,
    GatewayError,
    GatewayPayment,
    GatewayRefused,
    Money,
    ObjectNotFound,
    PaymentState,
    Refunds,
    Subject,
)
from billing.payments.gateways.reading import storable
from billing.payments.models import Payment
from billing.payments.refunds import refund_told
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from . import elsewhere
from .models import GatewayWebhook
from .receiving import webhook_verify

logger = logging.getLogger(__name__)

State = GatewayWebhook.State
WORKABLE = (State.RECEIVED, State.FAILED, State.REPLAYED)
# Tried again after one minute, then twice as long each time, at most six hours apart; given up after about four days.
_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=6)
_ATTEMPTS = 24
# A refund or dispute may be told before its payment is known: it is looked for so often, most of a day, before it is nobody's.
_ATTEMPTS_OF_NOBODYS = 12
# How long one attempt may take before the sweeper thinks that its worker died.
_LEASE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a webhook."""

    state: State
    note: str = ""
    payment: Payment | None = None
    truth: Mapping[str, Any] | None = None
    look: bool = False
    """Trying again would say the same: only an operator can do something."""


def webhook_work(*, webhook_id: UUID | str) -> GatewayWebhook:
    """Do what a verified webhook calls for, and write down what became of it. One that is worked already stays as it is."""
    row = _claim(webhook_id)
    if row is None:
        return GatewayWebhook.objects.get(pk=webhook_id)
    try:
        outcome = _work(row)
    except GatewayError as error:
        # A refusal may be the gateway's mistake of a moment as well: both are tried again, then looked at.
        outcome = _Outcome(State.FAILED, str(error), row.payment)
    except ApiError as error:
        outcome = _Outcome(State.FAILED, f"{error.code}: {error.message}", row.payment)
    except elsewhere.NotPlaceable as error:
        outcome = _Outcome(State.FAILED, str(error))
    except Exception as error:
        logger.exception("webhook %s", row.pk)
        _finish(row, _Outcome(State.FAILED, f"{type(error).__name__}: {error}", row.payment))
        raise
    return _finish(row, outcome)


def webhook_replay(*, webhook: GatewayWebhook, actor: Actor, reason: str) -> GatewayWebhook:
    """Have a webhook worked again: its effects happen once all the same. ApiError 409 `webhook_not_replayable`."""
    with transaction.atomic():
        row = GatewayWebhook.objects.select_for_update(no_key=True).get(pk=webhook.pk)
        before = row.state
        if State.REPLAYED not in GatewayWebhook.MOVES[before]:
            raise ApiError(
                409, "webhook_not_replayable", Text("A webhook that is %(state)s cannot be worked again.", state=before)
            )
        row.state, row.attempts, row.next_attempt_at = State.REPLAYED, 0, clock.now()
        row.save(update_fields=["state", "attempts", "next_attempt_at"])
        event_record(
            kind="gateway_webhook.replayed",
            object_type="gateway_webhook",
            object_id=row.pk,
            account_id=row.payment.account_id if row.payment else None,
            actor=actor,
            before={"state": before},
            after={"state": row.state},
            reason=reason,
        )
        row_id = str(row.pk)
        transaction.on_commit(lambda: task_enqueue("billing.payments.webhook_work", row_id))
    return row


def webhooks_sweep(*, limit: int = 200) -> int:
    """Verify what could not be verified, and hand over again what nobody worked; returns how many."""
    due = GatewayWebhook.objects.filter(state__in=WORKABLE, next_attempt_at__lte=clock.now()).order_by("next_attempt_at")
    count = 0
    for row in due[:limit]:
        count += 1
        if row.verified_at is not None:
            GatewayWebhook.objects.filter(pk=row.pk).update(next_attempt_at=clock.now() + _LEASE)
            task_enqueue("billing.payments.webhook_work", str(row.pk))
            continue
        # Whoever stored it died before deciding, or a certificate was missing.
        row.attempts += 1
        row.next_attempt_at = _next_attempt(row.attempts)
        row.save(update_fields=["attempts", "next_attempt_at"])
        try:
            webhook_verify(row, headers=row.headers)
        except ApiError:
            continue
    return count


def rejected_forget(*, before: datetime) -> int:
    """Delete rejected webhooks that arrived before an instant; returns how many."""
    deleted, _by_model = GatewayWebhook.objects.filter(state=State.REJECTED, received_at__lt=before).delete()
    return deleted


def _claim(webhook_id: UUID | str) -> GatewayWebhook | None:
    with transaction.atomic():
        row = (
            GatewayWebhook.objects.select_for_update(no_key=True, of=("self",))
            .select_related("payment")
            .filter(pk=webhook_id, verified_at__isnull=False, state__in=WORKABLE)
            .first()
        )
        if row is not None:
            row.attempts += 1
            row.next_attempt_at = clock.now() + _LEASE
            row.save(update_fields=["attempts", "next_attempt_at"])
    return row


def _next_attempt(attempts: int) -> datetime | None:
    if attempts >= _ATTEMPTS:
        return None
    pause: timedelta = min(_FIRST_PAUSE * 2 ** min(attempts - 1, 20), _LONGEST_PAUSE)
    return clock.now() + pause


def _finish(row: GatewayWebhook, outcome: _Outcome) -> GatewayWebhook:
    with transaction.atomic():
        now_row = GatewayWebhook.objects.select_for_update(no_key=True).get(pk=row.pk)
        if now_row.state not in WORKABLE:
            # Another worker was faster; both did the same.
            return now_row
        failed = outcome.state == State.FAILED
        now_row.state = outcome.state
        now_row.note = outcome.note[:500]
        now_row.payment = outcome.payment or now_row.payment
        if outcome.truth is not None:
            now_row.truth = storable(outcome.truth)
        now_row.worked_at = clock.now()
        now_row.next_attempt_at = _next_attempt(now_row.attempts) if failed and not outcome.look else None
        now_row.save(update_fields=["state", "note", "payment", "truth", "worked_at", "next_attempt_at"])
    return now_row


def _work(row: GatewayWebhook) -> _Outcome:
    match row.subject:
        case Subject.PAYMENT:
            return _work_payment(row)
        case Subject.REFUND:
            return _work_refund(row)
        case Subject.DISPUTE:
            return _work_dispute(row)
        case _:
            return _Outcome(State.IGNORED, "nothing that concerns us")


def _find(row: GatewayWebhook) -> Payment | None:
    return payment_find(
        gateway=row.gateway,
        mode=row.mode,
        reference=row.reference,
        checkout_id=row.checkout_id,
        gateway_payment_id=row.gateway_payment_id,
    )


def _work_payment(row: GatewayWebhook) -> _Outcome:
    payment = _find(row)
    if payment is None or elsewhere.names_a_key(payment.gateway_facts):
        truth = _asked(row)
        if truth is not None and elsewhere.names_a_key(truth.raw):
            return _work_elsewhere(row, truth)
        # The gateway may know more than it wrote.
        payment = _find_by_truth(row, truth) if truth else None
    if payment is None:
        return _Outcome(State.IGNORED, "no payment of ours")
    row.payment = payment
    confirmed = payment_confirm(payment=payment, checkout_id=row.checkout_id, gateway_payment_id=row.gateway_payment_id)
    return _Outcome(State.PROCESSED, confirmed.note, confirmed.payment, confirmed.truth.raw)


def _work_refund(row: GatewayWebhook) -> _Outcome:
    """What a refund's webhook says, made sure of. One that stands as we have it is done; any other is an operator's."""
    adapter = gateway_configured(row.gateway)
    if not isinstance(adapter, Refunds):
        return _Outcome(State.IGNORED, "this gateway refunds nothing")
    truth = adapter.fetch_refund(row.refund_id)
    payment = _find_of(row, truth.payment_id)
    if payment is None:
        return _nobodys(row, "a refund", truth.raw)
    refund = payment.refunds.filter(Q(reference=truth.key) | Q(gateway_refund_id=truth.refund_id)).first()
    said = f"refund {truth.refund_id}: {truth.money} {truth.state}"
    if refund is None:
        return _Outcome(State.FAILED, f"{said}, which nobody asked for here", payment, truth.raw, look=True)
    if Money(refund.amount, refund.currency) != truth.money:
        return _Outcome(State.FAILED, f"{said}, not {refund.amount} {refund.currency}", payment, truth.raw, look=True)
    refund = refund_told(refund=refund, truth=truth)
    if refund.state == truth.state.value:
        return _Outcome(State.PROCESSED, said, payment, truth.raw)
    return _Outcome(State.FAILED, f"{said}, here {refund.state}", payment, truth.raw)


def _work_dispute(row: GatewayWebhook) -> _Outcome:
    """What a dispute's webhook says, made sure of where the gateway can be asked. One that stands as we have it is done."""
    adapter = gateway_configured(row.gateway)
    if not isinstance(adapter, Disputes):
        payment = _find_of(row, row.gateway_payment_id)
        return _Outcome(State.FAILED, f"dispute {row.dispute_id}: look at the gateway's console", payment, look=True)
    truth = adapter.fetch_dispute(row.dispute_id)
    payment = _find_of(row, truth.payment_id)
    if payment is None:
        return _nobodys(row, "a dispute", truth.raw)
    said = f"dispute {truth.dispute_id}: {truth.money} {truth.state}"
    dispute = dispute_told(payment=payment, truth=truth)
    if dispute.state == truth.state.value:
        return _Outcome(State.PROCESSED, said, payment, truth.raw)
    return _Outcome(State.FAILED, f"{said}, here {dispute.state}", payment, truth.raw)


def _nobodys(row: GatewayWebhook, what: str, truth: Mapping[str, Any]) -> _Outcome:
    """Of a payment that we do not know, or not yet."""
    state = State.FAILED if row.attempts < _ATTEMPTS_OF_NOBODYS else State.IGNORED
    return _Outcome(state, f"{what} of no payment of ours", truth=truth)


def _find_of(row: GatewayWebhook, gateway_payment_id: str) -> Payment | None:
    """The payment that a refund or dispute is about, by what the gateway calls it."""
    return payment_find(
        gateway=row.gateway,
        mode=row.mode,
        reference="",
        checkout_id=row.checkout_id,
        gateway_payment_id=gateway_payment_id or row.gateway_payment_id,
    )


def _work_elsewhere(row: GatewayWebhook, truth: GatewayPayment) -> _Outcome:
    _hide_key(row)
    shown = elsewhere.without_key(truth.raw)
    if truth.mode != row.mode:
        return _Outcome(State.IGNORED, f"in {truth.mode} mode", truth=shown)
    if truth.state is not PaymentState.PAID:
        return _Outcome(State.IGNORED, f"{truth.state}: not paid", truth=shown)
    payment = elsewhere.elsewhere_paid(truth)
    return _Outcome(State.PROCESSED, "sold on another page", payment, shown)


def _hide_key(row: GatewayWebhook) -> None:
    """Take the API key out of a body that was worked; its hash still tells the whole."""
    body = re.sub(rb'("apiKey"\s*:\s*)"[^"]*"', rb'\1"[hidden]"', bytes(row.body))
    GatewayWebhook.objects.filter(pk=row.pk).update(body=body)


def _asked(row: GatewayWebhook) -> GatewayPayment | None:
    adapter = gateway_configured(row.gateway)
    if not isinstance(adapter, Fetches) or not (row.checkout_id or row.gateway_payment_id):
        return None
    try:
        return adapter.fetch_payment(checkout_id=row.checkout_id, payment_id=row.gateway_payment_id)
    except (ObjectNotFound, GatewayRefused):
        return None


def _find_by_truth(row: GatewayWebhook, truth: GatewayPayment) -> Payment | None:
    return payment_find(
        gateway=row.gateway,
        mode=row.mode,
        reference=truth.reference,
        checkout_id=truth.checkout_id,
        gateway_payment_id=truth.payment_id,
    )
