"""Anthropic's Messages protocol, spoken for clients of OpenAI's dialect.

Events carry no chunk that could be passed on: every one is told anew. A text delta, of which a stream mostly consists, is
decoded into a struct and written between two constant halves of a chunk. A client of the same dialect gets the events as they
came (see `native`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from routing.providers import anthropic_request
from routing.providers.anthropic_request import PROTOCOL, api_version, betas_of, build_request, count_tokens_body
from routing.providers.base import ChatAnswer, ChatChunk, Target, Usage
from routing.providers.dialect import choice_of, tool_call, whole_answer
from routing.providers.exchange import EventStream, broken_off, document_failure, internal_failure, post_whole, utf8_length
from routing.providers.failures import error_object_failure, find_error, parse_json
from routing.providers.native import native_of
from routing.providers.registry import register
from routing.providers.session import ProviderSession
from routing.providers.usage import token_count, usage_to_openai

_encode = msgspec.json.Encoder().encode

_FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_NOTHING = msgspec.Raw(b"null")
_CONTENT_TAIL = b'},"logprobs":null,"finish_reason":null}]}'


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: msgspec.Raw = _NOTHING
    message: msgspec.Raw = _NOTHING
    usage: dict[str, Any] | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class AnthropicAdapter:
    """See `ChatAdapter`. Endpoint: `/v1/messages` below the base URL, which may name the `/v1` itself."""

    protocol = PROTOCOL

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """More than one choice, log probabilities, biases, JSON without a schema, and others; see `ChatAdapter`."""
        return anthropic_request.inexpressible(request)

    def dropped(self, target: Target, request: Mapping[str, Any]) -> list[str]:
        """See `ChatAdapter.dropped`."""
        return anthropic_request.dropped(target, request)

    async def count_tokens(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> int:
        """Input tokens of a request as the provider counts them, which is free. Raises `ProviderError`."""
        headers = _headers(target) | betas_of(request)
        raw, headers_back = await post_whole(
            session, target, _endpoint(target) + "/count_tokens", headers, count_tokens_body(target, request)
        )
        body = parse_json(raw)
        count = token_count(body.get("input_tokens")) if isinstance(body, dict) else None
        if count is None:
            raise document_failure(200, headers_back, raw, target)
        return count

    async def chat(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> ChatAnswer:
        """One whole call; see `ChatAdapter.chat`."""
        body = build_request(target, request, stream=False)
        raw, headers = await post_whole(session, target, _endpoint(target), _headers(target) | betas_of(request), body)
        return parse_answer(raw, headers, target, native=native_of(request, PROTOCOL) is not None)

    def open_chat_stream(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> AnthropicChatStream:
        """One streamed call, sent when entered; see `ChatStream`."""
        return AnthropicChatStream(session, target, request)


class AnthropicChatStream(EventStream):
    """See `ChatStream`. Figures are known at the end alone: those at the start count no output."""

    def __init__(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> None:
        super().__init__(session, target, request)
        self._native = native_of(request, PROTOCOL) is not None
        self._raw_usage: dict[str, Any] = {}
        # The halves of a chunk around its delta; empty until the message started.
        self._head = b""
        self._content_head = b""
        # Content blocks that are tool calls: position among the calls, and whether their arguments are still missing.
        self._calls: dict[int, int] = {}
        self._without_arguments: dict[int, bytes] = {}

    def _endpoint(self) -> str:
        return _endpoint(self._target)

    def _headers(self) -> Mapping[str, str]:
        return _headers(self._target) | betas_of(self._request)

    def _body(self) -> Mapping[str, Any]:
        return build_request(self._target, self._request, stream=True)

    def _take(self, data: bytes) -> None:
        """One event's data."""
        try:
            event = _decode_event(data)
        except msgspec.ValidationError as error:
            raise internal_failure("bad_stream", str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            if data.strip() == b"[DONE]":
                # Not of this protocol, but some who speak it add it.
                return
            raise internal_failure("bad_stream", "an event is not JSON") from None
        kind = event.type
        if self._native and kind not in ("message_stop", "error"):
            self._pass_on(event, data)
        elif kind == "content_block_delta":
            delta = event.delta
            if delta is None:
                return
            text = delta.text
            if text and self._content_head and delta.type == "text_delta":
                size = len(text) if text.isascii() else utf8_length(text)
                self._ready.append(ChatChunk(b"".join((self._content_head, _encode(text), _CONTENT_TAIL)), size))
            else:
                self._take_delta(event.index, delta)
        elif kind == "message_delta":
            self._note_usage(event.usage)
            if event.delta is not None and event.delta.stop_reason is not None:
                self._take_stop(event.delta.stop_reason, event.delta.stop_details)
        elif kind == "message_stop":
            self._complete()
        elif kind == "message_start":
            self._start(parse_json(event.message))
        elif kind == "content_block_start":
            self._start_block(event.index, parse_json(event.content_block))
        elif kind == "content_block_stop":
            self._stop_block(event.index)
        elif kind == "error":
            reported = find_error(parse_json(data)) or {}
            self._fail(error_object_failure(None, reported, secret=self._target.secret, quirks=self._target.quirks))
        # `ping` and whatever the protocol adds later say nothing here.

    def _pass_on(self, event: _Event, data: bytes) -> None:
        """An event as it came; only the model's name is ours. Sizes and figures are taken as from any other stream."""
        size, usage, finish_reason = 0, None, None
        kind, delta = event.type, event.delta
        if kind == "content_block_delta" and delta is not None:
            text = delta.text or delta.thinking or delta.partial_json or ""
            size = len(text) if text.isascii() else utf8_length(text)
        elif kind == "content_block_start":
            block = parse_json(event.content_block)
            said = [block.get(name) for name in ("text", "thinking", "name")] if isinstance(block, dict) else []
            size = sum(utf8_length(text) for text in said if isinstance(text, str))
        elif kind == "message_start":
            message = parse_json(event.message)
            if isinstance(message, dict):
                self._note_start(message)
                data = _encode({"type": kind, "message": {**message, "model": self._target.public_model}})
        elif kind == "message_delta":
            self._note_usage(event.usage)
            if delta is not None and delta.stop_reason is not None:
                usage = self.usage
                finish_reason = self.finish_reason = _FINISH_REASONS.get(delta.stop_reason, "stop")
        # A line break may only stand between tokens, and would end the event's line.
        native = data.replace(b"\n", b" ") if b"\n" in data else data
        self._ready.append(ChatChunk(b"", size, usage, False, finish_reason, native))

    def _start(self, message: Any) -> None:
        """Begin the chunks of one message."""
        self._note_start(message if isinstance(message, dict) else {})
        common = {
            "id": self.upstream_id or f"chatcmpl-{id(self):x}{time.time_ns():x}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._target.public_model,
        }
        self._head = _encode(common)[:-1] + b',"choices":'
        self._content_head = self._head + b'[{"index":0,"delta":{"content":'
        self._say({"role": "assistant", "content": ""}, 0)

    def _note_start(self, message: Mapping[str, Any]) -> None:
        """The message's id, and what the provider counted of the input."""
        upstream_id = message.get("id")
        if isinstance(upstream_id, str) and upstream_id:
            self.upstream_id = upstream_id
        usage = message.get("usage")
        if isinstance(usage, dict):
            self._raw_usage = usage
            tier = usage.get("service_tier")
            self.service_tier = tier if isinstance(tier, str) else None

    def _take_delta(self, index: int, delta: _Delta) -> None:
        """The less frequent deltas; signatures, citations and unknown ones are not for clients of this dialect."""
        if delta.text and delta.type == "text_delta":
            self._say({"content": delta.text}, utf8_length(delta.text))
        elif delta.thinking and delta.type == "thinking_delta":
            self._say({"reasoning_content": delta.thinking}, utf8_length(delta.thinking))
        elif delta.partial_json and delta.type == "input_json_delta" and index in self._calls:
            self._without_arguments.pop(index, None)
            self._say_arguments(index, delta.partial_json)

    def _start_block(self, index: int, block: Any) -> None:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_use":
            position = self._calls[index] = len(self._calls)
            name = str(block.get("name") or "")
            call = tool_call(str(block.get("id") or ""), name, "", index=position)
            self._without_arguments[index] = _encode(block.get("input") or {})
            self._say({"tool_calls": [call]}, utf8_length(name))
        elif kind == "text" and isinstance(block.get("text"), str):
            self._take_delta(index, _Delta("text_delta", text=block["text"]))
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            self._take_delta(index, _Delta("thinking_delta", thinking=block["thinking"]))

    def _stop_block(self, index: int) -> None:
        """A call whose arguments never came in pieces has those it started with, mostly none: `{}`."""
        arguments = self._without_arguments.pop(index, None)
        if arguments is not None:
            self._say_arguments(index, arguments.decode())

    def _say_arguments(self, index: int, arguments: str) -> None:
        call = {"index": self._calls[index], "function": {"arguments": arguments}}
        self._say({"tool_calls": [call]}, utf8_length(arguments))

    def _take_stop(self, stop_reason: str, details: Mapping[str, Any] | None) -> None:
        refusal = _refusal_text(stop_reason, details)
        if refusal:
            self._say({"refusal": refusal}, utf8_length(refusal))
        if self.finish_reason is None:
            self.finish_reason = _FINISH_REASONS.get(stop_reason, "stop")
            self._say({}, 0, self.finish_reason)

    def _say(self, delta: Mapping[str, Any], size: int, finish_reason: str | None = None) -> None:
        if not self._head:
            self._start(None)
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = self.usage if finish_reason is not None else None
        self._ready.append(ChatChunk(self._head + _encode([choice]) + b"}", size, usage, False, finish_reason))

    def _note_usage(self, raw: Mapping[str, Any] | None) -> None:
        """Totals so far overwrite; those left out stay as they were at the start."""
        if raw is not None:
            self._raw_usage = {**self._raw_usage, **{name: value for name, value in raw.items() if value is not None}}
            self.usage = usage_from_anthropic(self._raw_usage)

    @property
    def usage_so_far(self) -> Usage | None:
        """The input is told at the start: a stream cut short is not billed for an estimate of it."""
        return self.usage or usage_from_anthropic(self._raw_usage)

    def _complete(self) -> None:
        if self.finish_reason is None and not self._native:
            self._take_stop("end_turn", None)
        self._finish()
        if self.usage is not None and not self._native:
            body = self._head + b'[],"usage":' + _encode(usage_to_openai(self.usage)) + b"}"
            self._ready.append(ChatChunk(body, 0, self.usage, True, None))

    def _end_of_connection(self) -> None:
        """A clean end without message_stop: complete only if the reason to stop was told, with which the figures come."""
        if self.finish_reason is not None:
            self._complete()
        else:
            self._fail(broken_off("the stream ended without a stop reason"))


def parse_answer(raw: bytes, headers: Mapping[str, str], target: Target, *, native: bool = False) -> ChatAnswer:
    """A 200 body as a `ChatAnswer`, with its original if `native`. Raises `ProviderError` for one that is no message."""
    message = parse_json(raw)
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        raise document_failure(200, headers, raw, target)
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in message["content"]:
        if not isinstance(block, dict):
            continue
        match block.get("type"):
            case "text":
                texts.append(str(block.get("text") or ""))
            case "thinking":
                thoughts.append(str(block.get("thinking") or ""))
            case "tool_use":
                arguments = _encode(block.get("input") or {}).decode()
                calls.append(tool_call(str(block.get("id") or ""), str(block.get("name") or ""), arguments))
    stop_reason = message.get("stop_reason")
    stop_reason = stop_reason if isinstance(stop_reason, str) else "end_turn"
    said: dict[str, Any] = {
        "content": "".join(texts) or None,
        "refusal": _refusal_text(stop_reason, message.get("stop_details")),
    }
    if any(thoughts):
        said["reasoning_content"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    upstream_id = message.get("id") if isinstance(message.get("id"), str) else None
    raw_usage = message.get("usage")
    usage = usage_from_anthropic(raw_usage) if isinstance(raw_usage, dict) else None
    choice = choice_of(0, said, _FINISH_REASONS.get(stop_reason, "stop"))
    answer = whole_answer(target.public_model, upstream_id or None, [choice], usage)
    if native:
        answer.native = {**message, "model": target.public_model}
    return answer


def usage_from_anthropic(raw: Mapping[str, Any]) -> Usage | None:
    """The normal form of a usage object, whose `input_tokens` are the fresh ones alone; None if it holds no counts."""
    fresh = token_count(raw.get("input_tokens"))
    output = token_count(raw.get("output_tokens"))
    if fresh is None and output is None:
        return None
    cache_read = token_count(raw.get("cache_read_input_tokens")) or 0
    written = raw.get("cache_creation")
    written = written if isinstance(written, Mapping) else {}
    short = token_count(written.get("ephemeral_5m_input_tokens")) or 0
    long = token_count(written.get("ephemeral_1h_input_tokens")) or 0
    total = token_count(raw.get("cache_creation_input_tokens"))
    cache_write = short + long if total is None else total
    details = raw.get("output_tokens_details")
    thinking = token_count(details.get("thinking_tokens")) if isinstance(details, Mapping) else None
    return Usage(
        input_total=(fresh or 0) + cache_write + cache_read,
        cache_read=cache_read,
        cache_write=cache_write,
        # A later total without its split may be lower than the split told first.
        cache_write_1h=min(long, cache_write),
        output_total=output or 0,
        reasoning=min(thinking or 0, output or 0),
    )


def _refusal_text(stop_reason: str, details: Any) -> str | None:
    """What the provider says about its refusal, None for answers that are none or without a word."""
    explanation = details.get("explanation") if stop_reason == "refusal" and isinstance(details, Mapping) else None
    return explanation if isinstance(explanation, str) and explanation else None


def _endpoint(target: Target) -> str:
    return target.base_url.rstrip("/").removesuffix("/v1") + "/v1/messages"


def _headers(target: Target) -> dict[str, str]:
    return {"x-api-key": target.secret, "anthropic-version": api_version(target)}


register(AnthropicAdapter())
