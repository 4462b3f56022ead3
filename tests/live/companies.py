"""A company on loopback whose answers a test sets per key."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Company:
    """`statuses`: key to what it is answered instead of 200; `headers`: sent with every answer; `calls`: (method, key) seen."""

    url: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, method: str, key: str) -> tuple[int, dict[str, Any]]:
        self.calls.append((method, key))
        status = self.statuses.get(key, 200)
        if status != 200:
            return status, {"error": {"message": "Not with this key."}}
        if method == "GET":
            return 200, {"object": "list", "data": []}
        choice = {"index": 0, "message": {"role": "assistant", "content": "pong"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
        return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def company_open() -> Iterator[Company]:
    """A company that answers until the block ends."""
    company = Company()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer("POST")

        def do_GET(self) -> None:
            self._answer("GET")

        def _answer(self, method: str) -> None:
            status, body = company.answer(method, self.headers["authorization"].removeprefix("Bearer "))
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in company.headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    company.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield company
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
