"""`/metrics` of a running product: what calls leave there."""

from decimal import Decimal

from prometheus_client.parser import text_string_to_metric_families

from billing.ledger.models import UsageRecord
from tests.live.conftest import Live, wait_until

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-oss-120b", "messages": [{"role": "user", "content": "a secret prompt"}], "max_tokens": 16}


Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def figures(live: Live) -> Figures:
    text = live.get("/metrics").text
    assert "secret" not in text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# Asked for here alone.
MARK = {"endpoint": CHAT, "provider": "openai", "model": "gpt-4.1-mini", "end": "complete"}


def calls_of(seen: Figures, labels: dict[str, str]) -> float:
    return seen.get(("iafactory_calls_total", tuple(sorted(labels.items()))), 0)


def figures_with(live: Live, labels: dict[str, str], number: float) -> Figures:
    """The figures once they have so many calls: a process passes on what it counted once a second, all at a time."""
    wait_until(lambda: calls_of(figures(live), labels) == number, what="calls are counted")
    return figures(live)


def test_calls_are_counted_with_their_tokens_cost_and_failures(live: Live) -> None:
    customer = live.customer(plan="whole")
    # With this call's all earlier figures have been passed on.
    marks = calls_of(figures(live), MARK)
    live.post(CHAT, live.customer(), json=BODY | {"model": MARK["model"]})
    before = figures_with(live, MARK, marks + 1)
    live.behave("groq", fail_status=500)
    live.post(CHAT, customer, json=BODY)
    live.behave("groq", fail_status=None)
    live.post(CHAT, None, json=BODY)

    served = {"endpoint": CHAT, "provider": "together", "model": "gpt-oss-120b", "end": "complete"}
    after = figures_with(live, served, calls_of(before, served) + 1)

    def rise(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0) - before.get(key, 0)

    record = UsageRecord.objects.get(account=customer.account)
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
