"""`manage.py import_prices FILE|shipped`: what a price file would change becomes a proposal to review in the console."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.events.services import SYSTEM
from iafactory.common import clock
from routing.catalog import ROUTING_FOLDER
from routing.price_import.models import PriceProposalLine
from routing.price_import.reading import PriceFileError, price_file_read
from routing.price_import.services import price_differences, price_proposal_create

SHIPPED = "shipped"


class Command(BaseCommand):
    help = (
        "Compare a price file with the list prices in force and keep the differences as a proposal; no price changes before an "
        "operator applies it in the console. Reads our own table (routing/data/model_prices.json), the reference table, and "
        "LiteLLM's model_prices_and_context_window.json."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="A file, or `shipped` for the table that comes with this version.")
        parser.add_argument("--dry-run", action="store_true", help="Show the differences and keep nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        path = ROUTING_FOLDER / "model_prices.json" if options["file"] == SHIPPED else Path(options["file"])
        name = SHIPPED if options["file"] == SHIPPED else path.name
        try:
            file = price_file_read(path.read_bytes(), name=name, now=clock.now())
        except (OSError, PriceFileError) as error:
            raise CommandError(str(error)) from error
        proposal = None
        if options["dry_run"]:
            found = price_differences(file, now=clock.now())
        else:
            proposal, found = price_proposal_create(file=file, actor=SYSTEM)
        for line in found.lines:
            self.stdout.write(self._told(line))
        counts = [f"{len(found.of_kind(kind))} {kind}" for kind in PriceProposalLine.Kind.values]
        suspicious = sum(bool(line.warnings) for line in found.lines)
        told = [
            *counts,
            f"{suspicious} suspicious",
            f"{found.unchanged} unchanged",
            f"{len(found.unknown)} of nobody here",
        ]
        self.stdout.write(f"{name}: {', '.join(told)}.")
        if proposal is not None:
            self.stdout.write(f"Review and apply it in the console: /admin/routing/priceproposal/{proposal.pk}/change/")
        elif not found.proposes:
            self.stdout.write("Nothing to apply.")

    def _told(self, line: PriceProposalLine) -> str:
        if line.kind == PriceProposalLine.Kind.MISSING:
            return f"missing  {line.profile.slug}"

        def step(change: dict[str, str | None]) -> str:
            percent = f" ({change['percent']} %)" if change["percent"] else ""
            return f"{change['name']} {change['before'] or '-'} -> {change['after'] or '-'}{percent}"

        mark = f"  !! {'; '.join(line.warnings)}" if line.warnings else ""
        return f"{line.kind:8} {line.profile.slug}: {', '.join(step(change) for change in line.differences)}{mark}"
