"""From the moment a hold is open the call is settled, even when its answer cannot be written."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

from billing.ledger.items import CallItem, CallVerdict
from billing.subscriptions.callers import Limits, PlanTerms
from iafactory.common import clock
from routing.chat_call import ChatCall
from routing.chat_request import chat_request_parse
from routing.choice import Candidate
from routing.dialects.base import AnswerDialect
from routing.dialects.openai import OpenAIChat
from routing.providers.base import ChatAnswer, Usage
from routing.snapshot import Policy, Price, TierPrice

D = Decimal
TIER = TierPrice(D(1), None, None, None, D(1), None)


class Ledger:
    """Takes what is settled; the writer itself has its own tests."""

    def __init__(self) -> None:
        self.settled: list[CallItem] = []

    async def call_settle(self, item: CallItem, *, timeout_seconds: float) -> CallVerdict:
        self.settled.append(item)
        return CallVerdict(item.usage.id, "settled", item.charge, D(0), D(0))


def call_with(ledger: Ledger, dialect: AnswerDialect | None = None) -> ChatCall:
    policy = Policy("score", (), {}, (), {}, frozenset("*"), False, None, None, D("1.8"), D("0.01"), False, 4, None)
    plan = PlanTerms(1, "payg", "payg", "credits", False, 0, (), Limits())
    caller: Any = SimpleNamespace(
        plan=plan, key=None, account_id=uuid4(), api_key_id=None, subscription_id=None, zone=ZoneInfo("UTC")
    )
    gateway: Any = SimpleNamespace(ledger=ledger, snapshot=SimpleNamespace(policies={1: policy}))
    exchange: Any = SimpleNamespace(id=uuid4(), id_text="1", started=False, gone=False)
    request = chat_request_parse({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    call = ChatCall(gateway, exchange, caller, request, endpoint="/v1/chat/completions", dialect=dialect or OpenAIChat())
    price = Price("p", clock.now(), TIER, ())
    route: Any = SimpleNamespace(slug="a/m", provider="a", model="m", cost_factor=D(1))
    candidate = Candidate(route, price, call.tariff, 100, 100, D("0.0002"), D("0.036"))
    call.candidates = (candidate,)
    call.held = D("0.036")
    outcome = call.outcome
    outcome.served, outcome.end, outcome.delivered_bytes = candidate, "complete", 4
    outcome.usage = Usage(input_total=10, output_total=20)
    outcome.answer = ChatAnswer({}, outcome.usage, 4, "stop", None)
    return call


async def test_a_call_is_charged_what_it_used() -> None:
    ledger = Ledger()

    await call_with(ledger)._settle()

    [item] = ledger.settled
    # 30 tokens at 1 USD a million, x 1.8 / 0.01
    assert (item.usage.end, item.charge, item.loss_usd) == ("complete", D("0.005400"), D(0))


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
