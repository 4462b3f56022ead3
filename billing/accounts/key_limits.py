"""What the limits and allow lists of an API key may be, and the one spelling in which each is kept."""

import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.urls import Resolver404, resolve

from iafactory.common.errors import ApiError
from iafactory.common.hot import HotView
from iafactory.common.texts import Text

from .models import ApiKey

# What may be narrowed on one key; empty gives the plan's limits, or everywhere and everything, back.
API_KEY_LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_calls",
    "daily_credits",
    "monthly_credits",
    "allowed_networks",
    "allowed_models",
    "allowed_endpoints",
    "allowed_origins",
)
# Lists are read at every call of the key.
API_KEY_LIST_MAX = 100
# The counters hold integers of micro-credits up to 2^53 - 1.
KEY_CREDITS_MAX = Decimal("999999999.999999")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)


def field_typed(row: Any, name: str, value: Any) -> Any:
    """`value` as the field has it after a read, so that 10 and Decimal("10.000000") compare as equal."""
    try:
        return row._meta.get_field(name).to_python(value)
    except ValidationError as error:
        raise _wrong_value(name, error.messages[0]) from None


def key_value_checked(key: ApiKey, name: str, value: Any) -> Any:
    """`value` as the field `name` of `key` keeps it, lists without repetitions.

    Raises ApiError 400 `invalid_request` (param) for one that it does not take.
    """
    value = field_typed(key, name, value)
    if isinstance(value, list):
        if len(value) > API_KEY_LIST_MAX:
            raise _wrong_value(name, Text("At most %(limit)s entry.", "At most %(limit)s entries.", limit=API_KEY_LIST_MAX))
        value = list(dict.fromkeys(_entry_checked(name, text) for text in value))
    elif isinstance(value, str) and "\0" in value:
        raise _wrong_value(name, Text("Null characters are not allowed."))
    try:
        value = key._meta.get_field(name).clean(value, key)  # type: ignore[union-attr]
    except ValidationError as error:
        raise _wrong_value(name, error.messages[0]) from None
    if isinstance(value, Decimal) and not 0 <= value <= KEY_CREDITS_MAX:
        raise _wrong_value(name, Text("From 0 to %(highest)s credits.", highest=KEY_CREDITS_MAX))
    return value


def _entry_checked(name: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise _wrong_value(name, Text("Each entry is a text, not empty and without null characters."))
    return _ENTRIES[name](text.strip())


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise _wrong_value("allowed_networks", Text("%(text)s is not a network.", text=text)) from None
    # The addresses that calls come from have no zone: such a network would match none.
    if "%" in text:
        raise _wrong_value("allowed_networks", Text("%(text)s is not a network.", text=text))
    return text


def _endpoint(path: str) -> str:
    """Keys are checked on the gateway's paths alone: another one would forbid everything."""
    try:
        view = getattr(resolve(path).func, "view_class", None)
    except Resolver404:
        view = None
    if not path.startswith(("/v1/", "/api/")) or view is None or not issubclass(view, HotView):
        raise _wrong_value(
            "allowed_endpoints", Text("%(path)s is not an address of the gateway, such as /v1/chat/completions.", path=path)
        )
    return path


def _origin(text: str) -> str:
    """As browsers send it: in lower case, without the scheme's own port."""
    found = _ORIGIN.fullmatch(text.lower())
    if not text.isascii() or found is None or not (found["port"] is None or 1 <= int(found["port"]) <= 65535):
        raise _wrong_value(
            "allowed_origins",
            Text("%(text)s is not an origin, such as https://app.example or http://localhost:3000.", text=text),
        )
    host, port = found["host"], found["port"]
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise _wrong_value(
                "allowed_origins", Text("%(text)s is not an origin: %(host)s is not an address.", text=text, host=host)
            ) from None
    port = None if port is None else str(int(port))
    return f"{found['scheme']}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(found["scheme"]) else "")


_ENTRIES: dict[str, Callable[[str], str]] = {
    "allowed_networks": _network,
    "allowed_models": str,
    "allowed_endpoints": _endpoint,
    "allowed_origins": _origin,
}


def _wrong_value(name: str, message: str | Text) -> ApiError:
    return ApiError(400, "invalid_request", message, param=name)
