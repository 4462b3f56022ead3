"""System checks of the marketplace's door."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

_SECRET_MIN = 16


@register(Tags.security)
def proxy_secrets_are_secret(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """A secret that can be guessed lets anybody call as any user of the marketplace."""
    return [
        Error(
            f"RAPIDAPI_PROXY_SECRETS entry {position + 1} is shorter than {_SECRET_MIN} characters",
            hint="Copy it from the API's page at RapidAPI; leave the setting empty to close the door.",
            id="billing.E020",
        )
        for position, secret in enumerate(settings.RAPIDAPI_PROXY_SECRETS)
        if len(secret) < _SECRET_MIN
    ]
