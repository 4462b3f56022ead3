"""`manage.py verify_books`: does every balance follow from the rows behind it?"""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.ledger.verification import CHECKS, books_verify


class Command(BaseCommand):
    help = "Recompute wallets, lots, holds, ledger and usage; exits non-zero and names the first differences."

    def handle(self, *args: Any, **options: Any) -> None:
        wrong = 0
        started = time.monotonic()
        for number, finding in enumerate(books_verify(), start=1):
            state = self.style.ERROR("WRONG") if finding.differences else self.style.SUCCESS("ok")
            self.stdout.write(f"[{number}/{len(CHECKS)}] {finding.check.name}: {state}")
            for what, expected, found in finding.differences:
                self.stdout.write(f"    {what}: expected {expected}, found {found}")
            wrong += bool(finding.differences)
        seconds = time.monotonic() - started
        if wrong:
            raise CommandError(f"The books do not verify: {wrong} of {len(CHECKS)} checks failed ({seconds:.1f} s).")
        self.stdout.write(self.style.SUCCESS(f"The books verify ({seconds:.1f} s)."))
