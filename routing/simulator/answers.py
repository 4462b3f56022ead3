"""What the simulator says, in no dialect: texts of a settled length, plausible tool arguments, token counts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

BYTES_PER_TOKEN = 4
_QUOTED_CHARACTERS = 40
_FILLER = " The rest of this text only fills the length that was asked for."
_EXAMPLES: Mapping[str, Any] = {"string": "example", "integer": 1, "number": 1.5, "boolean": True, "null": None}

_counter = itertools.count(1)
_start = f"{time.time_ns():x}"


def unique_id() -> str:
    """Unique among all answers, those of earlier runs included."""
    return f"sim{_start}{next(_counter):08x}"


def token_count(text_bytes: int, messages: int) -> int:
    """Input tokens: four bytes each, rounded up, and three per message."""
    return -(-text_bytes // BYTES_PER_TOKEN) + 3 * messages


def answer_text(provider: str, question: str, tokens: int) -> str:
    """A text of at most, and nearly, four bytes per token that says where it comes from and quotes the question."""
    quoted = " ".join(question.split())[:_QUOTED_CHARACTERS]
    text = f"IA Factory's simulator answers for {provider}."
    if quoted:
        text += f" You asked: {quoted}"
    size = tokens * BYTES_PER_TOKEN
    raw = text.encode("utf-8", "replace")
    if len(raw) < size:
        filler = _FILLER.encode()
        raw += filler * ((size - len(raw)) // len(filler) + 1)
    return raw[:size].decode("utf-8", "ignore")


def split_text(text: str, pieces: int) -> list[str]:
    """The text in that many pieces, fewer if it has fewer characters."""
    pieces = max(1, min(pieces, len(text)))
    size, longer = divmod(len(text), pieces)
    bounds = list(itertools.accumulate([size + 1] * longer + [size] * (pieces - longer), initial=0))
    return [text[start:stop] for start, stop in itertools.pairwise(bounds)]


def example_of(schema: Any, depth: int = 0) -> Any:
    """A value that fits a JSON schema in the ordinary cases: const, default, enum, alternatives, type, properties."""
    if not isinstance(schema, dict) or depth > 8:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return example_of(schema[key][0], depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        return {name: example_of(inner, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        return [example_of(schema.get("items"), depth + 1)] if "items" in schema else []
    if kind in ("integer", "number") and isinstance(schema.get("minimum"), int | float):
        return schema["minimum"]
    return _EXAMPLES.get(kind, "example") if isinstance(kind, str) else "example"
