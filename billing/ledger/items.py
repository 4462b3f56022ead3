"""What the ledger's SQL functions take: one frozen struct per item, encoded to JSON once per batch.

`msgspec` writes `Decimal` as a JSON string, which PostgreSQL reads back exactly.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

ZERO = Decimal(0)


class HoldItem(msgspec.Struct, frozen=True, kw_only=True):
    """A hold to open. `credits` is the worst-case price, `worst_cost_usd` the worst provider cost."""

    id: UUID
    account_id: UUID
    credits: Decimal
    worst_cost_usd: Decimal
    opened_at: datetime
    expires_at: datetime
    endpoint: str
    provider: str = ""
    model: str = ""
    api_key_id: UUID | None = None
    subscription_id: UUID | None = None
    quota: dict[str, Any] = {}
    idempotency_key: str | None = None
    body_hash: str | None = None


class UsageItem(msgspec.Struct, kw_only=True):
    """A usage row; fields as in `UsageRecord`."""

    id: UUID
    started_at: datetime
    finished_at: datetime
    account_id: UUID
    endpoint: str
    end: str
    api_key_id: UUID | None = None
    subscription_id: UUID | None = None
    plan: str = ""
    error_code: str = ""
    requested_model: str = ""
    model: str = ""
    provider: str = ""
    profile: str = ""
    streamed: bool = False
    attempts: int = 0
    fallback: bool = False
    budget_fallback: bool = False
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    list_cost_usd: Decimal = ZERO
    cost_usd: Decimal = ZERO
    credits_held: Decimal = ZERO
    credits_charged: Decimal = ZERO
    credits_lost: Decimal = ZERO
    quota_units: int = 0
    price: Mapping[str, Any] = {}
    units: dict[str, Any] | None = None
    choice: dict[str, Any] | None = None
    latency_ms: int | None = None
    first_byte_ms: int | None = None


class AnswerItem(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to keep for repetitions; fields as in `StoredAnswer`, `content` encrypted or None."""

    id: UUID
    account_id: UUID
    api_key_id: UUID | None
    key: str
    body_hash: str
    status: int
    headers: dict[str, str]
    content: str | None
    expires_at: datetime


class CallItem(msgspec.Struct, frozen=True, kw_only=True):
    """A call to settle: its usage row, its price in credits, and the provider cost in USD that no customer pays."""

    usage: UsageItem
    held: Decimal
    charge: Decimal
    loss_usd: Decimal = ZERO
    loss_kind: str = "operator_loss"
    reason: str = ""
    reaped: bool = False
    answer: AnswerItem | None = None


class GrantItem(msgspec.Struct, frozen=True, kw_only=True):
    """A lot to grant; fields as in `Lot`."""

    lot_id: UUID
    account_id: UUID
    kind: str
    amount: Decimal
    paid_amount: Decimal
    paid_currency: str
    payment_id: UUID | None
    effective_at: datetime
    expires_at: datetime | None
    priority: int
    source: str
    reason: str
    actor: str
    idempotency_key: str


class HoldVerdict(msgspec.Struct, frozen=True):
    """How a hold went, in the words of `ledger_holds_open`; credits still available after it."""

    request_id: UUID
    verdict: str
    available: Decimal | None


class CallVerdict(msgspec.Struct, frozen=True):
    """How a settle went: `settled`, `late`, `duplicate`, `busy` or `no_wallet`; credits charged and lost, balance then."""

    request_id: UUID
    verdict: str
    charged: Decimal | None
    lost: Decimal | None
    balance_after: Decimal | None


def _iso(value: Any) -> str:
    """A datetime of another class than the built-in one: clocks under test are subclasses."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


encode_items = msgspec.json.Encoder(enc_hook=_iso).encode


class _SettleItem(msgspec.Struct):
    """A `CallItem` without its usage row, which goes straight into the log."""

    id: UUID
    account_id: UUID
    held: Decimal
    charge: Decimal
    loss_usd: Decimal
    loss_kind: str
    reason: str
    reaped: bool
    answer: AnswerItem | None


def open_parameters(holds: Sequence[HoldItem], *, now: datetime, wait: bool) -> tuple[Any, ...]:
    """For `OPEN_SQL`; with `wait` it waits for locked wallets."""
    return encode_items(holds).decode(), now, wait


def settle_parameters(calls: Sequence[CallItem], *, now: datetime, wait: bool) -> tuple[Any, ...]:
    """For `SETTLE_SQL`; with `wait` it waits for locked wallets."""
    items = [
        _SettleItem(
            call.usage.id,
            call.usage.account_id,
            call.held,
            call.charge,
            call.loss_usd,
            call.loss_kind,
            call.reason,
            call.reaped,
            call.answer,
        )
        for call in calls
    ]
    return encode_items(items).decode(), encode_items([call.usage for call in calls]).decode(), now, wait


OPEN_SQL = "SELECT * FROM ledger_holds_open(%s::json, %s, %s)"
SETTLE_SQL = "SELECT * FROM ledger_calls_settle(%s::json, %s::json, %s, %s)"
GRANT_SQL = "SELECT * FROM ledger_lots_grant(%s::json, %s)"
TAKE_SQL = "SELECT ledger_lot_take(%s, %s, %s, %s, %s, %s, %s, %s, %s)"
GIVE_BACK_SQL = "SELECT ledger_lot_give_back(%s, %s, %s, %s, %s, %s)"
EXTEND_SQL = "SELECT ledger_hold_extend(%s, %s, %s, %s)"
