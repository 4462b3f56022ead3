"""A chat request in OpenAI's dialect, said in Gemini's generateContent dialect. Only what is named here is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from routing.providers.base import Target
from routing.providers.dialect import (
    bad_request,
    content_parts,
    data_url,
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
    tool_calls_of,
    tool_use,
)
from routing.providers.failures import parse_json
from routing.providers.meaning import hints_of, meaning_changing, unsupported
from routing.providers.native import lost_in_translation

MOST_CANDIDATES = 8
# Google's word for a tool call that no Gemini model made, or whose signature the client did not keep: without any, models
# from the third generation on refuse the conversation.
FOREIGN_SIGNATURE = "skip_thought_signature_validator"

_HINTS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "seed": "seed",
}
_TOOL_MODES: Mapping[str, str] = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
# Tokens to think with, for the generation that is told a budget.
_BUDGETS: Mapping[str, int] = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
_LEVELS: Mapping[str, str] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_LEAST = frozenset({"none", "minimal"})
_FEWEST_PRO_BUDGET = 128
_THINKING: Mapping[str, str] = {
    "thinking_budget": "thinkingBudget",
    "thinking_level": "thinkingLevel",
    "include_thoughts": "includeThoughts",
}
_AUDIO_TYPES: Mapping[str, str] = {"wav": "audio/wav", "mp3": "audio/mp3"}
_NEVER = frozenset(
    {
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
_GENERATION = re.compile(r"(?:models/)?gemini-(\d+)(?:\.(\d+))?")


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
    """See `ChatAdapter.dropped`."""
    thinks = _can_think(_generation(target.upstream_model))
    return [
        name
        for name in hints_of(request)
        if not (number(request, name) is not None if name in _HINTS else thinks and name == "reasoning_effort")
    ]


def _can_think(generation: tuple[int, int] | None) -> bool:
    """Whether models of a generation can be told how much to think."""
    return generation is not None and generation >= (2, 5)


def build_request(target: Target, request: Mapping[str, Any]) -> dict[str, Any]:
    """The body to send. Raises `ProviderError(bad_request)` for what Gemini cannot be told."""
    fields = inexpressible(request)
    if fields:
        raise unsupported(fields[0], f"This model does not support `{fields[0]}` as it is used here.")
    generation = _generation(target.upstream_model)
    system, contents = _conversation(request, needs_signatures=generation is not None and generation >= (3, 0))
    if not contents:
        # Instructions alone are no conversation for Gemini.
        system, contents = [], [{"role": "user", "parts": system or [{"text": " "}]}]
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    use = tool_use(request)
    if use.functions:
        body["tools"] = [{"functionDeclarations": [_declaration(function) for function in use.functions]}]
        calling: dict[str, Any] = {"mode": _TOOL_MODES[use.mode]}
        if use.mode == "required":
            calling["allowedFunctionNames"] = [function["name"] for function in use.functions]
        body["toolConfig"] = {"functionCallingConfig": calling}
    config = _generation_config(request, target.upstream_model, generation)
    if config:
        body["generationConfig"] = config
    return body


def _generation_config(request: Mapping[str, Any], model: str, generation: tuple[int, int] | None) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name, theirs in _HINTS.items():
        if (value := number(request, name)) is not None:
            config[theirs] = value
    if (limit := output_limit(request)) is not None:
        config["maxOutputTokens"] = limit
    if stops := stop_sequences(request):
        config["stopSequences"] = stops
    if isinstance(n := number(request, "n"), int) and n > 1:
        config["candidateCount"] = n
    is_json, schema = response_schema(request)
    if is_json:
        config["responseMimeType"] = "application/json"
    if schema is not None:
        config["responseJsonSchema"] = schema
    if generation is not None and _can_think(generation):
        thinking = _thinking(request, model, generation)
        if thinking:
            config["thinkingConfig"] = thinking
    return config


def _thinking(request: Mapping[str, Any], model: str, generation: tuple[int, int]) -> dict[str, Any]:
    """How much to think, by `reasoning_effort` as Google maps it; not thinking at all exists for 2.5 Flash alone.

    `extra_body.google.thinking_config`, which Google's own OpenAI-compatible endpoint takes, wins.
    """
    config: dict[str, Any] = {}
    effort = request.get("reasoning_effort")
    is_pro = "pro" in model
    if isinstance(effort, str):
        if generation >= (3, 0):
            config["thinkingLevel"] = ("low" if is_pro else "minimal") if effort in _LEAST else _LEVELS.get(effort)
        elif effort == "none":
            config["thinkingBudget"] = _FEWEST_PRO_BUDGET if is_pro else 0
        else:
            config["thinkingBudget"] = _BUDGETS.get(effort)
    asked: Any = request.get("extra_body")
    for name in ("google", "thinking_config"):
        asked = asked.get(name) if isinstance(asked, Mapping) else None
    if isinstance(asked, Mapping):
        if asked.keys() & {"thinking_budget", "thinking_level"}:
            config.clear()
        config.update({theirs: asked[name] for name, theirs in _THINKING.items() if name in asked})
    return {name: value for name, value in config.items() if value is not None}


def _generation(model: str) -> tuple[int, int] | None:
    """Major and minor number of a Gemini model; an alias such as `gemini-flash-latest` is of the newest, others are None."""
    found = _GENERATION.match(model)
    if found is not None:
        return int(found[1]), int(found[2] or 0)
    return (99, 0) if model.removeprefix("models/").startswith("gemini-") else None


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    declaration: dict[str, Any] = {"name": function["name"]}
    if isinstance(description := function.get("description"), str):
        declaration["description"] = description
    if isinstance(parameters := function.get("parameters"), Mapping) and parameters:
        declaration["parametersJsonSchema"] = parameters
    return declaration


def _conversation(request: Mapping[str, Any], *, needs_signatures: bool) -> tuple[list[Any], list[dict[str, Any]]]:
    """The instructions' parts and the turns. Results of parallel calls belong into one turn."""
    system: list[Any] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    results: list[Any] | None = None
    for position, message in messages_of(request):
        role, content = message.get("role"), message.get("content")
        if role in ("system", "developer"):
            if text := plain_text(content):
                system.append({"text": text})
        elif role == "tool":
            if results is None:
                results = []
                contents.append({"role": "user", "parts": results})
            results.append(_result(message, names, position))
            continue
        elif role == "assistant":
            if parts := _said_before(message, names, position, needs_signatures=needs_signatures):
                contents.append({"role": "model", "parts": parts})
        else:
            parts = [part for part in map(_input_part, content_parts(content)) if part is not None]
            contents.append({"role": "user", "parts": parts or [{"text": " "}]})
        results = None
    return system, contents


def _said_before(
    message: Mapping[str, Any], names: dict[str, str], position: int, *, needs_signatures: bool
) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if text := plain_text(message.get("content")):
        parts.append({"text": text})
    for number_in_turn, (call_id, name, arguments, call) in enumerate(tool_calls_of(message)):
        args = parse_json(arguments.encode()) if arguments.strip() else {}
        if not isinstance(args, dict):
            raise bad_request(f"messages.{position}.tool_calls", "The arguments of a tool call must be a JSON object.")
        made: dict[str, Any] = {"name": name, "args": args}
        if call_id:
            names[call_id] = name
            made["id"] = call_id
        part: dict[str, Any] = {"functionCall": made}
        signature = _signature(call)
        if signature is None and needs_signatures and number_in_turn == 0:
            signature = FOREIGN_SIGNATURE
        if signature is not None:
            part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _signature(call: Mapping[str, Any]) -> str | None:
    further = call.get("extra_content")
    google = further.get("google") if isinstance(further, Mapping) else None
    signature = google.get("thought_signature") if isinstance(google, Mapping) else None
    return signature if isinstance(signature, str) and signature else None


def _result(message: Mapping[str, Any], names: Mapping[str, str], position: int) -> dict[str, Any]:
    call_id = message.get("tool_call_id")
    name = names.get(call_id) if isinstance(call_id, str) else None
    if name is None:
        raise bad_request(f"messages.{position}.tool_call_id", "A tool message must answer a tool call made before it.")
    text = plain_text(message.get("content"))
    value = parse_json(text.encode("utf-8", "surrogatepass"))
    return {
        "functionResponse": {"id": call_id, "name": name, "response": value if isinstance(value, dict) else {"output": text}}
    }


def _input_part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """A part of a user's message; None for an empty text. Its kind was checked by `_is_readable_part`."""
    text = part_text(part)
    if text is not None:
        return {"text": text} if text else None
    inline = _inline(part)
    assert inline is not None, "checked before"
    return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}


def _inline(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """Media type and base64 data of a part that carries its content itself."""
    match part.get("type"):
        case "image_url":
            return data_url(image_url(part))
        case "file":
            file = part.get("file")
            return data_url(file.get("file_data")) if isinstance(file, Mapping) else None
        case "input_audio":
            audio = part.get("input_audio")
            if isinstance(audio, Mapping) and isinstance(audio.get("data"), str):
                media_type = _AUDIO_TYPES.get(str(audio.get("format")))
                return (media_type, audio["data"]) if media_type is not None else None
    return None


def _is_readable(message: Mapping[str, Any]) -> bool:
    """Whether a message holds only what can be sent along: no addresses to fetch from, no ids of others' files."""
    content = message.get("content")
    match message.get("role"):
        case "user":
            return all(part_text(part) is not None or _inline(part) is not None for part in content_parts(content))
        case "system" | "developer" | "assistant" | "tool":
            return is_plain_text(content) and not message.get("function_call")
        case _:
            return False


def _is_too_much(name: str, request: Mapping[str, Any]) -> bool:
    """Whether a field Gemini knows asks for more than it has."""
    match name:
        case "n":
            return bool(request["n"] > MOST_CANDIDATES)
        case "tools":
            return not only_functions(request)
        case "tool_choice":
            return not is_known_tool_choice(request["tool_choice"])
        case "response_format":
            return not response_schema(request)[0]
    return False
