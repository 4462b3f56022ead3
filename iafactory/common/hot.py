"""The slim ASGI handler of the API's hot paths, and the base class of their views.

No session, CSRF or message middleware, no request signals, no thread hop. It owns start-up and drain, the host check, the body
limit and the watch for clients that hang up. Every other path goes to Django's stock handler, behind the same body limit.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import psycopg
from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.urls import Resolver404
from django.urls.resolvers import RegexPattern, URLResolver
from rest_framework.views import APIView

from . import request_id
from .client_address import scope_client_address
from .errors import ApiError, error_body, speaks_anthropic
from .ids import uuid7
from .metrics import refused
from .rendering import encode_json

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LONGEST_KEPT_PATH = 120
JSON_TYPE = (b"content-type", b"application/json")


class Answer(NamedTuple):
    """A whole HTTP answer."""

    body: bytes
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = (JSON_TYPE,)


def json_answer(data: Any, *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """`data` as JSON, `Decimal` written as numbers."""
    return Answer(encode_json(data), status, (JSON_TYPE, *headers))


class Exchange:
    """One HTTP request and its answer.

    `gone` says whether the client has hung up; `when_gone` hears of it at that moment.
    """

    __slots__ = (
        "_client_address",
        "_gone",
        "_on_gone",
        "_receive",
        "_send",
        "_started",
        "_watch",
        "headers",
        "id",
        "id_text",
        "method",
        "path",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        # The first of repeated headers wins, as for every header we read.
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self.id = uuid7()
        self.id_text = str(self.id)
        self._client_address: str | None = None
        self._gone = False
        self._on_gone: Callable[[], None] | None = None
        self._receive = receive
        self._send = send
        self._started = False
        self._watch: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> str:
        """A request header, lower-case name; empty when absent."""
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def started(self) -> bool:
        """Whether the status line is out."""
        return self._started

    @property
    def client_address(self) -> str:
        """Who asks, seen through the proxies we trust; empty where nobody is named."""
        if self._client_address is None:
            self._client_address = scope_client_address(self.scope)
        return self._client_address

    async def read_body(self) -> bytes:
        """The body. Raises `ApiError` 413 above the limit of the settings; call it after authenticating."""
        limit: int = settings.MAX_BODY_BYTES
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise body_too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                raise ApiError(400, "client_gone", "The connection closed before the body was complete.")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise body_too_large(limit)
            parts.append(part)
            if not message.get("more_body", False):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def gone(self) -> bool:
        """Whether the client has hung up. The body must have been read."""
        if not self._gone and self._watch is None:
            # One step of what would wait for the disconnect: it ends in it if that is here already. Costs no task.
            waiting: Any = self._receive()
            try:
                waiting.send(None)
            except StopIteration as received:
                self._gone = received.value["type"] == "http.disconnect"
            finally:
                waiting.close()
        return self._gone

    def when_gone(self, call: Callable[[], None] | None) -> None:
        """Call `call` when the client hangs up; None: nobody any more. The body must have been read."""
        self._on_gone = call
        if call is not None and self._watch is None:
            self._watch = asyncio.create_task(self._await_disconnect())

    async def _await_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._on_gone is not None:
            self._on_gone()

    def finish(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()

    def identified(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """`headers` with `x-request-id`, and with `request-id` where Anthropic's clients look for it."""
        request_id = self.id_text.encode()
        sent = [*headers, (b"x-request-id", request_id)]
        if speaks_anthropic(self.path):
            sent.append((b"request-id", request_id))
        return sent

    def run_to_the_end(self) -> bool:
        """Whether the present task is one that nobody cancels; only a server that is known can say yes."""
        return False

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send the status line and headers; see `identified`."""
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": self.identified(headers)})

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer."""
        length = (b"content-length", str(len(answer.body)).encode())
        await self.start(answer.status, [*answer.headers, length])
        await self.end(answer.body)


def body_too_large(limit: int) -> ApiError:
    """The refusal of a body above `limit` bytes."""
    return ApiError(413, "body_too_large", f"The body is larger than {limit} bytes.")


def error_answer(error: ApiError, path: str) -> Answer:
    """`error` as the whole answer that clients of `path` understand."""
    refused(error.code, error.status)
    headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return json_answer(error_body(error, path), status=error.status, headers=headers)


class HotView(APIView):
    """Base of the hot paths' views: `async def get|post(self, exchange, **path_arguments) -> Answer | None`.

    A handler that has answered through the exchange returns None. It is an `APIView` for the schema's sake; negotiation,
    parsers, authenticators and renderers do not run. The schema names the default authentication, which handlers do themselves.
    """

    permission_classes: ClassVar[list[Any]] = []

    async def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(request, Exchange):
            raise TypeError("Hot paths are served by iafactory.asgi only.")
        handler = getattr(self, request.method.lower(), None) if request.method in ("GET", "POST") else None
        if handler is None:
            allowed = ", ".join(name for name in ("GET", "POST") if hasattr(self, name.lower()))
            raise ApiError(405, "method_not_allowed", f"{request.method} is not allowed here.", headers={"allow": allowed})
        return await handler(request, **kwargs)


@lru_cache(maxsize=256)
def _host_allowed(host: bytes) -> bool:
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


class SlimApplication:
    """Routes hot paths to their views and everything else to `stock`.

    `start` and `stop` are awaited at start-up and shutdown; requests in flight are awaited in between. `admit` is asked before
    anything else about every HTTP request, and what it returns is the answer. `exchange_of` makes the exchange of a hot path.
    """

    def __init__(
        self,
        *,
        stock: Application,
        hot_urls: str,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        admit: Callable[[Scope], ApiError | None] | None = None,
        exchange_of: Callable[[Scope, Receive, Send], Exchange] = Exchange,
        drain_seconds: float = 30,
    ) -> None:
        self._stock = stock
        resolver = URLResolver(RegexPattern(r"^/"), hot_urls)

        def match(path: str) -> tuple[HotView, dict[str, Any]] | None:
            try:
                found: Any = resolver.resolve(path)
            except Resolver404:
                return None
            # Views keep nothing of a request: one of each serves all.
            return found.func.view_class(**found.func.view_initkwargs), found.kwargs

        self._resolve = match
        self._resolve_short = lru_cache(maxsize=512)(match)
        self._start = start
        self._stop = stop
        self._admit = admit
        self._exchange_of = exchange_of
        self._drain_seconds = drain_seconds
        self._running: set[asyncio.Task[None]] = set()
        self._draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
        elif self._admit is not None and (refusal := self._admit(scope)) is not None:
            exchange = Exchange(scope, receive, send)
            request_id.begin(exchange.id_text)
            await exchange.answer(error_answer(refusal, exchange.path))
        else:
            path = scope["path"]
            # Anybody may ask for any path: long ones are not kept.
            match = self._resolve_short(path) if len(path) <= _LONGEST_KEPT_PATH else self._resolve(path)
            if match is None:
                await self._serve_stock(scope, receive, send)
                return
            # The client hanging up, or the server cancelling this task at shutdown, must not stop the booking of a call.
            exchange = self._exchange_of(scope, receive, send)
            if exchange.run_to_the_end():
                await self._counted(self._serve_hot(*match, exchange))
            else:
                await asyncio.shield(asyncio.create_task(self._counted(self._serve_hot(*match, exchange))))

    async def _counted(self, serving: Coroutine[Any, Any, None]) -> None:
        """Serve in the present task, which a shutdown waits for."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await serving
        finally:
            self._running.discard(task)

    async def _serve_hot(self, view: HotView, kwargs: dict[str, Any], exchange: Exchange) -> None:
        request_id.begin(exchange.id_text)
        try:
            if not _host_allowed(exchange.headers.get(b"host", b"")):
                raise ApiError(400, "invalid_host", "The Host header is not one of this server's names.")
            if self._draining:
                raise ApiError(503, "shutting_down", "This server is restarting.", retry_after_seconds=1)
            answer: Answer | None = await view.dispatch(exchange, **kwargs)
        except ApiError as error:
            answer = error_answer(error, exchange.path)
        except psycopg.OperationalError as error:
            # A view that calls providers settles whatever happens: only what comes before a hold ends here.
            logger.warning("%s %s: PostgreSQL does not answer: %s", exchange.method, exchange.path, error)
            unavailable = ApiError(
                503, "database_unavailable", "The database does not answer at the moment.", retry_after_seconds=2
            )
            answer = error_answer(unavailable, exchange.path)
        except Exception:
            logger.exception("%s %s failed", exchange.method, exchange.path)
            answer = error_answer(ApiError(500, "internal_error", "Something went wrong on our side."), exchange.path)
        finally:
            exchange.finish()
        if answer is not None:
            if exchange.started:
                await exchange.end()
            else:
                await exchange.answer(answer)

    async def _serve_stock(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Django's own handler spools bodies of any size to disk before its limits are asked: stop them here."""
        limit: int = settings.MAX_BODY_BYTES
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > limit:
            await Exchange(scope, receive, send).answer(error_answer(body_too_large(limit), scope["path"]))
            return
        size = 0
        refused = False

        async def limited_receive() -> Mapping[str, Any]:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit and not refused:
                refused = True
                await Exchange(scope, receive, send).answer(error_answer(body_too_large(limit), scope["path"]))
            return {"type": "http.disconnect"} if refused else message

        async def guarded_send(message: Mapping[str, Any]) -> None:
            if not refused:
                await send(message)

        await self._stock(scope, limited_receive, guarded_send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:
            logger.exception("start-up failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._draining = True
        if self._running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_seconds):
                    await asyncio.gather(*self._running, return_exceptions=True)
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})
