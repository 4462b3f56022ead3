"""Anthropic's official client against the product: with a model of every protocol, whole and streamed."""

from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic

from billing.ledger.models import UsageRecord
from tests.live.conftest import Customer, Live

# One model of each protocol the simulator speaks, and its provider.
MODELS = [
    ("claude-haiku-5-5", "anthropic"),
    ("gpt-5-mini", "openai"),
    ("llama-3.3-70b", "groq"),
    ("gemini-2.5-flash", "google"),
    ("command-a-03-2025", "cohere"),
]
ASK: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def client_of(live: Live, customer: Customer, **options: Any) -> Anthropic:
    return Anthropic(base_url=live.url, auth_token=customer.secret, max_retries=0, **options)


@pytest.mark.parametrize(("model", "provider"), MODELS)
def test_whole_and_streamed_answers_are_served_and_charged(model: str, provider: str, live: Live) -> None:
    customer = live.customer()
    client = client_of(live, customer)
    live.behave(provider, prompt_tokens=1000, output_tokens=100)

    whole = client.messages.create(model=model, max_tokens=500, system="Be short.", messages=ASK)
    with client.messages.stream(model=model, max_tokens=500, system="Be short.", messages=ASK) as stream:
        said = "".join(stream.text_stream)
        streamed = stream.get_final_message()

    assert whole.content[0].text == said  # type: ignore[union-attr]
    assert said.startswith(f"IA Factory's simulator answers for {provider}. You asked: hello")
    assert (whole.type, whole.role, whole.model, whole.stop_reason) == ("message", "assistant", model, "end_turn")
    assert (streamed.type, streamed.role, streamed.model, streamed.stop_reason) == ("message", "assistant", model, "end_turn")
    assert [block.type for block in streamed.content] == ["text"]
    for usage in (whole.usage, streamed.usage):
        assert (usage.input_tokens, usage.output_tokens) == (1000, 100)
    rows = UsageRecord.objects.filter(account=customer.account).order_by("started_at")
    assert [(row.provider, row.end, row.endpoint, row.estimated, row.streamed) for row in rows] == [
        (provider, "complete", "/v1/messages", False, False),
        (provider, "complete", "/v1/messages", False, True),
    ]
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(1000, 100)] * 2
    assert min(row.credits_charged for row in rows) > 0
    assert customer.wallet() == (100 - sum(row.credits_charged for row in rows), 0)
    assert live.received(provider) == 2
