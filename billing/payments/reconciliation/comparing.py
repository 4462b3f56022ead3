"""Comparing a gateway's day with our books: which days, what is looked at, and the rows that it leaves.

A comparison may run late, twice or at once with another: whoever claims the day works on it, rows are unique per payment and
refund, and each look writes what is true by then. Gateways are asked without any lock or transaction.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Max, Min

from billing.events.services import SYSTEM
from billing.payments.configuration import BUILDERS, gateway_configured
from billing.payments.gateways.base import (
    Fetches,
    Gateway,
    GatewayError,
    GatewayPayment,
    GatewayRefund,
    GatewayRefused,
    GatewayUnavailable,
    ListsPayments,
    ListsRefunds,
    ObjectNotFound,
    Refunds,
)
from billing.payments.models import Payment, Refund
from iafactory.common import clock

from .judging import Judgement, Outcome, payment_judge, refund_judge
from .models import Reconciliation, ReconciliationRow

State = Reconciliation.State
RowState = ReconciliationRow.State

# Gateways list what happened some hours later; then a day is over for them too.
SETTLE = timedelta(hours=3)
# How far back the first comparison of a gateway goes, at most.
FIRST_DAYS = 30
# Refunds are looked at again this many days after they succeeded: banks send some back, and not every gateway tells.
LOOK_AGAIN_DAYS = (0, 3, 7, 14, 30)
# How long one run may take before another worker thinks that its worker died.
LEASE = timedelta(minutes=30)
_FIRST_PAUSE = timedelta(minutes=15)
_LONGEST_PAUSE = timedelta(hours=6)
_DUE = (State.PLANNED, State.RUNNING, State.WAITING)
# Ended without money here; where a gateway lists nothing they are looked up once more.
_ENDED = (Payment.State.FAILED, Payment.State.EXPIRED, Payment.State.CANCELED, Payment.State.REVIEW, Payment.State.UNKNOWN)
AGREE_NOW = "Both sides agree by now."
_FIGURES = ("outcome", "our_amount", "our_currency", "their_amount", "their_currency")
# A gateway that answered, in a way that we cannot read.
_UNREADABLE = "not_understood"


def days_plan() -> int:
    """Plan a comparison for each gateway and each day that is over and was not planned; returns how many days.

    However long nobody ran it: days follow on the last one that was planned.
    """
    now = clock.now()
    last_day = (now - SETTLE).date() - timedelta(days=1)
    planned = 0
    for slug in BUILDERS:
        adapter = gateway_configured(slug)
        if not isinstance(adapter, Fetches):
            continue
        first = _first_day(adapter, last_day)
        days = [first + timedelta(days=number) for number in range((last_day - first).days + 1)]
        made = Reconciliation.objects.bulk_create(
            [Reconciliation(gateway=slug, mode=adapter.mode, day=day, next_attempt_at=now) for day in days],
            ignore_conflicts=True,
        )
        planned += len(made)
    return planned


def _first_day(adapter: Gateway, last_day: date) -> date:
    known = {"gateway": adapter.slug, "mode": adapter.mode}
    before: date | None = Reconciliation.objects.filter(**known).aggregate(day=Max("day"))["day"]
    if before is not None:
        return before + timedelta(days=1)
    first = Payment.objects.filter(**known).aggregate(at=Min("created_at"))["at"]
    return last_day if first is None else max(first.astimezone(UTC).date(), last_day - timedelta(days=FIRST_DAYS))


def reconciliations_due(*, limit: int = 100) -> list[UUID]:
    """The days that wait to be compared, the oldest first."""
    due = Reconciliation.objects.filter(state__in=_DUE, next_attempt_at__lte=clock.now())
    return list(due.order_by("day").values_list("pk", flat=True)[:limit])


def reconciliation_run(*, reconciliation_id: UUID | str) -> Reconciliation:
    """Compare a day, if it is time and nobody else does. A gateway that does not answer leaves it waiting, with the reason."""
    run = _claim(reconciliation_id)
    if run is None:
        return Reconciliation.objects.get(pk=reconciliation_id)
    try:
        adapter = _adapter(run)
        notes = _compare(run, adapter)
    except GatewayError as error:
        pause = min(_FIRST_PAUSE * 2 ** min(run.attempts - 1, 10), _LONGEST_PAUSE)
        return _finish(run, State.WAITING, str(error), next_attempt_at=clock.now() + pause)
    return _finish(run, State.COMPLETE, "; ".join(notes), listed=isinstance(adapter, ListsPayments) and not notes)


def _claim(reconciliation_id: UUID | str) -> Reconciliation | None:
    with transaction.atomic():
        due = Reconciliation.objects.select_for_update(no_key=True).filter(state__in=_DUE, next_attempt_at__lte=clock.now())
        run = due.filter(pk=reconciliation_id).first()
        if run is not None:
            run.state = State.RUNNING
            run.attempts += 1
            run.started_at = clock.now()
            run.next_attempt_at = run.started_at + LEASE
            run.save(update_fields=["state", "attempts", "started_at", "next_attempt_at"])
    return run


def _finish(
    run: Reconciliation, to: str, note: str, *, listed: bool = False, next_attempt_at: datetime | None = None
) -> Reconciliation:
    with transaction.atomic():
        now_run = Reconciliation.objects.select_for_update(no_key=True).get(pk=run.pk)
        if now_run.state != State.RUNNING or now_run.started_at != run.started_at:
            # The lease ran out, and another worker has it.
            return now_run
        now_run.state, now_run.note, now_run.listed = to, note[:500], listed
        now_run.next_attempt_at = next_attempt_at
        now_run.finished_at = clock.now() if to == State.COMPLETE else None
        now_run.save(update_fields=["state", "note", "listed", "next_attempt_at", "finished_at"])
    return now_run


def _adapter(run: Reconciliation) -> Fetches:
    adapter = gateway_configured(run.gateway)
    if not isinstance(adapter, Fetches) or adapter.mode != run.mode:
        raise GatewayUnavailable(run.gateway, "no_settings", f"the gateway has no settings for {run.mode} mode")
    return adapter


def _compare(run: Reconciliation, adapter: Fetches) -> list[str]:
    """Look at everything of the day, theirs and ours; returns what could not be listed."""
    since = datetime.combine(run.day, time.min, UTC)
    until = since + timedelta(days=1)
    notes: list[str] = []
    payments: list[GatewayPayment] | None = None
    refunds: list[GatewayRefund] | None = None
    try:
        payments = adapter.list_payments(since=since, until=until) if isinstance(adapter, ListsPayments) else None
        refunds = adapter.list_refunds(since=since, until=until) if isinstance(adapter, ListsRefunds) else None
    except (GatewayRefused, ObjectNotFound) as refused:
        notes.append(f"not listed: {refused.code}: {refused.message}")
    seen = {row.key for row in _payments_theirs(run, adapter, payments or [])}
    _payments_ours(run, adapter, since, until, seen, listed=payments is not None)
    seen = {row.key for row in _refunds_theirs(run, adapter, refunds or [])}
    _refunds_ours(run, adapter, since, seen)
    return notes


def _payments_theirs(run: Reconciliation, adapter: Fetches, listed: Sequence[GatewayPayment]) -> Iterator[ReconciliationRow]:
    for entry in listed:
        judgement = payment_judge(entry, payment_of(run, entry))
        if judgement is not None and judgement.outcome is not Outcome.EXPECTED:
            # A list is a hint: what differs is looked up.
            truth = _looked_up(adapter, entry)
            judgement = payment_judge(truth, payment_of(run, truth))
        if judgement is not None:
            yield row_write(run, judgement)


def _looked_up(adapter: Fetches, entry: GatewayPayment) -> GatewayPayment:
    try:
        return adapter.fetch_payment(payment_id=entry.payment_id) if entry.payment_id else entry
    except (ObjectNotFound, GatewayRefused):
        return entry
    except GatewayUnavailable as error:
        if error.code != _UNREADABLE:
            raise
        return entry


def _payments_ours(
    run: Reconciliation, adapter: Fetches, since: datetime, until: datetime, seen: set[str], *, listed: bool
) -> None:
    """What we booked on the day and the gateway did not list, perhaps because it began on another; looked up one by one."""
    ours = Payment.objects.filter(gateway=run.gateway, mode=run.mode)
    booked = ours.filter(state=Payment.State.SUCCEEDED, paid_at__gte=since, paid_at__lt=until)
    wanted = list(booked.exclude(gateway_payment_id__in=seen).select_related("account"))
    if not listed:
        wanted += ours.filter(state__in=_ENDED, created_at__gte=since, created_at__lt=until).select_related("account")
    for payment in wanted:
        judgement = payment_judge(payment_ask(adapter, payment), payment)
        if judgement is not None:
            row_write(run, judgement)


def payment_ask(adapter: Fetches, payment: Payment) -> GatewayPayment | None:
    """What the gateway says of a payment of ours; None when it knows none. Raises GatewayError."""
    try:
        if payment.gateway_payment_id:
            return adapter.fetch_payment(payment_id=payment.gateway_payment_id)
        return adapter.fetch_payment(checkout_id=payment.checkout_id or payment.reference)
    except ObjectNotFound:
        return None


def _refunds_theirs(run: Reconciliation, adapter: Fetches, listed: Sequence[GatewayRefund]) -> Iterator[ReconciliationRow]:
    for entry in listed:
        truth, (refund, payment) = entry, refund_of(run, entry)
        judgement = refund_judge(truth, refund, payment)
        if judgement is not None and judgement.outcome is not Outcome.EXPECTED:
            truth = refund_ask(adapter, entry.refund_id) or entry
            judgement = refund_judge(truth, *refund_of(run, truth))
        if judgement is not None:
            yield row_write(run, judgement)


def _refunds_ours(run: Reconciliation, adapter: Fetches, since: datetime, seen: set[str]) -> None:
    ours = Refund.objects.filter(
        payment__gateway=run.gateway, payment__mode=run.mode, state=Refund.State.SUCCEEDED, by_hand=False
    ).select_related("payment")
    for days in LOOK_AGAIN_DAYS:
        start = since - timedelta(days=days)
        finished = ours.filter(finished_at__gte=start, finished_at__lt=start + timedelta(days=1))
        for refund in finished.exclude(gateway_refund_id__in=seen).exclude(gateway_refund_id=""):
            judgement = refund_judge(refund_ask(adapter, refund.gateway_refund_id), refund, refund.payment)
            if judgement is not None:
                row_write(run, judgement)


def refund_ask(adapter: Gateway, refund_id: str) -> GatewayRefund | None:
    """What the gateway says of a refund; None when it knows none. Raises GatewayError."""
    if not isinstance(adapter, Refunds):
        return None
    try:
        return adapter.fetch_refund(refund_id)
    except ObjectNotFound:
        return None


def payment_of(run: Reconciliation | ReconciliationRow, truth: GatewayPayment) -> Payment | None:
    """Our payment that a gateway speaks of: the very money first, then what was asked for."""
    ours = Payment.objects.filter(gateway=run.gateway, mode=run.mode).select_related("account", "invoice")
    names = (
        ("gateway_payment_id", truth.payment_id),
        ("reference", truth.reference),
        ("checkout_id", truth.checkout_id),
    )
    for name, value in names:
        found = ours.filter(**{name: value}).first() if value else None
        if found is not None:
            return found
    return None


def refund_of(run: Reconciliation | ReconciliationRow, truth: GatewayRefund) -> tuple[Refund | None, Payment | None]:
    """Our refund that a gateway speaks of, and the payment that it belongs to."""
    ours = Refund.objects.filter(payment__gateway=run.gateway, payment__mode=run.mode).select_related("payment__account")
    for name, value in (("gateway_refund_id", truth.refund_id), ("reference", truth.key)):
        found = ours.filter(**{name: value}).first() if value else None
        if found is not None:
            return found, found.payment
    payments = Payment.objects.filter(gateway=run.gateway, mode=run.mode).select_related("account")
    return None, payments.filter(gateway_payment_id=truth.payment_id).first() if truth.payment_id else None


def row_write(run: Reconciliation, judgement: Judgement) -> ReconciliationRow:
    """Keep a judgement: one row per payment and refund, whoever looks and however often.

    A difference that went away is resolved and keeps its outcome; one that was put right or explained stays so until the
    figures change.
    """
    same = {"gateway": run.gateway, "mode": run.mode, "subject": judgement.subject, "key": judgement.key}
    state = RowState.AGREED if judgement.outcome is Outcome.EXPECTED else RowState.OPEN
    with transaction.atomic():
        row, made = ReconciliationRow.objects.select_for_update(no_key=True, of=("self",)).get_or_create(
            **same, defaults={"reconciliation": run, "state": state} | _fields(judgement)
        )
        return row if made else _look_again(row, judgement)


def _look_again(row: ReconciliationRow, judgement: Judgement) -> ReconciliationRow:
    agrees = judgement.outcome is Outcome.EXPECTED
    fields = _fields(judgement)
    looked = {"checked_at": fields["checked_at"]}
    if row.state == RowState.OPEN and agrees:
        fields = looked | {"state": RowState.RESOLVED, "closed_at": clock.now(), "closed_by": SYSTEM.label, "reason": AGREE_NOW}
    elif row.state in (RowState.RESOLVED, RowState.EXPLAINED):
        same = agrees or all(getattr(row, name) == fields[name] for name in _FIGURES)
        fields = looked if same else fields | {"state": RowState.OPEN}
    else:
        fields["state"] = RowState.AGREED if agrees else RowState.OPEN
    for name, value in fields.items():
        setattr(row, name, value)
    row.save(update_fields=list(fields))
    return row


def _fields(judgement: Judgement) -> dict[str, object]:
    ours, theirs = judgement.ours, judgement.theirs
    return {
        "outcome": judgement.outcome,
        "payment": judgement.payment,
        "refund": judgement.refund,
        "our_amount": ours.amount if ours else None,
        "our_currency": ours.currency if ours else "",
        "their_amount": theirs.amount if theirs else None,
        "their_currency": theirs.currency if theirs else "",
        "ours": judgement.our_evidence,
        "theirs": judgement.their_evidence,
        "note": judgement.note[:500],
        "checked_at": clock.now(),
    }
