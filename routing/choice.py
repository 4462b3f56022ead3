"""Which routes may serve a call, and in which order: no I/O, only the catalogue, the plan's policy and the request."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from iafactory.common.errors import ApiError
from iafactory.common.money import credits_quantise, usd_ceil

from .call_request import CallRequest
from .pricing import PriceUnknown, Tariff
from .snapshot import AUTO, Model, Policy, Price, Route, Snapshot


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route for one call, with its worst case: cost to us in USD, price to the customer in credits."""

    route: Route
    price: Price
    tariff: Tariff
    input_tokens: int
    output_tokens: int
    worst_cost_usd: Decimal
    worst_credits: Decimal

    @property
    def free(self) -> bool:
        """Whether it costs the operator nothing."""
        return not self.route.cost_factor


def candidate_make(
    route: Route, request: CallRequest, *, at: datetime, tariff: Tariff, max_tokens: int | None = None
) -> Candidate | None:
    """The worst case of `request` on `route`; None when its price is unknown. `max_tokens` lowers the client's limit."""
    price = route.price_at(at)
    if price is None:
        return None
    try:
        worst = request.worst_case(route, price, max_tokens=max_tokens)
    except PriceUnknown:
        return None
    tariff = tariff.on(route)
    return Candidate(
        route=route,
        price=price,
        tariff=tariff,
        input_tokens=worst.input_tokens,
        output_tokens=worst.output_tokens,
        worst_cost_usd=usd_ceil(worst.list_cost_usd * route.cost_factor),
        worst_credits=credits_quantise(tariff.credits(worst.list_cost_usd)),
    )


def _fits(route: Route, request: CallRequest, policy: Policy) -> bool:
    """Whether the input can fit at all; the estimate decides, the bound would refuse texts that do fit."""
    estimated = request.input_tokens_estimated
    return (policy.context_cap is None or estimated <= policy.context_cap) and (
        route.context_window is None or estimated <= route.context_window
    )


def _score(candidate: Candidate, policy: Policy, priority: int) -> Decimal:
    """w1 / latency_ms + w2 * capacity - w3 * cost + w4 * priority; capacity is 1 until measured, cost the worst case in USD."""
    weights = policy.score_weights
    zero = Decimal(0)
    return (
        weights.get("w1", zero) / max(candidate.route.typical_latency_ms, 1)
        + weights.get("w2", zero)
        - weights.get("w3", zero) * candidate.worst_cost_usd
        + weights.get("w4", zero) * priority
    )


def _expressible(routes: list[Route], request: CallRequest) -> list[Route]:
    """The routes whose protocol can say what the request means. Raises `ApiError` 400 naming the fields when none can."""
    able: list[Route] = []
    lost: dict[str, None] = {}
    for route in routes:
        fields = request.inexpressible(route)
        if fields:
            lost |= dict.fromkeys(fields)
        else:
            able.append(route)
    if lost and not able:
        names = ", ".join(f"`{name}`" for name in lost)
        raise ApiError(400, "unsupported_parameter", f"No provider of this model takes {names}.", param=next(iter(lost)))
    return able


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidates of a call, best first for those who draw no split position.

    `split` names providers and weights when the plan splits and more than one of them can serve the call.
    """

    candidates: tuple[Candidate, ...]
    split: tuple[tuple[str, int], ...]

    def ordered(self, provider: str | None) -> tuple[Candidate, ...]:
        """The candidates with those of `provider` in front."""
        if provider is None:
            return self.candidates
        return tuple(sorted(self.candidates, key=lambda candidate: candidate.route.provider != provider))


def _wished_models(
    snapshot: Snapshot, policy: Policy, request: CallRequest, *, wish_only: bool, provider: str | None
) -> list[tuple[str | None, Model]]:
    """(provider or None for any, model) pairs to look for routes in, most wanted first. Raises `ApiError` on `/v1/*`."""
    wanted: list[tuple[str | None, Model]] = []
    if request.model != AUTO:
        model = snapshot.model(request.model)
        if model is not None and model.mode == request.mode and policy.allows(model.name):
            wanted.append((provider, model))
        elif not wish_only:
            if model is None or model.mode != request.mode:
                raise ApiError(404, "model_not_found", f"The model `{request.model}` does not exist.", param="model")
            raise ApiError(
                403, "model_not_allowed", f"Your plan or API key does not include the model `{model.name}`.", param="model"
            )
    if request.model == AUTO or wish_only:
        providers = dict.fromkeys(slug for slug, _ in policy.split) | dict.fromkeys(policy.fallback)
        if policy.strategy == "score":
            providers |= dict.fromkeys(policy.default_models)
        for slug in providers if provider is None else (provider,):
            model = snapshot.model(policy.default_models.get(slug, ""))
            if model is not None and model.mode == request.mode and policy.allows(model.name):
                wanted.append((slug, model))
    return wanted


def _pin_check(snapshot: Snapshot, policy: Policy, provider: str) -> None:
    """Raises `ApiError` 403 where the plan does not let a call name its provider, 404 for one that serves nothing."""
    if not policy.provider_pin_allowed:
        raise ApiError(403, "provider_pin_not_allowed", "Your plan does not let a call name its provider.", param="provider")
    if not any(route.provider == provider for model in snapshot.models.values() for route in model.routes):
        raise ApiError(404, "provider_not_found", f"There is no provider `{provider}`.", param="provider")


def _routes(wanted: Iterable[tuple[str | None, Model]]) -> list[Route]:
    """Routes of the wanted models, each once, in order; a provider's cheapest first."""
    found: dict[str, Route] = {}
    for provider, model in wanted:
        routes = [route for route in model.routes if provider in (None, route.provider)]
        for route in sorted(routes, key=lambda route: (route.cost_factor != 0, route.provider_priority, -route.weight)):
            found.setdefault(route.slug, route)
    return list(found.values())


def choose(
    snapshot: Snapshot,
    policy: Policy,
    request: CallRequest,
    *,
    at: datetime,
    tariff: Tariff,
    priority: int,
    account_id: UUID,
    wish_only: bool = False,
    provider: str | None = None,
) -> Choice:
    """The candidates for `request` under `policy`.

    On `/v1/*` the model asked for is the model served; with `wish_only` (own endpoints) it is a wish and the policy decides.
    `provider` pins the call to one provider. Raises `ApiError`: 404 unknown model or provider, 403 not in the plan, 400 input
    too long or fields nobody takes, 503 when nothing can serve it.
    """
    if provider is not None:
        _pin_check(snapshot, policy, provider)
    wanted = _wished_models(snapshot, policy, request, wish_only=wish_only, provider=provider)
    routes = [route for route in _routes(wanted) if not route.reserved_for or account_id in route.reserved_for]
    routes = _expressible(routes, request)
    if policy.free_only:
        routes = [route for route in routes if not route.cost_factor]
    fitting = [route for route in routes if _fits(route, request, policy)]
    if routes and not fitting:
        raise ApiError(
            400, "context_length_exceeded", "The input is longer than the model, or your plan, allows.", param="messages"
        )
    candidates = [
        candidate
        for route in fitting
        if not route.draining and (candidate := candidate_make(route, request, at=at, tariff=tariff)) is not None
    ]
    if not candidates:
        raise ApiError(
            503, "model_unavailable", "No provider can serve this model at the moment.", param="model", retry_after_seconds=30
        )
    by_policy = request.model == AUTO or wish_only
    if policy.strategy == "score":
        candidates.sort(key=lambda candidate: _score(candidate, policy, priority), reverse=True)
    if by_policy:
        _keep_wish_and_chain_order(candidates, wanted, policy)
    present = {candidate.route.provider for candidate in candidates}
    split = tuple((slug, weight) for slug, weight in policy.split if weight > 0 and slug in present)
    has_wish = wish_only and bool(wanted) and wanted[0][0] is None
    use_split = policy.strategy == "split" and not has_wish and len(split) > 1
    return Choice(tuple(candidates), split if use_split else ())


def _keep_wish_and_chain_order(candidates: list[Candidate], wanted: Sequence[tuple[str | None, Model]], policy: Policy) -> None:
    """What the caller wished for first, then the policy's own order (the split, or the score's best), then the chain."""
    wished = {model.name for provider, model in wanted if provider is None}
    chain = {provider: position for position, provider in enumerate(policy.fallback)}
    split = {provider for provider, _ in policy.split}
    best = candidates[0].route.slug if policy.strategy == "score" else None

    def rank(candidate: Candidate) -> tuple[bool, bool, bool, int]:
        route = candidate.route
        return (
            route.model not in wished,
            route.provider not in split,
            route.slug != best,
            chain.get(route.provider, len(chain)),
        )

    candidates.sort(key=rank)
