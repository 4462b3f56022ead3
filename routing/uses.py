"""Who used what, from where, how often the same: gathered in memory, written every few seconds, never on a call's way.

Redis gets, per UTC day and for three days: `{iaf}:use:seen:<day>` (key ids), `{iaf}:use:nets:<key>:<day>` (networks),
`{iaf}:use:accounts:<day>` (account ids) and `{iaf}:use:prompts:<account>:<day>` (how often a request of that hash came). A hash
says that requests were the same, not what they said.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis
from redis.exceptions import RedisError

from billing.subscriptions.callers import Caller
from iafactory.common import clock
from iafactory.common.client_address import address_network

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 15
KEPT_SECONDS = 3 * 86_400
# More than this between two flushes is not remembered: strange use shows in a sample too.
LARGEST_GATHERED = 20_000

_TOUCH = """
    UPDATE billing_apikey k SET last_used_at = u.at, last_used_from = u.address::inet
    FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[]) AS u (id, at, address)
    WHERE k.id = u.id AND (k.last_used_at IS NULL OR k.last_used_at < u.at)
"""


@lru_cache(maxsize=16_384)
def network_of(address: str) -> str:
    """The /24 or /48 an address lies in; empty for what is no address."""
    return address_network(address, v4_bits=24, v6_bits=48)


class UseRecorder:
    """Gathers uses of one web process."""

    def __init__(self, pool: AsyncConnectionPool[Any], redis: Redis) -> None:
        self._pool = pool
        self._redis = redis
        self._keys: dict[UUID, tuple[datetime, str]] = {}
        self._networks: set[tuple[UUID, str]] = set()
        self._prompts: Counter[tuple[UUID, str]] = Counter()
        self._task: asyncio.Task[None] | None = None

    def note(self, caller: Caller, address: str, body: bytes) -> None:
        """Remember one call; a few microseconds."""
        if len(self._prompts) < LARGEST_GATHERED:
            self._prompts[(caller.account_id, hashlib.blake2b(body, digest_size=12).hexdigest())] += 1
        if caller.api_key_id is not None:
            self._keys[caller.api_key_id] = (clock.now(), address)
            if len(self._networks) < LARGEST_GATHERED:
                self._networks.add((caller.api_key_id, network_of(address)))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="uses")

    async def stop(self) -> None:
        """Write what is gathered."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), 3)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write and forget what was gathered; failures are logged, they cost a sample."""
        keys, self._keys = self._keys, {}
        networks, self._networks = self._networks, set()
        prompts, self._prompts = self._prompts, Counter()
        try:
            if keys:
                await self._touch_keys(keys)
            if prompts or networks:
                await self._count(networks, prompts)
        except (OSError, RedisError, TimeoutError) as error:
            logger.warning("uses were not recorded: %s", error)
        except Exception:
            logger.exception("uses were not recorded")

    async def _touch_keys(self, keys: dict[UUID, tuple[datetime, str]]) -> None:
        ids = list(keys)
        addresses = [keys[key][1] if network_of(keys[key][1]) else None for key in ids]
        async with self._pool.connection() as connection:
            await connection.execute(_TOUCH, (ids, [keys[key][0] for key in ids], addresses))

    async def _count(self, networks: set[tuple[UUID, str]], prompts: Counter[tuple[UUID, str]]) -> None:
        day = clock.now().date().isoformat()
        pipeline = self._redis.pipeline(transaction=False)
        touched = set()

        def name(*parts: object) -> str:
            key = "{iaf}:use:" + ":".join(str(part) for part in parts) + f":{day}"
            touched.add(key)
            return key

        for key_id, network in networks:
            pipeline.sadd(name("seen"), str(key_id))
            if network:
                pipeline.sadd(name("nets", key_id), network)
        for (account_id, prompt), count in prompts.items():
            pipeline.sadd(name("accounts"), str(account_id))
            pipeline.zincrby(name("prompts", account_id), count, prompt)
        for key in touched:
            pipeline.expire(key, KEPT_SECONDS)
            if ":prompts:" in key:
                # Only what repeats is of interest: keep the most frequent.
                pipeline.zremrangebyrank(key, 0, -1001)
        await pipeline.execute()
