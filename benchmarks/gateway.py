"""`make bench`: the running product with all of its billing, beside what the same machine does without a gateway.

    .venv/bin/python -m benchmarks.gateway [--seconds 4] [--rounds 3] [--quick] [--json FILE]

In one run, in turns: the simulator directly, a bare pass-through proxy (`bare_proxy.py`), and the product's web process with
key check, limits, hold and durable settle. Whole answers at 1, 16, 64 and 256 clients, streams of 50 chunks, and both with an
upstream of 60 ms. Prints medians and ratios; fails when a target is missed, a call was answered and not billed, or the
books do not verify. Ratios count: the same machine is another one tomorrow.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil  # type: ignore[import-untyped]

from chaos.product import PROJECT, Product
from iafactory.local.processes import spawn

MODEL = "gpt-4o-mini"
PROMPT = "Say something short about the sea, please."
WHOLE = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200})
STREAM = json.dumps(json.loads(WHOLE) | {"stream": True})
CHUNKS = 50
ACCOUNTS = 16

_PREPARE = """
import json, secrets
from decimal import Decimal
from billing.accounts.services import api_key_create
from billing.events.services import SYSTEM
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant
from billing.plans.models import Plan
from billing.subscriptions.onboarding import customer_register
from billing.subscriptions.services import subscription_switch
from routing.models import Budget

Budget.objects.update(daily_limit_usd=None, monthly_limit_usd=None)
keys = []
for number in range({accounts}):
    account = customer_register(
        email=f"bench-{{number}}@example.com", password=secrets.token_urlsafe(12), name=f"Bench {{number}}", actor=SYSTEM
    ).account
    subscription_switch(account=account, plan=Plan.objects.get(code="payg"), actor=SYSTEM)
    credits_grant(
        account_id=account.pk, amount=Decimal(10_000_000), kind=Lot.Kind.PURCHASE, source="bench", reason="bench", actor=SYSTEM,
        idempotency_key=f"bench-{{account.pk}}",
    )
    keys.append(api_key_create(account=account, created_by=None, name="bench", actor=SYSTEM)[1])
print(json.dumps(keys))
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of traffic."""

    name: str
    body: str
    clients: int
    latency_ms: int = 0


SCENES = (
    Scene("whole, 1 client", WHOLE, 1),
    Scene("whole, 16 clients", WHOLE, 16),
    Scene("whole, 64 clients", WHOLE, 64),
    Scene("whole, 256 clients", WHOLE, 256),
    Scene("streams of 50, 64 clients", STREAM, 64),
    Scene("whole, 64 clients, 60 ms upstream", WHOLE, 64, 60),
    Scene("streams of 50, 16 clients, 60 ms upstream", STREAM, 16, 60),
)
QUICK = (SCENES[2], SCENES[4], SCENES[5])


class Target:
    """Somebody who answers, and the process whose CPU that costs."""

    def __init__(self, name: str, url: str, path: str, process: psutil.Process, keys: list[str]) -> None:
        self.name, self.url, self.path, self.process, self.keys = name, url, path, process, keys

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def load(target: Target, scene: Scene, seconds: float) -> dict[str, Any]:
    """One window of traffic from a process of its own."""
    options = {
        "url": target.url,
        "path": target.path,
        "bodies": [scene.body],
        "clients": scene.clients,
        "seconds": seconds,
        "keys": target.keys,
    }
    before = target.cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "-"],
        input=json.dumps(options),
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the load generator failed: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    # The warm-up's requests cost CPU too: the share of the window counts.
    asked = result["seconds"] / (result["seconds"] + 0.5)
    used = target.cpu_seconds() - before
    result["cpu_ms"] = round(used * asked / max(result["requests"], 1) * 1000, 4)
    result["rss_mb"] = round(target.process.memory_info().rss / 2**20, 1)
    return result


def postgres_cpu(product: Product) -> float:
    """CPU seconds of the server and all of its processes, ended ones included."""
    server = psutil.Process(product.pid("postgres"))
    total = 0.0
    for process in [server, *server.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    times = server.cpu_times()
    return float(total + times.children_user + times.children_system)


def manage(product: Product, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=os.environ | product.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"manage.py {arguments[0]} failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done.stdout


def calls_booked(product: Product) -> int:
    text = manage(product, "shell", "--command", "from billing.models import UsageRecord; print(UsageRecord.objects.count())")
    return int(text.split()[-1])


def median(rounds: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(window[name] for window in rounds))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="three kinds of traffic instead of seven")
    arguments.add_argument("--only", help="traffic whose name contains this")
    arguments.add_argument("--verbose", action="store_true")
    arguments.add_argument("--json", type=Path, help="write every figure there")
    options = arguments.parse_args()
    scenes = [scene for scene in (QUICK if options.quick else SCENES) if not options.only or options.only in scene.name]
    product = Product(ABUSE_NEW_ACCOUNT_CALLS_AN_HOUR="1000000000", LOG_LEVEL="WARNING")
    proxy = None
    try:
        product.start()
        keys = json.loads(manage(product, "shell", "--command", _PREPARE.format(accounts=ACCOUNTS)).splitlines()[-1])
        proxy_port = product.port + 1 if product.port < 65000 else product.port - 1
        proxy = spawn(
            [
                *(sys.executable, "-m", "uvicorn", "benchmarks.bare_proxy:application", "--port", str(proxy_port)),
                *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "on"),
            ],
            environment=os.environ | {"UPSTREAM": f"{product.simulator_url}/openai/v1"},
            folder=PROJECT,
            log=product.var / "proxy.log",
        )
        time.sleep(2)
        targets = [
            Target(
                "simulator",
                product.simulator_url,
                "/openai/v1/chat/completions",
                psutil.Process(product.pid("simulator")),
                ["no-credential-needed-here"],
            ),
            Target("bare proxy", f"http://127.0.0.1:{proxy_port}", "/v1/chat/completions", psutil.Process(proxy.pid), [""]),
            Target("IA Factory", product.url, "/v1/chat/completions", psutil.Process(product.pid("web")), keys),
        ]
        figures = measure(product, targets, scenes, options)
        verdicts = judge(figures, {scene.name for scene in scenes})
        manage(product, "verify_books")
        print("the books verify; every answered call is booked")
    finally:
        if proxy is not None:
            proxy.terminate()
            proxy.wait(10)
        left = product.stop()
        product.remove()
        for process in left:
            print(f"left running: {process}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "figures": figures, "targets": verdicts}, indent=2) + "\n")
    return 0 if all(verdict["met"] for verdict in verdicts) else 1


def measure(product: Product, targets: list[Target], scenes: list[Scene], options: argparse.Namespace) -> dict[str, Any]:
    """Every scene on every target, in turns; prints a line each."""
    ours = targets[-1]
    figures: dict[str, Any] = {}
    print(f"{'':42}{'':12}{'req/s':>9}{'p50':>9}{'p95':>9}{'p99':>9}{'first':>9}{'CPU ms':>9}{'RSS MB':>9}")
    for scene in scenes:
        # As models do: one chunk after the other, not all of them in one packet.
        behaviour = {"latency_ms": scene.latency_ms, "chunk_interval_ms": 2, "chunks": CHUNKS, "output_tokens": 4 * CHUNKS}
        if scene.body is WHOLE:
            behaviour |= {"chunk_interval_ms": 0, "chunks": None, "output_tokens": 60}
        httpx2.put(f"{product.simulator_url}/_control/*", json=behaviour).raise_for_status()
        rounds: dict[str, list[dict[str, Any]]] = {target.name: [] for target in targets}
        booked, answered, postgres = calls_booked(product), 0, 0.0
        for _ in range(options.rounds):
            for target in targets:
                before = postgres_cpu(product)
                if sys.stderr.isatty() or options.verbose:
                    print(f"… {scene.name}: {target.name}", file=sys.stderr, flush=True)
                result = load(target, scene, options.seconds)
                if target is ours:
                    used = (postgres_cpu(product) - before) * result["seconds"] / (result["seconds"] + 0.5)
                    result["postgres_cpu_ms"] = round(used / max(result["requests"], 1) * 1000, 4)
                    answered += result["requests"]
                    postgres = result["postgres_cpu_ms"]
                if result["errors"]:
                    raise SystemExit(f"{target.name}, {scene.name}: {result['statuses']}")
                rounds[target.name].append(result)
        if calls_booked(product) - booked < answered:
            raise SystemExit(f"{scene.name}: {answered} calls were answered, {calls_booked(product) - booked} booked")
        figures[scene.name] = {
            name: {key: median(windows, key) for key in windows[0] if key != "statuses"} for name, windows in rounds.items()
        }
        for name, row in figures[scene.name].items():
            line = f"{scene.name if name == targets[0].name else '':42}{name:12}{row['per_second']:9.0f}{row['p50']:9.2f}"
            print(f"{line}{row['p95']:9.2f}{row['p99']:9.2f}{row['first_p50']:9.2f}{row['cpu_ms']:9.3f}{row['rss_mb']:9.0f}")
        print(f"{'':42}{'PostgreSQL':12}{'':54}{postgres:9.3f}", flush=True)
    return figures


def judge(figures: dict[str, Any], scenes: set[str]) -> list[dict[str, Any]]:
    """The targets that the scenes run can say something about."""
    found: list[dict[str, Any]] = []

    def target(name: str, value: float, must: float, *, at_least: bool = False) -> None:
        met = value >= must if at_least else value <= must
        found.append({"target": name, "value": round(value, 3), "must": must, "at_least": at_least, "met": met})
        print(f"{'met   ' if met else 'MISSED'} {name}: {value:.2f} (must {'>=' if at_least else '<='} {must})")

    def ratio(scene: str, key: str) -> float:
        return float(figures[scene]["IA Factory"][key] / max(figures[scene]["bare proxy"][key], 1e-9))

    print()
    if "whole, 64 clients" in scenes:
        scene = "whole, 64 clients"
        target("requests/s against the bare proxy", ratio(scene, "per_second"), 0.30, at_least=True)
        target("CPU per request against the bare proxy's", ratio(scene, "cpu_ms"), 3.5)
        own = figures[scene]["IA Factory"]
        target("PostgreSQL's CPU per request against the gateway's", own["postgres_cpu_ms"] / own["cpu_ms"], 0.5)
    if "streams of 50, 64 clients" in scenes:
        target("CPU per stream against the bare proxy's", ratio("streams of 50, 64 clients", "cpu_ms"), 2.0)
    slow = "whole, 64 clients, 60 ms upstream"
    if slow in scenes:
        for key, must in (("p50", 2.0), ("p99", 10.0)):
            over = figures[slow]["IA Factory"][key] - figures[slow]["bare proxy"][key]
            target(f"{key} over the bare proxy, 60 ms upstream, ms", over, must)
    first = "streams of 50, 16 clients, 60 ms upstream"
    if first in scenes:
        over = figures[first]["IA Factory"]["first_p50"] - figures[first]["simulator"]["first_p50"]
        target("time to first byte over direct, ms", over, 2.0)
    if {"whole, 64 clients", "whole, 256 clients"} <= scenes:
        value = (
            figures["whole, 256 clients"]["IA Factory"]["per_second"] / figures["whole, 64 clients"]["IA Factory"]["per_second"]
        )
        target("requests/s at 256 clients against 64", value, 0.85, at_least=True)
    return found


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": sys.version.split()[0], "load_before": os.getloadavg()}


if __name__ == "__main__":
    sys.exit(main())
