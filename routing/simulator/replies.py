"""What a call is answered with, in no dialect, and how a provider's behaviour sends it. For dialects unlike OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from aiohttp import web

from routing.simulator.answers import answer_text, example_of, split_text, token_count, unique_id
from routing.simulator.controls import Behaviour, Simulated
from routing.simulator.delivery import fail_or_wait, send_json, send_stream, send_whole

_encode = msgspec.json.Encoder().encode
_TOKENS_PER_CHUNK = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read: `question` is the last user's text, `text_bytes` the UTF-8 bytes of all text in `messages` messages.

    `functions` are name and JSON schema of what may be called; `must_call` forces one. `answered` says that the last message
    brings a function's result, `schema` what the text must fit.
    """

    model: str
    stream: bool
    question: str
    text_bytes: int
    messages: int
    most_tokens: int | None = None
    n: int = 1
    functions: Sequence[tuple[str, Any]] = ()
    must_call: bool = False
    answered: bool = False
    schema: Any = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Text in `pieces`, or the call of `function` with `arguments`; and what both cost in tokens."""

    id: str
    model: str
    n: int
    pieces: list[str]
    function: str | None
    arguments: dict[str, Any]
    is_cut: bool
    prompt_tokens: int
    output_tokens: int
    with_usage: bool

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Dialect(Protocol):
    """How a protocol writes replies and errors."""

    def whole(self, reply: Reply) -> Mapping[str, Any]:
        """The body of a whole answer."""

    def events(self, reply: Reply) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """The events of a stream: before the first text, the text (`n` for each piece), from its end on."""

    def error(self, status: int, message: str) -> Any:
        """The body of an error."""

    def error_event(self, message: str) -> bytes:
        """An error reported inside a stream."""


def reply_to(asked: Asked, provider: str, behaviour: Behaviour) -> Reply:
    """The reply a behaviour makes. A function is called if one must be or the question names a tool."""
    most = behaviour.output_tokens if asked.most_tokens is None else asked.most_tokens
    output_tokens = max(1, min(behaviour.output_tokens, most))
    calls = asked.must_call or ("tool" in asked.question.lower() and not asked.answered)
    function, parameters = asked.functions[0] if asked.functions and calls else (None, None)
    example = example_of(parameters or {"type": "object"}) if function is not None else None
    pieces: list[str] = []
    if function is None:
        text = answer_text(provider, asked.question, output_tokens)
        if asked.schema is not None:
            text = _encode(example_of(asked.schema)).decode()
        pieces = split_text(text, behaviour.chunks or max(1, output_tokens // _TOKENS_PER_CHUNK))
    counted = token_count(asked.text_bytes, asked.messages)
    return Reply(
        id=unique_id(),
        model=asked.model,
        n=max(1, asked.n),
        pieces=pieces,
        function=function,
        arguments=example if isinstance(example, dict) else {},
        is_cut=function is None and output_tokens < behaviour.output_tokens,
        prompt_tokens=counted if behaviour.prompt_tokens is None else behaviour.prompt_tokens,
        output_tokens=output_tokens,
        with_usage=not behaviour.omit_usage,
    )


async def respond(request: web.BaseRequest, simulated: Simulated, asked: Asked, dialect: Dialect) -> web.StreamResponse:
    """Answer one call, whole or streamed, as the provider behaves: late, failing, or cut."""
    behaviour = simulated.behaviour
    simulated.remember(request.path, asked.model, asked.stream, asked.question)
    if (failure := await fail_or_wait(simulated, behaviour, dialect.error)) is not None:
        return failure
    reply = reply_to(asked, simulated.slug, behaviour)
    if not asked.stream:
        return send_whole(request, simulated, behaviour, dialect.whole(reply))
    opening, texts, closing = dialect.events(reply)
    return await send_stream(
        request,
        simulated,
        behaviour,
        opening,
        texts,
        closing,
        error_event=dialect.error_event("IA Factory's simulator breaks this stream as it was told to."),
        texts_per_chunk=reply.n,
    )


def bad_request(request: web.BaseRequest, simulated: Simulated, dialect: Dialect, message: str) -> web.Response:
    """A request that cannot be read: counted, and refused with a 400."""
    simulated.remember(request.path, "", False, "")
    simulated.counters.failed += 1
    return send_json(dialect.error(400, message), 400)


def utf8_length(text: str) -> int:
    """UTF-8 bytes of a text."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
