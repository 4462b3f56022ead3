"""`GET /v1/models`: what the caller's plan can call now."""

from collections.abc import Iterator

from drf_spectacular.utils import extend_schema

from billing.accounts.models import ApiKey
from billing.subscriptions.callers import Caller
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange, HotView, json_answer

from ..gateway import Gateway, current_gateway
from ..snapshot import AUTO, Model, Policy, Route
from . import schemas
from .access import caller_with

_OWNER = "iafactory"


def policy_of(gateway: Gateway, caller: Caller) -> Policy | None:
    """How the caller's plan routes; None without a plan that can call models."""
    policy = None if caller.plan is None else gateway.snapshot.policies.get(caller.plan.id)
    return policy if policy is None or caller.key is None else policy.narrowed(caller.key.models)


def callable_models(gateway: Gateway, caller: Caller) -> Iterator[tuple[Model, list[Route]]]:
    """Models of the caller's plan with the routes that can serve them: priced, and free where the plan is."""
    policy = policy_of(gateway, caller)
    if policy is None:
        return
    now = clock.now()
    for model in gateway.snapshot.models.values():
        if model.mode != "chat" or not policy.allows(model.name):
            continue
        routes = []
        for route in model.routes:
            price = route.price_at(now)
            known = price is not None and price.base.input is not None and price.base.output is not None
            theirs = not route.reserved_for or caller.account_id in route.reserved_for
            if known and theirs and not (policy.free_only and route.cost_factor):
                routes.append(route)
        if routes:
            yield model, routes


def _body(name: str, created: int, owner: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


class ModelList(HotView):
    @extend_schema(
        operation_id="models_list",
        tags=["OpenAI-compatible"],
        summary="Models of your plan",
        responses={200: schemas.MODEL_LIST, **schemas.errors(schemas.OPENAI_ERROR, _401="The key opens nothing.")},
    )
    async def get(self, exchange: Exchange) -> Answer:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE, ApiKey.Scope.BILLING_READ)
        data = [_body(model.name, model.created, model.owner or _OWNER) for model, _ in callable_models(gateway, caller)]
        if data:
            data.insert(0, _body(AUTO, min(int(str(item["created"])) for item in data), _OWNER))
        return json_answer({"object": "list", "data": data})


class ModelDetail(HotView):
    @extend_schema(
        operation_id="models_retrieve",
        tags=["OpenAI-compatible"],
        summary="One model",
        responses={200: schemas.MODEL, **schemas.errors(schemas.OPENAI_ERROR, _401="The key opens nothing.", _404="Unknown.")},
    )
    async def get(self, exchange: Exchange, name: str) -> Answer:
        gateway = current_gateway()
        caller = await caller_with(gateway, exchange, ApiKey.Scope.INFERENCE, ApiKey.Scope.BILLING_READ)
        wanted = gateway.snapshot.names.get(name)
        for model, _ in callable_models(gateway, caller):
            if model.name == wanted or name == AUTO:
                owner = _OWNER if name == AUTO else model.owner or _OWNER
                return json_answer(_body(AUTO if name == AUTO else model.name, model.created, owner))
        raise ApiError(404, "model_not_found", f"The model `{name[:200]}` does not exist.", param="model")
