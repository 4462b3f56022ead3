"""The rules of a circuit breaker, its measurements and its probes, with the time moved by hand."""

import pytest

from routing.health.state import (
    FAILURES_IN_A_ROW,
    FEWEST_CALLS,
    FIRST_PAUSE_MS,
    LONGEST_PAUSE_MS,
    LONGEST_REST_MS,
    PROBE_LEASE_MS,
    Kind,
    RouteHealth,
    Seen,
    Standing,
)

NOW = 1_800_000_000_000


def answered(at: int, *, latency_ms: float | None = None, probe: bool = False) -> Seen:
    return Seen(Kind.ANSWERED, at, latency_ms, probe)


def failed(at: int, *, probe: bool = False) -> Seen:
    return Seen(Kind.FAILED, at, probe=probe, detail="overloaded")


def see(state: RouteHealth, *items: Seen) -> RouteHealth:
    for item in items:
        state.apply(item)
    return state


def opened(at: int = NOW) -> RouteHealth:
    return see(RouteHealth(), *[failed(at)] * FAILURES_IN_A_ROW)


def test_five_failures_in_a_row_open_it_and_an_answer_between_does_not() -> None:
    four = see(RouteHealth(), *[failed(NOW)] * 4)
    interrupted = see(RouteHealth(), *[failed(NOW)] * 4, answered(NOW), failed(NOW))

    five = see(RouteHealth(), *[failed(NOW)] * 5)

    assert four.standing(NOW) is Standing.CLOSED
    assert interrupted.standing(NOW) is Standing.CLOSED
    assert five.standing(NOW) is Standing.OPEN
    assert (five.reason, five.changed_at_ms, five.openings) == ("overloaded", NOW, 1)


def test_half_of_at_least_twenty_calls_failing_opens_it() -> None:
    few = see(RouteHealth(), *[answered(NOW), failed(NOW)] * 9)
    many = see(RouteHealth(), *[answered(NOW), failed(NOW)] * (FEWEST_CALLS // 2))
    mostly_well = see(RouteHealth(), *[answered(NOW), answered(NOW), failed(NOW)] * 20)

    assert few.standing(NOW) is Standing.CLOSED
    assert many.standing(NOW) is Standing.OPEN
    assert mostly_well.standing(NOW) is Standing.CLOSED
    assert mostly_well.error_share(NOW) == pytest.approx(1 / 3)


def test_failures_of_long_ago_do_not_count() -> None:
    state = see(RouteHealth(), *[answered(NOW), failed(NOW)] * 9)

    later = NOW + 300_000
    see(state, *[answered(later), failed(later)] * 9)

    assert state.standing(later) is Standing.CLOSED
    assert state.calls == pytest.approx(18, abs=0.01)


def test_a_stream_that_breaks_off_is_a_failure_of_the_same_call() -> None:
    state = see(RouteHealth(), *[answered(NOW), Seen(Kind.BROKE, NOW, detail="truncated")] * FEWEST_CALLS)

    assert state.standing(NOW) is Standing.OPEN
    assert state.error_share(NOW) == 1.0


def test_its_pause_ends_and_two_probes_at_a_time_may_try() -> None:
    state = opened()

    before = state.admit_probe(NOW + FIRST_PAUSE_MS - 1)
    at = NOW + FIRST_PAUSE_MS

    assert before is False
    assert state.standing(at) is Standing.HALF_OPEN
    assert [state.admit_probe(at) for _ in range(3)] == [True, True, False]


def test_two_probes_answered_close_it() -> None:
    state = opened()
    at = NOW + FIRST_PAUSE_MS
    state.admit_probe(at)
    state.admit_probe(at)

    see(state, answered(at, probe=True))
    after_one = state.standing(at)
    see(state, answered(at, probe=True))

    assert after_one is Standing.HALF_OPEN
    assert state.standing(at) is Standing.CLOSED
    assert (state.calls, state.failures, state.probes) == (0, 0, [])


def test_a_probe_that_fails_lengthens_the_pause_up_to_a_minute() -> None:
    state = opened()
    pauses = []

    at = NOW
    for _ in range(10):
        pauses.append(state.retry_at_ms - at)
        at = state.retry_at_ms
        state.admit_probe(at)
        see(state, failed(at, probe=True))

    assert pauses == [3_000, 4_500, 6_750, 10_125, 15_188, 22_781, 34_172, 51_258, LONGEST_PAUSE_MS, LONGEST_PAUSE_MS]
    assert state.changed_at_ms == NOW


def test_two_probes_that_fail_together_lengthen_the_pause_once() -> None:
    state = opened()
    at = NOW + FIRST_PAUSE_MS
    state.admit_probe(at)
    state.admit_probe(at)

    see(state, failed(at, probe=True), failed(at + 5, probe=True))

    assert (state.openings, state.retry_at_ms, state.probes) == (2, at + 4_500, [])


def test_a_probe_never_heard_of_gives_its_place_back() -> None:
    state = opened()
    at = NOW + FIRST_PAUSE_MS
    state.admit_probe(at)
    state.admit_probe(at)

    still = state.admit_probe(at + PROBE_LEASE_MS - 1)
    again = state.admit_probe(at + PROBE_LEASE_MS)

    assert (still, again) == (False, True)


def test_a_probe_that_ends_unclear_gives_its_place_back_and_changes_nothing() -> None:
    state = opened()
    at = NOW + FIRST_PAUSE_MS
    state.admit_probe(at)
    state.admit_probe(at)

    see(state, Seen(Kind.UNCLEAR, at, probe=True))

    assert state.standing(at) is Standing.HALF_OPEN
    assert state.admit_probe(at) is True


def test_calls_that_began_before_it_opened_neither_close_nor_lengthen_it() -> None:
    state = opened()
    retry_at = state.retry_at_ms

    see(state, answered(NOW + 10), answered(NOW + 10), failed(NOW + 20))

    assert state.standing(NOW + 30) is Standing.OPEN
    assert state.retry_at_ms == retry_at


def test_what_an_operator_opened_stays_open_until_an_operator_closes_it() -> None:
    state = see(RouteHealth(), Seen(Kind.OPENED, NOW, detail="maintenance"))
    a_day_later = NOW + 86_400_000

    see(state, answered(a_day_later, probe=True), answered(a_day_later, probe=True), Seen(Kind.REACHABLE, a_day_later))
    still = state.standing(a_day_later)
    see(state, Seen(Kind.CLOSED, a_day_later))

    assert still is Standing.OPEN
    assert state.standing(a_day_later) is Standing.CLOSED
    assert (state.openings, state.by_operator) == (0, False)


def test_a_list_of_models_makes_it_worth_trying_but_closes_nothing() -> None:
    state = opened()

    see(state, Seen(Kind.REACHABLE, NOW + 100))

    assert state.standing(NOW + 100) is Standing.HALF_OPEN


def test_latency_leans_on_the_typical_one_and_forgets_with_time() -> None:
    state = RouteHealth()
    unmeasured = state.latency_ms(1000, NOW)

    see(state, answered(NOW, latency_ms=200))
    one = state.latency_ms(1000, NOW)
    see(state, *[answered(NOW, latency_ms=200)] * 99)
    many = state.latency_ms(1000, NOW)
    much_later = state.latency_ms(1000, NOW + 3_600_000)

    assert unmeasured == 1000
    assert one == pytest.approx((200 + 1000 * 0.5) / 1.5)
    assert many == pytest.approx((200 * 100 + 1000 * 0.5) / 100.5)
    assert much_later == pytest.approx(1000)


def test_recent_latencies_weigh_more() -> None:
    state = see(RouteHealth(), *[answered(NOW, latency_ms=100)] * 10)

    see(state, *[answered(NOW + 240_000, latency_ms=1000)] * 10)

    assert state.latency_ms(100, NOW + 240_000) > 850


def test_a_rate_limit_makes_its_credential_rest_as_hinted_and_no_breaker_opens() -> None:
    state = RouteHealth()

    see(state, *[Seen(Kind.LIMITED, NOW, until_ms=NOW + 7_000, credential="a")] * 50)

    assert state.standing(NOW) is Standing.CLOSED
    assert state.rests_until("a", NOW + 6_999) == NOW + 7_000
    assert state.rests_until("a", NOW + 7_000) == 0
    assert state.rests_until("b", NOW) == 0


def test_no_hint_makes_a_credential_rest_for_more_than_an_hour() -> None:
    state = see(RouteHealth(), Seen(Kind.LIMITED, NOW, until_ms=NOW + 10**12, credential="a"))

    assert state.rests_until("a", NOW) == NOW + LONGEST_REST_MS


def test_headroom_is_believed_until_it_is_refilled() -> None:
    state = see(RouteHealth(), Seen(Kind.HEADROOM, NOW, share=0.25, until_ms=NOW + 1_000))

    assert (state.free_share(NOW + 999), state.free_share(NOW + 1_000)) == (0.25, 1.0)


def test_an_observation_that_comes_late_takes_no_weight_away() -> None:
    state = see(RouteHealth(), answered(NOW, latency_ms=100))

    see(state, answered(NOW - 60_000, latency_ms=100))

    assert (state.calls, state.latency_weight) == (2, 2)
    assert (state.errors_at_ms, state.latency_at_ms, state.answered_at_ms) == (NOW, NOW, NOW)
