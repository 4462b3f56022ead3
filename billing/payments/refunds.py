"""Sending money of a payment back, whole or in part: `requested -> pending -> succeeded | failed`.

What is refundable is the paid amount times the unspent, unheld share of what it bought. Asking parks those credits; a failure
restores them, whenever it comes; success issues the credit note and books the money, once, whoever tells us first.

Lock order: account, payment (whose lock covers its refunds), invoice, number series, then what the ledger locks. The gateway is
asked without any lock, always with the refund's reference as its key, so that asking again is safe.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.urls import reverse

from billing.accounts.services import task_enqueue
from billing.events.services import SYSTEM, Actor, event_record
from billing.invoices import services as invoices
from billing.invoices.models import Invoice
from billing.invoices.rounding import is_quantised, minor_unit
from billing.invoices.selectors import creditable
from billing.ledger.models import LedgerAccount, LedgerTransaction, Lot
from billing.ledger.money_books import money_book
from billing.ledger.services import lot_refund_fail, lot_refund_open, lot_refundable
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO, plain
from iafactory.common.texts import Text

from .configuration import BUILDERS, gateway_build
from .confirmation import payment_gateway
from .gateways.base import (
    GatewayError,
    GatewayMisconfigured,
    GatewayRefund,
    GatewayRefused,
    GatewayUnavailable,
    Money,
    MoneyNotAccepted,
    ObjectNotFound,
    OutcomeUnknown,
    RefundRequest,
    Refunds,
    RefundState,
)
from .models import Dispute, Payment, Refund
from .services import payment_lock

State = Refund.State
OPEN = (State.REQUESTED, State.PENDING)
GONE = (State.REQUESTED, State.PENDING, State.SUCCEEDED)

_Account = LedgerAccount.Kind
_MICROCREDIT = Decimal("0.000001")
# A refund under way is asked about again after the time it has been waiting, at least and at most:
_SHORTEST_PAUSE = timedelta(minutes=2)
_LONGEST_PAUSE = timedelta(hours=6)


class RefundMoveRefused(ApiError):
    """The state table has no such move, or it is not an operator's to make: 409 `refund_move_refused`."""

    def __init__(self, message: str) -> None:
        super().__init__(409, "refund_move_refused", message)


@dataclass(frozen=True, slots=True)
class Refundable:
    """What of a payment can go back now: `amount` of what it paid of `invoice`, or of its money without an invoice (None)."""

    invoice: Invoice | None
    amount: Decimal
    lots: tuple[Lot, ...] = ()
    bonus: tuple[Lot, ...] = ()


def refundables(payment: Payment) -> list[Refundable]:
    """What can go back of a payment, by what it was used for; parts with nothing left are there too. Locks nothing."""
    if payment.state != Payment.State.SUCCEEDED or payment.received_amount is None:
        return []
    most = payment.received_amount - payment.refunded_amount
    parts = [
        _of_invoice(payment, allocation.invoice, allocation.amount, most)
        for allocation in payment.allocations.select_related("invoice").order_by("at")
    ]
    if payment.unapplied_amount > 0:
        parts.append(Refundable(None, _floor(min(payment.unapplied_amount, most), payment.currency)))
    return parts


def refund_request(
    *,
    payment: Payment,
    reason: str,
    actor: Actor,
    amount: Decimal | None = None,
    invoice: Invoice | None = None,
    unapplied: bool = False,
    by_hand: bool = False,
    idempotency_key: str | None = None,
    gone: bool = False,
) -> Refund:
    """Ask for `amount` (None: all that can go back) of what the payment paid of `invoice`, or of its money without an invoice
    (`unapplied`), or else of the first part that has any.

    Parks the credits and hands the refund to the gateway; `by_hand`, and where the gateway cannot refund, an operator sends the
    money and confirms. Above the limit of the settings another operator approves it first. A used `idempotency_key` of the
    payment answers the first refund. With `gone` the gateway has sent the money already: nobody is asked. ApiError 409
    `payment_not_refundable`, `payment_disputed`, `refund_too_large`, 400 `invalid_request`.
    """
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        if idempotency_key is not None:
            first = payment.refunds.filter(facts__idempotency_key=idempotency_key).first()
            if first is not None:
                return first
        part = _part(payment, invoice, unapplied)
        amount = part.amount if amount is None else amount
        if amount <= 0 or not is_quantised(amount, payment.currency):
            raise ApiError(
                400,
                "invalid_request",
                Text("%(amount)s %(currency)s cannot be sent.", amount=plain(amount), currency=payment.currency),
                param="amount",
            )
        if amount > part.amount:
            raise _too_large(part.amount, payment.currency)
        by_hand = not gone and (by_hand or not _by_gateway(payment))
        asked = not by_hand and not gone
        if asked and (refusal := gateway_build(payment.gateway).money_refusal(Money(amount, payment.currency))):
            raise ApiError(409, "payment_not_refundable", Text(refusal.text, **refusal.values))
        limit = not gone and _above_limit(payment, amount)
        now = clock.now()
        refund = Refund(
            payment=payment,
            amount=amount,
            currency=payment.currency,
            by_hand=by_hand,
            reason=reason[:300],
            requested_by=actor.label[:254],
            requested_at=now,
            next_poll_at=now if asked and not limit else None,
        )
        refund.facts = {
            "invoice": str(part.invoice.pk) if part.invoice else None,
            "requested_by": str(actor.id or actor.label),
            "idempotency_key": idempotency_key,
            "limit": limit,
            "asked": 0,
            "answered": 0,
            "parked": _park(refund, part, actor),
        }
        parked = refund.facts["parked"]
        refund.credits = sum((Decimal(one["credits"]) for one in parked), ZERO)
        refund.lot_id = UUID(parked[0]["lot"]) if parked else None
        refund.save()
        payment.refunded_amount += amount
        if part.invoice is None:
            payment.unapplied_amount -= amount
        payment.save(update_fields=["refunded_amount", "unapplied_amount", "updated_at"])
        after = {"credits": str(refund.credits), "invoice": part.invoice.number if part.invoice else "", "by_hand": by_hand}
        _event("requested", refund, actor, after=after, reason=reason)
        _ask_soon(refund)
    return refund


def refund_approve(*, refund: Refund, actor: Actor, reason: str) -> Refund:
    """A second operator agrees to a refund above the limit; then it is sent. ApiError 409 `second_operator_needed`."""
    with transaction.atomic():
        refund = _lock(refund.pk)
        if not waits_for_approval(refund):
            raise RefundMoveRefused("This refund waits for nobody.")
        if str(actor.id or actor.label) == refund.facts["requested_by"]:
            raise ApiError(409, "second_operator_needed", "Another operator than the one who asked has to approve it.")
        refund.confirmed_by = actor.label[:254]
        refund.next_poll_at = None if refund.by_hand else clock.now()
        refund.save(update_fields=["confirmed_by", "next_poll_at"])
        _event("approved", refund, actor, after={}, reason=reason)
        _ask_soon(refund)
    return refund


def refund_confirm(*, refund: Refund, actor: Actor, reason: str) -> Refund:
    """An operator knows that the money went back: sent by hand, or seen at a gateway that never answered."""
    with transaction.atomic():
        refund = _lock(refund.pk)
        if not confirmable(refund):
            raise RefundMoveRefused("This refund is not confirmed by hand.")
        return _succeed(refund, actor, reason)


def refund_reject(*, refund: Refund, actor: Actor, reason: str) -> Refund:
    """An operator knows that no money goes back: the credits return. Not while the gateway may be sending it."""
    with transaction.atomic():
        refund = _lock(refund.pk)
        if not rejectable(refund):
            raise RefundMoveRefused("The gateway may be sending this refund.")
        return _fail(refund, actor, "rejected", reason)


def refund_found(*, payment: Payment, truth: GatewayRefund, actor: Actor, reason: str) -> Refund:
    """A gateway sent money of a payment back that nobody here asked for: book it, with its credits and a credit note.

    Once per gateway's id. Raises as `refund_request`; a loss that credits in use do not cover is noted as a dispute.
    """
    with transaction.atomic():
        payment = payment_lock(payment.pk)
        same = payment.refunds.filter(gateway_refund_id=truth.refund_id)
        known = same.exclude(state=State.FAILED).first()
        if known is not None:
            return known
        if truth.money.currency != payment.currency:
            raise ApiError(
                409,
                "refund_differs",
                Text("%(money)s went back, %(currency)s was paid.", money=truth.money, currency=payment.currency),
            )
        # One that failed here gives its name to what was sent after all.
        same.update(gateway_refund_id="")
        refund = refund_request(payment=payment, reason=reason, actor=actor, amount=truth.money.amount, gone=True)
        refund.gateway_refund_id = truth.refund_id
        refund.save(update_fields=["gateway_refund_id"])
        return _succeed(refund, actor, reason)


def waits_for_approval(refund: Refund) -> bool:
    """Whether a second operator has to agree before anything is sent."""
    return refund.state == State.REQUESTED and bool(refund.facts.get("limit")) and not refund.confirmed_by


def confirmable(refund: Refund) -> bool:
    """Whether an operator may say that the money went back."""
    return refund.state in OPEN and not waits_for_approval(refund) and (refund.by_hand or _in_doubt(refund))


def rejectable(refund: Refund) -> bool:
    """Whether an operator may say that no money goes back: nothing was sent, or the gateway never said what became of it."""
    return refund.state == State.REQUESTED or (refund.state == State.PENDING and _in_doubt(refund))


def refunds_due(*, limit: int = 100) -> list[UUID]:
    """The refunds under way that it is time to ask their gateways about."""
    due = Refund.objects.filter(state__in=OPEN, by_hand=False, next_poll_at__lte=clock.now())
    return list(due.order_by("next_poll_at").values_list("pk", flat=True)[:limit])


def refund_ask(*, refund_id: UUID | str) -> Refund:
    """Have the gateway send a refund's money, or say what became of it, when it is time; sets when to ask next.

    Safe to repeat and to run in parallel: one asks at a time, with the same key. What the gateway did not answer stays pending.
    """
    refund = _claim(refund_id)
    if refund is None:
        return Refund.objects.get(pk=refund_id)
    try:
        truth = _asked(refund)
    except OutcomeUnknown as error:
        return _unanswered(refund, error, to=State.PENDING)
    except (GatewayUnavailable, GatewayMisconfigured) as error:
        return _unanswered(refund, error, certain=True)
    except (GatewayRefused, MoneyNotAccepted, ObjectNotFound) as error:
        return _refused(refund, error)
    return refund_told(refund=refund, truth=truth, answered=True)


def refund_told(*, refund: Refund, truth: GatewayRefund, actor: Actor = SYSTEM, answered: bool = False) -> Refund:
    """Book what the gateway says about a refund; what is known already changes nothing.

    ApiError 409 `refund_differs` for another amount; RefundMoveRefused for money that went after the refund had failed here.
    """
    with transaction.atomic():
        refund = _lock(refund.pk)
        if Money(refund.amount, refund.currency) != truth.money:
            raise ApiError(
                409,
                "refund_differs",
                Text(
                    "%(money)s went back, %(amount)s %(currency)s was asked for.",
                    money=truth.money,
                    amount=refund.amount,
                    currency=refund.currency,
                ),
            )
        if truth.state == RefundState.SUCCEEDED and refund.state == State.FAILED:
            raise RefundMoveRefused(f"{truth.refund_id} succeeded, but {refund.reference} has failed here.")
        refund.gateway_refund_id = refund.gateway_refund_id or truth.refund_id
        if answered:
            refund.facts["answered"] = refund.facts["asked"]
        refund.save(update_fields=["gateway_refund_id", "facts"])
        if refund.state == truth.state.value:
            return refund
        match truth.state:
            case RefundState.SUCCEEDED:
                return _succeed(refund, actor, "")
            case RefundState.FAILED if refund.state != State.FAILED:
                return _fail(refund, actor, "gateway_failed", truth.failure)
            case RefundState.PENDING if refund.state == State.REQUESTED:
                refund.state = State.PENDING
                refund.save(update_fields=["state"])
                _event("pending", refund, actor, before={"state": State.REQUESTED}, after={})
    return refund


def _lock(refund_id: UUID | str) -> Refund:
    """The refund as it is now; its payment is locked."""
    payment = payment_lock(Refund.objects.values_list("payment_id", flat=True).get(pk=refund_id))
    refund = Refund.objects.get(pk=refund_id)
    refund.payment = payment
    return refund


def _part(payment: Payment, invoice: Invoice | None, unapplied: bool) -> Refundable:
    if payment.disputes.filter(state=Dispute.State.OPEN).exists():
        raise ApiError(409, "payment_disputed", "The payer's bank decides about this payment; refund nothing meanwhile.")
    parts = refundables(payment)
    if invoice is not None or unapplied:
        parts = [part for part in parts if part.invoice == invoice]
    part = next((part for part in parts if part.amount > 0), None)
    if part is None:
        raise ApiError(409, "payment_not_refundable", "Nothing of this payment can go back.")
    return part


def _of_invoice(payment: Payment, invoice: Invoice, paid: Decimal, most: Decimal) -> Refundable:
    of_invoice = Refund.objects.filter(facts__invoice=str(invoice.pk))
    own = sum((one.amount for one in of_invoice.filter(payment=payment, state__in=GONE)), ZERO)
    on_the_way = sum((one.amount for one in of_invoice.filter(state__in=OPEN)), ZERO)
    # A credit note of a refund that failed after all serves the next one.
    spare = sum((one.amount for one in of_invoice.filter(state=State.FAILED, credit_note__isnull=False)), ZERO)
    amount = min(paid - own, creditable(invoice) - on_the_way + spare, most)
    lots, bonus = invoice_lots(invoice)
    if lots:
        amount = min(amount, sum((lot_refundable(lot) for lot in lots), ZERO))
    return Refundable(invoice, max(ZERO, _floor(amount, payment.currency)), lots, bonus)


def invoice_lots(invoice: Invoice) -> tuple[tuple[Lot, ...], tuple[Lot, ...]]:
    """The lots that an invoice's money bought, and those that came free with it; none for what is no credits."""
    lots = Lot.objects.filter(wallet=invoice.account_id).order_by("created_at", "id")
    if invoice.purpose == Invoice.Purpose.TOPUP:
        bought = lots.filter(grant_key=f"topup:{invoice.pk}:{Lot.Kind.PURCHASE}", paid_amount__gt=0)
        return tuple(bought), tuple(lots.filter(grant_key=f"topup:{invoice.pk}:{Lot.Kind.BONUS}"))
    if invoice.subscription_id is None or invoice.period_start is None:
        return (), ()
    payers = list(invoice.allocations.values_list("payment_id", flat=True))
    # Credits put aside while a subscription was paused come back as a lot that names no payment.
    paid = lots.filter(Q(payment_id__in=payers) | Q(payment_id__isnull=True), kind=Lot.Kind.PLAN, paid_amount__gt=0)
    own = paid.filter(paid_currency=invoice.currency, effective_at__gte=invoice.period_start)
    if invoice.period_end is not None:
        own = own.filter(effective_at__lt=invoice.period_end)
    return tuple(lot for lot in own if str(invoice.subscription_id) in lot.grant_key), ()


def _floor(amount: Decimal, currency: str) -> Decimal:
    return amount.quantize(minor_unit(currency), ROUND_DOWN)


def _too_large(most: Decimal, currency: str) -> ApiError:
    return ApiError(
        409,
        "refund_too_large",
        Text("%(amount)s %(currency)s can go back.", amount=plain(most), currency=currency),
        param="amount",
    )


def _by_gateway(payment: Payment) -> bool:
    if payment.gateway not in BUILDERS or not payment.gateway_payment_id:
        return False
    return isinstance(gateway_build(payment.gateway), Refunds)


def _above_limit(payment: Payment, amount: Decimal) -> bool:
    """Whether a second operator is needed; an amount whose worth in USD is not known needs one."""
    limit: Decimal | None = settings.REFUND_SECOND_OPERATOR_ABOVE_USD
    if limit is None:
        return False
    rate = Decimal(1) if payment.currency == "USD" else payment.fx_rate
    return rate is None or amount > limit * rate


def refund_shares(part: Refundable, amount: Decimal, currency: str) -> list[tuple[Lot, Decimal]]:
    """Which credits go when `amount` of a part goes back: what the money bought, and of the bonus its share, as far as it is
    there. ApiError 409 `refund_too_large` where the credits are in use."""
    shares, left = [], amount
    for lot in part.lots:
        worth = min(left, lot_refundable(lot))
        if worth <= 0:
            continue
        # Rounded down, so that what is left is worth what is left of the price; the last part takes all.
        share = (lot.amount * worth / lot.paid_amount).quantize(_MICROCREDIT, ROUND_DOWN)
        shares.append((lot, lot.remaining - lot.held if worth == lot_refundable(lot) else share))
        left -= worth
    if part.lots and left > 0:
        raise _too_large(amount - left, currency)
    price = sum((lot.paid_amount for lot in part.lots), ZERO)
    for lot in part.bonus if price else ():
        share = (lot.amount * amount / price).quantize(_MICROCREDIT, ROUND_CEILING)
        credits = min(share, lot.remaining - lot.held)
        if credits > 0:
            shares.append((lot, credits))
    return shares


def _park(refund: Refund, part: Refundable, actor: Actor) -> list[dict[str, str]]:
    """Take the credits of a refund out of their lots."""
    parked = []
    for lot, credits in refund_shares(part, refund.amount, refund.currency):
        parked.append(_take(refund, lot, credits, actor))
        if lot in part.lots and Decimal(parked[-1]["credits"]) != credits:
            # A call pinned some of it meanwhile, or the lot has not begun.
            raise ApiError(409, "refund_too_large", "The credits it bought are in use; ask again.", param="amount")
    return parked


def _take(refund: Refund, lot: Lot, credits: Decimal, actor: Actor) -> dict[str, str]:
    key = f"refund:{refund.pk}:{lot.pk}"
    taken = lot_refund_open(lot=lot, reason=refund.reason, actor=actor, idempotency_key=key, amount=credits)
    return {"lot": str(lot.pk), "key": key, "credits": str(taken)}


def _in_doubt(refund: Refund) -> bool:
    """Whether the gateway was asked and did not say whether it sends the money."""
    facts = refund.facts
    return not refund.gateway_refund_id and facts.get("asked", 0) != facts.get("answered", 0)


def _ask_soon(refund: Refund) -> None:
    if refund.next_poll_at is not None:
        refund_id = str(refund.pk)
        transaction.on_commit(lambda: task_enqueue("billing.payments.refund_ask", refund_id))


def _claim(refund_id: UUID | str) -> Refund | None:
    """The refund if it is time to ask; nobody else asks until the next time."""
    with transaction.atomic():
        refund = _lock(refund_id)
        now = clock.now()
        if refund.state not in OPEN or refund.by_hand or refund.next_poll_at is None or refund.next_poll_at > now:
            return None
        refund.next_poll_at = _next_poll(refund, now)
        if not refund.gateway_refund_id:
            # Written before it is sent: whoever dies in between leaves it in doubt.
            refund.facts["doubt"] = _in_doubt(refund)
            refund.facts["asked"] += 1
        refund.save(update_fields=["next_poll_at", "facts"])
    return refund


def _next_poll(refund: Refund, now: datetime) -> datetime:
    return now + min(max(now - refund.requested_at, _SHORTEST_PAUSE), _LONGEST_PAUSE)


def _asked(refund: Refund) -> GatewayRefund:
    payment = refund.payment
    adapter = payment_gateway(payment)
    if not isinstance(adapter, Refunds):
        raise GatewayUnavailable(payment.gateway, "no_refunds", "the gateway refunds nothing")
    if refund.gateway_refund_id:
        return adapter.fetch_refund(refund.gateway_refund_id)
    return adapter.refund(
        RefundRequest(
            key=refund.reference,
            payment_id=payment.gateway_payment_id,
            money=Money(refund.amount.quantize(minor_unit(refund.currency)), refund.currency),
            reason=refund.reason,
            webhook_url=settings.PUBLIC_URL + reverse("payment-webhook", args=[payment.gateway]),
        )
    )


def _unanswered(refund: Refund, error: GatewayError, *, to: str | None = None, certain: bool = False) -> Refund:
    """Keep what went wrong. `certain`: this time nothing was sent; an earlier time in doubt stays in doubt."""
    with transaction.atomic():
        refund = _lock(refund.pk)
        if refund.state not in OPEN:
            return refund
        refund.failure_code, refund.failure_message = error.code[:100], error.message[:500]
        if certain and not refund.facts.get("doubt"):
            refund.facts["answered"] = refund.facts["asked"]
        if to == State.PENDING and refund.state == State.REQUESTED and not refund.gateway_refund_id:
            refund.state = State.PENDING
            _event("pending", refund, SYSTEM, before={"state": State.REQUESTED}, after={"failure": error.code})
        refund.save(update_fields=["failure_code", "failure_message", "facts", "state"])
    return refund


def _refused(refund: Refund, error: GatewayError) -> Refund:
    """The gateway says no. That ends a refund only where no earlier time was in doubt: keys are forgotten after a while."""
    with transaction.atomic():
        now_refund = _lock(refund.pk)
        if now_refund.state not in OPEN or now_refund.gateway_refund_id or refund.facts.get("doubt"):
            return _unanswered(refund, error)
        now_refund.facts["answered"] = now_refund.facts["asked"]
        return _fail(now_refund, SYSTEM, error.code, error.message)


def _succeed(refund: Refund, actor: Actor, reason: str) -> Refund:
    """The money went back: credit note, books, event. The payment is locked and the refund is open."""
    before = refund.state
    if State.SUCCEEDED not in Refund.MOVES[before]:
        raise RefundMoveRefused(f"A refund that is {before} cannot succeed.")
    invoice_id = refund.facts["invoice"]
    if invoice_id is None:
        postings = {_Account.CASH: -refund.amount, _Account.UNAPPLIED: refund.amount}
    else:
        postings = _credited(refund, Invoice.objects.get(pk=invoice_id), actor)
    _book(refund, postings, "", actor)
    refund.facts["booked"] = {str(kind): str(amount) for kind, amount in postings.items()}
    refund.state = State.SUCCEEDED
    refund.finished_at = clock.now()
    refund.next_poll_at = None
    refund.failure_code = refund.failure_message = ""
    refund.save()
    note = refund.credit_note.number if refund.credit_note else ""
    _event("succeeded", refund, actor, before={"state": before}, after={"credit_note": note}, reason=reason)
    return refund


def _credited(refund: Refund, invoice: Invoice, actor: Actor) -> dict[LedgerAccount.Kind, Decimal]:
    """Issue and settle the credit note; returns the postings of the money that went.

    A credit note left by a refund that failed after all is used again. What was credited otherwise meanwhile is booked as a
    refund without a document: the money is gone all the same.
    """
    spare = Refund.objects.filter(
        facts__invoice=str(invoice.pk), state=State.FAILED, amount=refund.amount, credit_note__isnull=False
    ).first()
    if spare is not None and spare.credit_note is not None:
        note = refund.credit_note = spare.credit_note
        spare.credit_note = None
        spare.save(update_fields=["credit_note"])
        uncredited = refund.amount - note.total
        taken_back = {_Account.REFUNDS: note.net + note.rounding_total + uncredited, _Account.TAX: note.tax_total}
        return {_Account.CASH: -refund.amount} | taken_back
    amount = min(refund.amount, creditable(invoice))
    if amount > 0:
        note = invoices.credit_note_issue(
            invoice=invoice, amount=amount, reason=refund.reason, actor=actor, key=f"refund:{refund.pk}", to_balance=False
        )
        means = "manual" if refund.by_hand else refund.payment.gateway
        refund.credit_note = invoices.credit_note_settle(note=note, means=means, actor=actor)
    amount = max(amount, ZERO)
    return {_Account.CASH: -refund.amount, _Account.RECEIVABLE: amount, _Account.REFUNDS: refund.amount - amount}


def _fail(refund: Refund, actor: Actor, code: str, message: str) -> Refund:
    """No money went back, or it returned: credits, unapplied money and books are as they were. The payment is locked."""
    before = refund.state
    if State.FAILED not in Refund.MOVES[before]:
        raise RefundMoveRefused(f"A refund that is {before} cannot fail.")
    payment = refund.payment
    for one in refund.facts.get("parked", []):
        reason = f"Refund {refund.reference} failed"
        lot_refund_fail(lot=Lot.objects.get(pk=one["lot"]), reason=reason, actor=actor, idempotency_key=one["key"])
    if before == State.SUCCEEDED:
        _book(refund, _returned(refund), ":back", actor)
    payment.refunded_amount -= refund.amount
    if refund.facts["invoice"] is None:
        payment.unapplied_amount += refund.amount
    payment.save(update_fields=["refunded_amount", "unapplied_amount", "updated_at"])
    refund.state = State.FAILED
    refund.finished_at = clock.now()
    refund.next_poll_at = None
    refund.failure_code, refund.failure_message = code[:100], message[:500]
    refund.save()
    _event("failed", refund, actor, before={"state": before}, after={"failure": code}, reason=message)
    return refund


def _returned(refund: Refund) -> dict[LedgerAccount.Kind, Decimal]:
    """The postings of money that came back after it had gone. The credit note stands and was settled: what it took of revenue
    and tax is given back to them."""
    note = refund.credit_note
    if note is None:
        return {LedgerAccount.Kind(kind): -Decimal(amount) for kind, amount in refund.facts["booked"].items()}
    taken = note.net + note.rounding_total + refund.amount - note.total
    return {_Account.CASH: refund.amount, _Account.REFUNDS: -taken, _Account.TAX: -note.tax_total}


def _book(refund: Refund, postings: dict[LedgerAccount.Kind, Decimal], suffix: str, actor: Actor) -> None:
    money_book(
        kind=LedgerTransaction.Kind.MONEY_REFUND,
        currency=refund.currency,
        postings=postings,
        idempotency_key=f"money-refund:{refund.pk}{suffix}",
        account_id=refund.payment.account_id,
        actor=actor,
        reason=f"Refund {refund.reference}: {refund.reason}"[:500],
    )


def _event(
    what: str,
    refund: Refund,
    actor: Actor,
    *,
    after: dict[str, Any],
    before: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    told = {
        "reference": refund.reference,
        "payment": refund.payment.reference,
        "amount": str(refund.amount),
        "currency": refund.currency,
        "state": refund.state,
    }
    event_record(
        kind=f"refund.{what}",
        object_type="refund",
        object_id=refund.pk,
        account_id=refund.payment.account_id,
        actor=actor,
        before=before,
        after=told | after,
        reason=reason,
    )
