"""OpenAI's Chat Completions and everyone who copies it (Groq, OpenRouter, DeepSeek, xAI, Mistral, Qwen, Gemini, ...).

Streams are the hot path: a chunk is decoded only as far as billing needs (lengths, finish reason, usage, error) and
its bytes are passed on with the model name replaced. Whatever deviates takes the slow path through a dict.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import msgspec

from routing.providers.base import ChatAnswer, ChatChunk, FailureClass, ProviderError, Target, Usage
from routing.providers.exchange import EventStream, broken_off, document_failure, internal_failure, post_whole, utf8_length
from routing.providers.failures import error_object_failure, find_error, parse_json, public_message
from routing.providers.meaning import hints_of, meaning_changing
from routing.providers.native import NATIVE, lost_in_translation
from routing.providers.presets import REASONING_MODEL
from routing.providers.registry import register
from routing.providers.session import ProviderSession
from routing.providers.usage import token_count, usage_to_openai

_encode = msgspec.json.Encoder().encode

_FINISH_REASONS: Mapping[str, str] = {
    "model_length": "length",
    "max_tokens": "length",
    "eos": "stop",
    "end_turn": "stop",
}
_FAILED_FINISH_REASONS: Mapping[str, FailureClass] = {
    "error": FailureClass.INTERNAL,
    "insufficient_system_resource": FailureClass.OVERLOADED,
}
_MISSING_FIELDS: Mapping[str, tuple[str, ...]] = {
    "single_choice": ("n",),
    "no_logprobs": ("logprobs", "top_logprobs"),
    "no_logit_bias": ("logit_bias",),
}
_CALLING = frozenset({"function_call", "tool_calls"})
# What few companies say in their usage.
_OWN_CACHE_COUNTS = frozenset({"prompt_cache_hit_tokens", "prompt_cache_miss_tokens"})
_OWN_COSTS = frozenset({"cost", "cost_in_usd_ticks"})
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    x_groq: dict[str, Any] | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class OpenAIAdapter:
    """See `ChatAdapter`. Endpoint: `{base_url}/chat/completions` with a bearer key."""

    protocol = "openai"

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Nothing, but for what a company is known to leave out; see `ChatAdapter.inexpressible`."""
        lost = lost_in_translation(request)
        missing = [name for quirk, names in _MISSING_FIELDS.items() if quirk in quirks for name in names]
        return [*lost, *(name for name in meaning_changing(request) if name in missing)] if missing else lost

    def dropped(self, target: Target, request: Mapping[str, Any]) -> list[str]:
        """What a company is known to refuse; see `ChatAdapter.dropped`."""
        refused = _refused_hints(target.quirks)
        return [name for name in hints_of(request) if name in refused] if refused else []

    async def chat(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> ChatAnswer:
        """One whole call; see `ChatAdapter.chat`."""
        body = build_request(target, request, stream=False)
        raw, headers = await post_whole(session, target, _endpoint(target), _headers(target), body)
        return parse_answer(raw, headers, target)

    def open_chat_stream(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> OpenAIChatStream:
        """One streamed call, sent when entered; see `ChatStream`."""
        return OpenAIChatStream(session, target, request)


class OpenAIChatStream(EventStream):
    """See `ChatStream`."""

    def __init__(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> None:
        super().__init__(session, target, request)
        self._finish_seen = False
        self._raw_usage: dict[str, Any] | None = None
        # Top-level keys every chunk needs and this upstream leaves out; None until the first chunk was seen.
        self._missing: dict[str, Any] | None = None
        self._id = ""
        self._created = 0
        self._public_model = target.public_model
        self._upstream_model: str | None = None
        self._model_pair: tuple[bytes, bytes] | None = None

    def _endpoint(self) -> str:
        return _endpoint(self._target)

    def _headers(self) -> Mapping[str, str]:
        return _headers(self._target)

    def _body(self) -> Mapping[str, Any]:
        return build_request(self._target, self._request, stream=True)

    def _take(self, data: bytes) -> None:
        """One event's data."""
        if data == b"[DONE]":
            self._complete()
            return
        try:
            chunk = _decode_chunk(data)
        except msgspec.ValidationError:
            data, chunk = self._straighten(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise internal_failure("bad_stream", "an event is not JSON") from None
        if chunk.error:
            self._fail(self._error_event(data))
            return
        choices = chunk.choices
        if not choices:
            if chunk.usage is not None:
                self._note_usage(chunk.usage)
            if self._missing is None:
                self._see_first(data)
            # A chunk without choices is passed on for its usage only, once, before the end.
            return

        size = 0
        finish_reason = None
        rename_finish = False
        for choice in choices:
            delta = choice.delta
            if delta is not None:
                text = delta.content
                if text:
                    size += len(text) if text.isascii() else utf8_length(text)
                text = delta.reasoning_content or delta.reasoning
                if text:
                    size += len(text) if text.isascii() else utf8_length(text)
                if delta.tool_calls is not None or delta.refusal is not None or delta.function_call is not None:
                    size += _rare_delta_bytes(delta)
            reason = choice.finish_reason
            if reason is not None:
                failure = _FAILED_FINISH_REASONS.get(reason)
                if failure is not None:
                    self._fail(
                        ProviderError(failure, public_message(failure), code=reason, may_have_billed=True, detail=reason)
                    )
                    return
                if reason in _FINISH_REASONS:
                    rename_finish = True
                    reason = _FINISH_REASONS[reason]
                finish_reason = reason

        usage = chunk.usage
        if usage is None and chunk.x_groq is not None:
            groq_usage = chunk.x_groq.get("usage")
            if isinstance(groq_usage, dict):
                usage = groq_usage
        noted = self._note_usage(usage) if usage is not None else None
        if finish_reason is not None:
            self._finish_seen = True
            self.finish_reason = finish_reason
        if self._missing is None:
            self._see_first(data)
        if usage is not None or rename_finish or self._missing or chunk.model is None:
            data = self._rewrite(data)
        elif chunk.model != self._public_model:
            data = self._rename_model(data, chunk.model)
        self._ready.append(ChatChunk(data, size, noted, False, finish_reason))

    def _rename_model(self, data: bytes, upstream_model: str) -> bytes:
        """Replace the model name in place where that is provably the top-level one, else through a dict."""
        if upstream_model != self._upstream_model:
            self._upstream_model = upstream_model
            self._model_pair = None
        # A quote inside a JSON string is escaped, so `"model"` seen once is a key or a value, and since the chunk has
        # a top-level model, it is that key.
        if data.count(b'"model"') == 1:
            pair = self._model_pair
            if pair is None:
                old, new = _encode(upstream_model), _encode(self._public_model)
                colon = b'"model":' if b'"model":' + old in data else b'"model": '
                pair = self._model_pair = (colon + old, colon + new)
            if pair[0] in data:
                return data.replace(pair[0], pair[1], 1)
        return self._rewrite(data)

    def _rewrite(self, data: bytes) -> bytes:
        """The slow path: public model, required keys, usual finish reasons, no usage on a chunk with choices."""
        body = msgspec.json.decode(data)
        for key, value in (self._missing or {}).items():
            if body.get(key) is None:
                body[key] = value
        body["model"] = self._public_model
        if body.get("usage") is not None:
            body["usage"] = None
        groq = body.get("x_groq")
        if isinstance(groq, dict):
            groq.pop("usage", None)
        for choice in body["choices"]:
            reason = choice.get("finish_reason")
            if reason in _FINISH_REASONS:
                choice["finish_reason"] = _FINISH_REASONS[reason]
        return _encode(body)

    def _straighten(self, data: bytes) -> tuple[bytes, _Chunk]:
        """A chunk of unusual types (arguments as an object, content as parts) in the usual ones."""
        body = parse_json(data)
        body = body[0] if isinstance(body, list) and body else body
        if not isinstance(body, dict):
            raise internal_failure("bad_stream", "an event is not an object")
        if find_error(body) is not None:
            return data, _Chunk(error=True)
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and isinstance(choice.get("delta"), dict):
                _straighten_message(choice["delta"])
        data = _encode(body)
        try:
            return data, _decode_chunk(data)
        except msgspec.ValidationError as error:
            raise internal_failure("bad_stream", str(error)) from None

    def _see_first(self, data: bytes) -> None:
        """Learn id, creation time and what is missing from the first chunk; the following ones are like it."""
        body = msgspec.json.decode(data)
        upstream_id = body.get("id")
        if isinstance(upstream_id, str) and upstream_id:
            self.upstream_id = upstream_id
        tier = body.get("service_tier")
        self.service_tier = tier if isinstance(tier, str) else None
        self._id = self.upstream_id or f"chatcmpl-{id(self):x}{time.time_ns():x}"
        created = body.get("created")
        self._created = created if isinstance(created, int) and created > 0 else int(time.time())
        required = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
        }
        self._missing = {key: value for key, value in required.items() if not body.get(key)}

    def _note_usage(self, raw: dict[str, Any]) -> Usage | None:
        usage = usage_from_openai(raw)
        if usage is not None:
            self.usage = usage
            self._raw_usage = raw
        return usage

    def _complete(self) -> None:
        """The protocol's end: pass on the usage, then stop."""
        self._finish()
        if self.usage is not None:
            body: dict[str, Any] = {
                "id": self._id,
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": self._public_model,
                "choices": [],
                "usage": usage_to_openai(self.usage, self._raw_usage),
            }
            if self.service_tier is not None:
                body["service_tier"] = self.service_tier
            self._ready.append(ChatChunk(_encode(body), 0, self.usage, True, None))

    def _end_of_connection(self) -> None:
        """A clean end without [DONE]: complete only if a finish reason was seen."""
        if self._finish_seen:
            self._complete()
        else:
            self._fail(broken_off("the stream ended without a finish reason"))

    def _error_event(self, data: bytes) -> ProviderError:
        error = find_error(parse_json(data)) or {}
        return error_object_failure(None, error, secret=self._target.secret, quirks=self._target.quirks)


def build_request(target: Target, request: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The body to send: the client's, with our model name, usage asked for, and names as this company spells them."""
    body = dict(request)
    body.pop(NATIVE, None)
    quirks = target.quirks
    for name in _refused_hints(quirks):
        body.pop(name, None)
    body["model"] = target.upstream_model
    if stream:
        body["stream"] = True
        if "no_stream_options" in quirks:
            body.pop("stream_options", None)
        else:
            options = body.get("stream_options")
            body["stream_options"] = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
    else:
        body.pop("stream", None)
        body.pop("stream_options", None)
    if "max_completion_tokens" in quirks:
        _rename_limit(body, "max_tokens", "max_completion_tokens")
    elif "max_tokens_only" in quirks:
        _rename_limit(body, "max_completion_tokens", "max_tokens")
    if "random_seed" in quirks and "seed" in body:
        body.setdefault("random_seed", body.pop("seed"))
        body.pop("seed", None)
    if "tool_choice_any" in quirks and body.get("tool_choice") == "required":
        body["tool_choice"] = "any"
    return body


@lru_cache(maxsize=256)
def _refused_hints(quirks: frozenset[str]) -> tuple[str, ...]:
    reasons = REASONING_MODEL in quirks
    refused = ["top_k"] if "no_top_k" in quirks else []
    if "effort_if_reasoning" in quirks and not reasons:
        refused.append("reasoning_effort")
    if "no_sampling_if_reasoning" in quirks and reasons:
        refused += _SAMPLING
    return tuple(refused)


def _rename_limit(body: dict[str, Any], old: str, new: str) -> None:
    """Move a token limit to its other name; with both set the lower one holds, as the caller's price bound assumes."""
    value = body.pop(old, None)
    if value is None:
        return
    other = body.get(new)
    body[new] = min(value, other) if isinstance(value, int) and isinstance(other, int) else value


def parse_answer(raw: bytes, headers: Mapping[str, str], target: Target) -> ChatAnswer:
    """A 200 body as a `ChatAnswer`. Raises `ProviderError` for an error body, however it is wrapped."""
    body = parse_json(raw)
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(body, dict) or body.get("error") or not isinstance(choices, list) or not choices:
        raise document_failure(200, headers, raw, target)
    upstream_id = body.get("id") if isinstance(body.get("id"), str) else None
    raw_usage = body.get("usage")
    if not isinstance(raw_usage, dict):
        groq = body.get("x_groq")
        raw_usage = groq.get("usage") if isinstance(groq, dict) else None
    usage = usage_from_openai(raw_usage) if isinstance(raw_usage, dict) else None

    size = 0
    finish_reason = None
    for position, choice in enumerate(choices):
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise internal_failure("bad_answer", "a choice has no message")
        reason = choice.get("finish_reason")
        if not isinstance(reason, str):
            reason = "stop"
        if isinstance(choice.get("error"), dict):
            raise error_object_failure(None, choice["error"], secret=target.secret, quirks=target.quirks)
        if reason in _FAILED_FINISH_REASONS:
            failure = _FAILED_FINISH_REASONS[reason]
            raise ProviderError(failure, public_message(failure), code=reason, may_have_billed=True, detail=reason)
        message = choice["message"]
        _straighten_message(message)
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        message.setdefault("refusal", None)
        if message.get("tool_calls") is None:
            message.pop("tool_calls", None)
        choice.setdefault("index", position)
        choice.setdefault("logprobs", None)
        choice["finish_reason"] = _FINISH_REASONS.get(reason, reason)
        finish_reason = finish_reason or choice["finish_reason"]
        size += _message_bytes(message)

    body["model"] = target.public_model
    body["object"] = "chat.completion"
    if not upstream_id:
        body["id"] = f"chatcmpl-{time.time_ns():x}"
    if not isinstance(body.get("created"), int):
        body["created"] = int(time.time())
    if usage is not None:
        body["usage"] = usage_to_openai(usage, raw_usage)
    else:
        body.pop("usage", None)
    return ChatAnswer(body=body, usage=usage, output_bytes=size, finish_reason=finish_reason, upstream_id=upstream_id)


def usage_from_openai(raw: Mapping[str, Any]) -> Usage | None:
    """The normal form of an OpenAI-style usage object, the known miscounts corrected; None if it holds no counts.

    Reasoning left out of completion_tokens (xAI) shows in the total or in reasoning > completion; thinking counted in
    the total alone (Gemini's compatible endpoint) makes the total exceed the sum.
    """
    prompt = token_count(raw.get("prompt_tokens"))
    completion = token_count(raw.get("completion_tokens"))
    total = token_count(raw.get("total_tokens"))
    cache_hit = None if _OWN_CACHE_COUNTS.isdisjoint(raw) else token_count(raw.get("prompt_cache_hit_tokens"))
    if not prompt and cache_hit is not None:
        prompt = cache_hit + (token_count(raw.get("prompt_cache_miss_tokens")) or 0)
    if prompt is None and completion is None:
        return None
    prompt = prompt or 0
    completion = completion or 0

    details = raw.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cache_read = max(token_count(details.get("cached_tokens")) or 0, cache_hit or 0)
    cache_write = token_count(details.get("cache_write_tokens")) or 0
    details = raw.get("completion_tokens_details")
    details = details if isinstance(details, dict) else {}
    reasoning = token_count(details.get("reasoning_tokens")) or token_count(raw.get("reasoning_tokens")) or 0

    output = completion
    if reasoning > completion or (reasoning and total == prompt + completion + reasoning):
        output = completion + reasoning
    elif total is not None and total > prompt + completion:
        output = total - prompt
    return Usage(
        # Parts above the total would be priced as a negative rest.
        input_total=max(prompt, cache_read + cache_write),
        cache_read=cache_read,
        cache_write=cache_write,
        output_total=output,
        reasoning=reasoning,
        provider_cost_usd=None if _OWN_COSTS.isdisjoint(raw) else _provider_cost(raw),
    )


def _provider_cost(raw: Mapping[str, Any]) -> Decimal | None:
    ticks = token_count(raw.get("cost_in_usd_ticks"))
    if ticks is not None:
        return Decimal(ticks) / 10**10
    cost = _decimal(raw.get("cost"))
    if cost is not None and raw.get("is_byok") is True:
        # With our own key at the upstream, `cost` is the broker's fee alone.
        details = raw.get("cost_details")
        upstream = _decimal(details.get("upstream_inference_cost")) if isinstance(details, dict) else None
        cost += upstream or 0
    return cost


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        # Through text: the shortest decimal that reads back as the same number is the one the provider wrote.
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None


def _straighten_message(message: dict[str, Any]) -> None:
    """Mistral's shapes in OpenAI's: content parts become text and reasoning_content, argument objects become text."""
    content = message.get("content")
    if isinstance(content, list):
        texts: list[str] = []
        thoughts: list[str] = []
        for part in content:
            if not isinstance(part, dict):
                continue
            if isinstance(part.get("text"), str):
                texts.append(part["text"])
            thinking = part.get("thinking")
            if isinstance(thinking, str):
                thoughts.append(thinking)
            pieces = thinking if isinstance(thinking, list) else []
            thoughts += [p["text"] for p in pieces if isinstance(p, dict) and isinstance(p.get("text"), str)]
        message["content"] = "".join(texts)
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict | list):
            function["arguments"] = _encode(function["arguments"]).decode()


def _message_bytes(message: Mapping[str, Any]) -> int:
    """UTF-8 bytes of everything a whole message says."""
    size = 0
    for text in (message.get("content"), message.get("reasoning_content") or message.get("reasoning"), message.get("refusal")):
        if isinstance(text, str):
            size += utf8_length(text)
    if _CALLING.isdisjoint(message):
        return size
    functions = [message.get("function_call")]
    calls = message.get("tool_calls")
    functions += [call.get("function") for call in (calls if isinstance(calls, list) else ()) if isinstance(call, dict)]
    for function in functions:
        if isinstance(function, dict):
            texts = (function.get("name"), function.get("arguments"))
            size += sum(utf8_length(text) for text in texts if isinstance(text, str))
    return size


def _rare_delta_bytes(delta: _Delta) -> int:
    texts = [delta.refusal]
    functions = [call.function for call in delta.tool_calls or ()]
    functions.append(delta.function_call)
    for function in functions:
        if function is not None:
            texts += [function.name, function.arguments]
    return sum(utf8_length(text) for text in texts if text)


def _endpoint(target: Target) -> str:
    return target.base_url.rstrip("/") + "/chat/completions"


def _headers(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.secret}"}


register(OpenAIAdapter())
