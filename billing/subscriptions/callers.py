"""Who is calling: a key or access token resolved to account, subscription and plan, remembered until a change is announced."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import jwt
from django.conf import settings
from django.db import connection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from billing.accounts.allow_lists import AllowLists, allow_lists
from billing.accounts.models import Account, ApiKey
from iafactory.common import clock
from iafactory.common.crypto import secret_hash
from iafactory.common.errors import ApiError

API_KEY_PREFIX = "iaf_"
_CACHE_LIMIT = 50_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an account may call. None is no limit. `daily_limit` is requests on quota plans, credits on the others."""

    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    concurrent_calls: int | None = None
    daily_limit: Decimal | None = None


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan promises and limits; fields as in `Plan`."""

    id: int
    code: str
    family: str
    billing_mode: str
    whole_credits: bool
    priority: int
    features: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What one API key may do, below what its account may; fields as in `ApiKey`. Empty allow lists allow everything."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_calls: int | None
    daily_credits: Decimal | None
    monthly_credits: Decimal | None
    models: frozenset[str]
    allowed: AllowLists


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of the gateway. `plan` is None when nothing live is subscribed."""

    account_id: UUID
    account_status: str
    blocked_until: datetime | None
    zone: ZoneInfo
    overflow_allowed: bool
    api_key_id: UUID | None
    key: KeyTerms | None
    user_id: UUID | None
    scopes: frozenset[str]
    valid_until: datetime | None
    revoked: bool
    subscription_id: UUID | None
    period_start: datetime | None
    period_end: datetime | None
    plan: PlanTerms | None
    override: Limits | None
    override_until: datetime | None

    def limits_at(self, at: datetime) -> Limits:
        """The limits in force at `at`: what an operator set for the account, field by field, else the plan's."""
        plan = self.plan.limits if self.plan is not None else Limits()
        if self.override is None or (self.override_until is not None and self.override_until <= at):
            return plan

        def pick(name: str) -> Any:
            own = getattr(self.override, name)
            return getattr(plan, name) if own is None else own

        return Limits(**{name: pick(name) for name in Limits.__slots__})

    def refusal_at(self, at: datetime) -> ApiError | None:
        """Why the credential opens nothing at `at`; None when it does."""
        if self.revoked:
            return ApiError(401, "api_key_revoked", "This API key has been revoked.")
        if self.valid_until is not None and self.valid_until <= at:
            if self.api_key_id:
                return ApiError(401, "api_key_expired", "This API key has expired.")
            return ApiError(401, "token_expired", "This access token has expired.")
        blocked = self.account_status != Account.Status.ACTIVE
        if blocked and (self.blocked_until is None or self.blocked_until > at):
            return ApiError(403, "account_blocked", "This account is blocked. Please contact support.")
        return None


_COLUMNS = """
    a.id AS account_id, a.status AS account_status, a.blocked_until, a.time_zone, a.overflow_allowed,
    s.id AS subscription_id, s.current_period_start, s.current_period_end,
    p.id AS plan_id, p.code, p.family, p.billing_mode, p.rounding, p.daily_limit, p.requests_per_minute, p.requests_per_hour,
    p.requests_per_day, p.tokens_per_minute, p.concurrent_calls, p.priority, p.features,
    o.account_id AS override, o.until AS override_until, o.daily_limit AS own_daily_limit,
    o.requests_per_minute AS own_requests_per_minute, o.requests_per_hour AS own_requests_per_hour,
    o.requests_per_day AS own_requests_per_day, o.tokens_per_minute AS own_tokens_per_minute,
    o.concurrent_calls AS own_concurrent_calls
"""
_JOINS = """
    LEFT JOIN billing_accountlimits o ON o.account_id = a.id
    LEFT JOIN billing_subscription s ON s.account_id = a.id AND s.state IN ('trialing', 'active', 'past_due', 'paused')
    LEFT JOIN billing_plan p ON p.id = s.plan_id AND s.state <> 'paused'
"""
_BY_KEY = f"""
    SELECT {_COLUMNS}, k.id AS key_id, k.scopes, k.expires_at, k.revoked_at IS NOT NULL AS revoked,
           k.requests_per_minute AS key_requests_per_minute, k.tokens_per_minute AS key_tokens_per_minute,
           k.concurrent_calls AS key_concurrent_calls, k.daily_credits, k.monthly_credits, k.allowed_networks, k.allowed_models,
           k.allowed_endpoints, k.allowed_origins
    FROM billing_apikey k JOIN billing_account a ON a.id = k.account_id {_JOINS}
    WHERE k.key_hash = %s
"""  # noqa: S608  constant text
_BY_USER = f"""
    SELECT {_COLUMNS}, u.password, u.is_active
    FROM billing_user u
    JOIN billing_membership m ON m.user_id = u.id
    JOIN billing_account a ON a.id = m.account_id {_JOINS}
    WHERE u.id = %s AND (a.id = %s OR (%s::uuid IS NULL AND a.personal_of_id = u.id))
"""  # noqa: S608  constant text
_BY_ACCOUNT = f"SELECT {_COLUMNS} FROM billing_account a {_JOINS} WHERE a.id = %s"  # noqa: S608  constant text

_Row = Mapping[str, Any]


def _limits(row: _Row, prefix: str) -> Limits:
    return Limits(**{name: row[prefix + name] for name in Limits.__slots__})


def _plan_terms(row: _Row) -> PlanTerms | None:
    if row["plan_id"] is None:
        return None
    return PlanTerms(
        id=row["plan_id"],
        code=row["code"],
        family=row["family"],
        billing_mode=row["billing_mode"],
        whole_credits=row["rounding"] == "whole",
        priority=row["priority"],
        features=tuple(row["features"]),
        limits=_limits(row, ""),
    )


def _key_terms(row: _Row) -> KeyTerms:
    return KeyTerms(
        requests_per_minute=row["key_requests_per_minute"],
        tokens_per_minute=row["key_tokens_per_minute"],
        concurrent_calls=row["key_concurrent_calls"],
        daily_credits=row["daily_credits"],
        monthly_credits=row["monthly_credits"],
        models=frozenset(row["allowed_models"]),
        allowed=allow_lists(row["allowed_networks"], row["allowed_endpoints"], row["allowed_origins"]),
    )


def caller_of_account(account_id: UUID) -> Caller | None:
    """The account as a caller, for pages that tell of its limits: read with Django's own connection, remembered nowhere."""
    with connection.cursor() as cursor:
        cursor.execute(_BY_ACCOUNT, [account_id])
        names = [column.name for column in cursor.description or ()]
        row = cursor.fetchone()
    if row is None:
        return None
    return CallerDirectory._caller(
        dict(zip(names, row, strict=True)),
        api_key_id=None,
        key=None,
        user_id=None,
        scopes=frozenset(),
        valid_until=None,
        revoked=False,
    )


def caller_with_key(caller: Caller, key: ApiKey) -> Caller:
    """The same account calling with one of its keys."""
    terms = KeyTerms(
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        concurrent_calls=key.concurrent_calls,
        daily_credits=key.daily_credits,
        monthly_credits=key.monthly_credits,
        models=frozenset(key.allowed_models),
        allowed=allow_lists(key.allowed_networks, key.allowed_endpoints, key.allowed_origins),
    )
    return replace(caller, api_key_id=key.pk, key=terms)


class CallerDirectory:
    """Looks callers up in PostgreSQL and remembers them until told otherwise.

    `trusted` says that changes are heard of; while it is false nothing is remembered.
    """

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

        async def read() -> tuple[Caller, bool]:
            if credential.startswith(API_KEY_PREFIX):
                return await self._by_key(credential), True
            return await self._by_token(credential, account), True

        return await self.remembered(name, read)

    async def remembered(self, name: str, read: Callable[[], Awaitable[tuple[Caller, bool]]]) -> Caller:
        """The caller known as `name`, a digest of what it showed; else what `read` answers, and whether that may be kept.

        Raises `ApiError` as `by_credential` for a caller who may not call.
        """
        caller = self._callers.get(name)
        if caller is None:
            generation = self._generation
            caller, keep = await read()
            # A change announced while we were reading may not be in what we read.
            if keep and self.trusted and generation == self._generation:
                self._remember(name, caller)
        refusal = caller.refusal_at(clock.now())
        if refusal is not None:
            raise refusal
        return caller

    async def of_account(self, account_id: UUID) -> Caller:
        """A caller for whom somebody else vouches: the account itself, without key and user, with a customer's scopes."""
        row = await self._row(_BY_ACCOUNT, account_id)
        if row is None:
            raise ApiError(404, "account_not_found", "There is no such account.")
        return self._caller(
            row,
            api_key_id=None,
            key=None,
            user_id=None,
            scopes=frozenset({ApiKey.Scope.INFERENCE.value, ApiKey.Scope.BILLING_READ.value}),
            valid_until=None,
            revoked=False,
        )

    def forget(self, payload: str) -> None:
        """Drop what an announced change (`account:<id>`, `user:<id>`, `plans`, `all`) made stale."""
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

    async def _row(self, sql: str, *parameters: Any) -> _Row | None:
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql, parameters)
            row: _Row | None = await cursor.fetchone()
            return row

    async def _by_key(self, secret: str) -> Caller:
        row = await self._row(_BY_KEY, secret_hash(secret))
        if row is None:
            raise ApiError(401, "invalid_api_key", "This API key does not exist.")
        return self._caller(
            row,
            api_key_id=row["key_id"],
            key=_key_terms(row),
            user_id=None,
            scopes=frozenset(row["scopes"]),
            valid_until=row["expires_at"],
            revoked=row["revoked"],
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
        # The claim ties a token to the password it was made under: a reset ends it.
        stamp = hashlib.md5(row["password"].encode(), usedforsecurity=False).hexdigest().upper()
        if not row["is_active"] or claims.get("hash_password", "").upper() != stamp:
            raise refused
        return self._caller(
            row,
            api_key_id=None,
            key=None,
            user_id=user_id,
            scopes=frozenset({ApiKey.Scope.INFERENCE.value, ApiKey.Scope.BILLING_READ.value}),
            valid_until=datetime.fromtimestamp(claims["exp"], UTC),
            revoked=False,
        )

    @staticmethod
    def _caller(row: _Row, **fields: Any) -> Caller:
        return Caller(
            account_id=row["account_id"],
            account_status=row["account_status"],
            blocked_until=row["blocked_until"],
            zone=ZoneInfo(row["time_zone"]),
            overflow_allowed=row["overflow_allowed"],
            subscription_id=row["subscription_id"],
            period_start=row["current_period_start"],
            period_end=row["current_period_end"],
            plan=_plan_terms(row),
            override=None if row["override"] is None else _limits(row, "own_"),
            override_until=row["override_until"],
            **fields,
        )
