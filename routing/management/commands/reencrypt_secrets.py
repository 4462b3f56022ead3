"""`manage.py reencrypt_secrets`: brings every stored secret under the newest of FIELD_ENCRYPTION_KEYS."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from iafactory.common.reencryption import BATCH_ROWS, secrets_reencrypt


class Command(BaseCommand):
    help = (
        "Encrypt every stored secret anew under the first of FIELD_ENCRYPTION_KEYS. Safe beside the running product; may be "
        "stopped and repeated. Fails when a value is left that none of the keys decrypts."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Count and write nothing.")
        parser.add_argument("--batch", type=int, default=BATCH_ROWS, help="Rows per transaction.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["batch"] < 1:
            raise CommandError("--batch is at least 1")
        stale = lost = 0
        said = "to encrypt anew" if options["dry_run"] else "encrypted anew"
        for count in secrets_reencrypt(dry_run=options["dry_run"], batch_rows=options["batch"]):
            self.stdout.write(f"{count.label}: {count.stale} {said}, {count.fresh} already fresh, {count.lost} unreadable")
            stale, lost = stale + count.stale, lost + count.lost
        prefix = "Dry run, nothing written: " if options["dry_run"] else ""
        self.stdout.write(f"{prefix}{stale} {said}.")
        if lost:
            raise CommandError(f"{lost} values cannot be read with any of the keys; do not remove an old key on their account.")
