"""How many retries an outage may cause: beside each call's own limit, a share of all calls of the last minute."""

from math import exp

WINDOW_SECONDS = 60.0
RETRY_SHARE = 0.2
# So many retries a minute are fine however few calls there are.
FREE_RETRIES = 100


class RetryBudget:
    """Counts the calls and retries of one process; both lose their weight within a minute."""

    def __init__(self) -> None:
        self._calls = self._retries = 0.0
        self._at = 0.0

    def count_call(self, now: float) -> None:
        """A call made its first attempt at `now` (seconds of any one clock)."""
        self._forget(now)
        self._calls += 1

    def allow_retry(self, now: float) -> bool:
        """Whether one more retry may be made; counts it if so."""
        self._forget(now)
        if self._retries + 1 > FREE_RETRIES + RETRY_SHARE * self._calls:
            return False
        self._retries += 1
        return True

    def _forget(self, now: float) -> None:
        passed = now - self._at
        # Often enough for the figures, seldom enough for the calls.
        if passed >= 0.1:
            kept = exp(-passed / WINDOW_SECONDS)
            self._calls *= kept
            self._retries *= kept
            self._at = now
