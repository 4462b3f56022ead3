"""What a call can cost at most, and what it did cost: USD from price rows, credits from USD."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from iafactory.common.money import ZERO, credits_for_cost, usd_ceil, usd_quantise

from .providers.base import Usage
from .snapshot import Policy, Price, Route, TierPrice

_PER_MILLION = Decimal("0.000001")


class PriceUnknown(Exception):
    """A price the call needs is not known: the call is refused rather than sold at a guess."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """How list cost becomes credits for one call: the plan's margin and rounding, or nothing on a quota."""

    margin_multiplier: Decimal
    usd_per_credit: Decimal
    whole_credits: bool
    charged: bool

    def on(self, route: Route) -> "Tariff":
        """The same tariff for a route whose model has a margin of its own."""
        if route.margin_multiplier is None:
            return self
        return replace(self, margin_multiplier=route.margin_multiplier)

    def credits(self, list_cost_usd: Decimal) -> Decimal:
        """The price in credits of a call with that list cost."""
        if not self.charged:
            return ZERO
        return credits_for_cost(
            list_cost_usd,
            margin_multiplier=self.margin_multiplier,
            usd_per_credit=self.usd_per_credit,
            whole=self.whole_credits,
        )


def tariff_of(policy: Policy, *, whole_credits: bool, charged: bool) -> Tariff:
    return Tariff(policy.margin_multiplier, policy.usd_per_credit, whole_credits, charged)


def _highest(*prices: Decimal | None) -> Decimal:
    return max(price for price in prices if price is not None)


def worst_list_cost(price: Price, *, input_tokens: int, output_tokens: int) -> Decimal:
    """The most a call with that much input and output can cost at list price, in USD, rounded up.

    Any tier up to `input_tokens` may turn out to apply, so the dearest of them counts. Raises `PriceUnknown`.
    """
    dearest = ZERO
    tiers: list[TierPrice] = [price.base, *(tier for threshold, tier in price.tiers if input_tokens > threshold)]
    for tier in tiers:
        if tier.input is None or tier.output is None:
            raise PriceUnknown
        p_in = _highest(tier.input, tier.cached_input, tier.cache_write, tier.cache_write_1h)
        p_out = _highest(tier.output, tier.reasoning_output)
        dearest = max(dearest, (input_tokens * p_in + output_tokens * p_out) * _PER_MILLION)
    return usd_ceil(dearest)


def affordable_output_tokens(price: Price, *, input_tokens: int, list_cost_usd: Decimal) -> int:
    """How many output tokens fit into `list_cost_usd` beside the input; 0 or less when the input alone does not fit."""
    left = list_cost_usd - worst_list_cost(price, input_tokens=input_tokens, output_tokens=0)
    per_token = worst_list_cost(price, input_tokens=input_tokens, output_tokens=1_000_000) - worst_list_cost(
        price, input_tokens=input_tokens, output_tokens=0
    )
    return int(left / per_token * 1_000_000) if per_token else 0


def list_cost(price: Price, usage: Usage) -> Decimal:
    """The list cost of `usage` in USD, to the nano-USD. A part without a price of its own costs what its whole costs."""
    tier = price.for_input(usage.input_total)
    if tier.input is None or tier.output is None:
        raise PriceUnknown
    write_5m = usage.cache_write - usage.cache_write_1h
    fresh = usage.input_total - usage.cache_read - usage.cache_write
    visible = usage.output_total - usage.reasoning
    p_write = tier.input if tier.cache_write is None else tier.cache_write
    total = (
        max(fresh, 0) * tier.input
        + usage.cache_read * (tier.input if tier.cached_input is None else tier.cached_input)
        + write_5m * p_write
        + usage.cache_write_1h * (p_write if tier.cache_write_1h is None else tier.cache_write_1h)
        + max(visible, 0) * tier.output
        + usage.reasoning * (tier.output if tier.reasoning_output is None else tier.reasoning_output)
    )
    return usd_quantise(total * _PER_MILLION)


def provider_cost(route: Route, list_cost_usd: Decimal, usage: Usage) -> Decimal:
    """What the provider charges us for a call: its own figure if it gave one, else our share of the list price."""
    if usage.provider_cost_usd is not None and route.cost_factor:
        return usd_quantise(usage.provider_cost_usd)
    return usd_quantise(list_cost_usd * route.cost_factor)


def price_facts(route: Route, price: Price, usage: Usage | None, tariff: Tariff) -> dict[str, Any]:
    """What the usage row keeps, so that the charge can be explained when prices have changed."""
    tier = price.for_input(usage.input_total if usage else 0)
    named = {
        "input_per_mtok": tier.input,
        "cached_input_per_mtok": tier.cached_input,
        "cache_write_per_mtok": tier.cache_write,
        "cache_write_1h_per_mtok": tier.cache_write_1h,
        "output_per_mtok": tier.output,
        "reasoning_output_per_mtok": tier.reasoning_output,
    }
    return {
        "price_id": price.id,
        **{name: format(value.normalize(), "f") for name, value in named.items() if value is not None},
        "cost_factor": format(route.cost_factor.normalize(), "f"),
        "margin_multiplier": format(tariff.margin_multiplier.normalize(), "f"),
        "usd_per_credit": format(tariff.usd_per_credit.normalize(), "f"),
        "rounding": "whole" if tariff.whole_credits else "exact",
        "charged": tariff.charged,
    }
