"""A company on loopback that lists its models and knows which keys are good."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

GOOD = "sk-good-0123456789-good"
BAD = "sk-bad-0123456789-bad-abcd"


@dataclass
class ListingCompany:
    """What it lists and answers, and what it was asked: (method, path, key, model)."""

    url: str = ""
    models: Any = field(default_factory=lambda: {"data": [{"id": "acme-large"}, {"id": "acme-embed"}, {"id": "gpt-oss-120b"}]})
    raw: bytes | None = None
    chat_status: int = 200
    calls: list[tuple[str, str, str, str]] = field(default_factory=list)

    def answer(self, method: str, path: str, key: str) -> tuple[int, Any]:
        if key != GOOD:
            # Some companies repeat the key they refuse.
            return 401, {"error": {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}}
        if method == "GET":
            return 200, self.models
        if self.chat_status != 200:
            return self.chat_status, {"error": {"message": "No such thing."}}
        choice = {"index": 0, "message": {"role": "assistant", "content": "pong"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
        return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@pytest.fixture
def company() -> Iterator[ListingCompany]:
    company = ListingCompany()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET", "")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.reply("POST", body.get("model", ""))

        def reply(self, method: str, model: str) -> None:
            key = (self.headers["authorization"] or "").removeprefix("Bearer ")
            company.calls.append((method, self.path, key, model))
            status, answer = company.answer(method, self.path, key)
            data = company.raw if company.raw is not None and method == "GET" else json.dumps(answer).encode()
            self.send_response(status)
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
    yield company
    server.shutdown()
    server.server_close()
    thread.join(5)
