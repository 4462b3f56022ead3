"""`manage.py reset_two_factor EMAIL --reason WHY`: for the last operator who lost their app and their codes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.accounts.models import User, email_normalise
from billing.events.services import SYSTEM
from dashboard.two_factor.services import device_reset


class Command(BaseCommand):
    help = "Forget an operator's second factor and end their sessions. They set up a new one at their next login."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--reason", required=True, help="Kept with the event.")

    def handle(self, *args: Any, email: str, reason: str, **options: Any) -> None:
        user = User.objects.filter(email=email_normalise(email), is_staff=True).first()
        if user is None:
            raise CommandError("There is no such operator.")
        done = device_reset(user=user, actor=SYSTEM, reason=reason)
        self.stdout.write("Reset." if done else "There was no second factor.")
