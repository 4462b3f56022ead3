"""Putting differences right: what operators do about a row. Every deed asks the gateway first and books what is true now.

Lock order: the row, then account and payment as everywhere. The gateway is asked before any lock is taken.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from django.db import transaction

from billing.accounts.models import Account
from billing.accounts.selectors import uuid_or_404
from billing.accounts.services import task_enqueue
from billing.events.services import Actor, event_record
from billing.payments.configuration import gateway_configured
from billing.payments.confirmation import truth_apply
from billing.payments.disputes import dispute_lost, dispute_open
from billing.payments.gateways.base import (
    Fetches,
    GatewayError,
    GatewayPayment,
    GatewayRefund,
    Money,
    ObjectNotFound,
    RefundState,
)
from billing.payments.models import Payment, Refund
from billing.payments.refunds import refund_found, refund_request, refund_told
from billing.payments.services import payment_found, payment_move, payment_received_more, payment_succeeded
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .comparing import payment_ask, payment_of, refund_ask, refund_of, row_write
from .judging import Judgement, Outcome, payment_judge, refund_judge
from .models import Reconciliation, ReconciliationRow

_SUCCEEDED = Payment.State.SUCCEEDED
State = ReconciliationRow.State
Subject = ReconciliationRow.Subject


class RowMoveRefused(ApiError):
    """The state table has no such move: 409 `reconciliation_move_refused`."""

    def __init__(self, state: str, to: str) -> None:
        super().__init__(409, "reconciliation_move_refused", f"A row that is {state} cannot become {to}.")


def reconciliation_again(*, reconciliation: Reconciliation, actor: Actor, reason: str) -> Reconciliation:
    """Have a day compared once more. ApiError 409 `reconciliation_move_refused` for one that is under way."""
    with transaction.atomic():
        run = Reconciliation.objects.select_for_update(no_key=True).get(pk=reconciliation.pk)
        before = run.state
        if before == Reconciliation.State.COMPLETE:
            run.state, run.attempts, run.finished_at = Reconciliation.State.WAITING, 0, None
        elif before != Reconciliation.State.WAITING:
            raise RowMoveRefused(before, Reconciliation.State.WAITING)
        run.next_attempt_at = clock.now()
        run.save(update_fields=["state", "attempts", "finished_at", "next_attempt_at"])
        event_record(
            kind="reconciliation.asked_again",
            object_type="reconciliation",
            object_id=run.pk,
            account_id=None,
            actor=actor,
            before={"state": before},
            after={"state": run.state, "gateway": run.gateway, "day": f"{run.day:%Y-%m-%d}"},
            reason=reason,
        )
        run_id = str(run.pk)
        transaction.on_commit(lambda: task_enqueue("billing.payments.reconciliation_run", run_id))
    return run


def row_recheck(*, row: ReconciliationRow, actor: Actor, reason: str) -> ReconciliationRow:
    """Ask the gateway again and keep what both sides say now. ApiError 503 `gateways_unavailable`."""
    judgement = _judged(row)
    with transaction.atomic():
        before = row.state
        if judgement is None:
            # Neither side has money any more.
            row = _close(_lock(row), State.RESOLVED, "rechecked", actor, reason)
        else:
            row = row_write(row.reconciliation, replace(judgement, key=row.key))
            _event("rechecked", row, before, actor, reason)
    return row


def row_apply(*, row: ReconciliationRow, actor: Actor, reason: str, account: str = "") -> ReconciliationRow:
    """Book what the gateway says, through the services that book it whoever tells: a payment that is missing succeeds, one that
    never came is taken back, a refund is made or undone.

    Money that belongs to no payment of ours goes to `account` (its id), unapplied. ApiError 409 `reconciliation_not_applicable`
    where that is not the way, 400 `invalid_request` without an account that is needed, 503 `gateways_unavailable`.
    """
    judgement = _judged(row)
    with transaction.atomic():
        row = _lock(row)
        match row.subject:
            case Subject.PAYMENT:
                _payment_apply(row, judgement, actor, reason, account)
            case _:
                _refund_apply(row, judgement, actor, reason)
        return _close(row, State.RESOLVED, "applied", actor, reason)


def row_keep(*, row: ReconciliationRow, actor: Actor, reason: str) -> ReconciliationRow:
    """Keep money that is too much as unapplied money of its account. ApiError as `row_apply`."""
    judgement = _judged(row)
    with transaction.atomic():
        row = _lock(row)
        _surplus(row, judgement, actor, reason)
        return _close(row, State.RESOLVED, "kept", actor, reason)


def row_refund(*, row: ReconciliationRow, actor: Actor, reason: str) -> Refund:
    """Send money that is too much back: it is booked as unapplied, then refunded like any other. Answers the refund.

    ApiError as `row_apply`, and as `refund_request`.
    """
    judgement = _judged(row)
    with transaction.atomic():
        row = _lock(row)
        payment, amount = _surplus(row, judgement, actor, reason)
        refund = refund_request(payment=payment, reason=reason, actor=actor, amount=amount, unapplied=True)
        _close(row, State.RESOLVED, "refunded", actor, reason)
    return refund


def row_explain(*, row: ReconciliationRow, actor: Actor, reason: str) -> ReconciliationRow:
    """Say why a difference is right as it is. It opens again when its figures change."""
    with transaction.atomic():
        return _close(_lock(row), State.EXPLAINED, "explained", actor, reason)


def applicable(row: ReconciliationRow) -> bool:
    """Whether what the gateway says can be booked."""
    if row.state != State.OPEN:
        return False
    if row.subject == Subject.REFUND:
        return row.outcome in (Outcome.MISSING, Outcome.UNDER) and (row.refund_id is not None or row.payment_id is not None)
    if row.our_amount is None:
        return row.outcome in (Outcome.MISSING, Outcome.OVER, Outcome.UNDER)
    return row.outcome == Outcome.UNDER


def keepable(row: ReconciliationRow) -> bool:
    """Whether there is money too much, of an account that we know."""
    if row.state != State.OPEN or row.subject != Subject.PAYMENT or row.payment_id is None:
        return False
    if row.our_amount is None:
        return row.outcome in (Outcome.OVER, Outcome.UNDER, Outcome.CURRENCY, Outcome.DUPLICATE)
    return row.outcome in (Outcome.OVER, Outcome.DUPLICATE)


def _judged(row: ReconciliationRow) -> Judgement | None:
    """What both sides say of a row now."""
    adapter = gateway_configured(row.gateway)
    if not isinstance(adapter, Fetches) or adapter.mode != row.mode:
        raise ApiError(
            503,
            "gateways_unavailable",
            Text("%(gateway)s has no settings for %(mode)s mode.", gateway=row.gateway, mode=row.mode),
        )
    try:
        if row.subject == Subject.REFUND:
            refund_id = row.theirs.get("refund_id") or (row.refund.gateway_refund_id if row.refund else "")
            found = refund_ask(adapter, refund_id)
            return refund_judge(found, *(refund_of(row, found) if found else (row.refund, row.payment)))
        truth = _asked(adapter, row)
        return payment_judge(truth, payment_of(row, truth) if truth else row.payment)
    except GatewayError as error:
        raise ApiError(
            503,
            "gateways_unavailable",
            Text("%(gateway)s does not answer: %(message)s", gateway=error.gateway, message=error.message),
        ) from None


def _asked(adapter: Fetches, row: ReconciliationRow) -> GatewayPayment | None:
    payment_id, checkout_id = row.theirs.get("payment_id", ""), row.theirs.get("checkout_id", "")
    try:
        if payment_id:
            return adapter.fetch_payment(payment_id=payment_id)
        if checkout_id:
            return adapter.fetch_payment(checkout_id=checkout_id)
    except ObjectNotFound:
        return None
    return payment_ask(adapter, row.payment) if row.payment else None


def _lock(row: ReconciliationRow) -> ReconciliationRow:
    locked = ReconciliationRow.objects.select_for_update(no_key=True, of=("self",))
    row = locked.select_related("payment__account", "refund", "reconciliation").get(pk=row.pk)
    if row.state != State.OPEN:
        raise RowMoveRefused(row.state, State.RESOLVED)
    return row


def _not_applicable(message: Text) -> ApiError:
    return ApiError(409, "reconciliation_not_applicable", message)


def _payment_apply(row: ReconciliationRow, judgement: Judgement | None, actor: Actor, reason: str, account: str) -> None:
    if judgement is None:
        raise _not_applicable(Text("Neither side has this money any more: look again."))
    payment, paid = judgement.payment, judgement.theirs
    if payment is not None and judgement.ours is not None and judgement.outcome is Outcome.UNDER:
        missing = judgement.ours.amount - (paid.amount if paid else Decimal(0))
        named = f"reconciliation-{row.pk}"
        dispute = dispute_open(payment=payment, gateway_dispute_id=named, amount=missing, actor=actor, reason=reason)
        dispute_lost(dispute=dispute, actor=actor, reason=reason)
        return
    if paid is None or judgement.ours is not None or judgement.outcome is Outcome.DUPLICATE:
        raise _not_applicable(
            Text("Nothing is missing in our books: %(outcome)s. Look again.", outcome=judgement.outcome.label)
        )
    if payment is None:
        _found(row, _account(account), paid, judgement, actor, reason)
        return
    assert judgement.truth is not None
    if truth_apply(payment=payment, truth=judgement.truth, actor=actor, reason=reason).payment.state == _SUCCEEDED:
        return
    # It is not what was asked for: the operator takes it all the same.
    payment_succeeded(
        payment=payment,
        actor=actor,
        received=paid.amount,
        currency=paid.currency,
        gateway_payment_id=judgement.their_evidence["payment_id"],
        facts=_facts(judgement),
        reason=reason,
    )


def _account(account: str) -> Account:
    found = Account.objects.filter(pk=uuid_or_404(account)).first() if account else None
    if found is None:
        raise ApiError(400, "invalid_request", "Whose money is it? Give the id of an account.", param="account")
    return found


def _found(row: ReconciliationRow, account: Account, paid: Money, judgement: Judgement, actor: Actor, reason: str) -> Payment:
    return payment_found(
        account=account,
        gateway=row.gateway,
        mode=row.mode,
        gateway_payment_id=judgement.their_evidence["payment_id"] or row.key,
        amount=paid.amount,
        currency=paid.currency,
        purpose=judgement.payment.purpose if judgement.payment else Payment.Purpose.INVOICE,
        actor=actor,
        reason=reason,
        facts=_facts(judgement),
    )


def _facts(judgement: Judgement) -> dict[str, Any]:
    facts: dict[str, Any] = judgement.their_evidence["said"]
    return facts


def _refund_apply(row: ReconciliationRow, judgement: Judgement | None, actor: Actor, reason: str) -> None:
    if judgement is None or judgement.outcome not in (Outcome.MISSING, Outcome.UNDER):
        raise _not_applicable(Text("Our books and the gateway agree by now: look again."))
    refund, payment = judgement.refund, judgement.payment
    said = judgement.their_evidence
    if judgement.theirs is None:
        assert refund is not None
        # Gone here, and not there: it failed after all.
        money = Money(refund.amount, refund.currency)
        failed = GatewayRefund(row.gateway, refund.gateway_refund_id, "", money, RefundState.FAILED, failure=judgement.note)
        refund_told(refund=refund, truth=failed, actor=actor)
        return
    if judgement.outcome is Outcome.UNDER:
        raise _not_applicable(Text("Less went back than is booked: explain it, or correct the invoice."))
    truth = GatewayRefund(row.gateway, said["refund_id"], said["payment_id"], judgement.theirs, RefundState.SUCCEEDED)
    open_here = row.refund if row.refund and row.refund.state in (Refund.State.REQUESTED, Refund.State.PENDING) else None
    if open_here is not None:
        refund_told(refund=open_here, truth=truth, actor=actor, answered=True)
    elif payment is not None:
        refund_found(payment=payment, truth=truth, actor=actor, reason=reason)
    else:
        raise _not_applicable(Text("It belongs to no payment of ours."))


def _surplus(row: ReconciliationRow, judgement: Judgement | None, actor: Actor, reason: str) -> tuple[Payment, Decimal]:
    """Have money that is too much in the books, as unapplied: the payment that holds it, and how much."""
    paid = judgement.theirs if judgement else None
    if row.subject != Subject.PAYMENT or judgement is None or judgement.payment is None or paid is None:
        raise _not_applicable(Text("There is no such money: look again."))
    payment = judgement.payment
    if judgement.ours is not None:
        match judgement.outcome:
            case Outcome.OVER:
                surplus = paid.amount - judgement.ours.amount
                more = payment_received_more(payment=payment, received=paid.amount, actor=actor, reason=reason)
                return more, surplus
            case Outcome.DUPLICATE:
                return payment, payment.unapplied_amount
        raise _not_applicable(Text("Nothing is too much here: look again."))
    if judgement.outcome is Outcome.OVER:
        # What was bought is given, the rest is too much.
        surplus = paid.amount - payment.amount
        _payment_apply(row, judgement, actor, reason, "")
        return Payment.objects.get(pk=payment.pk), surplus
    if judgement.outcome is Outcome.MISSING:
        raise _not_applicable(Text("It is what was asked for: apply it."))
    found = _found(row, payment.account, paid, judgement, actor, reason)
    if payment.state == Payment.State.REVIEW:
        kept = f"Its money is kept as {found.reference}"
        payment_move(payment=payment, to=Payment.State.FAILED, actor=actor, reason=kept, failure_code="kept_apart")
    return found, found.unapplied_amount


def _close(row: ReconciliationRow, to: str, what: str, actor: Actor, reason: str) -> ReconciliationRow:
    before = row.state
    if to not in ReconciliationRow.MOVES[before]:
        raise RowMoveRefused(before, to)
    row.state, row.closed_at, row.closed_by, row.reason = to, clock.now(), actor.label[:254], reason[:300]
    row.save(update_fields=["state", "closed_at", "closed_by", "reason"])
    _event(what, row, before, actor, reason)
    return row


def _event(what: str, row: ReconciliationRow, before: str, actor: Actor, reason: str) -> None:
    event_record(
        kind=f"reconciliation.{what}",
        object_type="reconciliation_row",
        object_id=row.pk,
        account_id=row.payment.account_id if row.payment else None,
        actor=actor,
        before={"state": before},
        after={"state": row.state, "outcome": row.outcome, "gateway": row.gateway, "key": row.key, "note": row.note},
        reason=reason,
    )
