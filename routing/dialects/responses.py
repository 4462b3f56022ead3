"""OpenAI's Responses dialect: whole responses, and the numbered events of a stream.

Items that say several things at once (calls told alternately) stay open side by side: every event names its item.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from iafactory.common import clock
from iafactory.common.errors import ApiError, openai_body
from iafactory.common.rendering import encode_json

from ..providers.base import ChatAnswer, ChatChunk, Usage

if TYPE_CHECKING:
    from ..chat_call import ChatCall

_encode = msgspec.json.Encoder().encode

_INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
_FIELD_NAMES: Mapping[str, str] = {
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
}


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


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def usage_body(usage: Usage) -> dict[str, Any]:
    """`usage` as the Responses API writes it."""
    return {
        "input_tokens": usage.input_total,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output_total,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input_total + usage.output_total,
    }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _refusal_part(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def _message(item_id: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _thoughts(item_id: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"id": item_id, "type": "reasoning", "status": status, "summary": [], "content": content}


class _Item:
    """An output item while a stream tells it."""

    __slots__ = ("call", "id", "index", "kind", "status", "text")

    def __init__(self, kind: str, index: int, item_id: str, call: Mapping[str, Any] | None = None) -> None:
        # `text`, `refusal`, `reasoning` or `call`.
        self.kind = kind
        self.index = index
        self.id = item_id
        self.call = call or {}
        self.text: list[str] = []
        # How it ended; None while it is open.
        self.status: str | None = None

    def part(self, text: str) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return _refusal_part(text) if self.kind == "refusal" else _text_part(text)

    def body(self, status: str, text: str) -> dict[str, Any]:
        """The item as far as it was told; empty while it begins."""
        if self.kind == "call":
            return {"id": self.id, "type": "function_call", "status": status, **self.call, "arguments": text}
        content = [] if status == "in_progress" else [self.part(text)]
        return (_thoughts if self.kind == "reasoning" else _message)(self.id, content, status)


# Events of a part's text: name, and the field in which the whole of it is said at the end.
_TEXT_EVENTS: Mapping[str, tuple[str, str]] = {
    "text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning": ("response.reasoning_text", "text"),
    "call": ("response.function_call_arguments", "arguments"),
}


class Responses:
    """See `AnswerDialect`. `echo` is what a response repeats of its request."""

    def __init__(self, response_id: str, *, echo: Mapping[str, Any]) -> None:
        self._key = response_id.removeprefix("resp_")
        self._id = response_id
        self._echo = echo
        self._created_at = int(clock.now().timestamp())
        self._completed_at: int | None = None
        self._sequence = 0
        self._model = ""
        self._items: list[_Item] = []
        self._open: list[_Item] = []
        self._calls: dict[int, _Item] = {}
        self._finish_reason: str | None = None
        # Head of the delta events of the text under way, made once for each item.
        self._text_item: _Item | None = None
        self._text_head = b""

    # -- whole -------------------------------------------------------------------------------------------------------

    def whole(self, call: "ChatCall") -> bytes:
        outcome = call.outcome
        assert outcome.answer is not None
        assert outcome.served is not None
        self._model = outcome.served.route.model
        reason = outcome.answer.finish_reason
        output = self._output(outcome.answer, "incomplete" if reason in _INCOMPLETE else "completed")
        return encode_json(self._body(output, reason, outcome.usage))

    def _output(self, answer: ChatAnswer, status: str) -> list[dict[str, Any]]:
        choices = answer.body["choices"]
        said = choices[0]["message"] if choices else {}
        output: list[dict[str, Any]] = []
        thoughts = said.get("reasoning_content") or said.get("reasoning")
        if isinstance(thoughts, str) and thoughts:
            output.append(_thoughts(f"rs_{self._key}", [{"type": "reasoning_text", "text": thoughts}], "completed"))
        content = []
        if isinstance(said.get("content"), str) and said["content"]:
            content.append(_text_part(said["content"]))
        if isinstance(said.get("refusal"), str) and said["refusal"]:
            content.append(_refusal_part(said["refusal"]))
        if content:
            output.append(_message(f"msg_{self._key}", content, status))
        for position, call in enumerate(said.get("tool_calls") or ()):
            function = call.get("function") or {}
            told = _call(call.get("id") or self._call_id(position), function.get("name"), call.get("extra_content"))
            item = _Item("call", len(output), f"fc_{self._key}_{position}", told)
            output.append(item.body(status, function.get("arguments") or ""))
        return output

    def _body(self, output: list[dict[str, Any]], finish_reason: str | None, usage: Usage | None) -> dict[str, Any]:
        """A response that has ended; see `_begun` for one that has not."""
        why = _INCOMPLETE.get(finish_reason or "")
        self._completed_at = self._completed_at or int(clock.now().timestamp())
        return self._begun() | {
            "status": "incomplete" if why else "completed",
            "incomplete_details": {"reason": why} if why else None,
            "completed_at": None if why else self._completed_at,
            "output": output,
            "usage": usage_body(usage or Usage()),
        }

    def _begun(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": [],
            "usage": None,
            "service_tier": "default",
            **self._echo,
        }

    def _call_id(self, position: int) -> str:
        return f"call_{self._key}_{position}"

    # -- streamed ----------------------------------------------------------------------------------------------------

    def event(self, chunk: ChatChunk) -> bytes:
        body = _decode_chunk(chunk.data)
        pieces: list[bytes] = []
        if not self._model:
            self._start(body.model, pieces)
        for choice in body.choices:
            delta = choice.delta
            if delta is None or choice.index:
                continue
            text = delta.content
            item = self._text_item
            if text and item is not None and delta.tool_calls is None and delta.refusal is None:
                item.text.append(text)
                self._sequence += 1
                pieces += (self._text_head, str(self._sequence).encode(), b',"delta":', _encode(text), b"}\n\n")
                continue
            self._take(delta, pieces)
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
            for item in self._open:
                self._close(item, pieces)
            self._open.clear()
            self._text_item = None
        return b"".join(pieces)

    def end(self, call: "ChatCall") -> bytes:
        outcome = call.outcome
        # Told again, it must say the same.
        sequence, model = self._sequence, self._model
        pieces: list[bytes] = []
        if not model:
            self._start(outcome.served.route.model if outcome.served else call.request.model, pieces)
        for item in self._open:
            self._close(item, pieces)
        output = [item.body(item.status or self._status, "".join(item.text)) for item in self._items]
        body = self._body(output, self._finish_reason, outcome.usage)
        self._say(f"response.{self._status}", {"response": body}, pieces)
        self._sequence, self._model = sequence, model
        return b"".join(pieces)

    def failed(self, error: ApiError) -> bytes:
        # The protocol's own fields, and the object by which OpenAI's clients notice a failure in any stream.
        told = {"type": "error", "sequence_number": self._sequence + 1, "code": error.code, "message": error.message}
        return b"event: error\ndata: " + encode_json({**told, "param": error.param, **openai_body(error)}) + b"\n\n"

    def field_name(self, name: str) -> str:
        return _FIELD_NAMES.get(name, name)

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish_reason in _INCOMPLETE else "completed"

    def _say(self, kind: str, fields: Mapping[str, Any], pieces: list[bytes]) -> None:
        self._sequence += 1
        body = encode_json({"type": kind, **fields, "sequence_number": self._sequence})
        pieces.append(b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n")

    def _start(self, model: str, pieces: list[bytes]) -> None:
        self._model = model
        # Numbers begin at 0.
        self._sequence = -1
        for kind in ("response.created", "response.in_progress"):
            self._say(kind, {"response": self._begun()}, pieces)

    def _take(self, delta: _Delta, pieces: list[bytes]) -> None:
        """What a delta says, in the order in which models say it: thoughts, text, calls."""
        for kind, text in (
            ("reasoning", delta.reasoning_content or delta.reasoning),
            ("text", delta.content),
            ("refusal", delta.refusal),
        ):
            if text:
                self._tell(self._item_of(kind, pieces), text, pieces)
        for call in delta.tool_calls or ():
            self._take_call(call, pieces)

    def _item_of(self, kind: str, pieces: list[bytes]) -> _Item:
        """The open item of that kind, begun if there is none; another kind's text ends."""
        for item in self._open:
            if item.kind == kind:
                return item
        for item in [item for item in self._open if item.kind != "call"]:
            self._close(item, pieces)
            self._open.remove(item)
        position = len(self._items)
        item = _Item(kind, position, f"{'rs' if kind == 'reasoning' else 'msg'}_{self._key}_{position}")
        self._begin(item, pieces)
        self._say("response.content_part.added", {**_place(item), "part": item.part("")}, pieces)
        self._text_item = item if kind == "text" else None
        if kind == "text":
            place = _encode({"type": "response.output_text.delta", **_place(item), "logprobs": []})
            self._text_head = b"event: response.output_text.delta\ndata: " + place[:-1] + b',"sequence_number":'
        return item

    def _take_call(self, call: _ToolCall, pieces: list[bytes]) -> None:
        """A piece of a call: the first one begins its item. Another id at the same index is another call."""
        position = call.index or 0
        item = self._calls.get(position)
        function = call.function or _Function()
        if item is None or (call.id and call.id != item.call["call_id"] and function.name):
            for other in [other for other in self._open if other.kind != "call"]:
                self._close(other, pieces)
                self._open.remove(other)
            self._text_item = None
            number = len(self._items)
            told = _call(call.id or self._call_id(number), function.name, call.extra_content)
            item = self._calls[position] = _Item("call", number, f"fc_{self._key}_{number}", told)
            self._begin(item, pieces)
        if function.arguments:
            self._tell(item, function.arguments, pieces)

    def _begin(self, item: _Item, pieces: list[bytes]) -> None:
        self._items.append(item)
        self._open.append(item)
        self._say("response.output_item.added", {"output_index": item.index, "item": item.body("in_progress", "")}, pieces)

    def _tell(self, item: _Item, text: str, pieces: list[bytes]) -> None:
        item.text.append(text)
        fields = {**_place(item), "delta": text}
        if item.kind == "text":
            fields["logprobs"] = []
        self._say(f"{_TEXT_EVENTS[item.kind][0]}.delta", fields, pieces)

    def _close(self, item: _Item, pieces: list[bytes]) -> None:
        item.status = self._status
        text = "".join(item.text)
        name, field = _TEXT_EVENTS[item.kind]
        fields = {**_place(item), field: text}
        if item.kind == "text":
            fields["logprobs"] = []
        if item.kind == "call":
            fields["name"] = item.call["name"]
        self._say(f"{name}.done", fields, pieces)
        if item.kind != "call":
            self._say("response.content_part.done", {**_place(item), "part": item.part(text)}, pieces)
        self._say("response.output_item.done", {"output_index": item.index, "item": item.body(item.status, text)}, pieces)


def _place(item: _Item) -> dict[str, Any]:
    place = {"item_id": item.id, "output_index": item.index}
    return place if item.kind == "call" else {**place, "content_index": 0}


def _call(call_id: str, name: str | None, extra_content: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"call_id": call_id, "name": name or ""}
    return told | {"extra_content": extra_content} if isinstance(extra_content, dict) and extra_content else told
