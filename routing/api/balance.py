"""`GET /v1/balance`: what the caller has left."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from billing.subscriptions.callers import Caller
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView, json_answer
from iafactory.common.money import MICRO_PER_CREDIT, ZERO
from ratelimit.engine import LimiterUnavailable

from .. import limits
from ..gateway import Gateway, current_gateway
from . import schemas
from .access import caller_with

# Lots that begin or ended count from their instant on, whether or not that was booked already.
_WALLET = """
    SELECT w.held, w.debt, coalesce((
        SELECT sum(l.remaining - l.held) FROM billing_lot l
        WHERE l.account_id = w.account_id AND l.closed_at IS NULL AND l.effective_at <= %(now)s
          AND (l.expires_at IS NULL OR l.expires_at > %(now)s)), 0)
    FROM billing_wallet w WHERE w.account_id = %(account)s
"""


async def wallet_figures(gateway: Gateway, caller: Caller, *, at: datetime) -> dict[str, Decimal]:
    """`balance`, `held`, `available` and `debt` in credits as of `at`."""
    async with gateway.pool.connection() as connection:
        cursor = await connection.execute(_WALLET, {"now": at, "account": caller.account_id})
        row = await cursor.fetchone()
    held, debt, available = row or (ZERO, ZERO, ZERO)
    return {"balance": available + held, "held": held, "available": available, "debt": debt}


async def limit_figures(gateway: Gateway, caller: Caller, *, at: datetime) -> list[dict[str, Any]]:
    """What is left of the plan's limits. Raises `ApiError` 503 when Redis is away."""
    scopes = limits.shown_scopes(caller, at=at)
    if not scopes:
        return []
    try:
        states = await gateway.limiter.peek(scopes, now_ms=int(at.timestamp() * 1000))
    except LimiterUnavailable:
        raise ApiError(503, "limits_unavailable", "Limits cannot be read now.", retry_after_seconds=2) from None
    figures = []
    for state in states:
        unit = Decimal(MICRO_PER_CREDIT) if state.name in limits.CREDIT_SCOPES else Decimal(1)
        resets = None if state.reset_at_ms is None else datetime.fromtimestamp(state.reset_at_ms / 1000, UTC)
        figures.append(
            {
                "name": state.name,
                "limit": None if state.limit is None else state.limit / unit,
                "used": state.used / unit,
                "remaining": None if state.remaining is None else state.remaining / unit,
                "resets_at": resets,
            }
        )
    return figures


class Balance(HotView):
    @extend_schema(
        operation_id="balance",
        tags=["Own"],
        summary="Credits and limits left",
        responses={200: schemas.BALANCE, **schemas.errors(schemas.OPENAI_ERROR, _401="The key opens nothing.")},
    )
    async def get(self, exchange: Exchange) -> Answer:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE, ApiKey.Scope.BILLING_READ)
        now = clock.now()
        return json_answer(
            {
                "object": "balance",
                "plan": caller.plan.code if caller.plan else None,
                **await wallet_figures(gateway, caller, at=now),
                "limits": await limit_figures(gateway, caller, at=now),
            }
        )
