"""The instants the limiter tests happen at; the limiter takes every time as a parameter."""

NOW_MS = 1_800_000_000_000
SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
WINDOW_END_MS = NOW_MS + 10 * HOUR_MS
