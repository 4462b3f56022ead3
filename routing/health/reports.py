"""What becomes of news about routes and credentials: events that operators read, keys that are taken out of use."""

from asgiref.sync import sync_to_async
from django.db import close_old_connections, transaction

from billing.accounts.services import task_enqueue
from billing.events.services import SYSTEM, Actor, event_record
from routing.models import ModelProfile

from .state import RouteHealth
from .store import Moved

CREDENTIAL_REFUSED_TASK = "routing.credential_refused"


def breaker_event(route: str, state: RouteHealth, *, actor: Actor, reason: str = "") -> None:
    """Write that a breaker opened or closed; about a route that is gone nothing is written."""
    profile_id = ModelProfile.objects.filter(slug=route).values_list("pk", flat=True).first()
    if profile_id is None:
        return
    with transaction.atomic():
        event_record(
            kind="model_profile.breaker_opened" if state.opened else "model_profile.breaker_closed",
            object_type="model_profile",
            object_id=profile_id,
            actor=actor,
            after={"route": route, "openings": state.openings} if state.opened else {"route": route},
            reason=reason or state.reason,
        )


async def breaker_moved(moved: Moved) -> None:
    """A breaker moved by itself, which this process was the one to do: written down in a thread, outside the loop."""
    await sync_to_async(_breaker_moved)(moved)


def _breaker_moved(moved: Moved) -> None:
    close_old_connections()
    if not moved.state.by_operator:
        breaker_event(moved.route, moved.state, actor=SYSTEM)


async def credential_refused(credential: str, failure: str) -> None:
    """A provider refused a credential of ours: a worker looks into it. Unheard, the next refusal says so again."""
    if credential:
        await sync_to_async(task_enqueue)(CREDENTIAL_REFUSED_TASK, credential, failure)
