"""The limits of an account that are in force now, and what is used of each at this moment: Redis is asked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext_lazy as _
from django_redis import get_redis_connection

from billing.accounts.models import Account, AccountLimits, ApiKey
from billing.subscriptions.callers import Caller, caller_of_account, caller_with_key
from iafactory.common.money import MICRO_PER_CREDIT, usd_to_nano
from ratelimit.engine import LimiterUnavailable, ScopeState, SyncLimiter
from ratelimit.scopes import Scope
from routing import limits
from routing.models import PlanRouting

NANO_PER_USD = 1_000_000_000
PLAN, OPERATOR, KEY = _("Plan"), _("Set by an operator"), _("Key")

NAMES: dict[str, Any] = {
    limits.REQUESTS_PER_MINUTE: _("Requests per minute"),
    limits.REQUESTS_PER_HOUR: _("Requests per hour"),
    limits.REQUESTS_PER_DAY: _("Requests per day"),
    limits.TOKENS_PER_MINUTE: _("Tokens per minute"),
    limits.CONCURRENT_CALLS: _("Calls at the same time"),
    limits.DAILY_REQUESTS: _("Requests of the plan's day"),
    limits.DAILY_CREDITS: _("Credits of the plan's day"),
    limits.KEY_REQUESTS_PER_MINUTE: _("Requests per minute"),
    limits.KEY_TOKENS_PER_MINUTE: _("Tokens per minute"),
    limits.KEY_CONCURRENT_CALLS: _("Calls at the same time"),
    limits.KEY_DAILY_CREDITS: _("Credits a day"),
    limits.KEY_MONTHLY_CREDITS: _("Credits a calendar month"),
    limits.ALLOWANCE: _("Cost to us in this period, USD"),
}
# The account's own column behind a limit: set there, it stands in the plan's place.
_OWN_COLUMNS = {limits.DAILY_REQUESTS: "daily_limit", limits.DAILY_CREDITS: "daily_limit"}


@dataclass(frozen=True, slots=True)
class LimitLine:
    """A limit in force: whose it is, how much of it is used, in whole percent, and when all of it is free again."""

    name: Any
    source: Any
    key: ApiKey | None
    limit: Decimal
    used: Decimal
    percent: int
    resets_at: datetime | None


@dataclass(frozen=True, slots=True)
class LimitsInForce:
    """`readable` is False while Redis does not answer: then no lines are known."""

    lines: list[LimitLine]
    readable: bool = True


def limits_in_force(
    account: Account, keys: Sequence[ApiKey], own: AccountLimits | None, *, at: datetime, show_allowance: bool
) -> LimitsInForce:
    """The account's limits and those of `keys`, as the gateway would apply them at `at`. At most two queries."""
    caller = caller_of_account(account.pk)
    if caller is None or caller.plan is None:
        return LimitsInForce([])
    asked: list[tuple[Scope, ApiKey | None]] = [(scope, None) for scope in limits.shown_scopes(caller, at=at)]
    nothing = limits.CallSize(0, Decimal(0))
    for key in keys:
        of_key = limits.key_scopes(caller_with_key(caller, key), at=at, size=nothing, lease_seconds=1)
        asked += [(scope, key) for scope in of_key]
    if show_allowance and (allowance := _allowance(caller, at)) is not None:
        asked.append((allowance, None))
    if not asked:
        return LimitsInForce([])
    try:
        client = get_redis_connection("default")
        states = SyncLimiter(client).peek([scope for scope, _key in asked], now_ms=int(at.timestamp() * 1000))
    except LimiterUnavailable:
        return LimitsInForce([], readable=False)
    own = own if own is not None and (own.until is None or own.until > at) else None
    lines = [_line(state, key, own) for state, (_scope, key) in zip(states, asked, strict=True) if state.limit is not None]
    return LimitsInForce(lines)


def _allowance(caller: Caller, at: datetime) -> Scope | None:
    assert caller.plan is not None
    allowance = PlanRouting.objects.filter(plan=caller.plan.id).values_list("cost_allowance_usd", flat=True).first()
    nano = None if allowance is None else usd_to_nano(allowance)
    return limits.allowance_scope_of(caller, nano, at=at, amount_nano=0)


def _line(state: ScopeState, key: ApiKey | None, own: AccountLimits | None) -> LimitLine:
    assert state.limit is not None
    unit = 1
    if state.name in limits.CREDIT_SCOPES:
        unit = MICRO_PER_CREDIT
    elif state.name == limits.ALLOWANCE:
        unit = NANO_PER_USD
    source = KEY if key is not None else PLAN
    if key is None and own is not None and getattr(own, _OWN_COLUMNS.get(state.name, state.name), None) is not None:
        source = OPERATOR
    percent = min(100, state.used * 100 // state.limit) if state.limit else 100
    resets_at = None if state.reset_at_ms is None else datetime.fromtimestamp(state.reset_at_ms / 1000, UTC)
    return LimitLine(
        name=NAMES.get(state.name, state.name),
        source=source,
        key=key,
        limit=Decimal(state.limit) / unit,
        used=Decimal(state.used) / unit,
        percent=int(percent),
        resets_at=resets_at if state.used else None,
    )
