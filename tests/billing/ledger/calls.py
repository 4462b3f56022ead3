"""Holds and calls as a gateway sends them, for tests of both doors."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from billing.ledger.items import CallItem, HoldItem, UsageItem
from iafactory.common import clock
from iafactory.common.ids import uuid7


def hold_item_for(account_id: UUID | str, credits: str, *, seconds: int = 600, **fields: object) -> HoldItem:
    now = clock.now()
    values: dict[str, object] = {"id": uuid7(), "endpoint": "/v1/chat/completions"} | fields
    return HoldItem(
        account_id=UUID(str(account_id)),
        credits=Decimal(credits),
        worst_cost_usd=Decimal("0.01"),
        opened_at=now,
        expires_at=now + timedelta(seconds=seconds),
        **values,  # type: ignore[arg-type]
    )


def call_item_for(hold: HoldItem, charge: str, *, end: str = "complete", **fields: object) -> CallItem:
    usage = UsageItem(
        id=hold.id,
        started_at=hold.opened_at,
        finished_at=clock.now(),
        account_id=hold.account_id,
        endpoint=hold.endpoint,
        end=end,
        credits_held=hold.credits,
        credits_charged=Decimal(charge),
    )
    return CallItem(usage=usage, held=hold.credits, charge=Decimal(charge), **fields)  # type: ignore[arg-type]
