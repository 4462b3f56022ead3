"""Keeps the servers and programs of one run alive, and stops all of them when asked."""

import contextlib
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import psutil  # type: ignore[import-untyped]

from .processes import kill_group, last_lines, spawn, stop_orphan, stop_processes
from .secrets_file import write_private
from .servers import LocalServers, PostgresServer, RedisServer, ServerError

LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_AFTER_SECONDS = 30.0
# A stop takes ten seconds at most: programs (uvicorn gives requests six, then settles), what they talk to, Redis, and
# PostgreSQL gets what is left for its fast shutdown.
STOP_SECONDS = 9.0
PROGRAM_STOP_SECONDS = 7.2
LAST_PROGRAM_STOP_SECONDS = 0.5
REDIS_STOP_SECONDS = 0.5
_SLOW_START_SECONDS = 30.0


class StepFailed(Exception):
    """A preparation step ended with an error; the text is one line with the end of its output."""


@dataclass(frozen=True)
class Program:
    """A process to keep running. `stops_last`: others still talk to it while they finish."""

    name: str
    command: Sequence[str]
    stops_last: bool = False


@dataclass
class BackOff:
    """When to start something again: after 1 s, 2 s, 4 s .. 30 s; at 1 s again once it ran for 30 s."""

    pause_seconds: float = 0.0
    started_at: float = 0.0
    due_at: float | None = None

    def started(self, now: float) -> None:
        """Notes a start at `now` (monotonic seconds)."""
        self.started_at, self.due_at = now, None

    def ended(self, now: float) -> float:
        """Notes an unwanted end at `now`; returns the pause in seconds until `due_at`."""
        healthy = now - self.started_at >= HEALTHY_AFTER_SECONDS
        self.pause_seconds = 1.0 if healthy else min(LONGEST_PAUSE_SECONDS, self.pause_seconds * 2 or 1.0)
        self.due_at = now + self.pause_seconds
        return self.pause_seconds


@dataclass
class _Child:
    program: Program
    process: Popen[bytes] | None = None
    back_off: BackOff = field(default_factory=BackOff)


class Supervisor:
    """Owns the children of one VAR: `install_signals`, `stop_leftovers`, `start_servers`, `run_step`, `keep_running`,
    and always `stop`.

    `health_urls` must all answer 200 for the run to count as answering; `answering(True)` is called when it begins to and
    `answering(False)` when the program `web` is gone or everything stops. Everything happens in the main thread.
    """

    def __init__(
        self,
        *,
        var: Path,
        servers: LocalServers,
        folder: Path,
        health_urls: Sequence[str],
        answering: Callable[[bool], None],
        web: str = "web",
    ) -> None:
        self.var = var
        self.log_folder = var / "log"
        self.environment: dict[str, str] = {}
        self._servers = servers
        self._folder = folder
        self.health_urls = list(health_urls)
        self._answering = answering
        self._web = web
        self._children: list[_Child] = []
        self._server_back_off = {"redis": BackOff(), "postgres": BackOff()}
        self._stop_requested = False
        self._record = var / "run" / "children.json"

    def install_signals(self) -> None:
        """TERM, INT and HUP request a stop; HUP only if it was not ignored (nohup)."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._request_stop)

    def stop_requested(self) -> bool:
        """Whether a signal asked us to stop."""
        return self._stop_requested

    def stop_leftovers(self) -> None:
        """Ends programs that a killed supervisor of this VAR left behind, but no stranger that has their pid by now."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            for name, (pid, created_at) in json.loads(self._record.read_text()).items():
                is_ours = _created_at(created_at)
                if stop_orphan(pid, is_ours=is_ours, numbers=[signal.SIGTERM], seconds=3.0):
                    kill_group(pid)
                    say(f"stopped {name} (process {pid}) of an earlier run")
        self._record.unlink(missing_ok=True)

    def start_servers(self) -> None:
        """Starts PostgreSQL and Redis, unless they are elsewhere; children get their addresses. Raises ServerError."""
        self._servers.start(should_stop=self.stop_requested)
        self.environment |= self._servers.environment()
        for back_off in self._server_back_off.values():
            back_off.started(time.monotonic())

    def run_step(self, name: str, command: Sequence[str], *, prints_secrets: bool = False) -> str:
        """Runs one command to its end; returns its output, which is also in VAR/log/prepare.log. Raises StepFailed.

        With `prints_secrets` the output is kept nowhere, unless the step fails.
        """
        log = self.log_folder / ("secret-step.log" if prints_secrets else "prepare.log")
        before = log.stat().st_size if log.exists() else 0
        process = spawn(command, environment=self.environment, log=log, folder=self._folder)
        while process.poll() is None:
            if self._stop_requested:
                stop_processes([process], seconds=2.0)
                raise StepFailed(f"{name} was interrupted")
            time.sleep(0.05)
        with log.open("rb") as file:
            file.seek(before if log.stat().st_size >= before else 0)
            output = file.read().decode(errors="replace")
        if prints_secrets and not process.returncode:
            log.unlink()
        if process.returncode:
            reason = (output.strip() or f"exit code {process.returncode}").splitlines()[-1]
            raise StepFailed(f"{name} failed: {reason} (log: {log})")
        return output

    def keep_running(self, programs: Sequence[Program]) -> None:
        """Starts the programs, starts again what dies (with growing pauses), returns when a stop is requested."""
        self._children = [_Child(program) for program in programs]
        for child in self._children:
            self._start(child)
        answering, slow_at = False, time.monotonic() + _SLOW_START_SECONDS
        while not self._stop_requested:
            self._revive_servers()
            self._revive_programs()
            web_lives = any(child.process is not None for child in self._children if child.program.name == self._web)
            if answering and not web_lives:
                answering, slow_at = False, time.monotonic() + _SLOW_START_SECONDS
                self._answering(False)
            elif not answering and web_lives and self._is_healthy():
                answering = True
                self._answering(True)
            elif not answering and time.monotonic() > slow_at:
                slow_at = float("inf")
                say(f"still waiting for {', '.join(self.health_urls)}; see {self.log_folder / self._web}.log")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stops programs, then Redis, then PostgreSQL, within ten seconds; what does not go is killed."""
        self._stop_requested = True
        deadline = time.monotonic() + STOP_SECONDS
        self._answering(False)
        running = [child for child in self._children if child.process is not None]
        for late, seconds in ((False, PROGRAM_STOP_SECONDS), (True, LAST_PROGRAM_STOP_SECONDS)):
            group = [child for child in running if child.program.stops_last is late]
            processes = [child.process for child in group if child.process is not None]
            killed = stop_processes(processes, seconds=seconds)
            for child, process in zip(group, processes, strict=True):
                if process.pid in killed:
                    say(f"{child.program.name} did not stop in time and was killed")
        left = deadline - time.monotonic() - REDIS_STOP_SECONDS
        self._servers.stop(redis_seconds=REDIS_STOP_SECONDS, postgres_seconds=left)
        self._record.unlink(missing_ok=True)

    def _request_stop(self, number: int, _: object) -> None:
        if not self._stop_requested:
            self._stop_requested = True
            say(f"stopping ({signal.Signals(number).name})")

    def _start(self, child: _Child) -> None:
        log = self.log_folder / f"{child.program.name}.log"
        child.process = spawn(child.program.command, environment=self.environment, log=log, folder=self._folder)
        child.back_off.started(time.monotonic())
        say(f"{child.program.name} started (process {child.process.pid}, log {log})")
        self._save_record()

    def _revive_programs(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                process, child.process = child.process, None
                kill_group(process.pid)
                self._report_end(child.program.name, process.returncode, child.back_off.ended(now))
            elif child.process is None and child.back_off.due_at is not None and now >= child.back_off.due_at:
                self._start(child)

    def _revive_servers(self) -> None:
        for name, back_off in self._server_back_off.items():
            server: RedisServer | PostgresServer | None = getattr(self._servers, name)
            if server is None:
                continue
            now = time.monotonic()
            if server.process is not None and server.process.poll() is not None:
                code = server.process.returncode
                server.stop()
                self._report_end(name, code, back_off.ended(now))
            elif server.process is None and back_off.due_at is not None and now >= back_off.due_at:
                try:
                    server.start(should_stop=self.stop_requested)
                except ServerError as error:
                    say(f"{error}; next try in {back_off.ended(time.monotonic()):.0f} s")
                else:
                    back_off.started(time.monotonic())
                    say(f"{name} started")

    def _report_end(self, name: str, code: int, pause_seconds: float) -> None:
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        say(f"{name} ended ({how}); next start in {pause_seconds:.0f} s")
        for line in last_lines(self.log_folder / f"{name}.log", 5):
            say(f"  {name}: {line}")

    def _is_healthy(self) -> bool:
        # A proxy of the environment must not be asked for our own address.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            for url in self.health_urls:
                with opener.open(url, timeout=0.5) as response:
                    if response.status != 200:
                        return False
        except (OSError, urllib.error.URLError, ValueError):
            return False
        return True

    def _save_record(self) -> None:
        rows: Mapping[str, tuple[int, float]] = {
            child.program.name: (child.process.pid, _creation_time(child.process.pid))
            for child in self._children
            if child.process is not None
        }
        self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._record, json.dumps(rows))


def say(text: str) -> None:
    """Prints one line with the time. A terminal that is gone must not keep us from stopping the children."""
    say_plain(f"[{time.strftime('%H:%M:%S')}] {text}")


def say_plain(text: str) -> None:
    """Prints text as it is, under the same promise."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def _creation_time(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).create_time())
    return 0.0


def _created_at(moment: float) -> Callable[[psutil.Process], bool]:
    return lambda process: abs(process.create_time() - moment) < 2.0
