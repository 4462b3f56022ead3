"""`POST /v1/messages` and its counter, as Anthropic's clients know them."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView, json_answer

from ..chat_call import ChatCall
from ..chat_request import ChatRequest, decode_object
from ..dialects.anthropic import AnthropicMessages
from ..dialects.anthropic_request import count_request, messages_request
from ..dialects.base import in_client_words
from ..gateway import current_gateway
from . import schemas
from .access import caller_with
from .chat import idempotency_of, run_of

# Usual figures of what is no text, for estimates; holds are made of the most it can be.
_IMAGE_TOKENS = 1600
_PAGE_TOKENS = 3000
_PAGE_BASE64_BYTES = 100_000


def _dialect(exchange: Exchange, request: ChatRequest) -> AnthropicMessages:
    return AnthropicMessages(f"msg_{exchange.id.hex}", input_tokens=request.input_tokens_estimated)


class Messages(HotView):
    @extend_schema(
        operation_id="messages",
        tags=["Anthropic-compatible"],
        summary="Chat, whole or streamed",
        parameters=[schemas.IDEMPOTENCY_KEY, *schemas.RUN],
        description="Compatible with Anthropic's clients, with models of every provider. The key goes into `x-api-key` or "
        "`Authorization: Bearer`; any `anthropic-version` will do. With `stream: true` the answer is `text/event-stream`. "
        "Hints that the model's provider does not take are left out and named in `x-iaf-dropped`.",
        request=schemas.MESSAGES_REQUEST,
        examples=[schemas.MESSAGES_EXAMPLE],
        responses={200: schemas.MESSAGE_ANSWER, **schemas.errors(schemas.ANTHROPIC_ERROR, **schemas.CALL_ERRORS)},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        body = await exchange.read_body()
        request = messages_request(decode_object(body), betas=exchange.header(b"anthropic-beta"))
        dialect = _dialect(exchange, request)
        call = ChatCall(
            gateway,
            exchange,
            caller,
            request,
            endpoint="/v1/messages",
            dialect=dialect,
            idempotency=idempotency_of(exchange, caller, body),
            run=run_of(exchange),
        )
        gateway.uses.note(caller, exchange.client_address, body)
        try:
            return await call.run()
        except ApiError as error:
            raise in_client_words(error, dialect) from None


class MessagesCountTokens(HotView):
    @extend_schema(
        operation_id="messages_count_tokens",
        tags=["Anthropic-compatible"],
        summary="Count a request's input tokens",
        description="Costs nothing. Where the model's provider does not count, the answer is our estimate and says so: "
        "`x-iaf-estimated: true`.",
        request=schemas.COUNT_TOKENS_REQUEST,
        responses={
            200: schemas.COUNT_TOKENS_ANSWER,
            **schemas.errors(
                schemas.ANTHROPIC_ERROR,
                _400="The request is wrong.",
                _401="The key opens nothing.",
                _404="`model_not_found`.",
            ),
        },
    )
    async def post(self, exchange: Exchange) -> Answer:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        request = count_request(decode_object(await exchange.read_body()))
        dialect = _dialect(exchange, request)
        call = ChatCall(gateway, exchange, caller, request, endpoint="/v1/messages/count_tokens", dialect=dialect)
        try:
            counted = await call.count_input()
        except ApiError as error:
            raise in_client_words(error, dialect) from None
        if counted is not None:
            return json_answer({"input_tokens": counted}, headers=[(b"x-iaf-estimated", b"false")])
        return json_answer({"input_tokens": estimated_tokens(request)}, headers=[(b"x-iaf-estimated", b"true")])


def estimated_tokens(request: ChatRequest) -> int:
    """What a request usually counts, images and documents included; never more than holds are made of."""
    tokens = request.input_tokens_estimated
    for message in request.body["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            tokens += _media_tokens(part)
    return min(tokens, request.input_tokens_at_most)


def _media_tokens(part: Mapping[str, Any]) -> int:
    match part["type"]:
        case "image_url":
            return _IMAGE_TOKENS
        case "file":
            held = part["file"].get("file_data", "")
            return _PAGE_TOKENS * (1 + len(held) // _PAGE_BASE64_BYTES)
    return 0
