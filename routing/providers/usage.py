"""Token counts as providers write them, and usage as clients read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routing.providers.base import Usage

_COST_KEYS = ("cost", "cost_details", "is_byok", "cost_in_usd_ticks")


def token_count(value: Any) -> int | None:
    """A token count; None for anything that is not a number of things."""
    if type(value) is int:
        return value if 0 <= value < 2**53 else None
    if isinstance(value, float) and 0 <= value < 2**53:
        return int(value)
    return None


def usage_to_openai(usage: Usage, raw: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What clients see: `raw` with the totals that are billed and without what the provider charges us."""
    body = {key: value for key, value in (raw or {}).items() if key not in _COST_KEYS}
    body["prompt_tokens"] = usage.input_total
    body["completion_tokens"] = usage.output_total
    body["total_tokens"] = usage.input_total + usage.output_total
    details = body.get("prompt_tokens_details")
    body["prompt_tokens_details"] = {
        **(details if isinstance(details, dict) else {}),
        "cached_tokens": usage.cache_read,
    }
    if usage.cache_write:
        body["prompt_tokens_details"]["cache_write_tokens"] = usage.cache_write
    details = body.get("completion_tokens_details")
    body["completion_tokens_details"] = {
        **(details if isinstance(details, dict) else {}),
        "reasoning_tokens": usage.reasoning,
    }
    return body
