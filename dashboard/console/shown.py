"""How read-only values of rows are written on pages and in lists of the console."""

from decimal import Decimal
from typing import Any

from django.contrib.admin import helpers, utils
from django.contrib.admin.templatetags import admin_list
from django.db.models import Field

from billing.events.reasons import reason_text
from iafactory.common.admin import decimal_text


def values_show() -> None:
    """Let Django's pages, inlines and lists write values as `value_shown` does: they all ask one function of Django's."""
    helpers.display_for_field = admin_list.display_for_field = value_shown  # type: ignore[attr-defined]


def value_shown(value: Any, field: "Field[Any, Any]", empty_value_display: Any, **options: Any) -> Any:
    """As Django does; decimals without the zeros that their columns add, the product's own reasons in the page's language."""
    if isinstance(value, Decimal) and not field.flatchoices:
        return decimal_text(value)
    if value and isinstance(value, str) and (field.name in ("reason", "failure") or field.name.endswith("_reason")):
        return reason_text(value)
    return utils.display_for_field(value, field, empty_value_display, **options)
