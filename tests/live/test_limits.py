"""Limits of plans, accounts, keys, runs and the installation; what answers say of them; and calls that are cut off."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from billing.accounts.models import AccountLimits
from billing.accounts.services import account_block, api_key_revoke
from billing.events.services import SYSTEM
from billing.ledger.credits import credits_consume
from billing.ledger.models import UsageRecord
from billing.plans.models import ServicePrice
from billing.subscriptions.selectors import subscription_live
from iafactory.common import clock
from routing.models import GatewayLimits
from tests.live.conftest import Customer, Live, wait_until

CHAT = "/v1/chat/completions"
OWN = "/api/v2/chat"
BODY: dict[str, Any] = {"model": "llama-3.3-70b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}


def limited_key(live: Live, *, credits: int = 100, **fields: Any) -> Customer:
    customer = live.customer(credits=credits)
    for name, value in fields.items():
        setattr(customer.key, name, value)
    customer.key.save()
    return customer


def code(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_of_twenty_parallel_student_calls_exactly_ten_pass(live: Live) -> None:
    customer = live.customer(plan="student", credits=0)

    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda _: live.post(OWN, customer, json={"prompt": "hi"}), range(20)))
    took = time.monotonic() - began

    passed = Counter(response.status_code for response in responses)[200]
    # One more is let through every six seconds, should the machine take that long.
    assert 10 <= passed <= 10 + took // 6
    assert Counter(response.status_code for response in responses) == {200: passed, 429: 20 - passed}
    assert UsageRecord.objects.filter(account=customer.account).count() == passed


def test_a_refusal_says_which_limit_when_it_resets_and_what_lifts_it(live: Live) -> None:
    customer = live.customer(plan="free", credits=0)
    for _ in range(3):
        live.post(OWN, customer, json={"prompt": "hi"})

    error = live.post(CHAT, customer, json=BODY | {"model": "auto"}).json()["error"]

    assert (error["code"], error["limit"], error["plan"]) == ("quota_exceeded", "daily_requests", "free")
    assert error["lifted_by_plan"] == "student"
    assert "Student" in error["message"]


def test_answers_say_what_is_left_in_both_dialects(live: Live) -> None:
    customer = live.customer(plan="student", credits=0)

    first, second = (live.post(CHAT, customer, json=BODY).headers for _ in range(2))
    for _ in range(8):
        live.post(CHAT, customer, json=BODY)
    refused = live.post(CHAT, customer, json=BODY)

    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("10", "9")
    assert second["x-ratelimit-remaining-requests"] == "8"
    assert first["x-ratelimit-reset-requests"].endswith("s")
    assert '"requests_per_minute";q=10;w=60' in first["ratelimit-policy"]
    assert '"daily_requests";q=200;w=86400' in first["ratelimit-policy"]
    assert '"daily_requests";r=199;t=' in first["ratelimit"]
    assert code(refused) == (429, "rate_limited")
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(refused.headers["retry-after"]) >= 1


def test_an_operator_sets_other_limits_for_one_account_for_a_while(live: Live) -> None:
    customer = live.customer()
    other = live.customer()
    limits = AccountLimits.objects.create(
        account=customer.account, requests_per_minute=1, until=clock.now() + timedelta(minutes=5), reason="too fast"
    )

    def limited() -> bool:
        return [limit["name"] for limit in live.get("/v1/balance", customer).json()["limits"]] == ["requests_per_minute"]

    wait_until(limited, what="limit in force")
    statuses = [live.post(CHAT, customer, json=BODY).status_code for _ in range(2)]
    limits.until = clock.now() + timedelta(seconds=1)
    limits.save()

    assert statuses == [200, 429]
    wait_until(lambda: live.post(CHAT, customer, json=BODY).status_code == 200, what="the while is over")
    assert clock.now() >= limits.until
    assert live.post(CHAT, other, json=BODY).status_code == 200


@pytest.mark.parametrize("name", ["requests_per_hour", "requests_per_day"])
def test_hours_and_days_are_counted_too(live: Live, name: str) -> None:
    customer = live.customer()
    AccountLimits.objects.create(account=customer.account, reason="test", **{name: 2})
    wait_until(lambda: bool(live.get("/v1/balance", customer).json()["limits"]), what="limit in force")

    statuses = [live.post(CHAT, customer, json=BODY).status_code for _ in range(3)]

    assert statuses == [200, 200, 429]
    assert code(live.post(CHAT, customer, json=BODY))[1] == (
        "rate_limited" if name == "requests_per_hour" else "quota_exceeded"
    )


def test_a_call_that_fails_gives_its_day_back(live: Live) -> None:
    customer = live.customer()
    AccountLimits.objects.create(account=customer.account, reason="test", requests_per_day=1)
    wait_until(lambda: bool(live.get("/v1/balance", customer).json()["limits"]), what="limit in force")
    live.behave("*", fail_status=500)
    failed = live.post(CHAT, customer, json=BODY).status_code
    live.behave("*", fail_status=None)

    statuses = [live.post(CHAT, customer, json=BODY).status_code for _ in range(2)]

    assert (failed, statuses) == (502, [200, 429])


def test_concurrent_calls_are_counted_while_they_run(live: Live) -> None:
    customer = limited_key(live, concurrent_calls=2)
    live.behave("*", latency_ms=3000)

    with ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda _: live.post(CHAT, customer, json=BODY), range(6)))
    live.behave("*", latency_ms=0)

    assert Counter(response.status_code for response in responses) == {200: 2, 429: 4}
    assert live.post(CHAT, customer, json=BODY).status_code == 200


def test_tokens_are_counted_at_most_first_and_exactly_after(live: Live) -> None:
    # The bound of this call: 2 bytes + 50 + 16, and 16 to answer: 84. It takes 4 + 16 = 20.
    customer = limited_key(live, tokens_per_minute=120)

    responses = [live.post(CHAT, customer, json=BODY) for _ in range(4)]

    statuses = [response.status_code for response in responses]
    assert statuses[:2] == [200, 200]
    assert 429 in statuses
    assert responses[0].headers["x-ratelimit-limit-tokens"] == "120"


def test_a_key_spends_no_more_than_it_may_a_day(live: Live) -> None:
    # Held at most: (68 x 0.59 + 16 x 0.79) USD per million x 180 = 0.009497 credits; charged 0.002700.
    customer = limited_key(live, daily_credits=Decimal("0.013"), monthly_credits=Decimal("5"))

    responses = [live.post(CHAT, customer, json=BODY) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 429]
    assert code(responses[2]) == (429, "quota_exceeded")
    assert responses[2].json()["error"]["limit"] == "key_daily_credits"
    names = {limit["name"]: limit for limit in live.get("/v1/balance", customer).json()["limits"]}
    spent = sum(row.credits_charged for row in UsageRecord.objects.filter(account=customer.account))
    assert Decimal(str(names["key_daily_credits"]["used"])) == spent
    assert Decimal(str(names["key_monthly_credits"]["remaining"])) == 5 - spent


@pytest.mark.parametrize(
    ("fields", "path", "headers", "expected"),
    [
        ({"allowed_networks": ["10.0.0.0/8"]}, CHAT, {}, (403, "network_not_allowed")),
        ({"allowed_networks": ["127.0.0.0/8"]}, CHAT, {}, None),
        ({"allowed_networks": ["::/0"]}, CHAT, {}, (403, "network_not_allowed")),
        ({"allowed_endpoints": [OWN]}, CHAT, {}, (403, "endpoint_not_allowed")),
        ({"allowed_endpoints": [CHAT]}, CHAT, {}, None),
        ({"allowed_models": ["gpt-6-luna"]}, CHAT, {}, (403, "model_not_allowed")),
        ({"allowed_models": ["llama-3.3-70b"]}, CHAT, {}, None),
        ({"allowed_origins": ["https://app.example"]}, CHAT, {}, (403, "origin_not_allowed")),
        ({"allowed_origins": ["https://app.example"]}, CHAT, {"origin": "https://evil.example"}, (403, "origin_not_allowed")),
        ({"allowed_origins": ["https://app.example"]}, CHAT, {"origin": "https://app.example"}, None),
    ],
)
def test_a_key_works_where_and_for_what_it_is_allowed(
    live: Live, fields: dict[str, Any], path: str, headers: dict[str, str], expected: tuple[int, str] | None
) -> None:
    customer = limited_key(live, **fields)

    response = live.post(path, customer, json=BODY, headers=headers)

    assert (None if response.status_code == 200 else code(response)) == expected
    assert UsageRecord.objects.filter(account=customer.account).count() == (expected is None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"allowed_networks": ["10.0.0.0/8"]}, "network_not_allowed"),
        ({"allowed_endpoints": [CHAT]}, "endpoint_not_allowed"),
        ({"allowed_origins": ["https://app.example"]}, "origin_not_allowed"),
        ({"allowed_networks": ["127.0.0.1"]}, None),
    ],
)
def test_allow_lists_hold_on_the_billing_api_too(live: Live, fields: dict[str, Any], expected: str | None) -> None:
    customer = limited_key(live, **fields)

    response = live.get("/api/billing/me", customer)

    assert (None if response.status_code == 200 else code(response)[1]) == expected


def test_a_key_for_some_models_sees_only_those(live: Live) -> None:
    customer = limited_key(live, allowed_models=["gpt-6-luna"])

    names = [model["id"] for model in live.get("/v1/models", customer).json()["data"]]
    wish = live.post(OWN, customer, json={"prompt": "hi", "model": "llama-3.3-70b"})

    assert names == ["auto", "gpt-6-luna"]
    assert wish.json()["model"] == "gpt-6-luna"


def test_a_run_stops_at_its_ceiling(live: Live) -> None:
    customer = live.customer()
    run = {"x-iaf-run": "nightly-1", "x-iaf-run-limit": "0.013"}

    in_run = [live.post(CHAT, customer, json=BODY, headers=run) for _ in range(3)]
    other_run = live.post(CHAT, customer, json=BODY, headers=run | {"x-iaf-run": "nightly-2"})
    without = live.post(CHAT, customer, json=BODY)

    assert [response.status_code for response in in_run] == [200, 200, 402]
    assert code(in_run[2]) == (402, "run_limit_reached")
    assert (other_run.status_code, without.status_code) == (200, 200)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-iaf-run": "a"},
        {"x-iaf-run-limit": "1"},
        {"x-iaf-run": "a b", "x-iaf-run-limit": "1"},
        {"x-iaf-run": "a", "x-iaf-run-limit": "0"},
        {"x-iaf-run": "a", "x-iaf-run-limit": "-1"},
        {"x-iaf-run": "a", "x-iaf-run-limit": "NaN"},
        {"x-iaf-run": "a", "x-iaf-run-limit": "1e400"},
        {"x-iaf-run": "x" * 65, "x-iaf-run-limit": "1"},
    ],
)
def test_a_run_that_makes_no_sense_is_refused(live: Live, headers: dict[str, str]) -> None:
    response = live.post(CHAT, live.customer(), json=BODY, headers=headers)

    assert code(response) == (400, "invalid_run")


def test_the_installation_has_limits_of_its_own(live: Live) -> None:
    one, two = live.customer(), live.customer()
    GatewayLimits.objects.create(requests_per_minute=3)

    def refused() -> bool:
        return live.post(CHAT, one, json=BODY).status_code == 429

    try:
        wait_until(refused, what="limit in force")
        other = live.post(CHAT, two, json=BODY)
    finally:
        GatewayLimits.objects.all().delete()
    wait_until(lambda: not refused(), what="limit lifted")

    assert code(other) == (429, "gateway_busy")


@pytest.mark.parametrize("how", ["revoke", "block"])
def test_an_open_stream_ends_when_its_key_or_account_is_taken_away(live: Live, how: str) -> None:
    customer = live.customer()
    live.behave("*", chunk_interval_ms=200, chunks=100, output_tokens=400)
    received: list[str] = []

    def read() -> None:
        body = BODY | {"stream": True, "max_tokens": 400}
        with httpx2.stream("POST", f"{live.url}{CHAT}", headers=customer.headers, json=body, timeout=30) as response:
            received.extend(response.iter_lines())

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: len(received) > 4, what="an answer under way")
    if how == "revoke":
        api_key_revoke(key=customer.key, actor=SYSTEM, reason="leaked")
    else:
        account_block(account=customer.account, actor=SYSTEM, reason="abuse")
    # The whole answer takes twenty seconds.
    reader.join(15)

    assert not reader.is_alive()
    assert ("api_key_revoked" if how == "revoke" else "account_blocked") in received[-2]
    assert "data: [DONE]" not in received
    row = UsageRecord.objects.get(account=customer.account)
    assert row.end == "cut_off"
    assert 0 < row.credits_charged < row.credits_held
    assert customer.wallet() == (100 - row.credits_charged, 0)


def test_a_block_that_has_run_out_blocks_nobody(live: Live) -> None:
    customer = live.customer()
    account_block(account=customer.account, actor=SYSTEM, reason="cool down")
    customer.account.refresh_from_db()
    customer.account.blocked_until = clock.now() + timedelta(minutes=5)
    customer.account.save()
    wait_until(lambda: live.post(CHAT, customer, json=BODY).status_code == 403, what="blocked")

    customer.account.blocked_until = clock.now() + timedelta(seconds=1)
    customer.account.save()

    wait_until(lambda: live.post(CHAT, customer, json=BODY).status_code == 200, what="served again")
    assert clock.now() >= customer.account.blocked_until


def test_what_services_spend_counts_in_the_same_day(live: Live) -> None:
    customer = live.customer(plan="credits-free", credits=0)
    chat = BODY | {"model": "auto"}
    before = live.post(CHAT, customer, json=chat).status_code

    credits_consume(
        account=customer.account,
        service=ServicePrice.objects.get(code="rag"),
        units=Decimal(19),
        request_id="1",
        api_key_id=None,
        subscription_of=subscription_live,
    )
    after = live.post(CHAT, customer, json=chat)

    # 20 credits a day: one for the first call, 19 for the service.
    assert before == 200
    assert code(after) == (429, "quota_exceeded")
    assert after.json()["error"]["limit"] == "daily_credits"
