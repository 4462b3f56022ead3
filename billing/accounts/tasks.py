"""Work about accounts that nobody waits for."""

from smtplib import SMTPException

from celery import shared_task

from iafactory.common import clock
from iafactory.common.task_retries import AGAIN_SOON

from . import members, preferences, services

# The mail server was away or refused: it may take the mail later.
_RETRY = {
    "autoretry_for": (OSError, SMTPException),
    "max_retries": 6,
    "retry_backoff": 5,
    "retry_jitter": True,
    "time_limit": 60,
}


@shared_task(name="billing.accounts.email_verification_send", **_RETRY)
def email_verification_send(user_id: str) -> None:
    """Mail the verification link; nothing to do for a verified user, so a second run after the click is silent."""
    services.email_verification_send(user_id=user_id)


@shared_task(name="billing.accounts.password_reset_send", **_RETRY)
def password_reset_send(email: str) -> None:
    """Mail the reset link, if the address is known."""
    services.password_reset_send(email=email)


@shared_task(name="billing.accounts.sessions_flush_expired", time_limit=300, **AGAIN_SOON)
def sessions_flush_expired() -> None:
    """Drop the records of expired refresh tokens and of sessions that ended."""
    services.sessions_flush_expired()


@shared_task(name="billing.accounts.leaked_key_mail_send", **_RETRY)
def leaked_key_mail_send(key_id: str) -> None:
    """Tell the owners that their key was revoked as leaked."""
    services.leaked_key_mail_send(key_id=key_id)


@shared_task(name="billing.accounts.unblock_due", time_limit=60)
def unblock_due() -> int:
    """End the blocks whose time is over."""
    return services.accounts_unblock_due(now=clock.now())


@shared_task(name="billing.accounts.warn_of_unused_keys", time_limit=600, **AGAIN_SOON)
def warn_of_unused_keys() -> int:
    """Have owners told of keys that nobody uses; a second run tells nobody twice."""
    return services.unused_keys_warn(now=clock.now())


@shared_task(name="billing.accounts.unused_keys_mail_send", **_RETRY)
def unused_keys_mail_send(key_ids: list[str]) -> None:
    """Tell the owners of one account which of its keys nobody uses."""
    services.unused_keys_mail_send(key_ids=key_ids)


@shared_task(name="billing.accounts.invitation_send", **_RETRY)
def invitation_send(invitation_id: str) -> None:
    """Mail an invitation; nothing to do for one that is not open any more."""
    members.invitation_send(invitation_id=invitation_id)


@shared_task(name="billing.accounts.time_zones_apply", time_limit=60)
def time_zones_apply() -> None:
    """Let changed time zones count once their running day is over."""
    preferences.time_zones_apply(now=clock.now())
