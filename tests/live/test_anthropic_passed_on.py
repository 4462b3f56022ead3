"""What reaches a real provider of Anthropic's protocol from an Anthropic client, and what comes back: nothing is lost."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anthropic import Anthropic

from billing.ledger.models import UsageRecord
from iafactory.common import clock
from routing.models import AiModel, ModelPrice, ModelProfile, Provider, ProviderCredential
from tests.live.conftest import Customer, Live, wait_until
from tests.wire.replay import ReplayServer, replay_server

MODEL = "claude-recorded"
CACHED: Any = {"type": "ephemeral", "ttl": "1h"}
ASK: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "q", "cache_control": CACHED}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "no", "is_error": True}]},
]
BASH: Any = {"type": "bash_20250124", "name": "bash", "cache_control": {"type": "ephemeral"}}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
SECRET = "sk-ant-recorded"


@pytest.fixture
def upstream(live: Live) -> Iterator[ReplayServer]:
    """A provider with a credential of its own whose answers are recordings; `live` calls it `recorded`."""
    with replay_server() as server:
        provider, _ = Provider.objects.update_or_create(
            slug="recorded", defaults={"protocol": "anthropic", "base_url": "http://127.0.0.1:1"}
        )
        ProviderCredential.objects.get_or_create(provider=provider, label="main", defaults={"secret": SECRET})
        model, _ = AiModel.objects.get_or_create(name=MODEL)
        profile, _ = ModelProfile.objects.get_or_create(
            slug=f"recorded/{MODEL}", defaults={"provider": provider, "model": model, "upstream_model": "claude-opus-4-6"}
        )
        ModelPrice.objects.get_or_create(
            profile=profile,
            defaults={"effective_from": clock.now() - timedelta(days=1), "input_per_mtok": 5, "output_per_mtok": 25},
        )
        yield server
        Provider.objects.filter(slug="recorded").update(enabled=False)


def answers_with(live: Live, upstream: ReplayServer, recording: str) -> tuple[Customer, Anthropic]:
    """A customer and client of a product whose provider answers with `recording`."""
    customer = live.customer()
    Provider.objects.filter(slug="recorded").update(base_url=upstream.base_url(recording), enabled=True)
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}

    def reached() -> bool:
        live.post("/v1/messages/count_tokens", customer, json=ask)
        return any(recording in received.path for received in upstream.received)

    wait_until(reached, what="recording in force")
    upstream.received.clear()
    return customer, Anthropic(base_url=live.url, api_key=customer.secret, max_retries=0)


def test_a_request_arrives_as_it_was_said(live: Live, upstream: ReplayServer) -> None:
    customer, client = answers_with(live, upstream, "anthropic_chat_cached")

    answer = client.messages.create(
        model=MODEL,
        max_tokens=2000,
        system=[{"type": "text", "text": "s", "cache_control": CACHED}],
        messages=ASK,
        tools=[BASH],
        thinking=THINKING,
        metadata={"user_id": "u"},
        stop_sequences=["x"],
        service_tier="auto",
        extra_headers={"anthropic-beta": "interleaved-thinking-2025-05-14,context-1m-2025-08-07"},
    )

    [received] = upstream.received
    headers = {name.lower(): value for name, value in received.headers.items()}
    assert received.body == {
        "model": "claude-opus-4-6",
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "s", "cache_control": CACHED}],
        "messages": ASK,
        "tools": [BASH],
        "thinking": THINKING,
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x"],
    }
    assert (headers["x-api-key"], headers["anthropic-beta"]) == (SECRET, "interleaved-thinking-2025-05-14")
    assert customer.secret not in str(headers)
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (21, 4096, 312)
    row = UsageRecord.objects.get(account=customer.account)
    assert (row.input_tokens, row.cache_read_tokens, row.cache_write_tokens, row.output_tokens) == (4429, 4096, 312, 26)


def test_signed_thoughts_come_back_whole(live: Live, upstream: ReplayServer) -> None:
    customer, client = answers_with(live, upstream, "anthropic_stream_thinking")

    with client.messages.stream(model=MODEL, max_tokens=2000, messages=ASK, thinking=THINKING) as stream:
        kinds = [event.type for event in stream if event.type != "text"]
        message = stream.get_final_message()

    assert upstream.received[0].body["stream"] is True
    assert [block.to_dict() for block in message.content] == [
        {"type": "thinking", "thinking": "Salut en deux langues.", "signature": "RXhhbXBsZVNpZ25hdHVyZQ=="},
        {"type": "text", "text": "Bonjour !"},
    ]
    assert (message.model, message.id) == (MODEL, "msg_01Example000000000000006")
    assert kinds[-2:] == ["message_delta", "message_stop"]
    row = UsageRecord.objects.get(account=customer.account)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (row.input_tokens, row.output_tokens) == (21, 31)
    assert row.reasoning_tokens == 12


def test_a_provider_s_complaint_is_the_client_s(live: Live, upstream: ReplayServer) -> None:
    customer, client = answers_with(live, upstream, "anthropic_stream_error")
    read: list[str] = []

    stream = client.messages.create(model=MODEL, max_tokens=50, messages=ASK, stream=True)
    with pytest.raises(Exception, match="provider_error"):
        read.extend(event.type for event in stream)

    assert "content_block_delta" in read
    assert "message_stop" not in read
    assert UsageRecord.objects.get(account=customer.account).end == "upstream_dropped"


def test_the_provider_counts_where_it_can(live: Live, upstream: ReplayServer) -> None:
    customer, client = answers_with(live, upstream, "anthropic_count_tokens")

    counted = client.messages.with_raw_response.count_tokens(model=MODEL, messages=ASK, tools=[BASH], thinking=THINKING)

    [received] = upstream.received
    assert received.path.endswith("/v1/messages/count_tokens")
    assert received.body == {"model": "claude-opus-4-6", "messages": ASK, "tools": [BASH], "thinking": THINKING}
    assert (counted.parse().input_tokens, counted.headers["x-iaf-estimated"]) == (21, "false")
    assert customer.wallet() == (100, 0)
    assert not UsageRecord.objects.filter(account=customer.account).exists()


def test_a_provider_that_does_not_count_leaves_us_our_estimate(live: Live, upstream: ReplayServer) -> None:
    _, client = answers_with(live, upstream, "anthropic_500")

    counted = client.messages.with_raw_response.count_tokens(model=MODEL, messages=ASK, tools=[BASH])

    assert len(upstream.received) == 1
    assert counted.headers["x-iaf-estimated"] == "true"
    assert counted.parse().input_tokens > 0
