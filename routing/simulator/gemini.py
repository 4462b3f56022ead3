"""Gemini's dialect: `/{provider}/v1beta/models/{model}:generateContent` and `:streamGenerateContent?alt=sse`.

As strict about unknown fields as the original.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from routing.simulator.controls import Simulated
from routing.simulator.replies import Asked, Reply, bad_request, respond, utf8_length

_encode = msgspec.json.Encoder().encode
_PATH = re.compile(r"v1(?:beta)?/models/(?P<model>[^:]+):(?P<method>generateContent|streamGenerateContent)")
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class _Part(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    text: str | None = None
    inline_data: dict[str, str] | None = None
    function_call: dict[str, Any] | None = None
    function_response: dict[str, Any] | None = None
    thought_signature: str | None = None


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    parts: Annotated[list[_Part], msgspec.Meta(min_length=1)]
    role: Literal["user", "model"] | None = None


class _Config(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    candidate_count: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: float | None = None
    top_k: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop_sequences: Annotated[list[str], msgspec.Meta(max_length=5)] | None = None
    response_mime_type: Literal["text/plain", "application/json"] | None = None
    response_json_schema: Any = None
    thinking_config: dict[str, Any] | None = None


class _Function(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters_json_schema: Any = None


class _Tool(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    function_declarations: list[_Function] | None = None


class _Calling(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    mode: Literal["AUTO", "ANY", "NONE"] = "AUTO"
    allowed_function_names: list[str] | None = None


class _ToolConfig(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    function_calling_config: _Calling | None = None


class _Request(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    contents: Annotated[list[_Content], msgspec.Meta(min_length=1)]
    system_instruction: _Content | None = None
    generation_config: _Config | None = None
    tools: list[_Tool] | None = None
    tool_config: _ToolConfig | None = None


_decode = msgspec.json.Decoder(_Request).decode


def find_handler(method: str, path: str) -> Any:
    """The handler of a path below the provider, None if it is not of this dialect."""
    return generate_content if method == "POST" and _PATH.fullmatch(path) is not None else None


class _Gemini:
    """See `replies.Dialect`."""

    def whole(self, reply: Reply) -> dict[str, Any]:
        part = _call(reply) if reply.function is not None else {"text": reply.text}
        candidates = [_candidate(index, part, _finish_reason(reply)) for index in range(reply.n)]
        return self._response(reply, candidates, reply.output_tokens)

    def events(self, reply: Reply) -> tuple[list[bytes], list[bytes], list[bytes]]:
        parts = [{"text": piece} for piece in reply.pieces] if reply.function is None else [_call(reply)]
        texts = [
            self._event(reply, _candidate(index, part), reply.output_tokens * (position + 1) // len(parts))
            for position, part in enumerate(parts)
            for index in range(reply.n)
        ]
        closing = [
            self._event(reply, _candidate(index, {"text": ""}, _finish_reason(reply)), reply.output_tokens)
            for index in range(reply.n)
        ]
        return [], texts, closing

    def error(self, status: int, message: str) -> dict[str, Any]:
        return {"error": {"code": status, "message": message, "status": _STATUS_NAMES.get(status, "INTERNAL")}}

    def error_event(self, message: str) -> bytes:
        return b"data: " + _encode(self.error(500, message)) + b"\r\n\r\n"

    def _event(self, reply: Reply, candidate: dict[str, Any], output_tokens: int) -> bytes:
        return b"data: " + _encode(self._response(reply, [candidate], output_tokens)) + b"\r\n\r\n"

    def _response(self, reply: Reply, candidates: list[dict[str, Any]], output_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"candidates": candidates, "modelVersion": reply.model, "responseId": reply.id}
        if reply.with_usage:
            output = output_tokens * reply.n
            body["usageMetadata"] = {
                "promptTokenCount": reply.prompt_tokens,
                "candidatesTokenCount": output,
                "totalTokenCount": reply.prompt_tokens + output,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": reply.prompt_tokens}],
            }
        return body


GEMINI = _Gemini()


async def generate_content(request: web.BaseRequest, simulated: Simulated) -> web.StreamResponse:
    """One call, whole or streamed as its path says, with the provider's behaviour in force."""
    found = _PATH.search(request.path)
    assert found is not None, "find_handler saw the same path"
    try:
        call = _decode(await request.read())
    except msgspec.ValidationError as error:
        return bad_request(request, simulated, GEMINI, f"Invalid request: {error}")
    except msgspec.DecodeError:
        return bad_request(request, simulated, GEMINI, "The body of the request is not JSON.")
    stream = found["method"] == "streamGenerateContent"
    if stream and request.query.get("alt") != "sse":
        return bad_request(request, simulated, GEMINI, "The simulator streams with alt=sse alone.")
    return await respond(request, simulated, _asked(call, found["model"], stream), GEMINI)


def _asked(call: _Request, model: str, stream: bool) -> Asked:
    contents = [*([call.system_instruction] if call.system_instruction is not None else ()), *call.contents]
    texts = [part.text for content in contents for part in content.parts if part.text is not None]
    questions = ["".join(p.text or "" for p in content.parts) for content in call.contents if content.role != "model"]
    config = call.generation_config or _Config()
    calling = (call.tool_config.function_calling_config if call.tool_config is not None else None) or _Calling()
    functions = [function for tool in call.tools or () for function in tool.function_declarations or ()]
    if calling.allowed_function_names:
        functions = [function for function in functions if function.name in calling.allowed_function_names]
    return Asked(
        model=model,
        stream=stream,
        question=next((question for question in reversed(questions) if question), ""),
        text_bytes=sum(map(utf8_length, texts)),
        messages=len(contents),
        most_tokens=config.max_output_tokens,
        n=config.candidate_count or 1,
        functions=[] if calling.mode == "NONE" else [(f.name, f.parameters_json_schema) for f in functions],
        must_call=calling.mode == "ANY",
        answered=any(part.function_response is not None for part in call.contents[-1].parts),
        schema=config.response_json_schema,
    )


def _candidate(index: int, part: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": index}
    if finish_reason is not None:
        candidate["finishReason"] = finish_reason
    return candidate


def _call(reply: Reply) -> dict[str, Any]:
    call = {"id": f"fc-{reply.id}", "name": reply.function, "args": reply.arguments}
    return {"functionCall": call, "thoughtSignature": "c2ltdWxhdGVk"}


def _finish_reason(reply: Reply) -> str:
    return "MAX_TOKENS" if reply.is_cut else "STOP"
