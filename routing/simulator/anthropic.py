"""Anthropic's dialect: `/{provider}/v1/messages`, as strict about unknown and missing fields as the original."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from routing.simulator.answers import answer_text, example_of, split_text, token_count, unique_id
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import fail_or_wait, send_json, send_stream, send_whole

_encode = msgspec.json.Encoder().encode
_TOKENS_PER_CHUNK = 4
_VERSIONS = ("2023-06-01", "2026-10-21")
_SAMPLING = ("temperature", "top_p", "top_k")
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: str | Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]


class _Tool(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None


class _ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: int | None = None


_decode = msgspec.json.Decoder(_Request).decode


class _Reply:
    """What one call is answered with, before it is written whole or as a stream."""

    __slots__ = ("arguments", "id", "input_tokens", "model", "output_tokens", "stop_reason", "text", "tool")

    def __init__(self, simulated: Simulated, behaviour: Behaviour, request: _Request, question: str, text_bytes: int) -> None:
        self.output_tokens = min(behaviour.output_tokens, request.max_tokens)
        counted = token_count(text_bytes, len(request.messages))
        self.input_tokens = counted if behaviour.prompt_tokens is None else behaviour.prompt_tokens
        self.id = f"msg_{unique_id()}"
        self.model = request.model
        self.tool = _tool_to_call(request, question)
        if self.tool is None:
            self.text = answer_text(simulated.slug, question, self.output_tokens)
            if (schema := _wanted_schema(request)) is not None:
                self.text = _encode(example_of(schema)).decode()
            self.stop_reason = "max_tokens" if self.output_tokens < behaviour.output_tokens else "end_turn"
            self.arguments: Any = None
        else:
            self.text = ""
            self.stop_reason = "tool_use"
            self.arguments = example_of(self.tool.input_schema) or {}

    def usage(self, output_tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }

    def message(self, content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, Any] | None) -> dict[str, Any]:
        body = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
        }
        return body if usage is None else {**body, "usage": usage}

    def block(self, *, empty: bool) -> dict[str, Any]:
        if self.tool is None:
            return {"type": "text", "text": "" if empty else self.text}
        call = {"type": "tool_use", "id": f"toolu_{self.id[4:]}", "name": self.tool.name}
        return {**call, "input": {} if empty else self.arguments}


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    return messages if path == "v1/messages" and method == "POST" else None


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error as Anthropic words it."""
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{unique_id()}"}


async def messages(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call, whole or streamed, with the provider's behaviour in force."""
    behaviour = simulated.behaviour
    raw = await request.read()
    version = request.headers.get("anthropic-version")
    try:
        call = _decode(raw)
        _check(call, version)
    except (msgspec.DecodeError, ValueError) as error:
        simulated.remember(request.path, "", False, "")
        simulated.counters.failed += 1
        return send_json(error_body(400, str(error)), 400)
    question, text_bytes = _read_messages(call)
    simulated.remember(request.path, call.model, bool(call.stream), question)
    if (failure := await fail_or_wait(simulated, behaviour, error_body)) is not None:
        return failure

    reply = _Reply(simulated, behaviour, call, question, text_bytes)
    if call.stream:
        opening, texts, closing = _events(reply, behaviour)
        broken = error_body(529, "IA Factory's simulator breaks this stream as it was told to.")
        return await send_stream(request, simulated, behaviour, opening, texts, closing, error_event=_event(broken))
    usage = None if behaviour.omit_usage else reply.usage(reply.output_tokens)
    return send_whole(request, simulated, behaviour, reply.message([reply.block(empty=False)], reply.stop_reason, usage))


def _check(call: _Request, version: str | None) -> None:
    """What a schema does not say. Raises ValueError."""
    if version not in _VERSIONS:
        raise ValueError("anthropic-version: header is required")
    if version == _VERSIONS[1]:
        for name in _SAMPLING:
            if getattr(call, name) is not None:
                raise ValueError(f"{name}: Extra inputs are not permitted")


def _event(body: dict[str, Any]) -> bytes:
    return b"event: " + str(body["type"]).encode() + b"\ndata: " + _encode(body) + b"\n\n"


def _events(reply: _Reply, behaviour: Behaviour) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The events of a stream: up to the first text, the text, and from the end of the block to message_stop."""
    started = None if behaviour.omit_usage else reply.usage(1)
    opening = [
        _event({"type": "message_start", "message": reply.message([], None, started)}),
        _event({"type": "content_block_start", "index": 0, "content_block": reply.block(empty=True)}),
        _event({"type": "ping"}),
    ]
    if reply.tool is None:
        pieces = split_text(reply.text, behaviour.chunks or max(1, reply.output_tokens // _TOKENS_PER_CHUNK))
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    else:
        pieces = split_text(_encode(reply.arguments).decode(), behaviour.chunks or 4)
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    texts = [_event({"type": "content_block_delta", "index": 0, "delta": delta}) for delta in deltas]
    end: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": reply.stop_reason, "stop_sequence": None}}
    if not behaviour.omit_usage:
        end["usage"] = {"output_tokens": reply.output_tokens}
    closing = [_event({"type": "content_block_stop", "index": 0}), _event(end), _event({"type": "message_stop"})]
    return opening, texts, closing


def _wanted_schema(request: _Request) -> Any:
    wanted = (request.output_config or {}).get("format")
    return wanted.get("schema") if isinstance(wanted, dict) else None


def _tool_to_call(request: _Request, question: str) -> _Tool | None:
    """The tool to call: the one chosen, else the first if one is required or the question speaks of a tool."""
    tools = request.tools or []
    choice = request.tool_choice
    if not tools or (choice is not None and choice.type == "none"):
        return None
    if choice is not None and choice.type == "tool":
        return next((tool for tool in tools if tool.name == choice.name), tools[0])
    if choice is not None and choice.type == "any":
        return tools[0]
    content = request.messages[-1].content
    answered = not isinstance(content, str) and any(block.get("type") == "tool_result" for block in content)
    return tools[0] if "tool" in question.lower() and not answered else None


def _read_messages(request: _Request) -> tuple[str, int]:
    """The text of the last user message, and the UTF-8 bytes of the system's text and of all messages'."""
    question = ""
    size = len(_text(request.system or "").encode("utf-8", "replace"))
    for message in request.messages:
        text = _text(message.content)
        size += len(text.encode("utf-8", "replace"))
        if message.role == "user" and text:
            question = text
    return question, size


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(block["text"] for block in content if isinstance(block.get("text"), str))
