"""Abuse signals: raised by whoever sees something strange, closed by whoever decided about it. Subjects are plain texts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from iafactory.common import clock
from iafactory.common.ids import uuid7

from .models import AbuseSignal

# One statement, so that detectors that run at once make one row. A signal that was closed stays closed until the end of what it
# was about: what an operator has decided is not asked again five minutes later.
_RAISE = """
    INSERT INTO ratelimit_abusesignal
        (id, subject, signal, evidence, first_seen_at, last_seen_at, until, state, closed_at, closed_reason)
    SELECT %(id)s, %(subject)s, %(signal)s, %(evidence)s::jsonb, %(now)s, %(now)s, %(until)s, 'open', NULL, ''
    WHERE NOT EXISTS (
        SELECT FROM ratelimit_abusesignal
        WHERE subject = %(subject)s AND signal = %(signal)s AND state <> 'open' AND until > %(now)s
    )
    ON CONFLICT (subject, signal) WHERE state = 'open'
    DO UPDATE SET evidence = excluded.evidence, until = excluded.until,
        last_seen_at = greatest(ratelimit_abusesignal.last_seen_at, excluded.last_seen_at)
    RETURNING id, id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Raised:
    """The open row a signal has now, and whether it is new."""

    id: UUID
    is_new: bool


def signal_raise(
    *, subject: str, signal: str, evidence: dict[str, Any], until: datetime | None = None, now: datetime | None = None
) -> Raised | None:
    """Open a signal, or refresh evidence, `until` and last sight of the one that is open; safe in parallel.

    None, and nothing written, while an earlier decision about the same subject and signal still holds: a closed row's
    `until` lies ahead. `evidence` is figures as JSON has them, never a prompt.
    """
    parameters: dict[str, Any] = {
        "id": uuid7(),
        "subject": subject,
        "signal": signal,
        "evidence": json.dumps(evidence),
        "until": until,
        "now": now or clock.now(),
    }
    with connection.cursor() as cursor:
        cursor.execute(_RAISE, parameters)
        row = cursor.fetchone()
    return None if row is None else Raised(*row)


def signal_close(
    *, subjects: Sequence[str], state: str, reason: str, signal: str | None = None, now: datetime | None = None
) -> list[UUID]:
    """Close what is open about `subjects` (of one kind with `signal`) as acted on or dismissed; the ids of what was closed.

    Raises ValueError for a state to which nothing moves.
    """
    if state not in AbuseSignal.MOVES[AbuseSignal.State.OPEN]:
        raise ValueError(f"an open signal does not become {state!r}")
    found = AbuseSignal.objects.filter(subject__in=subjects, state=AbuseSignal.State.OPEN)
    if signal is not None:
        found = found.filter(signal=signal)
    with transaction.atomic():
        ids = list(found.select_for_update().order_by("id").values_list("id", flat=True))
        AbuseSignal.objects.filter(pk__in=ids).update(state=state, closed_at=now or clock.now(), closed_reason=reason[:200])
    return ids


def signals_fade(*, now: datetime) -> int:
    """Dismiss open signals that were not seen again before their `until`; how many."""
    faded = AbuseSignal.objects.filter(state=AbuseSignal.State.OPEN, until__lte=now)
    return faded.update(state=AbuseSignal.State.DISMISSED, closed_at=now, closed_reason="not seen again")
