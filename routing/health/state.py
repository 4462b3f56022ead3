"""What is known of one route, and its circuit breaker: pure rules without I/O, the time is always a parameter.

    closed     serves calls; opens after `FAILURES_IN_A_ROW`, or when `ERROR_SHARE` of `FEWEST_CALLS` recent calls failed
    open       serves nobody until its pause is over; each opening in a row makes the pause longer
    half open  its pause is over: `PROBES_AT_ONCE` calls may try; `PROBES_TO_CLOSE` answers close it, a failure opens it anew

Only the provider's failures count: a wrong or refused request says nothing about it, a rate limit makes its credential rest.
"""

from enum import StrEnum
from math import exp
from typing import NamedTuple

import msgspec

FAILURES_IN_A_ROW = 5
ERROR_SHARE = 0.5
FEWEST_CALLS = 20
FIRST_PAUSE_MS = 3_000
PAUSE_GROWTH = 1.5
LONGEST_PAUSE_MS = 60_000
PROBES_AT_ONCE = 2
PROBES_TO_CLOSE = 2
# A probe that has not been heard of for so long does not count any more.
PROBE_LEASE_MS = 30_000
# What was seen loses its weight with these time constants.
ERRORS_DECAY_MS = 30_000
LATENCY_DECAY_MS = 120_000
# Weight of the latency a route starts from, in answers.
PRIOR_ANSWERS = 0.5
DEFAULT_REST_MS = 5_000
LONGEST_REST_MS = 3_600_000


class Standing(StrEnum):
    """Whether a route's breaker lets calls through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Kind(StrEnum):
    """What was seen of a route."""

    ANSWERED = "answered"
    """It began to answer, or its check did."""
    FAILED = "failed"
    """It failed before it answered."""
    BROKE = "broke"
    """A stream that had begun broke off."""
    UNCLEAR = "unclear"
    """The end of a call that says nothing about the route: its client left, or the request was wrong."""
    CHECKED = "checked"
    """It answered a check: as good as a probe."""
    REACHABLE = "reachable"
    """It lists its models: worth trying, though no proof that it answers."""
    LIMITED = "limited"
    """It wants `credential` to rest until `until_ms`."""
    HEADROOM = "headroom"
    """It says how much of its limits is left (`share`), which holds until `until_ms`."""
    OPENED = "opened"
    """An operator opened the breaker: it stays open until an operator closes it."""
    CLOSED = "closed"
    """An operator closed the breaker."""


class Seen(NamedTuple):
    """One observation of a route at `at_ms` (epoch milliseconds)."""

    kind: Kind
    at_ms: int
    latency_ms: float | None = None
    probe: bool = False
    detail: str = ""
    until_ms: int = 0
    credential: str = ""
    share: float = 1.0


class RouteHealth(msgspec.Struct, array_like=True):
    """All that is known of one route. Changed by `apply` alone, so that any order of processes ends at one state."""

    opened: bool = False
    by_operator: bool = False
    reason: str = ""
    changed_at_ms: int = 0
    retry_at_ms: int = 0
    openings: int = 0
    failures_in_a_row: int = 0
    probes_answered: int = 0
    # When the leases of the probes under way run out.
    probes: list[int] = msgspec.field(default_factory=list)
    calls: float = 0.0
    failures: float = 0.0
    errors_at_ms: int = 0
    latency_sum: float = 0.0
    latency_weight: float = 0.0
    latency_at_ms: int = 0
    answered_at_ms: int = 0
    failed_at_ms: int = 0
    last_failure: str = ""
    # Credential to the instant it may be used again.
    resting: dict[str, int] = msgspec.field(default_factory=dict)
    share: float = 1.0
    share_until_ms: int = 0

    # -- reading -----------------------------------------------------------------------------------------------------

    def standing(self, now_ms: int) -> Standing:
        """Whether calls may pass at `now_ms`."""
        if not self.opened:
            return Standing.CLOSED
        if self.by_operator or now_ms < self.retry_at_ms:
            return Standing.OPEN
        return Standing.HALF_OPEN

    def has_room_for_probe(self, now_ms: int) -> bool:
        """Whether one more call may try a half-open route."""
        return sum(1 for until_ms in self.probes if until_ms > now_ms) < PROBES_AT_ONCE

    def latency_ms(self, typical_ms: float, now_ms: int) -> float:
        """Time to the first byte: what was measured lately, leaning on `typical_ms` while little was."""
        weight = self.latency_weight * _decay(now_ms - self.latency_at_ms, LATENCY_DECAY_MS)
        if weight <= 0:
            return typical_ms
        measured = self.latency_sum / self.latency_weight
        return (measured * weight + typical_ms * PRIOR_ANSWERS) / (weight + PRIOR_ANSWERS)

    def error_share(self, now_ms: int) -> float:
        """Share of recent calls that failed, 0 when there were hardly any."""
        calls = self.calls * _decay(now_ms - self.errors_at_ms, ERRORS_DECAY_MS)
        return min(1.0, self.failures / self.calls) if calls >= 0.5 else 0.0

    def free_share(self, now_ms: int) -> float:
        """How much of the provider's limits is left, 0 to 1, by its own word; 1 when nothing recent is known."""
        return self.share if now_ms < self.share_until_ms else 1.0

    def rests_until(self, credential: str, now_ms: int) -> int:
        """The instant until which `credential` has to rest here, 0 when it need not."""
        until_ms = self.resting.get(credential, 0)
        return until_ms if until_ms > now_ms else 0

    # -- seeing ------------------------------------------------------------------------------------------------------

    def admit_probe(self, now_ms: int) -> bool:
        """Take a probe's lease on a half-open route; false when it is not half open or others are trying."""
        if self.standing(now_ms) is not Standing.HALF_OPEN or not self.has_room_for_probe(now_ms):
            return False
        self.probes = [until_ms for until_ms in self.probes if until_ms > now_ms] + [now_ms + PROBE_LEASE_MS]
        return True

    def apply(self, seen: Seen) -> None:
        """Take one observation into account."""
        now_ms = seen.at_ms
        if seen.probe and self.probes:
            del self.probes[0]
        match seen.kind:
            case Kind.ANSWERED:
                self._answered(seen)
            case Kind.CHECKED:
                self._answered(seen._replace(probe=True))
            case Kind.FAILED | Kind.BROKE:
                self._failed(seen)
            case Kind.REACHABLE:
                if self.opened and not self.by_operator:
                    self.retry_at_ms = min(self.retry_at_ms, now_ms)
            case Kind.LIMITED:
                rest_ms = min(max(seen.until_ms - now_ms, 0), LONGEST_REST_MS)
                kept = {name: until_ms for name, until_ms in self.resting.items() if until_ms > now_ms}
                kept[seen.credential] = max(kept.get(seen.credential, 0), now_ms + rest_ms)
                self.resting = kept
            case Kind.HEADROOM:
                self.share, self.share_until_ms = seen.share, seen.until_ms
            case Kind.OPENED:
                self._open(now_ms, seen.detail)
                self.by_operator = True
            case Kind.CLOSED:
                self._close(now_ms, seen.detail)
                self.openings = 0
                self.resting = {}
            case Kind.UNCLEAR:
                pass

    def _answered(self, seen: Seen) -> None:
        now_ms = seen.at_ms
        self.answered_at_ms = max(self.answered_at_ms, now_ms)
        self._count(now_ms, calls=1, failures=0)
        if seen.latency_ms is not None:
            kept = _decay(now_ms - self.latency_at_ms, LATENCY_DECAY_MS)
            self.latency_sum = self.latency_sum * kept + seen.latency_ms
            self.latency_weight = self.latency_weight * kept + 1
            self.latency_at_ms = max(self.latency_at_ms, now_ms)
        if not self.opened:
            self.failures_in_a_row = 0
            self.openings = 0 if now_ms - self.changed_at_ms > LONGEST_PAUSE_MS else self.openings
        elif seen.probe and not self.by_operator:
            self.probes_answered += 1
            if self.probes_answered >= PROBES_TO_CLOSE:
                self._close(now_ms, "")

    def _failed(self, seen: Seen) -> None:
        now_ms = seen.at_ms
        self.failed_at_ms = max(self.failed_at_ms, now_ms)
        self.last_failure = seen.detail
        self._count(now_ms, calls=0 if seen.kind is Kind.BROKE else 1, failures=1)
        if not self.opened:
            self.failures_in_a_row += 1
            in_a_row = self.failures_in_a_row >= FAILURES_IN_A_ROW
            if in_a_row or (self.calls >= FEWEST_CALLS and self.failures >= self.calls * ERROR_SHARE):
                self._open(now_ms, seen.detail)
        elif seen.probe and self.standing(now_ms) is Standing.HALF_OPEN:
            # Of probes that fail together the first one says it all.
            self._open(now_ms, seen.detail)

    def _count(self, now_ms: int, *, calls: int, failures: int) -> None:
        kept = _decay(now_ms - self.errors_at_ms, ERRORS_DECAY_MS)
        self.calls = self.calls * kept + calls
        self.failures = self.failures * kept + failures
        self.errors_at_ms = max(self.errors_at_ms, now_ms)

    def _open(self, now_ms: int, reason: str) -> None:
        if not self.opened:
            self.changed_at_ms = now_ms
        self.opened = True
        self.reason = reason
        self.openings += 1
        self.retry_at_ms = now_ms + round(min(FIRST_PAUSE_MS * PAUSE_GROWTH ** min(self.openings - 1, 20), LONGEST_PAUSE_MS))
        self.failures_in_a_row = self.probes_answered = 0

    def _close(self, now_ms: int, reason: str) -> None:
        """Begin anew: what opened it must not open it again by itself."""
        if self.opened:
            self.changed_at_ms = now_ms
        self.opened = self.by_operator = False
        self.reason = reason
        self.retry_at_ms = 0
        self.failures_in_a_row = self.probes_answered = 0
        self.probes = []
        self.calls = self.failures = 0.0


def _decay(passed_ms: int, constant_ms: int) -> float:
    """What is left of a weight after `passed_ms`; an observation that comes late takes nothing away."""
    return exp(-passed_ms / constant_ms) if passed_ms > 0 else 1.0
