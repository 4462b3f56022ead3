"""What follows from a few long-lived objects, made once: looking all of their fields up costs more than making it anew."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

MOST_KEPT = 4096

Made = TypeVar("Made")


class ByIdentity(Generic[Made]):
    """Calls `make` for arguments not seen before, told apart by who they are, not by what they say.

    Keeps the arguments alive, so that no other object takes their place; forgets everything when `MOST_KEPT` are kept. Only for
    arguments that never change.
    """

    def __init__(self, make: Callable[..., Made]) -> None:
        self._make = make
        self._kept: dict[tuple[int, ...], tuple[tuple[Any, ...], Made]] = {}

    def __call__(self, *arguments: Any) -> Made:
        key = tuple(map(id, arguments))
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            kept = self._kept[key] = (arguments, self._make(*arguments))
        return kept[1]
