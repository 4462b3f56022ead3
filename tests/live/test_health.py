"""A provider dies under load: nobody whose answer had not begun notices, and it comes back by itself."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
import redis

from billing.events.models import Event
from billing.ledger.models import UsageRecord
from billing.plans.models import Plan
from iafactory.common import clock
from routing.health.checks import profiles_check
from routing.health.state import RouteHealth
from routing.health.store import HEALTH_KEY, decode_record
from routing.models import AiModel, HealthCheck, ModelPrice, ModelProfile, PlanRouting, Provider, ProviderCredential
from tests.live.conftest import Customer, Live, free_port, start_simulator, wait_until

CHAT = "/v1/chat/completions"
# Protocol to the end of its base URL.
VERSIONS = {"openai": "v1", "anthropic": "v1", "gemini": "v1beta"}


class Trio:
    """Three providers of one model, each another dialect and another server."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.ports = {protocol: free_port() for protocol in VERSIONS}
        self.servers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, protocol: str) -> None:
        self.servers[protocol] = start_simulator(self.ports[protocol], self.logs / f"{protocol}.log")

    def kill(self, protocol: str) -> None:
        server = self.servers.pop(protocol)
        server.send_signal(signal.SIGKILL)
        server.wait(60)

    def behave(self, protocol: str, **behaviour: object) -> None:
        url = f"http://127.0.0.1:{self.ports[protocol]}/_control/trio-{protocol}"
        httpx2.put(url, json=behaviour).raise_for_status()

    def base_url(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.ports[protocol]}/trio-{protocol}/{VERSIONS[protocol]}"


def make_routes(trio: Trio) -> None:
    model, _ = AiModel.objects.get_or_create(name="trio")
    for priority, protocol in enumerate(VERSIONS):
        provider, _ = Provider.objects.update_or_create(
            slug=f"trio-{protocol}",
            defaults={
                "name": f"Trio {protocol}",
                "protocol": protocol,
                "base_url": trio.base_url(protocol),
                "priority": priority,
                "connect_timeout_seconds": 1,
                "first_byte_timeout_seconds": 2,
                "read_timeout_seconds": 2,
            },
        )
        ProviderCredential.objects.get_or_create(provider=provider, label="main", defaults={"secret": "sk-trio-simulated"})
        profile, made = ModelProfile.objects.get_or_create(
            slug=f"trio-{protocol}/trio", defaults={"provider": provider, "model": model, "upstream_model": "trio"}
        )
        if made:
            ModelPrice.objects.create(
                profile=profile, effective_from="2026-01-01T00:00Z", input_per_mtok="1", output_per_mtok="2"
            )
    plan, made = Plan.objects.get_or_create(
        code="trio", defaults={"family": "test", "name": "Trio", "interval": "none", "billing_mode": "credits"}
    )
    if made:
        PlanRouting.objects.create(
            plan=plan,
            strategy="split",
            split={f"trio-{protocol}": 1 for protocol in VERSIONS},
            fallback=[f"trio-{protocol}" for protocol in VERSIONS],
            default_models={f"trio-{protocol}": "trio" for protocol in VERSIONS},
            models_allowed=["trio"],
        )


@pytest.fixture
def trio(live: Live, tmp_path: Path) -> Iterator[Trio]:
    trio = Trio(tmp_path)
    for protocol in VERSIONS:
        trio.start(protocol)
        trio.behave(protocol, latency_ms=20, output_tokens=8, chunk_interval_ms=5)
    make_routes(trio)
    yield trio
    Provider.objects.filter(slug__startswith="trio-").update(enabled=True)
    for protocol in list(trio.servers):
        trio.kill(protocol)


@pytest.fixture
def customer(live: Live, trio: Trio) -> Customer:
    customer = live.customer(plan="trio", credits=10_000)

    def served_by_all() -> bool:
        answers = [live.post(CHAT, customer, json={"model": "auto", "messages": HELLO}) for _ in range(3)]
        return {answer.headers.get("x-iaf-provider") for answer in answers} == {f"trio-{p}" for p in VERSIONS}

    live.catch_up()
    wait_until(served_by_all, what="three providers serve")
    return customer


HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Call:
    """One call of the load, in seconds since the load began."""

    began: float
    seconds: float
    status: int
    whole: bool
    complete: bool
    provider: str
    code: str = ""


@dataclass
class Load:
    """Calls from many clients for a while; `at` runs things in the middle of it."""

    url: str
    customer: Customer
    clients: int
    seconds: float
    calls: list[Call] = field(default_factory=list)
    # When each event had happened, in seconds since the load began: on a busy machine later than planned.
    happened: list[float] = field(default_factory=list)

    def run(self, *events: tuple[float, Callable[[], None]]) -> list[Call]:
        asyncio.run(self._run(events))
        return self.calls

    async def _run(self, events: tuple[tuple[float, Callable[[], None]], ...]) -> None:
        began = time.monotonic()
        connector = aiohttp.TCPConnector(limit=self.clients)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:

            async def event(at: float, happens: Callable[[], None]) -> None:
                await asyncio.sleep(at)
                await asyncio.to_thread(happens)
                self.happened.append(time.monotonic() - began)

            async def client(number: int) -> None:
                while time.monotonic() - began < self.seconds:
                    await self._call(session, began, stream=number % 2 == 0)

            await asyncio.gather(*(event(*e) for e in events), *(client(number) for number in range(self.clients)))

    async def _call(self, session: aiohttp.ClientSession, began: float, *, stream: bool) -> None:
        at = time.monotonic()
        body = {"model": "auto", "messages": HELLO, "stream": stream, "max_tokens": 64}
        async with session.post(f"{self.url}{CHAT}", json=body, headers=self.customer.headers) as response:
            raw = await response.read()
            code = "" if response.status == 200 else json.loads(raw)["error"]["code"]
            complete = raw.endswith(b"data: [DONE]\n\n") if stream else response.status == 200
            provider = response.headers.get("x-iaf-provider", "")
            self.calls.append(Call(at - began, time.monotonic() - at, response.status, not stream, complete, provider, code))


def p99(calls: list[Call]) -> float:
    ordered = sorted(call.seconds for call in calls)
    return ordered[int(len(ordered) * 0.99)]


def shared_state(route: str) -> RouteHealth:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        return decode_record(client.hget(HEALTH_KEY, route) or b"")


def test_a_provider_killed_under_load_is_noticed_by_nobody_and_comes_back(live: Live, trio: Trio, customer: Customer) -> None:
    victim = "anthropic"
    route = f"trio-{victim}/trio"
    kill_at = 2.0
    opened: list[bool] = []

    load = Load(live.url, customer, clients=16, seconds=10)
    calls = load.run(
        (kill_at, lambda: trio.kill(victim)),
        (kill_at + 3.0, lambda: opened.append(shared_state(route).opened)),
    )
    killed_at = load.happened[0]
    trio.start(victim)
    calls_after: list[Call] = []

    def serves_again() -> bool:
        calls_after.extend(Load(live.url, customer, clients=16, seconds=2).run())
        return f"trio-{victim}" in {call.provider for call in calls_after} and not shared_state(route).opened

    wait_until(serves_again, seconds=90, what="the provider serves again")

    before = [call for call in calls if call.began + call.seconds < kill_at]
    recovered = [call for call in calls if killed_at + 4 <= call.began]
    broken = [call for call in calls if not call.complete]
    worst = p99([call for call in calls if killed_at <= call.began < killed_at + 5])
    print(
        f"\n{len(calls)} calls, {len(broken)} streams cut that had begun; p99 in ms: {p99(before) * 1000:.0f} before the end,"
    )
    print(f"{worst * 1000:.0f} in the 5 s after it, {p99(recovered) * 1000:.0f} later")
    assert {(call.status, call.code) for call in [*calls, *calls_after]} == {(200, "")}
    # Only streams whose answer had begun when the provider died are cut.
    assert [call for call in broken if call.whole or call.began > killed_at] == []
    # Far from the two seconds that a call waits for a silent provider.
    assert p99(recovered) < max(1.5, 3 * p99(before))
    assert opened == [True]
    assert {call.provider for call in recovered} == {f"trio-{p}" for p in VERSIONS} - {f"trio-{victim}"}

    def told() -> list[str]:
        return list(Event.objects.filter(after__route=route).order_by("at").values_list("kind", flat=True))

    both = ["model_profile.breaker_opened", "model_profile.breaker_closed"]
    wait_until(lambda: told()[-2:] == both, what="both moves are written down")
    failed = UsageRecord.objects.filter(account=customer.account, choice__tried__has_key=route)
    # Those under way when it died, those that opened the breaker, and the probes.
    assert 1 <= failed.count() <= 16 + 8 + 10


def test_a_provider_that_only_stays_silent_costs_few_slow_calls(live: Live, trio: Trio, customer: Customer) -> None:
    trio.behave("openai", latency_ms=60_000)

    calls = Load(live.url, customer, clients=12, seconds=8).run()

    # As long as a call waits for a silent provider.
    slow = [call for call in calls if call.seconds > 2]
    print(f"\n{len(calls)} calls, {len(slow)} slower than two seconds, p99 {p99(calls) * 1000:.0f} ms")
    assert {(call.status, call.code) for call in calls} == {(200, "")}
    # Those sent there until five had waited in vain, and the probes since.
    assert len(slow) <= 12 + 4
    assert len(calls) > 4 * len(slow)


def test_checks_ask_the_simulator_in_every_dialect_and_measure_it(live: Live, settings: Any) -> None:
    settings.SIMULATOR_URL = live.simulator_url
    live.behave("anthropic", fail_status=503)
    began = clock.now()
    slugs = {
        provider: ModelProfile.objects.filter(provider__slug=provider, model__mode="chat", enabled=True).first().slug  # type: ignore[union-attr]
        for provider in ("groq", "anthropic", "google", "cohere")
    }

    results = {result.route: result for result in profiles_check(slugs.values())}

    assert {provider: results[slug].answered for provider, slug in slugs.items()} == {
        "groq": True,
        "anthropic": False,
        "google": True,
        "cohere": True,
    }
    assert results[slugs["anthropic"]].failure == "overloaded"
    assert shared_state(slugs["google"]).latency_weight == 1
    assert shared_state(slugs["anthropic"]).failures_in_a_row == 1
    assert HealthCheck.objects.filter(profile__slug=slugs["groq"], ok=True, latency_ms__gt=0).count() == 1
    assert UsageRecord.objects.filter(profile__in=slugs.values(), started_at__gte=began).count() == 0
