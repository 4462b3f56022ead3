"""What the schedule looks like now, and whether anybody works it off."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from celery import Task, current_app
from django.conf import settings

from iafactory.common.texts import shipped

from .models import JobState

# The job that runs most often says whether beat and a worker are there at all.
HEARTBEAT_TASK = "billing.ledger.reap_holds"
HEARTBEAT_LATE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When scheduled work was last begun, and whether that is too long ago; None where it never was."""

    at: datetime | None
    late: bool


def heartbeat(now: datetime) -> Heartbeat:
    """Judged from outside: by whoever asks, never by beat itself."""
    at = JobState.objects.filter(task=HEARTBEAT_TASK).values_list("started_at", flat=True).first()
    return Heartbeat(at, at is None or now - at > HEARTBEAT_LATE)


def task_of(name: str) -> Task | None:
    """The task of that name, if it exists in this release and stands in the schedule."""
    if name not in {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}:
        return None
    current_app.loader.import_default_modules()
    task: Task | None = current_app.tasks.get(name)
    return task


def description_of(name: str) -> str:
    """What a job does, in the words of its own docstring, which the catalogues have too."""
    task = task_of(name)
    text = (getattr(task, "__doc__", None) or "").strip()
    text = " ".join(text.split("\n\n")[0].split())
    return shipped(text)
