"""Where and for what an API key works: one rule for the gateway and for every other API."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from iafactory.common.errors import ApiError

# Stands for an entry that does not parse: it lets nobody in.
_NOBODY = IPv4Network("0.0.0.0/32")


@dataclass(frozen=True, slots=True)
class AllowLists:
    """A key's allow lists, parsed. Empty lists allow everything."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    endpoints: frozenset[str]
    origins: frozenset[str]

    def refusal(self, *, address: str, endpoint: str, origin: str) -> ApiError | None:
        """Why the key may not be used from there for that: 403 `endpoint_not_allowed`, `network_not_allowed` or
        `origin_not_allowed`; None when it may."""
        if self.endpoints and endpoint not in self.endpoints:
            return ApiError(403, "endpoint_not_allowed", "This API key may not be used for this address.")
        if self.networks and not self._address_allowed(address):
            return ApiError(403, "network_not_allowed", "This API key may not be used from your network.")
        if self.origins and origin not in self.origins:
            return ApiError(403, "origin_not_allowed", "This API key may not be used from this origin.")
        return None

    def _address_allowed(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.networks)


def allow_lists(networks: Sequence[str], endpoints: Sequence[str], origins: Sequence[str]) -> AllowLists:
    """The lists of an `ApiKey` row, parsed."""
    return AllowLists(tuple(_network(text) for text in networks), frozenset(endpoints), frozenset(origins))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return _NOBODY
