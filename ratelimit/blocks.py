"""Addresses that get no answer but a refusal: the list in memory, how it is changed, and how a web process keeps it fresh."""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from iafactory.common import clock
from iafactory.common.client_address import Network, parse_address, scope_client_address, trusted_proxies
from iafactory.common.errors import ApiError

from .models import NetworkBlock

logger = logging.getLogger(__name__)

# Changes are announced; this only bounds how long a lost announcement can matter.
_RELOAD_SECONDS = 10.0
_RETRY_SECONDS = 1.0
# The bits that all IPv4 addresses written as IPv6 begin with: ::ffff:0:0/96.
_MAPPED_BITS = 96


def network_normalise(text: str) -> str:
    """The one spelling of an address or CIDR network, IPv4 inside IPv6 as IPv4. Raises ValueError, also for host bits."""
    network: Network = ipaddress.ip_network(text.strip())
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        network = ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_BITS))
    return str(network)


@dataclass(frozen=True, slots=True)
class BlockedNetwork:
    """A network that is kept out, why, and until when (None: until removed)."""

    network: str
    reason: str
    expires_at: datetime | None


class BlockList:
    """Networks to keep out, never changed once made. A look-up costs one dictionary access per prefix length in use."""

    __slots__ = ("_by_length",)

    def __init__(self, networks: Iterable[BlockedNetwork]) -> None:
        by_length: dict[tuple[int, int], dict[int, BlockedNetwork]] = {}
        for blocked in networks:
            network: Network = ipaddress.ip_network(network_normalise(blocked.network))
            shift = network.max_prefixlen - network.prefixlen
            by_length.setdefault((network.version, shift), {})[int(network.network_address) >> shift] = blocked
        self._by_length = tuple((version, shift, found) for (version, shift), found in by_length.items())

    def __bool__(self) -> bool:
        """Whether anything is on it."""
        return bool(self._by_length)

    def blocked(self, address: str, now: datetime) -> BlockedNetwork | None:
        """The network that keeps `address` out at `now`, None if none does. What is no address is never blocked."""
        parsed = parse_address(address)
        if parsed is None:
            return None
        bits = int(parsed)
        for version, shift, networks in self._by_length:
            found = networks.get(bits >> shift) if version == parsed.version else None
            if found is not None and (found.expires_at is None or found.expires_at > now):
                return found
        return None


def block_list_load() -> BlockList:
    """The list as the database has it; rows that expired stay in it and block nobody."""
    rows = NetworkBlock.objects.values_list("network", "reason", "expires_at")
    return BlockList(BlockedNetwork(*row) for row in rows)


def network_block(*, network: str, reason: str, expires_at: datetime | None = None, actor_label: str = "") -> NetworkBlock:
    """Keep a network out, everywhere, within a second of the commit. Again changes reason and expiry.

    Raises ValueError for what is no network. Writes no event: events lie above.
    """
    row, _ = NetworkBlock.objects.update_or_create(
        network=network_normalise(network),
        defaults={"reason": reason[:200], "expires_at": expires_at, "created_by": actor_label[:254]},
    )
    return row


def network_unblock(*, network: str) -> bool:
    """Let a network in again; False when it was not kept out. Raises ValueError for what is no network."""
    return NetworkBlock.objects.filter(network=network_normalise(network)).delete()[0] > 0


def _load() -> BlockList:
    close_old_connections()
    return block_list_load()


class BlockWatch:
    """One web process's copy of the list. `admit` asks it first of all, for every path."""

    def __init__(self) -> None:
        self._blocks = BlockList(())
        self._stale = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the list, then keep it fresh. Raises when it cannot be read, or when TRUSTED_PROXIES is wrong."""
        trusted_proxies()
        self._stale = asyncio.Event()
        self._blocks = await sync_to_async(_load)()
        self._task = asyncio.create_task(self._keep_fresh(), name="network-blocks")

    async def stop(self) -> None:
        """Stop; safe when it never started."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def changed(self) -> None:
        """The table changed, or may have: read it again. Call it inside the event loop."""
        self._stale.set()

    def admit(self, scope: Mapping[str, Any]) -> ApiError | None:
        """403 `address_blocked` for a client that is kept out, None for everybody else."""
        if not self._blocks:
            return None
        found = self._blocks.blocked(scope_client_address(scope), clock.now())
        if found is None:
            return None
        return ApiError(403, "address_blocked", "Requests from your address are not accepted.", final=True)

    async def _keep_fresh(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stale.wait(), _RELOAD_SECONDS)
            self._stale.clear()
            try:
                self._blocks = await sync_to_async(_load)()
            except Exception:
                logger.exception("the network blocks could not be read; the last list stays in use")
                self._stale.set()
                await asyncio.sleep(_RETRY_SECONDS)


block_watch = BlockWatch()
