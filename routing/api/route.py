"""`POST /api/route`: one payload, routed by the plan's policy, for callers that know nothing of models and providers."""

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView

from ..chat_call import ChatCall
from ..chat_request import chat_request_parse, decode_object
from ..dialects.own import RouteDialect
from ..gateway import current_gateway
from . import schemas
from .access import caller_with
from .chat import idempotency_of, run_of
from .own import as_whole_chat

LARGEST_COST_UNITS = 1_000_000_000


def _payload(body: dict[str, Any]) -> dict[str, Any]:
    """What is asked: `payload`, or the body itself where there is none; a text alone is a prompt."""
    payload = body.get("payload", body)
    if isinstance(payload, str):
        return {"prompt": payload}
    if not isinstance(payload, dict):
        raise ApiError(400, "invalid_request", "`payload` must be an object or a text.", param="payload")
    return payload


def _cost_units(payload: dict[str, Any]) -> Decimal | None:
    """The most credits the call may cost, as its caller says. Raises `ApiError` 400."""
    units = payload.get("cost_units")
    if units is None:
        return None
    if isinstance(units, bool) or not isinstance(units, int | float) or not 0 < units <= LARGEST_COST_UNITS:
        raise ApiError(
            400,
            "invalid_request",
            f"`cost_units` must be credits, above 0 and at most {LARGEST_COST_UNITS}.",
            param="cost_units",
        )
    # Through text: the number as it was written.
    return Decimal(str(units))


def _take_credential(exchange: Exchange, body: dict[str, Any]) -> None:
    """Let `api_key` of the body stand for the header that is missing."""
    key = body.get("api_key")
    if key is None or b"authorization" in exchange.headers or b"x-api-key" in exchange.headers:
        return
    if not isinstance(key, str):
        raise ApiError(400, "invalid_request", "`api_key` must be a text.", param="api_key")
    exchange.headers[b"x-api-key"] = key.encode("ascii", "replace")


class Route(HotView):
    @extend_schema(
        operation_id="route",
        tags=["Own"],
        summary="Route a payload by your plan's policy",
        parameters=[schemas.IDEMPOTENCY_KEY, *schemas.RUN],
        description="The policy decides who answers; `model` is only a wish. `cost_units` are the most credits the call may "
        "cost: the answer is kept short enough for that, or the call is refused with 402. The key may stand in the body as "
        "`api_key`.",
        request=schemas.ROUTE_REQUEST,
        responses={200: schemas.ROUTE_ANSWER, **schemas.errors(schemas.PLAIN_ERROR, **schemas.CALL_ERRORS)},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        gateway = current_gateway()
        # The credential may be inside: unlike elsewhere the body is read before it is known whose it is.
        body = await exchange.read_body()
        decoded = decode_object(body)
        _take_credential(exchange, decoded)
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        payload = _payload(decoded)
        most_credits = _cost_units(payload)
        chat = as_whole_chat({name: value for name, value in payload.items() if name not in ("cost_units", "payload")})
        call = ChatCall(
            gateway,
            exchange,
            caller,
            chat_request_parse(chat),
            endpoint="/api/route",
            dialect=RouteDialect(),
            idempotency=idempotency_of(exchange, caller, body),
            run=run_of(exchange),
            wish_only=True,
            most_credits=most_credits,
        )
        gateway.uses.note(caller, exchange.client_address, body)
        return await call.run()
