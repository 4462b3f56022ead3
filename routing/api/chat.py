"""`POST /v1/chat/completions`, as OpenAI's clients know it."""

from typing import Any

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from iafactory.common.hot import Answer, Exchange, HotView, json_answer

from ..chat_request import ChatRequest, chat_request_parse, decode_object
from ..gateway import current_gateway
from ..pipeline import STREAM_HEADERS, ChatCall, stream_finish, usage_body
from ..providers.base import Usage
from . import schemas
from .access import caller_with


def completion_body(call: ChatCall) -> dict[str, Any]:
    """The whole answer in OpenAI's dialect; its usage is what was billed."""
    answer = call.outcome.answer
    assert answer is not None
    return answer.body | {"usage": answer.body.get("usage") or usage_body(call.outcome.usage or Usage())}


class ChatCompletions(HotView):
    @extend_schema(
        operation_id="chat_completions",
        tags=["OpenAI-compatible"],
        summary="Chat, whole or streamed",
        description="Compatible with OpenAI's clients. With `stream: true` the answer is `text/event-stream`; "
        "`stream_options.include_usage` adds the usage. The call is paid for before its last byte is sent.",
        request=schemas.CHAT_REQUEST,
        examples=[schemas.CHAT_EXAMPLE],
        responses={200: schemas.CHAT_ANSWER, **schemas.errors(schemas.OPENAI_ERROR, **schemas.CALL_ERRORS)},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        request: ChatRequest = chat_request_parse(decode_object(await exchange.read_body()))
        call = ChatCall(gateway, exchange, caller, request, endpoint="/v1/chat/completions")
        exchange.watch()
        outcome = await call.run()
        if not exchange.started:
            if outcome.error is not None:
                raise outcome.error
            if outcome.answer is not None:
                return json_answer(completion_body(call), headers=call.answer_headers())
            await exchange.start(200, STREAM_HEADERS)
        await stream_finish(call)
        return None
