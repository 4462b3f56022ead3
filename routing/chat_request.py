"""A chat request in OpenAI's dialect: checked where a wrong type would hurt, everything else passed through untouched."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from iafactory.common.errors import ApiError
from iafactory.common.rendering import decode_json

from .call_request import WorstCase
from .pricing import worst_list_cost
from .providers.registry import adapter_for
from .snapshot import Price, Route

ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
LARGEST_TOKEN_LIMIT = 10_000_000
LARGEST_N = 128
# Providers' hidden role marks and tool prompts; estimates of providers' own counting.
BASE_OVERHEAD_TOKENS = 50
MESSAGE_OVERHEAD_TOKENS = 16
TOOL_OVERHEAD_TOKENS = 50
TOOLS_OVERHEAD_TOKENS = 700
IMAGE_TOKENS = 4000
FILE_TOKENS = 100_000

# What providers bill beside the tokens, at prices no route has.
_UNPRICED = frozenset({"web_search_options", "audio"})
# What is part of the input beside the messages and the tools.
_COUNTED = frozenset({"functions", "response_format", "prediction", "tool_choice"})
_RANGES = (("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2))
_RANGED = frozenset(name for name, _, _ in _RANGES)


class ChatRequest(msgspec.Struct, frozen=True):
    """A checked `CallRequest` for chat; the counts say how large its input can be for any tokenizer."""

    mode: ClassVar[str] = "chat"
    body: Mapping[str, Any]
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    n: int
    limit_must_stay: bool
    text_bytes: int
    overhead_tokens: int

    @property
    def input_tokens_at_most(self) -> int:
        """No byte-level tokenizer makes more tokens than bytes: the bound that holds are made of."""
        return self.text_bytes + self.overhead_tokens

    @property
    def input_tokens_estimated(self) -> int:
        """What such input usually counts: for calls whose provider never reported."""
        return max(1, self.text_bytes * 13 // 40)

    def inexpressible(self, route: Route) -> list[str]:
        return adapter_for(route.protocol).inexpressible(self.body, route.quirks)

    def worst_case(self, route: Route, price: Price, *, max_tokens: int | None = None) -> WorstCase:
        input_tokens = self.input_tokens_at_most
        if route.context_window is not None:
            input_tokens = min(input_tokens, route.context_window)
        output_tokens = max_tokens or self.max_tokens or route.default_max_output
        if route.max_output_tokens is not None:
            output_tokens = min(output_tokens, route.max_output_tokens)
        cost = worst_list_cost(price, input_tokens=input_tokens, output_tokens=output_tokens * self.n)
        return WorstCase(input_tokens, output_tokens, cost)


def _wrong(param: str, message: str, code: str = "invalid_request") -> ApiError:
    return ApiError(400, code, message, param=param)


def decode_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request body. Raises `ApiError` 400 for anything else."""
    try:
        body = decode_json(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "invalid_json", "The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "The body must be a JSON object.")
    return body


def _optional_bool(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(name, f"`{name}` must be true or false.")
    return value


def _optional_int(body: Mapping[str, Any], name: str, *, highest: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, f"`{name}` must be an integer.")
    if not 1 <= value <= highest:
        raise _wrong(name, f"`{name}` must be between 1 and {highest}.")
    return value


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


class _Input:
    """Adds up how large the input can be."""

    def __init__(self) -> None:
        self.text_bytes = 0
        self.overhead_tokens = BASE_OVERHEAD_TOKENS

    def add_json(self, value: Any) -> None:
        self.text_bytes += len(msgspec.json.encode(value))

    def add_part(self, part: Any, where: str) -> None:
        if isinstance(part, str):
            self.text_bytes += _utf8_length(part)
            return
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise _wrong(where, "A content part must be an object with a `type`.")
        match part["type"]:
            case "image_url":
                self.overhead_tokens += IMAGE_TOKENS
            case "input_audio":
                # Billed by its own price, which no route has.
                raise _wrong(where, "Audio input is not offered here.", "unsupported_parameter")
            case "file":
                self.overhead_tokens += FILE_TOKENS
            case _:
                self.add_json(part)

    def add_message(self, message: Any, position: int) -> None:
        where = f"messages.{position}"
        if not isinstance(message, dict):
            raise _wrong(where, "A message must be an object.")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise _wrong(f"{where}.role", f"`role` must be one of {', '.join(sorted(ROLES))}.")
        content = message.get("content")
        if isinstance(content, str):
            self.text_bytes += _utf8_length(content)
        elif isinstance(content, list):
            for index, part in enumerate(content):
                self.add_part(part, f"{where}.content.{index}")
        elif content is not None or role in ("user", "system", "developer"):
            raise _wrong(f"{where}.content", "`content` must be a string or a list of content parts.")
        rest = {name: value for name, value in message.items() if name not in ("role", "content")}
        if rest:
            self.add_json(rest)
        self.overhead_tokens += MESSAGE_OVERHEAD_TOKENS


def chat_request_parse(body: dict[str, Any], *, auto_model: str | None = None) -> ChatRequest:
    """Check a decoded body. `auto_model` stands in for a missing `model`. Raises `ApiError` 400 naming the field."""
    model = body.get("model", auto_model)
    if not isinstance(model, str) or not 1 <= len(model) <= 200 or "\0" in model:
        raise _wrong("model", "`model` must be the name of a model.")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "`messages` must be a list with at least one message.")
    counted = _Input()
    for position, message in enumerate(messages):
        counted.add_message(message, position)

    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise _wrong("tools", "`tools` must be a list of objects.")
        counted.add_json(tools)
        counted.overhead_tokens += TOOL_OVERHEAD_TOKENS * len(tools) + (TOOLS_OVERHEAD_TOKENS if tools else 0)
    if not _COUNTED.isdisjoint(body):
        for name in _COUNTED:
            if body.get(name) is not None:
                counted.add_json(body[name])

    stream = _optional_bool(body, "stream")
    stream_options = body.get("stream_options")
    if stream_options is not None and not isinstance(stream_options, dict):
        raise _wrong("stream_options", "`stream_options` must be an object.")
    if stream_options and not stream:
        raise _wrong("stream_options", "`stream_options` is only allowed when `stream` is true.")
    limits = (
        _optional_int(body, "max_completion_tokens", highest=LARGEST_TOKEN_LIMIT),
        _optional_int(body, "max_tokens", highest=LARGEST_TOKEN_LIMIT),
    )
    for name, low, high in () if _RANGED.isdisjoint(body) else _RANGES:
        value = body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high):
            raise _wrong(name, f"`{name}` must be a number between {low} and {high}.")
    for name in () if _UNPRICED.isdisjoint(body) else sorted(_UNPRICED):
        if body.get(name) is not None:
            raise _wrong(name, f"`{name}` is not offered here.", "unsupported_parameter")
    modalities = body.get("modalities")
    if modalities not in (None, ["text"]):
        raise _wrong("modalities", "Only text is answered here.", "unsupported_parameter")
    response_format = body.get("response_format")
    if response_format is not None and not isinstance(response_format, dict):
        raise _wrong("response_format", "`response_format` must be an object.")
    plain_text = response_format is None or response_format.get("type") == "text"
    return ChatRequest(
        body=body,
        model=model,
        stream=stream,
        include_usage=bool(stream_options and stream_options.get("include_usage")),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        n=_optional_int(body, "n", highest=LARGEST_N) or 1,
        limit_must_stay=bool(tools or body.get("functions")) or not plain_text,
        text_bytes=counted.text_bytes,
        overhead_tokens=counted.overhead_tokens,
    )
