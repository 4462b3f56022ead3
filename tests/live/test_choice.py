"""Who is asked when routes are down, draining, full, or hold us to their limits; and how a usage row explains it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from django.conf import settings
from redis import Redis

from billing.ledger.models import Hold, UsageRecord
from billing.plans.models import Plan
from routing.models import AiModel, GatewayLimits, ModelPrice, ModelProfile, PlanRouting, Provider, ProviderCredential
from tests.fakes.company import Company, company_open
from tests.live.conftest import Customer, Live, wait_until

CHAT = "/v1/chat/completions"
OWN = "/api/v2/chat"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def models_withdrawn(live: Live) -> Iterator[None]:
    """The models that a test here makes are nobody else's."""
    yield
    AiModel.objects.filter(name__endswith="-model").update(public=False)
    if GatewayLimits.objects.all().delete()[0]:
        live.catch_up()


def plan_make(code: str, *, priority: int = 0, **routing: Any) -> Plan:
    """A plan for credits whose calls any model may serve."""
    plan, _ = Plan.objects.update_or_create(
        code=code,
        defaults={
            "family": "test",
            "name": code,
            "interval": "none",
            "billing_mode": "credits",
            "priority": priority,
        },
    )
    values = {"strategy": "score", "models_allowed": ["*"], "score_weights": {"w1": 1000, "w2": 1, "w3": 100, "w4": 1}}
    PlanRouting.objects.update_or_create(plan=plan, defaults=values | routing)
    return plan


def provider_make(slug: str, *, base_url: str = "https://api.example.com/v1", **fields: Any) -> Provider:
    provider, _ = Provider.objects.update_or_create(
        slug=slug, defaults={"name": slug, "protocol": "openai", "base_url": base_url, "enabled": True} | fields
    )
    return provider


def profile_make(provider: Provider, name: str, *, price: str = "1", **fields: Any) -> ModelProfile:
    """A profile of the model `name`, at the same price for input and output."""
    model, _ = AiModel.objects.get_or_create(name=name)
    profile, made = ModelProfile.objects.update_or_create(
        slug=f"{provider.slug}/{name}", defaults={"provider": provider, "model": model, "upstream_model": name} | fields
    )
    if made:
        ModelPrice.objects.create(
            profile=profile, effective_from="2026-01-01T00:00Z", input_per_mtok=Decimal(price), output_per_mtok=Decimal(price)
        )
    return profile


def ask(live: Live, customer: Customer, model: str, **fields: Any) -> httpx2.Response:
    return live.post(CHAT, customer, json={"model": model, "messages": HELLO, "max_tokens": 16} | fields)


def queue_seconds(seconds: int) -> None:
    """How long calls wait for capacity, to the end of the test."""
    GatewayLimits.objects.update_or_create(id=1, defaults={"queue_seconds": seconds})


def waiting(profile: str) -> int:
    """Calls in the queue for a place on a profile that takes so many at once."""
    with Redis.from_url(settings.REDIS_URL) as redis:
        return int(redis.zcard(f"{{iaf}}:cap:v1:r:{profile}:g:q"))


def choice_of(customer: Customer) -> dict[str, Any]:
    """Why the latest call went where it did."""
    usage = UsageRecord.objects.filter(account=customer.account).latest("started_at")
    assert usage.choice is not None
    return dict(usage.choice)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def company() -> Iterator[Company]:
    with company_open(good_keys=None) as company:
        yield company


# --- Down ---


def test_a_split_goes_on_counting_for_a_provider_that_is_down(live: Live) -> None:
    customer = live.customer(plan="student", credits=0)
    plan = Plan.objects.get(code="student")
    PlanRouting.objects.filter(plan=plan).update(cost_allowance_usd="1000")
    plan.requests_per_minute = None
    plan.save()
    live.catch_up()
    wait_until(lambda: len(live.get("/v1/balance", customer).json()["limits"]) == 1, what="limit lifted")
    live.behave("openrouter", fail_status=503)

    answers = [live.post(OWN, customer, json={"prompt": "hi"}).json() for _ in range(100)]
    plan.requests_per_minute = 10
    plan.save()

    served = Counter((answer["provider"], answer["fallback"]) for answer in answers)
    assert set(served) == {("groq", False), ("groq", True)}
    assert 84 <= served[("groq", False)] <= 86
    # Five failures opened the breaker; later calls did not even try, but for probes.
    rows = UsageRecord.objects.filter(account=customer.account, fallback=True)
    assert 5 <= rows.filter(attempts__gte=2).count() <= 12
    skipped = rows.filter(attempts=1).latest("started_at").choice
    assert skipped is not None
    assert skipped["drawn"]["provider"] == "openrouter"
    assert skipped["drawn"]["weights"] == {"groq": 85, "openrouter": 15}
    assert skipped["left_out"]["openrouter/deepseek-v4.1-flash"].startswith("breaker")


def test_with_every_breaker_open_calls_are_refused_at_once(live: Live) -> None:
    plan_make("down")
    profile_make(provider_make("downs"), "down-model")
    customer = live.customer(plan="down")
    live.catch_up()
    live.behave("downs", fail_status=500)

    statuses = [ask(live, customer, "down-model").status_code for _ in range(5)]
    refused = ask(live, customer, "down-model")

    assert statuses == [502] * 5
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    assert live.received("downs") == 5
    assert UsageRecord.objects.filter(account=customer.account).count() == 5


def test_a_wrong_request_opens_no_breaker(live: Live) -> None:
    plan_make("wrong")
    profile_make(provider_make("wrongs"), "wrong-model")
    customer = live.customer(plan="wrong")
    live.catch_up()
    live.behave("wrongs", fail_status=400)

    statuses = {ask(live, customer, "wrong-model").status_code for _ in range(12)}
    live.behave("wrongs", fail_status=None)

    assert statuses == {400}
    assert ask(live, customer, "wrong-model").status_code == 200


def test_a_draining_provider_gets_no_new_calls_and_its_models_stay_listed(live: Live, pool: ThreadPoolExecutor) -> None:
    plan_make("drain")
    provider = provider_make("drains", draining=False)
    profile_make(provider, "drain-model")
    customer = live.customer(plan="drain")
    live.catch_up()
    live.behave("drains", latency_ms=3000)

    running = pool.submit(ask, live, customer, "drain-model")
    wait_until(lambda: live.received("drains") == 1, what="call under way")
    provider.draining = True
    provider.save()
    wait_until(lambda: ask(live, customer, "drain-model").status_code == 503, what="draining")

    assert running.result().status_code == 200
    assert "drain-model" in [entry["id"] for entry in live.get("/v1/models", customer).json()["data"]]
    received = live.received("drains")
    assert ask(live, customer, "drain-model").json()["error"]["code"] == "model_unavailable"
    assert live.received("drains") == received


# --- Full ---


def test_a_full_route_leaves_its_calls_to_the_next_without_waiting(live: Live) -> None:
    plan_make("spill", strategy="split")
    profile_make(provider_make("small", priority=1), "spill-model", requests_per_minute=3, cost_factor=0)
    profile_make(provider_make("large", priority=2), "spill-model")
    customer = live.customer(plan="spill")
    queue_seconds(20)
    live.catch_up()

    began = time.monotonic()
    served = [ask(live, customer, "spill-model").headers["x-iaf-provider"] for _ in range(8)]
    took = time.monotonic() - began

    assert served == ["small"] * 3 + ["large"] * 5
    # Five waits would take five times `queue_seconds`.
    assert took < 20
    assert choice_of(customer)["tried"] == {"small/spill-model": "full: requests_per_minute"}


def test_waiting_calls_are_served_by_plan_priority_and_hold_nothing_meanwhile(live: Live, pool: ThreadPoolExecutor) -> None:
    plan_make("slow-lane", priority=0)
    plan_make("fast-lane", priority=50)
    profile_make(provider_make("narrow"), "narrow-model", concurrent_calls=1)
    low, high = live.customer(plan="slow-lane"), live.customer(plan="fast-lane")
    queue_seconds(30)
    live.catch_up()
    live.behave("narrow", latency_ms=4000)
    finished: list[str] = []
    lock = threading.Lock()

    def call(name: str, customer: Customer) -> int:
        answer = ask(live, customer, "narrow-model")
        with lock:
            finished.append(name)
        return answer.status_code

    calls: list[Future[int]] = [pool.submit(call, "first", low)]
    wait_until(lambda: live.received("narrow") == 1, what="first under way")
    calls += [pool.submit(call, f"low {number}", low) for number in range(4)]
    wait_until(lambda: waiting("narrow/narrow-model") == 4, what="four wait")
    calls.append(pool.submit(call, "high", high))
    wait_until(lambda: waiting("narrow/narrow-model") == 5, what="one more waits")
    live.behave("narrow", latency_ms=100)
    held = Hold.objects.filter(account__in=[low.account, high.account]).count()
    statuses = {future.result() for future in calls}

    assert statuses == {200}
    assert finished[:2] == ["first", "high"]
    assert held == 1


def test_a_wait_in_vain_ends_in_provider_busy(live: Live, pool: ThreadPoolExecutor) -> None:
    plan_make("queue")
    profile_make(provider_make("stuck"), "stuck-model", concurrent_calls=1)
    customer = live.customer(plan="queue")
    queue_seconds(1)
    live.catch_up()
    live.behave("stuck", latency_ms=4000)

    running = pool.submit(ask, live, customer, "stuck-model")
    wait_until(lambda: live.received("stuck") == 1, what="call under way")
    began = time.monotonic()
    busy = ask(live, customer, "stuck-model")
    took = time.monotonic() - began
    still_running = not running.done()

    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "provider_busy")
    assert int(busy.headers["retry-after"]) >= 1
    assert took > 0.9
    assert still_running
    assert running.result().status_code == 200
    # What was refused before a hold was open leaves nothing behind.
    assert UsageRecord.objects.filter(account=customer.account).count() == 1


def test_a_client_that_hangs_up_leaves_the_queue(live: Live, pool: ThreadPoolExecutor) -> None:
    plan_make("impatient")
    profile_make(provider_make("busy"), "busy-model", concurrent_calls=1)
    customer = live.customer(plan="impatient")
    live.catch_up()
    live.behave("busy", latency_ms=3000)

    running = pool.submit(ask, live, customer, "busy-model")
    wait_until(lambda: live.received("busy") == 1, what="call under way")
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(
            f"{live.url}{CHAT}",
            json={"model": "busy-model", "messages": HELLO},
            headers=customer.headers,
            timeout=httpx2.Timeout(5, read=0.3),
        )
    wait_until(lambda: waiting("busy/busy-model") == 0, what="nobody waits")
    first = running.result()

    assert first.status_code == 200
    assert live.received("busy") == 1
    assert ask(live, customer, "busy-model").status_code == 200


# --- Limits of theirs, keys of ours ---


def test_a_rate_limited_key_rests_and_the_next_one_is_used(live: Live, company: Company) -> None:
    plan_make("keys")
    provider = provider_make("keyed", base_url=company.url)
    for priority, secret in enumerate(("sk-first", "sk-second")):
        ProviderCredential.objects.update_or_create(
            provider=provider, label=secret, defaults={"secret": secret, "priority": priority, "enabled": True}
        )
    profile_make(provider, "keyed-model")
    customer = live.customer(plan="keys")
    live.catch_up()
    company.statuses["sk-first"] = 429
    company.headers["retry-after"] = "600"

    first = ask(live, customer, "keyed-model")
    second = ask(live, customer, "keyed-model")

    assert (first.status_code, first.headers["x-iaf-attempts"], first.headers["x-iaf-fallback"]) == (200, "2", "false")
    assert (second.status_code, second.headers["x-iaf-attempts"]) == (200, "1")
    assert [call.key for call in company.calls] == ["sk-first", "sk-second", "sk-second"]

    company.statuses["sk-second"] = 429
    both = ask(live, customer, "keyed-model")
    refused = ask(live, customer, "keyed-model")
    seen = len(company.calls)

    assert (both.status_code, both.json()["error"]["code"]) == (503, "provider_busy")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    # Never told to wait for longer than a minute.
    assert refused.headers["retry-after"] == "60"
    assert len(company.calls) == seen


def test_a_refused_key_is_not_used_again_and_the_next_one_serves(live: Live, company: Company) -> None:
    plan_make("refused")
    provider = provider_make("locks", base_url=company.url)
    for priority, secret in enumerate(("sk-revoked", "sk-valid")):
        ProviderCredential.objects.update_or_create(
            provider=provider, label=secret, defaults={"secret": secret, "priority": priority, "enabled": True}
        )
    profile_make(provider, "locked-model")
    customer = live.customer(plan="refused")
    live.catch_up()
    company.statuses["sk-revoked"] = 401

    answers = [ask(live, customer, "locked-model") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert Counter(call.key for call in company.calls) == {"sk-revoked": 1, "sk-valid": 4}


def test_a_provider_with_nothing_left_comes_last(live: Live, company: Company) -> None:
    plan_make("headroom")
    tight = provider_make("tight", base_url=company.url, priority=1)
    ProviderCredential.objects.update_or_create(provider=tight, label="main", defaults={"secret": "sk-tight"})
    profile_make(tight, "roomy-model", typical_latency_ms=10)
    profile_make(provider_make("roomy", priority=2), "roomy-model", typical_latency_ms=5000)
    customer = live.customer(plan="headroom")
    live.catch_up()
    company.headers |= {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "600s",
    }

    served = [ask(live, customer, "roomy-model").headers["x-iaf-provider"] for _ in range(3)]

    assert served == ["tight", "roomy", "roomy"]
    assert choice_of(customer)["doubtful"] == ["tight/roomy-model"]


# --- Why, and how long ---


def test_a_usage_row_tells_what_each_candidate_scored(live: Live) -> None:
    plan_make("scored", priority=50)
    profile_make(provider_make("cheap"), "scored-model", price="1", typical_latency_ms=2000)
    profile_make(provider_make("dear"), "scored-model", price="20", typical_latency_ms=2000)
    customer = live.customer(plan="scored")
    live.catch_up()

    answer = ask(live, customer, "scored-model")

    assert answer.headers["x-iaf-provider"] == "cheap"
    # 1000 / 2000 ms + 1 free - 100 * 0.001 USD per 1,000 tokens + 50 / 100 = 1.9; the dear one has 100 * 0.02.
    assert choice_of(customer) == {
        "by": "score",
        "candidates": [
            {
                "route": "cheap/scored-model",
                "score": "1.9000",
                "latency_ms": 2000,
                "capacity": "1",
                "cost": "0.001",
                "priority": "0.5",
            },
            {
                "route": "dear/scored-model",
                "score": "0.0000",
                "latency_ms": 2000,
                "capacity": "1",
                "cost": "0.02",
                "priority": "0.5",
            },
        ],
    }


def test_measured_latency_decides_where_prices_are_equal(live: Live) -> None:
    plan_make("measured")
    profile_make(provider_make("said-fast"), "measured-model", typical_latency_ms=200)
    profile_make(provider_make("truly-fast"), "measured-model", typical_latency_ms=300)
    customer = live.customer(plan="measured")
    live.catch_up()
    live.behave("said-fast", latency_ms=2000)

    served = [ask(live, customer, "measured-model").headers["x-iaf-provider"] for _ in range(4)]

    assert served == ["said-fast", "truly-fast", "truly-fast", "truly-fast"]


def test_a_plan_s_deadline_ends_its_calls_and_blames_nobody(live: Live) -> None:
    plan_make("hasty", deadline_seconds=1)
    profile_make(provider_make("leisurely"), "leisurely-model")
    customer = live.customer(plan="hasty")
    live.catch_up()
    live.behave("leisurely", latency_ms=8000)

    began = time.monotonic()
    answers = [ask(live, customer, "leisurely-model") for _ in range(5)]
    took = time.monotonic() - began
    live.behave("leisurely", latency_ms=0)
    PlanRouting.objects.filter(plan__code="hasty").update(deadline_seconds=None)
    live.catch_up()

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(504, "timeout")}
    # Five answers of the provider would take forty seconds.
    assert 5 <= took < 20
    assert ask(live, customer, "leisurely-model").status_code == 200


def test_no_more_providers_are_asked_than_the_plan_allows(live: Live) -> None:
    plan_make("twice", most_attempts=2)
    for priority in range(4):
        profile_make(provider_make(f"failing-{priority}", priority=priority), "failing-model")
        live.behave(f"failing-{priority}", fail_status=503)
    customer = live.customer(plan="twice")
    live.catch_up()

    failed = ask(live, customer, "failing-model")

    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "provider_busy")
    assert UsageRecord.objects.get(account=customer.account).attempts == 2
    assert sum(live.received(f"failing-{priority}") for priority in range(4)) == 2
