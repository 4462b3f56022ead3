"""Beginning, keeping and finishing what takes several pages. A draft belongs to the operator who began it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from billing.accounts.models import User
from iafactory.common import clock

from .models import ConsoleDraft

KEPT = timedelta(days=1)


def draft_begin(*, kind: str, operator: User, data: dict[str, Any], secret: str = "") -> ConsoleDraft:
    """Keep a first page; forgets what anybody left lying for a day."""
    now = clock.now()
    ConsoleDraft.objects.filter(updated_at__lt=now - KEPT).delete()
    return ConsoleDraft.objects.create(kind=kind, operator=operator, data=data, secret=secret, created_at=now, updated_at=now)


def draft_of(*, kind: str, operator: User, draft_id: UUID | None) -> ConsoleDraft | None:
    """The operator's own draft, not older than a day; None for anything else."""
    if draft_id is None:
        return None
    return ConsoleDraft.objects.filter(pk=draft_id, kind=kind, operator=operator, updated_at__gte=clock.now() - KEPT).first()


def draft_keep(draft: ConsoleDraft) -> None:
    """Store what was entered, unless the draft was finished meanwhile."""
    draft.updated_at = clock.now()
    values = {name: getattr(draft, name) for name in ("data", "secret", "updated_at")}
    ConsoleDraft.objects.filter(pk=draft.pk, result="").update(**values)


def draft_finish(draft: ConsoleDraft, write: Callable[[ConsoleDraft], str]) -> tuple[str, bool]:
    """Do what a draft asks for, once: `write` answers where the result is. The address, and whether it was done just now.

    All in one transaction, under the draft's lock; what `write` raises leaves the draft as it was.
    """
    with transaction.atomic():
        locked = ConsoleDraft.objects.select_for_update().get(pk=draft.pk)
        if locked.result:
            return locked.result, False
        locked.result = write(locked)
        locked.data, locked.secret, locked.updated_at = {}, "", clock.now()
        locked.save()
    return locked.result, True
