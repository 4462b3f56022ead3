"""`manage.py simulator`: providers to try and to measure against, without keys or costs."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from routing.simulator import run


class Command(BaseCommand):
    help = "Run a server that answers like the AI providers, with settable latency and failures (see /_control)."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8900, help="port to listen on (default: %(default)s)")

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        """Serve until SIGTERM or Ctrl-C."""
        run(host, port, lambda url: self._announce(url))

    def _announce(self, url: str) -> None:
        self.stdout.write(f"simulator: {url}/{{provider}}/v1/chat/completions, settings at {url}/_control")
        self.stdout.flush()
