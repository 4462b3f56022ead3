"""Reading a client's body field by field: each reader answers a checked value or refuses with a 400 that names the field."""

from collections.abc import Mapping
from typing import Any

import msgspec

from iafactory.common.errors import ApiError

# Deeper than any schema people write, and shallow enough for everything that walks it.
DEEPEST_SCHEMA = 64
_FRAMES_LEFT = 100

_encode = msgspec.json.Encoder().encode


def wrong(param: str, message: str) -> ApiError:
    """The refusal of a field that is missing or of a wrong kind."""
    return ApiError(400, "invalid_request", message, param=param)


def not_offered(param: str, message: str) -> ApiError:
    """The refusal of a field that makes sense, but not here."""
    return ApiError(400, "unsupported_parameter", message, param=param)


def text_of(body: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be a string."""
    value = body.get(name)
    if not isinstance(value, str):
        raise wrong(where, f"`{where}` must be a string.")
    return value


def optional_text(body: Mapping[str, Any], name: str, where: str) -> str | None:
    """A field that must be a string if it is there."""
    return None if body.get(name) is None else text_of(body, name, where)


def object_of(value: Any, where: str) -> dict[str, Any]:
    """A value that must be an object."""
    if not isinstance(value, dict):
        raise wrong(where, f"`{where}` must be an object.")
    return value


def list_of(value: Any, where: str) -> list[Any]:
    """A value that must be a list."""
    if not isinstance(value, list):
        raise wrong(where, f"`{where}` must be a list.")
    return value


def optional_object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that must be an object if it is there; empty when it is not."""
    return {} if body.get(name) is None else object_of(body[name], name)


def optional_number(body: Mapping[str, Any], name: str, low: float, high: float) -> int | float | None:
    """A field that must be a number between two others if it is there."""
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high):
        raise wrong(name, f"`{name}` must be a number between {low:g} and {high:g}.")
    return value


def optional_bool(body: Mapping[str, Any], name: str, where: str) -> bool | None:
    """A field that must be true or false if it is there."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(where, f"`{where}` must be true or false.")
    return value


def schema_of(value: Any, where: str) -> dict[str, Any]:
    """A JSON schema: an object that is not nested beyond reason."""
    schema = object_of(value, where)
    level: list[Any] = [schema]
    for _ in range(DEEPEST_SCHEMA):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return schema
    raise wrong(where, f"`{where}` is nested too deeply.")


def closed_everywhere(schema: Any) -> bool:
    """Whether a schema names all fields of every object and demands them, as OpenAI's strict mode wants it."""
    if isinstance(schema, list):
        return all(closed_everywhere(inner) for inner in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or properties is not None:
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(properties, dict):
            return False
        if not isinstance(required, list) or set(properties) != {name for name in required if isinstance(name, str)}:
            return False
    return all(closed_everywhere(inner) for inner in schema.values())


def written_bytes(value: Any, further_frames: int = _FRAMES_LEFT) -> int:
    """Bytes of JSON. Measured deep in the stack, so that what could be read can be written wherever the call gets to.

    Raises `ApiError` 400 for what is nested beyond that.
    """
    if further_frames:
        return written_bytes(value, further_frames - 1)
    try:
        return len(_encode(value))
    except RecursionError:
        raise ApiError(400, "invalid_request", "The body is nested too deeply.") from None
