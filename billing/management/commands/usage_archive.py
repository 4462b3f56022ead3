"""`manage.py usage_archive`: the months of the usage log that are kept in files."""

from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.events.models import Event
from billing.events.services import Actor
from billing.ledger.archive import (
    ArchiveBusy,
    ArchiveDiffers,
    ArchiveWaits,
    archive_file_differences,
    retention_months,
    usage_archive,
    usage_month_release,
    usage_month_restore,
)
from billing.ledger.models import UsageArchive
from iafactory.common import clock

OPERATOR = Actor(Event.ActorKind.SYSTEM, label="command line")


class Command(BaseCommand):
    help = (
        "Months of the usage log in files: list them; run the archiving that the nightly job does; verify files against the "
        "books; restore a month into the log; release it again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list")
        actions.add_parser("run")
        actions.add_parser("verify").add_argument("months", nargs="*", type=_month, help="YYYY-MM; by default all.")
        for name in ("restore", "release"):
            action = actions.add_parser(name)
            action.add_argument("month", type=_month, help="YYYY-MM")
            action.add_argument("--reason", default="", help="Kept with the event.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, options["action"])(options)
        except (ArchiveBusy, ArchiveDiffers, ArchiveWaits) as error:
            raise CommandError(str(error)) from error

    def list(self, options: dict[str, Any]) -> None:
        kept = retention_months()
        self.stdout.write(
            "The log keeps everything." if kept is None else f"The log keeps {kept} months beside the running one."
        )
        for archive in UsageArchive.objects.order_by("month"):
            self.stdout.write(f"{archive}  {archive.state:<8}  {archive.rows:>12,} rows  {archive.file}  {archive.file_sha256}")

    def run(self, options: dict[str, Any]) -> None:
        for month in usage_archive(now=clock.now()):
            self.stdout.write(f"{month:%Y-%m}: archived and dropped")

    def verify(self, options: dict[str, Any]) -> None:
        archives = UsageArchive.objects.order_by("month")
        if options["months"]:
            archives = archives.filter(month__in=options["months"])
        wrong = []
        for archive in archives:
            differences = archive_file_differences(archive)
            told = "; ".join(differences) if differences else "the file is whole and agrees with the books"
            self.stdout.write(f"{archive}: {told}")
            wrong += [f"{archive}: {difference}" for difference in differences]
        if wrong:
            raise CommandError("; ".join(wrong))

    def restore(self, options: dict[str, Any]) -> None:
        archive = usage_month_restore(options["month"], now=clock.now(), actor=OPERATOR, reason=options["reason"])
        self.stdout.write(f"{archive}: {archive.rows:,} rows are back in the log, until `usage_archive release {archive}`")

    def release(self, options: dict[str, Any]) -> None:
        archive = usage_month_release(options["month"], now=clock.now(), actor=OPERATOR, reason=options["reason"])
        self.stdout.write(f"{archive}: dropped again; the file is unchanged")


def _month(text: str) -> date:
    return date.fromisoformat(f"{text}-01")
