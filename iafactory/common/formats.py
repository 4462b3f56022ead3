"""Numbers, money, instants as the reader's language writes them."""

from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal, localcontext
from typing import Any

from babel import Locale
from babel.dates import format_date, format_datetime, format_timedelta
from babel.numbers import format_currency, format_decimal, format_percent, get_currency_name, get_currency_symbol
from babel.units import format_unit
from django.utils.functional import lazy
from django.utils.translation import get_language

from . import clock

# Arabic as it is written in Algeria: with western digits.
NO_BREAK_SPACE = "\u00a0"
LOCALES = {"en": "en", "fr": "fr", "ar": "ar_DZ"}


def locale() -> str:
    """The name under which Babel knows the language of the page."""
    return LOCALES.get((get_language() or "en").split("-")[0], "en")


def number_text(value: Any, places: int = 6) -> str:
    """A number with at most so many decimal places."""
    # All addresses of IPv6 are a number of 39 digits; Decimal works with 28 unless told otherwise.
    with localcontext(prec=60):
        return format_decimal(Decimal(str(value)), format=f"#,##0.{'#' * places}" if places else "#,##0", locale=locale())


def credits_text(value: Any) -> str:
    """Credits: two places, six where there is less than one."""
    amount = Decimal(str(value))
    return number_text(amount, 6 if abs(amount) < 1 else 2)


def money_text(value: Any, currency: str) -> str:
    """Money in its currency; whole amounts without a fraction."""
    amount = Decimal(str(value))
    pattern = "#,##0" if amount == amount.to_integral_value() else "#,##0.00"
    found = locale()
    # A code of letters must not stick to its number.
    gap = NO_BREAK_SPACE if get_currency_symbol(currency, locale=found).isalpha() else ""
    pattern = f"¤{gap}{pattern}" if found == "en" else f"{pattern}{NO_BREAK_SPACE}¤"
    return format_currency(amount, currency, format=pattern, locale=found, currency_digits=False)


def percent_text(share: Any) -> str:
    """0.25 as 25 %."""
    return format_percent(Decimal(str(share)), format="#,##0.#%", locale=locale())


def duration_text(milliseconds: Any) -> str:
    """How long something took: milliseconds, from a second on seconds with two places."""
    took = Decimal(str(milliseconds))
    unit, amount = ("millisecond", took) if took < 1000 else ("second", (took / 1000).quantize(Decimal("0.01")))
    return format_unit(amount, f"duration-{unit}", "short", locale=locale())


def span_text(amount: int, unit: str) -> str:
    """A length of time in whole units (`second`, `minute`, `hour`, `day`)."""
    return format_unit(amount, f"duration-{unit}", "short", locale=locale())


def country_text(code: str) -> str:
    """The name of a country; of one that is not known its code."""
    return str(Locale.parse(locale()).territories.get(code, code))


def currency_text(code: str) -> str:
    """The name of a currency, as sentences have it."""
    found = locale()
    # What Arabic says of two is not what it says of many.
    return get_currency_name(code, count=None if found.startswith("ar") else 2, locale=found)


def instant_of(value: Any) -> datetime | None:
    """An instant, also one that the API wrote as text; None for nothing."""
    if value in (None, ""):
        return None
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(str(value))


def instant_text(value: Any, zone: tzinfo | None = None) -> str:
    """Date and time of day in `zone`."""
    at = instant_of(value)
    return "" if at is None else format_datetime(at, "d MMM y, HH:mm", tzinfo=zone or UTC, locale=locale())


def day_text(value: Any, zone: tzinfo | None = None) -> str:
    """A day; of an instant the day that it is in `zone`."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return format_date(value, "d MMM y", locale=locale())
    if isinstance(value, str) and len(value) == 10:
        return format_date(date.fromisoformat(value), "d MMM y", locale=locale())
    at = instant_of(value)
    return "" if at is None else format_datetime(at, "d MMM y", tzinfo=zone or UTC, locale=locale())


def short_day_text(value: date) -> str:
    """A day without its year, as charts have room for."""
    return format_date(value, "d MMM", locale=locale())


def ago_text(value: Any) -> str:
    """How long ago, or in how long, in words."""
    at = instant_of(value)
    return "" if at is None else format_timedelta(at - clock.now(), add_direction=True, locale=locale())


# For texts whose reader's language is active only when they are put together: mails.
number_lazy, money_lazy = lazy(number_text, str), lazy(money_text, str)
instant_lazy, day_lazy = lazy(instant_text, str), lazy(day_text, str)
