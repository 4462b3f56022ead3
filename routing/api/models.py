"""`GET /v1/models`: what the caller's plan can call now, in the shape that its client knows."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from billing.subscriptions.callers import Caller
from iafactory.common import clock
from iafactory.common.errors import ApiError, anthropic_body
from iafactory.common.hot import Answer, Exchange, HotView, json_answer

from ..gateway import Gateway, current_gateway
from ..pricing import is_priced
from ..snapshot import AUTO, Model, Policy, Route
from . import schemas
from .access import caller_with

_OWNER = "iafactory"
_CHAT = "chat"
# As Anthropic pages its list.
_PAGE_SIZE = 20
_LARGEST_PAGE = 1000


def policy_of(gateway: Gateway, caller: Caller) -> Policy | None:
    """How the caller's plan routes; None without a plan that can call models."""
    policy = None if caller.plan is None else gateway.snapshot.policies.get(caller.plan.id)
    return policy if policy is None or caller.key is None else policy.narrowed(caller.key.models)


def callable_models(gateway: Gateway, caller: Caller, *, only: str | None = _CHAT) -> Iterator[tuple[Model, list[Route]]]:
    """Models of the caller's plan with the routes that can serve them: priced, and free where the plan is.

    Those of the mode `only`; None: of every mode.
    """
    policy = policy_of(gateway, caller)
    if policy is None:
        return
    now = clock.now()
    for model in gateway.snapshot.models.values():
        if only not in (None, model.mode) or not policy.allows(model.name):
            continue
        routes = []
        for route in model.routes:
            price = route.price_at(now)
            known = price is not None and is_priced(model.mode, price)
            theirs = not route.reserved_for or caller.account_id in route.reserved_for
            if known and theirs and not (policy.free_only and route.cost_factor):
                routes.append(route)
        if routes:
            yield model, routes


def _body(name: str, created: int, model: Model | None) -> dict[str, object]:
    body: dict[str, object] = {"id": name, "object": "model", "created": created, "owned_by": _OWNER}
    return body if model is None else body | {"owned_by": model.owner or _OWNER, "mode": model.mode}


def _anthropic_body(name: str, created: int, route: Route | None) -> dict[str, object]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC),
        "lifecycle": "active",
        "line": None,
        "max_input_tokens": None if route is None else route.context_window,
        "max_tokens": None if route is None else route.max_output_tokens,
    }


def _is_anthropic(exchange: Exchange) -> bool:
    """Whether an Anthropic client asks: OpenAI's send neither header."""
    return b"anthropic-version" in exchange.headers or b"x-api-key" in exchange.headers


async def _in_shape(exchange: Exchange, answer: Callable[[Exchange], Awaitable[Answer]]) -> Answer:
    """`answer`, its errors in the shape of the client who asks: both share this address."""
    if not _is_anthropic(exchange):
        return await answer(exchange)
    headers = [(b"request-id", str(exchange.id).encode())]
    try:
        found = await answer(exchange)
    except ApiError as error:
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
        return json_answer(anthropic_body(error), status=error.status, headers=headers)
    return Answer(found.body, found.status, [*found.headers, *headers])


async def _caller(gateway: Gateway, exchange: Exchange) -> Caller:
    return await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE, ApiKey.Scope.BILLING_READ)


def _page(exchange: Exchange, data: list[dict[str, object]]) -> dict[str, Any]:
    """The page of models that `limit`, `after_id` and `before_id` ask for. Raises `ApiError` 400."""
    asked = dict(parse_qsl(exchange.scope.get("query_string", b"").decode("latin-1")))
    text = asked.get("limit", str(_PAGE_SIZE))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
    if not 1 <= limit <= _LARGEST_PAGE:
        raise ApiError(400, "invalid_request", f"`limit` must be between 1 and {_LARGEST_PAGE}.", param="limit")
    names = [item["id"] for item in data]
    first, last = 0, len(data)
    for cursor in ("after_id", "before_id"):
        if cursor in asked and asked[cursor] not in names:
            raise ApiError(400, "invalid_request", f"`{cursor}` is no model of this list.", param=cursor)
    if "after_id" in asked:
        first = names.index(asked["after_id"]) + 1
    if "before_id" in asked:
        last = names.index(asked["before_id"])
        first = max(first, last - limit)
    page = data[first : min(last, first + limit)]
    more = first > 0 if "before_id" in asked else first + len(page) < last
    ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"data": page, "has_more": more, "first_id": ends[0], "last_id": ends[1]}


_SHAPE = (
    "Clients that send `anthropic-version` or `x-api-key` get Anthropic's shape, a page at a time (`limit`, `after_id`, "
    "`before_id`); all others OpenAI's."
)


class ModelList(HotView):
    @extend_schema(
        operation_id="models_list",
        tags=["OpenAI-compatible"],
        summary="Models of your plan",
        description=_SHAPE,
        responses={200: schemas.MODEL_LIST, **schemas.errors(schemas.OPENAI_ERROR, _401="The key opens nothing.")},
    )
    async def get(self, exchange: Exchange) -> Answer:
        return await _in_shape(exchange, self._list)

    async def _list(self, exchange: Exchange) -> Answer:
        gateway = current_gateway()
        only = _CHAT if _is_anthropic(exchange) else None
        found = list(callable_models(gateway, await _caller(gateway, exchange), only=only))
        oldest = min((model.created for model, _ in found), default=0)
        if _is_anthropic(exchange):
            models = [_anthropic_body(model.name, model.created, routes[0]) for model, routes in found]
            return json_answer(_page(exchange, [_anthropic_body(AUTO, oldest, None), *models] if models else []))
        data = [_body(model.name, model.created, model) for model, _ in found]
        if data:
            data.insert(0, _body(AUTO, oldest, None))
        return json_answer({"object": "list", "data": data})


class ModelDetail(HotView):
    @extend_schema(
        operation_id="models_retrieve",
        tags=["OpenAI-compatible"],
        summary="One model",
        description=_SHAPE,
        responses={200: schemas.MODEL, **schemas.errors(schemas.OPENAI_ERROR, _401="The key opens nothing.", _404="Unknown.")},
    )
    async def get(self, exchange: Exchange, name: str) -> Answer:
        async def find(exchange: Exchange) -> Answer:
            return await self._find(exchange, name)

        return await _in_shape(exchange, find)

    async def _find(self, exchange: Exchange, name: str) -> Answer:
        gateway = current_gateway()
        caller = await _caller(gateway, exchange)
        wanted = gateway.snapshot.names.get(name)
        for model, routes in callable_models(gateway, caller, only=_CHAT if _is_anthropic(exchange) else None):
            if model.name == wanted or name == AUTO:
                is_auto = name == AUTO
                if _is_anthropic(exchange):
                    return json_answer(
                        _anthropic_body(AUTO if is_auto else model.name, model.created, None if is_auto else routes[0])
                    )
                return json_answer(_body(AUTO if is_auto else model.name, model.created, None if is_auto else model))
        raise ApiError(404, "model_not_found", f"The model `{name[:200]}` does not exist.", param="model")
