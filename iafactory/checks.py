"""System checks for settings that would otherwise be wrong in silence."""

from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.security)
def secrets_are_usable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Every encryption key must be a Fernet key, and the three secrets must differ."""
    problems: list[CheckMessage] = []
    for position, key in enumerate(settings.FIELD_ENCRYPTION_KEYS):
        try:
            Fernet(key)
        except ValueError:
            problems.append(
                Error(
                    f"FIELD_ENCRYPTION_KEYS entry {position + 1} is not a Fernet key",
                    hint="Make one with cryptography.fernet.Fernet.generate_key().",
                    id="iafactory.E001",
                )
            )
    if not settings.FIELD_ENCRYPTION_KEYS:
        problems.append(Error("FIELD_ENCRYPTION_KEYS is empty", id="iafactory.E002"))
    if settings.JWT_SIGNING_KEY == settings.SECRET_KEY:
        problems.append(Error("JWT_SIGNING_KEY must not be SECRET_KEY", id="iafactory.E003"))
    if settings.PRODUCTION and len(settings.JWT_SIGNING_KEY) < 32:
        problems.append(Error("JWT_SIGNING_KEY is shorter than 32 characters", id="iafactory.E004"))
    return problems


@register()
def choices_are_known(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """A setting with named choices must have one of them."""
    return [
        Error(f"{name} must be {' or '.join(f'`{choice}`' for choice in choices)}", id=f"iafactory.E{number:03}")
        for number, name, choices in (
            (5, "SPEED_LIMITS_WITHOUT_REDIS", ("refuse", "allow")),
            (6, "LOGIN_BRAKES_WITHOUT_REDIS", ("refuse", "allow")),
            (7, "LOG_FORMAT", ("json", "text")),
        )
        if getattr(settings, name) not in choices
    ]
