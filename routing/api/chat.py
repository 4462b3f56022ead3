"""`POST /v1/chat/completions`, as OpenAI's clients know it."""

from typing import Any

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from billing.ledger.idempotency import IdempotencyKey, body_hash, key_check
from billing.subscriptions.callers import Caller
from iafactory.common.hot import Answer, Exchange, HotView
from iafactory.common.rendering import encode_json

from ..chat_request import chat_request_parse, decode_object
from ..gateway import current_gateway
from ..pipeline import ChatCall, usage_body
from ..providers.base import Usage
from . import schemas
from .access import caller_with


def completion(call: ChatCall) -> dict[str, Any]:
    """The whole answer in OpenAI's dialect; its usage is what was billed."""
    answer = call.outcome.answer
    assert answer is not None
    return answer.body | {"usage": answer.body.get("usage") or usage_body(call.outcome.usage or Usage())}


def _render(call: ChatCall) -> bytes:
    return encode_json(completion(call))


def idempotency_of(exchange: Exchange, caller: Caller, body: bytes) -> IdempotencyKey | None:
    """The call's `Idempotency-Key`, if it sent one; raises `ApiError` 400 for one that cannot be."""
    if b"idempotency-key" not in exchange.headers:
        return None
    key = key_check(exchange.header(b"idempotency-key"))
    return IdempotencyKey(caller.account_id, caller.api_key_id, key, body_hash(exchange.method, exchange.path, body))


class ChatCompletions(HotView):
    @extend_schema(
        operation_id="chat_completions",
        tags=["OpenAI-compatible"],
        summary="Chat, whole or streamed",
        parameters=[schemas.IDEMPOTENCY_KEY],
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
        idempotency = idempotency_of(exchange, caller, body)
        exchange.watch()
        return await ChatCall(
            gateway, exchange, caller, request, endpoint="/v1/chat/completions", render=_render, idempotency=idempotency
        ).run()
