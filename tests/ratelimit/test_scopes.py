import os

import pytest
import redis
import redis.asyncio

from ratelimit.engine import Decision, Limiter, RefusedScope, ScopeState, SyncLimiter
from ratelimit.scopes import Budget, Concurrency, SplitPosition, TokenBucket, WindowCounter
from tests.ratelimit.moments import DAY_MS, HOUR_MS, MINUTE_MS, NOW_MS, SECOND_MS, WINDOW_END_MS


def quota(unique: str, limit: int | None, amount: int = 1, **more: object) -> WindowCounter:
    fields = {"window_end_ms": WINDOW_END_MS, "name": "day", **more}
    return WindowCounter(key=f"{unique}:day", limit=limit, amount=amount, **fields)  # type: ignore[arg-type]


def rate(unique: str, limit: int, amount: int = 1) -> TokenBucket:
    return TokenBucket.per_minute(key=f"{unique}:rpm", name="rpm", limit=limit, amount=amount)


def one_a_second(unique: str, amount: int) -> TokenBucket:
    return TokenBucket(
        key=f"{unique}:rate", name="rate", capacity=1_000, refill_amount=1, refill_period_ms=SECOND_MS, amount=amount
    )


def slots(unique: str, limit: int | None, lease_ms: int = MINUTE_MS) -> Concurrency:
    return Concurrency(key=f"{unique}:slots", name="slots", limit=limit, lease_ms=lease_ms)


def budget(unique: str, limit_nano: int | None, amount_nano: int, *, soft: bool = False) -> Budget:
    return Budget(
        key=f"{unique}:usd",
        name="usd",
        limit_nano=limit_nano,
        amount_nano=amount_nano,
        window_end_ms=WINDOW_END_MS,
        soft=soft,
    )


async def used(limiter: Limiter, *scopes: object, now_ms: int = NOW_MS) -> list[int]:
    return [state.used for state in await limiter.peek(scopes, now_ms=now_ms)]  # type: ignore[arg-type]


class TestTokenBucket:
    async def test_refuses_beyond_capacity_and_says_when_to_come_back(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [rate(unique, 10, 8)], now_ms=NOW_MS)

        decision = await limiter.reserve(f"{unique}2", [rate(unique, 10, 5)], now_ms=NOW_MS)

        assert not decision.allowed
        assert decision.refused_scope == RefusedScope("rpm", 10, 2, 18 * SECOND_MS, NOW_MS + 48 * SECOND_MS)
        assert await used(limiter, rate(unique, 10)) == [8]

    async def test_admits_at_the_very_millisecond_it_announced(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [rate(unique, 7, 7)], now_ms=NOW_MS)
        refusal = await limiter.reserve(f"{unique}2", [rate(unique, 7)], now_ms=NOW_MS)
        announced = refusal.refused_scope.retry_after_ms

        early = await limiter.reserve(f"{unique}2", [rate(unique, 7)], now_ms=NOW_MS + announced - 1)
        on_time = await limiter.reserve(f"{unique}2", [rate(unique, 7)], now_ms=NOW_MS + announced)

        assert announced == 8_572  # 60 s / 7, rounded up
        assert (early.allowed, on_time.allowed) == (False, True)

    async def test_refills_to_capacity_and_no_further(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [rate(unique, 10, 10)], now_ms=NOW_MS)

        decision = await limiter.reserve(f"{unique}2", [rate(unique, 10, 1)], now_ms=NOW_MS + DAY_MS)

        assert decision.states == (ScopeState("rpm", 10, 1, 9, NOW_MS + DAY_MS + 6 * SECOND_MS),)

    async def test_more_than_the_capacity_never_passes(self, limiter: Limiter, unique: str) -> None:
        decision = await limiter.reserve(unique, [rate(unique, 10, 11)], now_ms=NOW_MS)

        assert not decision.allowed
        assert decision.refused_scope.retry_after_ms is None

    async def test_a_clock_that_goes_back_refills_nothing(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [rate(unique, 10, 10)], now_ms=NOW_MS)

        decision = await limiter.reserve(f"{unique}2", [rate(unique, 10)], now_ms=NOW_MS - MINUTE_MS)

        assert not decision.allowed
        assert decision.refused_scope.retry_after_ms == MINUTE_MS + 6 * SECOND_MS
        assert decision.states == (ScopeState("rpm", 10, 10, 0, NOW_MS + MINUTE_MS),)

    async def test_an_edited_period_keeps_the_tokens_missing(self, limiter: Limiter, unique: str) -> None:
        hourly = TokenBucket(key=f"{unique}:rpm", name="rpm", capacity=10, refill_amount=10, refill_period_ms=HOUR_MS, amount=1)
        await limiter.reserve(f"{unique}1", [rate(unique, 10, 4)], now_ms=NOW_MS)

        decision = await limiter.reserve(f"{unique}2", [hourly], now_ms=NOW_MS)

        assert decision.states == (ScopeState("rpm", 10, 5, 5, NOW_MS + 30 * MINUTE_MS),)

    async def test_unused_tokens_come_back(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [rate(unique, 100, 90)], now_ms=NOW_MS)

        await limiter.settle(unique, {"rpm": 20}, now_ms=NOW_MS)

        assert await used(limiter, rate(unique, 100)) == [20]

    async def test_tokens_refilled_meanwhile_do_not_come_back_twice(self, limiter: Limiter, unique: str) -> None:
        full_again = NOW_MS + MINUTE_MS
        await limiter.reserve(f"{unique}1", [rate(unique, 10, 10)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", [rate(unique, 10, 6)], now_ms=full_again)

        await limiter.release(f"{unique}1", now_ms=full_again)

        assert await used(limiter, rate(unique, 10), now_ms=full_again) == [6]

    async def test_giving_back_never_fills_beyond_the_capacity(self, limiter: Limiter, unique: str) -> None:
        later = NOW_MS + 30 * SECOND_MS
        await limiter.reserve(unique, [rate(unique, 10, 10)], now_ms=NOW_MS)

        await limiter.release(unique, now_ms=later)

        assert await limiter.peek([rate(unique, 10)], now_ms=later) == [ScopeState("rpm", 10, 0, 10, later)]

    async def test_two_unused_reservations_do_not_both_give_back_the_same_refill(self, limiter: Limiter, unique: str) -> None:
        later = NOW_MS + 100 * SECOND_MS
        await limiter.reserve(f"{unique}1", [one_a_second(unique, 200)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", [one_a_second(unique, 100)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}3", [one_a_second(unique, 50)], now_ms=later)

        await limiter.release(f"{unique}1", now_ms=later)
        await limiter.release(f"{unique}2", now_ms=later)

        assert await used(limiter, one_a_second(unique, 0), now_ms=later) == [50]

    async def test_unused_tokens_of_a_busy_bucket_come_back_whole(self, limiter: Limiter, unique: str) -> None:
        later = NOW_MS + 30 * SECOND_MS
        await limiter.reserve(f"{unique}0", [rate(unique, 100, 50)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}1", [rate(unique, 100, 40)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", [rate(unique, 100, 50)], now_ms=later)

        await limiter.release(f"{unique}1", now_ms=later)

        assert await used(limiter, rate(unique, 100), now_ms=later) == [50]

    async def test_an_excess_is_taken_even_beyond_the_capacity(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [rate(unique, 10, 10)], now_ms=NOW_MS)

        await limiter.settle(unique, {"rpm": 25}, now_ms=NOW_MS)

        assert await limiter.peek([rate(unique, 10)], now_ms=NOW_MS) == [ScopeState("rpm", 10, 25, 0, NOW_MS + 150 * SECOND_MS)]

    async def test_an_excess_on_a_bucket_that_was_full_again_is_taken(
        self, limiter: Limiter, redis_client: redis.asyncio.Redis, unique: str
    ) -> None:
        await limiter.reserve(unique, [rate(unique, 10, 1)], now_ms=NOW_MS)
        await redis_client.delete(rate(unique, 10).storage_key)

        await limiter.settle(unique, {"rpm": 4}, now_ms=NOW_MS + MINUTE_MS)

        assert await used(limiter, rate(unique, 10), now_ms=NOW_MS + MINUTE_MS) == [3]

    async def test_a_long_history_is_shortened_without_giving_back_too_much(self, limiter: Limiter, unique: str) -> None:
        later = NOW_MS + 95 * SECOND_MS
        await limiter.reserve(unique, [one_a_second(unique, 100)], now_ms=NOW_MS)
        for number in range(19):
            await limiter.reserve(f"{unique}{number}", [one_a_second(unique, 1)], now_ms=later)

        await limiter.release(unique, now_ms=later)

        # 95 of its 100 tokens were refilled before the others came: 5 come back, the 19 of the others stay.
        assert await used(limiter, one_a_second(unique, 1), now_ms=later) == [19]


class TestWindowCounter:
    async def test_refuses_beyond_the_limit_until_the_window_ends(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [quota(unique, 3, 2)], now_ms=NOW_MS)

        decision = await limiter.reserve(f"{unique}2", [quota(unique, 3, 2)], now_ms=NOW_MS)

        assert not decision.allowed
        assert decision.refused_scope == RefusedScope("day", 3, 1, 10 * HOUR_MS, WINDOW_END_MS)
        assert decision.states == (ScopeState("day", 3, 2, 1, WINDOW_END_MS),)

    async def test_the_next_window_starts_at_zero(self, limiter: Limiter, unique: str) -> None:
        next_window = quota(unique, 3, 3, window_end_ms=WINDOW_END_MS + DAY_MS)
        await limiter.reserve(f"{unique}1", [quota(unique, 3, 3)], now_ms=WINDOW_END_MS - 1)

        decision = await limiter.reserve(f"{unique}2", [next_window], now_ms=WINDOW_END_MS)

        assert decision.states == (ScopeState("day", 3, 3, 0, WINDOW_END_MS + DAY_MS),)

    async def test_a_late_settle_corrects_its_own_window_only(self, limiter: Limiter, unique: str) -> None:
        next_window = quota(unique, 9, 4, window_end_ms=WINDOW_END_MS + DAY_MS)
        await limiter.reserve(f"{unique}1", [quota(unique, 9, 5)], now_ms=WINDOW_END_MS - 1)
        await limiter.reserve(f"{unique}2", [next_window], now_ms=WINDOW_END_MS)

        await limiter.settle(f"{unique}1", {"day": 2}, now_ms=WINDOW_END_MS + 1)

        assert await used(limiter, quota(unique, 9)) == [2]
        assert await used(limiter, next_window) == [4]

    async def test_a_settle_never_creates_a_window_that_is_gone(
        self, limiter: Limiter, redis_client: redis.asyncio.Redis, unique: str
    ) -> None:
        scope = quota(unique, 9, 5)
        await limiter.reserve(unique, [scope], now_ms=NOW_MS)
        await redis_client.delete(scope.storage_key)

        settled = await limiter.settle(unique, {"day": 7}, now_ms=WINDOW_END_MS + 2 * HOUR_MS)

        assert settled
        assert await redis_client.exists(scope.storage_key) == 0

    async def test_a_window_that_has_ended_cannot_be_reserved(self, limiter: Limiter, unique: str) -> None:
        with pytest.raises(ValueError, match="window has ended"):
            await limiter.reserve(unique, [quota(unique, 3)], now_ms=WINDOW_END_MS)

    async def test_without_a_limit_it_counts_and_never_refuses(self, limiter: Limiter, unique: str) -> None:
        decision = await limiter.reserve(unique, [quota(unique, None, 10**12)], now_ms=NOW_MS)

        assert decision.allowed
        assert decision.states == (ScopeState("day", None, 10**12, None, WINDOW_END_MS),)

    async def test_a_limit_of_zero_refuses_for_good(self, limiter: Limiter, unique: str) -> None:
        decision = await limiter.reserve(unique, [quota(unique, 0)], now_ms=NOW_MS)

        assert decision.refused_scope == RefusedScope("day", 0, 0, None, WINDOW_END_MS)


class TestBudget:
    async def test_counts_nano_dollars_exactly(self, limiter: Limiter, unique: str) -> None:
        nine_million_dollars = 9_000_000_000_000_001
        await limiter.reserve(f"{unique}1", [budget(unique, None, nine_million_dollars)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", [budget(unique, None, 1)], now_ms=NOW_MS)

        assert await used(limiter, budget(unique, None, 0)) == [9_000_000_000_000_002]

    async def test_a_call_that_costs_nothing_passes_a_spent_budget(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [budget(unique, 100, 100)], now_ms=NOW_MS)

        paid = await limiter.reserve(f"{unique}2", [budget(unique, 100, 1)], now_ms=NOW_MS)
        free = await limiter.reserve(f"{unique}3", [budget(unique, 100, 0)], now_ms=NOW_MS)

        assert (paid.allowed, free.allowed) == (False, True)

    async def test_a_real_cost_above_the_hold_is_booked_above_the_limit(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [budget(unique, 100, 90)], now_ms=NOW_MS)

        await limiter.settle(unique, {"usd": 130}, now_ms=NOW_MS)

        assert await limiter.peek([budget(unique, 100, 0)], now_ms=NOW_MS) == [ScopeState("usd", 100, 130, 0, WINDOW_END_MS)]

    async def test_a_cost_that_was_expected_to_be_nothing_is_booked(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [budget(unique, 100, 0)], now_ms=NOW_MS)

        await limiter.settle(unique, {"usd": 7}, now_ms=NOW_MS)

        assert await used(limiter, budget(unique, 100, 0)) == [7]


class TestConcurrency:
    async def test_holds_its_limit_and_frees_on_settle(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [slots(unique, 1)], now_ms=NOW_MS)
        second = await limiter.reserve(f"{unique}2", [slots(unique, 1)], now_ms=NOW_MS)

        await limiter.settle(f"{unique}1", {}, now_ms=NOW_MS)
        third = await limiter.reserve(f"{unique}3", [slots(unique, 1)], now_ms=NOW_MS)

        assert second.refused_scope == RefusedScope("slots", 1, 0, SECOND_MS, None)
        assert third.allowed

    async def test_an_expired_lease_frees_its_slot(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [slots(unique, 1)], now_ms=NOW_MS)

        just_before = await limiter.reserve(f"{unique}2", [slots(unique, 1)], now_ms=NOW_MS + MINUTE_MS - 1)
        at_the_end = await limiter.reserve(f"{unique}2", [slots(unique, 1)], now_ms=NOW_MS + MINUTE_MS)

        assert (just_before.allowed, at_the_end.allowed) == (False, True)

    async def test_leases_left_behind_are_removed(
        self, limiter: Limiter, redis_client: redis.asyncio.Redis, unique: str
    ) -> None:
        await limiter.reserve(f"{unique}1", [slots(unique, 5)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", [slots(unique, 5)], now_ms=NOW_MS)

        await limiter.reserve(f"{unique}after", [slots(unique, 5)], now_ms=NOW_MS + MINUTE_MS)

        assert await redis_client.zcard(slots(unique, 5).storage_key) == 1

    async def test_a_settle_after_the_lease_frees_nobody_elses_slot(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [slots(unique, 1)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", [slots(unique, 1)], now_ms=NOW_MS + MINUTE_MS)

        await limiter.settle(f"{unique}1", {}, now_ms=NOW_MS + MINUTE_MS)

        assert await used(limiter, slots(unique, 1), now_ms=NOW_MS + MINUTE_MS) == [1]

    async def test_a_renewed_lease_holds_the_slot(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [slots(unique, 1)], now_ms=NOW_MS)

        renewed = await limiter.extend(f"{unique}1", now_ms=NOW_MS + MINUTE_MS - 1, lease_ms=MINUTE_MS)
        other = await limiter.reserve(f"{unique}2", [slots(unique, 1)], now_ms=NOW_MS + MINUTE_MS)

        assert (renewed.allowed, other.allowed) == (True, False)

    async def test_a_lease_that_ran_out_is_not_renewed_over_the_limit(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(f"{unique}1", [slots(unique, 1)], now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", [slots(unique, 1)], now_ms=NOW_MS + MINUTE_MS)

        await limiter.extend(f"{unique}1", now_ms=NOW_MS + MINUTE_MS, lease_ms=MINUTE_MS)

        assert await used(limiter, slots(unique, 1), now_ms=NOW_MS + MINUTE_MS) == [1]


class TestReservation:
    async def test_one_refusing_scope_leaves_all_untouched(
        self, limiter: Limiter, redis_client: redis.asyncio.Redis, unique: str
    ) -> None:
        split = SplitPosition(key=unique, weights=(("groq", 1),), start=0)
        scopes = [rate(unique, 10, 3), quota(unique, 10, 3), slots(unique, 2), budget(unique, 5, 6)]

        decision = await limiter.reserve(unique, scopes, now_ms=NOW_MS, split=split)

        assert decision.refused_scope.name == "usd"
        assert decision.split_position is None
        assert [state.used for state in decision.states] == [0, 0, 0, 0]
        assert await redis_client.keys(f"*{unique}*") == []

    async def test_of_two_refusals_the_longer_wait_is_told(self, limiter: Limiter, unique: str) -> None:
        scopes = [rate(unique, 2), quota(unique, 2), slots(unique, 2)]
        await limiter.reserve(f"{unique}1", scopes, now_ms=NOW_MS)
        await limiter.reserve(f"{unique}2", scopes, now_ms=NOW_MS)

        decision = await limiter.reserve(f"{unique}3", scopes, now_ms=NOW_MS)

        assert decision.refused_scope == RefusedScope("day", 2, 0, 10 * HOUR_MS, WINDOW_END_MS)

    async def test_an_exhausted_soft_scope_answers_and_is_not_taken(self, limiter: Limiter, unique: str) -> None:
        decision = await limiter.reserve(unique, [quota(unique, 5), budget(unique, 10, 11, soft=True)], now_ms=NOW_MS)
        await limiter.settle(unique, {"usd": 11}, now_ms=NOW_MS)

        assert decision.allowed
        assert decision.soft_exhausted == frozenset({"usd"})
        assert await used(limiter, quota(unique, 5), budget(unique, 10, 0)) == [1, 0]

    async def test_a_soft_scope_with_room_is_taken(self, limiter: Limiter, unique: str) -> None:
        decision = await limiter.reserve(unique, [budget(unique, 10, 10, soft=True)], now_ms=NOW_MS)

        assert decision.soft_exhausted == frozenset()
        assert await used(limiter, budget(unique, 10, 0)) == [10]

    async def test_the_same_reservation_again_takes_nothing_more(self, limiter: Limiter, unique: str) -> None:
        split = SplitPosition(key=unique, weights=(("groq", 1),), start=41)
        scopes = [rate(unique, 3, 3), quota(unique, 3, 3), slots(unique, 1), budget(unique, 1, 2, soft=True)]
        first = await limiter.reserve(unique, scopes, now_ms=NOW_MS, split=split)

        again = await limiter.reserve(unique, scopes, now_ms=NOW_MS, split=split)

        assert again == first
        assert again.split_position == 41
        assert again.soft_exhausted == frozenset({"usd"})

    async def test_release_gives_everything_back(self, limiter: Limiter, unique: str) -> None:
        scopes = [rate(unique, 10, 3), quota(unique, 10, 3), slots(unique, 2), budget(unique, 9, 6)]
        await limiter.reserve(unique, scopes, now_ms=NOW_MS)

        released = await limiter.release(unique, now_ms=NOW_MS)

        assert released
        assert await used(limiter, *scopes) == [0, 0, 0, 0]

    async def test_a_call_that_bills_nothing_returns_its_unit(self, limiter: Limiter, unique: str) -> None:
        scopes = [rate(unique, 10), quota(unique, 3)]
        await limiter.reserve(unique, scopes, now_ms=NOW_MS)

        await limiter.settle(unique, {"day": 0}, now_ms=NOW_MS)

        assert await used(limiter, *scopes) == [1, 0]

    async def test_settle_and_release_happen_once(self, limiter: Limiter, unique: str) -> None:
        scopes = [rate(unique, 10, 4), quota(unique, 10, 4), slots(unique, 1), budget(unique, 10, 4)]
        await limiter.reserve(unique, scopes, now_ms=NOW_MS)
        first = await limiter.settle(unique, {"day": 3, "usd": 5, "rpm": 2}, now_ms=NOW_MS)

        second = await limiter.settle(unique, {"day": 0, "usd": 0, "rpm": 0}, now_ms=NOW_MS)
        released = await limiter.release(unique, now_ms=NOW_MS)

        assert (first, second, released) == (True, False, False)
        assert await used(limiter, *scopes) == [2, 3, 0, 5]

    async def test_a_refused_reservation_has_nothing_to_settle(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [quota(unique, 0)], now_ms=NOW_MS)

        assert await limiter.settle(unique, {"day": 5}, now_ms=NOW_MS) is False
        assert await used(limiter, quota(unique, 0)) == [0]

    async def test_an_actual_for_a_scope_never_taken_is_ignored(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [quota(unique, 5)], now_ms=NOW_MS)

        await limiter.settle(unique, {"usd": 99}, now_ms=NOW_MS)

        assert await used(limiter, quota(unique, 5), budget(unique, 9, 0)) == [1, 0]

    async def test_every_key_ends_by_itself(self, limiter: Limiter, redis_client: redis.asyncio.Redis, unique: str) -> None:
        split = SplitPosition(key=unique, weights=(("groq", 1),), start=0)
        scopes = [rate(unique, 10), quota(unique, 10), slots(unique, 2), budget(unique, None, 6)]

        await limiter.reserve(unique, scopes, now_ms=NOW_MS, split=split)

        keys = sorted(await redis_client.keys(f"*{unique}*"))
        lifetimes = [round(await redis_client.pttl(key) / SECOND_MS) for key in keys]
        assert [key.decode().removeprefix("{iaf}:rl:v1:")[0] for key in keys] == ["c", "r", "s", "t", "w", "w"]
        assert lifetimes == [86_460, 3_660, 2_592_000, 66, 39_600, 39_600]
        assert await redis_client.pttl("{iaf}:rl:v1:epoch") > 0

    async def test_scopes_must_differ_in_key_and_name(self, limiter: Limiter, unique: str) -> None:
        with pytest.raises(ValueError, match="distinct"):
            await limiter.reserve(unique, [quota(unique, 1), quota(unique, 1, name="other")], now_ms=NOW_MS)
        with pytest.raises(ValueError, match="distinct"):
            await limiter.reserve(unique, [quota(unique, 1), quota(f"{unique}2", 1)], now_ms=NOW_MS)

    @pytest.mark.parametrize("amount", [-1, 1.5, True, 2**53])
    def test_amounts_are_exact_integers(self, amount: int) -> None:
        with pytest.raises(ValueError, match="integers"):
            quota("x", 5, amount)


class TestExtend:
    async def test_adds_amounts_and_scopes_that_settle_together(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [quota(unique, 10), budget(unique, 100, 30)], now_ms=NOW_MS)

        decision = await limiter.extend(unique, [budget(unique, 100, 50), rate(unique, 10, 2)], now_ms=NOW_MS)
        held = await used(limiter, quota(unique, 10), budget(unique, 100, 0), rate(unique, 10))
        await limiter.settle(unique, {"usd": 20, "rpm": 1}, now_ms=NOW_MS)

        assert decision.allowed
        assert held == [1, 80, 2]
        assert await used(limiter, quota(unique, 10), budget(unique, 100, 0), rate(unique, 10)) == [1, 20, 1]

    async def test_a_refused_extension_adds_nothing(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [budget(unique, 100, 30)], now_ms=NOW_MS)

        decision = await limiter.extend(unique, [rate(unique, 10, 2), budget(unique, 100, 71)], now_ms=NOW_MS)

        assert not decision.allowed
        assert decision.refused_scope.name == "usd"
        assert await used(limiter, budget(unique, 100, 0), rate(unique, 10)) == [30, 0]

    async def test_a_settled_reservation_cannot_be_extended(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [budget(unique, 100, 30)], now_ms=NOW_MS)
        await limiter.settle(unique, {}, now_ms=NOW_MS)

        decision = await limiter.extend(unique, [budget(unique, 100, 1)], now_ms=NOW_MS)

        assert decision == Decision(False, unknown_reservation=True)
        assert await used(limiter, budget(unique, 100, 0)) == [30]

    async def test_the_window_may_have_ended_meanwhile(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [budget(unique, 100, 30)], now_ms=WINDOW_END_MS - 1)

        decision = await limiter.extend(unique, [budget(unique, 100, 5)], now_ms=WINDOW_END_MS + 1)

        assert decision.states == (ScopeState("usd", 100, 35, 65, WINDOW_END_MS),)

    async def test_what_was_added_in_the_next_window_goes_back_first(self, limiter: Limiter, unique: str) -> None:
        next_window = quota(unique, 100, 50, window_end_ms=WINDOW_END_MS + DAY_MS)
        await limiter.reserve(unique, [quota(unique, 100, 30)], now_ms=WINDOW_END_MS - 1)
        await limiter.extend(unique, [next_window], now_ms=WINDOW_END_MS)

        await limiter.settle(unique, {"day": 35}, now_ms=WINDOW_END_MS)

        assert await used(limiter, quota(unique, 100), next_window) == [30, 5]

    async def test_asking_again_for_a_slot_one_holds_is_no_second_slot(self, limiter: Limiter, unique: str) -> None:
        await limiter.reserve(unique, [slots(unique, 1)], now_ms=NOW_MS)

        decision = await limiter.extend(unique, [slots(unique, 1)], now_ms=NOW_MS)

        assert decision.allowed
        assert await used(limiter, slots(unique, 1)) == [1]


def test_peek_reads_from_synchronous_code(unique: str) -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        scopes = [quota(unique, 10), rate(unique, 5), slots(unique, None)]
        client.set(scopes[0].storage_key, 4, px=60_000)

        states = SyncLimiter(client).peek(scopes, now_ms=NOW_MS)

    assert states == [
        ScopeState("day", 10, 4, 6, WINDOW_END_MS),
        ScopeState("rpm", 5, 0, 5, NOW_MS),
        ScopeState("slots", None, 0, None, None),
    ]
