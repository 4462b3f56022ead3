"""What the product imports is what `requirements.txt` installs, whatever the tests' own packages bring along."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys

from packaging.requirements import Requirement

from tests.docs.reading import PROJECT, text_of

# Packages that only tests need are as if they were not there.
_HIDE = """
import importlib.machinery, json, sys
hidden = set(json.loads(sys.argv[1]))
find_spec = importlib.machinery.PathFinder.find_spec

def find_visible(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find_spec(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(find_visible)
"""
# Everything that web, worker, beat and simulator load, and what they load late: transports, drivers, the templates' compiler.
_LOAD = """
import django
django.setup()
import iafactory.asgi, iafactory.celery, iafactory.local.run
import celery.bin.worker, celery.bin.beat, kombu.transport.redis, celery.concurrency.prefork, dashboard.jobs.scheduler
import uvicorn.main, uvicorn.loops.uvloop, uvicorn.protocols.http.httptools_impl
import routing.simulator.server, billing.invoices.pdf.render, dashboard.preflight, dashboard.metrics
iafactory.celery.app.loader.import_default_modules()
print("loaded")
"""


def installed_by(requirements: str) -> set[str]:
    """Normalised names of the distributions that a requirements file brings, with all they ask for."""
    waiting = [Requirement(line.partition("#")[0]) for line in requirements.splitlines() if re.match(r"[A-Za-z]", line)]
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = normalised(wanted.name)
        if (name, frozenset(wanted.extras)) in seen or not applies(wanted, set()):
            continue
        seen.add((name, frozenset(wanted.extras)))
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if applies(needed, wanted.extras):
                needed.marker = None
                waiting.append(needed)
    return found


def applies(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""}))


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def load_without(hidden: set[str]) -> "subprocess.CompletedProcess[str]":
    """Load the whole product in a process that cannot see these top-level modules."""
    command = [sys.executable, "-c", _HIDE + _LOAD, json.dumps(sorted(hidden))]
    return subprocess.run(command, cwd=PROJECT, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_the_product_loads_with_its_own_requirements_alone() -> None:
    ours = installed_by(text_of("requirements.txt"))
    owners = importlib.metadata.packages_distributions()
    hidden = {module for module, names in owners.items() if not any(normalised(name) in ours for name in names)}

    loaded = load_without(hidden)

    assert {"pytest", "mypy", "openai"} <= hidden
    assert loaded.stdout.endswith("loaded\n"), loaded.stderr[-1500:]


def test_a_package_that_is_needed_would_be_missed() -> None:
    assert "No module named 'kombu" in load_without({"kombu"}).stderr
