"""A chat request in OpenAI's dialect, said in Cohere's v2 chat dialect. Only what is named here is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routing.providers.base import Target
from routing.providers.dialect import (
    content_parts,
    image_url,
    is_known_tool_choice,
    is_plain_text,
    messages_of,
    number,
    only_functions,
    output_limit,
    part_text,
    plain_text,
    response_schema,
    stop_sequences,
    tool_call,
    tool_calls_of,
    tool_use,
)
from routing.providers.meaning import hints_of, meaning_changing, unsupported
from routing.providers.native import lost_in_translation

_NEVER = frozenset(
    {
        "n",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "functions",
        "parallel_tool_calls",
        "modalities",
        "audio",
        "web_search_options",
    }
)
# Cohere's names and ranges: a hint beyond the range is taken to its edge.
_HINTS: Mapping[str, tuple[str, float, float]] = {
    "temperature": ("temperature", 0, 2),
    "top_p": ("p", 0.01, 0.99),
    "top_k": ("k", 0, 500),
    "presence_penalty": ("presence_penalty", 0, 1),
    "frequency_penalty": ("frequency_penalty", 0, 1),
}
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


def inexpressible(request: Mapping[str, Any]) -> list[str]:
    """See `ChatAdapter.inexpressible`."""
    fields = lost_in_translation(request)
    fields += [name for name in meaning_changing(request) if name in _NEVER or _is_too_much(name, request)]
    if "parallel_tool_calls" in fields and not request.get("tools"):
        fields.remove("parallel_tool_calls")
    if not all(_is_readable(message) for _, message in messages_of(request)):
        fields.append("messages")
    return fields


def dropped(target: Target, request: Mapping[str, Any]) -> list[str]:
    """See `ChatAdapter.dropped`. A value beyond Cohere's range counts as dropped: its edge is something else."""
    return [name for name in hints_of(request) if not _takes(name, target, request)]


def _takes(name: str, target: Target, request: Mapping[str, Any]) -> bool:
    value = number(request, name)
    if name in _HINTS:
        _, lowest, highest = _HINTS[name]
        return value is not None and lowest <= value <= highest
    if name == "seed":
        return isinstance(value, int) and value >= 0
    return name == "reasoning_effort" and _can_think(target.upstream_model)


def _can_think(model: str) -> bool:
    """Whether a model may be asked to think; others refuse it."""
    return "reasoning" in model


def build_request(target: Target, request: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The body to send. Raises `ProviderError(bad_request)` for what Cohere cannot be told."""
    fields = inexpressible(request)
    if fields:
        raise unsupported(fields[0], f"This model does not support `{fields[0]}` as it is used here.")
    body: dict[str, Any] = {
        "model": target.upstream_model,
        "messages": [_message(message) for _, message in messages_of(request)],
        "stream": stream,
    }
    use = tool_use(request)
    if use.functions:
        body["tools"] = [_tool(function) for function in use.functions]
        # Left out, the model decides; there is no word for that.
        if use.mode != "auto":
            body["tool_choice"] = use.mode.upper()
    is_json, schema = response_schema(request)
    if is_json:
        body["response_format"] = {"type": "json_object"} if schema is None else {"type": "json_object", "json_schema": schema}
    if (limit := output_limit(request)) is not None:
        body["max_tokens"] = limit
    if stops := stop_sequences(request):
        body["stop_sequences"] = stops
    for name, (theirs, lowest, highest) in _HINTS.items():
        if (value := number(request, name)) is not None:
            body[theirs] = min(max(value, lowest), highest)
    if isinstance(seed := number(request, "seed"), int) and seed >= 0:
        body["seed"] = seed
    effort = request.get("reasoning_effort")
    if isinstance(effort, str) and _can_think(target.upstream_model):
        body["thinking"] = {"type": "disabled" if effort == "none" else "enabled"}
    return body


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    match role:
        case "system" | "developer":
            return {"role": "system", "content": plain_text(content)}
        case "tool":
            return {"role": "tool", "tool_call_id": message.get("tool_call_id") or "", "content": plain_text(content)}
        case "assistant":
            calls = [tool_call(call_id, name, arguments) for call_id, name, arguments, _ in tool_calls_of(message)]
            if not calls:
                return {"role": "assistant", "content": plain_text(content)}
            said: dict[str, Any] = {"role": "assistant", "tool_calls": calls}
            # What was said before calling is the plan for it.
            plan = plain_text(content) or message.get("reasoning_content")
            if isinstance(plan, str) and plan:
                said["tool_plan"] = plan
            return said
    if is_plain_text(content):
        return {"role": "user", "content": plain_text(content)}
    return {"role": "user", "content": [_part(part) for part in content_parts(content)]}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    text = part_text(part)
    if text is not None:
        return {"type": "text", "text": text}
    return {"type": "image_url", "image_url": {"url": image_url(part)}}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    described = {"description": function["description"]} if isinstance(function.get("description"), str) else {}
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, Mapping) and parameters else _NO_PARAMETERS
    return {"type": "function", "function": {"name": function["name"], **described, "parameters": parameters}}


def _is_readable(message: Mapping[str, Any]) -> bool:
    """Whether a message holds text alone, a user's also images."""
    content = message.get("content")
    match message.get("role"):
        case "user":
            return all(
                part_text(part) is not None or (part.get("type") == "image_url" and image_url(part) is not None)
                for part in content_parts(content)
            )
        case "system" | "developer" | "assistant" | "tool":
            return is_plain_text(content) and not message.get("function_call")
        case _:
            return False


def _is_too_much(name: str, request: Mapping[str, Any]) -> bool:
    """Whether a field Cohere knows asks for more than it has."""
    match name:
        case "tools":
            return not only_functions(request)
        case "tool_choice":
            return not is_known_tool_choice(request["tool_choice"])
        case "response_format":
            # A format is refused beside tools.
            return not response_schema(request)[0] or bool(request.get("tools"))
    return False
