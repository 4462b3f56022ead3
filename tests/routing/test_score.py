"""The score's terms and units."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from routing.score import Score, score_of

WEIGHTS = {"w1": Decimal(1000), "w2": Decimal(1), "w3": Decimal(100), "w4": Decimal(1)}
ALIKE: dict[str, Any] = {
    "latency_ms": 400,
    "free_percent": 100,
    "worst_cost_usd": Decimal("0.01"),
    "tokens": 2000,
    "priority": 20,
}


def score(weights: dict[str, Decimal] = WEIGHTS, **changes: Any) -> Score:
    policy: Any = SimpleNamespace(score_weights=weights)
    return score_of(policy, **(ALIKE | changes))


def test_each_term_has_its_unit() -> None:
    found = score()

    assert (found.latency_ms, found.capacity, found.cost, found.priority) == (400, Decimal(1), Decimal("0.005"), Decimal("0.2"))
    # 1000 / 400 + 1 - 100 * 0.005 + 0.2
    assert found.total == Decimal("3.2")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"latency_ms": 200}, {"latency_ms": 300}),
        ({"free_percent": 90}, {"free_percent": 10}),
        ({"worst_cost_usd": Decimal("0.001")}, {"worst_cost_usd": Decimal("0.002")}),
        ({"priority": 50}, {"priority": 10}),
    ],
)
def test_faster_freer_cheaper_and_dearer_customers_score_more(better: dict[str, Any], worse: dict[str, Any]) -> None:
    assert score(**better).total > score(**worse).total


def test_cost_is_per_thousand_tokens_however_large_the_call() -> None:
    small, large = score(worst_cost_usd=Decimal("0.01"), tokens=1000), score(worst_cost_usd=Decimal(10), tokens=1_000_000)

    assert small.total == large.total


def test_a_call_without_tokens_costs_what_it_costs() -> None:
    assert score(worst_cost_usd=Decimal("0.04"), tokens=0).cost == Decimal("0.04")


def test_a_missing_weight_counts_nothing() -> None:
    assert score({}).total == 0
    assert score({"w1": Decimal(1000)}).total == Decimal("2.5")


def test_a_latency_of_nothing_divides_by_one() -> None:
    assert score({"w1": Decimal(1000)}, latency_ms=0).total == 1000


def test_what_is_told_keeps_every_digit() -> None:
    told = score(worst_cost_usd=Decimal("0.000123456"), tokens=1000).told()

    assert told == {"score": "3.6877", "latency_ms": 400, "capacity": "1", "cost": "0.000123456", "priority": "0.2"}
