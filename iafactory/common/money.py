"""Money arithmetic: `Decimal` everywhere, each unit quantised in one function."""

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

CREDIT = Decimal("0.000001")
USD = Decimal("0.000000001")
NANO_PER_USD = 1_000_000_000
MICRO_PER_CREDIT = 1_000_000
ZERO = Decimal(0)


def credits_quantise(amount: Decimal) -> Decimal:
    """`amount` in credits, rounded half up to 6 places."""
    return amount.quantize(CREDIT, ROUND_HALF_UP)


def usd_quantise(amount: Decimal) -> Decimal:
    """`amount` in USD, rounded half even to 9 places (nano-USD)."""
    return amount.quantize(USD, ROUND_HALF_EVEN)


def usd_ceil(amount: Decimal) -> Decimal:
    """`amount` in USD, rounded up to 9 places: for worst cases."""
    return amount.quantize(USD, ROUND_CEILING)


def usd_to_nano(amount: Decimal) -> int:
    """USD as integer nano-USD, the unit of Redis budgets."""
    return int(usd_quantise(amount) * NANO_PER_USD)


def credits_to_micro(amount: Decimal) -> int:
    """Credits as integer micro-credits, the unit of Redis quotas on credits plans."""
    return int(credits_quantise(amount) * MICRO_PER_CREDIT)


def credits_for_cost(list_cost_usd: Decimal, *, margin_multiplier: Decimal, usd_per_credit: Decimal, whole: bool) -> Decimal:
    """Price in credits of a call whose list cost is `list_cost_usd`.

    credits = list cost * margin / usd per credit; `whole` rounds half up to at least 1, otherwise to 6 places and at least
    0.000001. A list cost of zero is free either way.
    """
    if list_cost_usd <= 0:
        return ZERO
    raw = list_cost_usd * margin_multiplier / usd_per_credit
    if whole:
        return max(raw.quantize(Decimal(1), ROUND_HALF_UP), Decimal(1)).quantize(CREDIT)
    return max(credits_quantise(raw), CREDIT)


def plain(amount: Decimal) -> Decimal:
    """`amount` without trailing zeros and without an exponent: how people expect to read a number."""
    short = amount.normalize()
    return short.quantize(Decimal(1)) if short.as_tuple().exponent > 0 else short  # type: ignore[operator]
