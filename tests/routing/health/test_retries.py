from routing.health.retries import FREE_RETRIES, RetryBudget


def test_a_quiet_process_has_its_free_retries_and_no_more() -> None:
    budget = RetryBudget()

    allowed = [budget.allow_retry(0.0) for _ in range(FREE_RETRIES + 50)]

    assert allowed == [True] * FREE_RETRIES + [False] * 50


def test_a_fifth_of_the_calls_may_be_retried_beside() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.count_call(0.0)

    allowed = sum(budget.allow_retry(0.0) for _ in range(1000))

    assert allowed == FREE_RETRIES + 200


def test_what_was_used_comes_back_within_minutes() -> None:
    budget = RetryBudget()
    for _ in range(FREE_RETRIES):
        budget.allow_retry(0.0)

    at_once = budget.allow_retry(0.05)
    later = sum(budget.allow_retry(60.0) for _ in range(FREE_RETRIES))

    assert at_once is False
    assert later == 63
