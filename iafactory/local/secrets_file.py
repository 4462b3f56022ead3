"""Secrets of a local installation: made once, kept in VAR/secrets.env (mode 0600), the same ever after."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet

GENERATORS: dict[str, Callable[[], str]] = {
    "SECRET_KEY": lambda: secrets.token_urlsafe(50),
    "FIELD_ENCRYPTION_KEYS": lambda: Fernet.generate_key().decode(),
    "JWT_SIGNING_KEY": lambda: secrets.token_urlsafe(48),
    "DEMO_ADMIN_PASSWORD": lambda: secrets.token_urlsafe(15),
}


def local_secrets(var: Path) -> dict[str, str]:
    """The secrets of `var`, with the missing ones made and saved."""
    path = var / "secrets.env"
    known = _read(path)
    missing = {name: generate() for name, generate in GENERATORS.items() if not known.get(name)}
    if missing:
        local_secrets_save(var, missing)
    return known | missing


def local_secrets_save(var: Path, changes: dict[str, str]) -> None:
    """Adds or replaces secrets of `var`; the file is replaced as a whole, a crash leaves the old one or the new one."""
    path = var / "secrets.env"
    text = "".join(f"{name}={value}\n" for name, value in (_read(path) | changes).items())
    write_private(path, text)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only we can read (mode 0600), atomically and durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
