"""Writing events."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from iafactory.common import clock, request_id

from .models import Event


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: an operator, a user, a service with its key, or the system."""

    kind: Event.ActorKind
    id: UUID | None = None
    label: str = ""


SYSTEM = Actor(Event.ActorKind.SYSTEM, label="system")


def event_record(
    *,
    kind: str,
    object_type: str,
    object_id: object,
    actor: Actor,
    account_id: UUID | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
) -> Event:
    """Write one event; call it inside the transaction of the change it tells."""
    return Event.objects.create(
        at=clock.now(),
        kind=kind,
        object_type=object_type,
        object_id=str(object_id),
        account_id=account_id,
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor_label=actor.label,
        before=before or {},
        after=after or {},
        reason=reason,
        request_id=request_id.current(),
    )
