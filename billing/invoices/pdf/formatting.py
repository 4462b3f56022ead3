"""How documents write numbers, money, dates and foreign text, per language. Latin digits everywhere, as Algerian offices do."""

import json
import re
import unicodedata
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path

from ..rounding import minor_digits

NARROW_SPACE = "\u202f"
NO_BREAK_SPACE = "\u00a0"
MINUS = "\u2212"
_LATIN = "0-9A-Za-z\u00c0-\u024f"
_LATIN_RUN = re.compile(rf"[+#−-]?[{_LATIN}](?:[{_LATIN} .,:/+–_'’&@#%°·\u200b-]*[{_LATIN}%])?")
FIRST_STRONG_ISOLATE, LEFT_TO_RIGHT_ISOLATE, POP_ISOLATE = "\u2068", "\u2066", "\u2069"
# A name without blanks that is longer than this may break between any two characters.
LONGEST_WORD = 28

_SYMBOLS = {
    "fr": {"DZD": "DA", "EUR": "€", "INR": "₹", "USD": "$"},
    "ar": {"DZD": "دج"},
    "en": {"EUR": "€", "INR": "₹", "USD": "$"},
}
_ENGLISH_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_COUNTRIES_FILE = Path(__file__).parent / "countries.json"
_LANGUAGE_COLUMNS = {"fr": 0, "ar": 1, "en": 2}


def number_format(number: Decimal, language: str, *, digits: int, lakh: bool = False) -> str:
    """`number` with `digits` decimals: 11 900,00 in French and Arabic, 11,900.00 in English, 1,18,000.00 with `lakh`."""
    text = f"{abs(number):.{digits}f}"
    whole, _, fraction = text.partition(".")
    separator, point = (",", ".") if language == "en" else (NARROW_SPACE, ",")
    grouped = _grouped(whole, separator, lakh=lakh)
    sign = MINUS if number < 0 and text.strip("0.") else ""
    return f"{sign}{grouped}{point}{fraction}" if digits else f"{sign}{grouped}"


def _grouped(whole: str, separator: str, *, lakh: bool) -> str:
    head, tail = whole[:-3], whole[-3:]
    size = 2 if lakh else 3
    groups = [head[max(0, end - size) : end] for end in range(len(head), 0, -size)]
    return separator.join([*reversed(groups), tail])


def amount_format(amount: Decimal, currency: str, language: str) -> str:
    """An amount of a column: without the currency, at its minor unit."""
    return number_format(amount, language, digits=minor_digits(currency), lakh=currency == "INR" and language == "en")


def unit_price_format(price: Decimal, currency: str, language: str) -> str:
    """A unit price: at the minor unit, or with as many decimals as it needs, up to 6."""
    exact = -int(price.normalize().as_tuple().exponent)
    digits = min(6, max(minor_digits(currency), exact))
    return number_format(price, language, digits=digits, lakh=currency == "INR" and language == "en")


def quantity_format(quantity: Decimal, language: str) -> str:
    """A quantity without trailing zeros."""
    return number_format(quantity, language, digits=max(0, -int(quantity.normalize().as_tuple().exponent)))


def money_parts(amount: Decimal, currency: str, language: str) -> tuple[str, str, str]:
    """(symbol before, number, symbol after) of an amount that names its currency: 11 900,00 DA, ₹1,18,000.00."""
    number = amount_format(amount, currency, language)
    symbol = _SYMBOLS[language].get(currency, currency)
    if language == "en" and symbol != currency:
        return symbol, number, ""
    return ("", number, symbol) if language != "en" else (symbol + NO_BREAK_SPACE, number, "")


def percent_format(rate: Decimal, language: str) -> str:
    """A rate given as a fraction: 0.19 is 19 % (English: 19%)."""
    percent = rate * 100
    number = number_format(percent, language, digits=max(0, -int(percent.normalize().as_tuple().exponent)))
    return f"{number}%" if language == "en" else f"{number}{NARROW_SPACE}%"


def date_format(day: date, language: str) -> str:
    """20/11/2026; 20 Nov 2026 in English, where the order of day and month is not agreed on."""
    if language == "en":
        return f"{day.day}{NO_BREAK_SPACE}{_ENGLISH_MONTHS[day.month - 1]}{NO_BREAK_SPACE}{day.year}"
    return f"{day:%d/%m/%Y}"


@cache
def _countries() -> dict[str, list[str]]:
    names: dict[str, list[str]] = json.loads(_COUNTRIES_FILE.read_text(encoding="utf-8"))
    return names


def country_name(code: str, language: str) -> str:
    """The name of an ISO 3166 country; a code without one stands for itself."""
    names = _countries().get(code)
    return names[_LANGUAGE_COLUMNS[language]] if names else code


def plain_text(text: str) -> str:
    """Foreign text as one line of harmless characters.

    Control characters and direction overrides, which could make a document show something else than it says, are dropped.
    """
    kept = "".join(" " if character.isspace() else character for character in text)
    kept = "".join(character for character in kept if unicodedata.category(character) not in ("Cc", "Cs", "Co", "Cn"))
    kept = re.sub("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]", "", kept)
    return " ".join(kept.split())


def foreign_text(text: str, *, right_to_left: bool) -> str:
    """Someone's own text, ready to stand in a document: what runs the other way is isolated, and long words may break.

    Beside Arabic, runs of Latin letters and digits are isolated too: a reference or "1 000" keeps its order.
    """
    clean = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: "\u200b".join(word[0]), plain_text(text))
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in clean):
        inner = _LATIN_RUN.sub(lambda run: f"{LEFT_TO_RIGHT_ISOLATE}{run[0]}{POP_ISOLATE}", clean)
        return f"{FIRST_STRONG_ISOLATE}{inner}{POP_ISOLATE}"
    return f"{LEFT_TO_RIGHT_ISOLATE}{clean}{POP_ISOLATE}" if right_to_left and clean else clean
