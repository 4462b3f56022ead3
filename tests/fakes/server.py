"""Payment gateways that are not: real HTTP servers on loopback, each keeping state and speaking its gateway's documented side.

They know nothing of the product's adapters. A test drives the buyer (`act`), the gateway's own clock and back office (methods
of each fake), what goes wrong (`fail`), and when webhooks leave (`deliver`): they wait in `outbox`, and are signed when sent.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import secrets
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        pairs = urllib.parse.parse_qsl(self.body.decode(), keep_blank_values=True)
        assert len(dict(pairs)) == len(pairs), "a field came twice"
        return dict(pairs)

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"null")


@dataclass
class Reply:
    status: int = 200
    data: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    text: str | None = None

    def encoded(self) -> tuple[bytes, str]:
        if self.text is not None:
            return self.text.encode(), self.headers.pop("content-type", "text/html; charset=utf-8")
        return json.dumps(self.data, ensure_ascii=False).encode(), "application/json"


@dataclass
class Fault:
    """What goes wrong. `slow` answers late, `drip` a byte at a time, `busy` is a 429, `garbage` is HTML after the work; `error`
    is a 500 before the work and `error_after` a 502 after it; `drop_before` and `drop_after` cut the connection.
    """

    kind: str
    path: str = ""
    method: str = ""
    times: int = 1
    seconds: float = 1.5


@dataclass
class Delivery:
    """A webhook that waits to be sent. `send` signs it and posts it."""

    url: str
    body: bytes
    headers: Callable[[bytes], dict[str, str]]
    kind: str

    def signed(self) -> dict[str, str]:
        return self.headers(self.body)


Handler = Callable[..., Reply]


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Marks a method as the answer to `pattern`, a regular expression whose groups become arguments."""

    def mark(function: Handler) -> Handler:
        function.route = (method, re.compile(pattern))  # type: ignore[attr-defined]
        return function

    return mark


class FakeGateway:
    """State and behaviour common to all; a subclass adds routes, authentication and signatures."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.outbox: list[Delivery] = []
        self.sent: list[tuple[int, Delivery]] = []
        self.send_at_once = False
        self.webhook_url = ""
        self.clock_offset = 0
        # Ids differ from those of any other fake: some tests keep their rows.
        self.counter = secrets.randbelow(10**9)
        self.url = ""
        self._routes = [
            (*getattr(type(self), name).route, getattr(self, name))
            for name in dir(type(self))
            if hasattr(getattr(type(self), name, None), "route")
        ]

    # --- what a test does ---

    def fail(self, kind: str, path: str = "", *, method: str = "", times: int = 1, seconds: float = 1.5) -> None:
        """The next `times` requests whose path contains `path` go wrong."""
        self.faults.append(Fault(kind, path, method, times, seconds))

    def act(self, page: str, action: str, *, form_action: str = "", form: Mapping[str, str] | None = None) -> Landing:
        """What the buyer does on the gateway's page: `pay`, `decline`, `cancel` …; answers where the browser lands."""
        if form_action:
            page = browse("POST", form_action, form).location
        browse("GET", page)
        return browse("POST", page, {"action": action})

    def deliver(self) -> list[int]:
        """Sends what waits, in order; answers the statuses."""
        with self.lock:
            waiting, self.outbox = self.outbox, []
        return [self.send(delivery) for delivery in waiting]

    def send(self, delivery: Delivery) -> int:
        """Sends one webhook, signed now."""
        status = post(delivery.url, delivery.body, delivery.signed())
        self.sent.append((status, delivery))
        return status

    def calls(self, method: str, path: str) -> list[Request]:
        """The requests received for this method whose path contains `path`."""
        return [request for request in self.requests if request.method == method and path in request.path]

    # --- for subclasses ---

    def now(self) -> int:
        return int(time.time()) + self.clock_offset

    def new_id(self, prefix: str = "", length: int = 14) -> str:
        self.counter += 1
        return f"{prefix}{self.counter:0{length}d}"

    def queue(self, delivery: Delivery) -> None:
        if delivery.url:
            self.outbox.append(delivery)

    def page(self, title: str) -> Reply:
        buttons = "".join(f"<button name=action value={action}>{action}</button>" for action in ("pay", "decline", "cancel"))
        head = f"<meta charset=utf-8><title>{html.escape(title)}</title><link rel=icon href='data:,'>"
        return Reply(text=f"<!doctype html><html>{head}<form method=post>{buttons}</form></html>")

    def authorise(self, request: Request) -> Reply | None:
        """A refusal, or None."""
        return None

    def answer(self, request: Request) -> Reply:
        with self.lock:
            if refusal := self.authorise(request):
                return refusal
            for method, pattern, handler in self._routes:
                if method == request.method and (match := pattern.fullmatch(request.path)):
                    reply: Reply = handler(request, *match.groups())
                    return reply
        return Reply(404, {"message": "no such address"})

    def fault_for(self, request: Request) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.path in request.path and fault.method in ("", request.method):
                    fault.times -= 1
                    return fault
        return None


@dataclass
class Landing:
    """Where a browser arrives: an address it is sent to, or a form it posts by itself."""

    status: int
    location: str
    body: str

    @property
    def form(self) -> tuple[str, dict[str, str]]:
        [action] = re.findall(r'<form[^>]*action="([^"]*)"', self.body)
        fields = re.findall(r'<input[^>]*name="([^"]*)"[^>]*value="([^"]*)"', self.body)
        return html.unescape(action), {html.unescape(name): html.unescape(value) for name, value in fields}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


_browser = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


def browse(method: str, url: str, form: Mapping[str, str] | None = None) -> Landing:
    """One request of a buyer's browser; redirects are answered, not followed."""
    body = urllib.parse.urlencode(form).encode() if form is not None else None
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with _browser.open(request, timeout=10) as response:
            return Landing(response.status, response.headers.get("location", ""), response.read().decode())
    except urllib.error.HTTPError as error:
        return Landing(error.code, error.headers.get("location", ""), error.read().decode(errors="replace"))


def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status with which `url` answers a webhook; 0 when it does not."""
    request = urllib.request.Request(url, data=body, method="POST", headers=dict(headers))
    try:
        with _browser.open(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: ClassVar[FakeGateway]

    def _handle(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("content-length") or 0)
        request = Request(
            self.command,
            address.path,
            dict(urllib.parse.parse_qsl(address.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length),
        )
        self.close_connection = True
        fault = self.fake.fault_for(request)
        kind = fault.kind if fault else ""
        if kind == "drop_before":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if kind == "busy":
            reply = Reply(429, {"error": {"code": "rate_limit", "message": "slow down"}, "message": "slow down"})
        elif kind == "error":
            reply = Reply(500, text="<html>Internal Server Error</html>")
        else:
            self.fake.requests.append(request)
            reply = self.fake.answer(request)
        if kind == "slow" and fault:
            time.sleep(fault.seconds)
        if kind == "drop_after":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if kind == "error_after":
            reply = Reply(502, text="<html>Bad Gateway</html>")
        if kind == "garbage":
            reply = Reply(200, text="<html>Maintenance</html>")
        body, content_type = reply.encoded()
        with contextlib.suppress(OSError):
            self.send_response(reply.status)
            for name, value in {"content-type": content_type, **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.send_header("connection", "close")
            self.end_headers()
            for piece in (body[i : i + 1] for i in range(len(body))) if kind == "drip" else [body]:
                self.wfile.write(piece)
                time.sleep(0.2 if kind == "drip" else 0)
        if self.fake.send_at_once:
            # Never under the lock: who receives a webhook asks back.
            threading.Thread(target=self.fake.deliver, daemon=True).start()

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve(fake: FakeGateway) -> Callable[[], None]:
    """Starts `fake` on a free port and sets its `url`; answers what stops it."""
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = _Server(("127.0.0.1", 0), handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
