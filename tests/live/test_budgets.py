"""The operator's budgets: parallel calls cannot pass one together, and they follow a call to whoever serves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db.models import Sum
from django.test import override_settings
from redis import Redis

from billing.ledger.models import UsageRecord
from iafactory.common import clock
from iafactory.common.money import NANO_PER_USD
from ratelimit.scopes import counter_storage_key
from routing import limits
from routing.chat_request import chat_request_parse
from routing.models import Budget, Provider
from routing.snapshot import snapshot_load
from tests.live.conftest import Live, wait_until
from tests.live.load import run_load

CHAT = "/v1/chat/completions"
LUNA: dict[str, Any] = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1000}
# Served by Groq first, then by Together, where the plan (`whole`) does not score.
TWO_PROVIDERS: dict[str, Any] = {"model": "gpt-oss-120b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}


@pytest.fixture(autouse=True)
def nobody_raises_the_counters() -> Iterator[None]:
    """Every five minutes a process raises what Redis counts to what the log has, which other tests wrote without Redis."""
    with Redis.from_url(settings.REDIS_URL) as redis:
        redis.set("{iaf}:counter-sync", 1, ex=300)
        yield
        redis.delete("{iaf}:counter-sync")


def worst_cost_usd(body: dict[str, Any], provider: str) -> Decimal:
    """What one call of `body` can cost at most at `provider`."""
    with override_settings(SIMULATOR_URL="http://127.0.0.1"):
        model = snapshot_load().model(body["model"])
    assert model is not None
    route = next(route for route in model.routes if route.provider == provider)
    price = route.price_at(clock.now())
    assert price is not None
    return chat_request_parse(dict(body)).worst_case(route, price).list_cost_usd * route.cost_factor


def spent_usd() -> Decimal:
    return UsageRecord.objects.aggregate(total=Sum("cost_usd"))["total"] or Decimal(0)


def counted_usd(owner: str, *, month: bool = False) -> Decimal:
    """What Redis counts for a budget."""
    now = clock.now()
    key = f"bm:{owner}" if month else f"b:{owner}"
    end_ms = limits.budget_month_end_ms(now) if month else limits.budget_day_end_ms(now)
    return Decimal(int(Redis.from_url(settings.REDIS_URL).get(counter_storage_key(key, end_ms)) or 0)) / NANO_PER_USD  # type: ignore[arg-type]


@contextmanager
def budget(live: Live, provider: str | None = None, **ceilings: Decimal | int) -> Iterator[None]:
    """The ceilings of `provider` (None: all together), in force inside the block."""
    owner = None if provider is None else Provider.objects.get(slug=provider)
    row, _ = Budget.objects.get_or_create(provider=owner)
    before = {name: getattr(row, name) for name in ceilings}
    Budget.objects.filter(pk=row.pk).update(**ceilings)
    live.catch_up()
    try:
        yield
    finally:
        Budget.objects.filter(pk=row.pk).update(**before)
        live.catch_up()


@pytest.mark.parametrize("ceiling", ["daily_limit_usd", "monthly_limit_usd"])
def test_a_hundred_parallel_calls_never_pass_a_budget_together(live: Live, ceiling: str) -> None:
    customer = live.customer(credits=1000)
    worst = worst_cost_usd(LUNA, "openai")
    live.post(CHAT, customer, json=LUNA)
    monthly = ceiling == "monthly_limit_usd"
    # Redis may count more than the log has: reservations of processes that died stay until their window ends.
    counted, spent = counted_usd("all", month=monthly), spent_usd()
    cap = counted + 7 * worst + worst / 2
    live.behave("openai", latency_ms=2000, output_tokens=1000)

    with budget(live, **{ceiling: cap}):
        result = run_load(live.url, customer.headers, [LUNA] * 100, clients=100)
    live.behave("openai", latency_ms=None, output_tokens=None)

    assert result.statuses == {200: 7, 503: 93}
    assert result.codes == {"budget_exhausted": 93}
    assert cap - worst < counted_usd("all", month=monthly) <= cap
    assert counted_usd("all", month=monthly) - counted == spent_usd() - spent > 6 * worst


def test_a_budget_follows_the_call_to_the_provider_that_serves_it(live: Live) -> None:
    customer = live.customer(plan="whole")
    live.behave("groq", fail_status=500)

    with budget(live, "groq", daily_limit_usd=1), budget(live, "together", daily_limit_usd=1, monthly_limit_usd=1):
        before, before_groq = counted_usd("together"), counted_usd("groq")
        answer = live.post(CHAT, customer, json=TWO_PROVIDERS)
        live.behave("groq", fail_status=None)
        record = UsageRecord.objects.get(account=customer.account)

        assert (answer.status_code, record.provider, record.fallback) == (200, "together", True)
        assert record.cost_usd > 0
        assert counted_usd("together") - before == record.cost_usd
        assert counted_usd("together", month=True) == counted_usd("together")
        assert counted_usd("groq") == before_groq


def test_a_provider_whose_own_budget_is_spent_leaves_the_call_to_the_others(live: Live) -> None:
    customer = live.customer(plan="whole")

    with budget(live, "groq", daily_limit_usd=0):
        elsewhere = live.post(CHAT, customer, json=TWO_PROVIDERS)
        with budget(live, "together", monthly_limit_usd=worst_cost_usd(TWO_PROVIDERS, "together") / 2):
            nowhere = live.post(CHAT, customer, json=TWO_PROVIDERS)

    assert (elsewhere.status_code, elsewhere.headers["x-iaf-provider"]) == (200, "together")
    assert elsewhere.headers["x-iaf-budget-fallback"] == "true"
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (503, "budget_exhausted")
    assert UsageRecord.objects.filter(account=customer.account, cost_usd__gt=0).count() == 1


def test_a_raised_budget_is_in_force_at_once(live: Live) -> None:
    customer = live.customer()

    with budget(live, daily_limit_usd=0):
        assert live.post(CHAT, customer, json=LUNA).status_code == 503
        Budget.objects.filter(provider=None).update(daily_limit_usd=50)

        wait_until(lambda: live.post(CHAT, customer, json=LUNA).status_code == 200, what="budget raised")


def test_an_attempt_that_may_have_been_billed_stays_in_the_budget(live: Live) -> None:
    customer = live.customer(plan="whole")
    live.behave("groq", drop_after_chunks=1)

    with budget(live, "groq", daily_limit_usd=1), budget(live, "together", daily_limit_usd=1):
        before = counted_usd("groq"), counted_usd("together")
        live.post(CHAT, customer, json=TWO_PROVIDERS)
        live.behave("groq", drop_after_chunks=None)
        record = UsageRecord.objects.get(account=customer.account)
        groq, together = counted_usd("groq") - before[0], counted_usd("together") - before[1]

        assert groq == worst_cost_usd(TWO_PROVIDERS, "groq")
        assert together > 0
        assert groq + together == record.cost_usd
