"""Work on providers that nobody waits for."""

from uuid import UUID

from celery import shared_task

from .health import checks


@shared_task(name="routing.check_health", time_limit=240)
def check_health() -> int:
    """Ask every route in use whether it is well; how many are. Asking twice costs two cheap calls and changes nothing else."""
    return sum(result.ok for result in checks.profiles_check())


@shared_task(name="routing.credential_refused", time_limit=120)
def credential_refused(credential_id: str, failure: str) -> None:
    """Take a credential out of use that a provider refused, unless a call with it shows that it is good."""
    checks.credential_look_into(UUID(credential_id), failure)
