"""The real product for tests: simulator and web server as processes of their own, on the tests' PostgreSQL and Redis."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from django.db import connection
from django.test.utils import setup_databases, teardown_databases
from pytest_django.plugin import DjangoDbBlocker

from billing.accounts.models import Account, ApiKey
from billing.accounts.services import api_key_create
from billing.events.services import SYSTEM
from billing.ledger.models import Wallet
from billing.plans.models import Plan
from billing.subscriptions.services import subscription_switch
from iafactory.local.processes import spawn
from routing.catalog import catalog_load
from routing.health.state import RouteHealth
from routing.health.store import HEALTH_KEY, decode_record, encode_record
from routing.models import AiModel, ModelPrice, ModelProfile, PlanRouting, Provider
from tests.factories import account_make

PROJECT = Path(__file__).resolve().parents[2]
CHAT = "/v1/chat/completions"
# A provider and its model that nobody else may call: what a web process knows of them tells how far it has heard of changes.
BEACON = "beacon"


def free_port() -> int:
    """A port for a server, below those that the system gives to outgoing connections: none takes it before the server does."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    pytest.fail("no port is free")


def wait_until(condition: Any, *, seconds: float = 30, what: str = "condition") -> None:
    """Poll until `condition()` is true; fails the test after `seconds`, which only bound how long a broken product is tried."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not true after {seconds} s")
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Customer:
    """An account with a key, as a test's client sees it."""

    account: Account
    key: ApiKey
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    def wallet(self) -> tuple[Decimal, Decimal]:
        """Balance and held credits."""
        wallet = Wallet.objects.get(pk=self.account.pk)
        return wallet.balance, wallet.held


def soonest(measure: Callable[[], float], *, promised_seconds: float, tries: int = 5) -> float:
    """The least of several measurements, in seconds; the first that keeps the promise ends them.

    One that is late proves nothing where the whole machine may stand still for a moment; all of them do.
    """
    least = measure()
    for _ in range(tries - 1):
        if least < promised_seconds:
            break
        least = min(least, measure())
    return least


def seconds_until(condition: Callable[[], bool], *, what: str = "condition") -> float:
    """How long it takes until `condition()` is true."""
    began = time.monotonic()
    wait_until(condition, what=what)
    return time.monotonic() - began


class Live:
    """A running product."""

    def __init__(self, url: str, simulator_url: str, web: "subprocess.Popen[bytes]") -> None:
        self.url = url
        self.simulator_url = simulator_url
        self.web = web
        self._observer: Customer | None = None

    def customer(self, *, plan: str = "payg", credits: str | int = 100, scopes: Any = ApiKey.CUSTOMER_SCOPES) -> Customer:
        """A new account on `plan`, with bought credits and an API key."""
        account = account_make(credits=credits)
        subscription_switch(account=account, plan=Plan.objects.get(code=plan), actor=SYSTEM)
        key, secret = api_key_create(account=account, created_by=None, name="test", scopes=scopes, actor=SYSTEM)
        return Customer(account, key, secret)

    def catch_up(self) -> None:
        """Wait until the web process routes by a catalogue that holds everything committed before this call.

        It reads the catalogue at one instant: once it shows the mark made here, nothing older is missing. No other sign says
        so: a model is listed before the price of its second profile, or the credential of its provider, has come.
        """
        mark = str(uuid.uuid4())
        observer = self._observer or self._observe()
        AiModel.objects.filter(name=BEACON).update(owner=mark)
        wait_until(
            lambda: self.get(f"/v1/models/{BEACON}", observer).json().get("owned_by") == mark, what="the catalogue is taken in"
        )

    def forget_health(self) -> None:
        """What providers did in the last test is no reason to avoid them in this one."""
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            bad = any(state.opened or state.resting for state in map(decode_record, client.hvals(HEALTH_KEY)))
            if not bad:
                client.delete(HEALTH_KEY)
                return
            # All records are read together: who keeps away from the beacon has dropped the others.
            observer = self._observer or self._observe()
            self.catch_up()
            body = {"model": BEACON, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
            with client.pipeline() as together:
                together.delete(HEALTH_KEY)
                together.hset(HEALTH_KEY, f"{BEACON}/{BEACON}", encode_record(RouteHealth(opened=True, by_operator=True)))
                together.execute()
            # Without credits no call is made.
            wait_until(lambda: self.post(CHAT, observer, json=body).status_code == 503, what="health is forgotten")
            client.delete(HEALTH_KEY)
            wait_until(lambda: self.post(CHAT, observer, json=body).status_code == 402, what="the beacon is forgotten")

    def hang_up(self, path: str, customer: Customer, provider: str, body: dict[str, Any]) -> None:
        """Make a call and close its connection once the provider has received it."""
        received = self.received(provider)
        host, _, port = self.url.removeprefix("http://").partition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            client.request("POST", path, json.dumps(body), customer.headers | {"content-type": "application/json"})
            wait_until(lambda: self.received(provider) == received + 1, what="the call is under way")
        finally:
            client.close()

    def _observe(self) -> Customer:
        """A customer without credits whom alone the beacon is for."""
        self._observer = self.customer(credits=0)
        _beacon().reserved_for.add(self._observer.account)
        return self._observer

    def behave(self, provider: str = "*", **behaviour: Any) -> None:
        """Set what the simulated provider does."""
        httpx2.put(f"{self.simulator_url}/_control/{provider}", json=behaviour).raise_for_status()

    def received(self, provider: str) -> int:
        """Calls the simulated provider has received since the last reset."""
        body = httpx2.get(f"{self.simulator_url}/_control/{provider}/requests").json()
        return int(body["counters"]["received"])

    def post(self, path: str, customer: Customer | None, **arguments: Any) -> httpx2.Response:
        headers = arguments.pop("headers", {}) | (customer.headers if customer else {})
        return httpx2.post(f"{self.url}{path}", headers=headers, timeout=30, **arguments)

    def get(self, path: str, customer: Customer | None = None, **arguments: Any) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", headers=customer.headers if customer else {}, timeout=30, **arguments)


def _database_url() -> str:
    database = connection.settings_dict
    return os.environ["DATABASE_URL"].replace(f"/{database['NAME'].removeprefix('test_')}?", f"/{database['NAME']}?")


def start_web(port: int, simulator_url: str, log: Path, **extra: str) -> "subprocess.Popen[bytes]":
    """Start one web process on the tests' database; it answers once this returns."""
    environment = os.environ | {
        "DATABASE_URL": _database_url(),
        "SIMULATOR_URL": simulator_url,
        "MAX_BODY_BYTES": "1000000",
        **extra,
    }
    command = [sys.executable, "-m", "uvicorn", "iafactory.asgi:application", "--port", str(port)]
    command += ["--no-access-log", "--no-proxy-headers", "--timeout-graceful-shutdown", "5"]
    web = spawn(command, environment=environment, folder=PROJECT, log=log)

    def answers() -> bool:
        if web.poll() is not None:
            pytest.fail(f"the web process ended: {log.read_text()[-3000:]}")
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx2.TransportError:
            return False

    wait_until(answers, seconds=60, what="web answers")
    return web


def start_simulator(port: int, log: Path) -> "subprocess.Popen[bytes]":
    """Start a simulator of its own; it answers once this returns."""
    command = [sys.executable, "manage.py", "simulator", "--port", str(port)]
    simulator = spawn(command, environment=os.environ, folder=PROJECT, log=log)

    def answers() -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/_control").status_code == 200
        except httpx2.TransportError:
            return False

    wait_until(answers, seconds=60, what="simulator answers")
    return simulator


@pytest.fixture(scope="session")
def live_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database without a test's own transaction: pytest-django makes it only for tests with its mark."""
    if connection.settings_dict["NAME"].startswith("test_"):
        yield
        return
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False, aliases={"default"})
    yield
    with django_db_blocker.unblock():
        teardown_databases(made, verbosity=0)


@pytest.fixture(scope="session")
def live_servers(
    live_database: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    logs = tmp_path_factory.mktemp("live")
    simulator_port, port = free_port(), free_port()
    simulator_url = f"http://127.0.0.1:{simulator_port}"
    simulator = start_simulator(simulator_port, logs / "simulator.log")
    with django_db_blocker.unblock():
        catalog_load()
        # The free tiers' caps would hold for all tests together; those that try caps set their own.
        ModelProfile.objects.update(requests_per_minute=None, requests_per_day=None)
        _test_plans()
        web = start_web(port, simulator_url, logs / "web.log")
        connection.close()
    try:
        yield Live(f"http://127.0.0.1:{port}", simulator_url, web)
    finally:
        for process in (web, simulator):
            process.send_signal(signal.SIGTERM)
        for process in (web, simulator):
            process.wait(60)


def _beacon() -> ModelProfile:
    provider, _ = Provider.objects.get_or_create(
        slug=BEACON, defaults={"name": BEACON, "protocol": "openai", "base_url": "https://beacon.example/v1"}
    )
    model, _ = AiModel.objects.get_or_create(name=BEACON)
    profile, made = ModelProfile.objects.get_or_create(
        slug=f"{BEACON}/{BEACON}", defaults={"provider": provider, "model": model, "upstream_model": BEACON}
    )
    if made:
        profile.reserved_for.add(account_make())
        ModelPrice.objects.create(profile=profile, effective_from="2026-01-01T00:00Z", input_per_mtok="1", output_per_mtok="1")
    return profile


def _test_plans() -> None:
    """Plans whose calls go to Groq whatever was measured: on `whole` a small call costs one credit, on `exact` its price."""
    for rounding in ("whole", "exact"):
        # Browser tests have servers of their own on the same database, and may have come first.
        plan, _ = Plan.objects.get_or_create(
            code=rounding,
            defaults={"family": "test", "name": rounding, "interval": "none", "billing_mode": "credits", "rounding": rounding},
        )
        PlanRouting.objects.get_or_create(
            plan=plan,
            defaults={
                "strategy": "split",
                "split": {"groq": 1},
                "default_models": {"groq": "llama-3.3-70b"},
                "models_allowed": ["*"],
            },
        )


@pytest.fixture
def live(live_servers: Live, django_db_blocker: DjangoDbBlocker) -> Iterator[Live]:
    """The running product with a well-behaved simulator. What tests write stays: the books must verify all the same."""
    httpx2.delete(f"{live_servers.simulator_url}/_control").raise_for_status()
    with django_db_blocker.unblock():
        live_servers.forget_health()
        yield live_servers
        connection.close()
