"""Payments that a bank takes back: `open -> won | lost`, and `lost -> won` after an appeal.

While one is open nothing moves, and nothing of the payment is refunded. A loss takes the credits that the money bought; what
was spent of them becomes debt, which stops new calls until a purchase pays it. A plan without credits ends with the loss of
money that paid for it. A win undoes a loss: a plan that ended begins anew with the time that was left.
"""

from datetime import datetime
from decimal import ROUND_DOWN, Decimal
from typing import Any

from django.db import transaction

from billing.events.services import SYSTEM, Actor, event_record
from billing.ledger.models import LedgerAccount, LedgerTransaction, Lot
from billing.ledger.money_books import money_book
from billing.ledger.services import dispute_lose, dispute_win, lot_void
from billing.subscriptions.taken_back import subscription_give_back, subscription_take_back
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO, credits_quantise
from iafactory.common.texts import Text

from .auto_renewal import auto_renewal_withdraw
from .gateways.base import DisputeState, GatewayDispute
from .models import Dispute, Payment
from .refunds import invoice_lots
from .services import payment_lock

State = Dispute.State
_Account = LedgerAccount.Kind
_MICROCREDIT = Decimal("0.000001")


class DisputeMoveRefused(ApiError):
    """The state table has no such move: 409 `dispute_move_refused`."""

    def __init__(self, state: str, to: str) -> None:
        super().__init__(409, "dispute_move_refused", f"A dispute that is {state} cannot become {to}.")


def dispute_open(
    *,
    payment: Payment,
    gateway_dispute_id: str,
    actor: Actor,
    amount: Decimal | None = None,
    reason: str = "",
    respond_by: datetime | None = None,
) -> Dispute:
    """Note that a bank contests `amount` (None: all that was received) of a payment; the same id again answers the first.

    ApiError 409 `payment_not_disputable` for a payment without money or more than it brought.
    """
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        known = payment.disputes.filter(gateway_dispute_id=gateway_dispute_id).first()
        if known is not None:
            return known
        received = payment.received_amount or ZERO
        amount = received if amount is None else amount
        if not 0 < amount <= received:
            raise ApiError(
                409,
                "payment_not_disputable",
                Text("This payment brought %(amount)s %(currency)s.", amount=received, currency=payment.currency),
                param="amount",
            )
        dispute = Dispute.objects.create(
            payment=payment,
            gateway_dispute_id=gateway_dispute_id[:128],
            amount=amount,
            currency=payment.currency,
            reason=reason[:200],
            respond_by=respond_by,
            opened_at=clock.now(),
        )
        _event("opened", dispute, actor, reason=reason)
        if payment.saved_card_id is not None:
            # Whoever contests such a charge does not agree to the next one.
            auto_renewal_withdraw(account=payment.account, actor=actor, reason=f"Payment {payment.reference} is contested")
    return dispute


def dispute_lost(*, dispute: Dispute, actor: Actor, reason: str) -> Dispute:
    """The bank took the money: what it bought goes, its spent part becomes debt, a plan without credits ends. Lost already:
    nothing happens.

    Raises DisputeMoveRefused.
    """
    with transaction.atomic():
        dispute = _lock(dispute)
        if dispute.state == State.LOST:
            return dispute
        before = _move(dispute, State.LOST)
        payment = dispute.payment
        from_unapplied = min(dispute.amount, payment.unapplied_amount)
        taken, debt = _take(dispute, dispute.amount - from_unapplied, actor)
        ended = _plans_end(dispute, dispute.amount - from_unapplied, actor)
        dispute.facts = {"unapplied": str(from_unapplied), "taken": taken, "debt": str(debt), "ended": ended}
        payment.unapplied_amount -= from_unapplied
        payment.refunded_amount += dispute.amount
        payment.save(update_fields=["unapplied_amount", "refunded_amount", "updated_at"])
        _book(dispute, Decimal(1), from_unapplied, "", actor)
        dispute.save()
        after = {"debt": str(debt), "ended": [one["plan"] for one in ended]}
        _event("lost", dispute, actor, before={"state": before}, after=after, reason=reason)
    return dispute


def dispute_won(*, dispute: Dispute, actor: Actor, reason: str) -> Dispute:
    """The money stays, or came back after a loss: credits return, debt is forgiven, a plan that ended begins anew unless the
    account has another by now. Won already: nothing happens."""
    with transaction.atomic():
        dispute = _lock(dispute)
        if dispute.state == State.WON:
            return dispute
        before = _move(dispute, State.WON)
        restored: list[str] = []
        if before == State.LOST:
            payment = dispute.payment
            for one in dispute.facts["taken"]:
                why = f"Dispute {dispute.gateway_dispute_id} won"
                dispute_win(lot=Lot.objects.get(pk=one["lot"]), reason=why, actor=actor, idempotency_key=one["key"])
            to_unapplied = Decimal(dispute.facts["unapplied"])
            payment.unapplied_amount += to_unapplied
            payment.refunded_amount -= dispute.amount
            payment.save(update_fields=["unapplied_amount", "refunded_amount", "updated_at"])
            _book(dispute, Decimal(-1), to_unapplied, ":back", actor)
            restored = _plans_begin_anew(dispute, actor)
            dispute.facts["restored"] = restored
        dispute.save()
        _event("won", dispute, actor, before={"state": before}, after={"restored": restored}, reason=reason)
    return dispute


def dispute_told(*, payment: Payment, truth: GatewayDispute, actor: Actor = SYSTEM) -> Dispute:
    """Book what the gateway says about a dispute, known here or not. ApiError 409 `dispute_differs` for another currency."""
    with transaction.atomic():
        if truth.money.currency != payment.currency:
            raise ApiError(
                409,
                "dispute_differs",
                Text("%(money)s are contested, %(currency)s was paid.", money=truth.money, currency=payment.currency),
            )
        amount = truth.money.amount
        dispute = dispute_open(
            payment=payment, gateway_dispute_id=truth.dispute_id, amount=amount, reason=truth.reason, actor=actor
        )
        match truth.state:
            case DisputeState.LOST:
                return dispute_lost(dispute=dispute, actor=actor, reason=truth.reason)
            case DisputeState.WON:
                return dispute_won(dispute=dispute, actor=actor, reason=truth.reason)
    return dispute


def _lock(dispute: Dispute) -> Dispute:
    payment = payment_lock(dispute.payment_id)
    dispute = Dispute.objects.get(pk=dispute.pk)
    dispute.payment = payment
    return dispute


def _move(dispute: Dispute, to: str) -> str:
    before = dispute.state
    if to not in Dispute.MOVES[before]:
        raise DisputeMoveRefused(before, to)
    dispute.state = to
    dispute.closed_at = clock.now()
    return before


def _take(dispute: Dispute, amount: Decimal, actor: Actor) -> tuple[list[dict[str, str]], Decimal]:
    """Take what `amount` of the payment bought, invoice by invoice; the free bonus only as far as it is there.

    Returns lots with the keys they were taken under, and the debt that was left.
    """
    reason = f"Dispute {dispute.gateway_dispute_id} lost"
    taken, debt = [], ZERO
    for allocation in dispute.payment.allocations.select_related("invoice").order_by("at"):
        lots, bonus = invoice_lots(allocation.invoice)
        price = sum((lot.paid_amount for lot in lots), ZERO)
        contested = min(amount, allocation.amount)
        amount -= contested
        left = min(contested, price)
        share = left / price if price else ZERO
        for lot in lots:
            worth = min(left, lot.paid_amount)
            credits = credits_quantise(lot.amount * worth / lot.paid_amount)
            if credits > 0:
                key = f"dispute:{dispute.pk}:{lot.pk}"
                debt += dispute_lose(lot=lot, reason=reason, actor=actor, idempotency_key=key, amount=credits)
                taken.append({"lot": str(lot.pk), "key": key})
            left -= worth
        for lot in bonus:
            credits = min((lot.amount * share).quantize(_MICROCREDIT, ROUND_DOWN), lot.remaining - lot.held)
            if credits > 0:
                key = f"dispute:{dispute.pk}:{lot.pk}"
                lot_void(lot=lot, reason=reason, actor=actor, idempotency_key=key, amount=credits)
                taken.append({"lot": str(lot.pk), "key": key})
    return taken, debt


def _plans_end(dispute: Dispute, amount: Decimal, actor: Actor) -> list[dict[str, Any]]:
    """End the plans that `amount` of the payment paid for and that have no credits to take back."""
    reason = f"Dispute {dispute.gateway_dispute_id} lost"
    ended = []
    for allocation in dispute.payment.allocations.select_related("invoice").order_by("at"):
        invoice = allocation.invoice
        if amount <= 0:
            break
        amount -= min(amount, allocation.amount)
        if invoice.subscription_id is None or invoice_lots(invoice)[0]:
            continue
        facts = subscription_take_back(subscription_id=invoice.subscription_id, actor=actor, reason=reason)
        if facts is not None:
            ended.append(facts)
    return ended


def _plans_begin_anew(dispute: Dispute, actor: Actor) -> list[str]:
    reason = f"Dispute {dispute.gateway_dispute_id} won"
    begun = [subscription_give_back(facts=one, actor=actor, reason=reason) for one in dispute.facts.get("ended", [])]
    return [str(one.pk) for one in begun if one is not None]


def _book(dispute: Dispute, sign: Decimal, unapplied: Decimal, suffix: str, actor: Actor) -> None:
    """Money that the bank took is a refund nobody asked for; what had no invoice is unapplied no more."""
    lost = {_Account.CASH: -dispute.amount, _Account.UNAPPLIED: unapplied, _Account.REFUNDS: dispute.amount - unapplied}
    money_book(
        kind=LedgerTransaction.Kind.MONEY_DISPUTE,
        currency=dispute.currency,
        postings={kind: sign * amount for kind, amount in lost.items()},
        idempotency_key=f"money-dispute:{dispute.pk}{suffix}",
        account_id=dispute.payment.account_id,
        actor=actor,
        reason=f"Dispute {dispute.gateway_dispute_id}"[:500],
    )


def _event(
    what: str,
    dispute: Dispute,
    actor: Actor,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    told = {
        "dispute": dispute.gateway_dispute_id,
        "payment": dispute.payment.reference,
        "amount": str(dispute.amount),
        "currency": dispute.currency,
        "state": dispute.state,
    }
    event_record(
        kind=f"dispute.{what}",
        object_type="dispute",
        object_id=dispute.pk,
        account_id=dispute.payment.account_id,
        actor=actor,
        before=before,
        after=told | (after or {}),
        reason=reason,
    )
