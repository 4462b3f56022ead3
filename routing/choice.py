"""Which routes may serve a call, and in which order: no I/O, only the catalogue, the plan's policy and the request."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from billing.accounts.windows import milliseconds
from iafactory.common.errors import ApiError
from iafactory.common.money import credits_quantise, usd_ceil

from .call_request import CallRequest
from .health.board import HealthBoard
from .health.state import Standing
from .pricing import PriceUnknown, Tariff
from .score import Score, score_of
from .snapshot import AUTO, Model, Policy, Price, Route, Snapshot

# Of each list in a usage row's explanation.
_MOST_EXPLAINED = 12


class Candidate(msgspec.Struct, frozen=True):
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


def _score(candidate: Candidate, policy: Policy, priority: int, health: HealthBoard, now_ms: int) -> Score:
    route = candidate.route
    return score_of(
        policy,
        latency_ms=round(health.of(route.slug).latency_ms(route.typical_latency_ms, now_ms)),
        free_percent=health.free_percent(route.slug, now_ms),
        worst_cost_usd=candidate.worst_cost_usd,
        tokens=candidate.input_tokens + candidate.output_tokens,
        priority=priority,
    )


def _unwell(route: Route, health: HealthBoard, now_ms: int) -> str:
    """Why a route cannot be called at the moment; empty when it can."""
    state = health.states.get(route.slug)
    if state is not None and state.opened:
        standing = state.standing(now_ms)
        if standing is Standing.OPEN:
            return f"breaker open: {state.reason}"
        if standing is Standing.HALF_OPEN and not state.has_room_for_probe(now_ms):
            return "breaker half open, others are trying"
    if not any(health.usable(credential.id, route.slug, now_ms) for credential in route.credentials):
        return "its credentials rest"
    return ""


def _well_in_seconds(routes: Iterable[Route], health: HealthBoard, now_ms: int) -> int:
    """When the first of unwell routes may be called again, 1 to 60 seconds."""
    moments = []
    for route in routes:
        state = health.of(route.slug)
        moments += [state.retry_at_ms] if state.opened else [health.usable_at_ms(c.id, route.slug) for c in route.credentials]
    return min(max(1, -(-(min(moments, default=0) - now_ms) // 1000)), 60)


def _expressible(routes: list[Route], request: CallRequest, left_out: dict[str, str]) -> list[Route]:
    """The routes whose protocol can say what the request means. Raises `ApiError` 400 naming the fields when none can."""
    able: list[Route] = []
    lost: dict[str, None] = {}
    for route in routes:
        fields = request.inexpressible(route)
        if fields:
            lost |= dict.fromkeys(fields)
            left_out[route.slug] = "cannot express " + ", ".join(fields)
        else:
            able.append(route)
    if lost and not able:
        names = ", ".join(f"`{name}`" for name in lost)
        raise ApiError(400, "unsupported_parameter", f"No provider of this model takes {names}.", param=next(iter(lost)))
    return able


class Choice(msgspec.Struct, frozen=True):
    """The candidates of a call, best first for those who draw no split position.

    `split` names providers and weights when the plan splits and more than one of them could serve the call, were all well.
    `ranked` are all routes in the order they would have then; `doubtful` those that come last because they hardly answer.
    """

    strategy: str
    candidates: tuple[Candidate, ...]
    split: tuple[tuple[str, int], ...]
    ranked: tuple[Candidate, ...]
    doubtful: frozenset[str]
    scores: Mapping[str, Score]
    left_out: Mapping[str, str]

    def ordered(self, provider: str | None) -> tuple[Candidate, ...]:
        """The candidates with those of `provider` in front."""
        if provider is None:
            return self.candidates
        doubtful = self.doubtful

        def rank(candidate: Candidate) -> tuple[bool, bool]:
            return candidate.route.slug in doubtful, candidate.route.provider != provider

        return tuple(sorted(self.candidates, key=rank))

    def first_when_well(self, provider: str | None) -> Candidate:
        """Who would serve the call if every route were well, `provider` being drawn."""
        drawn = (candidate for candidate in self.ranked if provider in (None, candidate.route.provider))
        return next(drawn, self.ranked[0])

    def explained(self, *, drawn: str | None, position: int | None, tried: Mapping[str, str]) -> dict[str, Any]:
        """Why the call went where it did, for its usage row: small, and built once the call is over.

        `by` strategy; `drawn` provider and position of a split; `candidates` in order with what they scored; `left_out` and
        `tried`: route to reason.
        """
        why: dict[str, Any] = {"by": self.strategy}
        if drawn is not None:
            why["drawn"] = {"provider": drawn, "position": position, "weights": dict(self.split)}
        scores = self.scores
        shown = self.ordered(drawn)[:_MOST_EXPLAINED]
        if scores:
            why["candidates"] = [{"route": c.route.slug, **scores[c.route.slug].told()} for c in shown]
        else:
            why["candidates"] = [{"route": c.route.slug} for c in shown]
        if self.left_out:
            why["left_out"] = dict(list(self.left_out.items())[:_MOST_EXPLAINED])
        if tried:
            why["tried"] = dict(tried)
        if self.doubtful:
            why["doubtful"] = sorted(self.doubtful)
        return why


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
        # Beside providers, for chat, the plan may name a model for each other mode.
        default = snapshot.model(policy.default_models.get(request.mode, ""))
        if default is not None and default.mode == request.mode and policy.allows(default.name):
            wanted.append((provider, default))
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
    health: HealthBoard,
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
    left_out: dict[str, str] = {}
    wanted = _wished_models(snapshot, policy, request, wish_only=wish_only, provider=provider)
    routes = [route for route in _routes(wanted) if not route.reserved_for or account_id in route.reserved_for]
    routes = _expressible(routes, request, left_out)
    if policy.free_only:
        left_out |= {route.slug: "not free" for route in routes if route.cost_factor}
        routes = [route for route in routes if not route.cost_factor]
    fitting = [route for route in routes if _fits(route, request, policy)]
    if routes and not fitting:
        raise ApiError(
            400, "context_length_exceeded", "The input is longer than the model, or your plan, allows.", param="messages"
        )
    if len(fitting) < len(routes):
        left_out |= {route.slug: "input too long" for route in routes if route not in fitting}
    ranked: list[Candidate] = []
    for route in fitting:
        if route.draining:
            left_out[route.slug] = "draining"
        elif (candidate := candidate_make(route, request, at=at, tariff=tariff)) is None:
            left_out[route.slug] = "price unknown"
        else:
            ranked.append(candidate)
    if not ranked:
        raise _unavailable(30)
    by_policy = request.model == AUTO or wish_only
    now_ms = milliseconds(at)
    scores: dict[str, Score] = {}
    if policy.strategy == "score":
        scores = {c.route.slug: _score(c, policy, priority, health, now_ms) for c in ranked}
        ranked.sort(key=lambda candidate: scores[candidate.route.slug].total, reverse=True)
    if by_policy:
        _keep_wish_and_chain_order(ranked, wanted, policy)
    candidates, doubtful = _able_now(ranked, health, now_ms, left_out)
    if not candidates:
        raise _unavailable(_well_in_seconds((candidate.route for candidate in ranked), health, now_ms))
    present = {candidate.route.provider for candidate in ranked}
    split = tuple((slug, weight) for slug, weight in policy.split if weight > 0 and slug in present)
    has_wish = wish_only and bool(wanted) and wanted[0][0] is None
    use_split = policy.strategy == "split" and not has_wish and len(split) > 1
    return Choice(
        strategy=policy.strategy if by_policy or scores else "model",
        candidates=tuple(candidates),
        split=split if use_split else (),
        ranked=tuple(ranked),
        doubtful=doubtful,
        scores=scores,
        left_out=left_out,
    )


def _unavailable(retry_after_seconds: int) -> ApiError:
    return ApiError(
        503,
        "model_unavailable",
        "No provider can serve this model at the moment.",
        param="model",
        retry_after_seconds=retry_after_seconds,
    )


def _able_now(
    ranked: list[Candidate], health: HealthBoard, now_ms: int, left_out: dict[str, str]
) -> tuple[list[Candidate], frozenset[str]]:
    """Those that can be called at the moment, and the doubtful among them, which come last. Notes why the others cannot."""
    able: list[Candidate] = []
    doubtful: list[Candidate] = []
    for candidate in ranked:
        route = candidate.route
        if why := _unwell(route, health, now_ms):
            left_out[route.slug] = why
        elif health.is_doubtful(route.slug, now_ms):
            doubtful.append(candidate)
        else:
            able.append(candidate)
    return able + doubtful, frozenset(candidate.route.slug for candidate in doubtful)


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
