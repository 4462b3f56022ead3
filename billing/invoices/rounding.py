"""Rounding of invoiced money: minor units per currency, shares that add up, whole units where a payment needs them."""

import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from math import floor

# ISO 4217: the currencies whose minor unit is not a hundredth.
_WITHOUT_MINOR_UNIT = frozenset(
    ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"]
)
_IN_THOUSANDTHS = frozenset(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])
_DIGITS_OTHER_THAN_TWO = (
    dict.fromkeys(_WITHOUT_MINOR_UNIT, 0) | dict.fromkeys(_IN_THOUSANDTHS, 3) | dict.fromkeys(("CLF", "UYW"), 4)
)


def minor_digits(currency: str) -> int:
    """Decimal places of a currency by ISO 4217: 2 for DZD, INR, USD, EUR. ValueError when it is no ISO code."""
    if not re.fullmatch("[A-Z]{3}", currency):
        raise ValueError(f"{currency!r} is not an ISO 4217 code")
    return _DIGITS_OTHER_THAN_TWO.get(currency, 2)


def minor_unit(currency: str) -> Decimal:
    """The smallest amount of a currency: 0.01 for DZD."""
    return Decimal(1).scaleb(-minor_digits(currency))


def money_quantise(amount: Decimal | Fraction, currency: str) -> Decimal:
    """`amount` at the currency's minor unit, halves away from zero (0.005 is 0.01, -0.005 is -0.01)."""
    return quantise(amount, minor_unit(currency))


def quantise(amount: Decimal | Fraction, unit: Decimal) -> Decimal:
    """`amount` as the nearest multiple of `unit`, halves away from zero. Exact: nothing is rounded before."""
    units = Fraction(amount) / Fraction(unit)
    nearest = floor(abs(units) + Fraction(1, 2))
    return _multiple(nearest if units >= 0 else -nearest, unit)


def is_quantised(amount: Decimal, currency: str) -> bool:
    """Whether `amount` is a whole number of minor units."""
    return (Fraction(amount) / Fraction(minor_unit(currency))).denominator == 1


def apportion(total: Decimal, exact_shares: Sequence[Fraction], unit: Decimal) -> list[Decimal]:
    """`exact_shares` as multiples of `unit` that add up to `total`, by largest remainder; of equal ones the first gets more.

    `total` is the rounded sum of the shares. The shares of a negated total are the negated shares, so that a credit note
    mirrors its invoice. ValueError when the shares are further from the total than rounding explains.
    """
    if total < 0 or (total == 0 and sum(exact_shares) < 0):
        return [-share for share in apportion(-total, [-share for share in exact_shares], unit)]
    in_units = [share / Fraction(unit) for share in exact_shares]
    whole = [floor(share) for share in in_units]
    missing = Fraction(total) / Fraction(unit) - sum(whole)
    if missing.denominator != 1 or not 0 <= missing <= len(whole):
        raise ValueError(f"shares of {sum(exact_shares)} cannot be rounded to {total} in units of {unit}")
    by_remainder = sorted(range(len(whole)), key=lambda position: whole[position] - in_units[position])
    for position in by_remainder[: int(missing)]:
        whole[position] += 1
    return [_multiple(units, unit) for units in whole]


def split(total: Decimal, weights: Sequence[Decimal], unit: Decimal) -> list[Decimal]:
    """`total` divided in proportion to `weights`, in multiples of `unit`, by largest remainder.

    Weights may be negative (a discount among lines); ValueError when they add up to zero and `total` does not.
    """
    weight = sum((Fraction(weight) for weight in weights), Fraction(0))
    if weight == 0:
        if total != 0:
            raise ValueError("nothing to divide an amount by")
        return [_multiple(0, unit) for _ in weights]
    return apportion(total, [Fraction(total) * Fraction(share) / weight for share in weights], unit)


def whole_unit_rounding(amount: Decimal, currency: str, *, step: Decimal = Decimal(1)) -> Decimal:
    """What a rounding line adds to `amount` so that it becomes a multiple of `step`, halves away from zero.

    Never more than half a step: 393.33 gives -0.33, 393.50 gives 0.50.
    """
    return money_quantise(quantise(amount, step) - amount, currency)


def _multiple(count: int, unit: Decimal) -> Decimal:
    return (Decimal(count) * unit).quantize(unit, ROUND_HALF_UP)
