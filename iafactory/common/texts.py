"""Texts for people that stay English in logs, events and rows, and are translated where somebody reads them."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils import translation
from django.utils.translation import get_language, gettext, ngettext

from .formats import number_text

# Between values of a list; what is not here takes the Latin comma.
_COMMAS = {"ar": "، "}


@dataclass(frozen=True, slots=True)
class Amount:
    """A number that has its thousands apart in English too, and no trailing zeros."""

    value: int | Decimal

    def __str__(self) -> str:
        with translation.override("en"):
            return number_text(self.value, 9)


class Text:
    """A text with named values: `Text("At most %(limit)s key.", "At most %(limit)s keys.", limit=5)`.

    `str()` is English. `translated()` is what the reader of the page or answer understands, numbers written as their language
    does, texts among the values translated, lists with commas. With two forms the first value decides between them.
    `make translations` gathers both. `stored()` and `Text.restored()` keep it in a JSON field.
    """

    __slots__ = ("_many", "_one", "_values")

    def __init__(self, one: str, many: str = "", /, **values: Any) -> None:
        self._one = one
        self._many = many
        self._values = values

    def __str__(self) -> str:
        text = self._one if not self._many or self._count() == 1 else self._many
        return text % {name: _english(value) for name, value in self._values.items()} if self._values else text

    def translated(self) -> str:
        """The text in the language that is active; English where nobody translated it."""
        if (get_language() or "en").startswith("en"):
            return str(self)
        text = ngettext(self._one, self._many, self._count()) if self._many else shipped(self._one)
        return text % {name: _written(value) for name, value in self._values.items()} if self._values else text

    def stored(self) -> dict[str, Any]:
        """The text and its values as JSON, for `restored`. Raises TypeError for values that are no text, number or list."""
        values = {name: _stored(value) for name, value in self._values.items()}
        return {"text": self._one} | ({"plural": self._many} if self._many else {}) | ({"values": values} if values else {})

    @classmethod
    def restored(cls, stored: Any) -> "Text":
        """What `stored` was made of. Raises KeyError, TypeError or ValueError for anything else."""
        values = {name: _restored(value) for name, value in stored.get("values", {}).items()}
        return cls(stored["text"], stored.get("plural", ""), **values)

    def _count(self) -> int:
        # Parts of one are more than one.
        first: int | Decimal | Amount = next(iter(self._values.values()))
        return math.ceil(first.value if isinstance(first, Amount) else first)


def shipped(name: str) -> str:
    """A name or description that may have come with the product: translated as it was shipped, else as an operator wrote it."""
    return gettext(name)


def text_of(label: Any) -> Text:
    """The lazily translated `label` of a model or choice as a text that says it in any language."""
    with translation.override(None):
        return Text(str(label))


def _english(value: Any) -> Any:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else value


def _written(value: Any) -> Any:
    is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    if isinstance(value, Text):
        return value.translated()
    if isinstance(value, list):
        language = (get_language() or "en").split("-")[0]
        return _COMMAS.get(language, ", ").join(str(_written(part)) for part in value)
    if isinstance(value, Amount):
        return number_text(value.value, 9)
    return number_text(value, 9) if is_number else value


def _stored(value: Any) -> Any:
    match value:
        case Text():
            return value.stored()
        case Amount():
            return {"amount": str(value.value)}
        case Decimal():
            return {"number": str(value)}
        case list():
            return [_stored(part) for part in value]
        case str() | int():
            return value
    raise TypeError(f"{type(value).__name__} cannot be kept with a text")


def _restored(value: Any) -> Any:
    match value:
        case {"amount": str(number)}:
            return Amount(Decimal(number))
        case {"number": str(number)}:
            return Decimal(number)
        case dict():
            return Text.restored(value)
        case list():
            return [_restored(part) for part in value]
    return value
