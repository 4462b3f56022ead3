"""Cohere's dialect: `/{provider}/v2/chat`, whole and streamed; as strict about unknown fields as it gets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from routing.simulator.controls import Simulated
from routing.simulator.replies import Asked, Reply, bad_request, respond, utf8_length

_encode = msgspec.json.Encoder().encode


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    stream: bool = False
    max_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["REQUIRED", "NONE"] | None = None
    response_format: dict[str, Any] | None = None
    stop_sequences: Annotated[list[str], msgspec.Meta(max_length=5)] | None = None
    temperature: float | None = None
    p: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] | None = None
    k: Annotated[float, msgspec.Meta(ge=0, le=500)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    seed: int | None = None
    thinking: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Request).decode


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    return chat if method == "POST" and path == "v2/chat" else None


class _Cohere:
    """See `replies.Dialect`."""

    def whole(self, reply: Reply) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant"}
        if reply.function is None:
            message["content"] = [{"type": "text", "text": reply.text}]
        else:
            message["tool_calls"] = [_call(reply, _encode(reply.arguments).decode())]
        return {"id": reply.id, "message": message, "finish_reason": _finish_reason(reply), **_usage(reply)}

    def events(self, reply: Reply) -> tuple[list[bytes], list[bytes], list[bytes]]:
        start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        opening = [_event("message-start", {"message": start}, id=reply.id)]
        if reply.function is None:
            opening.append(_event("content-start", {"message": {"content": {"type": "text", "text": ""}}}, index=0))
            texts = [_event("content-delta", {"message": {"content": {"text": piece}}}, index=0) for piece in reply.pieces]
            closing = [_event("content-end", None, index=0)]
        else:
            opening.append(_event("tool-call-start", {"message": {"tool_calls": _call(reply, "")}}, index=0))
            arguments = {"function": {"arguments": _encode(reply.arguments).decode()}}
            texts = [_event("tool-call-delta", {"message": {"tool_calls": arguments}}, index=0)]
            closing = [_event("tool-call-end", None, index=0)]
        closing.append(_event("message-end", {"finish_reason": _finish_reason(reply), **_usage(reply)}))
        return opening, texts, [*closing, b"data: [DONE]\n\n"]

    def error(self, status: int, message: str) -> dict[str, Any]:
        return {"id": f"simulator-{status}", "message": message}

    def error_event(self, message: str) -> bytes:
        return _event("message-end", {"finish_reason": "ERROR", "error": message})


COHERE = _Cohere()


async def chat(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call, whole or streamed, with the provider's behaviour in force."""
    try:
        call = _decode(await request.read())
    except msgspec.ValidationError as error:
        return bad_request(request, simulated, COHERE, f"invalid request: {error}")
    except msgspec.DecodeError:
        return bad_request(request, simulated, COHERE, "invalid request: the body is not JSON")
    return await respond(request, simulated, _asked(call), COHERE)


def _asked(call: _Request) -> Asked:
    texts = [(message.get("role"), _text(message.get("content"))) for message in call.messages]
    functions = [tool["function"] for tool in call.tools or () if isinstance(tool.get("function"), dict)]
    if call.tool_choice == "NONE":
        functions = []
    return Asked(
        model=call.model,
        stream=call.stream,
        question=next((text for role, text in reversed(texts) if role == "user" and text), ""),
        text_bytes=sum(utf8_length(text) for _, text in texts),
        messages=len(texts),
        most_tokens=call.max_tokens,
        functions=[(str(function.get("name") or ""), function.get("parameters")) for function in functions],
        must_call=call.tool_choice == "REQUIRED",
        answered=texts[-1][0] == "tool",
        schema=(call.response_format or {}).get("json_schema"),
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "".join(part for part in parts if isinstance(part, str))


def _event(kind: str, delta: dict[str, Any] | None, **fields: Any) -> bytes:
    body = {"type": kind, **fields, **({} if delta is None else {"delta": delta})}
    return b"event: " + kind.encode() + b"\ndata: " + _encode(body) + b"\n\n"


def _call(reply: Reply, arguments: str) -> dict[str, Any]:
    return {
        "id": f"{reply.function}_{reply.id}",
        "type": "function",
        "function": {"name": reply.function, "arguments": arguments},
    }


def _finish_reason(reply: Reply) -> str:
    if reply.function is not None:
        return "TOOL_CALL"
    return "MAX_TOKENS" if reply.is_cut else "COMPLETE"


def _usage(reply: Reply) -> dict[str, Any]:
    if not reply.with_usage:
        return {}
    billed = {"input_tokens": reply.prompt_tokens, "output_tokens": reply.output_tokens}
    # Cohere's own prompt is counted in the tokens, and not billed.
    return {"usage": {"billed_units": billed, "tokens": {**billed, "input_tokens": reply.prompt_tokens + 196}}}
