"""One result per `Idempotency-Key`: what a repetition of a charging call is answered, and what is kept for it.

The key belongs to the API key (or, with an access token, to the account) that sent it. While the call runs its hold carries the
key; the answer is stored in the transaction that charges. A call that charged nothing frees its key.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from iafactory.common.crypto import decrypt_bytes, encrypt_bytes
from iafactory.common.errors import ApiError

from .items import AnswerItem

KEPT_FOR = timedelta(hours=24)
LARGEST_KEPT_BYTES = 1024 * 1024
REPLAYED_HEADER = "idempotent-replayed"
IN_FLIGHT_RETRY_SECONDS = 2


def body_hash(method: str, path: str, body: bytes) -> str:
    """SHA-256 of what makes two requests the same one, hexadecimal."""
    return hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()


def key_check(key: str) -> str:
    """`key` if it may be one. Raises `ApiError` 400 unless it is 1 to 255 printable ASCII characters."""
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise ApiError(400, "invalid_idempotency_key", "`Idempotency-Key` must be 1 to 255 printable ASCII characters.")
    return key


def mismatch() -> ApiError:
    return ApiError(422, "idempotency_mismatch", "This `Idempotency-Key` was used for another request.")


def in_flight() -> ApiError:
    return ApiError(
        409,
        "request_in_flight",
        "A call with this `Idempotency-Key` is still running.",
        retry_after_seconds=IN_FLIGHT_RETRY_SECONDS,
    )


def not_kept() -> ApiError:
    return ApiError(
        409, "result_not_kept", "This call was served and charged before; its answer was too large to keep.", final=True
    )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key with its owner and the hash of the request it stands for."""

    account_id: UUID
    api_key_id: UUID | None
    key: str
    body_hash: str


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it was given the first time."""

    status: int
    headers: dict[str, str]
    content: bytes


_FIND = """
    SELECT body_hash, status, headers, content FROM billing_storedanswer
    WHERE account_id = %(account)s AND api_key_id IS NOT DISTINCT FROM %(api_key)s AND key = %(key)s AND expires_at > %(now)s
    UNION ALL
    SELECT body_hash, NULL, NULL, NULL FROM billing_hold
    WHERE account_id = %(account)s AND api_key_id IS NOT DISTINCT FROM %(api_key)s AND idempotency_key = %(key)s
    LIMIT 1
"""


async def answer_find(pool: AsyncConnectionPool, wanted: IdempotencyKey, *, now: datetime) -> KeptAnswer | None:
    """The kept answer to `wanted`; None when the key is free.

    Raises `ApiError`: 422 for another request under the key, 409 while the first is running or when its answer was not kept.
    """
    async with pool.connection() as connection:
        cursor = await connection.execute(
            _FIND, {"account": wanted.account_id, "api_key": wanted.api_key_id, "key": wanted.key, "now": now}
        )
        row = await cursor.fetchone()
    if row is None:
        return None
    known_hash, status, headers, content = row
    if known_hash != wanted.body_hash:
        raise mismatch()
    if status is None:
        raise in_flight()
    if content is None:
        raise not_kept()
    return KeptAnswer(status, headers, decrypt_bytes(content))


def answer_item(
    wanted: IdempotencyKey, *, request_id: UUID, status: int, headers: dict[str, str], content: bytes | None, now: datetime
) -> AnswerItem:
    """The row that keeps an answer; `content` None, or above a mebibyte, is not kept, only remembered."""
    kept = content is not None and len(content) <= LARGEST_KEPT_BYTES
    return AnswerItem(
        id=request_id,
        account_id=wanted.account_id,
        api_key_id=wanted.api_key_id,
        key=wanted.key,
        body_hash=wanted.body_hash,
        status=status,
        headers=headers,
        content=encrypt_bytes(content) if kept and content is not None else None,
        expires_at=now + KEPT_FOR,
    )
