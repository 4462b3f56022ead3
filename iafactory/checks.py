"""System checks for settings that would otherwise be wrong in silence."""

from collections.abc import Sequence
from importlib.util import find_spec
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


@register()
def observability_is_usable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The share of what is traced must be one, and what traces and reports need must be installed."""
    problems: list[CheckMessage] = []
    if not 0 <= settings.TRACES_SHARE <= 1:
        problems.append(Error("TRACES_SHARE must be from 0 to 1", id="iafactory.E008"))
    needed = {"TRACES_ENDPOINT": "opentelemetry.sdk", "SENTRY_DSN": "sentry_sdk"}
    problems += [
        Error(f"{name} is set and {package} is not installed", hint="pip install -r requirements-observability.txt", id=code)
        for (name, package), code in zip(needed.items(), ("iafactory.E009", "iafactory.E010"), strict=True)
        if getattr(settings, name) and not _installed(package)
    ]
    return problems


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
