"""Work about accounts that nobody waits for."""

from smtplib import SMTPException

from celery import shared_task

from . import services

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


@shared_task(name="billing.accounts.sessions_flush_expired", time_limit=300)
def sessions_flush_expired() -> None:
    """Drop the records of expired refresh tokens."""
    services.sessions_flush_expired()
