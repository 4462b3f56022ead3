"""Texts for people that stay English in logs, events and rows, and are translated where somebody reads them."""

import math
from decimal import Decimal
from typing import Any

from django.utils.translation import get_language, gettext, ngettext

from .formats import number_text


class Text:
    """A text with named values: `Text("At most %(limit)s key.", "At most %(limit)s keys.", limit=5)`.

    `str()` is English. `translated()` is what the reader of the page or answer understands, numbers written as their language
    does, texts among the values translated. With two forms the first value decides between them. `make translations` gathers
    both.
    """

    __slots__ = ("_many", "_one", "_values")

    def __init__(self, one: str, many: str = "", /, **values: Any) -> None:
        self._one = one
        self._many = many
        self._values = values

    def __str__(self) -> str:
        text = self._one if not self._many or self._count() == 1 else self._many
        return text % self._values if self._values else text

    def translated(self) -> str:
        """The text in the language that is active; English where nobody translated it."""
        if (get_language() or "en").startswith("en"):
            return str(self)
        text = ngettext(self._one, self._many, self._count()) if self._many else gettext(self._one)
        return text % {name: _written(value) for name, value in self._values.items()} if self._values else text

    def _count(self) -> int:
        # Parts of one are more than one.
        first: int | Decimal = next(iter(self._values.values()))
        return math.ceil(first)


def _written(value: Any) -> Any:
    is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    if isinstance(value, Text):
        return value.translated()
    return number_text(value, 9) if is_number else value
