"""One result per `Idempotency-Key`: replayed whole and streamed, never charged twice."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from billing.ledger.models import Hold, StoredAnswer, UsageRecord
from billing.ledger.services import answers_forget
from iafactory.common import clock
from tests.live.conftest import Live, wait_until

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
KEY = {"idempotency-key": "k1"}


@pytest.mark.parametrize("path", [CHAT, "/api/v2/chat"])
def test_a_repeated_call_gets_the_first_answer_and_no_second_charge(live: Live, path: str) -> None:
    customer = live.customer()

    first = live.post(path, customer, json=BODY, headers=KEY)
    again = live.post(path, customer, json=BODY, headers=KEY)

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["usage"]["completion_tokens"] == 16
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-iaf-credits"] == first.headers["x-iaf-credits"]
    row = UsageRecord.objects.get(account=customer.account)
    assert customer.wallet() == (100 - row.credits_charged, 0)
    assert live.received("openai") == 1


def test_a_repeated_stream_is_replayed_as_a_stream(live: Live) -> None:
    customer = live.customer()
    body = BODY | {"stream": True, "stream_options": {"include_usage": True}}

    first = live.post(CHAT, customer, json=body, headers=KEY)
    again = live.post(CHAT, customer, json=body, headers=KEY)

    assert first.text.endswith("data: [DONE]\n\n")
    assert first.text == again.text
    assert again.headers["content-type"].startswith("text/event-stream")
    assert again.headers["idempotent-replayed"] == "true"
    assert UsageRecord.objects.filter(account=customer.account).count() == 1


def test_another_body_under_the_key_is_refused(live: Live) -> None:
    customer = live.customer()
    live.post(CHAT, customer, json=BODY, headers=KEY)

    response = live.post(CHAT, customer, json=BODY | {"max_tokens": 17}, headers=KEY)
    elsewhere = live.post("/api/v2/chat", customer, json=BODY, headers=KEY)

    assert (response.status_code, response.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert elsewhere.status_code == 422
    assert UsageRecord.objects.filter(account=customer.account).count() == 1


def test_keys_of_two_customers_do_not_meet(live: Live) -> None:
    one, two = live.customer(), live.customer()

    first, second = live.post(CHAT, one, json=BODY, headers=KEY), live.post(CHAT, two, json=BODY, headers=KEY)

    assert first.json()["id"] != second.json()["id"]
    assert "idempotent-replayed" not in second.headers


def test_while_the_first_runs_others_are_told_to_wait(live: Live) -> None:
    customer = live.customer()
    live.behave("*", latency_ms=700)

    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: live.post(CHAT, customer, json=BODY, headers=KEY), range(10)))
    after = live.post(CHAT, customer, json=BODY, headers=KEY)

    statuses = sorted(response.status_code for response in responses)
    waiting = [response for response in responses if response.status_code == 409]
    assert statuses == [200] + [409] * 9
    assert {response.json()["error"]["code"] for response in waiting} == {"request_in_flight"}
    assert {response.headers["retry-after"] for response in waiting} == {"2"}
    assert (after.status_code, after.headers["idempotent-replayed"]) == (200, "true")
    assert UsageRecord.objects.filter(account=customer.account).count() == 1
    assert live.received("openai") == 1


def test_an_outcome_that_charged_nothing_frees_the_key(live: Live) -> None:
    customer = live.customer()
    live.behave("*", fail_status=500)

    failed = live.post(CHAT, customer, json=BODY, headers=KEY)
    live.behave("*", fail_status=None)
    served = live.post(CHAT, customer, json=BODY, headers=KEY)

    assert (failed.status_code, served.status_code) == (502, 200)
    assert "idempotent-replayed" not in served.headers
    assert UsageRecord.objects.filter(account=customer.account).count() == 2


def test_a_client_that_left_finds_the_whole_answer_later(live: Live) -> None:
    customer = live.customer()
    live.behave("*", chunk_interval_ms=30, chunks=10)
    body = BODY | {"stream": True}

    with httpx2.stream("POST", f"{live.url}{CHAT}", headers=customer.headers | KEY, json=body) as response:
        next(response.iter_raw())
    wait_until(lambda: not Hold.objects.filter(account=customer.account).exists(), what="settled")
    again = live.post(CHAT, customer, json=body, headers=KEY)

    row = UsageRecord.objects.get(account=customer.account)
    assert (row.end, row.output_tokens, row.estimated) == ("complete", 16, False)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.text.endswith("data: [DONE]\n\n")


def test_an_answer_too_large_to_keep_is_not_served_or_charged_again(live: Live) -> None:
    customer = live.customer(credits=1000)
    live.behave("*", output_tokens=300_000, chunks=50)
    body = BODY | {"max_tokens": 300_000, "model": "gemini-2.5-flash", "stream": True}
    live.behave("google", output_tokens=60_000)

    first = live.post(CHAT, customer, json=body | {"n": 8}, headers=KEY)
    again = live.post(CHAT, customer, json=body | {"n": 8}, headers=KEY)

    assert first.status_code == 200
    assert len(first.content) > 1024 * 1024
    assert (again.status_code, again.json()["error"]["code"]) == (409, "result_not_kept")
    assert again.headers["x-should-retry"] == "false"
    assert UsageRecord.objects.filter(account=customer.account).count() == 1


def test_kept_answers_are_encrypted_and_forgotten_after_a_day(live: Live) -> None:
    customer = live.customer()
    live.post(CHAT, customer, json=BODY, headers=KEY)
    kept = StoredAnswer.objects.get(account=customer.account)

    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT content FROM billing_storedanswer WHERE id = %s", [kept.pk])
        raw = cursor.fetchone()[0]
    answers_forget(now=clock.now() + timedelta(hours=23))
    after_23_hours = StoredAnswer.objects.filter(pk=kept.pk).exists()
    answers_forget(now=clock.now() + timedelta(hours=24, seconds=1))
    served = live.post(CHAT, customer, json=BODY, headers=KEY)

    assert "simulator" in (kept.content or "")
    assert "simulator" not in raw
    assert after_23_hours
    assert "idempotent-replayed" not in served.headers
    assert UsageRecord.objects.filter(account=customer.account).count() == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_a_key_that_cannot_be_is_refused(live: Live, key: str) -> None:
    customer = live.customer()

    response = live.post(CHAT, customer, json=BODY, headers={"idempotency-key": key.encode("latin-1")})

    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_idempotency_key")
    assert customer.wallet() == (Decimal(100), 0)
