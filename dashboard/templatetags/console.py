"""Filters of the console's templates."""

from datetime import datetime
from decimal import Decimal
from urllib.parse import quote, urlencode

from django import template

from iafactory.common.admin import decimal_text

register = template.Library()


@register.filter
def amount(value: Decimal | None) -> str:
    """An amount for reading."""
    return decimal_text(value)


@register.filter
def query_instant(value: datetime) -> str:
    """An instant as a list's date filter takes it."""
    return quote(str(value))


@register.filter
def query_with(given: dict[str, str], page: int) -> str:
    """The query string `given`, for another page."""
    return urlencode({**given, "page": page})
