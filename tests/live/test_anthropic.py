"""A Claude model asked for in OpenAI's dialect: through the whole product to a provider that speaks Anthropic's."""

from decimal import Decimal
from typing import Any

from openai import OpenAI

from billing.ledger.models import UsageRecord
from tests.live.conftest import Live

MESSAGES: list[Any] = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def test_whole_and_streamed_answers_are_served_and_charged(live: Live) -> None:
    customer = live.customer()
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)
    live.behave("anthropic", prompt_tokens=1000, output_tokens=100)

    whole = client.chat.completions.create(model="claude-haiku-5-5", messages=MESSAGES, temperature=0.2)
    stream = client.chat.completions.create(
        model="claude-haiku-5-5", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert said.startswith("IA Factory's simulator answers for anthropic. You asked: hello")
    assert (whole.model, whole.choices[0].finish_reason) == ("claude-haiku-5-5", "stop")
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert whole.usage.model_dump() == chunks[-1].usage.model_dump()
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (1000, 100)
    rows = UsageRecord.objects.filter(account=customer.account).order_by("started_at")
    price = rows[0].price
    cost = (1000 * Decimal(price["input_per_mtok"]) + 100 * Decimal(price["output_per_mtok"])) / 1_000_000
    assert [(row.provider, row.end, row.estimated, row.streamed) for row in rows] == [
        ("anthropic", "complete", False, False),
        ("anthropic", "complete", False, True),
    ]
    assert [row.cost_usd for row in rows] == [cost, cost]
    assert customer.wallet() == (100 - sum(row.credits_charged for row in rows), 0)
    assert live.received("anthropic") == 2


def test_tools_travel_both_ways(live: Live) -> None:
    customer = live.customer()
    client = OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret)

    first = client.chat.completions.create(model="claude-haiku-5-5", messages=MESSAGES, tools=[WEATHER], tool_choice="required")
    said = first.choices[0].message
    assert said.tool_calls is not None
    result: Any = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "12 °C"}
    second = client.chat.completions.create(model="claude-haiku-5-5", messages=[*MESSAGES, said, result], tools=[WEATHER])

    assert first.choices[0].finish_reason == "tool_calls"
    assert said.tool_calls[0].function.name == "weather"  # type: ignore[union-attr]
    assert second.choices[0].finish_reason == "stop"


def test_a_stream_that_breaks_is_charged_for_what_was_delivered(live: Live) -> None:
    customer = live.customer()
    live.behave("anthropic", drop_after_chunks=2, prompt_tokens=1234)

    response = live.post(
        "/v1/chat/completions", customer, json={"model": "claude-haiku-5-5", "messages": MESSAGES, "stream": True}
    )

    assert response.status_code == 200
    assert '"error"' in response.text
    assert "[DONE]" not in response.text
    row = UsageRecord.objects.get(account=customer.account)
    assert (row.end, row.estimated) == ("upstream_dropped", True)
    assert row.credits_charged > 0
    # The input is told before the text; of the output only what was delivered is known.
    assert row.input_tokens == 1234
    assert 0 < row.output_tokens < 20


def test_what_the_protocol_cannot_say_is_refused_and_costs_nothing(live: Live) -> None:
    customer = live.customer()

    response = live.post("/v1/chat/completions", customer, json={"model": "claude-haiku-5-5", "messages": MESSAGES, "n": 2})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"
    assert live.received("anthropic") == 0
    assert customer.wallet() == (100, 0)
