"""Who is on the other end: the client's address, seen through the proxies we trust and through no others."""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The entry of TRUSTED_PROXIES for a proxy that reaches us over a UNIX socket, and so has no address.
UNIX_SOCKET = "unix"


# Anybody may write headers: longer texts are never kept, so that what is remembered stays small.
_LONGEST_ADDRESS = 100
_LONGEST_REMEMBERED = 250


def parse_address(text: str) -> Address | None:
    """The address in `text`, which may carry a port, brackets or a zone; an IPv4 address inside IPv6 is IPv4. None: no address.

    Takes every form that proxies write into X-Forwarded-For.
    """
    text = text.strip()
    return _parsed(text) if len(text) <= _LONGEST_ADDRESS else None


@lru_cache(maxsize=65_536)
def _parsed(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=8)
def _proxies(entries: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(entry.strip()) for entry in entries if entry.strip() != UNIX_SOCKET)
    except ValueError as error:
        raise ImproperlyConfigured(f"TRUSTED_PROXIES holds CIDR networks: {error}") from None


def trusted_proxies() -> tuple[Network, ...]:
    """The networks of `TRUSTED_PROXIES`; raises ImproperlyConfigured for an entry that is none."""
    return _proxies(tuple(settings.TRUSTED_PROXIES))


def client_address(peer: str, forwarded_for: str) -> str:
    """The client's address, in its shortest spelling; empty when nobody trustworthy names one.

    `forwarded_for` is X-Forwarded-For, repeated headers joined by commas. Anybody may write it: it is read from its right
    end, and only as long as the hop that wrote the entry is one of `TRUSTED_PROXIES`.
    """
    trusted = tuple(settings.TRUSTED_PROXIES)
    if not trusted:
        # Nobody whose word would count.
        forwarded_for = ""
    if len(forwarded_for) > _LONGEST_REMEMBERED:
        return _seen_through(peer, forwarded_for, trusted)
    return _remembered(peer, forwarded_for, trusted)


def _seen_through(peer: str, forwarded_for: str, trusted: tuple[str, ...]) -> str:
    proxies = _proxies(trusted)
    address = parse_address(peer)
    if address is None:
        if peer or UNIX_SOCKET not in trusted:
            return ""
    elif not _trusted(address, proxies):
        return str(address)
    for hop in reversed(forwarded_for.split(",")) if forwarded_for else ():
        before = parse_address(hop)
        if before is None:
            break
        address = before
        if not _trusted(address, proxies):
            break
    return "" if address is None else str(address)


_remembered = lru_cache(maxsize=16_384)(_seen_through)


def _trusted(address: Address, proxies: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in proxies)


def scope_client_address(scope: Mapping[str, Any]) -> str:
    """`client_address` of an ASGI scope."""
    client = scope.get("client")
    peer: str = client[0] if client else ""
    if not settings.TRUSTED_PROXIES:
        return client_address(peer, "")
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    return client_address(peer, forwarded.decode("latin-1"))


def request_client_address(meta: Mapping[str, Any]) -> str:
    """`client_address` of a Django request's META."""
    return client_address(meta.get("REMOTE_ADDR") or "", meta.get("HTTP_X_FORWARDED_FOR") or "")


def address_network(address: str, *, v4_bits: int = 32, v6_bits: int = 64) -> str:
    """The network of that size around `address`: a whole IPv4 address as itself, an IPv6 house as its /64 by default.

    Empty for what is no address.
    """
    parsed = parse_address(address)
    if parsed is None:
        return ""
    bits = v4_bits if parsed.version == 4 else v6_bits
    return str(parsed) if bits == parsed.max_prefixlen else str(ipaddress.ip_network((parsed, bits), strict=False))
