"""What the API's description leaves out, and what it calls an operation that has no name."""

import re
from typing import Any

# What a heading has room for; a longer first sentence stays text.
_HEADING = 110


def doc_excludes() -> list[type]:
    """Base classes that speak to programmers: a view without a docstring must not show theirs to the API's readers."""
    # The settings name this function, and these modules read the settings.
    from drf_spectacular.plumbing import get_lib_doc_excludes

    from .hot import HotView

    return [*get_lib_doc_excludes(), HotView]


def summaries_fill(result: dict[str, Any], **_context: Any) -> dict[str, Any]:
    """Operations without a summary are called by the first sentence of their description: readers see no operation ids."""
    for methods in result["paths"].values():
        for operation in methods.values():
            words = re.split(r"(?<=[.:;])\s|:\s", " ".join(operation.get("description", "").split()))[0].rstrip(".:;")
            if words and len(words) <= _HEADING:
                operation.setdefault("summary", words)
    return result
