"""A company on loopback that knows which keys are good."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from billing.accounts.models import User
from billing.events.models import Event
from billing.events.services import Actor
from iafactory.common import clock
from routing.models import AiModel, ModelPrice, ModelProfile, Provider

GOOD = "sk-good-0123456789-good"
BETTER = "sk-better-0123456789-wxyz"
BAD = "sk-bad-0123456789-bad-abcd"


@dataclass
class Company:
    """What it answers, and the calls it saw: (key, model, output tokens at most)."""

    url: str = ""
    good_keys: set[str] = field(default_factory=lambda: {GOOD, BETTER})
    status: int | None = None
    calls: list[tuple[str, str, int | None]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def answer(self, key: str, path: str) -> tuple[int, dict[str, Any]]:
        if self.status is not None:
            return self.status, {"error": {"message": "Something is wrong here."}}
        if key not in self.good_keys:
            # Some companies repeat the key they refuse.
            return 401, {"error": {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}}
        if path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
            return 200, {"object": "list", "data": [vector], "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        choice = {"index": 0, "message": {"role": "assistant", "content": "pong"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
        return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@pytest.fixture
def company() -> Iterator[Company]:
    company = Company()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            key = (self.headers["authorization"] or self.headers["xi-api-key"]).removeprefix("Bearer ")
            company.calls.append((key, body.get("model") or body.get("model_id"), body.get("max_tokens")))
            company.paths.append(self.path)
            status, answer = company.answer(key, self.path)
            data = json.dumps(answer).encode()
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


def profile_make(provider: Provider, name: str, output_price: str | None, **fields: Any) -> ModelProfile:
    model = AiModel.objects.create(name=name, mode=fields.pop("mode", "chat"))
    profile = ModelProfile.objects.create(
        slug=f"{provider.slug}/{name}", provider=provider, model=model, upstream_model=f"up-{name}", **fields
    )
    if output_price is not None:
        ModelPrice.objects.create(
            profile=profile, effective_from=clock.now(), input_per_mtok=Decimal(1), output_per_mtok=Decimal(output_price)
        )
    return profile


@pytest.fixture
def provider(db: None, company: Company) -> Provider:
    """The company as a provider with a dear and a cheap chat model."""
    provider = Provider.objects.create(slug="acme", name="Acme", protocol="openai", base_url=company.url)
    profile_make(provider, "dear", "30")
    profile_make(provider, "cheap", "0.5")
    return provider


@pytest.fixture
def actor(db: None) -> Actor:
    user = User.objects.create_superuser("operator@example.com", "correct horse battery")
    return Actor(Event.ActorKind.OPERATOR, id=user.pk, label=user.email)
