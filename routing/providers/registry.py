"""Which adapter serves which wire protocol. Filled once at import by the adapters this package ships."""

from __future__ import annotations

from routing.providers.base import ChatAdapter

_adapters: dict[str, ChatAdapter] = {}


def register(adapter: ChatAdapter) -> ChatAdapter:
    """Add an adapter under its `protocol`. Raises ValueError if the protocol already has one."""
    if adapter.protocol in _adapters:
        raise ValueError(f"protocol {adapter.protocol!r} already has an adapter")
    _adapters[adapter.protocol] = adapter
    return adapter


def adapter_for(protocol: str) -> ChatAdapter:
    """The adapter of a protocol. Raises LookupError naming the known ones if there is none."""
    try:
        return _adapters[protocol]
    except KeyError:
        known = ", ".join(registered_protocols()) or "none"
        raise LookupError(f"no adapter speaks {protocol!r} (known: {known})") from None


def registered_protocols() -> tuple[str, ...]:
    """Protocols that have an adapter, sorted."""
    return tuple(sorted(_adapters))
