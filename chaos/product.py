"""The running product as its destroyer sees it: started by `make run`'s supervisor in a folder of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import psutil  # type: ignore[import-untyped]

PROJECT = Path(__file__).resolve().parents[1]
START_SECONDS = 180.0
STOP_SECONDS = 15.0

# What would join this product to another one: each run has its own servers, addresses and secrets.
_NOT_INHERITED = frozenset(
    {
        *(
            "DATABASE_URL",
            "DATABASE_DIRECT_URL",
            "REDIS_URL",
            "CELERY_BROKER_URL",
            "VAR",
            "HOST",
            "PORT",
            "SECOND_PORT",
            "PUBLIC_URL",
        ),
        *("SIMULATOR_URL", "SIMULATOR_PORT", "MAIL_DIR", "IAFACTORY_ENV", "DJANGO_SETTINGS_MODULE", "STOP_WITH_PARENT"),
        *("SECRET_KEY", "FIELD_ENCRYPTION_KEYS", "JWT_SIGNING_KEY"),
    }
)
_TAKEN_OVER = (
    *("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "FIELD_ENCRYPTION_KEYS", "JWT_SIGNING_KEY", "DJANGO_SETTINGS_MODULE"),
    *("IAFACTORY_ENV", "VAR", "SIMULATOR_URL", "PUBLIC_URL", "MAIL_DIR"),
)


def own_environment() -> dict[str, str]:
    """The environment without what would join a product to another one."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}


class ProductFailed(Exception):
    """The product did not start; the text is one line."""


class Product:
    """One product in a throw-away folder, or in `var`. `start`, then `kill_*`, and always `stop`."""

    def __init__(self, *, two_webs: bool = False, var: Path | None = None, **settings: str) -> None:
        self.var = (var or Path(tempfile.mkdtemp(prefix="iafactory-chaos-"))).resolve()
        if var is None:
            # Root's PostgreSQL runs as another user, who must reach its folder in here.
            self.var.chmod(0o711)
        with socket.socket() as probe, socket.socket() as second:
            probe.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
            self._second_port = int(second.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        # Of the second web process; the first one's where there is none.
        self.second_url = f"http://127.0.0.1:{self._second_port}" if two_webs else self.url
        if two_webs:
            settings["SECOND_PORT"] = str(self._second_port)
        self.simulator_url = ""
        self.environment: dict[str, str] = {}
        self._settings = settings
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the supervisor and returns when the product answers. Raises `ProductFailed`."""
        environment = own_environment()
        # Of a run in this folder that was killed.
        (self.var / "local.json").unlink(missing_ok=True)
        environment |= {"VAR": str(self.var), "PORT": str(self.port), "STOP_WITH_PARENT": str(os.getpid()), **self._settings}
        with (self.var / "supervisor.log").open("wb") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "iafactory.local.run"],
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is ours: we stop it, when its state has been looked at.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not (self.var / "local.json").exists():
            if self._supervisor.poll() is not None or time.monotonic() > deadline:
                raise ProductFailed(f"the product did not start: {self.last_words()}")
            time.sleep(0.1)
        self.simulator_url = json.loads((self.var / "local.json").read_text())["simulator_url"]
        child = psutil.Process(self.pid("simulator")).environ()
        self.environment = {name: child[name] for name in _TAKEN_OVER if name in child}

    def last_words(self) -> str:
        """The end of the supervisor's output."""
        lines = (self.var / "supervisor.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])

    def pid(self, name: str) -> int:
        """The process of a program or server that should be running; 0 when it is not."""
        try:
            if name == "postgres":
                pid = int((self._postgres_home() / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
            elif name == "redis":
                pid = int((self.var / "redis" / "redis.pid").read_text())
            else:
                pid = json.loads((self.var / "run" / "children.json").read_text())[name][0]
            process = psutil.Process(pid)
            return pid if process.status() != psutil.STATUS_ZOMBIE else 0
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return 0

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends the signal; returns the pid, 0 if there was nothing to kill."""
        pid = self.pid(name)
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return 0
        return pid

    def kill_redis_with_its_data(self) -> int:
        """SIGKILL, and what it had written is gone before the supervisor starts it again."""
        pid = self.kill("redis")
        if pid:
            for file in (self.var / "redis").glob("*.aof*"):
                file.unlink(missing_ok=True)
        return pid

    def stop(self) -> list[str]:
        """Ends the product as Ctrl-C would; returns what was left running (and is killed now), empty after a clean stop."""
        supervisor, self._supervisor = self._supervisor, None
        left = []
        if supervisor is not None:
            supervisor.send_signal(signal.SIGTERM)
            try:
                code = supervisor.wait(STOP_SECONDS)
                if code:
                    left.append(f"the supervisor ended with exit code {code}")
            except subprocess.TimeoutExpired:
                left.append(f"the supervisor did not stop within {STOP_SECONDS:.0f} s")
                supervisor.kill()
                supervisor.wait()
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                left.append(f"{process.name()} (process {process.pid})")
                process.kill()
        return left

    def remove(self) -> None:
        """Deletes its folder and what its servers keep outside."""
        folders = [self.var]
        if (self.var / "postgres.location").exists():
            folders.append(self._postgres_home())
        host = parse_qs(urlsplit(self.environment.get("DATABASE_URL", "")).query).get("host", [""])[0]
        redis_socket = unquote(urlsplit(self.environment.get("REDIS_URL", "")).path)
        folders += [Path(host)] * bool(host) + [Path(redis_socket).parent] * bool(redis_socket)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _postgres_home(self) -> Path:
        record = self.var / "postgres.location"
        return Path(record.read_text().strip()) if record.exists() else self.var / "postgres"

    def _processes(self) -> list[psutil.Process]:
        """Processes that belong to this folder, whoever their parent is."""
        found = []
        names = {str(self.var), str(self._postgres_home())}
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                places = (process.cwd(), " ".join(process.cmdline()), process.environ().get("VAR", ""))
            except psutil.Error:
                continue
            if any(name in place for name in names for place in places):
                found.append(process)
        return found
