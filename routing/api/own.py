"""The product's own chat API: every answer says who gave it and what it cost."""

from datetime import datetime, time
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView, json_answer
from iafactory.common.money import plain

from ..chat_call import ChatCall
from ..chat_request import chat_request_parse, decode_object
from ..dialects.own import OwnDialect
from ..gateway import current_gateway
from ..pricing import tariff_of
from ..snapshot import AUTO
from . import schemas
from .access import caller_with
from .balance import limit_figures
from .chat import idempotency_of, run_of
from .models import callable_models, policy_of


def as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """The body in OpenAI's dialect: `prompt` becomes a message, and no model is `auto`. Credentials are no part of it."""
    chat = {name: value for name, value in body.items() if name not in ("prompt", "api_key")}
    prompt = body.get("prompt")
    if prompt is not None:
        if "messages" in body:
            raise ApiError(400, "invalid_request", "Send `messages` or `prompt`, not both.", param="prompt")
        if not isinstance(prompt, str) or not prompt:
            raise ApiError(400, "invalid_request", "`prompt` must be a text that is not empty.", param="prompt")
        chat["messages"] = [{"role": "user", "content": prompt}]
    if chat.get("model") is None or chat.get("model") == "":
        chat["model"] = AUTO
    # One answer is what these endpoints return.
    chat.pop("n", None)
    return chat


def as_whole_chat(body: dict[str, Any]) -> dict[str, Any]:
    """The same for endpoints that do not stream."""
    return {name: value for name, value in as_chat(body).items() if name not in ("stream", "stream_options")}


class PinnedChat(HotView):
    @extend_schema(
        operation_id="v1_chat",
        tags=["Own"],
        summary="Chat, at a provider of your choice",
        parameters=[schemas.IDEMPOTENCY_KEY, *schemas.RUN],
        description="The model asked for is the model served, as on `/v1/chat/completions`. `provider` names who shall serve "
        "it, where the plan allows that: nobody else is asked then. With `stream: true` the answer is OpenAI's stream, and an "
        "event `chat.facts` before its end says what the whole answer says.",
        request=schemas.PINNED_CHAT_REQUEST,
        responses={200: schemas.OWN_CHAT_ANSWER, **schemas.errors(schemas.OPENAI_ERROR, **schemas.CALL_ERRORS)},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        body = await exchange.read_body()
        decoded = decode_object(body)
        provider = decoded.pop("provider", None)
        if provider is not None and (not isinstance(provider, str) or "\0" in provider or len(provider) > 200):
            raise ApiError(400, "invalid_request", "`provider` must be the name of a provider.", param="provider")
        request = chat_request_parse(as_chat(decoded))
        call = ChatCall(
            gateway,
            exchange,
            caller,
            request,
            endpoint="/v1/chat",
            dialect=OwnDialect(),
            idempotency=idempotency_of(exchange, caller, body),
            run=run_of(exchange),
            provider=provider or None,
        )
        gateway.uses.note(caller, exchange.client_address, body)
        return await call.run()


class OwnChat(HotView):
    @extend_schema(
        operation_id="v2_chat",
        tags=["Own"],
        summary="Chat by your plan's policy",
        parameters=[schemas.IDEMPOTENCY_KEY, *schemas.RUN],
        request=schemas.OWN_CHAT_REQUEST,
        responses={200: schemas.OWN_CHAT_ANSWER, **schemas.errors(schemas.PLAIN_ERROR, **schemas.CALL_ERRORS)},
    )
    async def post(self, exchange: Exchange) -> Answer | None:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE)
        body = await exchange.read_body()
        request = chat_request_parse(as_whole_chat(decode_object(body)))
        call = ChatCall(
            gateway,
            exchange,
            caller,
            request,
            endpoint="/api/v2/chat",
            dialect=OwnDialect(),
            idempotency=idempotency_of(exchange, caller, body),
            run=run_of(exchange),
            wish_only=True,
        )
        gateway.uses.note(caller, exchange.client_address, body)
        return await call.run()


class OwnModels(HotView):
    @extend_schema(
        operation_id="v2_models",
        tags=["Own"],
        summary="Models of your plan, with providers and prices in credits",
        responses={200: schemas.OWN_MODEL_LIST, **schemas.errors(schemas.PLAIN_ERROR, _401="The key opens nothing.")},
    )
    async def get(self, exchange: Exchange) -> Answer:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE, ApiKey.Scope.BILLING_READ)
        policy = policy_of(gateway, caller)
        now = clock.now()
        models = []
        for model, routes in callable_models(gateway, caller):
            price = routes[0].price_at(now)
            assert policy is not None
            assert price is not None
            charged = caller.plan is not None and caller.plan.billing_mode != "quota"
            tariff = tariff_of(policy, whole_credits=False, charged=charged)
            models.append(
                {
                    "model": model.name,
                    "providers": list(dict.fromkeys(route.provider for route in routes)),
                    "owned_by": model.owner,
                    "context_window": routes[0].context_window,
                    "credits_per_million_input_tokens": plain(tariff.credits(price.base.input or Decimal(0))),
                    "credits_per_million_output_tokens": plain(tariff.credits(price.base.output or Decimal(0))),
                }
            )
        return json_answer({"default": AUTO, "models": models})


_TODAY = """
    SELECT model, count(*), sum(input_tokens), sum(output_tokens), sum(credits_charged)
    FROM billing_usagerecord
    WHERE account_id = %s AND started_at >= %s AND started_at <= %s AND credits_charged + quota_units > 0
    GROUP BY model ORDER BY count(*) DESC, model
"""


class UsageToday(HotView):
    @extend_schema(
        operation_id="v2_usage_today",
        tags=["Own"],
        summary="What was used since midnight",
        description="Midnight in the account's time zone. Calls that cost nothing and counted against no quota are left out.",
        responses={200: schemas.USAGE_TODAY, **schemas.errors(schemas.PLAIN_ERROR, _401="The key opens nothing.")},
    )
    async def get(self, exchange: Exchange) -> Answer:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE, ApiKey.Scope.BILLING_READ)
        now = clock.now()
        today = now.astimezone(caller.zone).date()
        midnight = datetime.combine(today, time.min, caller.zone)
        async with gateway.pool.connection() as connection:
            cursor = await connection.execute(_TODAY, (caller.account_id, midnight, now))
            rows = await cursor.fetchall()
        by_model = [
            {"model": model, "requests": requests, "input_tokens": inputs, "output_tokens": outputs, "credits": credits}
            for model, requests, inputs, outputs, credits in rows
        ]
        return json_answer(
            {
                "date": today,
                "time_zone": str(caller.zone),
                "plan": caller.plan.code if caller.plan else None,
                "requests": sum(row["requests"] for row in by_model),
                "input_tokens": sum(row["input_tokens"] for row in by_model),
                "output_tokens": sum(row["output_tokens"] for row in by_model),
                "credits": sum((row["credits"] for row in by_model), Decimal(0)),
                "by_model": by_model,
                "limits": await limit_figures(gateway, caller, at=now),
            }
        )
