"""Mails about accounts, in the reader's language. A template's first line is the subject."""

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.mail import send_mail
from django.template.loader import render_to_string
from django.utils import translation

LANGUAGES = ("en", "fr", "ar")


def public_link(path: str, **query: str) -> str:
    """The address of one of our pages, as a reader of a mail needs it."""
    return f"{settings.PUBLIC_URL}{path}?{urlencode(query)}"


def mail_send(*, template: str, language: str, to: str, context: dict[str, Any]) -> None:
    """Send `billing/mail/<language>/<template>.txt` to one address; English stands in for a language we do not speak.

    What `context` has of `iafactory.common.formats` made lazy is written as that language does. Raises what the
    mail backend raises (`OSError`, `SMTPException`). Never call it inside a transaction.
    """
    folder = language if language in LANGUAGES else "en"
    with translation.override(folder):
        subject, _, body = render_to_string(f"billing/mail/{folder}/{template}.txt", context).strip().partition("\n")
    send_mail(subject.strip(), body.strip() + "\n", settings.DEFAULT_FROM_EMAIL, [to])
