"""Which adapter serves which wire protocol. Filled once at import by the adapters this package ships."""

from __future__ import annotations

from routing.providers.base import ChatAdapter
from routing.providers.media_base import MediaAdapter

_adapters: dict[str, ChatAdapter] = {}
_media_adapters: dict[tuple[str, str], MediaAdapter] = {}


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


def register_media(adapter: MediaAdapter) -> MediaAdapter:
    """Add an adapter under its protocol and mode. Raises ValueError if they already have one."""
    key = (adapter.protocol, str(adapter.mode))
    if key in _media_adapters:
        raise ValueError(f"protocol {adapter.protocol!r} already has an adapter for {adapter.mode}")
    _media_adapters[key] = adapter
    return adapter


def media_adapter_for(protocol: str, mode: str) -> MediaAdapter:
    """The adapter of a protocol for a mode other than chat. Raises LookupError if there is none."""
    try:
        return _media_adapters[protocol, mode]
    except KeyError:
        raise LookupError(f"no adapter serves {mode} over {protocol!r}") from None


def speaks(protocol: str, mode: str) -> bool:
    """Whether a protocol has an adapter for a mode, chat included."""
    return protocol in _adapters if mode == "chat" else (protocol, mode) in _media_adapters


def registered_protocols() -> tuple[str, ...]:
    """Protocols that have an adapter for chat, sorted."""
    return tuple(sorted(_adapters))


def registered_media() -> tuple[MediaAdapter, ...]:
    """All adapters for modes other than chat, sorted by protocol and mode."""
    return tuple(adapter for _, adapter in sorted(_media_adapters.items()))
