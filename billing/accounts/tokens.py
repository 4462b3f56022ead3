"""What proves who somebody is for a while: session tokens, and the tokens inside mailed links."""

import binascii
import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.core import signing
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.token_blacklist.models import OutstandingToken
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token
from rest_framework_simplejwt.utils import datetime_from_epoch, get_md5_hash_password

from .models import User

API_KEY_PREFIX = "iaf_"
SECOND_FACTOR_CLAIM = "2fa"
_VERIFICATION_SALT = "billing.accounts.email-verification"


def api_key_secret() -> str:
    """A new API key secret: `iaf_` and 43 characters that carry 256 random bits."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class SessionTokens:
    """What a login answers. The access token works for `expires_in` seconds, the refresh token works once."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: str = "Bearer"  # noqa: S105  a scheme, not a secret


class SessionRefreshToken(RefreshToken):
    """A refresh token that the database knows by its id alone, so that a stolen dump opens no session.

    Verifying checks signature, kind and expiry; whether it was used or revoked is checked by the service, under a lock.
    """

    def verify(self, *args: Any, **kwargs: Any) -> None:
        Token.verify(self)

    @classmethod
    def for_user(cls, user: User) -> "SessionRefreshToken":  # type: ignore[override]
        token: SessionRefreshToken = Token.for_user.__func__(cls, user)  # type: ignore[attr-defined]
        OutstandingToken.objects.create(
            user=user,
            jti=token[api_settings.JTI_CLAIM],
            token="",
            created_at=token.current_time,
            expires_at=datetime_from_epoch(token["exp"]),
        )
        return token


def password_mark(user: User) -> str:
    """What tokens carry about the password they were made under; a changed password makes them worthless."""
    return get_md5_hash_password(user.password)


def session_tokens(user: User, *, second_factor: str = "") -> SessionTokens:
    """A new pair of tokens for `user`; the refresh token is on record. `second_factor` says by what else they were proven."""
    refresh = SessionRefreshToken.for_user(user)
    if second_factor:
        # The access token, and the pair that follows this one, carry it on.
        refresh[SECOND_FACTOR_CLAIM] = second_factor
    return SessionTokens(
        access_token=str(refresh.access_token),
        refresh_token=str(refresh),
        expires_in=int(api_settings.ACCESS_TOKEN_LIFETIME.total_seconds()),
    )


def access_token(user: User) -> str:
    """An access token alone, for a page of ours that acts for `user`: it ends by itself, and nothing renews it."""
    return str(AccessToken.for_user(user))


def email_verification_token(user: User) -> str:
    """Proof that its holder reads the mail of `user`'s present address, for `EMAIL_VERIFICATION_TIMEOUT`."""
    return signing.dumps([user.pk.hex, user.email], salt=_VERIFICATION_SALT)


def email_verification_read(token: str) -> tuple[UUID, str] | None:
    """The user id and address in a verification token; None if it is forged, damaged or too old."""
    try:
        user_id, email = signing.loads(token, salt=_VERIFICATION_SALT, max_age=settings.EMAIL_VERIFICATION_TIMEOUT)
        return UUID(user_id), email
    except (signing.BadSignature, ValueError, TypeError, binascii.Error):
        return None


class _PasswordResetTokens(PasswordResetTokenGenerator):
    key_salt = "billing.accounts.password-reset"


_password_reset_tokens = _PasswordResetTokens()


def password_reset_token(user: User) -> str:
    """Proof for `PASSWORD_RESET_TIMEOUT` seconds, good once: a new password or a login makes it worthless."""
    return f"{user.pk.hex}.{_password_reset_tokens.make_token(user)}"


def password_reset_user_id(token: str) -> UUID | None:
    """The id that a reset token names, not yet proven."""
    try:
        return UUID(token.partition(".")[0])
    except ValueError:
        return None


def password_reset_valid(user: User, token: str) -> bool:
    """Whether `token` may set a new password for `user` now."""
    return user.is_active and _password_reset_tokens.check_token(user, token.partition(".")[2])
