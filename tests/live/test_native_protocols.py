"""Gemini and Command models asked for in OpenAI's dialect, whole and streamed, through the whole product."""

from typing import Any

import pytest
from openai import OpenAI

from billing.ledger.models import UsageRecord
from tests.live.conftest import Live

MODELS = [("gemini-2.5-flash", "google"), ("command-a-03-2025", "cohere")]
MESSAGES: list[Any] = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hello"}]
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_whole_and_streamed_answers_are_served_and_charged(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)
    live.behave(provider, prompt_tokens=1000, output_tokens=100)

    whole = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0.2)
    stream = client.chat.completions.create(model=model, messages=MESSAGES, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)

    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert said.startswith(f"IA Factory's simulator answers for {provider}. You asked: hello")
    assert (whole.model, whole.choices[0].finish_reason) == (model, "stop")
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert whole.usage.model_dump() == chunks[-1].usage.model_dump()
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (1000, 100)
    rows = UsageRecord.objects.filter(account=customer.account).order_by("started_at")
    assert [(row.provider, row.end, row.estimated, row.streamed) for row in rows] == [
        (provider, "complete", False, False),
        (provider, "complete", False, True),
    ]
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(1000, 100)] * 2
    assert min(row.credits_charged for row in rows) > 0
    assert customer.wallet() == (100 - sum(row.credits_charged for row in rows), 0)
    assert live.received(provider) == 2


def test_the_free_gemini_flash_costs_nothing(live: Live) -> None:
    customer = live.customer(plan="free", credits=0)
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)

    whole = client.chat.completions.create(model="gemini-2.5-flash", messages=MESSAGES)
    chunks = list(client.chat.completions.create(model="gemini-2.5-flash", messages=MESSAGES, stream=True))

    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    rows = UsageRecord.objects.filter(account=customer.account)
    assert [(row.profile, row.end, row.cost_usd, row.credits_charged) for row in rows] == [
        ("google/gemini-2.5-flash:free", "complete", 0, 0),
    ] * 2


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_tools_travel_both_ways(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)

    first = client.chat.completions.create(model=model, messages=MESSAGES, tools=[CLOCK], tool_choice="required")
    said = first.choices[0].message
    assert said.tool_calls is not None
    result: Any = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "noon"}
    second = client.chat.completions.create(model=model, messages=[*MESSAGES, said, result], tools=[CLOCK])

    assert first.choices[0].finish_reason == "tool_calls"
    assert said.tool_calls[0].function.name == "get_time"  # type: ignore[union-attr]
    assert second.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_a_stream_that_breaks_is_charged_for_what_was_delivered(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    live.behave(provider, drop_after_chunks=2)

    response = live.post("/v1/chat/completions", customer, json={"model": model, "messages": MESSAGES, "stream": True})

    assert response.status_code == 200
    assert '"error"' in response.text
    assert "[DONE]" not in response.text
    row = UsageRecord.objects.get(account=customer.account)
    assert row.end == "upstream_dropped"
    assert row.credits_charged > 0


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_what_the_protocol_cannot_say_is_refused_and_costs_nothing(model: str, provider: str, live: Live) -> None:
    customer = live.customer()

    response = live.post("/v1/chat/completions", customer, json={"model": model, "messages": MESSAGES, "logprobs": True})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "logprobs"
    assert live.received(provider) == 0
    assert customer.wallet() == (100, 0)
