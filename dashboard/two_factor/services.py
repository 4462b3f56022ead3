"""Setting up, checking and resetting operators' second factors."""

import base64
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import transaction

from billing.accounts.models import User
from billing.accounts.second_factor import SecondFactor
from billing.accounts.services import sessions_revoke
from billing.events.models import Event
from billing.events.services import Actor, event_record
from iafactory.common import clock
from iafactory.common.crypto import secret_hash
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import OperatorDevice, RecoveryCode

RECOVERY_CODES = 10
# Without letters and digits that look alike.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # pragma: allowlist secret
_SECRET_BYTES = 20


def required_of(user: User) -> bool:
    """Whether `user` needs a second factor to act as an operator."""
    return bool(settings.OPERATOR_TWO_FACTOR and user.is_staff)


def device_of(user: User) -> OperatorDevice | None:
    """The operator's app, once it was confirmed."""
    return OperatorDevice.objects.filter(user=user, confirmed=True).first()


def device_begin(*, user: User) -> OperatorDevice:
    """The app to be confirmed, with a secret of its own; the same until it is. ApiError 409 `two_factor_exists` after that."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        device = OperatorDevice.objects.filter(user=user).first()
        if device is not None and device.confirmed:
            raise ApiError(409, "two_factor_exists", "A second factor is set up.")
        if device is None:
            secret = os.urandom(_SECRET_BYTES).hex()
            device = OperatorDevice.objects.create(user=user, name="app", confirmed=False, secret=secret)
    return device


def device_uri(device: OperatorDevice) -> str:
    """What the QR code says, as authenticator apps read it."""
    label = quote(f"{settings.SPECTACULAR_SETTINGS['TITLE']}:{device.user.email}")
    query = {"secret": device_secret_text(device), "issuer": settings.SPECTACULAR_SETTINGS["TITLE"]}
    return f"otpauth://totp/{label}?{urlencode(query, quote_via=quote)}"


def device_secret_text(device: OperatorDevice) -> str:
    """The secret as people type it into an app: base 32."""
    return base64.b32encode(bytes.fromhex(device.secret)).decode().rstrip("=")


def device_confirm(*, user: User, code: str) -> tuple[OperatorDevice, list[str]]:
    """Begin to use the app, whose first code this is; answers the recovery codes, which are shown once.

    ApiError 401 `two_factor_code_wrong`, 429 `too_many_attempts`, 409 `two_factor_exists`.
    """
    device = device_begin(user=user)
    with _counting(device) as locked:
        if locked.confirmed:
            raise ApiError(409, "two_factor_exists", "A second factor is set up.")
        passed = locked.verify_token(_typed(code))
        if passed:
            locked.confirmed = True
            locked.save(update_fields=["confirmed"])
            codes = _recovery_codes_make(user)
            _event("set_up", user, _actor(user))
    if not passed:
        raise _wrong()
    return locked, codes


def code_check(*, user: User, code: str) -> OperatorDevice:
    """Prove who the operator is by the app's code or a recovery code, each of which works once.

    ApiError 403 `two_factor_not_set_up`, 401 `two_factor_code_wrong`, 429 `too_many_attempts`.
    """
    device = device_of(user)
    if device is None:
        raise ApiError(403, "two_factor_not_set_up", "Set up your second factor in the console first.")
    typed = _typed(code)
    with _counting(device) as locked:
        recovery = RecoveryCode.objects.filter(user=user, code_hash=secret_hash(typed), used_at__isnull=True).first()
        if recovery is not None:
            recovery.used_at = clock.now()
            recovery.save(update_fields=["used_at"])
            locked.throttle_reset()
            left = RecoveryCode.objects.filter(user=user, used_at__isnull=True).count()
            _event("recovery_code_used", user, _actor(user), after={"left": left})
        passed = recovery is not None or locked.verify_token(typed)
    if not passed:
        raise _wrong()
    return locked


def recovery_codes_renew(*, user: User, code: str) -> list[str]:
    """New recovery codes in the place of all before; needs a code as a login does, and refuses as `code_check`."""
    code_check(user=user, code=code)
    with transaction.atomic():
        codes = _recovery_codes_make(user)
        _event("recovery_codes_renewed", user, _actor(user))
    return codes


def device_reset(*, user: User, actor: Actor, reason: str) -> bool:
    """Forget an operator's app and codes, and end their sessions: they set it up anew. False where there was nothing."""
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        deleted, _ = OperatorDevice.objects.filter(user=user).delete()
        RecoveryCode.objects.filter(user=user).delete()
        if not deleted:
            return False
        sessions_revoke(user=user)
        _event("reset", user, actor, reason=reason)
    return True


class OperatorSecondFactor(SecondFactor):
    """What the APIs' sessions ask: billing stands below this package."""

    def required_of(self, user: User) -> bool:
        return required_of(user)

    def prove(self, user: User, code: str) -> str:
        mark: str = code_check(user=user, code=code).persistent_id
        return mark

    def proven(self, user: User, mark: str) -> bool:
        device = device_of(user)
        return device is not None and device.persistent_id == mark


@contextmanager
def _counting(device: OperatorDevice) -> Iterator[OperatorDevice]:
    """A transaction with the device locked. A counted failure is kept: what is wrong is raised after it."""
    with transaction.atomic():
        locked = OperatorDevice.objects.select_for_update().filter(pk=device.pk).first()
        if locked is None:
            raise ApiError(403, "two_factor_not_set_up", "Set up your second factor in the console first.")
        allowed, told = locked.verify_is_allowed()
        if not allowed:
            left = max(1, round((told["locked_until"] - clock.now()).total_seconds()))
            said = Text(
                "Too many wrong codes. Wait %(left)s second.", "Too many wrong codes. Wait %(left)s seconds.", left=left
            )
            raise ApiError(429, "too_many_attempts", said, retry_after_seconds=left, extra={"retry_after_seconds": left})
        yield locked


def _typed(code: str) -> str:
    return code.strip().lower().replace(" ", "").replace("-", "")


def _wrong() -> ApiError:
    return ApiError(401, "two_factor_code_wrong", "The code is wrong, was used, or has run out.")


def _recovery_codes_make(user: User) -> list[str]:
    RecoveryCode.objects.filter(user=user).delete()
    codes = ["".join(secrets.choice(_ALPHABET) for _ in range(12)) for _ in range(RECOVERY_CODES)]
    RecoveryCode.objects.bulk_create([RecoveryCode(user=user, code_hash=secret_hash(code)) for code in codes])
    return [f"{code[:4]}-{code[4:8]}-{code[8:]}" for code in codes]


def _actor(user: User) -> Actor:
    return Actor(Event.ActorKind.OPERATOR, id=user.pk, label=user.email)


def _event(what: str, user: User, actor: Actor, *, after: dict[str, int] | None = None, reason: str = "") -> None:
    event_record(kind=f"two_factor.{what}", object_type="user", object_id=user.pk, actor=actor, after=after, reason=reason)
