"""Timeouts of many futures by one timer: a timer of its own costs more than most waits do."""

import asyncio
from typing import Any, TypeVar

# How late a timeout may be told.
GRAIN_SECONDS = 0.05

Result = TypeVar("Result")


class Deadlines:
    """Waits of one event loop; see the module. A future belongs to the one who waits for it."""

    def __init__(self) -> None:
        self._due: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, future: asyncio.Future[Result], seconds: float) -> Result:
        """The future's result. Raises `TimeoutError`, which ends the future too, unless it is done within `seconds`."""
        loop = asyncio.get_running_loop()
        self._due[future] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(min(seconds, GRAIN_SECONDS), self._look)
        try:
            return await future
        finally:
            del self._due[future]

    def _look(self) -> None:
        self._timer = None
        if not self._due:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for future, due in self._due.items():
            if due <= now and not future.done():
                future.set_exception(TimeoutError())
        self._timer = loop.call_later(GRAIN_SECONDS, self._look)
