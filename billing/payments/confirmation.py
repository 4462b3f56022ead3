"""Learning from a gateway what became of a payment. Webhooks, polls, returns and operators all end here.

The gateway is asked, without any lock; its answer is compared with what we asked for; then the payment's services book it under
their locks, each effect once. What does not match moves nothing and waits for an operator.
"""

from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction

from billing.events.services import SYSTEM, Actor
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .auto_renewal import card_keep
from .card_mails import charge_failed_tell
from .configuration import gateway_configured
from .gateways.base import (
    Captures,
    Fetches,
    Gateway,
    GatewayError,
    GatewayPayment,
    GatewayRefused,
    GatewayUnavailable,
    Mode,
    Money,
    PaymentState,
    differences,
)
from .gateways.reading import storable
from .models import Payment
from .services import PaymentMoveRefused, payment_lock, payment_move, payment_succeeded

State = Payment.State

_ENDED = {
    PaymentState.FAILED: State.FAILED,
    PaymentState.EXPIRED: State.EXPIRED,
    PaymentState.CANCELED: State.CANCELED,
}


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A payment as it stands after asking, what the gateway said, and what an operator should know about it."""

    payment: Payment
    truth: GatewayPayment
    note: str = ""


def payment_gateway(payment: Payment) -> Gateway:
    """The adapter of a payment's gateway. Raises GatewayUnavailable when its settings are gone or of the other mode."""
    adapter = gateway_configured(payment.gateway)
    if adapter is None:
        raise GatewayUnavailable(payment.gateway, "no_settings", "the gateway has no settings")
    if adapter.mode != payment.mode:
        raise GatewayUnavailable(
            payment.gateway, "other_mode", f"payments run in {adapter.mode} mode, this one is {payment.mode}"
        )
    return adapter


def payment_confirm(
    *, payment: Payment, actor: Actor = SYSTEM, checkout_id: str = "", gateway_payment_id: str = "", reason: str = ""
) -> Confirmed:
    """Ask the gateway about a payment, capture what waits for that, and book what is true. Safe to repeat, from anywhere.

    `checkout_id` and `gateway_payment_id` come from whoever heard of it; else those of the payment count. Raises GatewayError.
    """
    adapter = payment_gateway(payment)
    if not isinstance(adapter, Fetches):
        raise GatewayUnavailable(payment.gateway, "no_fetch", "the gateway cannot be asked")
    asked = checkout_id or payment.checkout_id
    if not asked and not gateway_payment_id and not payment.gateway_payment_id:
        # PayU knows payments by our reference; others have never heard of one without an id.
        asked = payment.reference
    found = adapter.fetch_payment(
        checkout_id=asked, payment_id="" if asked else gateway_payment_id or payment.gateway_payment_id
    )
    refused = ""
    if found.state is PaymentState.AUTHORISED and isinstance(adapter, Captures) and not _mismatch(payment, found):
        try:
            found = adapter.capture_payment(found)
        except GatewayRefused as refusal:
            # The buyer may choose another means; until then nothing has moved.
            refused = f"not captured: {refusal.code}: {refusal.message}"
    return truth_apply(payment=payment, truth=found, actor=actor, reason=reason or refused)


def payment_ask_again(*, payment: Payment, actor: Actor, reason: str) -> Payment:
    """An operator has a gateway asked about a payment now. ApiError 503 `gateways_unavailable` where it does not say."""
    try:
        return payment_confirm(payment=payment, actor=actor, reason=reason).payment
    except GatewayError as error:
        raise ApiError(
            503,
            "gateways_unavailable",
            Text(
                "%(gateway)s says nothing: %(code)s: %(message)s", gateway=error.gateway, code=error.code, message=error.message
            ),
        ) from None


def truth_apply(*, payment: Payment, truth: GatewayPayment, actor: Actor, reason: str = "") -> Confirmed:
    """Book what the gateway says about a payment. Money that is not what was asked for moves nothing: review."""
    mismatch = _mismatch(payment, truth)
    if mismatch:
        if truth.state is PaymentState.PAID:
            payment = _review(payment, mismatch, truth, actor)
        return Confirmed(payment, truth, mismatch)
    if truth.state is PaymentState.PAID:
        return _paid(payment, truth, actor, reason)
    if payment.checkout_id and truth.checkout_id and truth.checkout_id != payment.checkout_id:
        return Confirmed(payment, truth, f"an earlier checkout, {truth.checkout_id}, which came to nothing")
    ended = _ENDED.get(truth.state)
    payment = _ended(payment, truth, ended, actor) if ended else _seen_open(payment, truth, actor)
    return Confirmed(payment, truth, reason)


def _mismatch(payment: Payment, truth: GatewayPayment) -> str:
    money = Money(payment.amount, payment.currency)
    return "; ".join(differences(truth, reference=payment.reference, money=money, mode=Mode(payment.mode)))


def _facts(truth: GatewayPayment) -> dict[str, Any]:
    facts: dict[str, Any] = storable(truth.raw)
    return facts


def _paid(payment: Payment, truth: GatewayPayment, actor: Actor, reason: str) -> Confirmed:
    assert truth.paid is not None
    with transaction.atomic():
        known = payment_succeeded(
            payment=payment,
            actor=actor,
            received=truth.paid.amount,
            currency=truth.paid.currency,
            gateway_payment_id=truth.payment_id,
            facts=_facts(truth),
            reason=reason,
        )
        if known.gateway_payment_id == truth.payment_id:
            card_keep(payment=known, truth=truth, actor=actor)
    if truth.payment_id and known.gateway_payment_id != truth.payment_id:
        surplus = _surplus(known, truth, actor)
        return Confirmed(surplus, truth, f"paid twice: {known.gateway_payment_id} before, this is not applied")
    return Confirmed(known, truth, reason)


def _surplus(first: Payment, truth: GatewayPayment, actor: Actor) -> Payment:
    """Money that came a second time for one attempt: a payment of its own, which finds nothing to pay and stays unapplied."""
    assert truth.paid is not None
    ids = {"gateway": first.gateway, "mode": first.mode, "gateway_payment_id": truth.payment_id}
    try:
        with transaction.atomic():
            payment_lock(first.pk)
            again, made = Payment.objects.get_or_create(
                **ids,
                defaults={
                    "account": first.account,
                    "invoice": first.invoice,
                    "purpose": first.purpose,
                    "method": first.method,
                    "amount": truth.paid.amount,
                    "currency": truth.paid.currency,
                    "fx_rate": first.fx_rate,
                },
            )
            if made:
                again = payment_succeeded(
                    payment=again, actor=actor, facts=_facts(truth), reason=f"Second money for {first.reference}"
                )
    except IntegrityError:
        again = Payment.objects.get(**ids)
    return again


def _review(payment: Payment, mismatch: str, truth: GatewayPayment, actor: Actor) -> Payment:
    try:
        return payment_move(payment=payment, to=State.REVIEW, actor=actor, reason=mismatch, gateway_facts=_facts(truth))
    except PaymentMoveRefused:
        # It succeeded before: the webhook keeps what was said.
        return Payment.objects.get(pk=payment.pk)


def _ended(payment: Payment, truth: GatewayPayment, to: str, actor: Actor) -> Payment:
    """It came to nothing, for now: money that comes late still counts. What ended before stays as it is."""
    payment = Payment.objects.get(pk=payment.pk)
    if payment.state == State.CREATED and to == State.EXPIRED:
        to = State.CANCELED
    if payment.state not in (State.CREATED, State.PENDING, State.UNKNOWN):
        return payment
    code, _colon, message = truth.failure.partition(": ")
    try:
        with transaction.atomic():
            payment = payment_move(
                payment=payment,
                to=to,
                actor=actor,
                failure_code=code or truth.state.value,
                failure_message=message,
                gateway_facts=_facts(truth),
                next_poll_at=None,
            )
            charge_failed_tell(payment)
        return payment
    except PaymentMoveRefused:
        # Somebody was faster.
        return Payment.objects.get(pk=payment.pk)


def _seen_open(payment: Payment, truth: GatewayPayment, actor: Actor) -> Payment:
    """The gateway has it after all: what was unknown or just begun waits for the buyer."""
    payment = Payment.objects.get(pk=payment.pk)
    if payment.state not in (State.CREATED, State.UNKNOWN):
        return payment
    named = {"checkout_id": payment.checkout_id or truth.checkout_id}
    if payment.saved_card_id is not None:
        # There was no checkout: only this leads back to the charge.
        named = {"gateway_payment_id": truth.payment_id}
    try:
        return payment_move(payment=payment, to=State.PENDING, actor=actor, **named)
    except PaymentMoveRefused:
        return Payment.objects.get(pk=payment.pk)


def payment_find(*, gateway: str, mode: str, reference: str, checkout_id: str, gateway_payment_id: str) -> Payment | None:
    """The payment that a gateway speaks of, by whichever name it knows it."""
    ours = Payment.objects.filter(gateway=gateway, mode=mode).select_related("account", "invoice")
    for name, value in (("reference", reference), ("checkout_id", checkout_id), ("gateway_payment_id", gateway_payment_id)):
        found = ours.filter(**{name: value}).first() if value else None
        if found is not None:
            return found
    return None
