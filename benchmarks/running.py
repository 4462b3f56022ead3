"""Commands inside a running product, and the machine it runs on."""

import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import redis

from chaos.product import PROJECT, Product

# 2,000 streams are two sockets each in the gateway, and as many in the simulator.
FILES_NEEDED = 8192


class CommandFailed(Exception):
    """A command of the product failed; the text is the end of its output."""


def manage(product: Product, *arguments: str) -> str:
    """The output of a management command."""
    return _run(product, "manage.py", *arguments)


def module(product: Product, name: str, *arguments: str) -> Any:
    """What a module of the benchmarks printed last, as JSON."""
    return json.loads(_run(product, "-m", name, *arguments).splitlines()[-1])


def _run(product: Product, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | product.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(f"{' '.join(command[:2])} failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done.stdout


def raise_file_limit() -> None:
    """As many open files as thousands of connections need, for us and all we start. Exits where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_NEEDED:
        sys.exit(f"error: {FILES_NEEDED} open files are needed and {hard} are allowed (ulimit -Hn)")
    if soft < FILES_NEEDED:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_NEEDED, hard))


def machine(product: Product) -> dict[str, Any]:
    """Its shape, and the versions that make a difference. Asked before the load begins."""
    with psycopg.connect(product.environment["DATABASE_URL"]) as database:
        row = database.execute("SHOW server_version").fetchone()
    assert row is not None
    with redis.Redis.from_url(product.environment["REDIS_URL"]) as client:
        redis_version = str(client.info("server")["redis_version"])
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("Django", "uvicorn", "uvloop", "httptools", "aiohttp", "msgspec", "psycopg")},
            "PostgreSQL": str(row[0]).split()[0],
            "Redis": redis_version,
        },
        "commit": _commit(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
