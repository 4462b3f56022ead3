"""Rounding of invoiced money, exact to the minor unit."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.invoices.rounding import (
    apportion,
    is_quantised,
    minor_digits,
    minor_unit,
    money_quantise,
    split,
    whole_unit_rounding,
)

CENT = Decimal("0.01")
AMOUNTS = st.integers(-10_000_000, 10_000_000).map(lambda cents: Decimal(cents) * CENT)


@pytest.mark.parametrize(
    ("currency", "digits"), [("DZD", 2), ("INR", 2), ("USD", 2), ("EUR", 2), ("JPY", 0), ("XOF", 0), ("TND", 3), ("CLF", 4)]
)
def test_minor_digits_are_those_of_iso_4217(currency: str, digits: int) -> None:
    assert minor_digits(currency) == digits


@pytest.mark.parametrize("currency", ["", "dzd", "DA", "DZDX", "DZ1", "DZD\n"])
def test_what_is_no_currency_code_is_refused(currency: str) -> None:
    with pytest.raises(ValueError, match="ISO 4217"):
        minor_unit(currency)


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.005", "DZD", "0.01"),
        ("-0.005", "DZD", "-0.01"),
        ("0.00499999999999999999999999999999999999", "DZD", "0.00"),
        ("2.675", "USD", "2.68"),
        ("0.5", "JPY", "1"),
        ("1.5", "JPY", "2"),
        ("-2.5", "JPY", "-3"),
        ("1.0005", "TND", "1.001"),
        ("11900", "DZD", "11900.00"),
    ],
)
def test_halves_go_away_from_zero(amount: str, currency: str, rounded: str) -> None:
    result = money_quantise(Decimal(amount), currency)

    assert str(result) == rounded


def test_a_fraction_is_rounded_once() -> None:
    assert money_quantise(Fraction(1, 3), "DZD") == Decimal("0.33")
    assert money_quantise(Fraction(2, 3), "DZD") == Decimal("0.67")


def test_whole_minor_units_are_told_from_finer_amounts() -> None:
    assert is_quantised(Decimal("1.10"), "DZD")
    assert not is_quantised(Decimal("1.101"), "DZD")
    assert not is_quantised(Decimal("1.1"), "JPY")


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        # 100 / 3 = 33.33 each, one cent is left and goes to the first of equals.
        ("100.00", ["1", "1", "1"], ["33.34", "33.33", "33.33"]),
        # 10 * 0.15 / 0.50 = 3.00, 10 * 0.35 / 0.50 = 7.00
        ("10.00", ["0.15", "0.35"], ["3.00", "7.00"]),
        # 0.05 / 7 * (1, 2, 4) = 0.71, 1.43, 2.86 cents: floors 0, 1, 2, the two cents left to 0.86 and 0.71.
        ("0.05", ["1", "2", "4"], ["0.01", "0.01", "0.03"]),
        # A discount among the lines takes its part back: 90 * 100 / 90 and 90 * -10 / 90.
        ("90.00", ["100", "-10"], ["100.00", "-10.00"]),
        ("-100.00", ["1", "1", "1"], ["-33.34", "-33.33", "-33.33"]),
        ("0.00", ["5", "7"], ["0.00", "0.00"]),
        ("0.00", ["0", "0"], ["0.00", "0.00"]),
        # A line of nothing never gets a stray cent.
        ("0.01", ["0", "0", "3"], ["0.00", "0.00", "0.01"]),
        ("0.00", [], []),
    ],
)
def test_shares_follow_the_largest_remainder(total: str, weights: list[str], shares: list[str]) -> None:
    result = split(Decimal(total), [Decimal(weight) for weight in weights], CENT)

    assert [str(share) for share in result] == shares


def test_an_amount_is_not_divided_by_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to divide"):
        split(Decimal("1.00"), [Decimal(1), Decimal(-1)], CENT)


def test_shares_that_do_not_belong_to_the_total_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be rounded"):
        apportion(Decimal("1.00"), [Fraction(1, 2)], CENT)


@given(total=AMOUNTS, weights=st.lists(st.integers(1, 10**6).map(Decimal), min_size=1, max_size=30))
def test_shares_add_up_are_fair_and_mirror(total: Decimal, weights: list[Decimal]) -> None:
    shares = split(total, weights, CENT)

    exact = [Fraction(total) * Fraction(weight) / Fraction(sum(weights)) for weight in weights]
    assert sum(shares) == total
    assert all(abs(Fraction(share) - wanted) < Fraction(CENT) for share, wanted in zip(shares, exact, strict=True))
    assert split(-total, weights, CENT) == [-share for share in shares]


@pytest.mark.parametrize(
    ("amount", "rounding"),
    [("393.33", "-0.33"), ("393.50", "0.50"), ("393.49", "-0.49"), ("-393.50", "-0.50"), ("393.00", "0.00")],
)
def test_a_rounding_line_makes_whole_units(amount: str, rounding: str) -> None:
    line = whole_unit_rounding(Decimal(amount), "INR")

    assert str(line) == rounding
    assert (Decimal(amount) + line) % 1 == 0
