"""The life of a chat call, top to bottom. Reading `ChatCall.run` explains the product.

Authenticate (by the view), choose, reserve, hold, call, settle, release. From the moment a hold is open the call is settled
whatever happens: the ASGI handler runs this in a task of its own that neither the client nor the server cancels.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings

from billing.ledger.idempotency import LARGEST_KEPT_BYTES, REPLAYED_HEADER, IdempotencyKey, answer_find, answer_item, in_flight
from billing.ledger.items import AnswerItem, CallItem, CallVerdict, HoldItem, UsageItem
from billing.ledger.writer import LedgerRejected, LedgerUnavailable
from billing.subscriptions.callers import Caller, PlanTerms
from iafactory.common import clock
from iafactory.common.errors import ApiError, openai_body
from iafactory.common.hot import JSON_TYPE, Answer, Exchange
from iafactory.common.money import MICRO_PER_CREDIT, ZERO, credits_to_micro, plain, usd_to_nano
from iafactory.common.rendering import encode_json
from ratelimit.engine import Decision, LimiterUnavailable, ScopeState
from ratelimit.scopes import Budget, SplitPosition, split_pick

from . import limits
from .chat_request import ChatRequest
from .choice import Candidate, Choice, candidate_make, choose
from .gateway import Gateway
from .limits import Run
from .pricing import Tariff, affordable_output_tokens, list_cost, price_facts, provider_cost, tariff_of
from .providers.base import ChatAnswer, FailureClass, ProviderError, Target, Usage
from .providers.registry import adapter_for
from .snapshot import Policy

logger = logging.getLogger(__name__)

HOLD_TIMEOUT_SECONDS = 5
# Below this many output tokens an answer is not worth having: the call is refused instead of shortened.
FEWEST_FITTED_TOKENS = 256
# Output of a stream that ended without figures: tokens per UTF-8 byte, on the generous side.
TOKENS_PER_DELIVERED_BYTE = Decimal("0.35")

# Fields with which a client would choose another upstream, or another price, than the one held: ours to decide.
NOT_PASSED_ON = frozenset({"models", "route", "provider", "plugins", "transforms", "service_tier", "usage"})

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(slots=True)
class Outcome:
    """How a call ended: filled while it runs, booked when it is settled."""

    end: str = "refused"
    error: ApiError | None = None
    served: Candidate | None = None
    answer: ChatAnswer | None = None
    usage: Usage | None = None
    delivered_bytes: int = 0
    estimated: bool = False
    attempts: int = 0
    first_byte_ms: int | None = None
    # Provider cost of attempts that failed after the provider may have billed them.
    lost_usd: Decimal = ZERO
    cost_usd: Decimal = ZERO
    list_cost_usd: Decimal = ZERO
    charged: Decimal = ZERO
    balance_after: Decimal | None = None
    usage_chunks: list[bytes] = field(default_factory=list)


class ChatCall:
    """One chat call of one caller.

    `render` makes the body of a whole answer, once it is priced. With `idempotency` the answer is kept for repetitions, and the
    provider is read to its end even when the client hangs up. `run` is the caller's own budget over several calls. `wish_only`
    makes the model asked for a wish (own endpoints).
    """

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        caller: Caller,
        request: ChatRequest,
        *,
        endpoint: str,
        render: Callable[["ChatCall"], bytes],
        idempotency: IdempotencyKey | None = None,
        run: Run | None = None,
        wish_only: bool = False,
    ) -> None:
        if caller.plan is None:
            raise ApiError(403, "no_active_plan", "This account has no active plan.")
        self.gateway = gateway
        self.exchange = exchange
        self.caller = caller
        self.request = request
        self.endpoint = endpoint
        self.render = render
        self.idempotency = idempotency
        self.run_budget = run
        self.wish_only = wish_only
        self.id = exchange.id
        self.started_at = clock.now()
        self.plan: PlanTerms = caller.plan
        policy = gateway.snapshot.policies.get(caller.plan.id)
        if policy is None:
            raise ApiError(503, "plan_not_routed", "This plan cannot call models yet.")
        self.policy: Policy = policy if caller.key is None else policy.narrowed(caller.key.models)
        self.tariff: Tariff = tariff_of(
            policy, whole_credits=caller.plan.whole_credits, charged=caller.plan.billing_mode != "quota"
        )
        self.outcome = Outcome()
        self.candidates: tuple[Candidate, ...] = ()
        self.on_quota = caller.plan.billing_mode == "quota"
        self.budget_fallback = False
        self.fitted_max_tokens: int | None = None
        self.held = ZERO
        self.reserved_cost_usd = ZERO
        # What a stream has sent so far, kept for repetitions while it is small enough.
        self.sent = bytearray()
        self.sent_is_whole = idempotency is not None
        self.body = b""
        self.limit_states: tuple[ScopeState, ...] = ()
        # Why the call was stopped from outside, and how to stop the stream that is open now.
        self.cut_error: ApiError | None = None
        self._abort: Callable[[], None] | None = None

    @property
    def fallback(self) -> bool:
        """Whether somebody else than the first choice served the call."""
        served = self.outcome.served
        return served is not None and served.route.slug != self.candidates[0].route.slug

    async def run(self) -> Answer | None:
        """Serve the call and book it. Answers None when a stream has been sent.

        Raises `ApiError`: refused before a hold was open, nothing was called and nothing is written; or failed, and settled.
        """
        if self.idempotency is not None and (kept := await self._kept_answer(self.idempotency)) is not None:
            return kept
        choice = self._choose()
        await self._reserve(choice)
        try:
            await self._hold()
        except BaseException:
            await self._release_reservation()
            raise
        self.gateway.running.add(self)
        try:
            async with asyncio.timeout(settings.CALL_TIMEOUT_SECONDS):
                if self.request.stream:
                    await self._call_streamed()
                else:
                    await self._call_whole()
        except TimeoutError:
            self._call_timed_out()
        except Exception:
            logger.exception("call %s broke", self.id)
            self._call_broke()
        finally:
            self.gateway.running.discard(self)
        verdict = await self._settle()
        await self._settle_reservation(verdict)
        return await self._finish()

    def cut(self, error: ApiError) -> None:
        """Stop the call's stream because its credential opens nothing any more; what was delivered is billed."""
        self.cut_error = error
        if self._abort is not None:
            self._abort()

    # -- repeat ------------------------------------------------------------------------------------------------------

    async def _kept_answer(self, key: IdempotencyKey) -> Answer | None:
        """The answer this call was given before. Raises `ApiError` 409 or 422."""
        kept = await answer_find(self.gateway.pool, key, now=self.started_at)
        if kept is None:
            return None
        headers = [(name.encode(), value.encode("latin-1")) for name, value in kept.headers.items()]
        return Answer(kept.content, kept.status, [*headers, (REPLAYED_HEADER.encode(), b"true")])

    # -- choose ------------------------------------------------------------------------------------------------------

    def _choose(self) -> Choice:
        return choose(
            self.gateway.snapshot,
            self.policy,
            self.request,
            at=self.started_at,
            tariff=self.tariff,
            priority=self.plan.priority,
            wish_only=self.wish_only,
        )

    # -- reserve -----------------------------------------------------------------------------------------------------

    async def _reserve(self, choice: Choice) -> None:
        """Take the account's limits, the budgets of the first candidate and the split position in one round trip."""
        first = choice.candidates[0]
        call_limits = limits.call_limits(
            self.caller,
            self.plan,
            self.policy,
            self.gateway.snapshot,
            first,
            at=self.started_at,
            lease_seconds=settings.CALL_TIMEOUT_SECONDS + settings.HOLD_GRACE_SECONDS,
            run=self.run_budget,
        )
        split = None
        if choice.split:
            split = SplitPosition(
                key=f"s:{self.caller.account_id}",
                weights=choice.split,
                start=random.getrandbits(31),
            )
        decision = await self._ask_limiter(call_limits.scopes, split)
        self.limit_states = decision.states
        if not decision.allowed:
            raise self._refusal(decision)
        provider = None if decision.split_position is None else split_pick(decision.split_position, choice.split)
        self.candidates = choice.ordered(provider)
        self.reserved_cost_usd = first.worst_cost_usd
        try:
            if decision.soft_exhausted & limits.BUDGETS:
                self._keep_free_candidates()
            if call_limits.overflow is not None and call_limits.overflow in decision.soft_exhausted:
                self._pay_beyond_quota()
        except ApiError:
            await self._release_reservation()
            raise

    async def _ask_limiter(self, scopes: Any, split: SplitPosition | None) -> Decision:
        limiter = self.gateway.limiter
        now_ms = clock.now_ms()
        try:
            decision = await limiter.reserve(str(self.id), scopes, now_ms=now_ms, split=split)
            if decision.stale_epoch:
                await limiter.recover(now_ms=now_ms)
                decision = await limiter.reserve(str(self.id), scopes, now_ms=now_ms, split=split)
        except LimiterUnavailable:
            decision = Decision(False, stale_epoch=True)
        if decision.stale_epoch:
            raise ApiError(503, "limits_unavailable", "Limits cannot be checked at the moment.", retry_after_seconds=2)
        return decision

    def _refusal(self, decision: Decision) -> ApiError:
        """What the client is told: which limit, when it resets, and the plan that would lift it."""
        scope = decision.refused_scope
        assert scope is not None
        wait_seconds = 60 if scope.retry_after_ms is None else scope.retry_after_ms / 1000
        if scope.name in limits.GATEWAY_SCOPES:
            return ApiError(429, "gateway_busy", "Too many calls at the moment.", retry_after_seconds=wait_seconds)
        if scope.name == limits.RUN_CREDITS:
            return ApiError(402, "run_limit_reached", "This run has spent what its caller allowed it.")
        return self._limit_reached(scope.name, scope.limit, scope.reset_at_ms, wait_seconds=wait_seconds)

    def _limit_reached(
        self, name: str, limit: int | None, reset_at_ms: int | None, *, wait_seconds: float, why: str = ""
    ) -> ApiError:
        quota = name in limits.QUOTAS
        offer = limits.lifting_plan(self.gateway.snapshot, self.plan, name)
        unit = MICRO_PER_CREDIT if name in limits.CREDIT_SCOPES else 1
        lifted = f" The plan {offer.name} has a higher one." if offer else ""
        return ApiError(
            429,
            "quota_exceeded" if quota else "rate_limited",
            f"Limit reached: {name.replace('_', ' ')} ({(limit or 0) // unit}).{why}{lifted}",
            retry_after_seconds=wait_seconds,
            final=quota,
            headers=self._limit_headers(),
            extra={
                "limit": name,
                "plan": self.plan.code,
                "resets_at": limits.reset_text(reset_at_ms),
                "lifted_by_plan": offer.code if offer else None,
            },
        )

    def _limit_headers(self) -> dict[str, str]:
        headers = limits.limit_headers(self.limit_states, at=self.started_at)
        return {name.decode(): value.decode() for name, value in headers}

    def _keep_free_candidates(self) -> None:
        """A spent budget or allowance leaves what costs the operator nothing."""
        was_free = self.candidates[0].free
        self.candidates = tuple(candidate for candidate in self.candidates if candidate.free)
        if not self.candidates:
            raise ApiError(503, "budget_exhausted", "This model's budget is used up for now.", retry_after_seconds=60)
        self.budget_fallback = not was_free

    def _pay_beyond_quota(self) -> None:
        """The plan's quota is used up: bought credits pay, at pay-as-you-go prices."""
        overflow = self.gateway.snapshot.overflow
        assert overflow is not None
        self.tariff = tariff_of(overflow, whole_credits=False, charged=True)
        self.on_quota = False
        self.candidates = self._candidates_again(self.candidates)

    def _candidates_again(self, candidates: tuple[Candidate, ...], *, max_tokens: int | None = None) -> tuple[Candidate, ...]:
        """The same routes under the present tariff and, if given, a lower output limit."""
        again = (
            candidate_make(candidate.route, self.request, at=self.started_at, tariff=self.tariff, max_tokens=max_tokens)
            for candidate in candidates
        )
        return tuple(candidate for candidate in again if candidate is not None)

    # -- hold --------------------------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Hold the worst case of the first candidate; with too few credits, try a shorter answer."""
        verdict = await self._open_hold()
        if verdict.verdict == "insufficient" and verdict.available and self._fit_to(verdict.available):
            verdict = await self._open_hold()
        if verdict.verdict == "held":
            return
        if verdict.verdict in ("conflict", "answered", "closed"):
            # Somebody was faster since we looked; the repetition after this one finds the answer.
            raise in_flight()
        if verdict.verdict == "indebted":
            raise ApiError(402, "account_in_debt", "A payment of this account was taken back. The next purchase settles it.")
        quota = next((state for state in self.limit_states if state.name == limits.DAILY_REQUESTS), None)
        if self.plan.billing_mode == "quota" and quota is not None:
            why = " There are not enough credits to go on."
            raise self._limit_reached(quota.name, quota.limit, quota.reset_at_ms, wait_seconds=60, why=why)
        raise ApiError(
            402,
            "insufficient_credits",
            f"This call can cost up to {plain(self.held)} credits and {plain(verdict.available or ZERO)} are "
            "available. Add credits, or lower max_tokens.",
            headers=self._limit_headers(),
        )

    async def _open_hold(self) -> Any:
        first = self.candidates[0]
        self.held = first.worst_credits
        item = HoldItem(
            id=self.id,
            account_id=self.caller.account_id,
            api_key_id=self.caller.api_key_id,
            subscription_id=self.caller.subscription_id,
            credits=first.worst_credits,
            worst_cost_usd=first.worst_cost_usd,
            endpoint=self.endpoint,
            provider=first.route.provider,
            model=first.route.model,
            quota={"requests": 1} if self.on_quota else {},
            idempotency_key=self.idempotency.key if self.idempotency else None,
            body_hash=self.idempotency.body_hash if self.idempotency else None,
            opened_at=self.started_at,
            expires_at=self.started_at + timedelta(seconds=settings.CALL_TIMEOUT_SECONDS + settings.HOLD_GRACE_SECONDS),
        )
        try:
            return await self.gateway.ledger.hold_open(item, timeout_seconds=HOLD_TIMEOUT_SECONDS)
        except LedgerUnavailable:
            raise ApiError(503, "ledger_busy", "Calls cannot be booked at the moment.", retry_after_seconds=2) from None
        except LedgerRejected as error:
            raise ApiError(500, "internal_error", "Something went wrong on our side.", final=True) from error

    def _fit_to(self, available: Decimal) -> bool:
        """Lower the output limit to what `available` credits pay; false when the request forbids it or too little is left."""
        first = self.candidates[0]
        if self.request.limit_must_stay or first.route.reasoning:
            return False
        whole = available.to_integral_value("ROUND_FLOOR") if self.tariff.whole_credits else available
        list_cost_usd = whole * self.tariff.usd_per_credit / self.tariff.margin_multiplier
        tokens = affordable_output_tokens(first.price, input_tokens=first.input_tokens, list_cost_usd=list_cost_usd)
        tokens = tokens // self.request.n
        if tokens < FEWEST_FITTED_TOKENS or tokens >= first.output_tokens:
            return False
        self.fitted_max_tokens = tokens
        self.candidates = self._candidates_again(self.candidates, max_tokens=tokens)
        return True

    # -- call --------------------------------------------------------------------------------------------------------

    async def _call_whole(self) -> None:
        """Ask one candidate after the other for a whole answer. It is read to its end even when the client hangs up."""
        async for candidate in self._candidates_in_reach():
            adapter = adapter_for(candidate.route.protocol)
            try:
                answer = await adapter.chat(self.gateway.session, self._target(candidate), self._body(candidate))
            except ProviderError as error:
                if not self._may_go_on(candidate, error):
                    return
                continue
            outcome = self.outcome
            outcome.served = candidate
            outcome.error = None
            outcome.answer = answer
            outcome.usage = answer.usage
            outcome.first_byte_ms = self._elapsed_ms()
            # With a key the answer reaches whoever asks again: it is delivered.
            gone = self.exchange.gone and self.idempotency is None
            outcome.end = "client_gone" if gone else "complete"
            outcome.delivered_bytes = 0 if gone else answer.output_bytes
            return

    async def _call_streamed(self) -> None:
        """Forward a stream chunk by chunk. Before the first byte the next candidate may take over, after it never."""
        exchange, outcome = self.exchange, self.outcome
        async for candidate in self._candidates_in_reach():
            adapter = adapter_for(candidate.route.protocol)
            stream = adapter.open_chat_stream(self.gateway.session, self._target(candidate), self._body(candidate))
            self._abort = stream.abort
            if self.cut_error is not None:
                outcome.end, outcome.error = "cut_off", self.cut_error
                return
            if self.idempotency is None:
                exchange.on_gone = stream.abort
                if exchange.gone:
                    outcome.end = "client_gone"
                    return
            try:
                async with stream:
                    # Until text arrives another candidate may still take over: what says nothing is kept back.
                    kept_back: list[bytes] = []
                    async for chunk in stream:
                        if chunk.usage_only:
                            outcome.usage_chunks.append(chunk.data)
                            continue
                        event = b"data: " + chunk.data + b"\n\n"
                        if not exchange.started:
                            if not chunk.output_bytes and not chunk.finish_reason:
                                kept_back.append(event)
                                continue
                            outcome.served = candidate
                            outcome.first_byte_ms = self._elapsed_ms()
                            await exchange.start(200, [*STREAM_HEADERS, *self._headers(candidate)])
                            event = b"".join([*kept_back, event])
                        await exchange.write(event)
                        self._keep(event)
                        if not exchange.gone or self.idempotency is not None:
                            outcome.delivered_bytes += chunk.output_bytes
                outcome.usage = stream.usage
            except ProviderError as error:
                outcome.usage = stream.usage
                if exchange.started:
                    outcome.end = "upstream_dropped"
                    outcome.error = _answer_to(error)
                    logger.warning("call %s: stream of %s broke: %s", self.id, candidate.route.slug, error.detail or error)
                    return
                if not self._may_go_on(candidate, error):
                    return
                continue
            finally:
                exchange.on_gone = self._abort = None
            outcome.served = candidate
            outcome.error = self.cut_error
            if self.cut_error is not None and not stream.completed:
                outcome.end = "cut_off"
                return
            outcome.error = None
            outcome.end = "complete" if stream.completed else "client_gone"
            return

    async def _candidates_in_reach(self) -> AsyncIterator[Candidate]:
        """Candidates in order; one that may cost more than was held and reserved first extends both, or is skipped."""
        refused_for_cost = False
        for candidate in self.candidates:
            if not await self._extend_to(candidate):
                refused_for_cost = True
                continue
            self.outcome.attempts += 1
            yield candidate
        if self.outcome.error is None and refused_for_cost:
            self.outcome.error = ApiError(503, "budget_exhausted", "What could serve this call costs too much now.")

    async def _extend_to(self, candidate: Candidate) -> bool:
        more_usd = candidate.worst_cost_usd - self.reserved_cost_usd
        if more_usd > 0:
            scopes: list[Budget] = [
                limits.daily_budget_scope(self.gateway.snapshot, at=self.started_at, amount_nano=usd_to_nano(more_usd))
            ]
            allowance = limits.allowance_scope(self.caller, self.policy, at=self.started_at, amount_nano=usd_to_nano(more_usd))
            if allowance is not None:
                scopes.append(allowance)
            try:
                decision = await self.gateway.limiter.extend(str(self.id), scopes, now_ms=clock.now_ms())
            except LimiterUnavailable:
                return False
            if not decision.allowed or decision.soft_exhausted:
                # Whoever serves the call now does so because a budget is spent.
                self.budget_fallback = True
                return False
            self.reserved_cost_usd = candidate.worst_cost_usd
        if candidate.worst_credits > self.held:
            try:
                verdict = await self.gateway.ledger.hold_extend(
                    request_id=self.id,
                    credits=candidate.worst_credits,
                    worst_cost_usd=candidate.worst_cost_usd,
                    timeout_seconds=HOLD_TIMEOUT_SECONDS,
                )
            except LedgerUnavailable as error:
                logger.warning("call %s: the hold could not be extended: %s", self.id, error)
                return False
            if verdict != "held":
                return False
            self.held = candidate.worst_credits
        return True

    def _may_go_on(self, candidate: Candidate, error: ProviderError) -> bool:
        """Note a failed attempt; true when the next candidate may be tried."""
        logger.warning("call %s: %s failed (%s): %s", self.id, candidate.route.slug, error.failure, error.detail or error)
        if error.may_have_billed:
            self._book_unknown(candidate)
        self.outcome.end = "provider_error"
        self.outcome.error = _answer_to(error)
        return error.retryable and not self.exchange.gone

    def _book_unknown(self, candidate: Candidate) -> None:
        """The provider may bill what nobody received: its worst case counts until somebody knows better."""
        self.outcome.lost_usd += candidate.worst_cost_usd
        self.outcome.estimated = True

    def _call_timed_out(self) -> None:
        outcome = self.outcome
        error = ApiError(504, "timeout", "The provider took too long.", final=True)
        outcome.error = error
        outcome.end = "upstream_dropped" if self.exchange.started else "provider_error"
        if not self.exchange.started and self.candidates:
            self._book_unknown(self.candidates[max(outcome.attempts - 1, 0)])

    def _call_broke(self) -> None:
        """A fault of ours in the middle of a call: it is settled for what was delivered."""
        self.outcome.error = ApiError(500, "internal_error", "Something went wrong on our side.", final=True)
        self.outcome.end = "upstream_dropped" if self.exchange.started else "provider_error"

    def _target(self, candidate: Candidate) -> Target:
        route = candidate.route
        return Target(
            provider=route.provider,
            base_url=route.base_url,
            secret=route.secret,
            upstream_model=route.upstream_model,
            public_model=route.model,
            connect_timeout_seconds=route.connect_timeout_seconds,
            first_byte_timeout_seconds=route.first_byte_timeout_seconds,
            read_timeout_seconds=route.read_timeout_seconds,
            quirks=route.quirks,
        )

    def _body(self, candidate: Candidate) -> dict[str, Any]:
        """The client's body with the output limit that the hold was made for."""
        body = {name: value for name, value in self.request.body.items() if name not in NOT_PASSED_ON}
        name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        body.pop("max_tokens", None)
        body[name] = candidate.output_tokens
        return body

    def _headers(self, candidate: Candidate) -> list[tuple[bytes, bytes]]:
        """What served the call, for clients that want to know."""
        fields = {
            b"x-iaf-provider": candidate.route.provider,
            b"x-iaf-model": candidate.route.model,
            b"x-iaf-attempts": str(self.outcome.attempts),
            b"x-iaf-fallback": "true" if candidate.route.slug != self.candidates[0].route.slug else "false",
        }
        if self.budget_fallback:
            fields[b"x-iaf-budget-fallback"] = "true"
        if self.fitted_max_tokens is not None:
            fields[b"x-iaf-max-tokens-lowered-to"] = str(self.fitted_max_tokens)
        if candidate.route.simulated:
            fields[b"x-iaf-simulated"] = "true"
        if self.plan.billing_mode == "quota" and not self.on_quota:
            fields[b"x-iaf-paid-by"] = "credits"
        headers = [(name, value.encode("latin-1", "replace")) for name, value in fields.items()]
        return headers + limits.limit_headers(self.limit_states, at=self.started_at)

    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of a whole answer, with what it cost."""
        served = self.outcome.served
        assert served is not None
        return [JSON_TYPE, *self._headers(served), (b"x-iaf-credits", str(plain(self.outcome.charged)).encode())]

    # -- settle ------------------------------------------------------------------------------------------------------

    def _price(self) -> None:
        """What the call cost and what it is charged, by how it ended."""
        outcome = self.outcome
        served = outcome.served
        if served is None:
            return
        usage = outcome.usage
        if usage is None or (outcome.end == "client_gone" and self.request.stream):
            # Figures come last: an answer cut short is counted by what went out.
            usage = usage or Usage(
                input_total=min(self.request.input_tokens_estimated, served.input_tokens),
                output_total=int(outcome.delivered_bytes * TOKENS_PER_DELIVERED_BYTE),
            )
            outcome.estimated = outcome.estimated or outcome.usage is None
            outcome.usage = usage
        outcome.list_cost_usd = list_cost(served.price, usage)
        outcome.cost_usd = provider_cost(served.route, outcome.list_cost_usd, usage)
        if outcome.end == "complete" or outcome.delivered_bytes:
            outcome.charged = self.tariff.credits(outcome.list_cost_usd)

    @property
    def _delivered(self) -> bool:
        return self.outcome.end == "complete" or self.outcome.delivered_bytes > 0

    def _call_item(self) -> CallItem:
        outcome, served = self.outcome, self.outcome.served
        usage = outcome.usage if served is not None else None
        # What nobody pays for is the operator's: all of it when nothing was delivered, else the failed attempts before.
        loss = outcome.lost_usd if self._delivered else outcome.lost_usd + outcome.cost_usd
        record = UsageItem(
            id=self.id,
            started_at=self.started_at,
            finished_at=clock.now(),
            account_id=self.caller.account_id,
            api_key_id=self.caller.api_key_id,
            subscription_id=self.caller.subscription_id,
            plan=self.plan.code,
            endpoint=self.endpoint,
            end=outcome.end,
            error_code=outcome.error.code if outcome.error else "",
            requested_model=self.request.model,
            streamed=self.request.stream,
            attempts=outcome.attempts,
            fallback=self.fallback,
            budget_fallback=self.budget_fallback,
            estimated=outcome.estimated,
            list_cost_usd=outcome.list_cost_usd,
            cost_usd=outcome.cost_usd + outcome.lost_usd,
            credits_held=self.held,
            credits_charged=outcome.charged,
            quota_units=1 if self.on_quota and self._delivered else 0,
            latency_ms=self._elapsed_ms(),
            first_byte_ms=outcome.first_byte_ms,
        )
        if served is not None:
            record.model = served.route.model
            record.provider = served.route.provider
            record.profile = served.route.slug
            record.price = price_facts(served.route, served.price, usage, self.tariff)
        if usage is not None:
            record.input_tokens = usage.input_total
            record.cache_read_tokens = usage.cache_read
            record.cache_write_tokens = usage.cache_write
            record.output_tokens = usage.output_total
            record.reasoning_tokens = usage.reasoning
        return CallItem(
            usage=record,
            held=self.held,
            charge=outcome.charged,
            loss_usd=loss,
            loss_kind="unknown_cost" if outcome.lost_usd else "operator_loss",
            reason=outcome.error.message[:500] if outcome.error else "",
            answer=self._answer_to_keep(record.finished_at) if self.idempotency and self._delivered else None,
        )

    def _keep(self, event: bytes) -> None:
        """Remember what was sent, until it is too much to keep."""
        if self.sent_is_whole:
            self.sent += event
            if len(self.sent) > LARGEST_KEPT_BYTES:
                self.sent_is_whole = False
                self.sent.clear()

    def _answer_to_keep(self, now: datetime) -> AnswerItem:
        assert self.idempotency is not None
        assert self.outcome.served is not None
        headers = [*STREAM_HEADERS, *self._headers(self.outcome.served)] if self.request.stream else self.answer_headers()
        return answer_item(
            self.idempotency,
            request_id=self.id,
            status=200,
            headers={name.decode(): value.decode("latin-1") for name, value in headers},
            content=bytes(self.sent) + self.body if self.sent_is_whole else None,
            now=now,
        )

    async def _settle(self) -> CallVerdict | None:
        """Book the call; the client has not seen the end of its answer yet. None: not known in time, it will be booked."""
        outcome = self.outcome
        self._price()
        try:
            self.body = self._last_bytes()
        except Exception:
            # What cannot be said was not delivered; the call is settled all the same.
            logger.exception("call %s: its answer could not be written", self.id)
            outcome.answer = None
            outcome.usage_chunks.clear()
            self._call_broke()
            if not self.exchange.started:
                outcome.delivered_bytes, outcome.charged = 0, ZERO
            self.body = self._last_bytes()
        try:
            verdict = await self.gateway.ledger.call_settle(self._call_item(), timeout_seconds=settings.SETTLE_TIMEOUT_SECONDS)
        except (TimeoutError, LedgerUnavailable, LedgerRejected) as error:
            logger.error("call %s: the settle is not committed: %r", self.id, error)
            outcome.error = ApiError(
                503, "settlement_pending", "The call was served but could not be booked in time.", final=True
            )
            return None
        if verdict.charged is not None and verdict.charged != outcome.charged:
            outcome.charged = verdict.charged
            self.body = self._last_bytes()
        outcome.balance_after = verdict.balance_after
        if verdict.verdict != "settled":
            logger.error("call %s: settled as %s", self.id, verdict.verdict)
        if verdict.lost:
            logger.error("call %s: %s credits beyond the hold were lost", self.id, verdict.lost)
        return verdict

    # -- finish ------------------------------------------------------------------------------------------------------

    def _last_bytes(self) -> bytes:
        """What the client gets once the call is booked: a whole body, or a stream's usage and end."""
        outcome = self.outcome
        if not self.request.stream:
            return self.render(self) if outcome.answer is not None else b""
        if outcome.error is not None:
            return b"data: " + encode_json(openai_body(outcome.error)) + b"\n\n"
        events = (outcome.usage_chunks or [_usage_chunk(self)]) if self.request.include_usage else []
        return b"".join(b"data: " + event + b"\n\n" for event in [*events, b"[DONE]"])

    async def _finish(self) -> Answer | None:
        outcome, exchange = self.outcome, self.exchange
        if exchange.started:
            # The settle may have failed since these bytes were made.
            await exchange.end(self._last_bytes() if outcome.error is not None else self.body)
            return None
        if outcome.error is not None:
            outcome.error.headers.update(self._limit_headers())
            raise outcome.error
        if self.request.stream:
            assert outcome.served is not None
            return Answer(self.body, 200, [*STREAM_HEADERS, *self._headers(outcome.served)])
        return Answer(self.body, 200, self.answer_headers())

    # -- release -----------------------------------------------------------------------------------------------------

    async def _settle_reservation(self, verdict: CallVerdict | None) -> None:
        """Tell the limiter the actual figures; what does not get there in time ends with its window."""
        outcome, usage = self.outcome, self.outcome.usage
        cost_nano = usd_to_nano(outcome.cost_usd + outcome.lost_usd)
        served_first = outcome.served is not None and outcome.served.route.provider == self.candidates[0].route.provider
        delivered = 1 if self._delivered else 0
        tokens = usage.input_total + usage.output_total if usage and delivered else 0
        charged = credits_to_micro(outcome.charged)
        actuals = {
            limits.DAILY_REQUESTS: delivered,
            limits.REQUESTS_PER_DAY: delivered,
            **dict.fromkeys(limits.CREDIT_SCOPES, charged),
            **dict.fromkeys(limits.TOKEN_SCOPES, tokens),
            limits.ALLOWANCE: cost_nano,
            limits.DAILY_BUDGET: cost_nano,
            limits.PROVIDER_BUDGET: cost_nano if served_first else 0,
        }
        try:
            await self.gateway.limiter.settle(str(self.id), actuals, now_ms=clock.now_ms())
        except LimiterUnavailable:
            logger.warning("call %s: limits keep the reserved amounts", self.id)

    async def _release_reservation(self) -> None:
        try:
            await self.gateway.limiter.release(str(self.id), now_ms=clock.now_ms())
        except LimiterUnavailable:
            logger.warning("call %s: the reservation was not released", self.id)

    def _elapsed_ms(self) -> int:
        return max(0, round((clock.now() - self.started_at).total_seconds() * 1000))


def _answer_to(error: ProviderError) -> ApiError:
    """What the client is told about a provider's failure."""
    match error.failure:
        case FailureClass.BAD_REQUEST:
            return ApiError(400, error.code or "provider_refused_request", error.message, param=error.param)
        case FailureClass.REFUSED:
            return ApiError(400, error.code or "content_policy_violation", error.message)
        case FailureClass.RATE_LIMITED | FailureClass.OVERLOADED:
            return ApiError(
                503,
                "provider_busy",
                "The providers of this model are busy.",
                retry_after_seconds=error.retry_after_seconds or 2,
                final=error.may_have_billed,
            )
        case FailureClass.TRUNCATED:
            return ApiError(502, "provider_error", "The provider ended the answer too early.", final=True)
        case _:
            return ApiError(
                502,
                "provider_error",
                "The provider failed to answer.",
                retry_after_seconds=None if error.may_have_billed else 2,
                final=error.may_have_billed,
            )


def usage_body(usage: Usage) -> dict[str, Any]:
    """`usage` in OpenAI's dialect."""
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output_total,
        "total_tokens": usage.input_total + usage.output_total,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _usage_chunk(call: ChatCall) -> bytes:
    """The usage event of a stream whose provider sent none: our own count."""
    outcome = call.outcome
    return encode_json(
        {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion.chunk",
            "created": int(call.started_at.timestamp()),
            "model": outcome.served.route.model if outcome.served else call.request.model,
            "choices": [],
            "usage": usage_body(outcome.usage or Usage()),
        }
    )
