"""Who answers in a benchmark: the product, and what it is compared with; each with the processes whose CPU its answers cost."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from benchmarks.peers import LITELLM, PORTKEY, Peer, litellm_config
from chaos.product import PROJECT, Product
from iafactory.local.processes import spawn, stop_processes, wait_until

MODEL = "gpt-4o-mini"
CHAT = "/v1/chat/completions"
START_SECONDS = 60.0


class ContenderFailed(Exception):
    """It does not answer as it should; the text is one line."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who answers at `url` + `path`, and the process that does it. `keys` are shared out over the clients."""

    name: str
    url: str
    pid: int
    path: str = CHAT
    headers: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    def cpu_seconds(self) -> float:
        """Of the process and its children, ended ones included."""
        return tree_cpu_seconds(self.pid)

    def memory_mb(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss / 2**20)

    def check(self) -> None:
        """One call, whose answer must be the simulator's. Raises ContenderFailed."""
        headers = {"content-type": "application/json"} | dict(self.headers)
        if self.keys:
            headers["authorization"] = f"Bearer {self.keys[0]}"
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Is this you?"}], "max_tokens": 20}
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request("POST", self.path, json.dumps(body), headers)
            answer = connection.getresponse()
            raw = answer.read()
            text = json.loads(raw)["choices"][0]["message"]["content"]
        except (OSError, http.client.HTTPException) as error:
            raise ContenderFailed(f"{self.name} does not answer: {type(error).__name__} {error}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise ContenderFailed(f"{self.name} answers {answer.status} {raw[:200]!r}") from error
        finally:
            connection.close()
        if answer.status != 200 or not text.startswith("IA Factory's simulator answers"):
            raise ContenderFailed(f"{self.name} answers {answer.status} {text[:200]}")


def tree_cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and all below it, ended ones included."""
    root = psutil.Process(pid)
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    times = root.cpu_times()
    return float(total + times.children_user + times.children_system)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quiet_product(*, two_webs: bool = False, var: Path | None = None) -> Product:
    """The product, whose new and busy customers nobody is warned of."""
    return Product(two_webs=two_webs, var=var, ABUSE_NEW_ACCOUNT_CALLS_AN_HOUR="1000000000", LOG_LEVEL="WARNING")


def the_product(product: Product, keys: tuple[str, ...]) -> Contender:
    return Contender("IA Factory", product.url, product.pid("web"), keys=keys)


def the_simulator(product: Product) -> Contender:
    return Contender("simulator", product.simulator_url, product.pid("simulator"), path="/openai" + CHAT, keys=("none",))


@contextlib.contextmanager
def bare_proxy(product: Product) -> Iterator[Contender]:
    """The least a gateway can do, in the same server as the product."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.bare_proxy:application", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "on"),
    ]
    environment = dict(os.environ) | {"UPSTREAM": f"{product.simulator_url}/openai/v1"}
    with _process(command, environment, product.var / "proxy.log") as process:
        yield _checked(Contender("bare proxy", f"http://127.0.0.1:{port}", process.pid), process)


@contextlib.contextmanager
def peer(which: Peer, product: Product) -> Iterator[Contender]:
    """Another gateway in front of the same simulator, nothing of it billed or logged."""
    port = free_port()
    upstream = f"{product.simulator_url}/openai/v1"
    command, environment = which.command(port), which.environment(product.var)
    if which is LITELLM:
        command += ["--config", str(litellm_config(product.var, MODEL, upstream))]
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": upstream} if which is PORTKEY else {}
    with _process(command, environment, product.var / f"{which.name.lower()}.log") as process:
        yield _checked(Contender(which.name, f"http://127.0.0.1:{port}", process.pid, headers=headers, keys=("none",)), process)


@contextlib.contextmanager
def another_web(product: Product, keys: tuple[str, ...]) -> Iterator[Contender]:
    """One more web process of the product, on the same PostgreSQL and Redis."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "iafactory.asgi:application", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--lifespan", "on", "--no-access-log", "--no-server-header"),
    ]
    environment = dict(os.environ) | product.environment | {"PORT": str(port)}
    with _process(command, environment, product.var / "another_web.log") as process:
        yield _checked(Contender("IA Factory", f"http://127.0.0.1:{port}", process.pid, keys=keys), process)


@contextlib.contextmanager
def _process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = spawn(command, environment=environment, folder=PROJECT, log=log)
    try:
        yield process
    finally:
        stop_processes([process], seconds=10)


def _checked(contender: Contender, process: "subprocess.Popen[bytes]") -> Contender:
    """As soon as it answers correctly. Raises ContenderFailed."""
    why = ""

    def answers() -> bool:
        nonlocal why
        if process.poll() is not None:
            raise ContenderFailed(f"{contender.name} ended with {process.returncode}")
        try:
            contender.check()
        except ContenderFailed as error:
            why = str(error)
            return False
        return True

    if not wait_until(answers, seconds=START_SECONDS, interval=0.02):
        raise ContenderFailed(why)
    return contender
