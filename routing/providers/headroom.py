"""What providers say in their answers' headers about the limits they hold us to."""

from collections.abc import Mapping
from typing import NamedTuple

from routing.providers.failures import reset_seconds

_OPENAI = tuple(
    (f"x-ratelimit-remaining{kind}", f"x-ratelimit-limit{kind}", f"x-ratelimit-reset{kind}")
    for kind in ("-requests", "-tokens", "")
)
_ANTHROPIC = tuple(
    (f"{name}-remaining", f"{name}-limit", f"{name}-reset")
    for name in (f"anthropic-ratelimit-{kind}" for kind in ("requests", "tokens", "input-tokens", "output-tokens"))
)
# A share without a word about its reset is believed for so long.
_BELIEVED_SECONDS = 60.0


class Headroom(NamedTuple):
    """The tightest limit of an answer: the share of it that is left (0 to 1), and the seconds until it is refilled."""

    share: float
    seconds: float


def headroom_read(headers: Mapping[str, str]) -> Headroom | None:
    """The tightest of the limits that `headers` name; None when they name none. Cheap where there are none."""
    if "x-ratelimit-remaining-requests" in headers or "x-ratelimit-remaining" in headers:
        names = _OPENAI
    elif "anthropic-ratelimit-requests-remaining" in headers:
        names = _ANTHROPIC
    else:
        return None
    tightest: Headroom | None = None
    for remaining_name, limit_name, reset_name in names:
        remaining, limit = _amount(headers.get(remaining_name)), _amount(headers.get(limit_name))
        if remaining is None or not limit:
            continue
        share = min(1.0, remaining / limit)
        if tightest is None or share < tightest.share:
            seconds = reset_seconds(headers.get(reset_name, ""))
            tightest = Headroom(share, _BELIEVED_SECONDS if seconds is None else seconds)
    return tightest


def _amount(text: str | None) -> float | None:
    try:
        amount = float(text) if text else None
    except ValueError:
        return None
    return amount if amount is not None and amount >= 0 else None
