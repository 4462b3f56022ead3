"""Small tables in a form: one `name value` a line in the place of JSON."""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _


def whole_number(text: str) -> int:
    """A number of 0 or more without a fraction. Raises ValueError."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def decimal_string(text: str) -> str:
    """A finite decimal of 0 or more, as JSON keeps money. Raises ValueError."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(text) from None
    if not number.is_finite() or number < 0:
        raise ValueError(text)
    return f"{number:f}"


def weight(text: str) -> int | str:
    """A decimal of 0 or more; whole ones as numbers. Raises ValueError."""
    return int(text) if text.isascii() and text.isdigit() else decimal_string(text)


class PairsField(forms.Field):
    """A dictionary, one `name value` a line; `read` makes a value of its text or raises ValueError."""

    widget = forms.Textarea(attrs={"rows": 4, "cols": 60, "class": "vLargeTextField pairs"})

    def __init__(self, *, read: Callable[[str], Any] = str, **kwargs: Any) -> None:
        super().__init__(**{"required": False, **kwargs})
        self.read = read

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else value

    def to_python(self, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        found: dict[str, Any] = {}
        for line in (value or "").splitlines():
            if not line.strip():
                continue
            name, _space, text = line.strip().rpartition(" ")
            name = name.strip().removesuffix(":").strip()
            try:
                item = self.read(text.strip())
            except ValueError:
                item = None
            if not name or item is None:
                raise forms.ValidationError(_("“%s” is not a name and a value.") % line.strip())
            if name in found:
                raise forms.ValidationError(_("%s appears twice.") % name)
            found[name] = item
        return found

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.to_python(initial) != self.to_python(data)
        except forms.ValidationError:
            return True
