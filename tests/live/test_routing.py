"""Who answers: plans, splits, fallback, budgets, prices; and what passes through untouched."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from billing.ledger.models import UsageRecord
from iafactory.common import clock
from routing.models import AiModel, Budget, ModelPrice, ModelProfile, PlanRouting, Provider
from tests.live.conftest import Live, wait_until

CHAT = "/v1/chat/completions"
OWN = "/api/v2/chat"
HELLO = [{"role": "user", "content": "hello"}]


def served(response: httpx2.Response) -> tuple[str, bool]:
    body = response.json()
    return body["provider"], body["fallback"]


def test_free_is_served_by_groq_at_no_cost_three_times_a_day(live: Live) -> None:
    customer = live.customer(plan="free", credits=0)

    answers = [live.post(OWN, customer, json={"prompt": "hi", "model": "gpt-4o"}) for _ in range(3)]
    fourth = live.post(OWN, customer, json={"prompt": "hi"})

    assert [(a.json()["provider"], a.json()["cost"], a.json()["credits"]) for a in answers] == [("groq", 0, 0)] * 3
    assert (fourth.status_code, fourth.json()["error"]["code"]) == (429, "quota_exceeded")
    assert fourth.headers["x-should-retry"] == "false"
    [limit] = live.get("/v1/balance", customer).json()["limits"]
    assert (limit["name"], limit["used"], limit["remaining"]) == ("daily_requests", 3, 0)
    today = live.get("/api/v2/usage/today", customer).json()
    assert (today["requests"], today["credits"], today["plan"]) == (3, 0, "free")


def test_beyond_the_quota_bought_credits_pay(live: Live) -> None:
    customer = live.customer(plan="free", credits=10)

    answers = [live.post(CHAT, customer, json={"model": "auto", "messages": HELLO}) for _ in range(4)]

    assert [a.status_code for a in answers] == [200] * 4
    assert [a.headers.get("x-iaf-paid-by") for a in answers] == [None, None, None, "credits"]
    charged = UsageRecord.objects.filter(account=customer.account, credits_charged__gt=0)
    assert charged.count() == 1
    assert customer.wallet()[0] == 10 - charged.get().credits_charged


def test_a_failed_call_gives_its_quota_unit_back(live: Live) -> None:
    customer = live.customer(plan="free", credits=0)
    live.behave("*", fail_status=500)

    failed = live.post(OWN, customer, json={"prompt": "hi"})

    assert failed.status_code == 502
    [limit] = live.get("/v1/balance", customer).json()["limits"]
    assert (limit["used"], limit["remaining"]) == (0, 3)


def test_student_is_split_85_to_15(live: Live) -> None:
    customer = live.customer(plan="student", credits=0)
    PlanRouting.objects.filter(plan__code="student").update(cost_allowance_usd="1000")
    plan = customer.account.subscriptions.get(state="active").plan
    plan.requests_per_minute = None
    plan.save()
    live.catch_up()
    wait_until(lambda: len(live.get("/v1/balance", customer).json()["limits"]) == 1, what="limit lifted")
    answers = Counter(served(live.post(OWN, customer, json={"prompt": "hi"})) for _ in range(100))
    plan.requests_per_minute = 10
    plan.save()

    assert 84 <= answers[("groq", False)] <= 86
    assert answers[("groq", False)] + answers[("openrouter", False)] == 100


def test_student_gets_ten_calls_a_minute(live: Live) -> None:
    customer = live.customer(plan="student", credits=0)

    wait_until(lambda: len(live.get("/v1/balance", customer).json()["limits"]) == 2, what="limit in force")
    # At once: one more is let through every six seconds.
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: live.post(OWN, customer, json={"prompt": "hi"}), range(20)))

    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert len(answers) - len(refused) >= 10
    assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limited"}
    assert min(int(answer.headers["retry-after"]) for answer in refused) >= 1


def test_a_failing_provider_is_replaced_before_the_client_notices(live: Live) -> None:
    customer = live.customer()
    first = live.post(OWN, customer, json={"prompt": "hi"}).json()["provider"]
    live.behave(first, fail_status=503)

    whole = live.post(OWN, customer, json={"prompt": "hi"})
    streamed = live.post(CHAT, customer, json={"model": "auto", "messages": HELLO, "stream": True})

    assert whole.status_code == 200
    assert served(whole)[1] is True
    assert served(whole)[0] != first
    assert streamed.headers["x-iaf-fallback"] == "true"
    assert int(streamed.headers["x-iaf-attempts"]) >= 2
    assert streamed.text.endswith("data: [DONE]\n\n")
    rows = UsageRecord.objects.filter(account=customer.account, fallback=True, attempts__gte=2)
    assert [row.error_code for row in rows] == ["", ""]


def test_a_wrong_request_is_not_tried_elsewhere(live: Live) -> None:
    customer = live.customer()
    live.behave("*", fail_status=400)

    response = live.post(CHAT, customer, json={"model": "auto", "messages": HELLO})

    assert response.status_code == 400
    assert UsageRecord.objects.get(account=customer.account).attempts == 1


def test_an_unknown_price_refuses_the_call(live: Live) -> None:
    customer = live.customer()
    model = AiModel.objects.create(name="priceless")
    ModelProfile.objects.create(
        slug="groq/priceless", provider=Provider.objects.get(slug="groq"), model=model, upstream_model="priceless"
    )
    live.catch_up()

    response = live.post(CHAT, customer, json={"model": "priceless", "messages": HELLO})

    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
    assert live.received("groq") == 0
    assert "priceless" not in [m["id"] for m in live.get("/v1/models", customer).json()["data"]]


def test_a_price_of_the_future_is_not_used_yet(live: Live) -> None:
    customer = live.customer()
    profile = ModelProfile.objects.get(slug="openai/gpt-6-luna")
    before = live.get("/api/v2/models", customer).json()["models"]
    ModelPrice.objects.create(
        profile=profile, effective_from=clock.now() + timedelta(days=1), input_per_mtok="1000", output_per_mtok="1000"
    )
    live.catch_up()

    answer = live.post(OWN, customer, json={"prompt": "hi", "model": "gpt-6-luna"}).json()

    assert answer["model"] == "gpt-6-luna"
    assert Decimal(str(answer["credits"])) < Decimal("0.01")
    assert [m for m in before if m["model"] == "gpt-6-luna"]


def test_a_spent_budget_leaves_only_what_is_free(live: Live) -> None:
    customer = live.customer()
    budget = Budget.objects.get(provider=None)
    limit = budget.daily_limit_usd
    budget.daily_limit_usd = 0
    budget.save()
    body = {"model": "gpt-6-luna", "messages": HELLO}
    live.catch_up()

    paid = live.post(CHAT, customer, json=body)
    any_model = live.post(OWN, customer, json={"prompt": "hi", "model": "gpt-6-luna"})
    budget.daily_limit_usd = limit
    budget.save()
    live.catch_up()

    assert live.post(CHAT, customer, json=body).status_code == 200
    assert paid.json()["error"]["code"] == "budget_exhausted"
    assert (any_model.json()["budget_fallback"], any_model.json()["cost"]) == (True, 0)
    assert UsageRecord.objects.filter(account=customer.account, budget_fallback=True).count() == 1


def test_standard_fields_pass_through_and_price_changing_ones_do_not(live: Live) -> None:
    customer = live.customer()
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)
    tools: list[Any] = [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
        }
    ]

    answer = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "hello"}],
        tools=tools,
        tool_choice="required",
        extra_body={"models": ["gpt-6-astra"], "service_tier": "priority"},
    )

    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls is not None
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"  # type: ignore[union-attr]
    assert answer.model == "gpt-4o-mini"


@pytest.mark.parametrize("name", ["openai/gpt-oss-120b", "gpt-oss-120b"])
def test_models_answer_to_their_aliases(live: Live, name: str) -> None:
    customer = live.customer()
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)

    model = client.models.retrieve(name)
    answer = client.chat.completions.create(model=name, messages=HELLO)  # type: ignore[arg-type]

    assert model.id == answer.model == "gpt-oss-120b"


def test_free_sees_only_models_that_cost_nothing(live: Live) -> None:
    customer = live.customer(plan="free", credits=0)

    names = [model["id"] for model in live.get("/v1/models", customer).json()["data"]]
    refused = live.post(CHAT, customer, json={"model": "gpt-6-astra", "messages": HELLO})

    assert names == ["auto", "gemini-2.5-flash", "llama-3.3-70b"]
    assert refused.status_code in (403, 503)
    assert UsageRecord.objects.filter(account=customer.account).count() == 0


def test_an_access_token_calls_too(live: Live) -> None:
    customer = live.customer()
    login = live.post(
        "/api/auth/login", None, json={"email": customer.account.personal_of.email, "password": "correct horse battery"}
    )

    response = live.post(
        CHAT,
        None,
        json={"model": "auto", "messages": HELLO},
        headers={"authorization": f"Bearer {login.json()['access_token']}"},
    )

    assert response.status_code == 200
    assert UsageRecord.objects.get(account=customer.account).api_key_id is None


def test_what_a_provider_cannot_express_is_asked_of_one_that_can(live: Live) -> None:
    customer = live.customer()
    body = {"model": "llama-3.3-70b", "messages": HELLO, "logprobs": True}

    served_elsewhere = live.post(CHAT, customer, json=body)
    nowhere = live.post(CHAT, customer, json=body | {"model": "claude-haiku-5-5"})

    # Groq has no logprobs; OpenRouter serves the same model and has them.
    assert served_elsewhere.headers["x-iaf-provider"] == "openrouter"
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert nowhere.json()["error"]["param"] == "logprobs"
    assert UsageRecord.objects.filter(account=customer.account).count() == 1


@pytest.mark.parametrize("chain", [["openrouter", "groq"], ["groq", "openrouter"]])
def test_a_split_that_draws_what_the_budget_cannot_pay_says_so(live: Live, chain: list[str]) -> None:
    customer = live.customer(plan="pro", credits=0)
    PlanRouting.objects.filter(plan__code="pro").update(fallback=chain)
    budget = Budget.objects.get(provider=None)
    limit = budget.daily_limit_usd
    budget.daily_limit_usd = 0
    budget.save()
    live.catch_up()

    answers = [live.post(OWN, customer, json={"prompt": "hi"}).json() for _ in range(10)]
    budget.daily_limit_usd = limit
    budget.save()
    live.catch_up()

    assert {(answer["provider"], answer["cost"]) for answer in answers} == {("groq", 0)}
    # Three of ten are OpenRouter's turn.
    assert sum(answer["budget_fallback"] for answer in answers) == 3
