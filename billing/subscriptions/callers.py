"""Who is calling: a key or access token resolved to account, subscription and plan, remembered until a change is announced."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import jwt
from django.conf import settings
from psycopg_pool import AsyncConnectionPool

from billing.accounts.models import Account, ApiKey
from iafactory.common import clock
from iafactory.common.crypto import secret_hash
from iafactory.common.errors import ApiError

API_KEY_PREFIX = "iaf_"
_CACHE_LIMIT = 50_000


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan promises and limits; fields as in `Plan`."""

    id: int
    code: str
    billing_mode: str
    whole_credits: bool
    daily_limit: Decimal | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_calls: int | None
    priority: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of the gateway. `plan` is None when nothing live is subscribed."""

    account_id: UUID
    account_status: str
    zone: ZoneInfo
    overflow_allowed: bool
    api_key_id: UUID | None
    user_id: UUID | None
    scopes: frozenset[str]
    valid_until: datetime | None
    revoked: bool
    subscription_id: UUID | None
    period_start: datetime | None
    period_end: datetime | None
    plan: PlanTerms | None


_COLUMNS = """
    a.id, a.status, a.time_zone, a.overflow_allowed, s.id, s.current_period_start, s.current_period_end,
    p.id, p.code, p.billing_mode, p.rounding, p.daily_limit, p.requests_per_minute, p.tokens_per_minute, p.concurrent_calls,
    p.priority, p.features
"""
_PLAN_JOIN = """
    LEFT JOIN billing_subscription s ON s.account_id = a.id AND s.state IN ('trialing', 'active', 'past_due', 'paused')
    LEFT JOIN billing_plan p ON p.id = s.plan_id AND s.state <> 'paused'
"""
_BY_KEY = f"""
    SELECT {_COLUMNS}, k.id, k.scopes, k.expires_at, k.revoked_at IS NOT NULL, k.created_by_id
    FROM billing_apikey k JOIN billing_account a ON a.id = k.account_id {_PLAN_JOIN}
    WHERE k.key_hash = %s
"""  # noqa: S608  constant text
_BY_USER = f"""
    SELECT {_COLUMNS}, u.password, u.is_active
    FROM billing_user u
    JOIN billing_membership m ON m.user_id = u.id
    JOIN billing_account a ON a.id = m.account_id {_PLAN_JOIN}
    WHERE u.id = %s AND (a.id = %s OR (%s::uuid IS NULL AND a.personal_of_id = u.id))
"""  # noqa: S608  constant text


def _plan_terms(row: tuple[Any, ...]) -> PlanTerms | None:
    if row[7] is None:
        return None
    return PlanTerms(
        id=row[7],
        code=row[8],
        billing_mode=row[9],
        whole_credits=row[10] == "whole",
        daily_limit=row[11],
        requests_per_minute=row[12],
        tokens_per_minute=row[13],
        concurrent_calls=row[14],
        priority=row[15],
        features=tuple(row[16]),
    )


class CallerDirectory:
    """Looks callers up in PostgreSQL and remembers them until told otherwise."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._callers: dict[str, Caller] = {}
        self._names_by_subject: dict[str, set[str]] = {}
        self._generation = 0
        self.trusted = False

    async def by_credential(self, credential: str, account: str = "") -> Caller:
        """The caller of an API key or access token; `account` is `X-Account`, for users with several.

        Raises `ApiError`: 401 for a credential that opens nothing, 403 for a blocked account, 404 for an account that is not
        the user's.
        """
        if not credential:
            raise ApiError(401, "invalid_api_key", "No API key was sent. Send it as `Authorization: Bearer iaf_…`.")
        name = hashlib.sha256(f"{credential}\0{account}".encode()).hexdigest()
        caller = self._callers.get(name)
        if caller is None:
            generation = self._generation
            if credential.startswith(API_KEY_PREFIX):
                caller = await self._by_key(credential)
            else:
                caller = await self._by_token(credential, account)
            # A change announced while we were reading may not be in what we read.
            if self.trusted and generation == self._generation:
                self._remember(name, caller)
        if caller.revoked:
            raise ApiError(401, "api_key_revoked", "This API key has been revoked.")
        if caller.valid_until is not None and caller.valid_until <= clock.now():
            self._callers.pop(name, None)
            what = "API key" if caller.api_key_id else "access token"
            raise ApiError(401, "api_key_expired" if caller.api_key_id else "token_expired", f"This {what} has expired.")
        if caller.account_status != Account.Status.ACTIVE:
            raise ApiError(403, "account_blocked", "This account is blocked. Please contact support.")
        return caller

    def forget(self, payload: str) -> None:
        """Drop what an announced change (`account:<id>`, `user:<id>`, `plans`) made stale."""
        self._generation += 1
        if payload in ("plans", "all"):
            self._callers.clear()
            self._names_by_subject.clear()
            return
        for name in self._names_by_subject.pop(payload, ()):
            self._callers.pop(name, None)

    def _remember(self, name: str, caller: Caller) -> None:
        if len(self._callers) >= _CACHE_LIMIT:
            self.forget("all")
        self._callers[name] = caller
        self._names_by_subject.setdefault(f"account:{caller.account_id}", set()).add(name)
        if caller.user_id is not None:
            self._names_by_subject.setdefault(f"user:{caller.user_id}", set()).add(name)

    async def _row(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(sql, parameters)
            row: tuple[Any, ...] | None = await cursor.fetchone()
            return row

    async def _by_key(self, secret: str) -> Caller:
        row = await self._row(_BY_KEY, secret_hash(secret))
        if row is None:
            raise ApiError(401, "invalid_api_key", "This API key does not exist.")
        key_id, scopes, expires_at, revoked, _ = row[17:]
        return self._caller(
            row, api_key_id=key_id, user_id=None, scopes=frozenset(scopes), valid_until=expires_at, revoked=revoked
        )

    async def _by_token(self, token: str, account: str) -> Caller:
        refused = ApiError(401, "invalid_api_key", "This is neither an API key of ours nor a valid access token.")
        try:
            claims = jwt.decode(token, settings.JWT_SIGNING_KEY, algorithms=["HS256"], options={"require": ["exp", "sub"]})
            user_id = UUID(claims["sub"])
        except jwt.ExpiredSignatureError:
            raise ApiError(401, "token_expired", "This access token has expired.") from None
        except (jwt.InvalidTokenError, ValueError, TypeError):
            raise refused from None
        if claims.get("token_type") != "access":
            raise refused
        try:
            account_id = UUID(account) if account else None
        except ValueError:
            raise ApiError(404, "account_not_found", "You have no such account.") from None
        row = await self._row(_BY_USER, user_id, account_id, account_id)
        if row is None:
            raise ApiError(404, "account_not_found", "You have no such account.")
        password, is_active = row[17:]
        # The claim ties a token to the password it was made under: a reset ends it.
        stamp = hashlib.md5(password.encode(), usedforsecurity=False).hexdigest().upper()
        if not is_active or claims.get("hash_password", "").upper() != stamp:
            raise refused
        return self._caller(
            row,
            api_key_id=None,
            user_id=user_id,
            scopes=frozenset({ApiKey.Scope.INFERENCE.value, ApiKey.Scope.BILLING_READ.value}),
            valid_until=datetime.fromtimestamp(claims["exp"], UTC),
            revoked=False,
        )

    @staticmethod
    def _caller(row: tuple[Any, ...], **fields: Any) -> Caller:
        return Caller(
            account_id=row[0],
            account_status=row[1],
            zone=ZoneInfo(row[2]),
            overflow_allowed=row[3],
            subscription_id=row[4],
            period_start=row[5],
            period_end=row[6],
            plan=_plan_terms(row),
            **fields,
        )
