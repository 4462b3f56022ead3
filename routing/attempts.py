"""The attempts of one call: who may be asked now, with which credential and on which place, and what became of it.

Without I/O for a route that is well and has no caps. Probes and places are counted over all processes (`health`).
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.hot import Exchange

from .choice import Candidate
from .health.board import Attempt
from .health.capacity import CapacityTimeout, Full, Place, caps_of
from .providers.base import ProviderError
from .snapshot import Credential, Route

if TYPE_CHECKING:
    from .gateway import Gateway

# A probe that hears nothing for so long has its answer: its client need not wait as long as others do.
PROBE_FIRST_BYTE_SECONDS = 15


class Attempts:
    """See the module. `tried` says of each route that did not serve the call why; `last` is the candidate asked last."""

    def __init__(self, gateway: "Gateway", call_id: str, *, priority: int) -> None:
        self._gateway = gateway
        self._member = call_id
        self._priority = priority
        self._made = 0
        self._attempt: Attempt | None = None
        self._place: Place | None = None
        self._credential: Credential | None = None
        self.last: Candidate | None = None
        self.tried: dict[str, str] = {}

    # -- before the call ---------------------------------------------------------------------------------------------

    async def take_place(
        self, candidates: tuple[Candidate, ...], *, exchange: Exchange, wait_seconds: float
    ) -> tuple[Candidate, ...]:
        """The candidates with the first that has free capacity in front; its place is taken.

        Where none has any, waits for one, higher priorities first, and no longer than `wait_seconds`. Raises `ApiError` 503
        `provider_busy` when that was in vain, and 400 `client_gone` when the client hung up meanwhile.
        """
        if not caps_of(candidates[0].route):
            return candidates
        capacity = self._gateway.capacity
        for candidate in candidates:
            if await self._take(candidate.route):
                return _in_front(candidates, candidate.route.slug)

        def when_gone(leave: Callable[[], None] | None) -> None:
            exchange.when_gone(leave)
            if leave is not None and exchange.gone:
                leave()

        try:
            place = await capacity.wait(
                [candidate.route for candidate in candidates],
                self._member,
                priority=self._priority,
                wait_seconds=wait_seconds,
                when_gone=when_gone,
            )
        except CapacityTimeout as timeout:
            raise ApiError(
                503,
                "provider_busy",
                "The providers of this model are busy.",
                retry_after_seconds=timeout.wait_seconds,
            ) from None
        if place is None:
            raise ApiError(400, "client_gone", "The client hung up while its call waited.")
        self._place = place
        self.tried.pop(place.route, None)
        return _in_front(candidates, place.route)

    # -- the call ----------------------------------------------------------------------------------------------------

    async def begin(self, candidate: Candidate) -> bool:
        """Whether `candidate` may be asked now; the attempt has begun then. Else `tried` says why not."""
        route, gateway = candidate.route, self._gateway
        self._leave()
        credential = self._usable_credential(route)
        if credential is None:
            self.tried.setdefault(route.slug, "its credentials rest")
            return False
        now = time.monotonic()
        if not self._made:
            gateway.retries.count_call(now)
        elif not gateway.retries.allow_retry(now):
            self.tried.setdefault(route.slug, "too many retries at the moment")
            return False
        if caps_of(route) and (self._place is None or self._place.route != route.slug) and not await self._take(route):
            return False
        probe = False
        state = gateway.health.states.get(route.slug)
        if state is not None and state.opened:
            allowed, probe = await gateway.health.admit(route.slug)
            if not allowed:
                self.tried.setdefault(route.slug, "breaker open")
                return False
        self._made += 1
        self._credential = credential
        self._attempt = gateway.health.begin(route.slug, credential.id, typical_ms=route.typical_latency_ms, probe=probe)
        self.last = candidate
        return True

    def secret(self, route: Route) -> str:
        """The secret to call `route` with: the attempt's, outside of attempts the first usable one."""
        if self._attempt is not None and self._attempt.route == route.slug and self._credential is not None:
            return self._credential.secret
        return (self._usable_credential(route) or route.credentials[0]).secret

    def first_byte_seconds(self, route: Route) -> int:
        """How long to wait for the first byte of `route`'s answer."""
        longest = route.first_byte_timeout_seconds
        return min(longest, PROBE_FIRST_BYTE_SECONDS) if self._attempt is not None and self._attempt.probe else longest

    def note_headers(self, headers: Mapping[str, str]) -> None:
        """What the present attempt's answer says of the provider's limits."""
        if self._attempt is not None:
            self._gateway.health.note_headers(self._attempt.route, headers)

    def answered(self) -> None:
        """The first byte of the answer is here."""
        if self._attempt is not None:
            self._attempt.answered()

    def failed(self, error: ProviderError) -> None:
        """The attempt failed."""
        attempt = self._attempt
        if attempt is not None:
            attempt.failed(error)
            self.tried[attempt.route] = f"failed: {error.failure}"

    def timed_out(self) -> None:
        """The call's deadline passed."""
        if self._attempt is not None:
            self._attempt.timed_out()
            self.tried.setdefault(self._attempt.route, "failed: timeout")

    @property
    def of_credential(self) -> bool:
        """Whether the attempt failed for its credential's sake: its provider may do better with another one."""
        return self._attempt is not None and self._attempt.of_credential

    async def end(self, *, unused: bool = False) -> None:
        """The call is over; `unused` when nobody was asked, so that its place does not count at all."""
        self._leave()
        await self._give_place(unused=unused)

    # -- places ------------------------------------------------------------------------------------------------------

    async def _take(self, route: Route) -> bool:
        """A place on `route` without waiting; a place held elsewhere is given back."""
        await self._give_place(unused=False)
        answer = await self._gateway.capacity.take(route, self._member, priority=self._priority)
        if isinstance(answer, Full):
            self.tried.setdefault(route.slug, f"full: {answer.cap}")
            return False
        self._place = answer
        return True

    async def _give_place(self, *, unused: bool) -> None:
        place, self._place = self._place, None
        if place is not None:
            await (self._gateway.capacity.undo(place) if unused else self._gateway.capacity.give(place))

    def _leave(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.left()

    def _usable_credential(self, route: Route) -> Credential | None:
        health = self._gateway.health
        now_ms = clock.now_ms()
        for credential in route.credentials:
            if health.usable(credential.id, route.slug, now_ms):
                return credential
        return None


def _in_front(candidates: tuple[Candidate, ...], route: str) -> tuple[Candidate, ...]:
    if candidates[0].route.slug == route:
        return candidates
    return tuple(sorted(candidates, key=lambda candidate: candidate.route.slug != route))
