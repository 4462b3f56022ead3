"""What the console's home shows, each block in few queries."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum

from billing.accounts.models import Account
from billing.events.models import Event
from billing.ledger.models import (
    BooksVerification,
    DaySeal,
    Hold,
    LedgerAccount,
    LedgerEntry,
    LedgerTransaction,
    UsageRecord,
)

ZERO = Decimal(0)
LOSS_DAYS = 30


@dataclass(frozen=True, slots=True)
class Losses:
    """What no customer paid, of today and the `LOSS_DAYS` days before."""

    operator_loss_usd: Decimal
    operator_loss_credits: Decimal
    unknown_cost_usd: Decimal


def recent_losses(*, now: datetime) -> Losses:
    """The losses of the home, in two queries."""
    rows = losses_in(*losses_default_range(now=now)).order_by().values("ledger_account__kind", "unit")
    losses = {(row["ledger_account__kind"], row["unit"]): row["total"] for row in rows.annotate(total=Sum("amount"))}
    return Losses(
        operator_loss_usd=losses.get((LedgerAccount.Kind.OPERATOR_LOSS, "USD"), ZERO),
        # A loss in credits lowers the account: what customers did not pay.
        operator_loss_credits=-losses.get((LedgerAccount.Kind.OPERATOR_LOSS, "credit"), ZERO),
        unknown_cost_usd=losses.get((LedgerAccount.Kind.UNKNOWN_COST, "USD"), ZERO),
    )


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """Calls under way, those past their expiry, and the credits they pin."""

    number: int
    overdue: int
    credits: Decimal


def open_holds(*, now: datetime) -> OpenHolds:
    """In one query over the hot table."""
    row = Hold.objects.aggregate(total=Count("pk"), overdue=Count("pk", filter=Q(expires_at__lte=now)), credits=Sum("credits"))
    return OpenHolds(row["total"], row["overdue"], row["credits"] or ZERO)


@dataclass(frozen=True, slots=True)
class BooksState:
    """When the books were last verified and up to which day they are sealed; None where never."""

    verification: BooksVerification | None
    broken: int
    sealed_until: date | None


def books_state() -> BooksState:
    """The last verification and the last seal, in two queries."""
    run = BooksVerification.objects.order_by("-started_at").first()
    broken = sum(bool(check["differences"]) for check in run.checks) if run else 0
    return BooksState(run, broken, DaySeal.objects.order_by("-day").values_list("day", flat=True).first())


LOSS_KINDS = (LedgerAccount.Kind.OPERATOR_LOSS, LedgerAccount.Kind.UNKNOWN_COST)


def losses_default_range(*, now: datetime) -> tuple[date, date]:
    """First and last UTC day that are shown when nothing else is asked."""
    today = now.astimezone(UTC).date()
    return today - timedelta(days=LOSS_DAYS), today


def losses_in(since: date, until: date, kind: str = "", unit: str = "") -> QuerySet[LedgerEntry]:
    """Entries of what no customer pays, of the UTC days `since` to `until`, newest first."""
    # Named by their ids the planner knows that these accounts have few entries, and does not read all transactions first.
    kinds = [kind] if kind else LOSS_KINDS
    accounts = list(LedgerAccount.objects.filter(kind__in=kinds, account__isnull=True).values_list("pk", flat=True))
    entries = LedgerEntry.objects.filter(
        ledger_account__in=accounts,
        transaction__at__gte=datetime.combine(since, time.min, UTC),
        transaction__at__lte=datetime.combine(until, time.max, UTC),
    )
    return (entries.filter(unit=unit) if unit else entries).order_by("-id")


def _lost(amount: Decimal, unit: str) -> Decimal:
    """A loss as a positive figure: in credits it lowers the account, what customers did not pay."""
    return -amount if unit == "credit" else amount


@dataclass(frozen=True, slots=True)
class LossTotal:
    """What was lost of one kind and unit, less what was taken back."""

    kind: str
    unit: str
    amount: Decimal
    entries: int


def loss_totals(entries: QuerySet[LedgerEntry]) -> list[LossTotal]:
    """Totals per kind and unit."""
    rows = entries.order_by().values("ledger_account__kind", "unit").annotate(total=Sum("amount"), n=Count("pk"))
    return [
        LossTotal(
            str(LedgerAccount.Kind(row["ledger_account__kind"]).label), row["unit"], _lost(row["total"], row["unit"]), row["n"]
        )
        for row in rows.order_by("ledger_account__kind", "unit")
    ]


@dataclass(frozen=True, slots=True)
class LossLine:
    """A loss with its transaction and, where a call is behind it, the call."""

    entry: LedgerEntry
    lost: Decimal
    request_id: UUID | None
    usage: UsageRecord | None


def _request_of(booked: LedgerTransaction) -> UUID | None:
    """The call that a transaction books: its own id, or the one in the reaper's key."""
    if booked.kind == LedgerTransaction.Kind.CALL:
        return booked.pk
    if booked.kind == LedgerTransaction.Kind.REAPED and booked.idempotency_key:
        return UUID(booked.idempotency_key.removeprefix("reap:"))
    return None


def loss_lines(entries: Iterable[LedgerEntry]) -> list[LossLine]:
    """A page of losses with their calls, in two queries whatever its length."""
    page = list(entries.select_related("transaction__account", "ledger_account") if isinstance(entries, QuerySet) else entries)
    requests = {entry.pk: _request_of(entry.transaction) for entry in page}
    calls = UsageRecord.objects.in_bulk([request for request in requests.values() if request is not None])
    return [
        LossLine(
            entry,
            _lost(entry.amount, entry.unit),
            requests[entry.pk],
            calls.get(requests[entry.pk]),
        )
        for entry in page
    ]


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event with the name of its account."""

    event: Event
    account_name: str


def home_events(*, limit: int = 12) -> list[EventLine]:
    """The last events, newest first, in two queries."""
    events = list(Event.objects.order_by("-at")[:limit])
    ids = {event.account_id for event in events if event.account_id is not None}
    names: dict[UUID | None, str] = dict(Account.objects.filter(pk__in=ids).values_list("pk", "name"))
    return [EventLine(event, names.get(event.account_id, "")) for event in events]
