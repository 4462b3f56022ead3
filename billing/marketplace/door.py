"""The gateway's second door: calls that come through RapidAPI, which vouches for its users with a shared secret.

No key and no token opens it. Who it is and what they pay for is in headers that only the marketplace's proxy may set.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.db import OperationalError, close_old_connections
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from billing.subscriptions.callers import API_KEY_PREFIX, Caller, CallerDirectory
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.hot import Exchange

from .models import subscription_normalise
from .services import account_follow

SECRET = b"x-rapidapi-proxy-secret"
USER = b"x-rapidapi-user"
SUBSCRIPTION = b"x-rapidapi-subscription"

_USER_MAX = 200
# Accounts are made, and plans changed, by so many threads of a process, each with a connection of its own.
_THREADS = 2

_LOOK = """
    SELECT m.account_id, m.subscription, s.plan_id,
        coalesce(
            (SELECT p.id FROM billing_marketplaceplan w JOIN billing_plan p ON p.id = w.plan_id
             WHERE w.marketplace = 'rapidapi' AND w.subscription = %(subscription)s
               AND (p.visibility <> 'archived' OR p.id = s.plan_id)),
            (SELECT id FROM billing_plan WHERE code = 'free')
        ) AS wanted_plan_id
    FROM billing_marketplaceaccount m
    LEFT JOIN billing_subscription s
        ON s.account_id = m.account_id AND s.state IN ('trialing', 'active', 'past_due', 'paused')
    WHERE m.marketplace = 'rapidapi' AND m.external_user = %(user)s
"""


def knocks(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request says that it comes through the marketplace; then no other door is tried."""
    return SECRET in headers or USER in headers or SUBSCRIPTION in headers


def secret_known(given: str) -> bool:
    """Whether `given` is one of `RAPIDAPI_PROXY_SECRETS`, all of them compared in constant time. Without any: never."""
    digest = hashlib.sha256(given.encode("latin-1", "replace")).digest()
    known = False
    for secret in settings.RAPIDAPI_PROXY_SECRETS:
        known |= hmac.compare_digest(digest, hashlib.sha256(secret.encode()).digest())
    return known and bool(given)


class MarketplaceDoor:
    """Lives as long as the gateway, in its event loop."""

    def __init__(self, callers: CallerDirectory, pool: AsyncConnectionPool[Any]) -> None:
        self._callers = callers
        self._pool = pool
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="marketplace")
        # Accounts being made: of many first calls at once one does it.
        self._following: dict[tuple[str, str], asyncio.Future[None]] = {}

    def close(self) -> None:
        """Stop the threads; what they do is finished first."""
        self._threads.shutdown(wait=False)

    async def caller(self, exchange: Exchange) -> Caller:
        """Who calls through the marketplace; the account is made at first sight and follows its subscription there.

        Raises `ApiError`: 401 `marketplace_refused` for every header without a secret of ours, 400 `two_credentials` beside a
        key or token of ours (who pays would be a guess), 400 `invalid_request` without a user, and as other doors do about
        the account.
        """
        if not secret_known(exchange.header(SECRET)):
            raise ApiError(401, "marketplace_refused", "This request does not come from the marketplace's proxy.")
        if _carries_ours(exchange):
            raise ApiError(400, "two_credentials", "Send either an IA Factory key or token, or come through the marketplace.")
        user = exchange.header(USER).strip()
        if not user or len(user) > _USER_MAX or not user.isascii() or not user.isprintable():
            raise ApiError(400, "invalid_request", "X-RapidAPI-User names nobody.", param="X-RapidAPI-User")
        subscription = subscription_normalise(exchange.header(SUBSCRIPTION))
        if not subscription.isascii() or not subscription.isprintable():
            subscription = ""
        name = hashlib.sha256(f"rapidapi\0{user}\0{subscription}".encode()).hexdigest()
        return await self._callers.remembered(name, lambda: self._read(user, subscription))

    async def _read(self, user: str, subscription: str) -> tuple[Caller, bool]:
        row = await self._look(user, subscription)
        if row is None or row["subscription"] != subscription or row["plan_id"] != row["wanted_plan_id"]:
            await self._follow(user, subscription)
            row = await self._look(user, subscription)
            if row is None:
                raise RuntimeError("an account that was made is not there")
        # A call that was on its way when the subscription changed is served as the account is, and not remembered so.
        return await self._callers.of_account(row["account_id"]), row["subscription"] == subscription

    async def _look(self, user: str, subscription: str) -> Mapping[str, Any] | None:
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_LOOK, {"user": user, "subscription": subscription})
            row: Mapping[str, Any] | None = await cursor.fetchone()
            return row

    async def _follow(self, user: str, subscription: str) -> None:
        key = (user, subscription)
        following = self._following.get(key)
        if following is None:
            loop = asyncio.get_running_loop()
            following = asyncio.ensure_future(loop.run_in_executor(self._threads, _follow, user, subscription))
            self._following[key] = following
            following.add_done_callback(lambda _: self._following.pop(key, None))
        # One caller that hangs up must not take the account away from the others who wait for it.
        await asyncio.shield(following)


def _follow(user: str, subscription: str) -> None:
    close_old_connections()
    try:
        account_follow(external_user=user, subscription=subscription, now=clock.now())
    except OperationalError as error:
        raise ApiError(
            503, "database_unavailable", "The database does not answer at the moment.", retry_after_seconds=2
        ) from error


def _carries_ours(exchange: Exchange) -> bool:
    """Whether a key or access token of ours came too. Others mean nothing: clients made for a provider always send one."""
    scheme, _, credential = exchange.header(b"authorization").partition(" ")
    sent = [exchange.header(b"x-api-key").strip()]
    if scheme.lower() == "bearer":
        sent.append(credential.strip())
    return any(text.startswith(API_KEY_PREFIX) or text.count(".") == 2 for text in sent)
