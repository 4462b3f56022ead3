"""Filters of the console's templates."""

from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

from django import template

from billing.events.names import kind_label, object_label
from billing.events.reasons import reason_text
from billing.ledger.rollups import day_begin
from iafactory.common.admin import EMPTY, arrow, decimal_text, in_order, localised
from iafactory.common.formats import duration_text, number_text

register = template.Library()


@register.filter
def amount(value: Decimal | None) -> str:
    """An amount for reading."""
    return decimal_text(value)


@register.filter
def brief(value: Decimal | None) -> str:
    """An amount in a summary: four places at most; the rows behind it have all of them."""
    return EMPTY if value is None else number_text(value, 4)


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
def reason(text: str) -> str:
    """Why something happened, in the operator's language where the product itself said so."""
    return reason_text(text)


@register.filter
def object_name(object_type: str) -> str:
    """What an event's object is called."""
    return object_label(object_type)


@register.filter
def isolated(value: object) -> str:
    """A date or a code inside a sentence: keeps its own order where the sentence runs from right to left."""
    return in_order(value)


@register.simple_tag(name="arrow")
def arrow_tag() -> str:
    """What stands between before and after."""
    return arrow()


@register.filter
def duration(value: Any) -> str:
    """How long something took, in milliseconds or seconds."""
    return duration_text(value)
