"""Looks at the product from outside while it suffers: overdue holds, negative wallets, outages, answers not booked yet."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg

OVERDUE_SECONDS = 15.0
_PAUSE_SECONDS = 0.25

_OVERDUE = "SELECT id::text, extract(epoch FROM %(now)s - expires_at)::float8 FROM billing_hold WHERE expires_at < %(now)s"
_NEGATIVE = """
    SELECT account_id::text, balance, held FROM billing_wallet WHERE balance < 0 OR held < 0 OR held > balance
    UNION ALL
    SELECT account_id::text, remaining, held FROM billing_lot WHERE remaining < 0 OR held < 0 OR held > remaining
"""


class Overdue(NamedTuple):
    """A hold open `seconds` after its expiry, seen `at` (monotonic seconds)."""

    seconds: float
    at: float


class Watch:
    """Polls PostgreSQL until cancelled. `overdue` tells by hold id how it was last seen past its expiry."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._looking_up = asyncio.Lock()
        self._look_up_connection: psycopg.AsyncConnection[Any] | None = None
        self.polls = 0
        self.looked_up = 0
        self.not_booked: list[str] = []
        self.overdue: dict[str, Overdue] = {}
        self.negative: set[str] = set()
        self.open_holds = 0
        # Spans without an answering PostgreSQL, monotonic seconds.
        self.outages: list[tuple[float, float]] = []
        self._answered_at = time.monotonic()
        self._answering = True

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self._poll()
                except (psycopg.Error, OSError, TimeoutError):
                    self._answering = False
                    await _close(self._connection)
                    self._connection = None
                else:
                    now = time.monotonic()
                    if not self._answering:
                        self.outages.append((self._answered_at, now))
                    self._answering, self._answered_at = True, now
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await _close(self._connection)
            self._connection = None
            await _close(self._look_up_connection)
            self._look_up_connection = None

    async def look_up(self, request_id: str) -> None:
        """Asks the books for a call whose end its client has just seen; skipped while another look-up is under way."""
        if self._looking_up.locked():
            return
        async with self._looking_up:
            try:
                if self._look_up_connection is None:
                    self._look_up_connection = await self._connect()
                cursor = await self._look_up_connection.execute(
                    "SELECT 1 FROM billing_ledgertransaction WHERE id = %s AND kind = 'call'", [request_id]
                )
                if await cursor.fetchone() is None:
                    self.not_booked.append(request_id)
                self.looked_up += 1
            except (psycopg.Error, OSError, TimeoutError):
                await _close(self._look_up_connection)
                self._look_up_connection = None

    async def _poll(self) -> None:
        if self._connection is None:
            self._connection = await self._connect()
        async with asyncio.timeout(5):
            cursor = await self._connection.execute(_OVERDUE, {"now": datetime.now(UTC)})
            for hold, seconds in await cursor.fetchall():
                self.overdue[hold] = Overdue(seconds, time.monotonic())
            cursor = await self._connection.execute(_NEGATIVE)
            self.negative |= {f"{account}: {balance} with {held} held" for account, balance, held in await cursor.fetchall()}
            cursor = await self._connection.execute("SELECT count(*) FROM billing_hold")
            row = await cursor.fetchone()
            assert row is not None
            self.open_holds = row[0]
        self.polls += 1

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=3)


async def _close(connection: psycopg.AsyncConnection[Any] | None) -> None:
    if connection is not None:
        with contextlib.suppress(Exception):
            await connection.close()
