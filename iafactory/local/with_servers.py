"""Runs one command with a PostgreSQL and a Redis around it: `python -m iafactory.local.with_servers manage.py check`.

The servers keep their data in VAR (default `var-dev`); if another process uses that folder, in a temporary one.
DATABASE_URL and REDIS_URL, where set, are used instead. The command's exit code is ours.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from .processes import signal_when_parent_dies
from .secrets_file import local_secrets
from .servers import LocalServers, ServerError, VarInUse, var_lock
from .testing import PROJECT, temporary_folder


def run(command: list[str]) -> int:
    """Starts the servers, runs `command` with their addresses and local secrets in its environment, stops them."""
    with contextlib.ExitStack() as closing:
        var = Path(os.environ.get("VAR") or PROJECT / "var-dev").resolve()
        servers = LocalServers(var)
        try:
            if servers.postgres is not None or servers.redis is not None:
                closing.enter_context(var_lock(var))
        except VarInUse:
            var = Path(closing.enter_context(temporary_folder()))
            closing.enter_context(var_lock(var))
            servers = LocalServers(var)
            closing.callback(servers.remove_outside)
        closing.callback(servers.stop)
        servers.start()
        var.mkdir(parents=True, exist_ok=True)
        secrets = local_secrets(var)
        environment = {
            "DJANGO_SETTINGS_MODULE": "iafactory.settings",
            "IAFACTORY_ENV": "local",
            "MAIL_DIR": str(var / "mail"),
            **{name: secrets[name] for name in ("SECRET_KEY", "FIELD_ENCRYPTION_KEYS", "JWT_SIGNING_KEY")},
            **os.environ,
            **servers.environment(),
            "VAR": str(var),
        }
        parent_pid = os.getpid()
        process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            preexec_fn=lambda: signal_when_parent_dies(signal.SIGTERM, parent_pid=parent_pid),
        )
        # Ctrl-C reaches the command too, which decides what it means; a TERM is passed on. The servers go last.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _: process.send_signal(received))
        code = process.wait()
        return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m iafactory.local.with_servers COMMAND [ARGUMENT...]")
    try:
        sys.exit(run(sys.argv[1:]))
    except (ServerError, OSError) as error:
        sys.exit(f"error: {error}")
