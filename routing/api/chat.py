"""`POST /v1/chat/completions`, as OpenAI's clients know it."""

import re
from decimal import Decimal, InvalidOperation

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from billing.ledger.idempotency import IdempotencyKey, body_hash, key_check
from billing.subscriptions.callers import Caller
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView

from ..chat_call import ChatCall
from ..chat_request import chat_request_parse, decode_object
from ..dialects.openai import OpenAIChat
from ..gateway import current_gateway
from ..limits import Run
from . import schemas
from .access import caller_with

LARGEST_RUN_CREDITS = 1_000_000_000


def idempotency_of(exchange: Exchange, caller: Caller, body: bytes) -> IdempotencyKey | None:
    """The call's `Idempotency-Key`, if it sent one; raises `ApiError` 400 for one that cannot be."""
    if b"idempotency-key" not in exchange.headers:
        return None
    key = key_check(exchange.header(b"idempotency-key"))
    return IdempotencyKey(caller.account_id, caller.api_key_id, key, body_hash(exchange.method, exchange.path, body))


_RUN_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def run_of(exchange: Exchange) -> Run | None:
    """The caller's own budget over several calls: `x-iaf-run` names it, `x-iaf-run-limit` says its credits."""
    name, ceiling = exchange.header(b"x-iaf-run"), exchange.header(b"x-iaf-run-limit")
    if not name and not ceiling:
        return None
    if not _RUN_NAME.fullmatch(name):
        raise ApiError(400, "invalid_run", "`x-iaf-run` must be 1 to 64 letters, digits, dots, dashes or underscores.")
    try:
        limit = Decimal(ceiling)
    except InvalidOperation:
        limit = Decimal(-1)
    if not limit.is_finite() or not 0 < limit <= LARGEST_RUN_CREDITS:
        raise ApiError(400, "invalid_run", f"`x-iaf-run-limit` must be credits, above 0 and at most {LARGEST_RUN_CREDITS}.")
    return Run(name, limit)


class ChatCompletions(HotView):
    @extend_schema(
        operation_id="chat_completions",
        tags=["OpenAI-compatible"],
        summary="Chat, whole or streamed",
        parameters=[schemas.IDEMPOTENCY_KEY, *schemas.RUN],
        description="Compatible with OpenAI's clients. With `stream: true` the answer is `text/event-stream`; "
        "`stream_options.include_usage` adds the usage. The call is paid for before its last byte is sent.",
        request=schemas.CHAT_REQUEST,
        examples=[schemas.CHAT_EXAMPLE],
        responses={200: schemas.CHAT_ANSWER, **schemas.errors(schemas.OPENAI_ERROR, **schemas.CALL_ERRORS)},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        body = await exchange.read_body()
        request = chat_request_parse(decode_object(body))
        call = ChatCall(
            gateway,
            exchange,
            caller,
            request,
            endpoint="/v1/chat/completions",
            dialect=OpenAIChat(),
            idempotency=idempotency_of(exchange, caller, body),
            run=run_of(exchange),
        )
        gateway.uses.note(caller, exchange.client_address, body)
        return await call.run()
