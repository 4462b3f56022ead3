"""OpenAI's dialect for adapters that speak another one: what they read from a request, how they write an answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from routing.providers.base import ChatAnswer, ChatChunk, FailureClass, ProviderError, Usage
from routing.providers.exchange import utf8_length
from routing.providers.usage import usage_to_openai

_encode = msgspec.json.Encoder().encode

ToolMode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions a call may use (as OpenAI declares them), and whether it may, must or must not."""

    functions: list[Mapping[str, Any]]
    mode: ToolMode


def bad_request(param: str, message: str) -> ProviderError:
    """The refusal, before anything is sent, of a request that is wrong in any dialect."""
    return ProviderError(FailureClass.BAD_REQUEST, message, code="invalid_request", param=param)


def messages_of(request: Mapping[str, Any]) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """The messages of a request with their positions."""
    messages = request.get("messages")
    found = enumerate(messages) if isinstance(messages, list) else ()
    return ((position, message) for position, message in found if isinstance(message, Mapping))


def content_parts(content: Any) -> list[Mapping[str, Any]]:
    """A message's content as parts; plain text is one part, here or inside a list, and nothing is none."""
    parts = [content] if isinstance(content, str) else content if isinstance(content, list) else []
    found = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts if part]
    return [part for part in found if isinstance(part, Mapping)]


def part_text(part: Mapping[str, Any]) -> str | None:
    """The text of a text (or refusal) part; None for any other kind."""
    text = part.get("text") if part.get("type") == "text" else part.get("refusal") if part.get("type") == "refusal" else None
    return text if isinstance(text, str) else None


def is_plain_text(content: Any) -> bool:
    """Whether a content is text alone."""
    return all(part_text(part) is not None for part in content_parts(content))


def plain_text(content: Any) -> str:
    """The text of a content, its other parts left out."""
    return "".join(part_text(part) or "" for part in content_parts(content))


def image_url(part: Mapping[str, Any]) -> str | None:
    """The address of an `image_url` part."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    return url if isinstance(url, str) else None


def data_url(url: Any) -> tuple[str, str] | None:
    """Media type and base64 data of a `data:` URL; None for any other address."""
    if not isinstance(url, str) or url[:5].lower() != "data:":
        return None
    kind, comma, data = url[5:].partition(",")
    media_type, *parameters = (piece.strip().lower() for piece in kind.split(";"))
    return (media_type, data) if comma and data and media_type and "base64" in parameters else None


def output_limit(request: Mapping[str, Any]) -> int | None:
    """The lower of the two token limits, as the price bound of the call assumes."""
    limits = [request.get("max_tokens"), request.get("max_completion_tokens")]
    return min((limit for limit in limits if isinstance(limit, int) and not isinstance(limit, bool)), default=None)


def stop_sequences(request: Mapping[str, Any]) -> list[str]:
    """Texts that end the answer."""
    stop = request.get("stop")
    texts = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return [text for text in texts if isinstance(text, str) and text]


def number(request: Mapping[str, Any], name: str) -> int | float | None:
    """A numeric field; None for anything else."""
    value = request.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def only_functions(request: Mapping[str, Any]) -> bool:
    """Whether every tool is a function."""
    tools = request.get("tools")
    return not isinstance(tools, list) or all(_function(tool) is not None for tool in tools)


def is_known_tool_choice(choice: Any) -> bool:
    """Whether `tool_choice` speaks of functions alone, in one of OpenAI's four shapes."""
    if choice in (None, "auto", "none", "required"):
        return True
    return isinstance(choice, Mapping) and (_function(choice) is not None or _allowed(choice) is not None)


def tool_use(request: Mapping[str, Any]) -> ToolUse:
    """What `tools` and `tool_choice` ask for: a named function is the only one left, and required.

    Raises `ProviderError(bad_request)` for a choice among tools that are not there.
    """
    tools = request.get("tools")
    functions = [function for tool in (tools if isinstance(tools, list) else ()) if (function := _function(tool)) is not None]
    choice = request.get("tool_choice")
    mode: ToolMode = "auto"
    names: list[str] | None = None
    if choice in ("none", "required"):
        mode = choice
    elif isinstance(choice, Mapping):
        if (allowed := _allowed(choice)) is not None:
            mode, names = allowed
        elif (function := _function(choice)) is not None:
            mode, names = "required", [function["name"]]
    if names is not None:
        functions = [function for function in functions if function["name"] in names]
    if not functions and (mode == "required" or names):
        raise bad_request("tool_choice", "`tool_choice` asks for a function that `tools` does not have.")
    return ToolUse(functions, mode)


def _function(tool: Any) -> Mapping[str, Any] | None:
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type", "function") == "function" else None
    return function if isinstance(function, Mapping) and isinstance(function.get("name"), str) else None


def _allowed(choice: Mapping[str, Any]) -> tuple[ToolMode, list[str]] | None:
    allowed = choice.get("allowed_tools") if choice.get("type") == "allowed_tools" else None
    tools = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if not isinstance(allowed, Mapping) or not isinstance(tools, list):
        return None
    functions = [_function(tool) for tool in tools]
    if not functions or any(function is None for function in functions):
        return None
    mode: ToolMode = "required" if allowed.get("mode") == "required" else "auto"
    return mode, [function["name"] for function in functions if function is not None]


def tool_calls_of(message: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """The calls an assistant's message made: id, function's name, arguments as text, and the call itself."""
    found = []
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = _function(call)
        if function is not None:
            arguments = function.get("arguments")
            arguments = arguments if isinstance(arguments, str) else _encode(arguments or {}).decode()
            call_id = call.get("id")
            found.append((call_id if isinstance(call_id, str) else "", function["name"], arguments, call))
    return found


def response_schema(request: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether the answer must be JSON, and the schema it must fit."""
    wanted = request.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if not isinstance(wanted, Mapping) or kind not in ("json_object", "json_schema"):
        return False, None
    named = wanted.get("json_schema") if kind == "json_schema" else None
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return True, schema if isinstance(schema, Mapping) else None


def new_call_id() -> str:
    """An id for a tool call whose provider gave none."""
    return f"call_{uuid.uuid4().hex[:24]}"


def tool_call(call_id: str, name: str, arguments: str, **further: Any) -> dict[str, Any]:
    """A tool call as OpenAI writes it; `arguments` is JSON text."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **further}


def said_bytes(message: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what a message or delta says: content, reasoning, refusal, tool names and arguments."""
    size = sum(utf8_length(message.get(field) or "") for field in ("content", "reasoning_content", "refusal"))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        size += utf8_length(function.get("name") or "") + utf8_length(function.get("arguments") or "")
    return size


def choice_of(position: int, message: Mapping[str, Any], finish_reason: str) -> dict[str, Any]:
    """One choice of a whole answer; `message` holds what was said, empty fields left out."""
    body = {"role": "assistant", "content": None, "refusal": None, **message}
    return {"index": position, "message": body, "logprobs": None, "finish_reason": finish_reason}


def whole_answer(public_model: str, upstream_id: str | None, choices: list[dict[str, Any]], usage: Usage | None) -> ChatAnswer:
    """A whole answer with every field OpenAI's schema requires."""
    body: dict[str, Any] = {
        "id": upstream_id or f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": public_model,
        "choices": choices,
    }
    if usage is not None:
        body["usage"] = usage_to_openai(usage)
    return ChatAnswer(
        body=body,
        usage=usage,
        output_bytes=sum(said_bytes(choice["message"]) for choice in choices),
        finish_reason=choices[0]["finish_reason"],
        upstream_id=upstream_id,
    )


class ChunkWriter:
    """Writes the chunks of one stream; every choice's first one names the role."""

    __slots__ = ("_head", "_introduced")

    def __init__(self, public_model: str, upstream_id: str | None) -> None:
        head = {
            "id": upstream_id or f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": public_model,
        }
        self._head = _encode(head)[:-1] + b',"choices":'
        self._introduced: set[int] = set()

    def chunk(
        self, position: int, delta: dict[str, Any], finish_reason: str | None = None, usage: Usage | None = None
    ) -> ChatChunk:
        """What a choice says next."""
        size = said_bytes(delta)
        if position not in self._introduced:
            self._introduced.add(position)
            delta = {"role": "assistant", "content": None, **delta}
        choice = {"index": position, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return ChatChunk(self._head + _encode([choice]) + b"}", size, usage, False, finish_reason)

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        """The last chunk, of figures alone."""
        return ChatChunk(self._head + b'[],"usage":' + _encode(usage_to_openai(usage)) + b"}", 0, usage, True, None)
