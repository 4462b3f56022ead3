"""Redis loses everything: quotas, budgets and allowances come back from PostgreSQL before the next call is admitted."""

from decimal import Decimal
from typing import Any

from django.conf import settings
from redis import Redis

from billing.ledger.models import UsageRecord
from routing.models import Budget, PlanRouting
from tests.live.conftest import Customer, Live, wait_until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}


def test_a_used_up_quota_stays_used_up(live: Live) -> None:
    customer = live.customer(plan="free", credits=0)
    for _ in range(3):
        live.post("/api/v2/chat", customer, json={"prompt": "hi"})

    Redis.from_url(settings.REDIS_URL).flushall()
    fourth = live.post("/api/v2/chat", customer, json={"prompt": "hi"})

    assert (fourth.status_code, fourth.json()["error"]["code"]) == (429, "quota_exceeded")
    assert live.get("/v1/balance", customer).json()["limits"][0]["used"] == 3
    assert UsageRecord.objects.filter(account=customer.account).count() == 3


def spend(live: Live, customer: Customer) -> Decimal:
    """One call that costs far more than the worst case of any later one; returns its cost in USD."""
    live.behave("openai", prompt_tokens=100_000)
    live.post(CHAT, customer, json=BODY)
    live.behave("openai", prompt_tokens=None)
    return UsageRecord.objects.get(account=customer.account).cost_usd


def test_a_spent_budget_stays_spent(live: Live) -> None:
    customer = live.customer()
    spent = spend(live, customer)
    budget = Budget.objects.get(provider=None)
    limit = budget.daily_limit_usd
    budget.daily_limit_usd = spent
    budget.save()

    def refused() -> bool:
        return live.post(CHAT, customer, json=BODY).status_code == 503

    wait_until(refused, seconds=2, what="budget in force")
    Redis.from_url(settings.REDIS_URL).flushall()
    after_loss = live.post(CHAT, customer, json=BODY)
    budget.daily_limit_usd = limit
    budget.save()
    wait_until(lambda: not refused(), seconds=2, what="budget raised")

    # 100,000 x 0.1 + 16 x 0.5 USD per million
    assert spent == Decimal("0.010008")
    assert after_loss.json()["error"]["code"] == "budget_exhausted"


def test_a_used_up_allowance_stays_used_up(live: Live) -> None:
    customer = live.customer(plan="pro", credits=0)
    spent = spend(live, customer)
    routing = PlanRouting.objects.get(plan__code="pro")
    allowance = routing.cost_allowance_usd
    routing.cost_allowance_usd = spent
    routing.save()

    def refused() -> bool:
        return live.post(CHAT, customer, json=BODY).status_code == 503

    wait_until(refused, seconds=2, what="allowance in force")
    Redis.from_url(settings.REDIS_URL).flushall()
    after_loss = live.post(CHAT, customer, json=BODY)
    routing.cost_allowance_usd = allowance
    routing.save()
    wait_until(lambda: not refused(), seconds=2, what="allowance restored")

    assert after_loss.json()["error"]["code"] == "budget_exhausted"
