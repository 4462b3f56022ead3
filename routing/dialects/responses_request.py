"""A request of OpenAI's Responses API as a chat request of ours. Nothing is kept here that a later call could name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iafactory.common.errors import ApiError

from ..chat_request import ChatRequest, chat_request_parse
from .reading import (
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

# What would need a memory of ours.
_MEMORIES: Mapping[str, str] = {
    "conversation": "Conversations are not kept here: send the whole of it as `input`.",
    "previous_response_id": "Answers are not kept here: send the whole conversation as `input`.",
    "prompt": "Prompts are not kept here: send `instructions` and `input`.",
    "store": "Answers are not kept here: leave `store` out, or say false.",
}
# Taken and without effect here: hints for OpenAI's own service, or limits of tools that are not offered.
_WITHOUT_EFFECT = frozenset(
    {
        "include",
        "max_tool_calls",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
    }
)
_READ = frozenset(
    {
        "input",
        "instructions",
        "max_output_tokens",
        "model",
        "parallel_tool_calls",
        "reasoning",
        "stream",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_p",
        "truncation",
        "user",
    }
)
_LONGEST_USER = 64
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_VERBOSITIES = frozenset({"low", "medium", "high"})


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """The chat request, and what the answer repeats of the client's own."""

    chat: ChatRequest
    echo: Mapping[str, Any]


def responses_request(body: dict[str, Any]) -> ResponsesRequest:
    """Check and translate a body of `/v1/responses`. Raises `ApiError` 400 naming the field as OpenAI spells it."""
    for name, value in body.items():
        if value is None or name in _READ or name in _WITHOUT_EFFECT:
            continue
        if name in _MEMORIES or name == "background":
            if value is not False:
                raise _later(name)
        else:
            raise not_offered(name, f"`{name}` is not offered here.")
    if body.get("truncation") not in (None, "disabled"):
        raise not_offered("truncation", "Input is never shortened here.")
    messages: list[dict[str, Any]] = []
    if instructions := optional_text(body, "instructions", "instructions"):
        messages.append({"role": "system", "content": instructions})
    messages += _messages(body.get("input"))
    chat: dict[str, Any] = {"model": body.get("model"), "messages": messages}
    if body.get("stream") is not None:
        chat["stream"] = body["stream"]
    if body.get("max_output_tokens") is not None:
        limit = body["max_output_tokens"]
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise wrong("max_output_tokens", "`max_output_tokens` must be a positive integer.")
        chat["max_completion_tokens"] = limit
    for name, high in (("temperature", 2), ("top_p", 1)):
        if (value := optional_number(body, name, 0, high)) is not None:
            chat[name] = value
    if (user := optional_text(body, "user", "user")) and len(user) <= _LONGEST_USER:
        chat["user"] = user
    _check_metadata(body)
    effort = optional_text(optional_object(body, "reasoning"), "effort", "reasoning.effort")
    if effort is not None:
        if effort not in _EFFORTS:
            raise wrong("reasoning.effort", f"`reasoning.effort` must be one of {', '.join(sorted(_EFFORTS))}.")
        chat["reasoning_effort"] = effort
    text = optional_object(body, "text")
    chat |= _text(text)
    chat |= _tools(body)
    echo = _echo(body, text)
    written_bytes([chat, echo])
    return ResponsesRequest(chat_request_parse(chat), echo)


def _later(name: str) -> ApiError:
    """The refusal of what a later request would come back to."""
    if name == "background":
        return ApiError(400, "background_not_offered", "Answers in the background are not offered here.", param=name)
    return ApiError(400, "state_not_kept", _MEMORIES[name], param=name)


def _check_metadata(body: Mapping[str, Any]) -> None:
    for name, value in optional_object(body, "metadata").items():
        if not isinstance(value, str):
            raise wrong(f"metadata.{name}"[:200], "The values of `metadata` must be strings.")


def _echo(body: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = optional_object(body, "reasoning")
    return {
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": False,
        "temperature": body.get("temperature"),
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "user": body.get("user"),
    }


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    verbosity = optional_text(text, "verbosity", "text.verbosity")
    if verbosity is not None:
        if verbosity not in _VERBOSITIES:
            raise wrong("text.verbosity", f"`text.verbosity` must be one of {', '.join(sorted(_VERBOSITIES))}.")
        said["verbosity"] = verbosity
    if text.get("format") is None:
        return said
    wanted = object_of(text["format"], "text.format")
    match wanted.get("type"):
        case "text":
            pass
        case "json_object":
            said["response_format"] = {"type": "json_object"}
        case "json_schema":
            named: dict[str, Any] = {
                "name": text_of(wanted, "name", "text.format.name"),
                "schema": schema_of(wanted.get("schema"), "text.format.schema"),
            }
            if (description := optional_text(wanted, "description", "text.format.description")) is not None:
                named["description"] = description
            if (strict := optional_bool(wanted, "strict", "text.format.strict")) is not None:
                named["strict"] = strict
            said["response_format"] = {"type": "json_schema", "json_schema": named}
        case _:
            raise wrong("text.format.type", "`text.format.type` must be `text`, `json_object` or `json_schema`.")
    return said


# -- tools -----------------------------------------------------------------------------------------------------------


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    if body.get("tools") is None:
        return {}
    tools = []
    for position, raw in enumerate(list_of(body["tools"], "tools")):
        where = f"tools.{position}"
        tool = object_of(raw, where)
        kind = text_of(tool, "type", f"{where}.type")
        if kind != "function":
            raise not_offered(f"{where}.type", f"The tool `{kind[:100]}` is not offered here.")
        function: dict[str, Any] = {"name": text_of(tool, "name", f"{where}.name")}
        if (description := optional_text(tool, "description", f"{where}.description")) is not None:
            function["description"] = description
        if tool.get("parameters") is not None:
            function["parameters"] = object_of(tool["parameters"], f"{where}.parameters")
        if (strict := optional_bool(tool, "strict", f"{where}.strict")) is not None:
            function["strict"] = strict
        tools.append({"type": "function", "function": function})
    if not tools:
        return {}
    said: dict[str, Any] = {"tools": tools}
    if body.get("tool_choice") is not None:
        said["tool_choice"] = _tool_choice(body["tool_choice"])
    if (parallel := optional_bool(body, "parallel_tool_calls", "parallel_tool_calls")) is not None:
        said["parallel_tool_calls"] = parallel
    return said


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise wrong("tool_choice", "`tool_choice` must be `none`, `auto`, `required` or an object.")
        return choice
    match object_of(choice, "tool_choice").get("type"):
        case "function":
            return _named(choice, "tool_choice")
        case "allowed_tools":
            tools = [
                _named(object_of(raw, f"tool_choice.tools.{position}"), f"tool_choice.tools.{position}")
                for position, raw in enumerate(list_of(choice.get("tools"), "tool_choice.tools"))
            ]
            mode = text_of(choice, "mode", "tool_choice.mode")
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
        case _:
            raise not_offered("tool_choice.type", "Only functions can be chosen here.")


def _named(choice: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": text_of(choice, "name", f"{where}.name")}}


# -- input -----------------------------------------------------------------------------------------------------------


def _messages(items: Any) -> list[dict[str, Any]]:
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    conversation = _Conversation()
    for position, raw in enumerate(list_of(items, "input")):
        conversation.add(object_of(raw, f"input.{position}"), f"input.{position}")
    conversation.end()
    if not conversation.messages:
        raise wrong("input", "`input` must hold at least one message.")
    return conversation.messages


class _Conversation:
    """Items as messages: a turn's text and calls are one message; pictures in results follow their turn's last result."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._pictures: list[dict[str, Any]] = []

    def add(self, item: dict[str, Any], where: str) -> None:
        kind = item.get("type", "message")
        if kind != "function_call_output":
            self.end()
        match kind:
            case "message":
                self._add_message(item, where)
            case "function_call":
                self._add_call(item, where)
            case "function_call_output":
                self._add_result(item, where)
            case "reasoning":
                # Thoughts are for the model that had them, and nobody kept those of ours.
                pass
            case "item_reference":
                raise ApiError(400, "state_not_kept", "Items are not kept here: send the item itself.", param=where)
            case _:
                raise not_offered(f"{where}.type", "Items of this type are not offered here.")

    def end(self) -> None:
        """The results so far are all of their turn."""
        if self._pictures:
            self.messages.append({"role": "user", "content": self._pictures})
            self._pictures = []

    def _add_message(self, item: Mapping[str, Any], where: str) -> None:
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise wrong(f"{where}.role", "`role` must be `user`, `assistant`, `system` or `developer`.")
        content = item.get("content")
        if not isinstance(content, str):
            parts = [
                _part(object_of(raw, f"{where}.content.{position}"), f"{where}.content.{position}")
                for position, raw in enumerate(list_of(content, f"{where}.content"))
            ]
            only_text = all(part["type"] == "text" for part in parts)
            if role != "user" and not only_text:
                raise wrong(f"{where}.content", "Only users send pictures and files.")
            one = role != "user" or (only_text and len(parts) == 1)
            content = "".join(part["text"] for part in parts) if one else parts
        self.messages.append({"role": "system" if role == "developer" else role, "content": content})

    def _add_call(self, item: Mapping[str, Any], where: str) -> None:
        function = {
            "name": text_of(item, "name", f"{where}.name"),
            "arguments": text_of(item, "arguments", f"{where}.arguments"),
        }
        call: dict[str, Any] = {"id": text_of(item, "call_id", f"{where}.call_id"), "type": "function", "function": function}
        if isinstance(item.get("extra_content"), dict):
            call["extra_content"] = item["extra_content"]
        last = self.messages[-1] if self.messages else {}
        if last.get("role") != "assistant":
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        last.setdefault("tool_calls", []).append(call)

    def _add_result(self, item: Mapping[str, Any], where: str) -> None:
        call_id = text_of(item, "call_id", f"{where}.call_id")
        output = item.get("output")
        if not isinstance(output, str):
            parts = [
                _part(object_of(raw, f"{where}.output.{position}"), f"{where}.output.{position}")
                for position, raw in enumerate(list_of(output, f"{where}.output"))
            ]
            output = "\n".join(part["text"] for part in parts if part["type"] == "text")
            pictures = [part for part in parts if part["type"] != "text"]
            if pictures:
                self._pictures += [{"type": "text", "text": f"Result of the tool call {call_id}:"}, *pictures]
                output = output or "See the following message."
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": output})


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    match part.get("type"):
        case "input_text" | "output_text":
            return {"type": "text", "text": text_of(part, "text", f"{where}.text")}
        case "refusal":
            return {"type": "text", "text": text_of(part, "refusal", f"{where}.refusal")}
        case "input_image":
            if part.get("file_id") is not None:
                raise not_offered(f"{where}.file_id", "Files are not kept here: send the image itself or its address.")
            image: dict[str, Any] = {"url": text_of(part, "image_url", f"{where}.image_url")}
            if not image["url"].startswith(("https://", "http://", "data:")):
                raise wrong(f"{where}.image_url", "An image is an https, http or data URL.")
            if (detail := optional_text(part, "detail", f"{where}.detail")) is not None:
                image["detail"] = detail
            return {"type": "image_url", "image_url": image}
        case "input_file":
            for name in ("file_id", "file_url"):
                if part.get(name) is not None:
                    raise not_offered(f"{where}.{name}", "Send the file itself as `file_data`.")
            held = {"file_data": text_of(part, "file_data", f"{where}.file_data")}
            if (filename := optional_text(part, "filename", f"{where}.filename")) is not None:
                held["filename"] = filename
            return {"type": "file", "file": held}
        case _:
            raise not_offered(f"{where}.type", "Content of this type is not offered here.")
