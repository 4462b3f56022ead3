"""Recorded provider answers, told in a client's dialect as the pipeline does it."""

from types import SimpleNamespace
from typing import Any

from routing.dialects.base import AnswerDialect
from routing.pipeline import Outcome
from routing.providers.base import ChatAnswer, Target, Usage
from routing.providers.registry import adapter_for
from routing.providers.session import ProviderSession
from tests.wire.replay import EVENT_STREAM, Answer


def call_of(*, answer: ChatAnswer | None = None, usage: Usage | None = None) -> Any:
    """A call that was served and priced, as far as dialects look at it."""
    served: Any = SimpleNamespace(route=SimpleNamespace(model="public-model", provider="provider"))
    outcome = Outcome(served=served, answer=answer, usage=usage)
    return SimpleNamespace(outcome=outcome, request=SimpleNamespace(model="public-model"))


async def whole(
    session: ProviderSession, target: Target, protocol: str, request: dict[str, Any], dialect: AnswerDialect
) -> bytes:
    """The body that a client gets for a recorded whole answer."""
    answer = await adapter_for(protocol).chat(session, target, request)
    return dialect.whole(call_of(answer=answer, usage=answer.usage))


async def streamed(
    session: ProviderSession, target: Target, protocol: str, request: dict[str, Any], dialect: AnswerDialect
) -> bytes:
    """All bytes that a client gets for a recorded stream; its end is said twice, as when a settle changed the charge."""
    said = b""
    async with adapter_for(protocol).open_chat_stream(session, target, request) as stream:
        async for chunk in stream:
            said += b"" if chunk.usage_only else dialect.event(chunk)
    call = call_of(usage=stream.usage)
    assert dialect.end(call) == dialect.end(call)
    return said + dialect.end(call)


def stream_answer(said: bytes) -> Answer:
    """The bytes as an HTTP answer, cut where it hurts."""
    return Answer(
        200, {"content-type": EVENT_STREAM}, pieces=[said[i : i + 700] for i in range(0, len(said), 700)], pause_seconds=0
    )


def whole_answer(body: bytes) -> Answer:
    return Answer(200, {"content-type": "application/json"}, body)
