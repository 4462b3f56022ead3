"""A plan's limits as scopes of one reservation."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from billing.subscriptions.callers import Caller, PlanTerms
from iafactory.common.money import credits_to_micro, usd_to_nano
from ratelimit.scopes import Budget, Concurrency, Scope, TokenBucket, WindowCounter

from .choice import Candidate
from .snapshot import Policy, Snapshot

REQUESTS_PER_MINUTE = "requests_per_minute"
TOKENS_PER_MINUTE = "tokens_per_minute"
CONCURRENT_CALLS = "concurrent_calls"
DAILY_REQUESTS = "daily_requests"
DAILY_CREDITS = "daily_credits"
ALLOWANCE = "plan_allowance"
DAILY_BUDGET = "daily_budget"
PROVIDER_BUDGET = "provider_budget"

# Spent, these leave only what costs the operator nothing.
BUDGETS = frozenset({ALLOWANCE, DAILY_BUDGET, PROVIDER_BUDGET})


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def day_end(at: datetime, zone: ZoneInfo) -> datetime:
    """The next midnight in `zone` after `at`."""
    tomorrow = at.astimezone(zone).date() + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone)


def month_end(at: datetime, zone: ZoneInfo) -> datetime:
    """The first midnight of the next month in `zone`."""
    local = at.astimezone(zone)
    year, month = (local.year + 1, 1) if local.month == 12 else (local.year, local.month + 1)
    return datetime(year, month, 1, tzinfo=zone)


def daily_quota(caller: Caller, plan: PlanTerms, *, at: datetime, amount: int, soft: bool) -> WindowCounter | None:
    """The plan's daily limit: requests on quota plans, micro-credits on the others; None without a limit on credits plans."""
    end = _milliseconds(day_end(at, caller.zone))
    if plan.billing_mode == "quota":
        limit = None if plan.daily_limit is None else int(plan.daily_limit)
        return WindowCounter(
            key=f"q:{caller.account_id}", name=DAILY_REQUESTS, limit=limit, window_end_ms=end, amount=amount, soft=soft
        )
    if plan.daily_limit is None:
        return None
    return WindowCounter(
        key=f"c:{caller.account_id}",
        name=DAILY_CREDITS,
        limit=credits_to_micro(plan.daily_limit),
        window_end_ms=end,
        amount=amount,
        soft=soft,
    )


def allowance_scope(caller: Caller, policy: Policy, *, at: datetime, amount_nano: int) -> Budget | None:
    """What one subscription may cost the operator in its period."""
    if policy.cost_allowance_nano is None or caller.subscription_id is None:
        return None
    end = caller.period_end if caller.period_end is not None and caller.period_end > at else month_end(at, caller.zone)
    return Budget(
        key=f"a:{caller.subscription_id}",
        name=ALLOWANCE,
        limit_nano=policy.cost_allowance_nano,
        amount_nano=amount_nano,
        window_end_ms=_milliseconds(end),
        soft=True,
    )


def budget_day_end_ms(at: datetime) -> int:
    """When the budgets' running day ends: their days are UTC days."""
    return _milliseconds(day_end(at, ZoneInfo("UTC")))


def daily_budget_scope(snapshot: Snapshot, *, at: datetime, amount_nano: int) -> Budget:
    """The operator's ceiling over all providers."""
    return Budget(
        key="b:all",
        name=DAILY_BUDGET,
        limit_nano=snapshot.daily_budget_nano,
        amount_nano=amount_nano,
        window_end_ms=budget_day_end_ms(at),
        soft=True,
    )


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The scopes of one call, and the name of its quota when the plan's quota may be passed with bought credits."""

    scopes: tuple[Scope, ...]
    overflow: str | None


def call_limits(
    caller: Caller,
    plan: PlanTerms,
    policy: Policy,
    snapshot: Snapshot,
    first: Candidate,
    *,
    at: datetime,
    lease_seconds: int,
    daily_credits: Decimal,
) -> CallLimits:
    """Every limit that a call of `caller` on `first` touches.

    `daily_credits` is the price it counts with on plans that limit credits a day.
    """
    account = caller.account_id
    scopes: list[Scope] = []
    if plan.requests_per_minute is not None:
        scopes.append(TokenBucket.per_minute(key=f"r:{account}", name=REQUESTS_PER_MINUTE, limit=plan.requests_per_minute))
    if plan.tokens_per_minute is not None:
        scopes.append(
            TokenBucket.per_minute(
                key=f"t:{account}",
                name=TOKENS_PER_MINUTE,
                limit=plan.tokens_per_minute,
                amount=first.input_tokens + first.output_tokens,
            )
        )
    if plan.concurrent_calls is not None:
        scopes.append(
            Concurrency(key=f"g:{account}", name=CONCURRENT_CALLS, limit=plan.concurrent_calls, lease_ms=lease_seconds * 1000)
        )
    on_quota = plan.billing_mode == "quota"
    may_overflow = on_quota and caller.overflow_allowed and snapshot.overflow is not None and plan.daily_limit is not None
    amount = 1 if on_quota else credits_to_micro(daily_credits)
    quota = daily_quota(caller, plan, at=at, amount=amount, soft=may_overflow)
    if quota is not None:
        scopes.append(quota)
    cost_nano = usd_to_nano(first.worst_cost_usd)
    allowance = allowance_scope(caller, policy, at=at, amount_nano=cost_nano)
    if allowance is not None:
        scopes.append(allowance)
    scopes.append(daily_budget_scope(snapshot, at=at, amount_nano=cost_nano))
    provider_budget = snapshot.provider_budgets_nano.get(first.route.provider)
    if provider_budget is not None:
        scopes.append(
            Budget(
                key=f"b:{first.route.provider}",
                name=PROVIDER_BUDGET,
                limit_nano=provider_budget,
                amount_nano=cost_nano,
                window_end_ms=budget_day_end_ms(at),
                soft=True,
            )
        )
    return CallLimits(tuple(scopes), DAILY_REQUESTS if may_overflow else None)
