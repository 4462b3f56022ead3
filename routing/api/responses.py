"""`POST /v1/responses`, as OpenAI's clients know it, without a memory."""

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView

from ..chat_call import ChatCall
from ..chat_request import decode_object
from ..dialects.base import in_client_words
from ..dialects.responses import Responses
from ..dialects.responses_request import responses_request
from ..gateway import current_gateway
from . import schemas
from .access import caller_with
from .chat import idempotency_of, run_of


class ResponsesCreate(HotView):
    @extend_schema(
        operation_id="responses",
        tags=["OpenAI-compatible"],
        summary="A response, whole or streamed",
        parameters=[schemas.IDEMPOTENCY_KEY, *schemas.RUN],
        description="Compatible with OpenAI's clients, with models of every provider. Nothing is kept: every request brings "
        "its whole conversation, and one that names something kept is refused (`state_not_kept`).",
        request=schemas.RESPONSES_REQUEST,
        examples=[schemas.RESPONSES_EXAMPLE],
        responses={200: schemas.RESPONSES_ANSWER, **schemas.errors(schemas.OPENAI_ERROR, **schemas.CALL_ERRORS)},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        body = await exchange.read_body()
        request = responses_request(decode_object(body))
        dialect = Responses(f"resp_{exchange.id.hex}", echo=request.echo)
        call = ChatCall(
            gateway,
            exchange,
            caller,
            request.chat,
            endpoint="/v1/responses",
            dialect=dialect,
            idempotency=idempotency_of(exchange, caller, body),
            run=run_of(exchange),
        )
        gateway.uses.note(caller, exchange.client_address, body)
        try:
            return await call.run()
        except ApiError as error:
            raise in_client_words(error, dialect) from None
