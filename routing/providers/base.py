"""The contract between the pipeline and the provider adapters: one normal form for usage, failures and answers.

An adapter speaks one wire protocol. It never retries by itself, never logs and never keeps a body or a secret after
the call; whatever goes wrong upstream leaves it as a `ProviderError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import msgspec

from routing.providers.session import ProviderSession


class Usage(msgspec.Struct, frozen=True):
    """What one call consumed: tokens, the parts included in the totals, and other units.

    `cache_read`, `cache_write` and `cache_write_1h` (the one-hour share of `cache_write`) are parts of `input_total`,
    `reasoning` is a part of `output_total`. `provider_cost_usd` is the provider's own bill for the call, if it says so.
    `units` counts what is billed beside tokens: images, characters, seconds, clips.
    """

    input_total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output_total: int = 0
    reasoning: int = 0
    provider_cost_usd: Decimal | None = None
    units: Mapping[str, Decimal] = {}


class FailureClass(StrEnum):
    """What a failure means for the router, whatever status or code the provider chose to say it with."""

    BAD_REQUEST = "bad_request"
    """The request itself is wrong: return it to the client."""
    REFUSED = "refused"
    """Content policy: return it to the client."""
    AUTH = "auth"
    """Our credential is bad: disable it, alert, try the next candidate."""
    NO_FUNDS = "no_funds"
    """Our account there is empty: disable the provider, alert, try the next candidate."""
    RATE_LIMITED = "rate_limited"
    """Wait as hinted or try the next candidate."""
    OVERLOADED = "overloaded"
    """Unreachable, too slow or without capacity: try the next candidate."""
    INTERNAL = "internal"
    """The provider failed, or said something not understood: try the next candidate."""
    TRUNCATED = "truncated"
    """The stream broke after content was delivered: bill what was delivered, send an in-band error."""


_RETRYABLE = frozenset(
    {
        FailureClass.AUTH,
        FailureClass.NO_FUNDS,
        FailureClass.RATE_LIMITED,
        FailureClass.OVERLOADED,
        FailureClass.INTERNAL,
    }
)


class ProviderError(Exception):
    """A call that a provider did not (fully) serve.

    `message` may be shown to clients: it never contains our key, organisation or account. `detail` is what the
    provider said, without our key, for operators only. `status` is the HTTP status or None when no answer arrived;
    `code` and `param` are the provider's. `retry_after_seconds` is its hint, None without one. `may_have_billed` says
    that the provider may charge for this call although it failed.
    """

    def __init__(
        self,
        failure: FailureClass,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: float | None = None,
        may_have_billed: bool = False,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        self.may_have_billed = may_have_billed
        self.detail = detail

    @property
    def retryable(self) -> bool:
        """Whether the router may try the next candidate (never once bytes have reached the client)."""
        return self.failure in _RETRYABLE

    def __repr__(self) -> str:
        return f"ProviderError({self.failure.value}, status={self.status}, code={self.code!r}, {self.message!r})"


class Target(msgspec.Struct, frozen=True):
    """Where and how one call goes out: a provider, one of its credentials, one of its models.

    `base_url` is what the provider documents, version included (`https://api.openai.com/v1`). `upstream_model` is what
    is sent there, `public_model` what the client sees. `first_byte_timeout_seconds` runs from the start of the call to
    the first event of a stream, `read_timeout_seconds` between two reads after it. A whole answer may take as long as
    both together, because its first byte usually comes when all of it is ready.
    `quirks` are the small differences of a company from the protocol's original (see `presets`).
    """

    provider: str
    base_url: str
    secret: str
    upstream_model: str
    public_model: str
    connect_timeout_seconds: float = 5.0
    first_byte_timeout_seconds: float = 60.0
    read_timeout_seconds: float = 120.0
    quirks: frozenset[str] = frozenset()
    extra_headers: Mapping[str, str] = {}
    # Gets the headers of every answer, refusals too: limits are told there.
    on_headers: Callable[[Mapping[str, str]], None] | None = None

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Target({self.provider}, {self.upstream_model} at {self.base_url})"


@dataclass(slots=True)
class ChatAnswer:
    """A whole answer in OpenAI's dialect.

    `body` has every field OpenAI's schema requires and `model` is the public name; `body["usage"]` agrees with `usage`
    (neither exists when the provider reported none: the caller estimates and fills both in). `output_bytes` are the
    UTF-8 bytes of all produced text: content, refusals, reasoning, tool names and arguments, over all choices. `native` is the
    provider's own body, with the public model, for a client of the same dialect (see `native`).
    """

    body: dict[str, Any]
    usage: Usage | None
    output_bytes: int
    finish_reason: str | None
    upstream_id: str | None
    native: dict[str, Any] | None = None


class ChatChunk:
    """One chunk of a stream in OpenAI's dialect, ready to be sent as `b"data: " + data + b"\\n\\n"`.

    `output_bytes` are the UTF-8 bytes of text in this chunk alone. `usage_only` marks the extra chunk with empty
    `choices`, to be dropped unless the client asked for usage; no other chunk shows usage in `data`. `usage` is set on
    any chunk whose upstream reported figures (cumulative: the latest one counts). `native` is the provider's own event, in
    place of `data`, for a client of the same dialect (see `native`).
    """

    __slots__ = ("data", "finish_reason", "native", "output_bytes", "usage", "usage_only")

    def __init__(
        self,
        data: bytes,
        output_bytes: int = 0,
        usage: Usage | None = None,
        usage_only: bool = False,
        finish_reason: str | None = None,
        native: bytes = b"",
    ) -> None:
        self.data = data
        self.native = native
        self.output_bytes = output_bytes
        self.usage = usage
        self.usage_only = usage_only
        self.finish_reason = finish_reason

    def __repr__(self) -> str:
        return (
            f"ChatChunk({len(self.data)} bytes, output_bytes={self.output_bytes}, usage={self.usage!r}, "
            f"usage_only={self.usage_only}, finish_reason={self.finish_reason!r})"
        )


class ChatStream(Protocol):
    """An open stream: `async with adapter.open_chat_stream(...) as stream: async for chunk in stream: ...`.

    Entering sends the request and raises `ProviderError` if it is refused. Iterating raises `ProviderError(truncated)`
    when the stream breaks after text was delivered (a chunk with `output_bytes > 0`), and the proper class before that;
    the end of the iteration alone does not mean success: only `completed` does. `[DONE]` is never yielded: the caller
    writes it. Leaving closes the upstream connection unless the answer was read to its end. One consumer at a time.
    """

    completed: bool
    """True once the answer ended as the protocol says it must."""
    aborted: bool
    """True once `abort()` was called."""
    usage: Usage | None
    """The latest figures reported upstream."""
    output_bytes: int
    """Sum over the chunks yielded so far."""
    finish_reason: str | None
    upstream_id: str | None
    service_tier: str | None
    """The tier the provider says it served (and charges), None if it does not say."""

    @property
    def usage_so_far(self) -> Usage | None:
        """For a stream that did not come to its end: figures reported on the way, the output's perhaps of a part alone."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[ChatChunk]: ...

    async def __anext__(self) -> ChatChunk: ...

    def more(self) -> ChatChunk | None:
        """The next chunk, if it has arrived together with the last one: what came together can go out together."""

    def abort(self) -> None:
        """Hang up now. May be called from any task or callback of the loop, also while the stream is being opened.

        The waiting consumer sees the iteration end at once, without an error, `completed` False and `aborted` True.
        """


class ChatAdapter(Protocol):
    """Serves chat calls over one wire protocol. Stateless: one instance serves every provider of the protocol.

    `request` is the client's body in OpenAI's dialect, unknown fields included; it is not changed. The adapter sets
    `model`, `stream` and what it needs to see usage. One call is one upstream request, never retried here.

    Hints the target cannot take (see `meaning`) are dropped. A request it cannot express is not answered as if it could:
    whoever routes asks `inexpressible` first; an adapter called all the same raises `ProviderError(bad_request)`, its own or
    the provider's.
    """

    protocol: str

    def inexpressible(self, request: Mapping[str, Any], quirks: frozenset[str] = frozenset()) -> list[str]:
        """The fields of `request` whose loss would change the meaning and that a target with `quirks` cannot take.

        Names as OpenAI spells them, `messages` for content it cannot read; empty when the target can serve the request. No I/O.
        """

    def dropped(self, target: Target, request: Mapping[str, Any]) -> list[str]:
        """The hints of `request` that are not sent to `target`, or sent as something weaker, because it cannot take them.

        Names as OpenAI spells them. No I/O.
        """

    async def chat(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> ChatAnswer:
        """Make a whole call. Raises `ProviderError`; a cancelled call closes its connection."""

    def open_chat_stream(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> ChatStream:
        """Prepare a streamed call; nothing is sent before the stream is entered."""


@runtime_checkable
class CountingAdapter(Protocol):
    """A chat adapter whose provider counts the tokens of a request without answering it, for nothing."""

    async def count_tokens(self, session: ProviderSession, target: Target, request: Mapping[str, Any]) -> int:
        """The input tokens of `request`. Raises `ProviderError`."""
