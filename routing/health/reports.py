"""What becomes of news about routes and credentials: events that operators read, keys that are taken out of use."""

from asgiref.sync import sync_to_async
from django.db import close_old_connections, transaction

from billing.accounts.services import task_enqueue
from billing.events.services import SYSTEM, Actor, event_record

from .state import RouteHealth
from .store import Moved

CREDENTIAL_REFUSED_TASK = "routing.credential_refused"


def breaker_event(route: str, state: RouteHealth, *, actor: Actor, reason: str = "") -> None:
    """Write that a breaker opened or closed."""
    with transaction.atomic():
        event_record(
            kind="route.opened" if state.opened else "route.closed",
            object_type="model_profile",
            object_id=route[:64],
            actor=actor,
            after={"route": route, "openings": state.openings, "retry_at_ms": state.retry_at_ms} if state.opened else {},
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
