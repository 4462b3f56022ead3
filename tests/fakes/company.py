"""A company of models on loopback that speaks OpenAI's protocol, lists its models, and knows which keys are good."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

GOOD = "sk-good-0123456789-good"
BETTER = "sk-better-0123456789-wxyz"
BAD = "sk-bad-0123456789-bad-abcd"


class Call(NamedTuple):
    """A call that arrived; its output tokens at most are None where it says none."""

    method: str
    path: str
    key: str
    model: str = ""
    most_tokens: int | None = None


@dataclass
class Company:
    """What it lists and answers, and the calls it saw.

    `status` is what every call is answered with, if it is set, and `statuses` what those of a key are; `headers` go with every
    answer.
    """

    url: str = ""
    # None: every key is good.
    good_keys: set[str] | None = field(default_factory=lambda: {GOOD, BETTER})
    status: int | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    chat_status: int = 200
    models: Any = field(default_factory=lambda: {"data": [{"id": "acme-large"}, {"id": "acme-embed"}, {"id": "gpt-oss-120b"}]})
    # The list as bytes, when it is no JSON.
    raw_models: bytes | None = None
    calls: list[Call] = field(default_factory=list)

    def answer(self, call: Call) -> tuple[int, Any]:
        """Status and body."""
        if (status := self.statuses.get(call.key, self.status)) is not None:
            return status, {"error": {"message": "Something is wrong here."}}
        if self.good_keys is not None and call.key not in self.good_keys:
            # Some companies repeat the key they refuse.
            return 401, {"error": {"message": f"Incorrect API key provided: {call.key}.", "code": "invalid_api_key"}}
        if call.method == "GET":
            return 200, self.models if self.raw_models is None else self.raw_models
        if call.path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
            return 200, {"object": "list", "data": [vector], "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        if self.chat_status != 200:
            return self.chat_status, {"error": {"message": "No such thing."}}
        choice = {"index": 0, "message": {"role": "assistant", "content": "pong"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
        return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def company_open(**answers: Any) -> Iterator[Company]:
    """The company while it is open, at its `url`, with these fields."""
    company = Company(**answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET", {})

        def do_POST(self) -> None:
            self.reply("POST", json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def reply(self, method: str, body: dict[str, Any]) -> None:
            key = (self.headers["authorization"] or self.headers["xi-api-key"] or "").removeprefix("Bearer ")
            model = body.get("model") or body.get("model_id") or ""
            company.calls.append(Call(method, self.path, key, model, body.get("max_tokens")))
            status, answer = company.answer(company.calls[-1])
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
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
