"""Writing events."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from iafactory.common import clock, request_id

from .models import Event


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: an operator, a user, a service with its key, or the system."""

    kind: Event.ActorKind
    id: UUID | None = None
    label: str = ""


SYSTEM = Actor(Event.ActorKind.SYSTEM, label="system")
_operator: ContextVar[Actor | None] = ContextVar("operator_on_behalf", default=None)


@contextmanager
def on_behalf_of_customer(operator: Actor) -> Iterator[None]:
    """While this lasts, what a customer does is done by `operator` in their name, and events say so.

    Only events: the customer's own rights stay the measure of what may be done.
    """
    token = _operator.set(operator)
    try:
        yield
    finally:
        _operator.reset(token)


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
    operator = _operator.get()
    customer = actor if operator is not None and actor.kind == Event.ActorKind.USER else None
    who = operator if operator is not None and customer is not None else actor
    return Event.objects.create(
        at=clock.now(),
        kind=kind,
        object_type=object_type,
        object_id=str(object_id),
        account_id=account_id,
        actor_kind=who.kind,
        actor_id=who.id,
        actor_label=who.label,
        on_behalf_of_id=customer.id if customer is not None else None,
        on_behalf_of_label=customer.label if customer is not None else "",
        before=before or {},
        after=after or {},
        reason=reason,
        request_id=request_id.current(),
    )


def form_first_use(form_id: UUID) -> bool:
    """Whether nobody acted on this form of the console before; from then on somebody has, if the transaction commits.

    Call it inside the transaction of the deed. The same form sent at once waits here for the first.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_operatorform (id, at) VALUES (%s, %s) ON CONFLICT DO NOTHING", [form_id, clock.now()]
        )
        return bool(cursor.rowcount)
