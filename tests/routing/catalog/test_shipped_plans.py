"""The catalogue as shipped, row by row: what a plan costs, includes and may cause."""

from decimal import Decimal
from typing import Any

import pytest

from billing.plans.models import CreditPack, FxRate, Plan, ServicePrice
from routing.catalog import catalog_load
from routing.models import Budget, PlanRouting

pytestmark = pytest.mark.django_db

DEFAULTS: dict[str, Any] = {
    "prices": {},
    "renews": True,
    "rounding": "whole",
    "period_credits": Decimal(0),
    "daily_limit": None,
    "requests_per_minute": None,
    "concurrent_calls": None,
    "priority": 0,
    "features": [],
    "strategy": "score",
    "split": {},
    "free_only": False,
    "context_cap": None,
    "any_model": True,
    "allowance": None,
}
FREE_OF_CHARGE = {"DZD": Decimal(0), "INR": Decimal(0), "USD": Decimal(0)}


def described(code: str) -> dict[str, Any]:
    """A plan as the catalogue's table states it."""
    plan = Plan.objects.get(code=code)
    routing = plan.routing
    return {
        "prices": {price.currency: price.amount for price in plan.prices.all()},
        "interval": (plan.interval, plan.interval_count),
        "renews": plan.renews,
        "mode": plan.billing_mode,
        "rounding": plan.rounding,
        "period_credits": plan.period_credits,
        "daily_limit": plan.daily_limit,
        "requests_per_minute": plan.requests_per_minute,
        "concurrent_calls": plan.concurrent_calls,
        "priority": plan.priority,
        "features": plan.features,
        "strategy": routing.strategy,
        "split": routing.split,
        "free_only": routing.free_only,
        "context_cap": routing.context_cap,
        "any_model": routing.models_allowed == ["*"],
        "allowance": routing.cost_allowance_usd,
    }


@pytest.mark.parametrize(
    ("code", "row"),
    [
        (
            "free",
            {
                "prices": FREE_OF_CHARGE,
                "interval": ("none", 1),
                "mode": "quota",
                "daily_limit": Decimal(3),
                "strategy": "split",
                "split": {"groq": 100},
                "free_only": True,
                "allowance": Decimal(0),
            },
        ),
        (
            "student",
            {
                "prices": {"DZD": Decimal(1590)},
                "interval": ("month", 1),
                "mode": "quota",
                "daily_limit": Decimal(200),
                "requests_per_minute": 10,
                "strategy": "split",
                "split": {"groq": 85, "openrouter": 15},
                "any_model": False,
                "allowance": Decimal("2.72"),
            },
        ),
        (
            "pro",
            {
                "prices": {"DZD": Decimal(2590)},
                "interval": ("month", 1),
                "mode": "quota",
                "daily_limit": Decimal(400),
                "strategy": "split",
                "split": {"groq": 70, "openrouter": 30},
                "any_model": False,
                "allowance": Decimal("8.59"),
            },
        ),
        (
            "credits-free",
            {
                "prices": FREE_OF_CHARGE,
                "interval": ("month", 1),
                "mode": "credits",
                "period_credits": Decimal(100),
                "daily_limit": Decimal(20),
                "features": ["rag"],
                "allowance": Decimal(0),
            },
        ),
        (
            "credits-starter",
            {
                "prices": {"DZD": Decimal(2000)},
                "interval": ("month", 1),
                "mode": "credits",
                "period_credits": Decimal(500),
                "daily_limit": Decimal(100),
                "features": ["rag", "legal"],
                "allowance": Decimal("7.246376812"),
            },
        ),
        (
            "credits-pro",
            {
                "prices": {"DZD": Decimal(5000)},
                "interval": ("month", 1),
                "mode": "credits",
                "period_credits": Decimal(2000),
                "daily_limit": Decimal(500),
                "features": ["rag", "legal", "fiscal", "voice", "api"],
                "allowance": Decimal("18.115942029"),
            },
        ),
        (
            "credits-business",
            {
                "prices": {"DZD": Decimal(15000)},
                "interval": ("month", 1),
                "mode": "credits",
                "period_credits": Decimal(10000),
                "daily_limit": Decimal(2000),
                "features": ["rag", "legal", "fiscal", "voice", "api", "custom_models"],
                "allowance": Decimal("54.347826087"),
            },
        ),
        (
            "credits-enterprise",
            {
                "prices": {"DZD": Decimal(50000)},
                "interval": ("month", 1),
                "mode": "credits",
                "period_credits": Decimal(100000),
                "features": ["rag", "legal", "fiscal", "voice", "api", "custom_models", "sla_99_9", "support_24_7"],
                "allowance": Decimal("181.159420290"),
            },
        ),
        (
            "trial-1d",
            {
                "prices": {"INR": Decimal(199)},
                "interval": ("day", 1),
                "renews": False,
                "mode": "quota",
                "daily_limit": Decimal(200),
                "priority": 10,
                "features": ["premium_fast"],
                "allowance": Decimal("1.974206349"),
            },
        ),
        (
            "standard-15d",
            {
                "prices": {"INR": Decimal(999)},
                "interval": ("day", 15),
                "mode": "quota",
                "daily_limit": Decimal(600),
                "priority": 20,
                "features": ["premium_fast"],
                "allowance": Decimal("9.910714286"),
            },
        ),
        (
            "unlimited-30d",
            {
                "prices": {"INR": Decimal(4999)},
                "interval": ("day", 30),
                "mode": "quota",
                "concurrent_calls": 10,
                "priority": 50,
                "features": ["premium_fast", "context_1m", "priority_support", "todo_list"],
                "context_cap": 1_000_000,
                "allowance": Decimal("49.593253968"),
            },
        ),
        (
            "payg",
            {"prices": FREE_OF_CHARGE, "interval": ("none", 1), "mode": "credits", "rounding": "exact"}
            | {"features": ["rag", "legal", "fiscal", "voice", "park", "api"]},
        ),
    ],
)
def test_plan(code: str, row: dict[str, Any]) -> None:
    catalog_load()

    assert described(code) == DEFAULTS | row


def test_twelve_public_plans_share_margin_credit_value_and_fallback() -> None:
    catalog_load()

    assert Plan.objects.filter(visibility="public").count() == Plan.objects.count() == 12
    assert list(PlanRouting.objects.order_by().values_list("margin_multiplier", "usd_per_credit", "fallback").distinct()) == [
        (Decimal("1.8"), Decimal("0.01"), ["openrouter", "groq", "google"])
    ]


def test_packs_cost_one_cent_a_credit() -> None:
    catalog_load()

    assert list(CreditPack.objects.values_list("credits", "bonus_credits", "currency", "amount")) == [
        (Decimal(500), Decimal(0), "USD", Decimal(5)),
        (Decimal(1000), Decimal(0), "USD", Decimal(10)),
        (Decimal(5000), Decimal(0), "USD", Decimal(50)),
        (Decimal(10000), Decimal(0), "USD", Decimal(100)),
        (Decimal(50000), Decimal(0), "USD", Decimal(500)),
    ]


def test_services_rates_and_the_daily_budget() -> None:
    catalog_load()

    assert dict(ServicePrice.objects.values_list("code", "credits")) == {
        "rag": Decimal(1),
        "legal": Decimal(3),
        "fiscal": Decimal(3),
        "voice": Decimal(2),
        "park": Decimal(2),
        "api": Decimal(1),
    }
    assert list(FxRate.objects.values_list("base", "quote", "rate")) == [
        ("USD", "DZD", Decimal(230)),
        ("USD", "INR", Decimal(84)),
    ]
    assert Budget.objects.values_list("provider", "daily_limit_usd").get() == (None, Decimal(50))


def test_auto_means_models_that_a_flat_plan_allows() -> None:
    catalog_load()

    student = PlanRouting.objects.get(plan__code="student")

    assert [student.default_models[slug] for slug in ("groq", "openrouter", "google")] == [
        "llama-3.3-70b",
        "deepseek-v4.1-flash",
        "gemini-2.5-flash",
    ]
    assert {"llama-3.3-70b", "deepseek-v4.1-flash", "gemini-2.5-flash"} <= set(student.models_allowed)
