"""Which fields of an OpenAI request change what the client gets, and which are hints an adapter may drop.

A field changes the meaning if a client that set it would be misled by an answer made without it: more choices, log
probabilities, forced or forbidden tokens, a promised format, other inputs or outputs than text. Hints steer style, speed or
bookkeeping (`temperature`, `top_p`, `seed`, both penalties, `reasoning_effort`, `verbosity`, `prediction`, `user`, `store`,
`metadata`, `prompt_cache_key`): an answer made without them is still an answer to the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from routing.providers.base import FailureClass, ProviderError


def _above(limit: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value > limit


_ASKS: Mapping[str, Callable[[Any], bool]] = {
    "n": _above(1),
    "logprobs": lambda value: value is True,
    "top_logprobs": _above(0),
    "logit_bias": bool,
    "stop": bool,
    "response_format": lambda value: isinstance(value, Mapping) and value.get("type", "text") != "text",
    "tools": bool,
    "tool_choice": lambda value: value not in (None, "auto", "none"),
    "parallel_tool_calls": lambda value: value is False,
    "functions": bool,
    "modalities": lambda value: value not in (None, [], ["text"]),
    "audio": lambda value: value is not None,
    "web_search_options": lambda value: value is not None,
}


# Hints worth telling a client about when a target does not take them; the rest is bookkeeping.
HINTS = (
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "reasoning_effort",
    "verbosity",
)
_HINTS = frozenset(HINTS)


def hints_of(request: Mapping[str, Any]) -> list[str]:
    """The hints a client gave, in a fixed order."""
    if _HINTS.isdisjoint(request):
        return []
    return [name for name in HINTS if request.get(name) is not None]


def meaning_changing(request: Mapping[str, Any]) -> list[str]:
    """The fields of `request` that change the meaning and are set to something else than their default, in a fixed order."""
    return [name for name, asks in _ASKS.items() if name in request and asks(request[name])]


def content_part_types(request: Mapping[str, Any]) -> set[str]:
    """The types of all content parts in the messages; plain text has none."""
    types: set[str] = set()
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list):
            types.update(str(part.get("type")) for part in content if isinstance(part, Mapping))
    return types


def unsupported(field: str, message: str) -> ProviderError:
    """The refusal, before anything is sent, of a request that this protocol cannot say."""
    return ProviderError(FailureClass.BAD_REQUEST, message, code="unsupported_parameter", param=field)
