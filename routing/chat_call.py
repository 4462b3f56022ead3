"""A chat call: what is asked of providers, and how their answers reach the client, whole or as a stream."""

import logging
from decimal import Decimal
from typing import Any

from msgspec import structs

from billing.ledger.idempotency import IdempotencyKey
from billing.subscriptions.callers import Caller
from iafactory.common.errors import ApiError
from iafactory.common.hot import JSON_TYPE, Exchange
from iafactory.common.money import plain

from .chat_request import ChatRequest
from .choice import Candidate
from .dialects.base import AnswerDialect
from .gateway import Gateway
from .limits import Run
from .pipeline import Headers, ModelCall, provider_failure, said_briefly
from .pricing import affordable_output_tokens
from .providers.base import ChatChunk, ChatStream, CountingAdapter, FailureClass, ProviderError, Usage
from .providers.registry import adapter_for

logger = logging.getLogger(__name__)

# Below this many output tokens an answer is not worth having: the call is refused instead of shortened.
FEWEST_FITTED_TOKENS = 256
# Output of a stream that ended without figures: tokens per UTF-8 byte, on the generous side.
TOKENS_PER_DELIVERED_BYTE = Decimal("0.35")

# Fields with which a client would choose another upstream, or another price, than the one held: ours to decide.
NOT_PASSED_ON = frozenset({"models", "route", "provider", "plugins", "transforms", "service_tier", "usage"})

STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ChatCall(ModelCall):
    """One chat call of one caller, answered in `dialect`. It never costs more than `most_credits`."""

    request: ChatRequest

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        caller: Caller,
        request: ChatRequest,
        *,
        endpoint: str,
        dialect: AnswerDialect,
        idempotency: IdempotencyKey | None = None,
        run: Run | None = None,
        wish_only: bool = False,
        provider: str | None = None,
        most_credits: Decimal | None = None,
    ) -> None:
        super().__init__(
            gateway,
            exchange,
            caller,
            request,
            endpoint=endpoint,
            idempotency=idempotency,
            run=run,
            wish_only=wish_only,
            provider=provider,
        )
        self.dialect = dialect
        self.most_credits = most_credits
        self.fitted_max_tokens: int | None = None
        # Figures of a stream that did not come to its end: its input is known, its output so far.
        self._usage_so_far: Usage | None = None

    def _fit_to(self, available: Decimal) -> bool:
        """Lower the output limit to what `available` credits pay; false when the request forbids it or too little is left."""
        first = self.candidates[0]
        if self.request.limit_must_stay or first.route.reasoning:
            return False
        tariff = first.tariff
        whole = available.to_integral_value("ROUND_FLOOR") if tariff.whole_credits else available
        list_cost_usd = whole * tariff.usd_per_credit / tariff.margin_multiplier
        tokens = affordable_output_tokens(first.price, input_tokens=first.input_tokens, list_cost_usd=list_cost_usd)
        tokens = tokens // self.request.n
        if tokens < FEWEST_FITTED_TOKENS or tokens >= first.output_tokens:
            return False
        self.fitted_max_tokens = tokens
        self.candidates = self._candidates_again(self.candidates, max_tokens=tokens)
        return True

    async def _hold(self) -> None:
        if self.most_credits is not None:
            self._stay_below(self.most_credits)
        await super()._hold()

    def _stay_below(self, most_credits: Decimal) -> None:
        """Keep what cannot cost more, with a shorter answer if need be. Raises `ApiError` 402 when nothing is left."""
        if self.candidates[0].worst_credits > most_credits:
            self._fit_to(most_credits)
        worst = self.candidates[0].worst_credits
        if worst > most_credits:
            raise ApiError(
                402, "cost_units_exceeded", f"This call can cost up to {plain(worst)} credits, more than its `cost_units`."
            )
        self.candidates = tuple(candidate for candidate in self.candidates if candidate.worst_credits <= most_credits)

    async def count_input(self) -> int | None:
        """Input tokens as the first choice's provider counts them; None where only an estimate can be had.

        Nothing is reserved, held or booked. Raises `ApiError` as any call does that cannot be served.
        """
        candidate = self._choose().candidates[0]
        adapter = adapter_for(candidate.route.protocol)
        if candidate.route.simulated or not isinstance(adapter, CountingAdapter):
            return None
        try:
            return await adapter.count_tokens(self.gateway.session, self._target(candidate), self.request.body)
        except ProviderError as error:
            if error.failure == FailureClass.BAD_REQUEST:
                raise provider_failure(error) from None
            logger.warning("call %s: %s did not count: %s", self.id, candidate.route.slug, said_briefly(error))
            return None

    async def _serve(self) -> None:
        if self.request.stream:
            await self._serve_streamed()
        else:
            await self._serve_whole()

    async def _serve_whole(self) -> None:
        """Ask one candidate after the other for a whole answer. It is read to its end even when the client hangs up."""
        while (candidate := await self._next_candidate()) is not None:
            adapter = adapter_for(candidate.route.protocol)
            try:
                answer = await adapter.chat(self.gateway.session, self._target(candidate), self._body(candidate))
            except ProviderError as error:
                if not self._may_go_on(candidate, error):
                    return
                continue
            self._begins(candidate)
            outcome = self.outcome
            outcome.error = None
            outcome.answer = answer
            outcome.usage = answer.usage
            # With a key the answer reaches whoever asks again: it is delivered.
            gone = self.exchange.gone and self.idempotency is None
            outcome.end = "client_gone" if gone else "complete"
            outcome.delivered_bytes = 0 if gone else answer.output_bytes
            return

    async def _serve_streamed(self) -> None:
        """Forward a stream chunk by chunk. Before the first byte the next candidate may take over, after it never."""
        exchange, outcome = self.exchange, self.outcome
        while (candidate := await self._next_candidate()) is not None:
            adapter = adapter_for(candidate.route.protocol)
            stream = adapter.open_chat_stream(self.gateway.session, self._target(candidate), self._body(candidate))
            self._abort = stream.abort
            if self.cut_error is not None:
                outcome.end, outcome.error = "cut_off", self.cut_error
                return
            if self.idempotency is None:
                exchange.when_gone(stream.abort)
                if exchange.gone:
                    outcome.end = "client_gone"
                    return
            try:
                async with stream:
                    # Until text arrives another candidate may still take over: what says nothing is kept back, untold.
                    kept_back: list[ChatChunk] = []
                    async for first in stream:
                        events: list[bytes] = []
                        output_bytes = 0
                        chunk: ChatChunk | None = first
                        while chunk is not None:
                            if chunk.usage_only:
                                outcome.usage_chunks.append(chunk.data)
                            elif outcome.served is None and not chunk.output_bytes and not chunk.finish_reason:
                                kept_back.append(chunk)
                            else:
                                if outcome.served is None:
                                    self._begins(candidate)
                                    events = [self.dialect.event(told) for told in kept_back]
                                events.append(self.dialect.event(chunk))
                                output_bytes += chunk.output_bytes
                            chunk = stream.more()
                        if outcome.served is None:
                            continue
                        if not exchange.started:
                            await exchange.start(200, self._head(candidate))
                        if event := b"".join(events):
                            await exchange.write(event)
                            self._keep(event)
                        if self.idempotency is not None or not exchange.gone:
                            outcome.delivered_bytes += output_bytes
                self._note_usage(stream)
            except ProviderError as error:
                self._note_usage(stream)
                if exchange.started:
                    self.attempts.failed(error)
                    outcome.end = "upstream_dropped"
                    outcome.error = provider_failure(error)
                    logger.warning("call %s: stream of %s broke: %s", self.id, candidate.route.slug, said_briefly(error))
                    return
                if not self._may_go_on(candidate, error):
                    return
                continue
            finally:
                exchange.when_gone(None)
                self._abort = None
            outcome.served = candidate
            outcome.error = self.cut_error
            if self.cut_error is not None and not stream.completed:
                outcome.end = "cut_off"
                return
            outcome.error = None
            outcome.end = "complete" if stream.completed else "client_gone"
            return

    def _note_usage(self, stream: ChatStream) -> None:
        """Final figures count; those of a stream cut short only say what its input was."""
        if stream.completed:
            self.outcome.usage = stream.usage
        else:
            self._usage_so_far = stream.usage_so_far

    def _usage_of_a_part(self, served: Candidate) -> Usage:
        so_far = self._usage_so_far
        if so_far is None:
            so_far = Usage(input_total=min(self.request.input_tokens_estimated, served.input_tokens))
        written = int(self.outcome.delivered_bytes * TOKENS_PER_DELIVERED_BYTE)
        return structs.replace(so_far, output_total=max(so_far.output_total, written), provider_cost_usd=None)

    def _body(self, candidate: Candidate) -> dict[str, Any]:
        """The client's body with the output limit that the hold was made for."""
        body = {name: value for name, value in self.request.body.items() if name not in NOT_PASSED_ON}
        name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        body.pop("max_tokens", None)
        body[name] = candidate.output_tokens
        return body

    def _headers(self, candidate: Candidate) -> Headers:
        headers = super()._headers(candidate)
        asked = self._target_asked
        target = asked[1] if asked is not None and asked[0] is candidate else self._target(candidate)
        dropped = adapter_for(candidate.route.protocol).dropped(target, self.request.body)
        if dropped:
            headers.append((b"x-iaf-dropped", ", ".join(map(self.dialect.field_name, dropped)).encode()))
        if self.fitted_max_tokens is not None:
            headers.append((b"x-iaf-max-tokens-lowered-to", str(self.fitted_max_tokens).encode()))
        return headers

    def _head(self, served: Candidate) -> Headers:
        headers = self._headers(served)
        if self.request.stream:
            return [*STREAM_HEADERS, *headers]
        return [JSON_TYPE, *headers, (b"x-iaf-credits", str(plain(self.outcome.charged)).encode())]

    def _last_bytes(self) -> bytes:
        outcome = self.outcome
        if not self.request.stream:
            return self.dialect.whole(self) if outcome.answer is not None else b""
        if outcome.error is not None:
            return self.dialect.failed(outcome.error)
        return self.dialect.end(self)
