"""Where we may connect to on a customer's word: public addresses only, and exactly those that were checked.

A name is resolved once per attempt and the connection goes to what that answer held, so that a second answer (DNS rebinding)
is never asked for.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from iafactory.common.errors import ApiError
from iafactory.common.public_addresses import Address, address_allowed
from iafactory.common.texts import Text

Lookup = Callable[[str, int], Sequence[str]]

# As many as messages under way: a name server that never answers holds up its own endpoint only.
_LOOKUPS = ThreadPoolExecutor(100, thread_name_prefix="webhook-lookup")
_LOCAL_TOPS = ("localhost", "local", "internal", "arpa")
_LOOPBACK = ipaddress.IPv4Address("127.0.0.1")


class AddressForbidden(OSError):
    """The name leads to an address we do not connect to."""


def url_checked(text: str, *, loopback: bool) -> str:
    """`text` as the one spelling that is stored and called. `loopback` allows `http://127.0.0.1` (never in production).

    Refuses with ApiError 400 `invalid_request` (param `url`): other schemes than https, user and password, fragments, ports
    below 1024 other than 443, literal addresses that are not public, and names only a local network can know.
    """
    if len(text) > 2000 or not text.isascii() or any(ord(character) <= 32 or character == "\\" for character in text):
        raise _refused(Text("An address is at most 2,000 ASCII characters without spaces; write international names as xn--…."))
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError:
        raise _refused(Text("This is not an address.")) from None
    if not host or url.scheme not in ("https", "http"):
        raise _refused(Text("The address begins with https:// and names a host."))
    if url.user is not None or url.password is not None or url.raw_fragment:
        raise _refused(Text("The address has neither user, password nor fragment."))
    literal = _literal(host)
    if loopback and literal == _LOOPBACK:
        return str(url)
    if url.scheme != "https":
        raise _refused(Text("The address begins with https://."))
    if port is None or (port != 443 and not 1024 <= port <= 65535):
        raise _refused(Text("The port is 443 or above 1023."))
    if literal is None:
        name, _, top = host.rstrip(".").lower().rpartition(".")
        # What ends in a number is another spelling of an IPv4 address.
        if not name or not top[:1].isalpha() or top in _LOCAL_TOPS:
            raise _refused(Text("The host is not one of the public internet."))
    elif not address_allowed(literal):
        raise _refused(Text("The host is not one of the public internet."))
    return str(url)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _refused(message: Text) -> ApiError:
    return ApiError(400, "invalid_request", message, param="url")


def address_check(text: str, *, loopback: bool = False) -> Address:
    """An address that may be connected to; raises `AddressForbidden` for any other, and for what is none."""
    address = _literal(text)
    if address is None or not (address_allowed(address) or (loopback and address == _LOOPBACK)):
        raise AddressForbidden(f"{text} is not public")
    return address


def system_lookup(host: str, port: int) -> list[str]:
    """Every address of a name; OSError when it has none."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class CheckedResolver(AbstractResolver):
    """Resolves a name afresh and answers its addresses, all of them public; raises `AddressForbidden` if one is not."""

    def __init__(self, *, loopback: bool = False, lookup: Lookup = system_lookup) -> None:
        self._loopback = loopback
        self._lookup = lookup

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        addresses = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, self._lookup, host, port)
        results: list[ResolveResult] = []
        for text in addresses:
            address = address_check(text, loopback=self._loopback)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address),
                    port=port,
                    family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                    proto=socket.IPPROTO_TCP,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        if not results:
            raise OSError(f"{host} has no address")
        return results

    async def close(self) -> None:
        return None


def connector(*, loopback: bool, lookup: Lookup = system_lookup, limit: int = 100, ssl: Any = True) -> aiohttp.TCPConnector:
    """Connections to checked addresses only; none is kept. The socket itself checks once more what it is about to reach,
    literal addresses included, which are never resolved."""

    def checked_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, destination = info
        address_check(str(destination[0]), loopback=loopback)
        return socket.socket(family=family, type=kind, proto=protocol)

    return aiohttp.TCPConnector(
        resolver=CheckedResolver(loopback=loopback, lookup=lookup),
        use_dns_cache=False,
        force_close=True,
        limit=limit,
        ssl=ssl,
        socket_factory=checked_socket,
    )
