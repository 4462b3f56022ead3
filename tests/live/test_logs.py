"""What web processes and workers write down: JSON, the request's id from end to end, and nothing that is to stay secret."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pytest_django.plugin import DjangoDbBlocker

from billing.accounts.models import User
from billing.ledger.models import LedgerTransaction, UsageRecord
from iafactory.local.processes import spawn
from routing.models import ProviderCredential
from tests.live.conftest import PROJECT, Customer, Live, _database_url, free_port, start_web, wait_until
from tests.live.test_choice import plan_make, profile_make, provider_make

CHAT = "/v1/chat/completions"
PROMPT = "the-marked-prompt tell me of it"
PASSWORD = "the-marked-password-of-a-person"
PROVIDER_SECRET = "gsk_theMarkedSecretOfTheProvider0123456789"  # pragma: allowlist secret
MAIL_SECRET = "theMarkedMailPassword"
EMAIL = "logs-reader@example.com"


@dataclass
class Gossip:
    """A provider that repeats in its errors what it was sent, credential included; `statuses` in turn, the last for good."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def gossip() -> Iterator[Gossip]:
    told = Gossip()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            told.headers.append({name.lower(): value for name, value in self.headers.items()})
            status = told.statuses.pop(0) if len(told.statuses) > 1 else told.statuses[0]
            said = f"Not this: {body} of {self.headers['authorization']}"
            data = json.dumps({"error": {"message": said, "code": said}}).encode()
            if status == 200:
                # A stream that begins and then fails in its own words.
                chunk = {"choices": [{"index": 0, "delta": {"content": "well"}, "finish_reason": None}]}
                data = b"data: " + json.dumps(chunk).encode() + b"\n\ndata: " + data + b"\n\n"
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class Product:
    """A web process and a worker, and what they have written."""

    live: Live
    url: str
    logs: dict[str, Path]

    def text(self, process: str) -> str:
        return self.logs[process].read_text()

    def lines(self, process: str) -> list[dict[str, Any]]:
        """What was written as JSON."""
        return [json.loads(line) for line in self.text(process).splitlines() if line.startswith("{")]

    def post(self, path: str, customer: Customer | None, body: dict[str, Any]) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", headers=customer.headers if customer else {}, json=body, timeout=30)


@pytest.fixture
def product(live: Live, processes: Product) -> Product:
    return processes


@pytest.fixture(scope="module")
def processes(
    live_servers: Live, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("logs")
    logs = {"web": folder / "web.log", "worker": folder / "worker.log"}
    port = free_port()
    # A queue of its own for what these two say to each other, and a mail server that is not there.
    own = {
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
        "CELERY_BROKER_URL": os.environ["REDIS_URL"].replace("unix:", "redis+socket:").partition("?")[0] + "?virtual_host=7",
        "IAFACTORY_ENV": "local",
        "MAIL_DIR": "",
        # That tests may run as root is said before anything is set up.
        "PYTHONWARNINGS": "ignore",
        "EMAIL_URL": f"smtp://marked:{MAIL_SECRET}@127.0.0.1:1",
    }
    with django_db_blocker.unblock():
        environment = os.environ | {"DATABASE_URL": _database_url(), "SIMULATOR_URL": live_servers.simulator_url, **own}
        web = start_web(port, live_servers.simulator_url, logs["web"], **own)
    command = [sys.executable, "-m", "celery", "-q", "-A", "iafactory", "worker", "-Q", "celery", "--concurrency", "1"]
    command += ["--without-gossip", "--without-mingle"]
    worker = spawn(command, environment=environment, folder=PROJECT, log=logs["worker"])
    try:
        wait_until(lambda: "ready." in logs["worker"].read_text(), seconds=30, what="worker ready")
        url = f"http://127.0.0.1:{port}"
        yield Product(Live(url, live_servers.simulator_url, web), url, logs)
    finally:
        stop(web, worker)


def stop(*processes: "subprocess.Popen[bytes]") -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(60)


def gossiping(live: Live, gossip: Gossip, name: str) -> Customer:
    """A customer whose plan calls the provider that repeats everything, with a secret of ours."""
    plan_make(name)
    provider = provider_make(name)
    provider.base_url = gossip.url
    provider.save()
    ProviderCredential.objects.create(provider=provider, label="main", secret=PROVIDER_SECRET)
    profile_make(provider, f"{name}-model")
    return live.customer(plan=name)


def asked(name: str, **fields: Any) -> dict[str, Any]:
    return {"model": f"{name}-model", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16, **fields}


def test_neither_secrets_nor_prompts_are_logged_whatever_fails(product: Product, gossip: Gossip) -> None:
    customer = gossiping(product.live, gossip, "gossip")
    product.live.catch_up()
    User.objects.create_user(EMAIL, PASSWORD)
    gossip.statuses = [400, 500, 401]

    statuses = [product.post(CHAT, customer, asked("gossip")).status_code for _ in range(3)]
    gossip.statuses = [200]
    broken = product.post(CHAT, customer, asked("gossip", stream=True)).text
    product.post(CHAT, None, asked("gossip"))
    product.post("/api/auth/login", None, {"email": EMAIL, "password": f"{PASSWORD}-wrong"})
    product.post("/api/auth/login", None, {"email": EMAIL, "password": PASSWORD})
    product.post("/api/auth/register", None, {"email": EMAIL, "password": PASSWORD})
    product.post("/api/auth/password-reset", None, {"email": EMAIL})
    wait_until(
        lambda: "password_reset_send" in product.text("worker") and "credential_refused" in product.text("worker"),
        what="the worker heard",
    )

    assert statuses == [400, 502, 502]
    assert broken
    written = product.text("web") + product.text("worker")
    markers = (PROMPT, "marked-prompt", customer.secret, PASSWORD, PROVIDER_SECRET, "theMarkedSecret", MAIL_SECRET)
    assert [marker for marker in markers if marker in written] == []
    assert written.count("gossip/gossip-model failed") >= 3


def test_what_a_provider_says_of_a_prompt_is_not_kept_in_the_books(product: Product, gossip: Gossip) -> None:
    customer = gossiping(product.live, gossip, "quoting")
    product.live.catch_up()
    gossip.statuses = [400]

    product.post(CHAT, customer, asked("quoting"))

    record = UsageRecord.objects.get(account=customer.account)
    kept = [*LedgerTransaction.objects.filter(account=customer.account).values_list("reason", flat=True), str(vars(record))]
    assert [text for text in kept if "marked-prompt" in text] == []


def test_one_id_leads_from_the_answer_to_the_provider_the_logs_and_the_worker(product: Product, gossip: Gossip) -> None:
    customer = gossiping(product.live, gossip, "traced")
    product.live.catch_up()
    gossip.statuses = [500]
    failed = product.post(CHAT, customer, asked("traced"))
    reset = product.post("/api/auth/password-reset", None, {"email": "nobody@example.com"})
    call_id, page_id = failed.headers["x-request-id"], reset.headers["x-request-id"]
    assert failed.status_code == 502, failed.text

    def succeeded() -> list[dict[str, Any]]:
        return [line for line in product.lines("worker") if line["request_id"] == page_id]

    wait_until(lambda: bool(succeeded()), what="the worker's line")

    assert {headers["x-request-id"] for headers in gossip.headers} == {call_id}
    [line] = [line for line in product.lines("web") if "traced/traced-model failed" in line["message"]]
    assert (line["request_id"], line["level"], line["logger"]) == (call_id, "WARNING", "routing.pipeline")
    assert line["time"].endswith("Z")
    assert {line["task"] for line in succeeded()} == {"billing.accounts.password_reset_send"}


def test_every_line_of_both_processes_is_json_with_a_request_id(product: Product) -> None:
    product.post("/api/auth/password-reset", None, {"email": "nobody@example.com"})
    wait_until(lambda: "password_reset_send" in product.text("worker"), what="the worker's line")

    lines = [json.loads(line) for process in ("web", "worker") for line in product.text(process).splitlines()]
    assert lines
    assert [line for line in lines if not {"time", "level", "logger", "message", "request_id", "pid"} <= line.keys()] == []
