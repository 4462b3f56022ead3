"""`manage.py verify_books`: does every balance follow from the rows behind it?"""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.ledger.verification import Finding, number_of_checks, verification_run


class Command(BaseCommand):
    help = "Recompute wallets, lots, holds, ledger, usage and day seals; exits non-zero and names the first differences."

    def handle(self, *args: Any, **options: Any) -> None:
        self._progress(0)
        run = verification_run(report=self._report)
        failed = sum(bool(check["differences"]) for check in run.checks)
        seconds = (run.finished_at - run.started_at).total_seconds()
        if not run.passed:
            raise CommandError(f"The books do not verify: {failed} of {number_of_checks()} checks failed ({seconds:.1f} s).")
        self.stdout.write(self.style.SUCCESS(f"The books verify ({seconds:.1f} s)."))

    def _report(self, number: int, finding: Finding) -> None:
        if self.stdout.isatty():
            self.stdout.write("\r\x1b[K", ending="")
        state = self.style.ERROR("WRONG") if finding.differences else self.style.SUCCESS("ok")
        self.stdout.write(f"[{number}/{number_of_checks()}] {finding.check.name}: {state} ({finding.seconds:.1f} s)")
        for what, expected, found in finding.differences:
            self.stdout.write(f"    {what}: expected {expected}, found {found}")
        self._progress(number)

    def _progress(self, done: int) -> None:
        """A bar for people; nothing in a log file."""
        if self.stdout.isatty() and done < number_of_checks():
            filled = done * 30 // number_of_checks()
            self.stdout.write(f"[{'#' * filled}{'.' * (30 - filled)}] {done}/{number_of_checks()}", ending="")
            self.stdout.flush()
