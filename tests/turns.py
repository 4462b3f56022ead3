"""When a test may begin: not shortly before an hour, a day or a month of some zone ends."""

# Hours, days and months begin at a full hour of some zone, and zones differ by halves of one.
TURN_SECONDS = 1800
LONG_TEST_SECONDS = 25


def seconds_to_wait(now: float) -> float:
    """How long a test that would begin at `now`, in seconds since 1970, has to wait: 0, or until just after the half hour."""
    left = TURN_SECONDS - now % TURN_SECONDS
    return left + 0.1 if left < LONG_TEST_SECONDS else 0
