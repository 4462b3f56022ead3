"""`manage.py preflight`: can this installation go live? One line for each thing; exits non-zero when something is missing."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dashboard.preflight import preflight


class Command(BaseCommand):
    help = "Look at environment, connections, migrations, secrets, gateways, providers and clock before a deployment."
    # It runs the checks itself, and tells of them in its own lines.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--before-migrate", action="store_true", help="leave out what needs this release's tables")

    def handle(self, *args: Any, **options: Any) -> None:
        failed = 0
        for result in preflight(before_migrate=options["before_migrate"]):
            mark = "ok" if result.ok else "warning" if result.warning else "FAILED"
            style = self.style.SUCCESS if result.ok else self.style.WARNING if result.warning else self.style.ERROR
            self.stdout.write(f"{style(mark):8} {result.name}: {result.text}")
            failed += not result.ok and not result.warning
        if failed:
            raise CommandError(f"{failed} thing{'s' if failed > 1 else ''} must be put right first.")
