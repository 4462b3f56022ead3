"""Brakes against guessing passwords and against mailing strangers: attempts per subject and fixed time window."""

import hashlib
import ipaddress
import logging
from dataclasses import dataclass
from datetime import timedelta

from django.core.cache import cache
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError
from rest_framework.request import Request

from iafactory.common import clock
from iafactory.common.errors import ApiError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Brake:
    """At most `limit` attempts per subject in each window. Counting is atomic, so parallel guesses gain nothing.

    Windows are cut by our clock, not by Redis's. Without Redis the brake is open: its loss must not lock everybody out.
    """

    name: str
    limit: int
    window: timedelta

    def attempt(self, subject: str) -> None:
        """Count one attempt; raises ApiError 429 `too_many_attempts` when `subject` has none left in this window."""
        key, left_seconds = self._window(subject)
        try:
            cache.add(key, 0, timeout=left_seconds + 60)
            count = cache.incr(key)
        except (ConnectionInterrupted, RedisError, ValueError):
            logger.exception("attempts of %s cannot be counted", self.name)
            return
        if count > self.limit:
            raise ApiError(
                429,
                "too_many_attempts",
                "Too many attempts. Wait before you try again.",
                retry_after_seconds=left_seconds,
                extra={"retry_after_seconds": left_seconds},
            )

    def forget(self, subject: str) -> None:
        """Start `subject`'s window again, after a success."""
        try:
            cache.delete(self._window(subject)[0])
        except (ConnectionInterrupted, RedisError):
            logger.exception("attempts of %s cannot be forgotten", self.name)

    def give_back(self, subject: str) -> None:
        """Uncount the attempt that succeeded."""
        try:
            cache.decr(self._window(subject)[0])
        except (ConnectionInterrupted, RedisError, ValueError):
            logger.exception("an attempt of %s cannot be given back", self.name)

    def _window(self, subject: str) -> tuple[str, int]:
        window_seconds = int(self.window.total_seconds())
        number, elapsed = divmod(int(clock.now().timestamp()), window_seconds)
        digest = hashlib.sha256(subject.encode()).hexdigest()[:32]
        return f"brake:{self.name}:{digest}:{number}", window_seconds - elapsed


LOGIN_PER_EMAIL = Brake("login-email", 10, timedelta(minutes=15))
LOGIN_PER_ADDRESS = Brake("login-address", 60, timedelta(minutes=15))
RESET_PER_EMAIL = Brake("reset-email", 5, timedelta(hours=1))
RESET_PER_ADDRESS = Brake("reset-address", 30, timedelta(hours=1))
VERIFICATION_PER_USER = Brake("verification-user", 5, timedelta(hours=1))


def client_address(request: Request) -> str:
    """Who to count a request against: the peer's IPv4 address or IPv6 /64, one house; empty for a UNIX socket.

    The server in front decides what `REMOTE_ADDR` is; `X-Forwarded-For` alone is anybody's claim.
    """
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)
