"""How documents write numbers, money, dates and foreign text."""

from datetime import date
from decimal import Decimal

import pytest

from billing.invoices.pdf.formatting import (
    amount_format,
    country_name,
    date_format,
    foreign_text,
    money_parts,
    percent_format,
    plain_text,
    quantity_format,
    unit_price_format,
)

THIN = "\u202f"


@pytest.mark.parametrize(
    ("amount", "currency", "language", "written"),
    [
        ("11900", "DZD", "fr", f"11{THIN}900,00"),
        ("11900", "DZD", "ar", f"11{THIN}900,00"),
        ("11900", "DZD", "en", "11,900.00"),
        ("0.5", "DZD", "fr", "0,50"),
        ("999", "DZD", "fr", "999,00"),
        ("1234567.89", "DZD", "fr", f"1{THIN}234{THIN}567,89"),
        ("118000", "INR", "en", "1,18,000.00"),
        ("12345678.9", "INR", "en", "1,23,45,678.90"),
        ("118000", "INR", "fr", f"118{THIN}000,00"),
        ("-1250", "DZD", "fr", f"\u22121{THIN}250,00"),
        ("-0.00", "DZD", "fr", "0,00"),
        ("1500", "JPY", "en", "1,500"),
    ],
)
def test_amounts(amount: str, currency: str, language: str, written: str) -> None:
    assert amount_format(Decimal(amount), currency, language) == written


@pytest.mark.parametrize(
    ("currency", "language", "parts"),
    [
        ("DZD", "fr", ("", "49,00", "DA")),
        ("DZD", "ar", ("", "49,00", "دج")),
        ("DZD", "en", ("DZD\u00a0", "49.00", "")),
        ("USD", "en", ("$", "49.00", "")),
        ("INR", "en", ("₹", "49.00", "")),
        ("TND", "fr", ("", "49,000", "TND")),
    ],
)
def test_totals_name_their_currency(currency: str, language: str, parts: tuple[str, str, str]) -> None:
    assert money_parts(Decimal(49), currency, language) == parts


def test_unit_prices_and_quantities_keep_what_they_need() -> None:
    assert unit_price_format(Decimal("0.008404"), "DZD", "fr") == "0,008404"
    assert unit_price_format(Decimal("4000"), "DZD", "fr") == f"4{THIN}000,00"
    assert quantity_format(Decimal("1.500000"), "fr") == "1,5"
    assert quantity_format(Decimal("1E+3"), "en") == "1,000"
    assert percent_format(Decimal("0.19"), "fr") == f"19{THIN}%"
    assert percent_format(Decimal("0.0550"), "en") == "5.5%"


def test_dates_are_unmistakable() -> None:
    assert date_format(date(2026, 2, 1), "fr") == "01/02/2026"
    assert date_format(date(2026, 2, 1), "en") == "1\u00a0Feb\u00a02026"


def test_countries_have_names_in_each_language() -> None:
    assert [country_name("DZ", language) for language in ("fr", "ar", "en")] == ["Algérie", "الجزائر", "Algeria"]
    assert country_name("ZZ", "fr") == "ZZ"


def test_foreign_text_cannot_turn_a_document_around() -> None:
    assert plain_text("To\u061ct\u200fal\u202e00,1\u202c \u2067x\u2069\x00\x1b\n  y\u200b") == "Total00,1 x y"


def test_foreign_text_is_isolated_where_it_runs_the_other_way() -> None:
    assert foreign_text("ACME (Alger)", right_to_left=False) == "ACME (Alger)"
    assert foreign_text("ACME (Alger)", right_to_left=True) == "\u2066ACME (Alger)\u2069"
    assert foreign_text("شركة النور", right_to_left=False) == "\u2068شركة النور\u2069"
    assert foreign_text("رصيد 1 000 credits", right_to_left=True) == "\u2068رصيد \u20661 000 credits\u2069\u2069"
    assert foreign_text("رقم -5 %.", right_to_left=True) == "\u2068رقم \u2066-5 %\u2069.\u2069"
    assert foreign_text("", right_to_left=True) == ""


def test_a_word_longer_than_its_column_may_break() -> None:
    assert foreign_text("x" * 28, right_to_left=False) == "x" * 28
    assert foreign_text("x" * 29, right_to_left=False) == "\u200b".join("x" * 29)
