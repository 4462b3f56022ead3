"""Replays recorded provider answers over real sockets (loopback only).

`NAME.response.json` holds status, headers and one of `body` (JSON), `body_text`, `body_b64` or `body_file` (raw stream bytes;
with `chunk_offsets`, the positions where the server flushes, and `connection_dropped_after_body`). The base URL of a
recording is `http://127.0.0.1:PORT/t/NAME`; the provider's own path follows. `NAME,OTHER` answers one request after the other,
the last one for good. Tests add own answers with `serve`.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import pathlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = pathlib.Path(__file__).resolve().parent
EVENT_STREAM = "text/event-stream"


@dataclass
class Answer:
    """What the server sends. `pieces` is chunked and flushed one by one; `hang_seconds` is a silence before the end."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: Sequence[bytes] | None = None
    pause_seconds: float = 0.01
    silence_seconds: float = 0
    hang_seconds: float = 0
    drop: bool = False


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: dict
    raw: bytes = b""


def recorded(name: str) -> Answer:
    """The recorded answer of that name."""
    meta = json.loads((HERE / f"{name}.response.json").read_text("utf-8"))
    headers = {
        key: value for key, value in meta["headers"].items() if key not in ("transfer-encoding", "content-length", "connection")
    }
    if "body_b64" in meta:
        return Answer(meta["status"], headers, base64.b64decode(meta["body_b64"]))
    if "body_file" not in meta:
        body = meta["body_text"] if "body_text" in meta else json.dumps(meta["body"], ensure_ascii=False)
        return Answer(meta["status"], headers, body.encode())
    stream = (HERE / meta["body_file"]).read_bytes()
    cuts = [0, *meta.get("chunk_offsets", []), len(stream)]
    pieces = [stream[start:stop] for start, stop in itertools.pairwise(cuts)]
    dropped = bool(meta.get("connection_dropped_after_body"))
    return Answer(meta["status"], headers, pieces=pieces, drop=dropped, hang_seconds=0.1 if dropped else 0)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ReplayServer

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        is_json = self.headers.get("content-type", "").startswith("application/json")
        body = json.loads(sent) if is_json else {}
        self.server.received.append(Received(self.path, dict(self.headers.items()), body, sent))
        names = self.path.split("/")[2].split(",")
        name = names[min(len(self.server.received), len(names)) - 1]
        answer = self.server.answers[name] if name in self.server.answers else recorded(name)
        with contextlib.suppress(ConnectionError):
            self._send(answer)

    do_GET = do_POST

    def _send(self, answer: Answer) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(answer.silence_seconds)
        self.send_response_only(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.pieces is None:
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in answer.pieces:
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
            self.wfile.flush()
            time.sleep(answer.pause_seconds)
        self.server.hang_up.wait(answer.hang_seconds)
        if answer.drop:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")


class ReplayServer(ThreadingHTTPServer):
    """Answers by name; keeps what it received."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Received] = []
        self.answers: dict[str, Answer] = {}
        self.hang_up = threading.Event()

    def base_url(self, name: str) -> str:
        """The base URL under which this recording (or served answer) is found."""
        return f"http://127.0.0.1:{self.server_address[1]}/t/{name}"

    def serve(self, answer: Answer) -> str:
        """Add an answer; return its base URL."""
        name = f"own{len(self.answers)}"
        self.answers[name] = answer
        return self.base_url(name)


@contextlib.contextmanager
def replay_server() -> Iterator[ReplayServer]:
    """A running server on a free port."""
    server = ReplayServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.hang_up.set()
        server.shutdown()
        server.server_close()
        thread.join()
