"""Brakes against guessing passwords, mailing strangers and opening accounts in heaps: attempts per subject and time window."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django_redis import get_redis_connection
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError
from rest_framework.request import Request

from iafactory.common import clock
from iafactory.common.client_address import address_network, request_client_address
from iafactory.common.errors import ApiError

logger = logging.getLogger(__name__)

# Looks and counts in one step: of any number of parallel attempts exactly as many pass as the limit leaves. A refused attempt
# is not counted, so that giving one back always makes room for one.
_ATTEMPT = """
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], count + 1, 'EX', ARGV[2])
return 1
"""
# Never below zero, and nothing is made of a window that is gone.
_GIVE_BACK = """
if tonumber(redis.call('GET', KEYS[1]) or '0') > 0 then return redis.call('DECR', KEYS[1]) end
return 0
"""
# A window's count outlives it by this much: our clock cuts the windows, Redis's only cleans up.
_GRACE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Brake:
    """At most as many attempts per subject in each window as the setting `limit_setting` says, exactly.

    Windows are cut by our clock, not by Redis's. Without Redis the brake is open, because its loss must not lock everybody out,
    unless the setting `LOGIN_BRAKES_WITHOUT_REDIS` says `refuse`.
    """

    name: str
    limit_setting: str
    window: timedelta

    def attempt(self, subject: str) -> None:
        """Count one attempt; raises ApiError 429 `too_many_attempts` when `subject` has none left in this window.

        503 `limits_unavailable` when attempts cannot be counted and are to be refused then.
        """
        key, left_seconds = self._window(subject)
        try:
            passed = self._run(_ATTEMPT, key, getattr(settings, self.limit_setting), left_seconds + _GRACE_SECONDS)
        except (ConnectionInterrupted, RedisError):
            logger.exception("attempts of %s cannot be counted", self.name)
            if settings.LOGIN_BRAKES_WITHOUT_REDIS == "refuse":
                raise ApiError(
                    503, "limits_unavailable", "Attempts cannot be counted at the moment.", retry_after_seconds=2
                ) from None
            return
        if not passed:
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
            get_redis_connection("default").delete(self._window(subject)[0])
        except (ConnectionInterrupted, RedisError):
            logger.exception("attempts of %s cannot be forgotten", self.name)

    def give_back(self, subject: str) -> None:
        """Uncount an attempt that should not count."""
        try:
            self._run(_GIVE_BACK, self._window(subject)[0])
        except (ConnectionInterrupted, RedisError):
            logger.exception("an attempt of %s cannot be given back", self.name)

    def _run(self, script: str, key: str, *arguments: int) -> int:
        return int(get_redis_connection("default").eval(script, 1, key, *arguments))

    def _window(self, subject: str) -> tuple[str, int]:
        window_seconds = int(self.window.total_seconds())
        number, elapsed = divmod(int(clock.now().timestamp()), window_seconds)
        digest = hashlib.sha256(subject.encode()).hexdigest()[:32]
        return f"iaf:brake:{self.name}:{digest}:{number}", window_seconds - elapsed


_QUARTER = timedelta(minutes=15)
_HOUR = timedelta(hours=1)

LOGIN_PER_EMAIL = Brake("login-email", "LOGIN_ATTEMPTS_PER_EMAIL", _QUARTER)
LOGIN_PER_ADDRESS = Brake("login-address", "LOGIN_ATTEMPTS_PER_ADDRESS", _QUARTER)
# Brakes of their own: guesses at the API must not shut operators out of the console. Few from one place, more from everywhere.
CONSOLE_LOGIN_PER_ADDRESS = Brake("console-login-address", "LOGIN_ATTEMPTS_PER_EMAIL", _QUARTER)
CONSOLE_LOGIN_PER_EMAIL = Brake("console-login-email", "LOGIN_ATTEMPTS_PER_ADDRESS", _QUARTER)
REGISTRATION_PER_ADDRESS = Brake("registration-address", "REGISTRATIONS_PER_ADDRESS", _HOUR)
REGISTRATION_TRIES_PER_ADDRESS = Brake("registration-tries-address", "REGISTRATION_ATTEMPTS_PER_ADDRESS", _HOUR)
REGISTRATION_TRIES_PER_EMAIL = Brake("registration-tries-email", "REGISTRATION_ATTEMPTS_PER_EMAIL", _HOUR)
RESET_PER_EMAIL = Brake("reset-email", "PASSWORD_RESETS_PER_EMAIL", _HOUR)
RESET_PER_ADDRESS = Brake("reset-address", "PASSWORD_RESETS_PER_ADDRESS", _HOUR)
RESET_CONFIRMATION_PER_ADDRESS = Brake("reset-confirmation-address", "PASSWORD_RESET_CONFIRMATIONS_PER_ADDRESS", _HOUR)
VERIFICATION_PER_USER = Brake("verification-user", "VERIFICATION_MAILS_PER_USER", _HOUR)
VERIFICATION_PER_ADDRESS = Brake("verification-address", "VERIFICATION_MAILS_PER_ADDRESS", _HOUR)
INVITATION_PER_ACCOUNT = Brake("invitation-account", "INVITATIONS_PER_ACCOUNT", _HOUR)
LEAKED_KEY_PER_ADDRESS = Brake("leaked-key-address", "LEAKED_KEY_REPORTS_PER_ADDRESS", _HOUR)


def client_house(request: Request | Any) -> str:
    """Whom to count a request against: the client's IPv4 address or IPv6 /64, one house; empty where nobody is named.

    `X-Forwarded-For` counts as far as `TRUSTED_PROXIES` wrote it.
    """
    meta: Mapping[str, Any] = request.META
    return address_network(request_client_address(meta))
