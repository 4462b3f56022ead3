"""What a body of the product's own endpoints becomes."""

from typing import Any

import pytest

from routing.api.own import as_chat, as_whole_chat

ASK = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "hello"}, {"model": "auto", "messages": ASK}),
        ({"messages": ASK, "model": ""}, {"model": "auto", "messages": ASK}),
        ({"messages": ASK, "model": "m", "temperature": 1}, {"model": "m", "messages": ASK, "temperature": 1}),
        ({"messages": ASK, "n": 3}, {"model": "auto", "messages": ASK}),
        ({"messages": ASK, "stream": True}, {"model": "auto", "messages": ASK, "stream": True}),
    ],
)
def test_bodies_become_chats(body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert as_chat(body) == expected


def test_credentials_are_no_part_of_what_is_asked() -> None:
    assert as_chat({"api_key": "sk", "prompt": "hello"}) == {"model": "auto", "messages": ASK}


def test_endpoints_that_do_not_stream_are_not_asked_to() -> None:
    body = {"messages": ASK, "stream": True, "stream_options": {"include_usage": True}}

    assert as_whole_chat(body) == {"model": "auto", "messages": ASK}
