"""OpenAI's dialect: `/{provider}/v1/chat/completions` and `/{provider}/v1/models`."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from aiohttp import web

from routing.simulator.answers import answer_text, example_of, split_text, token_count, unique_id
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import fail_or_wait, send_json, send_stream, send_whole

_encode = msgspec.json.Encoder().encode
_TOKENS_PER_CHUNK = 4


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[dict[str, Any]]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None


_decode = msgspec.json.Decoder(_Request).decode


class _Reply:
    """What one call is answered with, before it is written whole or as a stream."""

    __slots__ = (
        "arguments",
        "created",
        "finish_reason",
        "id",
        "model",
        "n",
        "output_tokens",
        "prompt_tokens",
        "text",
        "tool",
    )

    def __init__(self, simulated: Simulated, request: _Request, question: str, text_bytes: int) -> None:
        behaviour = simulated.behaviour
        limits = [limit for limit in (request.max_tokens, request.max_completion_tokens) if limit is not None]
        self.output_tokens = max(1, min([behaviour.output_tokens, *limits]))
        self.prompt_tokens = (
            token_count(text_bytes, len(request.messages)) if behaviour.prompt_tokens is None else behaviour.prompt_tokens
        )
        self.id = f"chatcmpl-{unique_id()}"
        self.created = int(time.time())
        self.model = request.model
        self.n = max(1, request.n or 1)
        self.tool = _tool_to_call(request, question)
        if self.tool is None:
            self.text = answer_text(simulated.slug, question, self.output_tokens)
            self.finish_reason = "length" if self.output_tokens < behaviour.output_tokens else "stop"
            self.arguments = ""
        else:
            self.text = ""
            self.finish_reason = "tool_calls"
            self.arguments = _encode(example_of(self.tool.get("parameters") or {"type": "object"})).decode()

    def usage(self) -> dict[str, Any]:
        output = self.output_tokens * self.n
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output,
            "total_tokens": self.prompt_tokens + output,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def tool_call(self, position: int) -> dict[str, Any]:
        assert self.tool is not None
        function = {"name": self.tool.get("name") or "", "arguments": self.arguments}
        return {"id": f"call_{self.id[9:]}_{position}", "type": "function", "function": function}


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    if path == "v1/chat/completions" and method == "POST":
        return chat_completions
    if path == "v1/models" and method == "GET":
        return models
    if path.startswith("v1/models/") and method == "GET":
        return model
    return None


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI words it."""
    kinds = {429: "rate_limit_error", 402: "insufficient_quota"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def models(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """The list of models: those asked for lately, and one that is always there."""
    names = sorted({"simulated-model"} | {name for _, _, name, _, _ in simulated.requests if name})
    return send_json({"object": "list", "data": [_model_body(simulated, name) for name in names]})


async def model(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One model: the simulator serves every name."""
    return send_json(_model_body(simulated, request.path.split("/v1/models/", 1)[1]))


async def chat_completions(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One chat call, whole or streamed, with the provider's behaviour in force."""
    behaviour = simulated.behaviour
    raw = await request.read()
    try:
        call = _decode(raw)
    except msgspec.ValidationError as error:
        simulated.remember(request.path, "", False, "")
        simulated.counters.failed += 1
        return send_json(error_body(400, f"Invalid request: {error}"), 400)
    except msgspec.DecodeError:
        simulated.remember(request.path, "", False, "")
        simulated.counters.failed += 1
        return send_json(error_body(400, "The body of the request is not JSON."), 400)
    question, text_bytes = _read_messages(call.messages)
    simulated.remember(request.path, call.model, bool(call.stream), question)

    if (failure := await fail_or_wait(simulated, behaviour, error_body)) is not None:
        return failure

    reply = _Reply(simulated, call, question, text_bytes)
    if call.stream:
        include_usage = call.stream_options is not None and bool(call.stream_options.include_usage)
        opening, texts, closing = _events(reply, behaviour, include_usage and not behaviour.omit_usage)
        broken = error_body(500, "IA Factory's simulator breaks this stream as it was told to.")
        return await send_stream(
            request,
            simulated,
            behaviour,
            opening,
            texts,
            closing,
            error_event=b"data: " + _encode(broken) + b"\n\n",
            texts_per_chunk=reply.n,
        )
    return send_whole(request, simulated, behaviour, _whole(reply, behaviour))


def _whole(reply: _Reply, behaviour: Behaviour) -> dict[str, Any]:
    choices = []
    for position in range(reply.n):
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.tool is not None:
            message["content"] = None
            message["tool_calls"] = [reply.tool_call(position)]
        choices.append({"index": position, "message": message, "logprobs": None, "finish_reason": reply.finish_reason})
    body = {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": choices,
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }
    if not behaviour.omit_usage:
        body["usage"] = reply.usage()
    return body


def _events(reply: _Reply, behaviour: Behaviour, include_usage: bool) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The events of a stream: up to the first text, the text, and from the finish reason to [DONE]."""
    common = {"id": reply.id, "object": "chat.completion.chunk", "created": reply.created, "model": reply.model}
    head = b"data: " + _encode(common)[:-1] + b',"service_tier":"default","system_fingerprint":"fp_simulator","choices":'
    tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def event(position: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": position, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return head + _encode([choice]) + tail

    every = range(reply.n)
    if reply.tool is None:
        pieces = split_text(reply.text, behaviour.chunks or max(1, reply.output_tokens // _TOKENS_PER_CHUNK))
        opening = [event(position, {"role": "assistant", "content": "", "refusal": None}) for position in every]
        texts = [event(position, {"content": piece}) for piece in pieces for position in every]
    else:
        opening = []
        for position in every:
            call = {"index": 0, **reply.tool_call(position)}
            call["function"] = {**call["function"], "arguments": ""}
            opening.append(event(position, {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}))
        pieces = split_text(reply.arguments, behaviour.chunks or 4)
        texts = [
            event(position, {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
            for piece in pieces
            for position in every
        ]
    closing = [event(position, {}, reply.finish_reason) for position in every]
    if include_usage:
        closing.append(head + b'[],"usage":' + _encode(reply.usage()) + b"}\n\n")
    closing.append(b"data: [DONE]\n\n")
    return opening, texts, closing


def _tool_to_call(request: _Request, question: str) -> dict[str, Any] | None:
    """The function to call: the one chosen, else the first if one is required or the question speaks of a tool."""
    functions: list[dict[str, Any]] = [
        tool["function"] for tool in request.tools or () if isinstance(tool.get("function"), dict)
    ]
    choice = request.tool_choice
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict):
        chosen = choice.get("function")
        name = chosen.get("name") if isinstance(chosen, dict) else None
        return next((function for function in functions if function.get("name") == name), functions[0])
    if choice in ("required", "any"):
        return functions[0]
    answered = bool(request.messages) and request.messages[-1].get("role") == "tool"
    return functions[0] if "tool" in question.lower() and not answered else None


def _read_messages(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """The text of the last user message, and the UTF-8 bytes of the text of all messages."""
    question = ""
    size = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "".join(part for part in parts if isinstance(part, str))
        if not isinstance(content, str):
            continue
        size += len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
        if message.get("role") == "user":
            question = content
    return question, size


def _model_body(simulated: Simulated, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1767225600, "owned_by": f"simulator-{simulated.slug}"}
