"""Hearing of committed changes: PostgreSQL's NOTIFY, sent by triggers, tells web processes what their memory got wrong.

A notification travels with its commit, whoever wrote: the API, the admin, a task or a shell.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import psycopg

from . import database

logger = logging.getLogger(__name__)

CHANNEL = "iafactory_cache"
_RECONNECT_SECONDS = 0.5


class ChangeListener:
    """Listens on one connection of its own. `on_change` gets each payload; `on_gap` runs when some may have been missed.

    While `listening` is false, nothing remembered may be trusted.
    """

    def __init__(self, *, on_change: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        self.listening = False
        self._on_change = on_change
        self._on_gap = on_gap
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once the first connection listens, or after a second without one."""
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(ready), name="change-listener")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ready.wait(), 1)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, ready: asyncio.Event) -> None:
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._on_gap()
                    self.listening = True
                    ready.set()
                    while True:
                        async for notification in connection.notifies(timeout=5):
                            self._on_change(notification.payload)
                        # Silence: make sure that the other end is still there.
                        async with asyncio.timeout(2):
                            await connection.execute("SELECT 1")
            except (psycopg.Error, OSError, TimeoutError) as error:
                logger.warning("not hearing of changes (%s), connecting again", type(error).__name__)
            finally:
                self.listening = False
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connect(self) -> psycopg.AsyncConnection:
        return await database.connect(application_name="iafactory-listener")
