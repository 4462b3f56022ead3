"""The life of a call, top to bottom. Reading `ModelCall.run` explains the product.

Authenticate (by the view), choose, reserve, hold, call, settle, release. From the moment a hold is open the call is settled
whatever happens: the ASGI handler runs this in a task of its own that neither the client nor the server cancels. What is asked
of a provider, and how its answer is said, is up to the kind of call: `chat_call` and `media_call`.
"""

import asyncio
import logging
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from msgspec import structs

from billing.ledger.idempotency import LARGEST_KEPT_BYTES, REPLAYED_HEADER, IdempotencyKey, answer_find, answer_item, in_flight
from billing.ledger.items import AnswerItem, CallItem, HoldItem, HoldVerdict, UsageItem
from billing.ledger.writer import LedgerRejected, LedgerUnavailable
from billing.subscriptions.callers import Caller, PlanTerms
from iafactory.common import clock, tracing
from iafactory.common.errors import ApiError
from iafactory.common.hot import Answer, Exchange
from iafactory.common.money import MICRO_PER_CREDIT, ZERO, plain, usd_to_nano
from ratelimit.engine import Decision, LimiterUnavailable, ScopeState
from ratelimit.scopes import Scope, SplitPosition, split_pick

from . import limits, metrics
from .attempts import Attempts
from .call_request import CallRequest
from .choice import Candidate, Choice, candidate_make, choose
from .gateway import Gateway
from .limits import Run
from .pricing import Tariff, list_cost, price_facts, provider_cost, tariff_of
from .providers.base import ChatAnswer, FailureClass, ProviderError, Target, Usage
from .snapshot import Policy

logger = logging.getLogger(__name__)

HOLD_TIMEOUT_SECONDS = 5
# What a provider's error code looks like; anything else may be a sentence.
_CODE = re.compile(r"[A-Za-z][\w.-]{0,63}")

Headers = list[tuple[bytes, bytes]]


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
    # Provider cost of attempts that failed after the provider may have billed them, by provider.
    lost_usd_by_provider: dict[str, Decimal] = field(default_factory=dict)
    cost_usd: Decimal = ZERO
    list_cost_usd: Decimal = ZERO
    charged: Decimal = ZERO
    balance_after: Decimal | None = None
    usage_chunks: list[bytes] = field(default_factory=list)

    @property
    def lost_usd(self) -> Decimal:
        """Provider cost of all failed attempts together."""
        return sum(self.lost_usd_by_provider.values(), ZERO) if self.lost_usd_by_provider else ZERO


class ModelCall(ABC):
    """One call of one caller, whatever kind of model it asks for.

    With `idempotency` the answer is kept for repetitions, and the provider is read to its end even when the client hangs up.
    `run` is the caller's own budget over several calls. `wish_only` makes the model asked for a wish (own endpoints),
    `provider` pins the call to one provider.
    """

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        caller: Caller,
        request: CallRequest,
        *,
        endpoint: str,
        idempotency: IdempotencyKey | None = None,
        run: Run | None = None,
        wish_only: bool = False,
        provider: str | None = None,
    ) -> None:
        if caller.plan is None:
            raise ApiError(403, "no_active_plan", "This account has no active plan.")
        self.gateway = gateway
        self.exchange = exchange
        self.caller = caller
        self.request = request
        self.endpoint = endpoint
        self.idempotency = idempotency
        self.run_budget = run
        self.wish_only = wish_only
        self.provider = provider
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
        self.choice: Choice | None = None
        # What this call drew of its plan's split, and who would serve it were every route well.
        self.drawn: tuple[str, int] | None = None
        self.first_choice: Candidate | None = None
        self.candidates: tuple[Candidate, ...] = ()
        self.attempts = Attempts(gateway, exchange.id_text, priority=self.plan.priority)
        self.on_quota = caller.plan.billing_mode == "quota"
        self.budget_fallback = False
        self.held = ZERO
        # What the budgets hold for this call: all together, and of each provider's own.
        self.reserved_usd = ZERO
        self.reserved_usd_by_provider: dict[str, Decimal] = {}
        # What a stream has sent so far, kept for repetitions while it is small enough.
        self.sent = bytearray()
        self.sent_is_whole = idempotency is not None
        self.body = b""
        self.call_limits: limits.CallLimits | None = None
        self.limit_states: tuple[ScopeState, ...] = ()
        # Why the call was stopped from outside, and how to stop what is under way.
        self.cut_error: ApiError | None = None
        # How long the call may take, and how long its hold and its places may outlive that.
        longest: int = settings.CALL_TIMEOUT_SECONDS
        self._lease_seconds: int = longest + settings.HOLD_GRACE_SECONDS
        own = self.policy.deadline_seconds
        self._deadline_seconds = longest if own is None else min(longest, own)
        # Whose turn it is among the candidates, whether it is being asked, and whether one was too dear.
        self._turn = 0
        self._asking = False
        self._too_dear = False
        self._target_asked: tuple[Candidate, Target] | None = None
        self._abort: Callable[[], None] | None = None

    # -- what a kind of call does its own way ------------------------------------------------------------------------

    @abstractmethod
    async def _serve(self) -> None:
        """Ask one `_next_candidate` after the other until one serves, and fill the outcome."""

    @abstractmethod
    def _last_bytes(self) -> bytes:
        """What the client gets once the call is booked: a whole body, or a stream's usage and end."""

    @abstractmethod
    def _head(self, served: Candidate) -> Headers:
        """The headers of the answer of `served`."""

    def _fit_to(self, available: Decimal) -> bool:
        """Make the call smaller so that `available` credits pay for it; false when it cannot be."""
        return False

    def _usage_of_a_part(self, served: Candidate) -> Usage:
        """What was consumed, of an answer without final figures: estimated from what was delivered."""
        return Usage(input_total=min(self.request.input_tokens_estimated, served.input_tokens))

    # -- the life of a call ------------------------------------------------------------------------------------------

    @property
    def fallback(self) -> bool:
        """Whether somebody else than the first choice served the call."""
        served = self.outcome.served
        return served is not None and self._stands_in(served)

    def _stands_in(self, candidate: Candidate) -> bool:
        """Whether `candidate` is another provider or model than the first choice; its paid profile beside a free one is not."""
        route, first = candidate.route, (self.first_choice or self.candidates[0]).route
        return (route.provider, route.model) != (first.provider, first.model)

    async def run(self) -> Answer | None:
        """Serve the call and book it. Answers None when a stream has been sent.

        Raises `ApiError`: refused before a hold was open, nothing was called and nothing is written; or failed, and settled.
        """
        with tracing.span("call", endpoint=self.endpoint, plan=self.plan.code) as span:
            try:
                return await self._run()
            finally:
                served = self.outcome.served
                span.set(
                    end=self.outcome.end,
                    attempts=self.outcome.attempts,
                    provider=served.route.provider if served else None,
                    model=served.route.model if served else None,
                )

    async def _run(self) -> Answer | None:
        if self.idempotency is not None and (kept := await self._kept_answer(self.idempotency)) is not None:
            return kept
        with tracing.span("choose"):
            choice = self._choose()
        with tracing.span("reserve"):
            await self._reserve(choice)
        try:
            await self._take_place()
            with tracing.span("hold"):
                await self._hold()
        except BaseException:
            await self.attempts.end(unused=True)
            await self._release_reservation()
            raise
        self.gateway.running.add(self)
        try:
            async with asyncio.timeout(self._deadline_seconds):
                with tracing.span("serve"):
                    await self._serve()
        except TimeoutError:
            self._call_timed_out()
        except Exception:
            logger.exception("call %s broke", self.id)
            self._call_broke()
        finally:
            self.gateway.running.discard(self)
        await self.attempts.end()
        with tracing.span("settle"):
            await self._settle()
        metrics.call_ended(self)
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
            account_id=self.caller.account_id,
            health=self.gateway.health,
            wish_only=self.wish_only,
            provider=self.provider,
        )

    # -- reserve -----------------------------------------------------------------------------------------------------

    async def _reserve(self, choice: Choice) -> None:
        """Take the account's limits, the budgets of the first candidate and the split position in one round trip."""
        first = choice.candidates[0]
        call_limits = self.gateway.limits.of(
            self.caller,
            self.gateway.snapshot,
            first.route.provider,
            at=self.started_at,
            lease_seconds=self._lease_seconds,
        )
        if self.run_budget is not None:
            call_limits = call_limits.with_run(limits.run_scope(self.caller, self.run_budget, at=self.started_at))
        self.call_limits = call_limits
        split = None
        if choice.split:
            split = SplitPosition(
                key=f"s:{self.caller.account_id}",
                weights=choice.split,
                start=random.getrandbits(31),
            )
        decision = await self._ask_limiter(call_limits, call_limits.amounts(first), split)
        self.limit_states = decision.states
        if not decision.allowed:
            raise self._refusal(decision)
        provider = None if decision.split_position is None else split_pick(decision.split_position, choice.split)
        self.choice = choice
        if provider is not None and decision.split_position is not None:
            self.drawn = (provider, decision.split_position)
        self.candidates = choice.ordered(provider)
        self.first_choice = choice.first_when_well(provider)
        self.reserved_usd = first.worst_cost_usd
        self.reserved_usd_by_provider[first.route.provider] = first.worst_cost_usd
        spent = {name for name in decision.soft_exhausted if limits.is_budget(name)}
        try:
            if spent:
                self._keep_affordable_candidates(spent)
            if call_limits.overflow is not None and call_limits.overflow in decision.soft_exhausted:
                self._pay_beyond_quota()
        except ApiError:
            await self._release_reservation()
            raise

    async def _ask_limiter(
        self, call_limits: limits.CallLimits, amounts: Sequence[int], split: SplitPosition | None
    ) -> Decision:
        limiter, scopes, call_id = self.gateway.limiter, call_limits.scopes, self.exchange.id_text
        now_ms = clock.now_ms()
        try:
            decision = await limiter.reserve(call_id, scopes, now_ms=now_ms, amounts=amounts, split=split)
            if decision.stale_epoch:
                await limiter.recover(now_ms=now_ms)
                decision = await limiter.reserve(call_id, scopes, now_ms=now_ms, amounts=amounts, split=split)
        except LimiterUnavailable:
            if settings.SPEED_LIMITS_WITHOUT_REDIS == "allow" and not call_limits.must_be_counted(amounts):
                return Decision(True)
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

    def _keep_affordable_candidates(self, spent: set[str]) -> None:
        """A spent budget leaves what costs the operator nothing, and a provider's own budget the other providers."""
        first = self.candidates[0]
        own = {name for name in spent if limits.is_provider_budget(name)}
        providers = {name.partition(":")[2] for name in own}

        def affordable(candidate: Candidate) -> bool:
            return candidate.free or (spent == own and candidate.route.provider not in providers)

        self.candidates = tuple(candidate for candidate in self.candidates if affordable(candidate))
        if not self.candidates:
            raise ApiError(503, "budget_exhausted", "This model's budget is used up for now.", retry_after_seconds=60)
        if self.candidates[0] is not first:
            self.budget_fallback, self.first_choice = True, self.candidates[0]

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

    async def _take_place(self) -> None:
        """Whoever has free capacity goes first; where nobody has any the call waits a while, by its plan's priority."""
        self.candidates = await self.attempts.take_place(
            self.candidates, exchange=self.exchange, wait_seconds=self.gateway.snapshot.queue_seconds
        )

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

    async def _open_hold(self) -> HoldVerdict:
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
            expires_at=self.started_at + timedelta(seconds=self._lease_seconds),
        )
        try:
            return await self.gateway.ledger.hold_open(item, timeout_seconds=HOLD_TIMEOUT_SECONDS)
        except LedgerUnavailable:
            raise ApiError(503, "ledger_busy", "Calls cannot be booked at the moment.", retry_after_seconds=2) from None
        except LedgerRejected as error:
            raise ApiError(500, "internal_error", "Something went wrong on our side.", final=True) from error

    # -- call --------------------------------------------------------------------------------------------------------

    async def _next_candidate(self) -> Candidate | None:
        """Whom to ask next, with its credential; one that may cost more than was held and reserved extends both first.

        The same one again when another of its credentials may do better. Skipped: what may not cost that much, and what cannot
        be asked at the moment (`attempts`). None when nobody is left; the outcome's error says why.
        """
        if self._asking and not self.attempts.of_credential:
            self._turn += 1
        self._asking = False
        while self._turn < len(self.candidates) and self.outcome.attempts < self.policy.most_attempts:
            candidate = self.candidates[self._turn]
            if not await self._extend_to(candidate):
                self._too_dear = True
            elif await self.attempts.begin(candidate):
                self.outcome.attempts += 1
                self._asking = True
                return candidate
            self._turn += 1
        if self.outcome.error is None:
            self.outcome.error = (
                ApiError(503, "budget_exhausted", "What could serve this call costs too much now.")
                if self._too_dear
                else ApiError(503, "provider_busy", "The providers of this model are busy.", retry_after_seconds=2)
            )
        return None

    async def _extend_to(self, candidate: Candidate) -> bool:
        """Hold and reserve what `candidate` and the failed attempts before it may cost; false when there is no room."""
        provider = candidate.route.provider
        lost = self.outcome.lost_usd_by_provider
        needed = self.outcome.lost_usd + candidate.worst_cost_usd
        needed_there = lost.get(provider, ZERO) + candidate.worst_cost_usd
        more = needed - self.reserved_usd
        more_there = needed_there - self.reserved_usd_by_provider.get(provider, ZERO)
        scopes: list[Scope] = []
        if more > 0:
            scopes += limits.shared_budget_scopes(
                self.caller, self.policy, self.gateway.snapshot, at=self.started_at, amount_nano=usd_to_nano(more)
            )
        if more_there > 0:
            scopes += limits.provider_budget_scopes(
                self.gateway.snapshot, provider, at=self.started_at, amount_nano=usd_to_nano(more_there)
            )
        if scopes:
            try:
                # All or none: what does not fit must not count against those that do.
                hard = [structs.replace(scope, soft=False) for scope in scopes]
                decision = await self.gateway.limiter.extend(self.exchange.id_text, hard, now_ms=clock.now_ms())
            except LimiterUnavailable:
                return False
            if not decision.allowed:
                # Whoever serves the call now does so because a budget is spent.
                self.budget_fallback = True
                return False
            self.reserved_usd = max(self.reserved_usd, needed)
            self.reserved_usd_by_provider[provider] = needed_there
        if candidate.worst_credits > self.held:
            try:
                verdict = await self.gateway.ledger.hold_extend(
                    request_id=self.id,
                    credits=candidate.worst_credits,
                    worst_cost_usd=needed,
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
        logger.warning("call %s: %s failed: %s", self.id, candidate.route.slug, said_briefly(error))
        self.attempts.failed(error)
        metrics.attempt_failed(candidate.route.provider, error.failure)
        if error.may_have_billed:
            self._book_unknown(candidate)
        self.outcome.end = "provider_error"
        self.outcome.error = provider_failure(error)
        return error.retryable and not self.exchange.gone

    def _book_unknown(self, candidate: Candidate) -> None:
        """The provider may bill what nobody received: its worst case counts until somebody knows better."""
        lost, provider = self.outcome.lost_usd_by_provider, candidate.route.provider
        lost[provider] = lost.get(provider, ZERO) + candidate.worst_cost_usd
        self.outcome.estimated = True

    def _begins(self, candidate: Candidate) -> None:
        """The first byte of `candidate`'s answer is here."""
        self.outcome.served = candidate
        self.outcome.first_byte_ms = self.elapsed_ms()
        self.attempts.answered()

    def _call_timed_out(self) -> None:
        outcome = self.outcome
        error = ApiError(504, "timeout", "The provider took too long.", final=True)
        outcome.error = error
        outcome.end = "upstream_dropped" if self.exchange.started else "provider_error"
        self.attempts.timed_out()
        if not self.exchange.started and self.attempts.last is not None:
            self._book_unknown(self.attempts.last)

    def _call_broke(self) -> None:
        """A fault of ours in the middle of a call: it is settled for what was delivered."""
        self.outcome.error = ApiError(500, "internal_error", "Something went wrong on our side.", final=True)
        self.outcome.end = "upstream_dropped" if self.exchange.started else "provider_error"

    def _target(self, candidate: Candidate) -> Target:
        route = candidate.route
        target = Target(
            provider=route.provider,
            base_url=route.base_url,
            secret=self.attempts.secret(route),
            upstream_model=route.upstream_model,
            public_model=route.model,
            connect_timeout_seconds=route.connect_timeout_seconds,
            first_byte_timeout_seconds=self.attempts.first_byte_seconds(route),
            read_timeout_seconds=route.read_timeout_seconds,
            quirks=route.quirks,
            # By which both sides find a call again; OpenAI reads the second name.
            extra_headers={"x-request-id": self.exchange.id_text, "x-client-request-id": self.exchange.id_text},
            on_headers=self.attempts.note_headers,
        )
        self._target_asked = (candidate, target)
        return target

    def _headers(self, candidate: Candidate) -> Headers:
        """What served the call, for clients that want to know."""
        route = candidate.route
        headers = [
            (b"x-iaf-provider", route.provider.encode("latin-1", "replace")),
            (b"x-iaf-model", route.model.encode("latin-1", "replace")),
            (b"x-iaf-attempts", b"%d" % self.outcome.attempts),
            (b"x-iaf-fallback", b"true" if self._stands_in(candidate) else b"false"),
        ]
        if self.budget_fallback:
            headers.append((b"x-iaf-budget-fallback", b"true"))
        if route.simulated:
            headers.append((b"x-iaf-simulated", b"true"))
        if self.plan.billing_mode == "quota" and not self.on_quota:
            headers.append((b"x-iaf-paid-by", b"credits"))
        return headers + limits.limit_headers(self.limit_states, at=self.started_at)

    # -- settle ------------------------------------------------------------------------------------------------------

    def _price(self) -> None:
        """What the call cost and what it is charged, by how it ended."""
        outcome = self.outcome
        served = outcome.served
        if served is None:
            return
        usage = outcome.usage
        if usage is None:
            outcome.estimated = True
            outcome.usage = usage = self._usage_of_a_part(served)
        outcome.list_cost_usd = list_cost(served.price, usage)
        outcome.cost_usd = provider_cost(served.route, outcome.list_cost_usd, usage)
        if outcome.end == "complete" or outcome.delivered_bytes:
            outcome.charged = served.tariff.credits(outcome.list_cost_usd)

    @property
    def _delivered(self) -> bool:
        return self.outcome.end == "complete" or self.outcome.delivered_bytes > 0

    def _call_item(self) -> CallItem:
        outcome, served = self.outcome, self.outcome.served
        usage = outcome.usage if served is not None else None
        # What nobody pays for is the operator's: all of it when nothing was delivered, else the failed attempts before.
        loss = outcome.lost_usd if self._delivered else outcome.lost_usd + outcome.cost_usd
        finished_at = clock.now()
        record = UsageItem(
            id=self.id,
            started_at=self.started_at,
            finished_at=finished_at,
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
            latency_ms=self.elapsed_ms(finished_at),
            first_byte_ms=outcome.first_byte_ms,
            choice=self._why(),
        )
        if served is not None:
            record.model = served.route.model
            record.provider = served.route.provider
            record.profile = served.route.slug
            record.price = price_facts(served.route, served.price, usage, served.tariff)
        if usage is not None:
            record.input_tokens = usage.input_total
            record.cache_read_tokens = usage.cache_read
            record.cache_write_tokens = usage.cache_write
            record.output_tokens = usage.output_total
            record.reasoning_tokens = usage.reasoning
            record.units = dict(usage.units) or None
        return CallItem(
            usage=record,
            held=self.held,
            charge=outcome.charged,
            loss_usd=loss,
            loss_kind="unknown_cost" if outcome.lost_usd else "operator_loss",
            # Not its message: a provider's words may quote the prompt.
            reason=outcome.error.code[:500] if outcome.error else "",
            answer=self._answer_to_keep(record.finished_at) if self.idempotency and self._delivered else None,
        )

    def _why(self) -> dict[str, Any] | None:
        """Why the call went where it did."""
        if self.choice is None:
            return None
        provider, position = self.drawn or (None, None)
        return self.choice.explained(drawn=provider, position=position, tried=self.attempts.tried)

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
        headers = self._head(self.outcome.served)
        return answer_item(
            self.idempotency,
            request_id=self.id,
            status=200,
            headers={name.decode(): value.decode("latin-1") for name, value in headers},
            content=bytes(self.sent) + self.body if self.sent_is_whole else None,
            now=now,
        )

    async def _settle(self) -> None:
        """Book the call, in the ledger and in the limits; the client has not seen the end of its answer yet."""
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
        ledger = self.gateway.ledger
        booking = ledger.call_submit(self._call_item())
        # Redis answers while PostgreSQL commits.
        with tracing.span("release"):
            await self._settle_reservation()
        try:
            verdict = await ledger.call_verdict(booking, timeout_seconds=settings.SETTLE_TIMEOUT_SECONDS)
        except (TimeoutError, LedgerUnavailable, LedgerRejected) as error:
            # Not known in time: it will be booked.
            logger.error("call %s: the settle is not committed: %r", self.id, error)
            outcome.error = ApiError(
                503, "settlement_pending", "The call was served but could not be booked in time.", final=True
            )
            return
        if verdict.charged is not None and verdict.charged != outcome.charged:
            outcome.charged = verdict.charged
            self.body = self._last_bytes()
        outcome.balance_after = verdict.balance_after
        if verdict.verdict != "settled":
            logger.error("call %s: settled as %s", self.id, verdict.verdict)
        if verdict.lost:
            logger.error("call %s: %s credits beyond the hold were lost", self.id, verdict.lost)

    # -- finish ------------------------------------------------------------------------------------------------------

    async def _finish(self) -> Answer | None:
        outcome, exchange = self.outcome, self.exchange
        if exchange.started:
            # The settle may have failed since these bytes were made.
            await exchange.end(self._last_bytes() if outcome.error is not None else self.body)
            return None
        if outcome.error is not None:
            outcome.error.headers.update(self._limit_headers())
            raise outcome.error
        assert outcome.served is not None
        return Answer(self.body, 200, self._head(outcome.served))

    # -- release -----------------------------------------------------------------------------------------------------

    async def _settle_reservation(self) -> None:
        """Tell the limiter the actual figures; what does not get there in time ends with its window.

        A charge that the ledger then lowers, because the hold had been reaped, counts against limits in full.
        """
        outcome, usage = self.outcome, self.outcome.usage
        costs = dict.fromkeys(self.reserved_usd_by_provider, ZERO) | outcome.lost_usd_by_provider
        if outcome.served is not None:
            provider = outcome.served.route.provider
            costs[provider] = costs.get(provider, ZERO) + outcome.cost_usd
        delivered = self._delivered
        assert self.call_limits is not None
        actuals = self.call_limits.actuals(
            calls=1 if delivered else 0,
            tokens=usage.input_total + usage.output_total if usage and delivered else 0,
            credits=outcome.charged,
            cost_usd_by_provider=costs,
        )
        try:
            await self.gateway.limiter.settle(self.exchange.id_text, actuals, now_ms=clock.now_ms())
        except LimiterUnavailable:
            logger.warning("call %s: limits keep the reserved amounts", self.id)

    async def _release_reservation(self) -> None:
        try:
            await self.gateway.limiter.release(self.exchange.id_text, now_ms=clock.now_ms())
        except LimiterUnavailable:
            logger.warning("call %s: the reservation was not released", self.id)

    def elapsed_ms(self, until: datetime | None = None) -> int:
        """From the call's arrival to `until`, by default now, in whole milliseconds."""
        return max(0, round(((until or clock.now()) - self.started_at).total_seconds() * 1000))


def said_briefly(error: ProviderError) -> str:
    """A provider's failure for the log: never in its own words, which may quote the prompt."""
    status = "no answer" if error.status is None else f"HTTP {error.status}"
    return f"{error.failure}, {status}, {_own_code(error) or 'no code'}"


def _own_code(error: ProviderError) -> str | None:
    """The provider's code, where it looks like one: the usage log has no room for a sentence."""
    return error.code if error.code is not None and _CODE.fullmatch(error.code) else None


def provider_failure(error: ProviderError) -> ApiError:
    """What the client is told about a provider's failure."""
    match error.failure:
        case FailureClass.BAD_REQUEST:
            return ApiError(400, _own_code(error) or "provider_refused_request", error.message, param=error.param)
        case FailureClass.REFUSED:
            return ApiError(400, _own_code(error) or "content_policy_violation", error.message)
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
