"""Google's Gemini API: generateContent and streamGenerateContent.

Thinking is billed as output but counted apart; tool calls end with STOP like texts do; a blocked prompt is a 200; an error
may arrive inside a stream as bare JSON. The signature of a thought that led to a tool call travels to the client and back in
the call's `extra_content.google.thought_signature`, as on Google's own OpenAI-compatible endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from routing.providers import gemini_request
from routing.providers.base import ChatAnswer, FailureClass, ProviderError, Target, Usage
from routing.providers.dialect import ChunkWriter, choice_of, new_call_id, tool_call, whole_answer
from routing.providers.exchange import EventStream, broken_off, document_failure, internal_failure, post_whole
from routing.providers.failures import MAX_ERROR_BYTES, error_object_failure, find_error, parse_json, public_message
from routing.providers.gemini_request import build_request, inexpressible
from routing.providers.registry import register
from routing.providers.session import ProviderSession
from routing.providers.sse import SseDecoder, SseEvent
from routing.providers.usage import token_count

_FINISH_REASONS: Mapping[str, str] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
_EMPTY_ACCOUNT = re.compile(r"prepay\w* credits? (?:are|is|have been) (?:depleted|exhausted)", re.IGNORECASE)
_TOO_LONG = re.compile(r"input token count.{0,40}exceeds the maximum", re.IGNORECASE)

_encode = msgspec.json.Encoder().encode


class _FunctionCall(msgspec.Struct, gc=False):
    name: str
    args: dict[str, Any] | None = None
    id: str | None = None


class _Part(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _FunctionCall | None = None
    thought_signature: str | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class UsageMetadata(msgspec.Struct, gc=False, rename="camel"):
    """Google's figures for a call; what is absent is zero."""

    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    total_token_count: int | None = None


class _Response(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: UsageMetadata | None = None
    response_id: str | None = None
    error: Any = None


_decode_response = msgspec.json.Decoder(_Response).decode


class GeminiAdapter:
    """See `ChatAdapter`. Endpoint: `{base_url}/models/{model}:generateContent`, the key in a header, never in the address."""

    protocol = "gemini"

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """Log probabilities, one tool call at a time, files Google would have to fetch; see `ChatAdapter.inexpressible`."""
        return inexpressible(request)

    def dropped(self, target: Target, request: Mapping[str, Any]) -> list[str]:
        """See `ChatAdapter.dropped`."""
        return gemini_request.dropped(target, request)

    async def chat(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> ChatAnswer:
        """One whole call; see `ChatAdapter.chat`."""
        body = build_request(target, request)
        try:
            raw, headers = await post_whole(session, target, method_url(target, "generateContent"), _headers(target), body)
            return parse_answer(raw, headers, target)
        except ProviderError as error:
            raise understood(error) from error.__cause__

    def open_chat_stream(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> GeminiChatStream:
        """One streamed call, sent when entered; see `ChatStream`."""
        return GeminiChatStream(session, target, request)


class GeminiChatStream(EventStream):
    """See `ChatStream`. Each event is a whole response with new parts only; the last one of a candidate says why it ended."""

    def __init__(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> None:
        super().__init__(session, target, request)
        self._decoder = BareErrorDecoder()
        self._writer: ChunkWriter | None = None
        # Tool calls so far by candidate: they are numbered, and their presence alone tells a call from a text.
        self._calls: dict[int, int] = {}
        self._unfinished: set[int] = set()

    def _endpoint(self) -> str:
        return method_url(self._target, "streamGenerateContent") + "?alt=sse"

    def _headers(self) -> Mapping[str, str]:
        return _headers(self._target)

    def _body(self) -> Mapping[str, Any]:
        return build_request(self._target, self._request)

    async def __aenter__(self) -> GeminiChatStream:
        try:
            return await super().__aenter__()
        except ProviderError as error:
            raise understood(error) from error.__cause__

    def _take(self, data: bytes) -> None:
        try:
            response = _decode_response(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._not_a_response(data) from None
        if response.error:
            raise self._not_a_response(data)
        if self._writer is None:
            self.upstream_id = response.response_id or None
            self._writer = ChunkWriter(self._target.public_model, self.upstream_id)
        candidates = response.candidates or []
        if not candidates and (blocked := _blocked(response)) is not None:
            raise blocked
        noted = self._note_usage(response)
        for candidate in candidates:
            position = candidate.index or 0
            if position not in self._calls:
                self._calls[position] = 0
                self._unfinished.add(position)
            delta = _said(candidate, first_call=self._calls[position])
            self._calls[position] += len(delta.get("tool_calls", ()))
            reason = _finish_reason(candidate, has_calls=self._calls[position] > 0)
            if reason is not None:
                self._unfinished.discard(position)
                self.finish_reason = self.finish_reason or reason
            if delta or reason is not None:
                self._ready.append(self._writer.chunk(position, delta, reason, noted))

    def _note_usage(self, response: _Response) -> Usage | None:
        usage = usage_from_gemini(response.usage_metadata) if response.usage_metadata is not None else None
        ended = any(candidate.finish_reason for candidate in response.candidates or ())
        if usage is None or not (usage.output_total or ended):
            # Figures without output while text is coming are not its price yet.
            return None
        self.usage = usage
        return usage

    def _end_of_connection(self) -> None:
        """Gemini ends a stream by closing it; the answer is whole if every candidate had said why it ended."""
        if self._writer is None or not self._calls or self._unfinished:
            self._fail(broken_off("the stream ended without a finish reason"))
            return
        if self.usage is not None:
            self._ready.append(self._writer.usage_chunk(self.usage))
        self._finish()

    def _not_a_response(self, data: bytes) -> ProviderError:
        error = find_error(parse_json(data))
        if error is None:
            return internal_failure("bad_stream", "an event is no response")
        return understood(error_object_failure(None, error, secret=self._target.secret, quirks=self._target.quirks))


class BareErrorDecoder(SseDecoder):
    """Also finds an error that Google wrote as bare JSON lines, without `data:`, before it closed the connection."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        super().__init__()
        self._tail = b""

    def feed(self, data: bytes) -> list[SseEvent]:
        """See `SseDecoder.feed`."""
        self._tail = (self._tail + data)[-MAX_ERROR_BYTES:]
        return super().feed(data)

    def finish(self) -> list[SseEvent]:
        """See `SseDecoder.finish`; the last block is an event too if it is JSON."""
        events = super().finish()
        _, before, block = self._tail.replace(b"\r\n", b"\n").strip().rpartition(b"\n\n")
        is_whole = before or len(self._tail) < MAX_ERROR_BYTES
        return [*events, (block, None)] if is_whole and block[:1] in (b"{", b"[") else events


def parse_answer(raw: bytes, headers: Mapping[str, str], target: Target) -> ChatAnswer:
    """A 200 body as a `ChatAnswer`. Raises `ProviderError` for an error body, a blocked prompt or a failed generation."""
    try:
        response = _decode_response(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise document_failure(200, headers, raw, target) from None
    if not response.candidates:
        raise _blocked(response) or document_failure(200, headers, raw, target)
    choices = []
    for position, candidate in enumerate(response.candidates):
        message = _said(candidate)
        for call in message.get("tool_calls", ()):
            del call["index"]
        reason = _finish_reason(candidate, has_calls="tool_calls" in message) or "stop"
        choices.append(choice_of(position if candidate.index is None else candidate.index, message, reason))
    usage = usage_from_gemini(response.usage_metadata) if response.usage_metadata is not None else None
    return whole_answer(target.public_model, response.response_id or None, choices, usage)


def _said(candidate: _Candidate, first_call: int = 0) -> dict[str, Any]:
    """What a candidate says, as a message or delta; tool calls are numbered from `first_call`."""
    content: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in (candidate.content.parts if candidate.content is not None else None) or ():
        if part.text:
            (thoughts if part.thought else content).append(part.text)
        made = part.function_call
        if made is not None:
            further: dict[str, Any] = {"index": first_call + len(calls)}
            if part.thought_signature:
                further["extra_content"] = {"google": {"thought_signature": part.thought_signature}}
            calls.append(tool_call(made.id or new_call_id(), made.name, _encode(made.args or {}).decode(), **further))
    said: dict[str, Any] = {}
    if content:
        said["content"] = "".join(content)
    if thoughts:
        said["reasoning_content"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    return said


def _finish_reason(candidate: _Candidate, *, has_calls: bool) -> str | None:
    """OpenAI's word for why a candidate ended, None while it goes on. Raises `ProviderError` for a generation that failed."""
    theirs = candidate.finish_reason
    if theirs is None:
        return None
    reason = _FINISH_REASONS.get(theirs)
    if reason is None:
        raise ProviderError(
            FailureClass.INTERNAL,
            public_message(FailureClass.INTERNAL),
            code=theirs,
            may_have_billed=True,
            detail=f"the generation ended with {theirs[:100]}",
        )
    return "tool_calls" if reason == "stop" and has_calls else reason


def _blocked(response: _Response) -> ProviderError | None:
    """The refusal of a prompt, said with a 200 and no candidates."""
    reason = response.prompt_feedback.block_reason if response.prompt_feedback is not None else None
    if not reason:
        return None
    return ProviderError(
        FailureClass.REFUSED,
        public_message(FailureClass.REFUSED),
        status=200,
        code="content_policy_violation",
        may_have_billed=True,
        detail=f"the prompt was blocked: {reason[:100]}",
    )


def understood(error: ProviderError) -> ProviderError:
    """Google says several things with one status: an empty account with 429, no billing account or too long a text with 400."""
    failure, code = error.failure, error.code
    is_empty = failure == FailureClass.RATE_LIMITED and _EMPTY_ACCOUNT.search(error.detail)
    if is_empty or (failure == FailureClass.BAD_REQUEST and code == "FAILED_PRECONDITION"):
        failure = FailureClass.NO_FUNDS
    elif failure == FailureClass.BAD_REQUEST and _TOO_LONG.search(error.detail):
        code = "context_length_exceeded"
    else:
        return error
    return ProviderError(
        failure,
        error.message if failure == error.failure else public_message(failure),
        status=error.status,
        code=code,
        may_have_billed=error.may_have_billed,
        detail=error.detail,
    )


def usage_from_gemini(raw: UsageMetadata) -> Usage | None:
    """The normal form of Google's figures; None if there are none.

    Output is candidates and thoughts, or what the total leaves for it, whichever is more.
    """
    thoughts = token_count(raw.thoughts_token_count) or 0
    cached = token_count(raw.cached_content_token_count) or 0
    given = (token_count(raw.prompt_token_count) or 0) + (token_count(raw.tool_use_prompt_token_count) or 0)
    made = max((token_count(raw.candidates_token_count) or 0) + thoughts, (token_count(raw.total_token_count) or 0) - given)
    if not given and not made:
        return None
    # Parts above the total would be priced as a negative rest.
    return Usage(input_total=max(given, cached), cache_read=cached, output_total=made, reasoning=thoughts)


def method_url(target: Target, method: str) -> str:
    model = quote(target.upstream_model, safe="/")
    path = model if "/" in model else f"models/{model}"
    return f"{target.base_url.rstrip('/')}/{path}:{method}"


def _headers(target: Target) -> dict[str, str]:
    return {"x-goog-api-key": target.secret}


register(GeminiAdapter())
