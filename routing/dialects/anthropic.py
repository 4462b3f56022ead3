"""Anthropic's Messages dialect: whole messages, and the named events of a stream.

An answer from a provider of the same dialect comes with its original, which is passed on; any other one is told anew from
OpenAI's chunks. Figures and the reason to stop go out last, once the call is booked.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from iafactory.common.errors import ApiError, anthropic_body
from iafactory.common.rendering import encode_json

from ..providers.base import ChatAnswer, ChatChunk, Usage

if TYPE_CHECKING:
    from ..chat_call import ChatCall

_encode = msgspec.json.Encoder().encode

_STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
# How fields of OpenAI's dialect are called here.
_FIELD_NAMES: Mapping[str, str] = {
    "reasoning_effort": "thinking",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "max_completion_tokens": "max_tokens",
}
# Arguments that are no JSON, as Anthropic advises to hand them back.
_INVALID_JSON = "INVALID_JSON"
_DELTA_HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":'
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: dict[str, Any] | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None


class _Chunk(msgspec.Struct, gc=False):
    model: str = ""
    choices: list[_Choice] = []


class _NativeMessage(msgspec.Struct, gc=False):
    id: str | None = None
    model: str = ""
    usage: dict[str, Any] | None = None


class _NativeEvent(msgspec.Struct, gc=False):
    type: str
    message: _NativeMessage | None = None
    delta: dict[str, Any] | None = None


class _NativeType(msgspec.Struct, gc=False):
    type: str


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_native = msgspec.json.Decoder(_NativeEvent).decode
_decode_type = msgspec.json.Decoder(_NativeType).decode


def usage_body(usage: Usage) -> dict[str, Any]:
    """`usage` as Anthropic writes it: `input_tokens` are the fresh ones alone."""
    body: dict[str, Any] = {
        "input_tokens": max(0, usage.input_total - usage.cache_read - usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write - usage.cache_write_1h,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output_total,
        "service_tier": "standard",
    }
    if usage.reasoning:
        body["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return body


def message_of(answer: ChatAnswer, *, message_id: str, model: str, usage: Usage) -> dict[str, Any]:
    """A whole answer as a message; `usage` is what was billed."""
    native = answer.native
    if native is not None:
        native_id = native.get("id")
        return {
            "id": native_id if isinstance(native_id, str) and native_id else message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": native["content"],
            "stop_reason": native.get("stop_reason"),
            "stop_sequence": native.get("stop_sequence"),
            "stop_details": native.get("stop_details"),
            "usage": usage_body(usage),
        }
    choices = answer.body["choices"]
    said = choices[0]["message"] if choices else {}
    content = _content(said, message_id)
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": _stop_reason(answer.finish_reason, refused=bool(said.get("refusal")), calls=_calls_a_tool(content)),
        "stop_sequence": None,
        "stop_details": None,
        "usage": usage_body(usage),
    }


def _content(said: Mapping[str, Any], message_id: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    thoughts = said.get("reasoning_content") or said.get("reasoning")
    if isinstance(thoughts, str) and thoughts:
        # Nobody signed it; coming back, it is left out.
        content.append({"type": "thinking", "thinking": thoughts, "signature": ""})
    for name in ("content", "refusal"):
        text = said.get(name)
        if isinstance(text, str) and text:
            content.append({"type": "text", "text": text})
    for position, call in enumerate(said.get("tool_calls") or ()):
        function = call.get("function") or {}
        block = {
            "type": "tool_use",
            "id": call.get("id") or _tool_id(message_id, position),
            "name": function.get("name") or "",
            "input": _input(function.get("arguments")),
        }
        if isinstance(call.get("extra_content"), dict):
            block["extra_content"] = call["extra_content"]
        content.append(block)
    return content


def _calls_a_tool(content: list[dict[str, Any]]) -> bool:
    return any(block["type"] == "tool_use" for block in content)


def _tool_id(message_id: str, position: int) -> str:
    return f"toolu_{message_id.removeprefix('msg_')}_{position}"


def _input(arguments: Any) -> dict[str, Any]:
    """A call's arguments as the object that clients expect."""
    text = arguments if isinstance(arguments, str) else ""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {_INVALID_JSON: text}
    return value if isinstance(value, dict) else {_INVALID_JSON: text}


def _stop_reason(finish_reason: str | None, *, refused: bool, calls: bool) -> str:
    if refused:
        return "refusal"
    if calls and finish_reason in (None, "stop"):
        # Some providers say `stop` however the answer ended.
        return "tool_use"
    return _STOP_REASONS.get(finish_reason or "stop", "end_turn")


def _event(kind: str, body: Mapping[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + encode_json({"type": kind, **body}) + b"\n\n"


class AnthropicMessages:
    """See `AnswerDialect`. `input_tokens` is our estimate, said where a stream begins before anybody counted."""

    def __init__(self, message_id: str, *, input_tokens: int) -> None:
        self.message_id = message_id
        self._input_tokens = input_tokens
        self._begin()

    def _begin(self) -> None:
        self._started = False
        self._native_stop: Mapping[str, Any] | None = None
        self._finish_reason: str | None = None
        self._refused = False
        # The block under way: its index, and its kind (`text`, `thinking`) or the position of its call.
        self._index = -1
        self._open: str | int | None = None
        # Head of a text delta's event, made once for each block.
        self._text_head = b""
        # Calls by the provider's index: id, and the block that tells it.
        self._calls: dict[int, tuple[str, int]] = {}
        self._any_call = False

    def whole(self, call: "ChatCall") -> bytes:
        outcome = call.outcome
        assert outcome.answer is not None
        assert outcome.served is not None
        usage = outcome.usage or Usage()
        return encode_json(
            message_of(outcome.answer, message_id=self.message_id, model=outcome.served.route.model, usage=usage)
        )

    def event(self, chunk: ChatChunk) -> bytes:
        if chunk.native:
            return self._native_event(chunk)
        body = _decode_chunk(chunk.data)
        pieces: list[bytes] = []
        if not self._started:
            pieces.append(self._start(body.model))
        for choice in body.choices:
            delta = choice.delta
            if delta is None or choice.index:
                continue
            text = delta.content
            if text and self._open == "text" and delta.tool_calls is None and delta.refusal is None:
                pieces += (self._text_head, _encode(text), b"}}\n\n")
                continue
            self._take(delta, pieces)
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
        return b"".join(pieces)

    def end(self, call: "ChatCall") -> bytes:
        outcome = call.outcome
        pieces: list[bytes] = []
        if not self._started:
            pieces.append(self._start_event(outcome.served.route.model if outcome.served else call.request.model))
        if self._open is not None:
            pieces.append(_event("content_block_stop", {"index": self._index}))
        delta: Mapping[str, Any] = {"stop_sequence": None}
        if self._native_stop is not None:
            delta = self._native_stop
        else:
            reason = _stop_reason(self._finish_reason, refused=self._refused, calls=self._any_call)
            delta = {"stop_reason": reason, "stop_sequence": None}
        usage = usage_body(outcome.usage or Usage())
        pieces.append(_event("message_delta", {"delta": delta, "usage": usage}))
        pieces.append(_event("message_stop", {}))
        return b"".join(pieces)

    def failed(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + encode_json(anthropic_body(error)) + b"\n\n"

    def field_name(self, name: str) -> str:
        return _FIELD_NAMES.get(name, name)

    # -- told anew ---------------------------------------------------------------------------------------------------

    def _start(self, model: str) -> bytes:
        self._started = True
        return self._start_event(model)

    def _start_event(self, model: str, message_id: str | None = None, usage: Mapping[str, Any] | None = None) -> bytes:
        message: dict[str, Any] = {
            "id": message_id or self.message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage or usage_body(Usage(input_total=self._input_tokens, output_total=1)),
        }
        return _event("message_start", {"message": message}) + _PING

    def _take(self, delta: _Delta, pieces: list[bytes]) -> None:
        """What a delta says, in the order in which models say it: thoughts, text, calls."""
        thoughts = delta.reasoning_content or delta.reasoning
        if thoughts:
            self._open_block("thinking", {"type": "thinking", "thinking": "", "signature": ""}, pieces)
            self._say(self._index, {"type": "thinking_delta", "thinking": thoughts}, pieces)
        for text in (delta.content, delta.refusal):
            if text:
                self._open_block("text", {"type": "text", "text": ""}, pieces)
                pieces += (self._text_head, _encode(text), b"}}\n\n")
        self._refused = self._refused or bool(delta.refusal)
        for call in delta.tool_calls or ():
            self._take_call(call, pieces)

    def _take_call(self, call: _ToolCall, pieces: list[bytes]) -> None:
        """A piece of a call: the first one opens its block. Another id at the same index is another call."""
        position = call.index or 0
        known = self._calls.get(position)
        function = call.function or _Function()
        if known is None or (call.id and call.id != known[0] and function.name):
            number = self._index + 1
            call_id = call.id or _tool_id(self.message_id, number)
            block: dict[str, Any] = {"type": "tool_use", "id": call_id, "name": function.name or "", "input": {}}
            if call.extra_content:
                block["extra_content"] = call.extra_content
            self._any_call = True
            self._open_block(number, block, pieces)
            known = self._calls[position] = (call_id, self._index)
        if function.arguments:
            self._say(known[1], {"type": "input_json_delta", "partial_json": function.arguments}, pieces)

    def _open_block(self, kind: str | int, block: Mapping[str, Any], pieces: list[bytes]) -> None:
        """Begin a block unless this kind of one is under way; the one before it ends."""
        if self._open == kind:
            return
        if self._open is not None:
            pieces.append(_event("content_block_stop", {"index": self._index}))
        self._index += 1
        self._open = kind
        pieces.append(_event("content_block_start", {"index": self._index, "content_block": block}))
        if kind == "text":
            self._text_head = _DELTA_HEAD + str(self._index).encode() + b',"delta":{"type":"text_delta","text":'

    def _say(self, index: int, delta: Mapping[str, Any], pieces: list[bytes]) -> None:
        pieces += (_DELTA_HEAD, str(index).encode(), b',"delta":', _encode(delta), b"}\n\n")

    # -- passed on ---------------------------------------------------------------------------------------------------

    def _native_event(self, chunk: ChatChunk) -> bytes:
        """The provider's event as it came, but for the two that carry figures."""
        data = chunk.native
        if data.startswith(b'{"type":"content_block_delta"'):
            return b"event: content_block_delta\ndata: " + data + b"\n\n"
        kind = _decode_type(data).type
        if not kind.isidentifier():
            # It becomes a line of its own: nothing but a name may.
            return b""
        if kind == "message_start":
            message = _decode_native(data).message or _NativeMessage()
            self._started = True
            return self._start_event(message.model, message.id, message.usage)
        if kind == "message_delta":
            self._native_stop = _decode_native(data).delta or {"stop_reason": "end_turn", "stop_sequence": None}
            return b""
        if kind == "ping" and not self._started:
            return b""
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
