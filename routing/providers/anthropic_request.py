"""A chat request in OpenAI's dialect, said in Anthropic's Messages dialect.

Only what is named here is sent: Anthropic refuses unknown fields, and some of its own would change the price of a call.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from routing.providers.base import FailureClass, ProviderError, Target
from routing.providers.dialect import (
    data_url,
    image_url,
    is_known_tool_choice,
    only_functions,
    output_limit,
    part_text,
    response_schema,
    stop_sequences,
    tool_calls_of,
    tool_use,
)
from routing.providers.meaning import content_part_types, hints_of, meaning_changing, unsupported
from routing.providers.native import NativeRequest, lost_in_translation, native_of

PROTOCOL = "anthropic"
VERSION = "2023-06-01"
VERSION_WITHOUT_SAMPLING = "2026-10-21"

# The protocol has no default; the pipeline always sets a limit, other callers may forget.
_DEFAULT_MAX_TOKENS = 4096
_LONGEST_USER_ID = 256
_NEVER = frozenset({"n", "logprobs", "top_logprobs", "logit_bias", "functions", "modalities", "audio", "web_search_options"})
_SAMPLING = ("temperature", "top_p", "top_k")
_COUNTED_FIELDS = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"}
)
_PART_TYPES = frozenset({"text", "refusal", "image_url", "file"})
_MEDIA_TYPES = {"image/jpg": "image/jpeg"}
_NOT_IN_TOOL_IDS = re.compile(r"[^A-Za-z0-9_-]")
# `claude-sonnet-4-6`, `claude-3-7-sonnet-20250219`: major, then minor; a date is longer.
_VERSION_NUMBERS = re.compile(r"(?<!\d)\d{1,2}(?!\d)")
_LAST_WITH_SAMPLING = (4, 6)
_FIRST_ADAPTIVE = (4, 6)
_FIRST_WITH_XHIGH = (4, 7)
_NEWEST = (99, 0)

_EFFORTS: Mapping[str, str] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
# For models that know no effort: what they may think, at most half of the output limit and never below the protocol's least.
_BUDGETS: Mapping[str, int] = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 32_768,
}
_LEAST_BUDGET = 1024
_DEEPEST_SCHEMA = 100


def inexpressible(request: Mapping[str, Any]) -> list[str]:
    """See `ChatAdapter.inexpressible`."""
    if native_of(request, PROTOCOL) is not None:
        return []
    missing = lost_in_translation(request)
    missing += [name for name in meaning_changing(request) if name in _NEVER or not _can_say(name, request)]
    if not _can_read_messages(request):
        missing.append("messages")
    return missing


def dropped(target: Target, request: Mapping[str, Any]) -> list[str]:
    """See `ChatAdapter.dropped`."""
    given = hints_of(request)
    if not given:
        return []
    if native_of(request, PROTOCOL) is not None:
        # How much to think is said in the client's own words.
        return [] if _takes_sampling(target) else [name for name in _SAMPLING if name in given]
    forced = bool(request.get("tools")) and tool_use(request).mode == "required"
    version = model_version(target.upstream_model)
    thinking, output_config = _thinking(request, version, output_limit(request) or _DEFAULT_MAX_TOKENS, forced=forced)
    sampling = _sampling(request) if _takes_sampling(target) and thinking is None else {}
    taken = {name for name in sampling if sampling[name] == request[name]}
    if thinking is not None or output_config:
        taken.add("reasoning_effort")
    return [name for name in given if name not in taken]


def _can_say(name: str, request: Mapping[str, Any]) -> bool:
    match name:
        case "stop":
            # A stop sequence of white space alone is refused there.
            return all(sequence.strip() for sequence in stop_sequences(request))
        case "response_format":
            # There is no way to ask for any JSON whatever: the format is a schema.
            return response_schema(request)[1] is not None
        case "tools":
            return only_functions(request)
        case "tool_choice":
            return is_known_tool_choice(request["tool_choice"])
    return True


def _can_read_messages(request: Mapping[str, Any]) -> bool:
    if not content_part_types(request) <= _PART_TYPES:
        return False
    for message in request.get("messages") or ():
        if message.get("role") == "function" or message.get("function_call"):
            return False
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") == "file":
                file = part.get("file")
                if not isinstance(file, Mapping) or not isinstance(file.get("file_data"), str):
                    return False
    return True


def build_request(target: Target, request: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The body to send. Raises `ProviderError(bad_request)` for what cannot be said or is malformed; sends nothing."""
    native = native_of(request, PROTOCOL)
    if native is not None:
        return _native_body(target, request, native, stream=stream)
    missing = inexpressible(request)
    if missing:
        raise unsupported(missing[0], f"This model does not support `{missing[0]}` as it is used here.")
    system, turns = _system_and_turns(request["messages"])
    max_tokens = output_limit(request) or _DEFAULT_MAX_TOKENS
    body: dict[str, Any] = {"model": target.upstream_model, "max_tokens": max_tokens, "messages": turns}
    if system:
        body["system"] = system
    if stream:
        body["stream"] = True
    if stop := stop_sequences(request):
        body["stop_sequences"] = stop
    user = request.get("user") or request.get("safety_identifier")
    if isinstance(user, str) and 0 < len(user) <= _LONGEST_USER_ID:
        body["metadata"] = {"user_id": user}
    if request.get("tools"):
        body.update(_tools(request))
    version = model_version(target.upstream_model)
    thinking, output_config = _thinking(request, version, max_tokens, forced=_forces_a_tool(body))
    if thinking is not None:
        body["thinking"] = thinking
    schema = response_schema(request)[1]
    if schema is not None:
        output_config["format"] = {"type": "json_schema", "schema": closed_schema(schema)}
    if output_config:
        body["output_config"] = output_config
    if _takes_sampling(target) and thinking is None:
        body.update(_sampling(request))
    return body


def _native_body(target: Target, request: Mapping[str, Any], native: NativeRequest, *, stream: bool) -> dict[str, Any]:
    """The client's own request with our model and limit. Left out is what this model or this protocol would refuse."""
    max_tokens = output_limit(request) or _DEFAULT_MAX_TOKENS
    body: dict[str, Any] = {"model": target.upstream_model, "max_tokens": max_tokens, **native.fields}
    body["messages"] = [_native_turn(turn) for turn in native.fields["messages"]]
    # What came from other models alone leaves nothing.
    body["messages"] = [turn for turn in body["messages"] if turn["content"]]
    thinking = body.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") == "enabled" and thinking["budget_tokens"] >= max_tokens:
        # The limit is this model's largest, or what the credits pay for: at least half of it is for the answer.
        if max_tokens // 2 < _LEAST_BUDGET:
            del body["thinking"]
        else:
            body["thinking"] = {**thinking, "budget_tokens": max_tokens // 2}
    if not _takes_sampling(target):
        for name in _SAMPLING:
            body.pop(name, None)
    if stream:
        body["stream"] = True
    return body


def _native_turn(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """A turn without what answers of other models brought into it: unsigned thoughts, foreign ids and marks on calls."""
    content = turn["content"]
    if not isinstance(content, list):
        return turn
    blocks = []
    for block in content:
        kind = block["type"]
        if kind == "thinking" and not block.get("signature"):
            continue
        if kind == "tool_use" and ("extra_content" in block or _NOT_IN_TOOL_IDS.search(block["id"])):
            block = {**block, "id": _tool_id(block["id"])}
            block.pop("extra_content", None)
        elif kind == "tool_result" and _NOT_IN_TOOL_IDS.search(block["tool_use_id"]):
            block = {**block, "tool_use_id": _tool_id(block["tool_use_id"])}
        blocks.append(block)
    return {**turn, "content": blocks}


def count_tokens_body(target: Target, request: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `/v1/messages/count_tokens` for a request; see `build_request`."""
    body = build_request(target, request, stream=False)
    return {name: value for name, value in body.items() if name in _COUNTED_FIELDS}


def betas_of(request: Mapping[str, Any]) -> dict[str, str]:
    """The header with which a client switched on features of this protocol."""
    native = native_of(request, PROTOCOL)
    return {"anthropic-beta": ",".join(native.betas)} if native is not None and native.betas else {}


def _takes_sampling(target: Target) -> bool:
    return model_version(target.upstream_model) <= _LAST_WITH_SAMPLING and "no_sampling" not in target.quirks


def api_version(target: Target) -> str:
    """The value of the `anthropic-version` header."""
    return VERSION_WITHOUT_SAMPLING if "no_sampling" in target.quirks else VERSION


def model_version(model: str) -> tuple[int, int]:
    """Major and minor version in a model's name; a name without one counts as the newest."""
    numbers = [int(number) for number in _VERSION_NUMBERS.findall(model)]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers else _NEWEST


def closed_schema(schema: Any, depth: int = 0) -> Any:
    """The schema with every object closed, as Anthropic demands: one that says nothing of further properties gets none.

    Raises `ProviderError(bad_request)` for one that is nested beyond reason.
    """
    if depth > _DEEPEST_SCHEMA:
        raise _wrong("tools", "A schema is nested too deeply.")
    if isinstance(schema, list):
        return [closed_schema(inner, depth + 1) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(key), dict):
            closed[key] = {name: closed_schema(inner, depth + 1) for name, inner in schema[key].items()}
    for key in ("items", "anyOf", "oneOf", "allOf", "prefixItems"):
        if key in schema:
            closed[key] = closed_schema(schema[key], depth + 1)
    if schema.get("type") == "object" or "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def _sampling(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the older models take: one of temperature (at most 1 there) and top_p, and top_k."""
    sampling: dict[str, Any] = {}
    if (temperature := request.get("temperature")) is not None:
        sampling["temperature"] = min(temperature, 1)
    elif (top_p := request.get("top_p")) is not None:
        sampling["top_p"] = top_p
    if isinstance(top_k := request.get("top_k"), int):
        sampling["top_k"] = top_k
    return sampling


def _thinking(
    request: Mapping[str, Any], version: tuple[int, int], max_tokens: int, *, forced: bool
) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """`thinking` and `output_config` for a wished effort. A forced tool and thinking exclude each other: the tool wins."""
    wish = request.get("reasoning_effort")
    if not isinstance(wish, str) or wish not in _EFFORTS:
        return None, {}
    effort = _EFFORTS[wish]
    if version >= _FIRST_ADAPTIVE:
        if effort == "xhigh" and version < _FIRST_WITH_XHIGH:
            effort = "high"
        # Some of these models refuse to be told not to think: `none` says no more than low effort.
        adaptive = None if forced or wish == "none" else {"type": "adaptive"}
        return adaptive, {"effort": effort}
    budget = min(_BUDGETS.get(wish, 0), max_tokens // 2)
    if forced or budget < _LEAST_BUDGET or _in_a_tool_loop(request):
        return None, {}
    return {"type": "enabled", "budget_tokens": budget}, {}


def _in_a_tool_loop(request: Mapping[str, Any]) -> bool:
    """Whether the last turn answers a tool call: thinking would need the signed thoughts before it, which nobody kept."""
    last: Mapping[str, Any] = request["messages"][-1]
    return last.get("role") == "tool"


def _forces_a_tool(body: Mapping[str, Any]) -> bool:
    choice = body.get("tool_choice")
    return choice is not None and choice["type"] in ("any", "tool")


def _tools(request: Mapping[str, Any]) -> dict[str, Any]:
    """`tools` and `tool_choice`. One chosen by name leaves the others in place: caches start with the tools."""
    use = tool_use(request)
    choice = request.get("tool_choice")
    chosen = choice.get("function") if isinstance(choice, Mapping) else None
    named = None if chosen is None else chosen["name"]
    allowed = {function["name"] for function in use.functions}
    tools = [tool for tool in request["tools"] if named is not None or tool["function"]["name"] in allowed]
    if use.mode == "none":
        return {"tools": [_tool(tool) for tool in tools], "tool_choice": {"type": "none"}}
    said: dict[str, Any] = {"type": "auto"}
    if named is not None:
        said = {"type": "tool", "name": named}
    elif use.mode == "required":
        said = {"type": "any"}
    if request.get("parallel_tool_calls") is False:
        said["disable_parallel_tool_use"] = True
    return {"tools": [_tool(tool) for tool in tools], "tool_choice": said}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    said: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        said["description"] = function["description"]
    parameters = function.get("parameters")
    said["input_schema"] = {"type": "object", **(parameters if isinstance(parameters, dict) else {})}
    if function.get("strict") is True:
        said["strict"] = True
        said["input_schema"] = closed_schema(said["input_schema"])
    return said | _cache_mark(tool)


def _system_and_turns(messages: list[Mapping[str, Any]]) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """System texts, wherever they stood, and the turns: neighbours of one role are one turn, tool results are the user's."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        where = f"messages.{position}"
        role = message["role"]
        if role in ("system", "developer"):
            system += _blocks(message.get("content"), where)
            continue
        if role == "assistant":
            blocks = _assistant_blocks(message, where)
        elif role == "tool":
            blocks = [_tool_result(message, where)]
        else:
            blocks = _blocks(message.get("content"), where)
        role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns and system:
        # A system message alone is a question too, and the protocol wants a user who asks.
        turns, system = [{"role": "user", "content": system}], []
    for turn in turns:
        turn["content"] = _plain(turn["content"])
    return _plain(system), turns


def _plain(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One text block without marks is said as a string."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        text: str = blocks[0]["text"]
        return text
    return blocks


def _assistant_blocks(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    blocks = _blocks(message.get("content"), where)
    blocks += _blocks(message.get("refusal"), where)
    calls = tool_calls_of(message)
    if len(calls) != len(message.get("tool_calls") or ()):
        raise unsupported("messages", f"`{where}.tool_calls` holds something else than function calls.")
    for index, (call_id, name, arguments, _) in enumerate(calls):
        taken = _arguments(arguments, f"{where}.tool_calls.{index}.function.arguments")
        blocks.append({"type": "tool_use", "id": _tool_id(call_id), "name": name, "input": taken})
    return blocks


def _arguments(text: str, where: str) -> dict[str, Any]:
    """A call's arguments as the object they must be there; nothing at all is an empty one."""
    try:
        arguments = msgspec.json.decode(text) if text.strip() else {}
    except msgspec.DecodeError:
        raise _wrong(where, f"`{where}` is not valid JSON.") from None
    if not isinstance(arguments, dict):
        raise _wrong(where, f"`{where}` must be a JSON object.")
    return arguments


def _tool_result(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _tool_id(message.get("tool_call_id"))}
    if content := _blocks(message.get("content"), where):
        result["content"] = _plain(content)
    return result


def _tool_id(value: Any) -> str:
    return _NOT_IN_TOOL_IDS.sub("_", value if isinstance(value, str) else "")


def _blocks(content: Any, where: str) -> list[dict[str, Any]]:
    """Content as blocks. Texts without a visible character are left out: the protocol refuses them."""
    parts = content if isinstance(content, list) else [content]
    blocks = []
    for index, part in enumerate(parts):
        block = _block(part, f"{where}.content.{index}")
        if block is not None:
            blocks.append(block)
    return blocks


def _block(part: Any, where: str) -> dict[str, Any] | None:
    if isinstance(part, str):
        return {"type": "text", "text": part} if part.strip() else None
    if not isinstance(part, Mapping):
        return None
    match part.get("type"):
        case "text" | "refusal":
            text = part_text(part)
            return {"type": "text", "text": text} | _cache_mark(part) if text is not None and text.strip() else None
        case "image_url":
            return {"type": "image", "source": _image_source(image_url(part), where)} | _cache_mark(part)
        case "file":
            return _document(part["file"], where) | _cache_mark(part)
    raise unsupported("messages", f"`{where}` is of a type this model cannot read.")


def _cache_mark(part: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic's own mark of what to cache, which clients of this dialect may set too."""
    mark = part.get("cache_control")
    return {"cache_control": mark} if isinstance(mark, Mapping) else {}


def _image_source(url: str | None, where: str) -> dict[str, Any]:
    if url is not None and url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    media_type, data = _held_data(url, where)
    return {"type": "base64", "media_type": _MEDIA_TYPES.get(media_type, media_type), "data": data}


def _document(file: Mapping[str, Any], where: str) -> dict[str, Any]:
    media_type, data = _held_data(file["file_data"], where)
    if media_type == "text/plain":
        try:
            text = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _wrong(where, f"`{where}` is not text in base64.") from None
        source = {"type": "text", "media_type": media_type, "data": text}
    elif media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": data}
    else:
        raise unsupported("messages", f"`{where}`: only PDF and plain text files can be read.")
    title = file.get("filename")
    return {"type": "document", "source": source} | ({"title": title} if isinstance(title, str) and title else {})


def _held_data(url: Any, where: str) -> tuple[str, str]:
    held = data_url(url)
    if held is None:
        raise _wrong(where, f"`{where}` must hold an http(s) URL or a data URL in base64.")
    return held


def _wrong(where: str, message: str) -> ProviderError:
    return ProviderError(FailureClass.BAD_REQUEST, message, code="invalid_value", param=where)
