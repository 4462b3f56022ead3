"""What a call can cost at most, and what it did cost: USD from price rows, credits from USD."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import structs

from iafactory.common.by_identity import ByIdentity
from iafactory.common.money import ZERO, credits_for_cost, usd_ceil, usd_quantise

from .providers.base import Usage
from .snapshot import Policy, Price, Route, TierPrice

_PER_MILLION = Decimal("0.000001")


class PriceUnknown(Exception):
    """A price the call needs is not known: the call is refused rather than sold at a guess."""


class Tariff(msgspec.Struct, frozen=True):
    """How list cost becomes credits for one call: the plan's margin and rounding, or nothing on a quota."""

    margin_multiplier: Decimal
    usd_per_credit: Decimal
    whole_credits: bool
    charged: bool

    def on(self, route: Route) -> "Tariff":
        """The same tariff for a route whose model has a margin of its own."""
        return self if route.margin_multiplier is None else _tariff_on(self, route)

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
    """The tariff of a plan; the same one each time."""
    return _tariff_of(policy, whole_credits, charged)


_tariff_of = ByIdentity(
    lambda policy, whole_credits, charged: Tariff(policy.margin_multiplier, policy.usd_per_credit, whole_credits, charged)
)
_tariff_on = ByIdentity(lambda tariff, route: structs.replace(tariff, margin_multiplier=route.margin_multiplier))


@ByIdentity
def _dearest(tier: TierPrice) -> tuple[Decimal, Decimal]:
    """The highest price of a token that comes in, and of one that goes out. Raises `PriceUnknown`."""
    if tier.input is None or tier.output is None:
        raise PriceUnknown
    ways_in = (tier.input, tier.cached_input, tier.cache_write, tier.cache_write_1h)
    ways_out = (tier.output, tier.reasoning_output)
    return max(usd for usd in ways_in if usd is not None), max(usd for usd in ways_out if usd is not None)


def worst_list_cost(price: Price, *, input_tokens: int, output_tokens: int) -> Decimal:
    """The most a call with that much input and output can cost at list price, in USD, rounded up.

    Any tier up to `input_tokens` may turn out to apply, so the dearest of them counts. Raises `PriceUnknown`.
    """
    dearest = ZERO
    tiers: list[TierPrice] = [price.base, *(tier for threshold, tier in price.tiers if input_tokens > threshold)]
    for tier in tiers:
        p_in, p_out = _dearest(tier)
        dearest = max(dearest, (input_tokens * p_in + output_tokens * p_out) * _PER_MILLION)
    return usd_ceil(dearest)


def affordable_output_tokens(price: Price, *, input_tokens: int, list_cost_usd: Decimal) -> int:
    """How many output tokens fit into `list_cost_usd` beside the input; 0 or less when the input alone does not fit."""
    left = list_cost_usd - worst_list_cost(price, input_tokens=input_tokens, output_tokens=0)
    per_token = worst_list_cost(price, input_tokens=input_tokens, output_tokens=1_000_000) - worst_list_cost(
        price, input_tokens=input_tokens, output_tokens=0
    )
    return int(left / per_token * 1_000_000) if per_token else 0


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """What `count` of a unit costs: `usd` for every `per` of them, under the name that the price row has for it."""

    name: str
    unit: str
    count: Decimal
    per: int
    usd: Decimal

    @property
    def cost_usd(self) -> Decimal:
        return self.count * self.usd / self.per


# For each unit the names of its prices, and how many units each is for: all that a row knows count.
_UNIT_PRICES = {
    "characters": (("per_1k_chars", 1000),),
    "seconds": (("per_audio_hour", 3600), ("per_second", 1)),
    "clips": (("per_clip", 1),),
    "images": (("per_image", 1),),
}
# A provider's least, in seconds, for each recording.
_LEAST_SECONDS = "least_audio_seconds"


def unit_prices(price: Price, units: Mapping[str, Decimal]) -> list[UnitPrice]:
    """The prices of `units` that the row has; none when they are not what is billed."""
    found = []
    for unit, count in units.items():
        least = price.units.get(_LEAST_SECONDS, ZERO) if unit == "seconds" else ZERO
        for name, per in _UNIT_PRICES.get(unit, ()):
            if (usd := price.units.get(name)) is not None:
                found.append(UnitPrice(name, unit, max(count, least), per, usd))
    return found


def image_price(price: Price, *, quality: str | None, size: str | None, prefix: str = "per_image") -> Decimal | None:
    """The price of one image of that quality and size, from `per_image`, `per_image_<quality>`, `per_image_<quality>_<size>`.

    `per_image_<quality>` is for 1024x1024 where other sizes have prices of their own. What has no price of its own costs
    `per_image`, or else the dearest there is. None when no image has a price.
    """
    known = {name: usd for name, usd in price.units.items() if name == prefix or name.startswith(f"{prefix}_")}
    if not known:
        return None
    turned = "x".join(reversed(size.split("x"))) if size else ""
    for wanted in (size, turned):
        if (usd := known.get(f"{prefix}_{quality}_{wanted}")) is not None:
            return usd
    has_sizes = any(name.startswith(f"{prefix}_{quality}_") for name in known)
    if (usd := known.get(f"{prefix}_{quality}")) is not None and (size == "1024x1024" or not has_sizes):
        return usd
    return known.get(prefix, max(known.values()))


def with_image_price(price: Price, *, quality: str | None, size: str | None) -> Price:
    """The row with the one price that an image of that quality and size has; unchanged where images have none."""
    usd = image_price(price, quality=quality, size=size)
    if usd is None:
        return price
    others = {name: value for name, value in price.units.items() if not name.startswith("per_image")}
    return replace(price, units={**others, "per_image": usd})


def is_priced(mode: str, price: Price) -> bool:
    """Whether the row knows what a model of that mode is billed by."""
    tokens = price.base.input is not None and price.base.output is not None
    match mode:
        case "embedding":
            return price.base.input is not None
        case "image":
            by_tokens = tokens and image_price(price, quality=None, size=None, prefix="hold_per_image") is not None
            return by_tokens or image_price(price, quality=None, size=None) is not None
        case "tts":
            return tokens or "per_1k_chars" in price.units
        case "stt":
            return bool({"per_audio_hour", "per_second"} & price.units.keys())
        case "music":
            return bool({"per_clip", "per_second"} & price.units.keys())
    return tokens


def _tokens_count_too(priced: list[UnitPrice]) -> bool:
    """Whether tokens are billed beside units: an image's text is, what a second or a character costs covers all."""
    return all(line.unit == "images" for line in priced)


def _times(count: int, usd: Decimal | None, *, or_nothing: bool) -> Decimal:
    if not count or (usd is None and or_nothing):
        return ZERO
    if usd is None:
        raise PriceUnknown
    return count * usd


def worst_unit_cost(price: Price, units: Mapping[str, Decimal], *, input_tokens: int, output_tokens: int) -> Decimal:
    """The most that `units`, with that many tokens beside them, can cost at list price, in USD, rounded up.

    Where no unit has a price, tokens are what is billed. Raises `PriceUnknown`.
    """
    priced = unit_prices(price, units)
    total = sum((line.cost_usd for line in priced), ZERO)
    if _tokens_count_too(priced):
        tiers = [price.base, *(tier for threshold, tier in price.tiers if input_tokens > threshold)]
        total += _PER_MILLION * max(
            _times(input_tokens, tier.input, or_nothing=bool(priced))
            + _times(output_tokens, tier.output, or_nothing=bool(priced))
            for tier in tiers
        )
    return usd_ceil(total)


def list_cost(price: Price, usage: Usage) -> Decimal:
    """The list cost of `usage` in USD, to the nano-USD. A part without a price of its own costs what its whole costs.

    Raises `PriceUnknown` for tokens that are what is billed, and have no price.
    """
    priced = unit_prices(price, usage.units) if usage.units else []
    units = sum((line.cost_usd for line in priced), ZERO)
    if not _tokens_count_too(priced):
        return usd_quantise(units)
    or_nothing = bool(priced)
    tier = price.for_input(usage.input_total)
    write_5m = usage.cache_write - usage.cache_write_1h
    fresh = usage.input_total - usage.cache_read - usage.cache_write
    visible = usage.output_total - usage.reasoning
    p_write = tier.input if tier.cache_write is None else tier.cache_write
    parts = (
        (max(fresh, 0), tier.input),
        (usage.cache_read, tier.input if tier.cached_input is None else tier.cached_input),
        (write_5m, p_write),
        (usage.cache_write_1h, p_write if tier.cache_write_1h is None else tier.cache_write_1h),
        (max(visible, 0), tier.output),
        (usage.reasoning, tier.output if tier.reasoning_output is None else tier.reasoning_output),
    )
    tokens = sum((_times(count, usd, or_nothing=or_nothing) for count, usd in parts), ZERO)
    return usd_quantise(units + tokens * _PER_MILLION)


def provider_cost(route: Route, list_cost_usd: Decimal, usage: Usage) -> Decimal:
    """What the provider charges us for a call: its own figure if it gave one, else our share of the list price."""
    if usage.provider_cost_usd is not None and route.cost_factor:
        return usd_quantise(usage.provider_cost_usd)
    return usd_quantise(list_cost_usd * route.cost_factor)


def price_facts(route: Route, price: Price, usage: Usage | None, tariff: Tariff) -> Mapping[str, Any]:
    """What the usage row keeps, so that the charge can be explained when prices have changed."""
    tier = price.for_input(usage.input_total if usage else 0)
    facts = _facts(route, price, tier, tariff)
    priced = unit_prices(price, usage.units) if usage and usage.units else []
    return {**facts, "unit_prices": [_unit_facts(line) for line in priced]} if priced else facts


@ByIdentity
def _facts(route: Route, price: Price, tier: TierPrice, tariff: Tariff) -> dict[str, Any]:
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


def _unit_facts(line: UnitPrice) -> dict[str, Any]:
    return {
        "name": line.name,
        "unit": line.unit,
        "count": format(line.count.normalize(), "f"),
        "per": line.per,
        "usd": format(line.usd.normalize(), "f"),
    }
