"""The synchronous door to the ledger, for admin actions, tasks, commands and the sync API: one item at a time, patiently."""

from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_DOWN, Decimal
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from billing.accounts.models import Account
from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.ids import uuid7
from iafactory.common.money import credits_quantise

from .items import (
    EXTEND_SQL,
    GIVE_BACK_SQL,
    GRANT_SQL,
    OPEN_SQL,
    SETTLE_SQL,
    TAKE_SQL,
    CallItem,
    CallVerdict,
    GrantItem,
    HoldItem,
    HoldVerdict,
    UsageItem,
    encode_items,
    open_parameters,
    settle_parameters,
)
from .models import Hold, LedgerAccount, LedgerTransaction, Lot, StoredAnswer, UsageRecord, Wallet


class WalletMissing(Exception):
    """The account has no wallet."""


def _rows(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _json(item: GrantItem) -> str:
    return encode_items([item]).decode()


def wallet_open(*, account: Account) -> Wallet:
    """Give `account` its wallet and its account in the books; safe to repeat."""
    with transaction.atomic():
        wallet, _ = Wallet.objects.get_or_create(account=account)
        LedgerAccount.objects.get_or_create(
            id=account.pk, defaults={"kind": LedgerAccount.Kind.WALLET, "unit": "credit", "account": account}
        )
    return wallet


def credits_grant(
    *,
    account_id: UUID,
    amount: Decimal,
    kind: Lot.Kind | str,
    source: str,
    reason: str,
    actor: Actor,
    idempotency_key: str,
    effective_at: datetime | None = None,
    expires_at: datetime | None = None,
    priority: int | None = None,
    paid_amount: Decimal = Decimal(0),
    paid_currency: str = "",
    payment_id: UUID | None = None,
) -> Lot:
    """Give an account a lot of `amount` credits; with a used `idempotency_key` the first lot is returned and nothing happens.

    Locks the wallet. Raises `ValueError` for an amount that is not positive or dates out of order, `WalletMissing`.
    """
    now = clock.now()
    amount = credits_quantise(amount)
    effective_at = effective_at or now
    if amount <= 0:
        raise ValueError("A grant needs a positive amount of credits.")
    if expires_at is not None and expires_at <= max(effective_at, now):
        raise ValueError("A grant must expire after it begins.")
    item = GrantItem(
        lot_id=uuid7(),
        account_id=account_id,
        kind=str(kind),
        amount=amount,
        paid_amount=paid_amount,
        paid_currency=paid_currency,
        payment_id=payment_id,
        effective_at=effective_at,
        expires_at=expires_at,
        priority=Lot.DEFAULT_PRIORITY[kind] if priority is None else priority,
        source=source,
        reason=reason,
        actor=actor.label,
        idempotency_key=idempotency_key,
    )
    with transaction.atomic():
        [(_, verdict, lot_id, balance)] = _rows(GRANT_SQL, _json(item), now)
        if verdict == "no_wallet":
            raise WalletMissing(account_id)
        if verdict == "granted":
            event_record(
                kind="credits.granted",
                object_type="lot",
                object_id=lot_id,
                account_id=account_id,
                actor=actor,
                after={"kind": item.kind, "credits": str(amount), "balance": None if balance is None else str(balance)},
                reason=reason,
            )
    return Lot.objects.get(pk=lot_id)


def lots_prolong(*, lots: Sequence[Lot], ends: datetime, until: datetime) -> int:
    """Have open lots of one account that would expire at `ends` live on `until` then; how many did. No credits move.

    Locks the wallet, then the lots. What their holds give back lives on too.
    """
    if not lots:
        return 0
    with transaction.atomic():
        wallet = Wallet.objects.select_for_update(no_key=True).get(pk=lots[0].wallet_id)
        open_lots = Lot.objects.select_for_update(no_key=True).filter(pk__in=[lot.pk for lot in lots], wallet=wallet)
        due = [lot.pk for lot in open_lots.order_by("pk") if lot.closed_at is None and lot.expires_at == ends]
        prolonged = Lot.objects.filter(pk__in=due).update(expires_at=until)
        [(next_change_at,)] = _rows("SELECT ledger_next_change(%s)", wallet.pk)
        Wallet.objects.filter(pk=wallet.pk).update(next_change_at=next_change_at)
    return prolonged


def lot_void(*, lot: Lot, reason: str, actor: Actor, idempotency_key: str, amount: Decimal | None = None) -> Decimal:
    """Take a lot's unheld credits (at most `amount`) back to where they were issued; returns how many.

    Open holds keep what they pinned. Repeating the key takes nothing more.
    """
    return _lot_take(lot, amount, LedgerTransaction.Kind.VOID, LedgerAccount.Kind.ISSUED, False, idempotency_key, reason, actor)


def lot_refund_open(*, lot: Lot, reason: str, actor: Actor, idempotency_key: str, amount: Decimal | None = None) -> Decimal:
    """Park a lot's unheld credits (at most `amount`) while their money is on its way back; returns how many.

    `lot_refund_fail` with the same key restores them. What they are worth is `lot_refundable`, asked before.
    """
    return _lot_take(
        lot, amount, LedgerTransaction.Kind.REFUND, LedgerAccount.Kind.REFUNDED, False, idempotency_key, reason, actor
    )


def lot_refund_fail(*, lot: Lot, reason: str, actor: Actor, idempotency_key: str) -> Decimal:
    """Restore what `lot_refund_open` parked under the key; returns how many credits came back."""
    return _lot_give_back(lot, LedgerAccount.Kind.REFUNDED, idempotency_key, reason, actor)


def lot_refundable(lot: Lot) -> Decimal:
    """What is refundable of a lot's price, in its currency: the share of its unspent, unheld credits, rounded down."""
    share = lot.paid_amount * (lot.remaining - lot.held) / lot.amount
    return share.quantize(Decimal("0.0001"), ROUND_DOWN)


def dispute_lose(*, lot: Lot, reason: str, actor: Actor, idempotency_key: str, amount: Decimal | None = None) -> Decimal:
    """The money of a purchase was taken back: its unheld credits go (of `amount`, or all), the rest of that becomes debt.

    Returns the debt it left. Debt stops new calls until a purchase pays it.
    """
    wanted = lot.amount if amount is None else amount
    with transaction.atomic():
        taken = _lot_take(
            lot, wanted, LedgerTransaction.Kind.DISPUTE, LedgerAccount.Kind.ISSUED, True, idempotency_key, reason, actor
        )
    return wanted - taken


def dispute_win(*, lot: Lot, reason: str, actor: Actor, idempotency_key: str) -> Decimal:
    """Undo `dispute_lose` of the same key: credits return, debt is forgiven, debt paid meanwhile comes back as credits."""
    return _lot_give_back(lot, LedgerAccount.Kind.ISSUED, idempotency_key, reason, actor)


def _lot_take(
    lot: Lot, amount: Decimal | None, kind: str, against: str, debt: bool, key: str, reason: str, actor: Actor
) -> Decimal:
    if amount is not None and amount <= 0:
        raise ValueError("The amount must be positive.")
    now = clock.now()
    wanted = lot.amount if amount is None else credits_quantise(amount)
    with transaction.atomic():
        repeated = LedgerTransaction.objects.filter(idempotency_key=key).exists()
        parameters = (lot.pk, wanted, str(kind), str(against), debt, key, now, reason, actor.label)
        taken: Decimal = _rows(TAKE_SQL, *parameters)[0][0]
        if repeated:
            return taken
        event_record(
            kind=f"lot.{kind}",
            object_type="lot",
            object_id=lot.pk,
            account_id=lot.wallet_id,
            actor=actor,
            after={"credits": str(taken), "debt": str(wanted - taken) if debt else "0"},
            reason=reason,
        )
    return taken


def _lot_give_back(lot: Lot, against: str, key: str, reason: str, actor: Actor) -> Decimal:
    with transaction.atomic():
        taking = LedgerTransaction.objects.filter(idempotency_key=key).first()
        if taking is not None and taking.account_id != lot.wallet_id:
            raise ValueError("What was taken under this key belongs to another account.")
        repeated = taking is None or LedgerTransaction.objects.filter(idempotency_key=f"back:{key}").exists()
        back: Decimal = _rows(GIVE_BACK_SQL, lot.pk, key, str(against), clock.now(), reason, actor.label)[0][0]
        if not repeated:
            event_record(
                kind="lot.given_back",
                object_type="lot",
                object_id=lot.pk,
                account_id=lot.wallet_id,
                actor=actor,
                after={"credits": str(back)},
                reason=reason,
            )
    return back


def hold_open(item: HoldItem, *, now: datetime | None = None) -> HoldVerdict:
    """Open one hold, waiting for the wallet's lock."""
    return HoldVerdict(*_rows(OPEN_SQL, *open_parameters([item], now=now or clock.now(), wait=True))[0])


def hold_extend(*, request_id: UUID, credits: Decimal, worst_cost_usd: Decimal, now: datetime | None = None) -> str:
    """Raise an open hold to `credits`; answers `held`, `insufficient` or `gone`. Never lowers one."""
    verdict: str = _rows(EXTEND_SQL, request_id, credits, worst_cost_usd, now or clock.now())[0][0]
    return verdict


def call_settle(item: CallItem, *, now: datetime | None = None) -> CallVerdict:
    """End one call, waiting for the wallet's lock. Repeating it answers `duplicate` and changes nothing."""
    return CallVerdict(*_rows(SETTLE_SQL, *settle_parameters([item], now=now or clock.now(), wait=True))[0])


def holds_reap(*, now: datetime | None = None, limit: int = 500) -> int:
    """Close holds whose process died: the customer pays nothing, the worst cost is booked as unknown. Returns how many.

    Each in a transaction of its own. A settle that arrives later is booked all the same and takes the unknown cost back.
    """
    now = now or clock.now()
    reaped = 0
    for hold in Hold.objects.filter(expires_at__lte=now).order_by("expires_at")[:limit]:
        usage = UsageItem(
            id=hold.pk,
            started_at=hold.opened_at,
            finished_at=now,
            account_id=hold.account_id,
            api_key_id=hold.api_key_id,
            subscription_id=hold.subscription_id,
            endpoint=hold.endpoint,
            end=UsageRecord.End.PROCESS_DIED,
            error_code="process_died",
            model=hold.model,
            provider=hold.provider,
            credits_held=hold.credits,
            cost_usd=hold.worst_cost_usd,
            estimated=True,
        )
        item = CallItem(
            usage=usage,
            held=hold.credits,
            charge=Decimal(0),
            loss_usd=hold.worst_cost_usd,
            loss_kind=LedgerAccount.Kind.UNKNOWN_COST,
            reason="The process serving the call died; the worst case is assumed.",
            reaped=True,
        )
        reaped += call_settle(item, now=now).verdict == "settled"
    return reaped


def due_wallets_roll(*, now: datetime | None = None, limit: int = 1000) -> int:
    """Book lots that began or expired on wallets nobody used since; returns how many wallets."""
    rolled: int = _rows("SELECT ledger_due_wallets_roll(%s, %s)", now or clock.now(), limit)[0][0]
    return rolled


def answers_forget(*, now: datetime | None = None) -> int:
    """Delete kept answers of idempotent calls that ran out; returns how many."""
    deleted, _ = StoredAnswer.objects.filter(expires_at__lte=now or clock.now()).delete()
    return deleted
