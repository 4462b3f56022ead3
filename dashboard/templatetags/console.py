"""Filters of the console's templates."""

from datetime import date
from decimal import Decimal
from urllib.parse import quote, urlencode

from django import template
from django.utils.translation import get_language_bidi

from billing.events.names import kind_label, object_label
from billing.ledger.rollups import day_begin
from iafactory.common.admin import EMPTY, decimal_text, localised
from iafactory.common.formats import number_text

register = template.Library()


@register.filter
def amount(value: Decimal | None) -> str:
    """An amount for reading."""
    return decimal_text(value)


@register.filter
def number(value: int) -> str:
    """A count, thousands apart."""
    return number_text(value)


@register.filter
def usd(value: Decimal | None) -> str:
    """US dollars for reading: to the cent, small ones to the hundredth of a cent."""
    if value is None:
        return EMPTY
    return localised(f"{value:,.4f}" if 0 < abs(value) < 1 else f"{value:,.2f}")


@register.filter
def percent(value: Decimal | int | None) -> str:
    """A share in percent, one place."""
    return EMPTY if value is None else localised(f"{value:,.1f} %")


@register.filter
def query_day(day: date) -> str:
    """Midnight UTC of a day, as a list's date filter takes it."""
    return quote(str(day_begin(day)))


@register.filter
def query_with(given: dict[str, str], page: int) -> str:
    """The query string `given`, for another page."""
    return urlencode({**given, "page": page})


@register.filter
def event_kind(kind: str) -> str:
    """What happened, in the operator's language."""
    return kind_label(kind)


@register.filter
def object_name(object_type: str) -> str:
    """What an event's object is called."""
    return object_label(object_type)


@register.filter
def isolated(value: object) -> str:
    """A date or a code inside a sentence: keeps its own order where the sentence runs from right to left."""
    return f"\u2066{value}\u2069" if value and get_language_bidi() else str(value)
