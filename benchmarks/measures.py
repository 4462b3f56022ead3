"""The arithmetic of measured rounds."""

import statistics
from collections.abc import Sequence


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, in ms; 0 of none."""
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3) if ordered else 0.0


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Each round's ratio, then the median of them: what slows a whole round down does not change it."""
    return median([our / max(their, 1e-9) for our, their in zip(ours, theirs, strict=True)])


def median_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median([our - their for our, their in zip(ours, theirs, strict=True)])
