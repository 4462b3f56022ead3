"""A request as its client said it in a provider's own dialect, carried along with its translation.

A translation into OpenAI's dialect loses what only the original can say: signed thoughts, cache marks, typed tools. An adapter
that speaks the client's protocol takes the original, every other one the translation. It travels in the request under a key of
ours, as an instance of a class: no body that a client sends can hold one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NATIVE = "x-iaf-native"


@dataclass(frozen=True, slots=True)
class NativeRequest:
    """`fields` of a request in the dialect of `protocol`, without model, stream and output limit, which are ours to set.

    `only` names fields (as the client spells them) that nobody else can express. `betas` are the protocol's own features the
    client switched on.
    """

    protocol: str
    fields: Mapping[str, Any]
    only: tuple[str, ...] = ()
    betas: tuple[str, ...] = field(default=())


def native_of(request: Mapping[str, Any], protocol: str) -> NativeRequest | None:
    """The original, if the client speaks `protocol`."""
    native = request.get(NATIVE)
    return native if isinstance(native, NativeRequest) and native.protocol == protocol else None


def lost_in_translation(request: Mapping[str, Any]) -> list[str]:
    """What the client asked for that its translation does not say."""
    native = request.get(NATIVE)
    return list(native.only) if isinstance(native, NativeRequest) else []
