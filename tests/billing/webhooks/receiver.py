"""A customer's server, as a real HTTP server on loopback: it remembers what it got and answers as it is told."""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Behaviour:
    """How the receiver answers from now on."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    delay_seconds: float = 0
    # Sends this many more bytes than a caller should want.
    huge_bytes: int = 0
    # Closes the connection without an answer.
    drop: bool = False
    # Sends a byte of the body every so often, and never ends.
    drip_seconds: float = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Connections that wait to be taken: a hundred may come at once.
    request_queue_size = 256


class Receiver:
    """Runs until `stop`. `requests` is what came; `at_once` the most requests that were under way together."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.behaviour = Behaviour()
        self.at_once = 0
        self.huge_bytes_sent = 0
        self._running = 0
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                receiver._entered(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                try:
                    receiver._answer(self)
                except OSError:
                    self.close_connection = True
                finally:
                    receiver._left()

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                return

        self._server = _Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def behave(self, **behaviour: Any) -> None:
        self.behaviour = Behaviour(**behaviour)

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def _entered(self, request: Received) -> None:
        with self._lock:
            self.requests.append(request)
            self._running += 1
            self.at_once = max(self.at_once, self._running)

    def _left(self) -> None:
        with self._lock:
            self._running -= 1

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        how = self.behaviour
        self.stopping.wait(how.delay_seconds)
        if how.drop:
            handler.close_connection = True
            return
        handler.send_response(how.status)
        for name, value in how.headers.items():
            handler.send_header(name, value)
        if how.drip_seconds:
            handler.send_header("connection", "close")
            handler.end_headers()
            while not self.stopping.wait(how.drip_seconds):
                handler.wfile.write(b".")
                handler.wfile.flush()
            return
        handler.send_header("content-length", str(len(how.body) + how.huge_bytes))
        handler.end_headers()
        handler.wfile.write(how.body)
        sent = 0
        while sent < how.huge_bytes:
            handler.wfile.write(b"x" * 65536)
            sent += 65536
            self.huge_bytes_sent = sent


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Poll until true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not true in time"
        time.sleep(0.01)
