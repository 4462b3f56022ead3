"""The ledger beside a plain model of it: Hypothesis picks the operations and the door, both must agree after each.

`LEDGER_MACHINE_EXAMPLES=500 make test ARGS="-k machine"` searches longer, from a random start.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from django.db.models import Sum
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from billing.events.services import SYSTEM
from billing.ledger import services
from billing.ledger.items import CallItem, HoldItem
from billing.ledger.models import Hold, LedgerEntry, Lot, Wallet
from billing.ledger.verification import books_verify
from billing.ledger.writer import LedgerWriter
from iafactory.common import clock
from iafactory.common.ids import uuid7
from tests.billing.ledger.calls import call_item_for, hold_item_for
from tests.factories import account_make

pytestmark = pytest.mark.usefixtures("committed")

D = Decimal
ZERO = D(0)
AMOUNTS = st.sampled_from([D(text) for text in ("0.000001", "0.5", "1", "2.25", "7", "13.333333", "40")])
KINDS = st.sampled_from(["plan", "plan", "purchase", "purchase", "bonus", "overage", "refund"])
LIVES = st.sampled_from([None, 3, 30])
PICK = st.integers(0, 9)


@dataclass
class ModelLot:
    id: UUID
    kind: str
    amount: Decimal
    remaining: Decimal
    priority: int
    paid: bool
    created: datetime
    effective: datetime
    expires: datetime | None
    held: Decimal = ZERO
    booked: bool = False
    closed: bool = False

    @property
    def free(self) -> Decimal:
        return self.remaining - self.held

    @property
    def burn_order(self) -> tuple[Any, ...]:
        return (self.priority, self.expires is None, self.expires or self.created, self.paid, self.created, self.id)


@dataclass
class ModelHold:
    item: HoldItem
    credits: Decimal
    worst: Decimal
    pins: list[tuple[ModelLot, Decimal]]


@dataclass
class Model:
    """What the ledger should be, in the plainest words."""

    lots: list[ModelLot] = field(default_factory=list)
    holds: dict[UUID, ModelHold] = field(default_factory=dict)
    charged: dict[UUID, Decimal] = field(default_factory=dict)
    reaped: dict[UUID, Decimal] = field(default_factory=dict)
    taken: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
    given_back: set[str] = field(default_factory=set)
    books: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    @property
    def balance(self) -> Decimal:
        return sum((lot.remaining for lot in self.lots if lot.booked), ZERO)

    @property
    def held(self) -> Decimal:
        return sum((lot.held for lot in self.lots), ZERO)

    @property
    def debt(self) -> Decimal:
        return -self.books["debt"]

    def move(self, account: str, amount: Decimal) -> None:
        """Between the wallet and another account of the books."""
        self.books["wallet"] -= amount
        self.books[account] += amount

    def spendable(self) -> list[ModelLot]:
        return sorted(
            (lot for lot in self.lots if lot.booked and not lot.closed and lot.free > 0), key=lambda lot: lot.burn_order
        )

    def roll(self, now: datetime) -> None:
        """What whoever locks the wallet books first."""
        due = [lot for lot in self.lots if not lot.closed and (self.begins(lot, now) or self.ends(lot, now))]
        for lot in sorted(due, key=lambda lot: (lot.expires or lot.effective, lot.id)):
            if not lot.booked:
                self.book(lot)
            if self.ends(lot, now):
                self.close(lot)

    @staticmethod
    def begins(lot: ModelLot, now: datetime) -> bool:
        return not lot.booked and lot.effective <= now

    @staticmethod
    def ends(lot: ModelLot, now: datetime) -> bool:
        return lot.expires is not None and lot.expires <= now

    def book(self, lot: ModelLot) -> None:
        lot.booked = True
        self.move("issued", -lot.amount)
        if lot.kind == Lot.Kind.PURCHASE:
            paid = min(self.debt, lot.free)
            lot.remaining -= paid
            self.move("debt", paid)

    def close(self, lot: ModelLot) -> None:
        """A lot that ended keeps what holds pinned."""
        self.move("expired", lot.free)
        lot.remaining, lot.closed = lot.held, True

    def grant(self, lot: ModelLot, now: datetime) -> None:
        self.lots.append(lot)
        if lot.effective <= now:
            self.book(lot)

    def pin(self, need: Decimal) -> list[tuple[ModelLot, Decimal]]:
        pins = []
        for lot in self.spendable():
            part = min(need, lot.free)
            if part > 0:
                lot.held += part
                need -= part
                pins.append((lot, part))
        assert need == 0
        return pins

    def open(self, item: HoldItem, now: datetime) -> str:
        if item.credits > 0:
            self.roll(now)
        if item.id in self.holds:
            return "held"
        if item.id in self.charged or item.id in self.reaped:
            return "closed"
        if self.debt > 0:
            return "indebted"
        if item.credits > self.balance - self.held:
            return "insufficient"
        self.holds[item.id] = ModelHold(item, item.credits, item.worst_cost_usd, self.pin(item.credits))
        return "held"

    def extend(self, request_id: UUID, credits: Decimal, worst: Decimal, now: datetime) -> str:
        hold = self.holds.get(request_id)
        if hold is None:
            return "gone"
        self.roll(now)
        need = max(ZERO, credits - hold.credits)
        if need > self.balance - self.held:
            return "insufficient"
        hold.pins += self.pin(need)
        hold.credits += need
        hold.worst = max(hold.worst, worst)
        return "held"

    def settle(self, item: CallItem, now: datetime) -> tuple[str, Decimal]:
        request_id, charge = item.usage.id, item.charge
        if charge > 0 or item.held > 0:
            self.roll(now)
        if request_id in self.charged:
            return "duplicate", self.charged[request_id]
        hold = self.holds.pop(request_id, None)
        rest = charge
        for lot, part in hold.pins if hold else ():
            take = min(rest, part)
            lot.held -= part
            lot.remaining -= take
            rest -= take
        # Beyond the hold: whatever is free. The rest is the operator's loss.
        for lot in self.spendable():
            take = min(rest, lot.free)
            lot.remaining -= take
            rest -= take
        self.books["wallet"] -= charge - rest
        self.books["consumed"] += charge
        self.books["operator_loss"] -= rest
        self.books["unknown_cost"] -= self.reaped.get(request_id, ZERO)
        for lot in self.lots:
            if lot.closed and lot.free > 0:
                self.close(lot)
        self.charged[request_id] = charge - rest
        return "settled" if hold else "late", charge - rest

    def reap(self, now: datetime) -> None:
        for hold in [hold for hold in self.holds.values() if hold.item.expires_at <= now]:
            call = call_item_for(hold.item, "0")
            self.settle(CallItem(usage=call.usage, held=hold.credits, charge=ZERO), now)
            del self.charged[hold.item.id]
            self.reaped[hold.item.id] = hold.worst
            self.books["unknown_cost"] += hold.worst

    def take(self, lot: ModelLot, amount: Decimal, against: str, debt: bool, key: str, now: datetime) -> Decimal:
        self.roll(now)
        if key not in self.taken:
            taken = min(amount, lot.free) if lot.booked else ZERO
            owed = amount - taken if debt else ZERO
            lot.remaining -= taken
            self.move(against, taken)
            self.books["debt"] -= owed
            self.books[against] += owed
            self.taken[key] = taken, owed
        return self.taken[key][0]

    def give_back(self, lot: ModelLot, against: str, key: str, now: datetime) -> tuple[Decimal, Decimal]:
        """What came back, and how much of it in a lot beside the first."""
        self.roll(now)
        if key not in self.taken or key in self.given_back:
            return ZERO, ZERO
        self.given_back.add(key)
        taken, owed = self.taken[key]
        forgiven = min(owed, self.debt)
        bought = owed - forgiven
        back = taken + bought
        beside = bought if lot.closed else max(ZERO, lot.remaining + back - lot.amount)
        lot.remaining += back - beside
        self.move(against, -back)
        self.books["debt"] += forgiven
        self.books[against] -= forgiven
        if lot.closed:
            self.close(lot)
        return back, beside


class LedgerMachine(RuleBasedStateMachine):
    """One customer. `by_writer` chooses the door: group commit or sync service."""

    runner: asyncio.Runner
    writer: LedgerWriter

    @initialize(
        lots=st.lists(st.tuples(KINDS, AMOUNTS, LIVES), min_size=3, max_size=5),
        credits=st.lists(AMOUNTS, min_size=2, max_size=4),
    )
    def begin(self, lots: list[tuple[str, Decimal, int | None]], credits: list[Decimal]) -> None:
        self.now = clock.now()
        self.clock = patch.object(clock, "now", lambda: self.now)
        self.clock.start()
        self.account = account_make()
        self.model = Model()
        self.items: list[HoldItem] = []
        self.grants: list[dict[str, Any]] = []
        for kind, amount, lasts_hours in lots:
            self.grant(kind=kind, amount=amount, begins_hours=0, lasts_hours=lasts_hours)
        self.open(credits=credits, by_writer=False)

    def teardown(self) -> None:
        if hasattr(self, "clock"):
            self.clock.stop()

    # --- doors

    def _await(self, call: Callable[[], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            return await call()

        return self.runner.run(run())

    def _open(self, items: Sequence[HoldItem], by_writer: bool) -> list[str]:
        if not by_writer:
            return [services.hold_open(item).verdict for item in items]

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*(self.writer.hold_open(item, timeout_seconds=20) for item in items))

        return [verdict.verdict for verdict in self._await(all_at_once)]

    def _settle(self, items: Sequence[CallItem], by_writer: bool) -> list[tuple[str, Decimal | None]]:
        if not by_writer:
            verdicts = [services.call_settle(item) for item in items]
        else:

            async def all_at_once() -> list[Any]:
                return await asyncio.gather(*(self.writer.call_settle(item, timeout_seconds=20) for item in items))

            verdicts = self._await(all_at_once)
        return [(verdict.verdict, verdict.charged) for verdict in verdicts]

    # --- credits arrive

    @rule(
        kind=KINDS,
        amount=AMOUNTS,
        begins_hours=st.sampled_from([0, 0, 0, 5]),
        lasts_hours=LIVES,
    )
    def grant(self, kind: str, amount: Decimal, begins_hours: int, lasts_hours: int | None) -> None:
        effective = self.now + timedelta(hours=begins_hours)
        fields: dict[str, Any] = {
            "account_id": self.account.pk,
            "amount": amount,
            "kind": kind,
            "source": "machine",
            "reason": "machine",
            "actor": SYSTEM,
            "idempotency_key": f"machine-{uuid7()}",
            "effective_at": effective,
            "expires_at": None if lasts_hours is None else effective + timedelta(hours=lasts_hours),
            "paid_amount": D(10) if kind == "purchase" else ZERO,
        }
        self.grants.append(fields)
        self.model.roll(self.now)
        lot = services.credits_grant(**fields)
        priority, paid = Lot.DEFAULT_PRIORITY[kind], fields["paid_amount"] > 0
        expires = fields["expires_at"]
        self.model.grant(ModelLot(lot.pk, kind, amount, amount, priority, paid, self.now, effective, expires), self.now)

    @precondition(lambda self: self.grants)
    @rule(pick=PICK)
    def grant_again(self, pick: int) -> None:
        fields = self.grants[pick % len(self.grants)]
        starts = max(fields["effective_at"], self.now)
        if fields["expires_at"] is None or fields["expires_at"] > starts:
            self.model.roll(self.now)
            services.credits_grant(**fields)

    # --- calls

    @rule(credits=st.lists(st.one_of(st.just(ZERO), AMOUNTS), min_size=1, max_size=4), by_writer=st.booleans())
    def open(self, credits: list[Decimal], by_writer: bool) -> None:
        items = [hold_item_for(self.account.pk, str(amount), seconds=7200) for amount in credits]
        self.items += items
        expected = [self.model.open(item, self.now) for item in items]
        assert self._open(items, by_writer) == expected

    @precondition(lambda self: self.items)
    @rule(pick=PICK, by_writer=st.booleans())
    def open_again(self, pick: int, by_writer: bool) -> None:
        item = self.items[-1 - pick % len(self.items)]
        expected = self.model.open(item, self.now)
        assert self._open([item], by_writer) == [expected]

    @precondition(lambda self: self.items)
    @rule(pick=PICK, credits=AMOUNTS, by_writer=st.booleans())
    def extend(self, pick: int, credits: Decimal, by_writer: bool) -> None:
        request_id = self.items[-1 - pick % len(self.items)].id
        expected = self.model.extend(request_id, credits, D("0.05"), self.now)
        fields: dict[str, Any] = {"request_id": request_id, "credits": credits, "worst_cost_usd": D("0.05")}
        if by_writer:
            answer = self._await(lambda: self.writer.hold_extend(**fields, timeout_seconds=20))
        else:
            answer = services.hold_extend(**fields)
        assert answer == expected

    def _call(self, item: HoldItem, charge: Decimal) -> CallItem:
        hold = self.model.holds.get(item.id)
        call = call_item_for(item, str(charge))
        return call if hold is None else CallItem(usage=call.usage, held=hold.credits, charge=charge)

    @precondition(lambda self: self.items)
    @rule(pick=PICK, share=st.sampled_from(["0", "0.25", "1", "1.5"]), extra=st.sampled_from(["0", "0.000001", "9"]),
          by_writer=st.booleans())  # fmt: skip
    def settle(self, pick: int, share: str, extra: str, by_writer: bool) -> None:
        """For nothing (a release), less, exactly or more than was held; again; with the hold gone."""
        item = self.items[-1 - pick % len(self.items)]
        charge = (item.credits * D(share) + D(extra)).quantize(D("0.000001"))
        call = self._call(item, charge)
        expected = self.model.settle(call, self.now)
        assert self._settle([call], by_writer) == [expected]

    @precondition(lambda self: len(self.model.holds) > 1)
    @rule(share=st.sampled_from(["0", "0.5", "1"]), by_writer=st.booleans())
    def settle_all(self, share: str, by_writer: bool) -> None:
        """A batch of calls within their holds."""
        holds = list(self.model.holds.values())
        calls = [self._call(hold.item, (hold.credits * D(share)).quantize(D("0.000001"))) for hold in holds]
        expected = [self.model.settle(call, self.now) for call in calls]
        assert self._settle(calls, by_writer) == expected

    @rule(charge=st.one_of(st.just(ZERO), AMOUNTS), by_writer=st.booleans())
    def settle_without_hold(self, charge: Decimal, by_writer: bool) -> None:
        item = hold_item_for(self.account.pk, "0")
        self.items.append(item)
        call = call_item_for(item, str(charge))
        expected = self.model.settle(call, self.now)
        assert self._settle([call], by_writer) == [expected]

    # --- time and corrections

    @rule(hours=st.sampled_from([1, 3, 6, 40]), reap=st.booleans(), roll=st.booleans())
    def time_passes(self, hours: int, reap: bool, roll: bool) -> None:
        """And the scheduled jobs run, or not."""
        self.now += timedelta(hours=hours)
        if roll:
            self.model.roll(self.now)
            services.due_wallets_roll()
        if reap:
            self.model.reap(self.now)
            services.holds_reap()

    def _lot(self, pick: int) -> tuple[ModelLot, Lot]:
        lot = self.model.lots[pick % len(self.model.lots)]
        return lot, Lot.objects.get(pk=lot.id)

    def _correct(self, service: Callable[..., Decimal], lot: Lot, key: str, **fields: Any) -> Decimal:
        return service(lot=lot, reason="machine", actor=SYSTEM, idempotency_key=key, **fields)

    @precondition(lambda self: self.model.lots)
    @rule(pick=PICK, amount=st.one_of(st.none(), AMOUNTS), number=st.integers(1, 3))
    def void(self, pick: int, amount: Decimal | None, number: int) -> None:
        lot, row = self._lot(pick)
        key = f"void-{lot.id}-{number}"
        expected = self.model.take(lot, lot.amount if amount is None else amount, "issued", False, key, self.now)
        assert self._correct(services.lot_void, row, key, amount=amount) == expected

    @precondition(lambda self: self.model.lots)
    @rule(pick=PICK, amount=st.one_of(st.none(), AMOUNTS))
    def refund_open(self, pick: int, amount: Decimal | None) -> None:
        lot, row = self._lot(pick)
        key = f"refund-{lot.id}"
        expected = self.model.take(lot, lot.amount if amount is None else amount, "refunded", False, key, self.now)
        assert self._correct(services.lot_refund_open, row, key, amount=amount) == expected

    @precondition(lambda self: self.model.lots)
    @rule(pick=PICK)
    def dispute_lose(self, pick: int) -> None:
        lot, row = self._lot(pick)
        key = f"dispute-{lot.id}"
        taken = self.model.take(lot, lot.amount, "issued", True, key, self.now)
        assert self._correct(services.dispute_lose, row, key) == lot.amount - taken

    @precondition(lambda self: self.model.lots)
    @rule(pick=PICK)
    def refund_fail(self, pick: int) -> None:
        self._give_back(pick, "refund", "refunded", services.lot_refund_fail)

    @precondition(lambda self: self.model.lots)
    @rule(pick=PICK)
    def dispute_win(self, pick: int) -> None:
        self._give_back(pick, "dispute", "issued", services.dispute_win)

    def _give_back(self, pick: int, word: str, against: str, service: Callable[..., Decimal]) -> None:
        lot, row = self._lot(pick)
        key = f"{word}-{lot.id}"
        expected, beside = self.model.give_back(lot, against, key, self.now)
        assert self._correct(service, row, key) == expected
        if beside:
            made = Lot.objects.get(grant_key=f"back:{key}")
            self.model.lots.append(
                ModelLot(made.pk, "refund", beside, beside, lot.priority, False, self.now, self.now, None, booked=True)
            )

    # --- agreement

    @invariant()
    def agrees(self) -> None:
        wallet = Wallet.objects.get(pk=self.account.pk)
        assert (wallet.balance, wallet.held, wallet.debt) == (self.model.balance, self.model.held, self.model.debt)
        lots = Lot.objects.filter(wallet=wallet).values_list("pk", "remaining", "held", "booked_at", "closed_at")
        assert {pk: (remaining, held, bool(booked), bool(closed)) for pk, remaining, held, booked, closed in lots} == {
            lot.id: (lot.remaining, lot.held, lot.booked, lot.closed) for lot in self.model.lots
        }
        holds = Hold.objects.filter(account=self.account)
        assert {hold.pk: dict(zip(hold.lot_ids, hold.lot_amounts, strict=True)) for hold in holds} == {
            request_id: self._pinned(hold) for request_id, hold in self.model.holds.items()
        }

    @staticmethod
    def _pinned(hold: ModelHold) -> dict[UUID, Decimal]:
        return {lot.id: amount for lot, amount in hold.pins}

    @invariant()
    def books(self) -> None:
        entries = LedgerEntry.objects.filter(transaction__account=self.account)
        kinds = entries.exclude(ledger_account__kind="provider_cost").values_list("ledger_account__kind")
        found = {kind: total for kind, total in kinds.annotate(total=Sum("amount")) if total}
        assert found == {kind: total for kind, total in self.model.books.items() if total}
        assert [finding for finding in books_verify() if finding.differences] == []


def test_the_ledger_agrees_with_its_model() -> None:
    examples = int(os.environ.get("LEDGER_MACHINE_EXAMPLES", "0"))
    chosen = settings(
        max_examples=examples or 60,
        stateful_step_count=40 if examples else 20,
        derandomize=not examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with asyncio.Runner() as runner:

        async def start() -> LedgerWriter:
            writer = LedgerWriter(queue_limit=100)
            writer.start()
            return writer

        LedgerMachine.runner = runner
        LedgerMachine.writer = runner.run(start())
        try:
            run_state_machine_as_test(LedgerMachine, settings=chosen)
        finally:
            runner.run(LedgerMachine.writer.stop())
