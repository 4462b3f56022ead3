"""`manage.py seed_demo`: a company with months of history, for trying the console and for measuring at scale."""

import time
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from kombu.exceptions import OperationalError

from iafactory.common import clock
from routing.demo_company import DemoRefused, company_make

_ANSWER_SECONDS = 1.0


class Command(BaseCommand):
    help = (
        "Make a company with a past: accounts, plans, keys, payments, invoices and calls over months. The books verify. The "
        "same seed makes the same company. Only on a database whose books are empty, after load_catalog; not in production."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--usage-rows", type=int, default=20_000, help="How many calls (default: 20,000).")
        parser.add_argument("--accounts", type=int, help="By default one for 20,000 calls, at least 40, at most 500.")
        parser.add_argument("--months", type=int, default=6, help="How far back, in months of 30 days (default: 6).")
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument(
            "--beside-workers", action="store_true", help="Do not ask for running workers: they have another database."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise CommandError("A made-up past has no place in production.")
        rows = options["usage_rows"]
        if rows < 0 or not 1 <= options["months"] <= 10:
            raise CommandError("--usage-rows is not negative, --months is 1 to 10.")
        if not options["beside_workers"] and (workers := _workers()):
            raise CommandError(
                f"Stop workers and beat first ({', '.join(workers)}): jobs of today would end what the past has just begun. "
                "--beside-workers where they have another database."
            )
        started = time.monotonic()
        try:
            company = company_make(
                usage_rows=rows,
                accounts=options["accounts"] or min(max(rows // 20_000, 40), 500),
                months=options["months"],
                seed=options["seed"],
                now=clock.now(),
                tell=self._tell,
            )
        except DemoRefused as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{company.accounts} accounts, {company.calls:,} calls, {company.invoices:,} invoices, {company.payments:,} "
            f"payments since {company.first_day}, in {time.monotonic() - started:.0f} s"
        )

    def _tell(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _workers() -> list[str]:
    """The names of the workers that answer at our broker."""
    try:
        answers = current_app.control.ping(timeout=_ANSWER_SECONDS)
    except OperationalError:
        # Where nobody can be asked nobody works either.
        return []
    return sorted(name for answer in answers for name in answer)
