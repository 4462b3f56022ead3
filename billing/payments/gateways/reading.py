"""Reading what gateways send: fields may be missing, null, of another type than documented, or made up by a stranger."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from .base import CURRENCY, Money, Rejection, WebhookRejected
from .exchange import read_json


def text(data: Any, *path: str) -> str:
    """The text, or the number as text, at `path`; empty for anything else, and for text that no database can store."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    if isinstance(data, bool) or not isinstance(data, str | int | Decimal):
        return ""
    return str(data) if _storable(str(data)) == str(data) else ""


def whole(data: Any, *path: str) -> int | None:
    """The integer at `path`."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, int) and not isinstance(data, bool) else None


def object_at(data: Any, *path: str) -> dict[str, Any]:
    """The object at `path`; an empty one for anything else."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, dict) else {}


def objects_at(data: Any, *path: str) -> list[dict[str, Any]]:
    """The objects of the list at `path`."""
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def flag(data: Any, key: str) -> bool | None:
    """A yes or no that may come as boolean, text or 0 and 1."""
    value = data.get(key) if isinstance(data, Mapping) else None
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())


def decimal_money(amount: str, currency: str) -> Money | None:
    """Money from an amount written in major units; None when either is no such thing."""
    try:
        return Money(Decimal(amount), currency.upper())
    except (InvalidOperation, ValueError):
        return None


def currency(data: Any, key: str) -> str | None:
    """The ISO code at `key`, in upper case; None for anything else."""
    code = text(data, key).upper()
    return code if CURRENCY.fullmatch(code) else None


def _storable(words: str) -> str:
    """`words` without null characters and half surrogates."""
    return words.replace("\0", "").encode("utf-8", "ignore").decode()


def storable(data: Any) -> Any:
    """`data` as JSON that a database can store: numbers as they are, fractions as text."""
    if isinstance(data, Mapping):
        return {_storable(str(key)): storable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [storable(value) for value in data]
    if isinstance(data, str):
        return _storable(data)
    return data if data is None or isinstance(data, bool | int) else str(data)


def webhook_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a webhook brought; raises WebhookRejected for anything else."""
    try:
        data = read_json(body)
    except ValueError:
        raise WebhookRejected(Rejection.BAD_BODY) from None
    if not isinstance(data, dict):
        raise WebhookRejected(Rejection.BAD_BODY)
    return data


def instant(data: Any, key: str) -> datetime | None:
    """The instant that stands at `key` as unix seconds."""
    seconds = whole(data, key)
    return datetime.fromtimestamp(seconds, UTC) if seconds and 0 < seconds < 1 << 40 else None
