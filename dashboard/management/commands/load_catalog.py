"""`manage.py load_catalog`: brings the shipped plans, providers, models, prices and alert rules into the database."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.plans.catalog import CatalogError
from dashboard.alerts.rules import rules_write
from routing.catalog import catalog_load


class Command(BaseCommand):
    help = "Load the shipped catalogue. Edits and deletions made by operators are kept; loading twice changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Show what would change and write nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = catalog_load(dry_run=options["dry_run"], further=[rules_write])
        except CatalogError as error:
            raise CommandError(str(error)) from error
        details = options["verbosity"] > 1
        for label, fields in report.updated.items():
            self.stdout.write(f"updated {label}: {', '.join(fields)}")
        for label, fields in report.kept.items():
            self.stdout.write(f"kept as edited {label}: {', '.join(fields)}")
        if details:
            self.stdout.write("".join(f"created {label}\n" for label in report.created), ending="")
            self.stdout.write("".join(f"left deleted {label}\n" for label in report.deleted), ending="")
        prefix = "Catalogue (dry run, nothing written)" if options["dry_run"] else "Catalogue"
        self.stdout.write(f"{prefix}: {report.summary()}")
