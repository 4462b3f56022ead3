"""Cohere's v2 chat. What is billed is `usage.billed_units`: `usage.tokens` counts Cohere's own prompt too.

What a model plans before it calls tools (`tool_plan`) and what it thinks are reasoning in OpenAI's dialect; citations have no
place there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from routing.providers import cohere_request
from routing.providers.base import ChatAnswer, FailureClass, ProviderError, Target, Usage
from routing.providers.cohere_request import build_request, inexpressible
from routing.providers.dialect import ChunkWriter, choice_of, new_call_id, tool_call, whole_answer
from routing.providers.exchange import EventStream, broken_off, document_failure, internal_failure, post_whole
from routing.providers.failures import error_object_failure, find_error, parse_json, public_message
from routing.providers.registry import register
from routing.providers.session import ProviderSession
from routing.providers.usage import token_count

_FINISH_REASONS: Mapping[str, str] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}
_OVERLOADED_REASONS = frozenset({"TIMEOUT"})


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Block(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: _Block | list[_Block] | str | None = None
    tool_plan: str | None = None
    tool_calls: _ToolCall | list[_ToolCall] | None = None


class _Delta(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    id: str | None = None
    delta: _Delta | None = None


class _Answer(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str
    id: str | None = None
    usage: dict[str, Any] | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class CohereAdapter:
    """See `ChatAdapter`. Endpoint: `{base_url}/chat` with a bearer key."""

    protocol = "cohere"

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """More choices, log probabilities, a format beside tools, sounds and files; see `ChatAdapter.inexpressible`."""
        return inexpressible(request)

    def dropped(self, target: Target, request: Mapping[str, Any]) -> list[str]:
        """See `ChatAdapter.dropped`."""
        return cohere_request.dropped(target, request)

    async def chat(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> ChatAnswer:
        """One whole call; see `ChatAdapter.chat`."""
        body = build_request(target, request, stream=False)
        raw, headers = await post_whole(session, target, _endpoint(target), _headers(target), body)
        return parse_answer(raw, headers, target)

    def open_chat_stream(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> CohereChatStream:
        """One streamed call, sent when entered; see `ChatStream`."""
        return CohereChatStream(session, target, request)


class CohereChatStream(EventStream):
    """See `ChatStream`. Typed events; `message-end` carries the reason and the figures."""

    def __init__(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> None:
        super().__init__(session, target, request)
        self._writer: ChunkWriter | None = None
        self._calls = 0

    def _endpoint(self) -> str:
        return _endpoint(self._target)

    def _headers(self) -> Mapping[str, str]:
        return _headers(self._target)

    def _body(self) -> Mapping[str, Any]:
        return build_request(self._target, self._request, stream=True)

    def _take(self, data: bytes) -> None:
        try:
            event = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._not_an_event(data) from None
        writer = self._writer
        if writer is None:
            self.upstream_id = event.id or None
            writer = self._writer = ChunkWriter(self._target.public_model, self.upstream_id)
        delta = event.delta
        if delta is None:
            return
        if event.type == "message-end":
            self._end(writer, delta)
            return
        if delta.message is None:
            return
        said = _said(delta.message)
        calls = _tool_calls(delta.message)
        if event.type == "tool-call-start" and calls:
            said["tool_calls"] = [{"index": self._calls, **_whole_call(calls[0])}]
            self._calls += 1
        elif event.type == "tool-call-delta" and calls and self._calls:
            function = calls[0].function
            arguments = function.arguments if function is not None else None
            if arguments:
                said["tool_calls"] = [{"index": self._calls - 1, "function": {"arguments": arguments}}]
        if said:
            self._ready.append(writer.chunk(0, said))

    def _end(self, writer: ChunkWriter, delta: _Delta) -> None:
        usage = usage_from_cohere(delta.usage) if delta.usage is not None else None
        self.usage = usage
        self.finish_reason = _finish_reason(delta.finish_reason or "COMPLETE", delta.error or "", self._target)
        self._ready.append(writer.chunk(0, {}, self.finish_reason, usage))
        if usage is not None:
            self._ready.append(writer.usage_chunk(usage))
        self._finish()

    def _end_of_connection(self) -> None:
        self._fail(broken_off("the stream ended without a message-end"))

    def _not_an_event(self, data: bytes) -> ProviderError:
        error = find_error(parse_json(data))
        if error is None:
            return internal_failure("bad_stream", "an event has no type")
        return error_object_failure(None, error, secret=self._target.secret, quirks=self._target.quirks)


def parse_answer(raw: bytes, headers: Mapping[str, str], target: Target) -> ChatAnswer:
    """A 200 body as a `ChatAnswer`. Raises `ProviderError` for an error body or a failed generation."""
    try:
        answer = _decode_answer(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise document_failure(200, headers, raw, target) from None
    message = _said(answer.message)
    calls = [_whole_call(call) for call in _tool_calls(answer.message)]
    if calls:
        message["tool_calls"] = calls
    usage = usage_from_cohere(answer.usage) if answer.usage is not None else None
    reason = _finish_reason(answer.finish_reason, "", target)
    return whole_answer(target.public_model, answer.id or None, [choice_of(0, message, reason)], usage)


def _said(message: _Message) -> dict[str, Any]:
    """Text and reasoning of a message or delta, empty ones left out."""
    found = message.content or []
    found = _Block(text=found) if isinstance(found, str) else found
    blocks = [found] if isinstance(found, _Block) else found
    content = "".join(block.text or "" for block in blocks)
    reasoning = (message.tool_plan or "") + "".join(block.thinking or "" for block in blocks)
    said: dict[str, Any] = {}
    if content:
        said["content"] = content
    if reasoning:
        said["reasoning_content"] = reasoning
    return said


def _tool_calls(message: _Message) -> list[_ToolCall]:
    return [message.tool_calls] if isinstance(message.tool_calls, _ToolCall) else message.tool_calls or []


def _whole_call(call: _ToolCall) -> dict[str, Any]:
    function = call.function or _Function()
    return tool_call(call.id or new_call_id(), function.name or "", function.arguments or "")


def _finish_reason(theirs: str, said: str, target: Target) -> str:
    """OpenAI's word for why an answer ended. Raises `ProviderError` for one that failed."""
    reason = _FINISH_REASONS.get(theirs)
    if reason is not None:
        return reason
    failure = FailureClass.OVERLOADED if theirs in _OVERLOADED_REASONS else FailureClass.INTERNAL
    detail = error_object_failure(None, {"message": said}, secret=target.secret).detail or f"it ended with {theirs[:100]}"
    raise ProviderError(failure, public_message(failure), code=theirs, may_have_billed=True, detail=detail)


def usage_from_cohere(raw: Mapping[str, Any]) -> Usage | None:
    """The normal form of `usage`: billed units, or all tokens where those are missing; None if it holds no counts."""
    for name in ("billed_units", "tokens"):
        units = raw.get(name)
        if isinstance(units, dict) and (units.get("input_tokens") is not None or units.get("output_tokens") is not None):
            given = token_count(units.get("input_tokens")) or 0
            # Cached tokens are counted in Cohere's own prompt too: never more than is billed.
            cached = min(token_count(raw.get("cached_tokens")) or 0, given)
            return Usage(input_total=given, cache_read=cached, output_total=token_count(units.get("output_tokens")) or 0)
    return None


def _endpoint(target: Target) -> str:
    return target.base_url.rstrip("/") + "/chat"


def _headers(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.secret}"}


register(CohereAdapter())
