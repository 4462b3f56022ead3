"""Limits of a caller are worked out once, and anew as soon as anything they follow from is another."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from billing.subscriptions.callers import Caller, Limits, PlanTerms
from ratelimit.scopes import Budget
from routing import limits
from routing.limits import CallLimits, LimitsMemory, Run, run_scope
from routing.snapshot import BudgetLimits

D = Decimal
NOON = datetime(2030, 11, 20, 12, tzinfo=UTC)
PLAN = PlanTerms(
    1, "pro", "pro", "credits", False, 0, (), Limits(requests_per_minute=60, tokens_per_minute=9000, daily_limit=D(10))
)
CALLER = Caller(
    account_id=uuid4(),
    account_status="active",
    blocked_until=None,
    zone=ZoneInfo("Africa/Algiers"),
    overflow_allowed=False,
    api_key_id=None,
    key=None,
    user_id=None,
    scopes=frozenset(),
    valid_until=None,
    revoked=False,
    subscription_id=None,
    period_start=None,
    period_end=None,
    plan=PLAN,
    override=None,
    override_until=None,
)


def snapshot_make() -> Any:
    return SimpleNamespace(
        policies={1: SimpleNamespace(cost_allowance_nano=None)},
        overflow=None,
        gateway_requests_per_minute=None,
        gateway_concurrent_calls=None,
        budget=BudgetLimits(50_000_000_000, None),
        provider_budgets={"a": BudgetLimits(1_000_000_000, None)},
    )


SNAPSHOT = snapshot_make()


def of(memory: LimitsMemory, caller: Caller = CALLER, provider: str = "a", at: datetime = NOON, **fields: Any) -> CallLimits:
    return memory.of(caller, fields.get("snapshot", SNAPSHOT), provider, at=at, lease_seconds=fields.get("lease", 700))


def names(call_limits: CallLimits) -> list[str]:
    return [scope.name for scope in call_limits.scopes.scopes]


def test_who_calls_again_meets_the_same_limits() -> None:
    memory = LimitsMemory()

    first = of(memory)

    assert of(memory, at=NOON + timedelta(hours=10)) is first
    assert names(first) == [
        "requests_per_minute",
        "tokens_per_minute",
        "daily_credits",
        "daily_budget",
        "monthly_budget",
        "provider_daily_budget:a",
        "provider_monthly_budget:a",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"at": datetime(2030, 11, 20, 23, tzinfo=UTC)},  # midnight in Algiers
        {"caller": replace(CALLER)},
        {"provider": "b"},
        {"snapshot": snapshot_make()},
        {"lease": 701},
    ],
    ids=["day", "caller", "provider", "catalogue", "lease"],
)
def test_what_changed_is_worked_out_anew(changed: dict[str, Any]) -> None:
    memory = LimitsMemory()
    first = of(memory)

    again = of(memory, **changed)

    assert again is not first
    assert of(memory, **changed) is again


def test_an_operators_own_limits_end_at_their_instant() -> None:
    memory = LimitsMemory()
    slowed = replace(CALLER, override=Limits(requests_per_minute=1), override_until=NOON + timedelta(minutes=5))

    def per_minute(at: datetime) -> int | None:
        return of(memory, slowed, at=at).scopes.scopes[0].limit

    assert [per_minute(NOON + timedelta(minutes=minutes)) for minutes in (0, 4, 5, 6)] == [1, 1, 60, 60]


def test_an_allowance_ends_with_the_period() -> None:
    snapshot = snapshot_make()
    snapshot.policies[1].cost_allowance_nano = 5
    period_end = NOON + timedelta(minutes=5)
    buyer = replace(CALLER, subscription_id=uuid4(), period_end=period_end)
    memory = LimitsMemory()

    def window_end(at: datetime) -> datetime:
        allowance = of(memory, buyer, at=at, snapshot=snapshot).scopes.scopes[3]
        assert isinstance(allowance, Budget)
        return datetime.fromtimestamp(allowance.window_end_ms / 1000, UTC)

    assert [window_end(NOON + timedelta(minutes=minutes)) for minutes in (0, 4)] == [period_end] * 2
    # 23:00 UTC is the month's midnight in Algiers.
    assert window_end(period_end) == datetime(2030, 11, 30, 23, tzinfo=UTC)


def test_a_callers_identity_is_not_taken_for_anothers() -> None:
    memory = LimitsMemory()

    for number in range(50):
        other = replace(CALLER, account_id=uuid4())
        assert f"r:{other.account_id}" in of(memory, other).scopes.storage_keys[0], number


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_REMEMBERED", 3)
    memory = LimitsMemory()

    for number in range(10):
        of(memory, provider=str(number))

    assert len(memory._kept) == 1


def test_a_call_takes_its_own_amounts() -> None:
    candidate: Any = SimpleNamespace(input_tokens=30, output_tokens=12, worst_credits=D("0.5"), worst_cost_usd=D("0.000000123"))
    call_limits = of(LimitsMemory()).with_run(run_scope(CALLER, Run("night", D(3)), at=NOON))

    amounts = call_limits.amounts(candidate)

    assert amounts == [1, 42, 500_000, 123, 123, 123, 123, 500_000]
    assert names(call_limits)[-1] == "run_credits"
    assert call_limits.scopes.packed_with(amounts)[2::7] == amounts
    assert call_limits.actuals(
        calls=1, tokens=40, credits=D("0.25"), cost_usd_by_provider={"a": D("0.0000001"), "b": D(0)}
    ) == {
        "tokens_per_minute": 40,
        "daily_credits": 250_000,
        "run_credits": 250_000,
        "plan_allowance": 100,
        "daily_budget": 100,
        "monthly_budget": 100,
        "provider_daily_budget:a": 100,
        "provider_monthly_budget:a": 100,
        "provider_daily_budget:b": 0,
        "provider_monthly_budget:b": 0,
    }


@pytest.mark.parametrize("amount", [-1, 2**53, True, 1.0, "1"])
def test_only_amounts_are_taken(amount: Any) -> None:
    call_limits = of(LimitsMemory())

    with pytest.raises(ValueError, match="integers"):
        call_limits.scopes.packed_with([amount] * 7)


def test_without_redis_only_speeds_may_stay_uncounted() -> None:
    speeds = replace(CALLER, plan=replace(PLAN, limits=Limits(requests_per_minute=60)))
    snapshot = snapshot_make()
    snapshot.budget, snapshot.provider_budgets = BudgetLimits(None, None), {}

    free = of(LimitsMemory(), speeds, snapshot=snapshot)
    counted = of(LimitsMemory(), snapshot=snapshot)

    assert not free.must_be_counted([1, 9, 9])
    assert counted.must_be_counted([1, 42, 5, 9, 9])
    # What costs nothing needs no quota.
    assert not counted.must_be_counted([1, 42, 0, 9, 9])
