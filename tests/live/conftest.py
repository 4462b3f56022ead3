"""The real product for tests: simulator and web server as processes of their own, on the tests' PostgreSQL and Redis."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
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
from routing.health.store import HEALTH_KEY, decode_record
from routing.models import AiModel, ModelProfile, PlanRouting
from tests.factories import account_make

PROJECT = Path(__file__).resolve().parents[2]
# Its owner tells how much of the catalogue a web process has taken in; nothing else is made of it.
MARKED_MODEL = "gpt-6-luna"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Any, *, seconds: float = 20, what: str = "condition") -> None:
    """Poll until `condition()` is true; fails the test after `seconds`."""
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
        if self._observer is None:
            self._observer = self.customer()
        assert AiModel.objects.filter(name=MARKED_MODEL).update(owner=mark) == 1

        def marked() -> bool:
            return bool(self.get(f"/v1/models/{MARKED_MODEL}", self._observer).json()["owned_by"] == mark)

        wait_until(marked, seconds=30, what="catalogue taken in")

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

    wait_until(answers, what="web answers")
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

    wait_until(answers, what="simulator answers")
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
            process.wait(15)


def _forget_health() -> None:
    """What providers did in the last test is no reason to avoid them in this one; processes hear of it within half a second."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        records = client.hvals(HEALTH_KEY)
        client.delete(HEALTH_KEY)
    if any(state.opened or state.resting for state in map(decode_record, records)):
        time.sleep(1)


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
    _forget_health()
    with django_db_blocker.unblock():
        yield live_servers
        connection.close()
