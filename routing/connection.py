"""Trying a provider that is not in use yet: which models it lists, and whether one of them answers.

Operators type the address: it is called only where it is one of the public internet, unless the installation allows others.
Nothing here writes; no error, result or log carries the secret.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from asgiref.sync import async_to_sync
from django.conf import settings
from yarl import URL

from billing.webhooks.destinations import AddressForbidden, address_check, url_checked
from iafactory.common.errors import ApiError

from .credentials import PROBE_REQUESTS
from .models import AiModel
from .providers.base import FailureClass, ProviderError, Target
from .providers.exchange import read_limited, refusal
from .providers.failures import network_failure, redact
from .providers.registry import adapter_for, media_adapter_for, speaks
from .providers.session import ProviderSession, open_session

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5
LIST_SECONDS = 15
CALL_SECONDS = 20
LARGEST_LIST = 8 * 1024 * 1024
MOST_MODELS = 2000
_LONGEST_NAME = 150
_DETAIL_LENGTH = 300
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+~-]*\Z")
# A name with one of these is hardly a chat model's: it is not what a first call is made to.
_HARDLY_CHAT = re.compile(
    r"embed|whisper|tts|speech|audio|image|dall|vision-gen|moderation|rerank|guard|transcri|imagen|veo|realtime|search|live"
)


class Outcome(StrEnum):
    """How a try went."""

    WORKS = "works"
    WRONG_KEY = "wrong_key"
    NO_FUNDS = "no_funds"
    UNREACHABLE = "unreachable"
    FORBIDDEN = "forbidden"
    """The address is not one of the public internet."""
    ODD = "odd"
    """It answered, but not as its protocol says."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a provider is and how it is spoken to."""

    slug: str
    protocol: str
    base_url: str
    secret: str
    quirks: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Connection({self.slug}, {self.protocol} at {self.base_url})"


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of it. `models` are the provider's own names; `called` is the one that was asked, empty when none was."""

    outcome: Outcome
    detail: str = ""
    models: tuple[str, ...] = ()
    called: str = ""
    latency_ms: int | None = None

    @property
    def works(self) -> bool:
        return self.outcome is Outcome.WORKS


# Where a protocol lists its models, below the base URL, and under which name a model of the list has its name.
_LISTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "openai": ("/models", ("id",)),
    "anthropic": ("/v1/models?limit=1000", ("id",)),
    "gemini": ("/models?pageSize=1000", ("name",)),
    "cohere": ("/v1/models?page_size=1000", ("name",)),
    "elevenlabs": ("/v1/models", ("model_id",)),
}
LISTED_PROTOCOLS = tuple(_LISTS)


def base_url_checked(text: str) -> str:
    """`text` as an address that may be called. Raises ApiError 400 `invalid_request` (param `base_url`)."""
    text = text.strip().rstrip("/")
    try:
        if not settings.PROVIDERS_ALLOW_PRIVATE_ADDRESSES:
            return url_checked(text, loopback=False)
        url = URL(text)
        if url.scheme not in ("http", "https") or not url.host or url.user or url.password or not text.isascii():
            raise ValueError(text)
        _port = url.port
    except ApiError as error:
        raise ApiError(400, "invalid_request", error.said, param="base_url") from None
    except ValueError:
        raise ApiError(400, "invalid_request", "This is not an address.", param="base_url") from None
    return text


def connection_try(connection: Connection, *, likely: Iterable[str] = (), model: str = "") -> Tried:
    """List the provider's models, then ask one for a few tokens: `model`, else the first of `likely` that it lists.

    Two real calls at most, some 40 seconds at worst. Raises nothing.
    """
    try:
        return async_to_sync(_try)(connection, tuple(likely), model)
    except ProviderError as error:
        return _failed(connection, error)
    except Exception as error:
        # The text of an unexpected error may quote what was sent.
        logger.error("the provider %s could not be tried: %s", connection.slug, type(error).__name__)
        return Tried(Outcome.ODD, type(error).__name__)


async def _try(connection: Connection, likely: tuple[str, ...], model: str) -> Tried:
    async with _session() as session:
        names = await _listed(session, connection)
        called = model or _first(names, likely)
        if not called:
            return Tried(Outcome.ODD, "It lists no model that could be asked.", names)
        began = time.monotonic()
        try:
            await _ask(session, connection, called)
        except ProviderError as error:
            tried = _failed(connection, error)
            return Tried(tried.outcome, f"{called}: {tried.detail}"[:_DETAIL_LENGTH], names, called)
        return Tried(Outcome.WORKS, "", names, called, int((time.monotonic() - began) * 1000))


def _session() -> ProviderSession:
    """Connects to checked addresses only."""
    return open_session(check_address=None if settings.PROVIDERS_ALLOW_PRIVATE_ADDRESSES else address_check)


async def _listed(session: ProviderSession, connection: Connection) -> tuple[str, ...]:
    target = _target(connection, "")
    path, keys = _LISTS[connection.protocol]
    base = connection.base_url.rstrip("/")
    if path.startswith("/v1"):
        base = base.removesuffix("/v1").removesuffix("/v2")
    try:
        async with asyncio.timeout(LIST_SECONDS):
            answer = await session.send(
                "GET",
                base + path,
                headers={**_key_headers(connection), "Accept": "application/json"},
                connect_seconds=CONNECT_SECONDS,
            )
            try:
                if answer.status != 200:
                    raise await refusal(answer, target)
                raw = await read_limited(answer, LARGEST_LIST)
            finally:
                answer.close()
    except (TimeoutError, OSError) as error:
        if _is_forbidden(error):
            raise _odd("forbidden", "The address leads to a host that is not one of the public internet.") from error
        raise network_failure(error) from error
    return _names(raw, keys)


def _names(raw: bytes, keys: tuple[str, ...]) -> tuple[str, ...]:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        raise _odd("odd", "Its list of models is not JSON.") from None
    items = answer
    if isinstance(answer, dict):
        items = next((answer[name] for name in ("data", "models") if isinstance(answer.get(name), list)), None)
    if not isinstance(items, list):
        raise _odd("odd", "What it answers is no list of models.")
    found: dict[str, None] = {}
    for item in items[:MOST_MODELS]:
        name = next((item[key] for key in keys if isinstance(item.get(key), str)), "") if isinstance(item, dict) else ""
        name = name.removeprefix("models/")
        # What no client could ask for by name is of no use here.
        if len(name) <= _LONGEST_NAME and _NAME.match(name):
            found[name] = None
    if not found:
        raise _odd("odd", "It lists no models.")
    return tuple(sorted(found))


def _first(names: tuple[str, ...], likely: tuple[str, ...]) -> str:
    listed = set(names)
    known = next((name for name in likely if name in listed), "")
    return known or next((name for name in names if not _HARDLY_CHAT.search(name.lower())), "")


async def _ask(session: ProviderSession, connection: Connection, model: str) -> None:
    target = _target(connection, model)
    if speaks(connection.protocol, AiModel.Mode.CHAT):
        request = {"model": model, **PROBE_REQUESTS[AiModel.Mode.CHAT]}
        await adapter_for(connection.protocol).chat(session, target, request)
    else:
        request = {"model": model, **PROBE_REQUESTS[AiModel.Mode.SPEECH]}
        await media_adapter_for(connection.protocol, AiModel.Mode.SPEECH).make(session, target, request)


def _target(connection: Connection, model: str) -> Target:
    return Target(
        provider=connection.slug,
        base_url=connection.base_url,
        secret=connection.secret,
        upstream_model=model,
        public_model=model,
        connect_timeout_seconds=CONNECT_SECONDS,
        first_byte_timeout_seconds=CALL_SECONDS,
        # A whole answer may take as long as both together.
        read_timeout_seconds=1,
        quirks=connection.quirks,
    )


def _key_headers(connection: Connection) -> dict[str, str]:
    match connection.protocol:
        case "anthropic":
            return {"x-api-key": connection.secret, "anthropic-version": "2023-06-01"}
        case "gemini":
            return {"x-goog-api-key": connection.secret}
        case "elevenlabs":
            return {"xi-api-key": connection.secret}
        case _:
            return {"Authorization": f"Bearer {connection.secret}"}


def _odd(code: str, detail: str) -> ProviderError:
    return ProviderError(FailureClass.INTERNAL, detail, code=code, status=200, detail=detail)


def _failed(connection: Connection, error: ProviderError) -> Tried:
    detail = redact(error.detail or error.message, connection.secret)[:_DETAIL_LENGTH]
    if error.status is None and _is_forbidden(error):
        return Tried(Outcome.FORBIDDEN, "The address leads to a host that is not one of the public internet.")
    if error.code == "forbidden":
        return Tried(Outcome.FORBIDDEN, detail)
    if error.failure is FailureClass.AUTH:
        return Tried(Outcome.WRONG_KEY, detail)
    if error.failure is FailureClass.NO_FUNDS:
        return Tried(Outcome.NO_FUNDS, detail)
    if error.status is None:
        return Tried(Outcome.UNREACHABLE, detail)
    told = f"HTTP {error.status}: {detail}" if error.status != 200 else detail
    return Tried(Outcome.UNREACHABLE if error.status in (502, 503, 504) else Outcome.ODD, told[:_DETAIL_LENGTH])


def _is_forbidden(error: BaseException | None) -> bool:
    """Whether the guard stood behind a failure, however deep the client wrapped it."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, AddressForbidden):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False
