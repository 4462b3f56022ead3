"""The company of a million calls, beside whose console chats are timed: made once, kept in `.bench/company`.

Run as a program (inside `with_servers`, with its folder as VAR) it makes the company. `make clean` removes it.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.peers import FOLDER
from chaos.product import PROJECT, own_environment

CALLS = 1_000_000
COMPANY = FOLDER / "company"


def company_folder() -> Path:
    """The VAR of a product with the company's data, which takes some minutes to make the first time."""
    stamp = COMPANY / "company.made"
    if not stamp.exists():
        COMPANY.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "iafactory.local.with_servers", sys.executable, "-m", "benchmarks.company"]
        subprocess.run(command, cwd=PROJECT, env=own_environment() | {"VAR": str(COMPANY)}, check=True, stdout=sys.stderr)
        stamp.touch()
    return COMPANY


def main() -> None:
    import django

    django.setup()
    from django.core.management import call_command

    from billing.ledger.models import UsageRecord

    call_command("migrate", verbosity=0)
    call_command("load_catalog", verbosity=0)
    if not UsageRecord.objects.exists():
        call_command("seed_demo", usage_rows=CALLS)


if __name__ == "__main__":
    main()
