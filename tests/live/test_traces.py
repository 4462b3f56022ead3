"""Traces of calls, as a collector receives them: every step, and nothing that anybody sent."""

import gzip
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.live.conftest import Live, free_port, start_web

CHAT = "/v1/chat/completions"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                bodies.append(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span for request in requests for one in request.resource_spans for scope in one.scope_spans for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def test_a_call_is_traced_step_by_step_without_its_prompt_and_key(live: Live, collector: Collector, tmp_path: Path) -> None:
    customer = live.customer(plan="exact")
    port = free_port()
    web = start_web(
        port, live.simulator_url, tmp_path / "web.log", TRACES_ENDPOINT=collector.url, TRACES_SHARE="1", IAFACTORY_ENV="local"
    )
    body = {"model": "llama-3.3-70b", "messages": [{"role": "user", "content": "the-marked-prompt"}], "max_tokens": 8}

    answer = httpx2.post(f"http://127.0.0.1:{port}{CHAT}", headers=customer.headers, json=body, timeout=30)
    web.send_signal(signal.SIGTERM)
    web.wait(60)

    [call] = [span for span in collector.spans() if span.name == "call"]
    steps = [span.name for span in collector.spans() if span.parent_span_id == call.span_id]
    told = {item.key.removeprefix("iafactory."): item.value.string_value for item in call.attributes}
    assert answer.status_code == 200
    assert steps == ["choose", "reserve", "hold", "serve", "settle"]
    # Redis is told while PostgreSQL commits.
    [settle, release] = [next(span for span in collector.spans() if span.name == name) for name in ("settle", "release")]
    assert release.parent_span_id == settle.span_id
    assert (told["request_id"], told["end"], told["provider"]) == (answer.headers["x-request-id"], "complete", "groq")
    sent = b"".join(collector.bodies)
    assert [word for word in (b"marked-prompt", customer.secret.encode(), b"authorization") if word in sent] == []
