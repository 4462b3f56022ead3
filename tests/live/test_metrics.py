"""`/metrics` of a running product: what calls leave there."""

import time
from decimal import Decimal

from prometheus_client.parser import text_string_to_metric_families

from billing.ledger.models import UsageRecord
from tests.live.conftest import Live

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-oss-120b", "messages": [{"role": "user", "content": "a secret prompt"}], "max_tokens": 16}


def figures(live: Live) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    # Processes pass on what they counted once a second.
    time.sleep(1.2)
    text = live.get("/metrics").text
    assert "secret" not in text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_calls_are_counted_with_their_tokens_cost_and_failures(live: Live) -> None:
    customer = live.customer(plan="whole")
    before = figures(live)
    live.behave("groq", fail_status=500)
    live.post(CHAT, customer, json=BODY)
    live.behave("groq", fail_status=None)
    live.post(CHAT, None, json=BODY)

    after = figures(live)

    def rise(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0) - before.get(key, 0)

    record = UsageRecord.objects.get(account=customer.account)
    served = {"endpoint": CHAT, "provider": "together", "model": "gpt-oss-120b", "end": "complete"}
    assert rise("iafactory_calls_total", **served) == 1
    assert rise("iafactory_call_seconds_count", endpoint=CHAT, provider="together") == 1
    assert rise("iafactory_first_byte_seconds_count", provider="together") == 1
    assert rise("iafactory_tokens_total", provider="together", kind="input") == record.input_tokens
    assert rise("iafactory_tokens_total", provider="together", kind="output") == record.output_tokens
    assert Decimal(str(round(rise("iafactory_provider_cost_usd_total", provider="together"), 9))) == record.cost_usd
    assert rise("iafactory_provider_failures_total", provider="groq", failure="internal") == 1
    assert rise("iafactory_fallbacks_total", reason="provider") == 1
    assert rise("iafactory_refusals_total", code="invalid_api_key", status="401") == 1
    assert rise("iafactory_commit_batch_items_count", queue="holds") >= 1
    assert rise("iafactory_commit_wait_seconds_count", queue="settles") >= 1
    assert after[("iafactory_calls_running", ())] == 0
