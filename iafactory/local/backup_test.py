"""`make backup-test`: back up a database with calls in it, restore it elsewhere, and verify the books there.

The scripts are those an operator uses: `deploy/backup.sh` and `deploy/restore.sh`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .secrets_file import local_secrets
from .servers import LocalServers
from .supervisor import say

PROJECT = Path(__file__).resolve().parents[2]
RESTORED = "iafactory_restored"

# Made and settled by the services, over three days, so that there are lots, holds, entries, usage rows and seals to restore.
_FILL = """
from datetime import timedelta
from decimal import Decimal
from billing.accounts.models import Account
from billing.ledger.items import CallItem, HoldItem, UsageItem
from billing.ledger.seals import days_seal
from billing.ledger.services import call_settle, hold_open
from iafactory.common import clock
from iafactory.common.ids import uuid7

account = Account.objects.get(personal_of__email="demo@iafactory.local")
for number in range(300):
    at = clock.now() - timedelta(days=number % 3)
    call = uuid7()
    hold_open(HoldItem(id=call, account_id=account.pk, credits=Decimal(2), worst_cost_usd=Decimal("0.01"), opened_at=at,
                       expires_at=at + timedelta(minutes=10), endpoint="/v1/chat/completions"), now=at)
    if number % 50 == 49:
        continue
    usage = UsageItem(id=call, started_at=at, finished_at=at, account_id=account.pk, endpoint="/v1/chat/completions",
                      end="complete", cost_usd=Decimal("0.001"), credits_held=Decimal(2), credits_charged=Decimal(1))
    call_settle(CallItem(usage=usage, held=Decimal(2), charge=Decimal(1), loss_usd=Decimal(0)), now=at)
print(len(days_seal(now=clock.now())), "days sealed")
"""

_TABLES = """
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY c.relname
"""
# A table's name, its rows, and a checksum over them.
_ROWS = "SELECT '{0}', count(*), md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM \"{0}\" t"


def main() -> int:
    """0 when the restored database holds the same rows and its books verify."""
    with tempfile.TemporaryDirectory(prefix="iafactory-backup-") as name:
        var = Path(name)
        servers = LocalServers(var)
        try:
            servers.start()
            assert servers.postgres is not None, "backup-test brings its own PostgreSQL: unset DATABASE_URL"
            programs = servers.postgres.programs
            environment = {
                **os.environ,
                **servers.environment(),
                **{key: value for key, value in local_secrets(var).items() if not key.startswith("DEMO")},
                "DJANGO_SETTINGS_MODULE": "iafactory.settings",
                "IAFACTORY_ENV": "local",
                "VAR": str(var),
                "MAIL_DIR": str(var / "mail"),
                "BOOKS_SEAL_FILE": str(var / "seals.txt"),
                "PATH": f"{programs}:{os.environ['PATH']}",
            }
            restored = environment | {"DATABASE_URL": servers.postgres.url(RESTORED)}
            _fill(environment)
            backup = _run("deploy/backup.sh", str(var / "backups"), environment=environment).splitlines()[-1]
            size = (Path(backup) / "database.dump").stat().st_size
            say(f"backed up: {size / 1024:,.0f} KiB")
            _run("createdb", "--maintenance-db", servers.postgres.url(), RESTORED, environment=environment)
            _run("deploy/restore.sh", backup, environment=restored)
            same = _content(environment) == _content(restored)
            say("restored: every table holds the same rows" if same else "restored: the rows DIFFER")
            # The seals as they were kept with the backup.
            restored["BOOKS_SEAL_FILE"] = str(Path(backup) / "seals.txt")
            print(_run(sys.executable, "manage.py", "verify_books", environment=restored).strip())
            restore = [str(PROJECT / "deploy/restore.sh"), backup]
            again = subprocess.run(restore, env=restored, capture_output=True, check=False)  # noqa: S603
            refused = again.returncode != 0
            say("a second restore is refused" if refused else "a second restore was NOT refused")
            return 0 if same and refused else 1
        finally:
            servers.stop()
            servers.remove_outside()
            shutil.rmtree(var / "postgres", ignore_errors=True)


def _fill(environment: dict[str, str]) -> None:
    for command in (["migrate", "--noinput"], ["load_catalog"], ["create_demo", "--json"], ["shell", "--command", _FILL]):
        _run(sys.executable, "manage.py", *command, environment=environment)


def _content(environment: dict[str, str]) -> str:
    """Every table with the number of its rows and their checksum."""
    psql = ("psql", f"--dbname={environment['DATABASE_URL']}", "--no-psqlrc", "-At")
    tables = _run(*psql, f"--command={_TABLES}", environment=environment).split()
    query = " UNION ALL ".join(_ROWS.format(table) for table in tables)
    return _run(*psql, f"--command={query} ORDER BY 1", environment=environment)


def _run(*command: str, environment: dict[str, str]) -> str:
    """The standard output of a command that must succeed."""
    program = shutil.which(command[0], path=environment["PATH"]) or str(PROJECT / command[0])
    done = subprocess.run(  # noqa: S603
        [program, *command[1:]], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SystemExit(f"error: {command[0]} failed")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
