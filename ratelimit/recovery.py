"""Where counters come back from after Redis lost them."""

from collections.abc import Awaitable, Callable, Iterable

from ratelimit.scopes import CounterRow

RebuildSource = Callable[[int], Awaitable[Iterable[CounterRow]]]


class RebuildSources:
    """Named async callables that take now (epoch ms) and return what windows and budgets hold at least.

    A row's key is the scope's `key`, its expiry the window's end. Rows of ended windows are skipped.
    """

    def __init__(self) -> None:
        self._sources: dict[str, RebuildSource] = {}

    def register(self, name: str, source: RebuildSource) -> None:
        """Add a source; a second one under the same name raises ValueError."""
        if name in self._sources:
            raise ValueError(f"a rebuild source named {name!r} is registered already")
        self._sources[name] = source

    def items(self) -> list[tuple[str, RebuildSource]]:
        return list(self._sources.items())
