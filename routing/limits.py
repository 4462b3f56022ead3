"""The limits of a call as scopes of one reservation, and what its answer says of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from billing.accounts.windows import daily_credits_key, day_end, milliseconds, month_end
from billing.subscriptions.callers import Caller, PlanTerms
from iafactory.common.money import credits_to_micro, usd_to_nano
from ratelimit.engine import ScopeState
from ratelimit.scopes import Budget, Concurrency, Scope, ScopeSet, TokenBucket, WindowCounter

from .choice import Candidate
from .snapshot import BudgetLimits, PlanOffer, Policy, Snapshot

REQUESTS_PER_MINUTE = "requests_per_minute"
REQUESTS_PER_HOUR = "requests_per_hour"
REQUESTS_PER_DAY = "requests_per_day"
TOKENS_PER_MINUTE = "tokens_per_minute"
CONCURRENT_CALLS = "concurrent_calls"
DAILY_REQUESTS = "daily_requests"
DAILY_CREDITS = "daily_credits"
KEY_REQUESTS_PER_MINUTE = "key_requests_per_minute"
KEY_TOKENS_PER_MINUTE = "key_tokens_per_minute"
KEY_CONCURRENT_CALLS = "key_concurrent_calls"
KEY_DAILY_CREDITS = "key_daily_credits"
KEY_MONTHLY_CREDITS = "key_monthly_credits"
GATEWAY_REQUESTS_PER_MINUTE = "gateway_requests_per_minute"
GATEWAY_CONCURRENT_CALLS = "gateway_concurrent_calls"
RUN_CREDITS = "run_credits"
ALLOWANCE = "plan_allowance"
DAILY_BUDGET = "daily_budget"
MONTHLY_BUDGET = "monthly_budget"
# Followed by a provider's slug.
PROVIDER_DAILY_BUDGET = "provider_daily_budget:"
PROVIDER_MONTHLY_BUDGET = "provider_monthly_budget:"

# What every candidate of a call costs: reserved once, raised for a dearer candidate.
_SHARED_BUDGETS = frozenset({ALLOWANCE, DAILY_BUDGET, MONTHLY_BUDGET})
# Counted in credits: micro-credits in Redis.
CREDIT_SCOPES = frozenset({DAILY_CREDITS, KEY_DAILY_CREDITS, KEY_MONTHLY_CREDITS, RUN_CREDITS})
TOKEN_SCOPES = frozenset({TOKENS_PER_MINUTE, KEY_TOKENS_PER_MINUTE})
REQUEST_SCOPES = frozenset(
    {
        REQUESTS_PER_MINUTE,
        REQUESTS_PER_HOUR,
        REQUESTS_PER_DAY,
        DAILY_REQUESTS,
        KEY_REQUESTS_PER_MINUTE,
    }
)
# Counted by the calls that were delivered.
COUNTED_QUOTAS = frozenset({DAILY_REQUESTS, REQUESTS_PER_DAY})
# Waiting a little does not help: the official clients must not retry by themselves.
QUOTAS = frozenset({DAILY_REQUESTS, REQUESTS_PER_DAY, DAILY_CREDITS, KEY_DAILY_CREDITS, KEY_MONTHLY_CREDITS})
# Of the installation, not of the customer: told without figures, lifted by no plan.
GATEWAY_SCOPES = frozenset({GATEWAY_REQUESTS_PER_MINUTE, GATEWAY_CONCURRENT_CALLS})
# Length in seconds of the window behind a limit, for RateLimit-Policy.
_WINDOW_SECONDS = {
    REQUESTS_PER_MINUTE: 60,
    REQUESTS_PER_HOUR: 3600,
    REQUESTS_PER_DAY: 86400,
    DAILY_REQUESTS: 86400,
    DAILY_CREDITS: 86400,
    TOKENS_PER_MINUTE: 60,
    KEY_REQUESTS_PER_MINUTE: 60,
    KEY_TOKENS_PER_MINUTE: 60,
    KEY_DAILY_CREDITS: 86400,
}
_UTC = ZoneInfo("UTC")
_MOST_REMEMBERED = 10_000


def is_budget(scope_name: str) -> bool:
    """Whether a scope is money of the operator: spent, it leaves only what costs the operator nothing."""
    return scope_name in _SHARED_BUDGETS or is_provider_budget(scope_name)


def is_provider_budget(scope_name: str) -> bool:
    """Whether a scope is one provider's own budget; its slug stands behind the colon."""
    return scope_name.startswith((PROVIDER_DAILY_BUDGET, PROVIDER_MONTHLY_BUDGET))


def budget_day_end_ms(at: datetime) -> int:
    """When the budgets' running day ends: their days are UTC days."""
    return milliseconds(day_end(at, _UTC))


def budget_month_end_ms(at: datetime) -> int:
    """When the budgets' running month ends: their months are UTC months."""
    return milliseconds(month_end(at, _UTC))


@dataclass(frozen=True, slots=True)
class Run:
    """A caller's own budget over several calls: its name and the credits it may spend in a calendar month (UTC)."""

    name: str
    limit: Decimal


class CallSize(msgspec.Struct, frozen=True):
    """What one call takes from its limits: at most so many tokens, and so many credits."""

    tokens: int
    credits: Decimal


def daily_quota(caller: Caller, plan: PlanTerms, *, at: datetime, credits: Decimal, soft: bool) -> WindowCounter | None:
    """The plan's daily limit: requests on quota plans, micro-credits on the others; None without a limit on credits plans."""
    daily_limit = caller.limits_at(at).daily_limit
    end = milliseconds(day_end(at, caller.zone))
    if plan.billing_mode == "quota":
        limit = None if daily_limit is None else int(daily_limit)
        return WindowCounter(key=f"q:{caller.account_id}", name=DAILY_REQUESTS, limit=limit, window_end_ms=end, soft=soft)
    if daily_limit is None:
        return None
    return WindowCounter(
        key=daily_credits_key(caller.account_id),
        name=DAILY_CREDITS,
        limit=credits_to_micro(daily_limit),
        window_end_ms=end,
        amount=credits_to_micro(credits),
        soft=soft,
    )


def _speeds(
    owner: UUID | str,
    names: tuple[str, str, str],
    *,
    requests: int | None,
    tokens: int | None,
    concurrent: int | None,
    size: CallSize,
    lease_seconds: int,
) -> list[Scope]:
    """The three speed limits that an account, a key or the installation may have."""
    requests_name, tokens_name, concurrent_name = names
    scopes: list[Scope] = []
    if requests is not None:
        scopes.append(TokenBucket.per_minute(key=f"r:{owner}", name=requests_name, limit=requests))
    if tokens is not None:
        scopes.append(TokenBucket.per_minute(key=f"t:{owner}", name=tokens_name, limit=tokens, amount=size.tokens))
    if concurrent is not None:
        scopes.append(Concurrency(key=f"g:{owner}", name=concurrent_name, limit=concurrent, lease_ms=lease_seconds * 1000))
    return scopes


def account_scopes(caller: Caller, *, at: datetime, size: CallSize, lease_seconds: int) -> list[Scope]:
    """Speed limits of the account, the daily quota aside."""
    account, own = caller.account_id, caller.limits_at(at)
    scopes = _speeds(
        account,
        (REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CONCURRENT_CALLS),
        requests=own.requests_per_minute,
        tokens=own.tokens_per_minute,
        concurrent=own.concurrent_calls,
        size=size,
        lease_seconds=lease_seconds,
    )
    if own.requests_per_hour is not None:
        scopes.append(
            TokenBucket(
                key=f"h:{account}",
                name=REQUESTS_PER_HOUR,
                capacity=own.requests_per_hour,
                refill_amount=max(1, own.requests_per_hour),
                refill_period_ms=3_600_000,
            )
        )
    if own.requests_per_day is not None:
        end = milliseconds(day_end(at, caller.zone))
        scopes.append(WindowCounter(key=f"d:{account}", name=REQUESTS_PER_DAY, limit=own.requests_per_day, window_end_ms=end))
    return scopes


def key_scopes(caller: Caller, *, at: datetime, size: CallSize, lease_seconds: int) -> list[Scope]:
    """Limits of the API key alone: speeds, and what it may spend a day and a month."""
    key = caller.key
    if key is None or caller.api_key_id is None:
        return []
    owner = f"k:{caller.api_key_id}"
    scopes = _speeds(
        owner,
        (KEY_REQUESTS_PER_MINUTE, KEY_TOKENS_PER_MINUTE, KEY_CONCURRENT_CALLS),
        requests=key.requests_per_minute,
        tokens=key.tokens_per_minute,
        concurrent=key.concurrent_calls,
        size=size,
        lease_seconds=lease_seconds,
    )
    amount = credits_to_micro(size.credits)
    for name, short, limit, end in (
        (KEY_DAILY_CREDITS, "kd", key.daily_credits, day_end(at, caller.zone)),
        (KEY_MONTHLY_CREDITS, "km", key.monthly_credits, month_end(at, caller.zone)),
    ):
        if limit is not None:
            scopes.append(
                WindowCounter(
                    key=f"{short}:{caller.api_key_id}",
                    name=name,
                    limit=credits_to_micro(limit),
                    window_end_ms=milliseconds(end),
                    amount=amount,
                )
            )
    return scopes


def gateway_scopes(snapshot: Snapshot, *, lease_seconds: int) -> list[Scope]:
    """Limits over all callers together."""
    return _speeds(
        "all",
        (GATEWAY_REQUESTS_PER_MINUTE, "", GATEWAY_CONCURRENT_CALLS),
        requests=snapshot.gateway_requests_per_minute,
        tokens=None,
        concurrent=snapshot.gateway_concurrent_calls,
        size=CallSize(0, Decimal(0)),
        lease_seconds=lease_seconds,
    )


def run_scope(caller: Caller, run: Run, *, at: datetime) -> WindowCounter:
    """The ceiling a caller gave to a run."""
    return WindowCounter(
        key=f"u:{caller.account_id}:{run.name}",
        name=RUN_CREDITS,
        limit=credits_to_micro(run.limit),
        window_end_ms=milliseconds(month_end(at, _UTC)),
    )


def allowance_scope(caller: Caller, policy: Policy, *, at: datetime, amount_nano: int) -> Budget | None:
    """What one subscription may cost the operator in its period."""
    return allowance_scope_of(caller, policy.cost_allowance_nano, at=at, amount_nano=amount_nano)


def allowance_scope_of(caller: Caller, allowance_nano: int | None, *, at: datetime, amount_nano: int) -> Budget | None:
    """The same for an allowance in nano-USD; None for a plan without one."""
    if allowance_nano is None or caller.subscription_id is None:
        return None
    end = caller.period_end if caller.period_end is not None and caller.period_end > at else month_end(at, caller.zone)
    return Budget(
        key=f"a:{caller.subscription_id}",
        name=ALLOWANCE,
        limit_nano=allowance_nano,
        amount_nano=amount_nano,
        window_end_ms=milliseconds(end),
        soft=True,
    )


def _budget_scopes(
    owner: str, names: tuple[str, str], ceiling: BudgetLimits, *, at: datetime, amount_nano: int
) -> list[Budget]:
    return [
        Budget(key=key, name=name, limit_nano=limit, amount_nano=amount_nano, window_end_ms=end_ms, soft=True)
        for key, name, limit, end_ms in (
            (f"b:{owner}", names[0], ceiling.daily_nano, budget_day_end_ms(at)),
            (f"bm:{owner}", names[1], ceiling.monthly_nano, budget_month_end_ms(at)),
        )
    ]


def budget_scopes(snapshot: Snapshot, *, at: datetime, amount_nano: int) -> list[Budget]:
    """The operator's ceilings over all providers; counted without a ceiling too, so that one entered later starts right."""
    return _budget_scopes("all", (DAILY_BUDGET, MONTHLY_BUDGET), snapshot.budget, at=at, amount_nano=amount_nano)


def shared_budget_scopes(caller: Caller, policy: Policy, snapshot: Snapshot, *, at: datetime, amount_nano: int) -> list[Budget]:
    """The budgets that every candidate of a call counts against: the installation's and the plan's allowance."""
    allowance = allowance_scope(caller, policy, at=at, amount_nano=amount_nano)
    return [
        *([] if allowance is None else [allowance]),
        *budget_scopes(snapshot, at=at, amount_nano=amount_nano),
    ]


def provider_budget_scopes(snapshot: Snapshot, provider: str, *, at: datetime, amount_nano: int) -> list[Budget]:
    """The operator's ceilings on one provider; none where it has none."""
    ceiling = snapshot.provider_budgets.get(provider)
    if ceiling is None:
        return []
    names = (PROVIDER_DAILY_BUDGET + provider, PROVIDER_MONTHLY_BUDGET + provider)
    return _budget_scopes(provider, names, ceiling, at=at, amount_nano=amount_nano)


def budget_actuals(cost_by_provider: Mapping[str, int]) -> dict[str, int]:
    """What a call really cost each budget it may have reserved, in nano-USD; `cost_by_provider` names every provider asked."""
    total = sum(cost_by_provider.values())
    actuals = dict.fromkeys(_SHARED_BUDGETS, total)
    for slug, cost in cost_by_provider.items():
        actuals[PROVIDER_DAILY_BUDGET + slug] = actuals[PROVIDER_MONTHLY_BUDGET + slug] = cost
    return actuals


def _measure(name: str) -> str:
    """What of a call counts against the scope of that name."""
    if name in TOKEN_SCOPES:
        return "tokens"
    if name in CREDIT_SCOPES:
        return "credits"
    return "cost" if is_budget(name) else "calls"


class CallLimits:
    """The limits of a caller's calls on one provider: `scopes`, and what a call counts against each of them.

    `overflow` names the quota when the plan's quota may be passed with bought credits.
    """

    __slots__ = ("_measures", "_settled", "overflow", "scopes")

    def __init__(self, scopes: Sequence[Scope], *, overflow: str | None) -> None:
        self.scopes = ScopeSet(scopes)
        self.overflow = overflow
        self._measures = tuple((scope.name, _measure(scope.name)) for scope in scopes)
        # A rate keeps what was taken for a call that was made: what counts is that it was asked.
        self._settled = tuple(
            (name, measure) for name, measure in self._measures if measure in ("tokens", "credits") or name in COUNTED_QUOTAS
        )

    def amounts(self, first: Candidate) -> list[int]:
        """The most that a call on `first` may take of each scope."""
        most = {
            "calls": 1,
            "tokens": first.input_tokens + first.output_tokens,
            "credits": credits_to_micro(first.worst_credits),
            "cost": usd_to_nano(first.worst_cost_usd),
        }
        return [most[measure] for _, measure in self._measures]

    def must_be_counted(self, amounts: Sequence[int]) -> bool:
        """Whether a call may not pass while the scopes cannot be asked: quotas and budgets; speeds are another matter."""
        return any(
            isinstance(scope, WindowCounter | Budget) and scope.limit is not None and amount > 0
            for scope, amount in zip(self.scopes.scopes, amounts, strict=True)
        )

    def actuals(
        self, *, calls: int, tokens: int, credits: Decimal, cost_usd_by_provider: Mapping[str, Decimal]
    ) -> dict[str, int]:
        """What a call took in the end, by scope; `cost_usd_by_provider` names every provider asked."""
        took = {"calls": calls, "tokens": tokens, "credits": credits_to_micro(credits)}
        actuals = {name: took[measure] for name, measure in self._settled}
        return actuals | budget_actuals({slug: usd_to_nano(cost) for slug, cost in cost_usd_by_provider.items()})

    def with_run(self, scope: WindowCounter) -> "CallLimits":
        """The same with the ceiling of a caller's own run."""
        return CallLimits((*self.scopes.scopes, scope), overflow=self.overflow)


def call_limits(caller: Caller, snapshot: Snapshot, provider: str, *, at: datetime, lease_seconds: int) -> CallLimits:
    """Every limit that a call of `caller` on `provider` touches, without a run's."""
    plan = caller.plan
    assert plan is not None
    policy = snapshot.policies[plan.id]
    size, cost_nano = CallSize(0, Decimal(0)), 0
    may_overflow = plan.billing_mode == "quota" and caller.overflow_allowed and snapshot.overflow is not None
    quota = daily_quota(caller, plan, at=at, credits=size.credits, soft=may_overflow)
    may_overflow = may_overflow and quota is not None and quota.limit is not None
    return CallLimits(
        [
            *account_scopes(caller, at=at, size=size, lease_seconds=lease_seconds),
            *([] if quota is None else [quota]),
            *key_scopes(caller, at=at, size=size, lease_seconds=lease_seconds),
            *gateway_scopes(snapshot, lease_seconds=lease_seconds),
            *shared_budget_scopes(caller, policy, snapshot, at=at, amount_nano=cost_nano),
            *provider_budget_scopes(snapshot, provider, at=at, amount_nano=cost_nano),
        ],
        overflow=DAILY_REQUESTS if may_overflow else None,
    )


class LimitsMemory:
    """`call_limits` of those who call again, remembered until what they follow from has changed or a window ends."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._lease_seconds = 0
        # By the caller's identity, which the entry keeps alive: looking all of a caller up costs more than making it anew.
        self._kept: dict[tuple[int, str], tuple[Caller, datetime, CallLimits]] = {}

    def of(self, caller: Caller, snapshot: Snapshot, provider: str, *, at: datetime, lease_seconds: int) -> CallLimits:
        """As `call_limits`."""
        if snapshot is not self._snapshot or lease_seconds != self._lease_seconds or len(self._kept) >= _MOST_REMEMBERED:
            self._kept.clear()
            self._snapshot, self._lease_seconds = snapshot, lease_seconds
        kept = self._kept.get((id(caller), provider))
        if kept is not None and kept[1] > at:
            return kept[2]
        made = call_limits(caller, snapshot, provider, at=at, lease_seconds=lease_seconds)
        self._kept[id(caller), provider] = (caller, self._good_until(caller, made, at), made)
        return made

    @staticmethod
    def _good_until(caller: Caller, made: CallLimits, at: datetime) -> datetime:
        # The first window to end; budgets, whose windows end with the day, are counted in every call.
        assert made.scopes.ends_at_ms is not None
        end = datetime.fromtimestamp(made.scopes.ends_at_ms / 1000, UTC)
        override_until = caller.override_until
        return min(end, override_until) if override_until is not None and override_until > at else end


def shown_scopes(caller: Caller, *, at: datetime) -> list[Scope]:
    """The limits a caller may look at: of the account and of the key, those without a ceiling left out."""
    if caller.plan is None:
        return []
    nothing = CallSize(0, Decimal(0))
    quota = daily_quota(caller, caller.plan, at=at, credits=nothing.credits, soft=False)
    scopes = [
        *([quota] if quota is not None and quota.limit is not None else []),
        *account_scopes(caller, at=at, size=nothing, lease_seconds=1),
        *key_scopes(caller, at=at, size=nothing, lease_seconds=1),
    ]
    return scopes


def lifting_plan(snapshot: Snapshot, plan: PlanTerms, scope_name: str) -> PlanOffer | None:
    """The next public plan of the same family with a higher limit, or none, for what refused a call."""
    field = {DAILY_REQUESTS: "daily_limit", DAILY_CREDITS: "daily_limit"}.get(scope_name, scope_name)
    if not hasattr(plan.limits, field):
        return None
    present = getattr(plan.limits, field)
    if present is None:
        return None
    for offer in snapshot.offers:
        if offer.code != plan.code and offer.family == plan.family and offer.billing_mode == plan.billing_mode:
            theirs = getattr(offer.limits, field)
            if theirs is None or theirs > present:
                return offer
    return None


def _duration(milliseconds: int) -> str:
    """A duration as OpenAI writes it: 12ms, 1.75s, 6m0s, 3h0m0s."""
    if milliseconds < 1000:
        return f"{max(milliseconds, 0)}ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _tightest(states: Iterable[ScopeState], names: frozenset[str]) -> ScopeState | None:
    """Of the limits named, the one nearest to its end."""
    limited = [state for state in states if state.name in names and state.limit and state.remaining is not None]
    return min(limited, key=lambda state: (state.remaining or 0) / (state.limit or 1), default=None)


def limit_headers(states: Sequence[ScopeState], *, at: datetime) -> list[tuple[bytes, bytes]]:
    """What an answer says of the limits: OpenAI's `x-ratelimit-*`, and the IETF fields `RateLimit` and `RateLimit-Policy`."""
    now_ms = milliseconds(at)
    headers: list[tuple[bytes, bytes]] = []
    for kind, names in (("requests", REQUEST_SCOPES), ("tokens", TOKEN_SCOPES)):
        state = _tightest(states, names)
        if state is not None:
            reset_ms = 0 if state.reset_at_ms is None else state.reset_at_ms - now_ms
            for name, value in (("limit", state.limit), ("remaining", state.remaining), ("reset", _duration(reset_ms))):
                headers.append((f"x-ratelimit-{name}-{kind}".encode(), str(value).encode()))
    policies, left = [], []
    for state in states:
        if state.limit is None or is_budget(state.name) or state.name in GATEWAY_SCOPES:
            continue
        unit = 1_000_000 if state.name in CREDIT_SCOPES else 1
        window = _WINDOW_SECONDS.get(state.name)
        policies.append(f'"{state.name}";q={state.limit // unit}' + (f";w={window}" if window else ""))
        reset = "" if state.reset_at_ms is None else f";t={max(0, -(-(state.reset_at_ms - now_ms) // 1000))}"
        left.append(f'"{state.name}";r={(state.remaining or 0) // unit}{reset}')
    if policies:
        headers.append((b"ratelimit-policy", ", ".join(policies).encode()))
        headers.append((b"ratelimit", ", ".join(left).encode()))
    return headers


def reset_text(reset_at_ms: int | None) -> str | None:
    """A reset instant for error bodies, ISO 8601."""
    return None if reset_at_ms is None else datetime.fromtimestamp(reset_at_ms / 1000, UTC).isoformat()
