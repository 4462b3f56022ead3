"""Counting a request's tokens at Anthropic, which answers nothing and costs nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from routing.api.messages import estimated_tokens
from routing.dialects.anthropic_request import count_request, messages_request
from routing.providers.anthropic import AnthropicAdapter
from routing.providers.base import CountingAdapter, ProviderError, Target
from routing.providers.registry import adapter_for
from routing.providers.session import ProviderSession
from tests.wire.replay import Answer, ReplayServer

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Bonjour"}]}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}

TargetAt = Callable[..., Target]


async def test_the_provider_counts(session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.base_url("anthropic_count_tokens"), "anthropic")
    request = messages_request({**ASK, "max_tokens": 5, "system": "S", "temperature": 1}, betas="computer-use-x").body

    count = await AnthropicAdapter().count_tokens(session, target, request)

    assert count == 21
    received = replay.received[0]
    assert received.path.endswith("/v1/messages/count_tokens")
    assert received.body == {"model": "upstream-model", "system": "S", "messages": ASK["messages"]}
    assert {name.lower(): value for name, value in received.headers.items()}["anthropic-beta"] == "computer-use-x"


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"input_tokens":"many"}', b"no"])
async def test_no_count_is_a_failure(body: bytes, session: ProviderSession, target_at: TargetAt, replay: ReplayServer) -> None:
    target = target_at(replay.serve(Answer(200, {"content-type": "application/json"}, body)), "anthropic")

    with pytest.raises(ProviderError):
        await AnthropicAdapter().count_tokens(session, target, count_request(dict(ASK)).body)


def test_only_who_counts_says_so() -> None:
    counting = [name for name in ("anthropic", "openai", "gemini", "cohere") if isinstance(adapter_for(name), CountingAdapter)]

    assert counting == ["anthropic"]


def test_estimates_know_pictures_and_never_pass_what_holds_are_made_of() -> None:
    plain = count_request(dict(ASK))
    pictured = count_request({"model": "m", "messages": [{"role": "user", "content": [IMAGE, IMAGE]}]})
    document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 250_000}}
    paged = count_request({"model": "m", "messages": [{"role": "user", "content": [document]}]})

    assert estimated_tokens(plain) == plain.input_tokens_estimated
    assert estimated_tokens(pictured) == pictured.input_tokens_estimated + 3200
    assert estimated_tokens(paged) == paged.input_tokens_estimated + 9000
    assert estimated_tokens(paged) < paged.input_tokens_at_most
