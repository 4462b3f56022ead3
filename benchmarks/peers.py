"""Other gateways to compare with, each in a folder of its own under `.bench/`: `make bench-peers` installs them.

LiteLLM's proxy without a database (which makes it faster than it is in use), Portkey's gateway as it comes. Whatever cannot be
installed here is skipped with a line that says why; `make bench` then goes without it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".bench"
# Not 1.82.7 and 1.82.8: those releases were compromised.
LITELLM_VERSION = "1.106.0"
PORTKEY_VERSION = "1.15.2"
# With later versions Portkey 1.15 does not answer streams.
NODE_SERVER_VERSION = "1.13.7"
INSTALL_SECONDS = 900


class PeerSkipped(Exception):
    """It cannot be installed here; the text says why in one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another gateway: how it is installed into its folder, and started."""

    name: str
    version: str
    program: tuple[str, ...]
    options: tuple[str, ...]
    port_option: str
    settings: tuple[tuple[str, str], ...]
    install_into: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name.lower()

    @property
    def installed(self) -> bool:
        stamp = self.folder / "installed"
        return stamp.exists() and stamp.read_text() == self.version

    def install(self) -> None:
        """Anew unless this version is there. Raises PeerSkipped, with nothing left behind."""
        if self.installed:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        try:
            self.install_into(self.folder)
        except PeerSkipped:
            shutil.rmtree(self.folder)
            raise
        (self.folder / "installed").write_text(self.version)

    def command(self, port: int) -> list[str]:
        program = [str(self.folder / part) if "/" in part else part for part in self.program]
        return [*program, *self.options, f"{self.port_option}={port}"]

    def environment(self, home: Path) -> dict[str, str]:
        """Nothing of ours but where programs are: a key or a proxy setting of the user's must not change what it does."""
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(home), **dict(self.settings)}


def litellm_config(folder: Path, model: str, upstream: str) -> Path:
    """Its configuration: one model, answered by `upstream`; no callbacks, no logs of what was spent."""
    route = {"model": f"openai/{model}", "api_base": upstream, "api_key": "none"}
    config = {
        "model_list": [{"model_name": model, "litellm_params": route}],
        "litellm_settings": {"telemetry": False, "callbacks": []},
        "general_settings": {"disable_spend_logs": True},
    }
    file = folder / "litellm.yaml"
    # JSON is YAML too.
    file.write_text(json.dumps(config))
    return file


def _litellm_install(folder: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    _run([*pip, f"litellm[proxy]=={LITELLM_VERSION}"])


def _portkey_install(folder: Path) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise PeerSkipped("npm and node are not there")
    package = {
        "private": True,
        "dependencies": {"@portkey-ai/gateway": PORTKEY_VERSION},
        "overrides": {"@hono/node-server": NODE_SERVER_VERSION},
    }
    (folder / "package.json").write_text(json.dumps(package))
    _run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerSkipped(str(error)) from error
    if done.returncode:
        words = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise PeerSkipped(f"{Path(command[0]).name} failed: {words[-1][:300] if words else f'exit code {done.returncode}'}")


LITELLM = Peer(
    "LiteLLM",
    LITELLM_VERSION,
    program=("bin/litellm",),
    options=("--host=127.0.0.1", "--num_workers=1"),
    port_option="--port",
    settings=(
        ("LITELLM_MODE", "PRODUCTION"),
        ("LITELLM_LOG", "ERROR"),
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ("NO_DOCS", "True"),
        # Without keys to check it is fastest.
        ("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true"),
    ),
    install_into=_litellm_install,
)
PORTKEY = Peer(
    "Portkey",
    PORTKEY_VERSION,
    program=("node", "node_modules/@portkey-ai/gateway/build/start-server.js"),
    options=("--headless",),
    port_option="--port",
    settings=(("NODE_ENV", "production"),),
    install_into=_portkey_install,
)
PEERS = (LITELLM, PORTKEY)


def main() -> int:
    for peer in PEERS:
        print(f"{peer.name} {peer.version}: ", end="", flush=True)
        try:
            peer.install()
        except PeerSkipped as reason:
            print(f"SKIPPED, {reason}; the benchmark goes without it")
        else:
            print(f"installed in {peer.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
