"""Secrets at rest and secrets that are only ever compared."""

import hashlib
from functools import cache
from typing import Any

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings
from django.core.signals import setting_changed
from django.db import models


@cache
def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.FIELD_ENCRYPTION_KEYS])


def _forget_keys(*, setting: str, **kwargs: Any) -> None:
    if setting == "FIELD_ENCRYPTION_KEYS":
        _fernet.cache_clear()


setting_changed.connect(_forget_keys)


def encrypt_bytes(content: bytes) -> str:
    """`content` as a Fernet token under the first of `FIELD_ENCRYPTION_KEYS`."""
    return _fernet().encrypt(content).decode()


def decrypt_bytes(token: str) -> bytes:
    """What a token holds that was made under any of the keys; `cryptography.fernet.InvalidToken` otherwise."""
    return _fernet().decrypt(token.encode())


def encrypt(text: str) -> str:
    """`text` as a Fernet token; see `encrypt_bytes`."""
    return encrypt_bytes(text.encode())


def decrypt(token: str) -> str:
    """The text of a token made by `encrypt`; see `decrypt_bytes`."""
    return decrypt_bytes(token).decode()


def secret_hash(secret: str) -> str:
    """SHA-256 of a high-entropy secret, hexadecimal: for API keys, which need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]
    """Text that only the application can read: encrypted in the database, decrypted on load."""

    def from_db_value(self, value: str | None, *args: Any) -> str | None:
        return decrypt(value) if value else value

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return encrypt(value) if value else value
