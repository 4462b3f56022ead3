"""Child processes that never outlive us: own session, a signal when we die, and a stop that ends in SIGKILL."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypedDict

import psutil  # type: ignore[import-untyped]

_PR_SET_PDEATHSIG = 1
# Loaded before any fork: between fork and exec nothing may be imported or allocated for long.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_LOG_LIMIT_BYTES = 20 * 1024 * 1024


def signal_when_parent_dies(number: signal.Signals, *, parent_pid: int) -> None:
    """Asks Linux to send `number` to this process when its parent dies (exits if it already did); elsewhere a no-op."""
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    folder: Path | str | None = None,
    user: tuple[int, int] | None = None,
    parent_death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Starts `command` in a session of its own with its output appended to `log`, as (uid, gid) `user` if given.

    Call it from the main thread: Linux takes the death of the starting thread for the death of the parent.
    """
    parent_pid = os.getpid()
    with open_log(log) as output:
        return subprocess.Popen(  # noqa: S603 - an argument list, no shell
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            preexec_fn=lambda: signal_when_parent_dies(parent_death_signal, parent_pid=parent_pid),
            **as_user(user),
        )


class UserArguments(TypedDict):
    """The arguments of `subprocess` that say whom a process runs as; None keeps what we are."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


def as_user(user: tuple[int, int] | None) -> UserArguments:
    """Changes to (uid, gid) and drops every other group; None changes nothing."""
    if user is None:
        return {"user": None, "group": None, "extra_groups": None}
    return {"user": user[0], "group": user[1], "extra_groups": []}


def open_log(path: Path) -> IO[bytes]:
    """Opens a log for appending, mode 0600; one above 20 MB is first moved to `<name>.1`."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a log, read from its last 8 KiB; empty if there is none."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 8192))
        return log.read().decode(errors="replace").splitlines()[-count:]


def wait_until(condition: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> bool:
    """Polls `condition` until it holds (True) or `seconds` have passed (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


def stop_processes(
    processes: Sequence[subprocess.Popen[bytes]], *, number: signal.Signals = signal.SIGTERM, seconds: float
) -> list[int]:
    """Sends `number` to each, waits `seconds` in all, then kills their groups. Returns the pids it had to kill."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
    wait_until(lambda: all(process.poll() is not None for process in processes), seconds=seconds)
    killed = [process.pid for process in processes if process.poll() is None]
    for process in processes:
        # Also after a clean end: a grandchild may have stayed in the group.
        kill_group(process.pid)
    for process in processes:
        process.wait()
    return killed


def kill_group(pid: int) -> None:
    """Sends SIGKILL to the process group that `pid` leads; nothing happens if it is gone."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits for an idle init to take its exit code does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop_orphan(
    pid: int, *, is_ours: Callable[[psutil.Process], bool], numbers: Sequence[signal.Signals], seconds: float
) -> bool:
    """Stops a process that an earlier, killed supervisor left behind; one that `is_ours` refuses is not touched.

    Each signal of `numbers` gets `seconds` to work, the last resort is SIGKILL. Returns whether there was one.
    """
    try:
        process = psutil.Process(pid)
        if not is_alive(process) or not is_ours(process):
            return False
        for number in (*numbers, signal.SIGKILL):
            process.send_signal(number)
            if wait_until(lambda: not is_alive(process), seconds=seconds):
                break
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return True
