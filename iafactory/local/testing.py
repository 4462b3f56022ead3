"""The environment of the tests: servers of their own, and settings that never come from the developer's shell."""

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from .secrets_file import local_secrets
from .servers import LocalServers, ServerError, VarInUse, var_lock

PROJECT = Path(__file__).resolve().parents[2]


class TestEnvironment:
    """Servers and variables for one run. var-test is kept between runs; a second run beside it gets a new folder."""

    __test__ = False

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()

    def start(self) -> None:
        """Starts what DATABASE_URL and REDIS_URL do not name, sets `os.environ`; to be called before settings load."""
        if "PYTEST_XDIST_WORKER" in os.environ:
            return  # the controller did all this; its variables came with the process
        atexit.register(self.stop)
        var = self._own_var()
        mail = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="iafactory-mail-")))
        servers = self._start_servers(var)
        # Counted by the processes of an earlier run.
        shutil.rmtree(var / "metrics", ignore_errors=True)
        secrets = local_secrets(var)
        os.environ.update(
            servers.environment(),
            DJANGO_SETTINGS_MODULE="iafactory.settings",
            IAFACTORY_ENV="test",
            SECRET_KEY=secrets["SECRET_KEY"],
            FIELD_ENCRYPTION_KEYS=secrets["FIELD_ENCRYPTION_KEYS"],
            JWT_SIGNING_KEY=secrets["JWT_SIGNING_KEY"],
            PUBLIC_URL="http://127.0.0.1:8000",
            SIMULATOR_URL="",
            MAIL_DIR=str(mail),
            VAR=str(var),
        )

    def stop(self) -> None:
        """Stops the servers and removes what was temporary. Safe to call twice."""
        self._closing.close()

    def _own_var(self) -> Path:
        var = PROJECT / "var-test"
        try:
            self._closing.enter_context(var_lock(var))
        except (VarInUse, OSError):
            var = Path(self._closing.enter_context(temporary_folder()))
            self._closing.enter_context(var_lock(var))
        return var

    def _start_servers(self, var: Path) -> LocalServers:
        servers = LocalServers(var, durable=False)
        if var != PROJECT / "var-test":
            self._closing.callback(servers.remove_outside)
        self._closing.callback(servers.stop)
        try:
            servers.start()
        except ServerError:
            if servers.postgres is None or not servers.postgres.has_data:
                raise
            # Nothing in it is worth keeping, and without fsync a power loss may have damaged it.
            shutil.rmtree(servers.postgres.data)
            servers.start()
        return servers


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A VAR folder for one run, removed at its end."""
    return tempfile.TemporaryDirectory(prefix="iafactory-", ignore_cleanup_errors=True)
