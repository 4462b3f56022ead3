"""A request of Anthropic's Messages API as a chat request of ours, with its original beside it.

The translation serves every provider; what it cannot say makes the call one for Anthropic's protocol alone (`only`), where the
original is sent. What costs extra beside tokens is refused, what would change the price of tokens is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import structs

from iafactory.common.errors import ApiError

from ..chat_request import FILE_TOKENS, IMAGE_TOKENS, ChatRequest, chat_request_parse
from ..providers.native import NATIVE, NativeRequest
from .reading import (
    closed_everywhere,
    list_of,
    not_offered,
    object_of,
    optional_bool,
    optional_number,
    optional_object,
    optional_text,
    schema_of,
    text_of,
    written_bytes,
    wrong,
)

_encode = msgspec.json.Encoder().encode

_KNOWN = frozenset(
    {
        "cache_control",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
# They choose a tier, a price, or whose account pays: ours to decide, and the answer is the same without them.
_LEFT_OUT = frozenset({"service_tier", "speed", "workspace_id", "user_profile_id", "diagnostics"})
# What the original says beside what is ours to set.
_NATIVE_FIELDS = _KNOWN - {"model", "max_tokens", "stream"} - _LEFT_OUT
# Anthropic's own features without a price of their own.
_BETAS = (
    "claude-code-",
    "computer-use-",
    "context-management-",
    "effort-",
    "extended-cache-ttl-",
    "fine-grained-tool-streaming-",
    "interleaved-thinking-",
    "output-128k-",
    "pdfs-",
    "prompt-caching-",
    "structured-outputs-",
    "token-efficient-tools-",
    "tool-examples-",
)
# Tools that clients run themselves, and that only Anthropic's models know by type.
_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "browser_toolset_", "tool_search_tool_")
TYPED_TOOL_TOKENS = 1500
# Blocks in a history that only Anthropic's models can read.
_NATIVE_BLOCKS = frozenset({"search_result", "server_tool_use", "tool_search_tool_result", "tool_reference", "browser_state"})
_DOCUMENT_TYPES = ("application/pdf", "text/plain")
# OpenAI's limit for the same field.
_LONGEST_USER = 64
# Efforts by the tokens a client lets its model think.
_EFFORT_BY_BUDGET = ((4096, "low"), (16_384, "medium"))
_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})


@dataclass(slots=True)
class _Reading:
    """What is learnt of a body while it is translated."""

    # Base64 is no text: each image and document is counted at its bound.
    media_bytes: int = 0
    media_tokens: int = 0
    typed_tools: int = 0
    only: dict[str, None] = field(default_factory=dict)


def messages_request(body: dict[str, Any], *, betas: str = "") -> ChatRequest:
    """Check and translate a body of `/v1/messages`; `betas` is the header `anthropic-beta`.

    Raises `ApiError` 400 naming the field as Anthropic spells it.
    """
    return _request(body, betas=betas, counts_only=False)


def count_request(body: dict[str, Any]) -> ChatRequest:
    """The same for a body of `/v1/messages/count_tokens`, which has no output limit."""
    return _request(body, betas="", counts_only=True)


def _request(body: dict[str, Any], *, betas: str, counts_only: bool) -> ChatRequest:
    for name in body:
        if name not in _KNOWN and name not in _LEFT_OUT and body[name] is not None:
            raise not_offered(name, f"`{name}` is not offered here.")
    reading = _Reading()
    chat: dict[str, Any] = {"model": body.get("model"), "messages": _messages(body, reading)}
    if not counts_only:
        limit = body.get("max_tokens")
        if limit is None:
            raise wrong("max_tokens", "`max_tokens` is required.")
        chat["max_tokens"] = limit
        if body.get("stream") is not None:
            chat["stream"] = body["stream"]
    chat.update(_hints(body))
    if body.get("tools"):
        chat.update(_tools(body, reading))
    elif body.get("tools") is not None:
        list_of(body["tools"], "tools")
    chat.update(_output_config(body))
    thinks = _thinking(body, chat)
    if body.get("cache_control") is not None:
        object_of(body["cache_control"], "cache_control")
    fields = {name: body[name] for name in _NATIVE_FIELDS if body.get(name) is not None}
    chat[NATIVE] = NativeRequest("anthropic", fields, tuple(reading.only), _betas(betas))
    request = chat_request_parse(chat)
    return structs.replace(
        request,
        # JSON never takes fewer bytes than the text it holds: the original's is a bound too.
        text_bytes=max(request.text_bytes, written_bytes(fields) - reading.media_bytes),
        overhead_tokens=request.overhead_tokens
        + max(0, reading.media_tokens - _media_tokens(chat))
        + TYPED_TOOL_TOKENS * reading.typed_tools,
        # A client that lets its model think counts on room for it.
        limit_must_stay=request.limit_must_stay or thinks or reading.typed_tools > 0,
    )


def _media_tokens(chat: Mapping[str, Any]) -> int:
    """What the translation's images and files were counted with."""
    kinds = {"image_url": IMAGE_TOKENS, "file": FILE_TOKENS}
    return sum(
        kinds.get(part["type"], 0)
        for message in chat["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
    )


def _betas(header: str) -> tuple[str, ...]:
    names = (name.strip() for name in header[:2000].split(","))
    return tuple(name for name in names if name.isascii() and name.startswith(_BETAS))


def _hints(body: Mapping[str, Any]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for name, low, high in (("temperature", 0, 1), ("top_p", 0, 1), ("top_k", 0, 1_000_000)):
        if (value := optional_number(body, name, low, high)) is not None:
            hints[name] = value
    if body.get("stop_sequences") is not None:
        stops = list_of(body["stop_sequences"], "stop_sequences")
        for position, stop in enumerate(stops):
            if not isinstance(stop, str) or not stop:
                raise wrong(f"stop_sequences.{position}", "A stop sequence must be a text that is not empty.")
        if stops:
            hints["stop"] = stops
    user = optional_text(optional_object(body, "metadata"), "user_id", "metadata.user_id")
    if user and len(user) <= _LONGEST_USER:
        hints["user"] = user
    return hints


def _output_config(body: Mapping[str, Any]) -> dict[str, Any]:
    config = optional_object(body, "output_config")
    said: dict[str, Any] = {}
    effort = optional_text(config, "effort", "output_config.effort")
    if effort is not None:
        if effort not in _EFFORTS:
            raise wrong("output_config.effort", f"`output_config.effort` must be one of {', '.join(sorted(_EFFORTS))}.")
        said["reasoning_effort"] = effort
    if config.get("format") is not None:
        wanted = object_of(config["format"], "output_config.format")
        if wanted.get("type") != "json_schema":
            raise wrong("output_config.format.type", "`output_config.format.type` must be `json_schema`.")
        schema = schema_of(wanted.get("schema"), "output_config.format.schema")
        named = {"name": "answer", "schema": schema, "strict": closed_everywhere(schema)}
        said["response_format"] = {"type": "json_schema", "json_schema": named}
    for name in config:
        if name not in ("effort", "format"):
            raise not_offered(f"output_config.{name}", f"`output_config.{name}` is not offered here.")
    return said


def _thinking(body: Mapping[str, Any], chat: dict[str, Any]) -> bool:
    """Whether the model is asked to think; how much becomes an effort, unless the client named one."""
    thinking = optional_object(body, "thinking")
    if not thinking:
        return False
    kind = text_of(thinking, "type", "thinking.type")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1024:
            raise wrong("thinking.budget_tokens", "`thinking.budget_tokens` must be an integer of at least 1024.")
        limit = body.get("max_tokens")
        if isinstance(limit, int) and budget >= limit:
            raise wrong("thinking.budget_tokens", "`thinking.budget_tokens` must be less than `max_tokens`.")
        chat.setdefault("reasoning_effort", next((name for most, name in _EFFORT_BY_BUDGET if budget <= most), "high"))
    elif kind not in ("adaptive", "disabled", "between_tools"):
        raise wrong("thinking.type", "`thinking.type` must be `enabled`, `adaptive` or `disabled`.")
    return kind != "disabled"


# -- tools -----------------------------------------------------------------------------------------------------------


def _tools(body: Mapping[str, Any], reading: _Reading) -> dict[str, Any]:
    tools = []
    for position, raw in enumerate(list_of(body["tools"], "tools")):
        where = f"tools.{position}"
        tool = object_of(raw, where)
        kind = optional_text(tool, "type", f"{where}.type")
        if kind not in (None, "custom"):
            if not kind.startswith(_CLIENT_TOOLS):
                raise not_offered(f"{where}.type", f"The tool `{kind[:100]}` is not offered here.")
            reading.only[where] = None
            reading.typed_tools += 1
            continue
        function: dict[str, Any] = {"name": text_of(tool, "name", f"{where}.name")}
        if (description := optional_text(tool, "description", f"{where}.description")) is not None:
            function["description"] = description
        function["parameters"] = object_of(tool.get("input_schema"), f"{where}.input_schema")
        if optional_bool(tool, "strict", f"{where}.strict"):
            function["strict"] = True
        callers = tool.get("allowed_callers")
        if callers not in (None, ["direct"]):
            raise not_offered(f"{where}.allowed_callers", "Tools are called by the model alone here.")
        tools.append({"type": "function", "function": function})
    said: dict[str, Any] = {"tools": tools} if tools else {}
    if body.get("tool_choice") is None:
        return said
    choice = object_of(body["tool_choice"], "tool_choice")
    match choice.get("type"):
        case "auto" | "none" as kind:
            chosen: Any = kind
        case "any":
            chosen = "required"
        case "tool":
            chosen = {"type": "function", "function": {"name": text_of(choice, "name", "tool_choice.name")}}
        case _:
            raise wrong("tool_choice.type", "`tool_choice.type` must be `auto`, `any`, `tool` or `none`.")
    if tools:
        said["tool_choice"] = chosen
        if optional_bool(choice, "disable_parallel_tool_use", "tool_choice.disable_parallel_tool_use"):
            said["parallel_tool_calls"] = False
    return said


# -- messages --------------------------------------------------------------------------------------------------------


def _messages(body: Mapping[str, Any], reading: _Reading) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    if body.get("system") is not None:
        system = _system_text(body["system"], "system")
        if system:
            said.append({"role": "system", "content": system})
    turns = list_of(body.get("messages"), "messages")
    if not turns:
        raise wrong("messages", "`messages` must hold at least one message.")
    for position, raw in enumerate(turns):
        where = f"messages.{position}"
        turn = object_of(raw, where)
        role, content = turn.get("role"), turn.get("content")
        if role == "system":
            said.append({"role": "system", "content": _system_text(content, f"{where}.content")})
            continue
        if role not in ("user", "assistant"):
            raise wrong(f"{where}.role", "`role` must be `user` or `assistant`.")
        if isinstance(content, str):
            said.append({"role": role, "content": content})
            continue
        blocks = list_of(content, f"{where}.content")
        if not blocks:
            raise wrong(f"{where}.content", f"`{where}.content` must not be empty.")
        if role == "user":
            said += _user(blocks, f"{where}.content", reading)
        else:
            said.append(_assistant(blocks, f"{where}.content", reading))
    return said


def _system_text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for position, raw in enumerate(list_of(content, where)):
        block = object_of(raw, f"{where}.{position}")
        if block.get("type") != "text":
            raise wrong(f"{where}.{position}.type", "A system prompt holds text blocks only.")
        texts.append(text_of(block, "text", f"{where}.{position}.text"))
    return "\n\n".join(texts)


def _assistant(blocks: list[Any], where: str, reading: _Reading) -> dict[str, Any]:
    """What the model said before. Its thoughts are for the model that had them: the original brings them back."""
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for position, raw in enumerate(blocks):
        here = f"{where}.{position}"
        block = object_of(raw, here)
        match block.get("type"):
            case "text":
                texts.append(text_of(block, "text", f"{here}.text"))
            case "thinking":
                text_of(block, "thinking", f"{here}.thinking")
                optional_text(block, "signature", f"{here}.signature")
            case "redacted_thinking":
                text_of(block, "data", f"{here}.data")
            case "tool_use":
                name = text_of(block, "name", f"{here}.name")
                arguments = _arguments(block.get("input"), f"{here}.input")
                call: dict[str, Any] = {"id": text_of(block, "id", f"{here}.id"), "type": "function"}
                call["function"] = {"name": name, "arguments": arguments}
                if isinstance(block.get("extra_content"), dict):
                    call["extra_content"] = block["extra_content"]
                calls.append(call)
            case str() as kind if kind in _NATIVE_BLOCKS:
                reading.only[here] = None
            case kind:
                raise _unknown_block(kind, here)
    said: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    if calls:
        said["tool_calls"] = calls
    return said


def _arguments(value: Any, where: str) -> str:
    try:
        return _encode(object_of(value, where)).decode()
    except RecursionError:
        raise wrong(where, f"`{where}` is nested too deeply.") from None


def _user(blocks: list[Any], where: str, reading: _Reading) -> list[dict[str, Any]]:
    """Results become messages of their tools; pictures in them follow as the user's, where every dialect can see them."""
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for position, raw in enumerate(blocks):
        here = f"{where}.{position}"
        block = object_of(raw, here)
        if block.get("type") == "tool_result":
            result, pictures = _tool_result(block, here, reading)
            results.append(result)
            parts += pictures
        elif (part := _part(block, here, reading)) is not None:
            parts.append(part)
    if not parts and results:
        return results
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}]


def _tool_result(block: dict[str, Any], where: str, reading: _Reading) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    call_id = text_of(block, "tool_use_id", f"{where}.tool_use_id")
    content = block.get("content")
    parts: list[dict[str, Any]] = []
    if isinstance(content, str):
        parts.append({"type": "text", "text": content})
    elif content is not None:
        for position, raw in enumerate(list_of(content, f"{where}.content")):
            here = f"{where}.content.{position}"
            if (part := _part(object_of(raw, here), here, reading)) is not None:
                parts.append(part)
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    pictures = [part for part in parts if part["type"] != "text"]
    if optional_bool(block, "is_error", f"{where}.is_error"):
        text = f"Error: {text}"
    if pictures:
        pictures.insert(0, {"type": "text", "text": f"Result of the tool call {call_id}:"})
        text = text or "See the following message."
    return {"role": "tool", "tool_call_id": call_id, "content": text}, pictures


def _part(block: dict[str, Any], where: str, reading: _Reading) -> dict[str, Any] | None:
    """A user's block as a content part; None for what only the original can say."""
    match block.get("type"):
        case "text":
            return {"type": "text", "text": text_of(block, "text", f"{where}.text")}
        case "image":
            return _image(block, where, reading)
        case "document":
            return _document(block, where, reading)
        case str() as kind if kind in _NATIVE_BLOCKS:
            reading.only[where] = None
            return None
        case kind:
            raise _unknown_block(kind, where)


def _unknown_block(kind: Any, where: str) -> ApiError:
    if not isinstance(kind, str):
        return wrong(f"{where}.type", f"`{where}.type` must say what kind of block this is.")
    return not_offered(f"{where}.type", f"Blocks of type `{kind[:100]}` are not offered here.")


def _image(block: dict[str, Any], where: str, reading: _Reading) -> dict[str, Any]:
    source = object_of(block.get("source"), f"{where}.source")
    reading.media_tokens += IMAGE_TOKENS
    match source.get("type"):
        case "url":
            url = text_of(source, "url", f"{where}.source.url")
            if not url.startswith(("https://", "http://")):
                raise wrong(f"{where}.source.url", "An image's address must begin with https:// or http://.")
        case "base64":
            url = _data_url(source, f"{where}.source", reading)
        case "file":
            raise not_offered(f"{where}.source.type", "Files are not kept here: send the image itself or its address.")
        case _:
            raise wrong(f"{where}.source.type", "An image's source must be `base64` or `url`.")
    return {"type": "image_url", "image_url": {"url": url}}


def _data_url(source: Mapping[str, Any], where: str, reading: _Reading) -> str:
    media_type = text_of(source, "media_type", f"{where}.media_type")
    data = text_of(source, "data", f"{where}.data")
    if not data or not data.isascii():
        raise wrong(f"{where}.data", f"`{where}.data` must be base64.")
    reading.media_bytes += len(data)
    return f"data:{media_type};base64,{data}"


def _document(block: dict[str, Any], where: str, reading: _Reading) -> dict[str, Any]:
    """Texts are said as text; a PDF travels as a file. Citations, and what only an address names, are Anthropic's alone."""
    source = object_of(block.get("source"), f"{where}.source")
    title = optional_text(block, "title", f"{where}.title")
    context = optional_text(block, "context", f"{where}.context")
    if block.get("citations") is not None and object_of(block["citations"], f"{where}.citations").get("enabled"):
        reading.only[f"{where}.citations"] = None
    match source.get("type"):
        case "text":
            text = text_of(source, "data", f"{where}.source.data")
            return {"type": "text", "text": "\n".join(piece for piece in (title, context, text) if piece)}
        case "base64":
            reading.media_tokens += FILE_TOKENS
            if source.get("media_type") not in _DOCUMENT_TYPES:
                raise wrong(f"{where}.source.media_type", "A document must be PDF or plain text.")
            held = {"filename": title or "document.pdf", "file_data": _data_url(source, f"{where}.source", reading)}
            return {"type": "file", "file": held}
        case "url":
            reading.media_tokens += FILE_TOKENS
            reading.only[f"{where}.source"] = None
            return {"type": "file", "file": {"file_url": text_of(source, "url", f"{where}.source.url")}}
        case "content":
            reading.only[f"{where}.source"] = None
            inner = source.get("content")
            for position, raw in enumerate(inner if isinstance(inner, list) else ()):
                here = f"{where}.source.content.{position}"
                _part(object_of(raw, here), here, reading)
            return {"type": "text", "text": title or ""}
        case "file":
            raise not_offered(f"{where}.source.type", "Files are not kept here: send the document itself or its address.")
        case _:
            raise wrong(f"{where}.source.type", "A document's source must be `base64`, `text`, `content` or `url`.")
