"""Reading rows by SQL, and credits as events hold them."""

from decimal import Decimal
from typing import Any

from django.db import connection

from iafactory.common.money import credits_quantise


def rows(sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """What a query answers, by column."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def plain(value: Decimal) -> str:
    """A number of credits: six places at most, no trailing zeros."""
    return f"{credits_quantise(value).normalize():f}"
