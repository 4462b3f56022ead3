"""The score strategy: what a plan's weights make of each candidate's speed, free capacity, cost and priority.

    score = w1 * (1 / latency_ms) + w2 * capacity - w3 * cost_per_unit + w4 * subscription_priority

latency_ms             time to the first byte: measured, or typical until then. w1 = 1000 gives one point per answer a second.
capacity               free share, 0 to 1, of the tightest cap known. w2 = 1 gives one point to a route with all of it free.
cost_per_unit          USD per 1,000 tokens at the call's worst case; of a call without tokens, the whole call.
                       w3 = 100 takes one point per cent that 1,000 tokens cost.
subscription_priority  the plan's, over 100. The same for all candidates of a call, so it does not change their order; among
                       waiting calls the plan's priority itself decides.
"""

from decimal import Decimal
from typing import Any

import msgspec

from .snapshot import Policy

_ZERO = Decimal(0)
_SHOWN = Decimal("0.0001")
_SHOWN_COST = Decimal("0.000000001")


class Score(msgspec.Struct, frozen=True):
    """The terms of a candidate's score before their weights, and the total."""

    latency_ms: int
    capacity: Decimal
    cost: Decimal
    priority: Decimal
    total: Decimal

    def told(self) -> dict[str, Any]:
        """For the usage log: numbers as text, so that none is rounded twice."""
        return {
            "score": str(self.total.quantize(_SHOWN)),
            "latency_ms": self.latency_ms,
            "capacity": str(self.capacity),
            "cost": f"{self.cost.quantize(_SHOWN_COST).normalize():f}",
            "priority": str(self.priority),
        }


def score_of(
    policy: Policy, *, latency_ms: int, free_percent: int, worst_cost_usd: Decimal, tokens: int, priority: int
) -> Score:
    """See the module; `free_percent` is the capacity in hundredths, `tokens` input and output of the worst case."""
    weights = policy.score_weights
    latency_ms = max(latency_ms, 1)
    capacity = Decimal(free_percent) / 100
    cost = worst_cost_usd * 1000 / tokens if tokens else worst_cost_usd
    share = Decimal(priority) / 100
    total = (
        weights.get("w1", _ZERO) / latency_ms
        + weights.get("w2", _ZERO) * capacity
        - weights.get("w3", _ZERO) * cost
        + weights.get("w4", _ZERO) * share
    )
    return Score(latency_ms, capacity, cost, share, total)
