"""Sending one message to one target, bounded in time: by the product's own mail, or by the courier."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from smtplib import SMTPException, SMTPRecipientsRefused, SMTPResponseException
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, get_connection
from django.core.validators import validate_email

MAIL = "E-mail, as the product's own"
MAIL_SECONDS = 15
COURIER_SECONDS = 30
# What the courier needs of our environment: none of our secrets.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Message:
    """What an operator reads. `kind` is Apprise's: info, warning, failure or success."""

    title: str
    body: str
    kind: str = "info"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: the service's name, and a short code where nothing was delivered."""

    service: str
    error: str = ""


def is_mail_address(address: str) -> bool:
    """Whether `address` is a plain e-mail address, which the product's own mail server takes."""
    try:
        validate_email(address)
    except ValidationError:
        return False
    return True


def service_of(address: str) -> str | None:
    """The name of the service behind an address; None for one that nothing can be sent to. Connects nowhere."""
    if is_mail_address(address):
        return MAIL
    return _courier({"action": "check", "address": address}).get("service") or None


def message_send(address: str, message: Message) -> Outcome:
    """Hand `message` over, once. Never raises for what the other side does, and never says the address."""
    if is_mail_address(address):
        return _mail(address, message)
    order = {"action": "send", "address": address, "title": message.title, "body": message.body, "type": message.kind}
    answer = _courier(order)
    return Outcome(answer.get("service", ""), answer["error"])


def _mail(address: str, message: Message) -> Outcome:
    try:
        connection = get_connection(timeout=MAIL_SECONDS)
        EmailMessage(message.title, message.body + "\n", settings.DEFAULT_FROM_EMAIL, [address], connection=connection).send()
    except (OSError, SMTPException) as error:
        return Outcome(MAIL, _mail_trouble(error))
    return Outcome(MAIL)


def _mail_trouble(error: Exception) -> str:
    if isinstance(error, SMTPRecipientsRefused):
        return f"smtp_{next(iter(error.recipients.values()))[0]}"
    if isinstance(error, SMTPResponseException):
        return f"smtp_{error.smtp_code}"
    return "timeout" if isinstance(error, TimeoutError) else "connection_failed"


def _courier(order: dict[str, Any]) -> dict[str, Any]:
    """Run the courier. The order, which holds secrets, goes through a pipe: never on a command line."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    order |= {"allow_private": settings.ALERTS_ALLOW_PRIVATE_TARGETS}
    try:
        done = subprocess.run(
            [sys.executable, "-B", "-m", "dashboard.alerts.courier"],
            cwd=settings.BASE_DIR,
            env=environment,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=COURIER_SECONDS,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": "timeout"}
    except (OSError, ValueError):
        return {"error": "courier_failed"}
    return answer
