"""`Idempotency-Key` on charging POSTs of the sync API: the rules of `idempotency`, inside one transaction.

The whole view runs in it, so a crash leaves neither a charge nor an answer; a refusal rolls back and frees the key.
"""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.core.exceptions import RequestDataTooBig
from django.db import connection, transaction
from django.db.models import Q
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.models import ApiKey
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7
from iafactory.common.rendering import encode_json

from .idempotency import KEPT_FOR, LARGEST_KEPT_BYTES, REPLAYED_HEADER, body_hash, in_flight, key_check, mismatch, not_kept
from .models import Hold, StoredAnswer

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A repetition with the same key and body gets the first answer, marked `idempotent-replayed: true`, and is "
    "not charged again. 1 to 255 printable ASCII characters, remembered for 24 hours.",
)

ViewMethod = Callable[..., Any]


def idempotent(method: ViewMethod) -> ViewMethod:
    """Decorates a DRF view's method: with an `Idempotency-Key` it happens once, and repetitions get its answer.

    Only success is kept. Raises ApiError 400 `invalid_idempotency_key`, 409 `request_in_flight`, 409 `result_not_kept`,
    422 `idempotency_mismatch`.
    """

    @wraps(method)
    def once(view: Any, request: Request, *args: Any, **kwargs: Any) -> Any:
        header = request.META.get("HTTP_IDEMPOTENCY_KEY")
        if header is None:
            return method(view, request, *args, **kwargs)
        key = key_check(header)
        account_id, api_key_id = _owner(request)
        wanted = body_hash(request.method or "", request.path, _body(request))
        now = clock.now()
        owned = Q(account_id=account_id, api_key_id=api_key_id) if api_key_id else Q(account_id=account_id, api_key=None)
        with transaction.atomic():
            if not _lock(f"{account_id}:{api_key_id}:{key}"):
                raise in_flight()
            kept = StoredAnswer.objects.filter(owned, key=key).first()
            if kept is not None and kept.expires_at > now:
                return _replay(kept, wanted)
            if kept is not None:
                kept.delete()
            if Hold.objects.filter(owned, idempotency_key=key).exists():
                raise in_flight()
            response: Response = method(view, request, *args, **kwargs)
            if response.status_code < 300:
                content = encode_json(response.data)
                answer = StoredAnswer(
                    id=uuid7(),
                    account_id=account_id,
                    api_key_id=api_key_id,
                    key=key,
                    body_hash=wanted,
                    status=response.status_code,
                    headers={name: value for name, value in response.headers.items() if name.lower() != "content-type"},
                    content=content.decode() if len(content) <= LARGEST_KEPT_BYTES else None,
                    expires_at=now + KEPT_FOR,
                )
                answer.save(force_insert=True)
            return response

    return once


def _owner(request: Request) -> tuple[UUID, UUID | None]:
    """Whose key it is: the API key's, else the account's, else (an operator without an account) the user's."""
    if isinstance(request.auth, ApiKey):
        return request.auth.account_id, request.auth.pk
    account = getattr(request, "account", None)
    return (account or request.user).pk, None


def _body(request: Request) -> bytes:
    try:
        body: bytes = request.body
    except RequestDataTooBig:
        raise ApiError(413, "body_too_large", "The body is too large.") from None
    return body


def _lock(name: str) -> bool:
    """Take the transaction's lock of that name; false while somebody else has it."""
    number = int.from_bytes(hashlib.sha256(f"idempotency:{name}".encode()).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [number])
        taken: bool = cursor.fetchone()[0]
    return taken


def _replay(kept: StoredAnswer, wanted: str) -> HttpResponse:
    if kept.body_hash != wanted:
        raise mismatch()
    if kept.content is None:
        raise not_kept()
    response = HttpResponse(kept.content.encode(), status=kept.status, content_type="application/json", headers=kept.headers)
    response[REPLAYED_HEADER] = "true"
    return response
