"""`make run`: the whole product on one machine, with nothing but Python.

It starts PostgreSQL and Redis (unless DATABASE_URL / REDIS_URL name others), prepares the database, and keeps the web
server, the Celery worker and beat, and the provider simulator running until TERM, INT or HUP. VAR/local.json exists
exactly while the product answers.
"""

import errno
import json
import os
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path

from .processes import signal_when_parent_dies
from .secrets_file import local_secrets, local_secrets_save, write_private
from .servers import LocalServers, ServerError, StartInterrupted, var_lock
from .supervisor import Program, StepFailed, Supervisor, say, say_plain

PROJECT = Path(__file__).resolve().parents[2]


class BadConfiguration(Exception):
    """The environment asks for something impossible; the text is one line."""


def main() -> int:
    """Runs until a signal; the exit code is 0 after a clean stop, 1 with one line on stderr if it could not start."""
    parent_pid = os.environ.pop("STOP_WITH_PARENT", "")
    if parent_pid.isdecimal():
        # make passes TERM on but cannot when it is killed: then nobody would be left to stop us.
        signal_when_parent_dies(signal.SIGTERM, parent_pid=int(parent_pid))
    try:
        var = Path(os.environ.get("VAR") or PROJECT / "var").resolve()
        with var_lock(var):
            return _run(var)
    except (ServerError, StepFailed, BadConfiguration, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


def _run(var: Path) -> int:
    host = os.environ.get("HOST") or "127.0.0.1"
    port = _port_setting("PORT", 8000)
    reachable = "127.0.0.1" if host in ("0.0.0.0", "localhost") else "[::1]" if host in ("::", "::1") else host  # noqa: S104
    url = f"http://{reachable}:{port}"
    facts: dict[str, str] = {"url": url}
    local_file = var / "local.json"

    def answering(yes: bool) -> None:
        if yes:
            write_private(local_file, json.dumps(facts, indent=2) + "\n")
            _print_welcome(facts, var)
        else:
            local_file.unlink(missing_ok=True)

    servers = LocalServers(var)
    supervisor = Supervisor(var=var, servers=servers, folder=PROJECT, health_urls=[f"{url}/health"], answering=answering)
    answering(False)
    supervisor.install_signals()
    supervisor.stop_leftovers()
    ports = [port]
    if os.environ.get("SECOND_PORT"):
        # A second web process beside the first, as a second machine would have it.
        ports.append(_port_setting("SECOND_PORT", port))
    for number, name in zip(ports, ("PORT", "SECOND_PORT"), strict=False):
        require_free_port(host, number, name=name)
    simulator_port = _simulator_port(var, taken=port)
    supervisor.health_urls.append(f"http://127.0.0.1:{simulator_port}/_control")
    (var / "log").mkdir(mode=0o755, exist_ok=True)
    (var / "mail").mkdir(mode=0o700, exist_ok=True)
    # Counted by the processes of an earlier run.
    shutil.rmtree(var / "metrics", ignore_errors=True)
    secrets = local_secrets(var)
    facts["simulator_url"] = f"http://127.0.0.1:{simulator_port}"
    supervisor.environment = {
        **os.environ,
        # What the user set for a secret or for the public address is kept.
        **{name: os.environ.get(name) or value for name, value in secrets.items()},
        "PUBLIC_URL": os.environ.get("PUBLIC_URL") or url,
        "DJANGO_SETTINGS_MODULE": "iafactory.settings",
        "IAFACTORY_ENV": "local",
        "SIMULATOR_URL": facts["simulator_url"],
        "MAIL_DIR": str(var / "mail"),
        "VAR": str(var),
        "PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }
    try:
        say("starting PostgreSQL and Redis")
        supervisor.start_servers()
        facts |= _prepare(supervisor, var)
        supervisor.keep_running(_programs(host, ports, simulator_port))
    except (StartInterrupted, StepFailed):
        if not supervisor.stop_requested():
            raise
    finally:
        supervisor.stop()
    say("stopped")
    return 0


def _prepare(supervisor: Supervisor, var: Path) -> dict[str, str]:
    """Migrates, loads the catalogue, makes the demo account; returns admin_email, admin_password and api_key."""
    say("preparing the database")
    supervisor.run_step("migrate", _manage("migrate", "--noinput"))
    supervisor.run_step("load_catalog", _manage("load_catalog"))
    demo = _last_json_object(supervisor.run_step("create_demo", _manage("create_demo", "--json"), prints_secrets=True))
    # The key is shown once by the product; kept here, the same one is asked for at every start.
    local_secrets_save(var, {"DEMO_API_KEY": demo["api_key"]})
    return {name: demo[name] for name in ("admin_email", "admin_password", "api_key")}


def _programs(host: str, ports: list[int], simulator_port: int) -> list[Program]:
    python = sys.executable
    celery = (python, "-m", "celery", "-A", "iafactory")
    # One worker has nobody to greet: it is back sooner, also after the broker was away.
    alone = ("--without-gossip", "--without-mingle")
    uvicorn = (
        *(python, "-m", "uvicorn", "iafactory.asgi:application", "--host", host),
        *("--loop", "uvloop", "--http", "httptools", "--lifespan", "on", "--timeout-graceful-shutdown", "6"),
        # The client's address is read from X-Forwarded-For by TRUSTED_PROXIES alone.
        *("--no-access-log", "--no-server-header", "--no-proxy-headers"),
    )
    return [
        Program("simulator", _manage("simulator", "--port", str(simulator_port)), stops_last=True),
        *(Program(name, (*uvicorn, "--port", str(port))) for name, port in zip(("web", "second web"), ports, strict=False)),
        Program("worker", (*celery, "worker", "-l", "info", "--concurrency", "2", "-Q", "celery", *alone)),
        Program("beat", (*celery, "beat", "-l", "info")),
    ]


def _manage(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(PROJECT / "manage.py"), *arguments)


def _last_json_object(output: str) -> dict[str, str]:
    """The last line of a command's output that is a JSON object; log lines may surround it. Raises StepFailed."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if {"admin_email", "admin_password", "api_key"} <= value.keys():
                return {name: str(text) for name, text in value.items()}
    raise StepFailed("create_demo printed no account")


def _port_setting(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise BadConfiguration(f"{name}={text} is not a port number")
    return int(text)


def require_free_port(host: str, port: int, *, name: str) -> None:
    """Raises BadConfiguration when nobody could listen on this TCP address now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise BadConfiguration(f"{host} is not an address of this machine; set HOST=127.0.0.1") from None
        reason = error.strerror or str(error)
        raise BadConfiguration(f"{host}:{port} cannot be used ({reason}); set {name} to a free port") from None


def _simulator_port(var: Path, *, taken: int) -> int:
    """SIMULATOR_PORT, or the port of the last run, or a free one, kept in VAR/simulator.port."""
    if os.environ.get("SIMULATOR_PORT"):
        port = _port_setting("SIMULATOR_PORT", 0)
        if port == taken:
            raise BadConfiguration(f"PORT and SIMULATOR_PORT are both {port}")
        require_free_port("127.0.0.1", port, name="SIMULATOR_PORT")
        return port
    kept = var / "simulator.port"
    try:
        port = int(kept.read_text())
        if port != taken:
            require_free_port("127.0.0.1", port, name="SIMULATOR_PORT")
            return port
    except (FileNotFoundError, ValueError, OverflowError, BadConfiguration):
        pass
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    kept.write_text(f"{port}\n")
    return port


def _print_welcome(facts: dict[str, str], var: Path) -> None:
    url, key = facts["url"], facts["api_key"]
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Say hello"}]})
    authorization = shlex.quote(f"Authorization: Bearer {key}")
    text = f"""
IA Factory answers on {url}

  Console    {url}/admin/   {facts["admin_email"]}   {facts["admin_password"]}
  Docs       {url}/docs
  Logs       {var / "log"}
  Mail       {var / "mail"}

A first call:

  curl {url}/v1/chat/completions -H {authorization} -H 'Content-Type: application/json' -d {shlex.quote(body)}

The same with OpenAI's client:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  answer = client.chat.completions.create(model="auto", messages=[{{"role": "user", "content": "Say hello"}}])
  print(answer.choices[0].message.content)

Answers come from a simulator until a provider has a credential. Ctrl-C stops everything.
"""
    say_plain(text)


if __name__ == "__main__":
    sys.exit(main())
