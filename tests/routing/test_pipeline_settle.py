"""From the moment a hold is open the call is settled, even when its answer cannot be written."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from billing.ledger.items import CallItem, CallVerdict
from billing.subscriptions.callers import Limits, PlanTerms
from iafactory.common import clock
from ratelimit.scopes import TokenBucket, WindowCounter
from routing.chat_call import ChatCall
from routing.chat_request import chat_request_parse
from routing.choice import Candidate
from routing.dialects.base import AnswerDialect
from routing.dialects.openai import OpenAIChat
from routing.limits import CallLimits
from routing.providers.base import ChatAnswer, Usage
from routing.snapshot import Policy, Price, TierPrice

D = Decimal
TIER = TierPrice(D(1), None, None, None, D(1), None)


class Ledger:
    """Takes what is settled; the writer itself has its own tests."""

    def __init__(self) -> None:
        self.settled: list[CallItem] = []

    def call_submit(self, item: CallItem) -> CallItem:
        self.settled.append(item)
        return item

    async def call_verdict(self, booking: CallItem, *, timeout_seconds: float) -> CallVerdict:
        return CallVerdict(booking.usage.id, "settled", booking.charge, D(0), D(0))


class Limiter:
    """Takes what is told; the limiter itself has its own tests."""

    def __init__(self) -> None:
        self.told: list[dict[str, int]] = []

    async def settle(self, reservation_id: str, actuals: dict[str, int], *, now_ms: int) -> bool:
        self.told.append(actuals)
        return True


def call_with(ledger: Ledger, dialect: AnswerDialect | None = None) -> ChatCall:
    policy = Policy("score", (), {}, (), {}, frozenset("*"), False, None, None, D("1.8"), D("0.01"), False, 4, None)
    plan = PlanTerms(1, "payg", "payg", "credits", False, 0, (), Limits())
    caller: Any = SimpleNamespace(
        plan=plan, key=None, account_id=uuid4(), api_key_id=None, subscription_id=None, zone=ZoneInfo("UTC")
    )
    gateway: Any = SimpleNamespace(ledger=ledger, limiter=Limiter(), snapshot=SimpleNamespace(policies={1: policy}))
    exchange: Any = SimpleNamespace(id=uuid4(), id_text="1", started=False, gone=False)
    request = chat_request_parse({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    call = ChatCall(gateway, exchange, caller, request, endpoint="/v1/chat/completions", dialect=dialect or OpenAIChat())
    price = Price("p", clock.now(), TIER, ())
    route: Any = SimpleNamespace(slug="a/m", provider="a", model="m", cost_factor=D(1))
    candidate = Candidate(route, price, call.tariff, 100, 100, D("0.0002"), D("0.036"))
    call.candidates = (candidate,)
    call.held = D("0.036")
    call.reserved_usd_by_provider["a"] = candidate.worst_cost_usd
    call.call_limits = CallLimits(
        [
            WindowCounter(key="c", name="daily_credits", limit=10, window_end_ms=1),
            TokenBucket.per_minute(key="t", name="tokens_per_minute", limit=10),
            TokenBucket.per_minute(key="r", name="requests_per_minute", limit=10),
        ],
        overflow=None,
    )
    outcome = call.outcome
    outcome.served, outcome.end, outcome.delivered_bytes = candidate, "complete", 4
    outcome.usage = Usage(input_total=10, output_total=20)
    outcome.answer = ChatAnswer({}, outcome.usage, 4, "stop", None)
    return call


async def test_a_call_is_charged_what_it_used() -> None:
    ledger = Ledger()

    call = call_with(ledger)
    await call._settle()

    [item] = ledger.settled
    # 30 tokens at 1 USD a million, x 1.8 / 0.01
    assert (item.usage.end, item.charge, item.loss_usd) == ("complete", D("0.005400"), D(0))
    limiter: Any = call.gateway.limiter
    # Micro-credits, tokens, nano-USD; the rate keeps the request that was made.
    budgets = dict.fromkeys(("plan_allowance", "daily_budget", "monthly_budget"), 30_000)
    own = {"provider_daily_budget:a": 30_000, "provider_monthly_budget:a": 30_000}
    assert limiter.told == [{"daily_credits": 5400, "tokens_per_minute": 30, **budgets, **own}]


async def test_limits_hear_of_a_call_whose_booking_is_not_known() -> None:
    class Late(Ledger):
        async def call_verdict(self, booking: CallItem, *, timeout_seconds: float) -> CallVerdict:
            raise TimeoutError

    ledger = Late()

    call = call_with(ledger)
    await call._settle()

    limiter: Any = call.gateway.limiter
    assert [told["daily_credits"] for told in limiter.told] == [5400]
    assert call.outcome.error is not None
    assert (call.outcome.error.status, call.outcome.error.code) == (503, "settlement_pending")


async def test_an_answer_that_cannot_be_written_is_settled_and_costs_the_operator() -> None:
    ledger = Ledger()

    class Speechless(OpenAIChat):
        def whole(self, call: ChatCall) -> bytes:
            raise KeyError("message")

    call = call_with(ledger, Speechless())
    await call._settle()

    [item] = ledger.settled
    assert (item.usage.end, item.usage.error_code, item.charge) == ("provider_error", "internal_error", D(0))
    assert item.loss_usd == D("0.00003")
    assert call.outcome.error is not None
    assert call.outcome.error.status == 500
