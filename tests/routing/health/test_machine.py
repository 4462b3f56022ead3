"""Any sequence of answers, failures, probes, checks and operators leaves a breaker that keeps its promises."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from routing.health.state import (
    FAILURES_IN_A_ROW,
    LONGEST_PAUSE_MS,
    PROBE_LEASE_MS,
    PROBES_AT_ONCE,
    PROBES_TO_CLOSE,
    Kind,
    RouteHealth,
    Seen,
    Standing,
)
from routing.health.store import decode_record, encode_record

SKEW = st.integers(-2_000, 0)


class Breaker(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = RouteHealth()
        self.now = 1_800_000_000_000
        # Leases of probes that run: the model beside the record.
        self.probes: list[int] = []
        self.probes_answered = 0

    def see(self, kind: Kind, *, late: int = 0, probe: bool = False) -> None:
        self.state.apply(Seen(kind, self.now + late, 50.0 if kind is Kind.ANSWERED else None, probe, "overloaded"))

    @rule(ms=st.integers(0, 90_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.probes = [until for until in self.probes if until > self.now]

    @rule(late=SKEW)
    def a_call_is_answered(self, late: int) -> None:
        was_open = self.state.opened
        self.see(Kind.ANSWERED, late=late)
        assert self.state.opened == was_open

    @rule(late=SKEW, count=st.integers(1, FAILURES_IN_A_ROW))
    def calls_fail(self, late: int, count: int) -> None:
        retry_at_ms, was_open = self.state.retry_at_ms, self.state.opened
        for _ in range(count):
            self.see(Kind.FAILED, late=late)
        if was_open:
            assert (self.state.opened, self.state.retry_at_ms) == (True, retry_at_ms)
        if count == FAILURES_IN_A_ROW:
            assert self.state.opened
        if self.state.opened and not was_open:
            self.probes_answered = 0

    @rule()
    def a_call_asks_to_probe(self) -> None:
        standing = self.state.standing(self.now)
        admitted = self.state.admit_probe(self.now)
        assert admitted == (standing is Standing.HALF_OPEN and len(self.probes) < PROBES_AT_ONCE)
        if admitted:
            self.probes.append(self.now + PROBE_LEASE_MS)

    @precondition(lambda self: self.probes)
    @rule()
    def a_probe_is_answered(self) -> None:
        half_open = self.state.standing(self.now) is not Standing.CLOSED and not self.state.by_operator
        self.probes.pop(0)
        self.see(Kind.ANSWERED, probe=True)
        if half_open:
            self.probes_answered += 1
            assert self.state.opened == (self.probes_answered < PROBES_TO_CLOSE)
        if not self.state.opened:
            self.probes, self.probes_answered = [], 0

    @precondition(lambda self: self.probes)
    @rule()
    def a_probe_fails(self) -> None:
        standing = self.state.standing(self.now)
        self.probes.pop(0)
        self.see(Kind.FAILED, probe=True)
        if standing is Standing.HALF_OPEN:
            assert self.state.standing(self.now) is Standing.OPEN
            self.probes_answered = 0
        if standing is Standing.CLOSED and self.state.opened:
            self.probes_answered = 0

    @precondition(lambda self: self.probes)
    @rule()
    def a_probe_ends_unclear(self) -> None:
        before = self.state.opened, self.state.retry_at_ms
        self.probes.pop(0)
        self.see(Kind.UNCLEAR, probe=True)
        assert (self.state.opened, self.state.retry_at_ms) == before

    @rule()
    def its_models_are_listed(self) -> None:
        was_open, by_operator = self.state.opened, self.state.by_operator
        self.see(Kind.REACHABLE)
        assert self.state.opened == was_open
        if was_open and not by_operator:
            assert self.state.standing(self.now) is Standing.HALF_OPEN

    @rule()
    def an_operator_opens_it(self) -> None:
        self.see(Kind.OPENED)
        self.probes_answered = 0
        assert self.state.standing(self.now + 10**9) is Standing.OPEN

    @rule()
    def an_operator_closes_it(self) -> None:
        self.see(Kind.CLOSED)
        self.probes, self.probes_answered = [], 0
        assert self.state.standing(self.now) is Standing.CLOSED

    @invariant()
    def it_never_stays_closed_to_calls_for_longer_than_its_longest_pause(self) -> None:
        if not self.state.by_operator:
            assert self.state.standing(self.now + LONGEST_PAUSE_MS) is not Standing.OPEN

    @invariant()
    def a_closed_one_has_few_failures_behind_it(self) -> None:
        if not self.state.opened:
            assert self.state.failures_in_a_row < FAILURES_IN_A_ROW

    @invariant()
    def figures_are_figures(self) -> None:
        assert 0 <= self.state.error_share(self.now) <= 1
        assert self.state.latency_ms(100, self.now) > 0
        assert len(self.state.probes) <= PROBES_AT_ONCE * 2

    @invariant()
    def the_record_keeps_it_all(self) -> None:
        assert decode_record(encode_record(self.state)) == self.state


Breaker.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreaker = Breaker.TestCase
