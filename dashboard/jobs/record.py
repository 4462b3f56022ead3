"""Notes how scheduled tasks run, in the worker that runs them."""

import logging
from time import monotonic
from typing import Any

from celery import Task
from celery.signals import task_failure, task_postrun, task_prerun, task_retry
from django.conf import settings
from django.db import DatabaseError, connection, transaction

from iafactory.common import clock

from .models import RESULT_LENGTH, JobState

logger = logging.getLogger(__name__)

_STARTED = """
    INSERT INTO dashboard_jobstate (task, state, started_at, result, runs, failures) VALUES (%s, 'running', %s, '', 1, 0)
    ON CONFLICT (task) DO UPDATE SET state = 'running', started_at = excluded.started_at, runs = dashboard_jobstate.runs + 1
"""
_ENDED = """
    UPDATE dashboard_jobstate
    SET state = %(state)s, finished_at = %(now)s, milliseconds = %(milliseconds)s, result = %(result)s,
        succeeded_at = CASE WHEN %(state)s = 'done' THEN %(now)s ELSE succeeded_at END,
        failures = failures + CASE WHEN %(state)s = 'failed' THEN 1 ELSE 0 END
    WHERE task = %(task)s
"""
# Task id to the start of its run in this process, and to what it failed with.
_began: dict[str, float] = {}
_failed: dict[str, str] = {}


def scheduled_tasks() -> frozenset[str]:
    """Names of the tasks of the schedule."""
    return frozenset(entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values())


def _write(sql: str, parameters: Any) -> None:
    """A job does not fail because its state could not be noted."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql, parameters)
    except DatabaseError as error:
        logger.warning("a job's state was not noted: %s", error)


@task_prerun.connect
def _on_start(task_id: str, task: Task, **kwargs: Any) -> None:
    if task.name in scheduled_tasks():
        _began[task_id] = monotonic()
        _write(_STARTED, (task.name, clock.now()))


@task_failure.connect
def _on_failure(task_id: str, exception: Exception, **kwargs: Any) -> None:
    if task_id in _began:
        _failed[task_id] = f"{type(exception).__name__}: {exception}"


@task_retry.connect
def _on_retry(request: Any, reason: Any, **kwargs: Any) -> None:
    """A run that tries again later has not gone well."""
    if request.id in _began:
        _failed[request.id] = f"tries again after {type(reason.exc).__name__}: {reason.exc}"


@task_postrun.connect
def _on_end(task_id: str, task: Task, retval: Any = None, **kwargs: Any) -> None:
    began = _began.pop(task_id, None)
    if began is None:
        return
    failure = _failed.pop(task_id, None)
    _write(
        _ENDED,
        {
            "task": task.name,
            "state": JobState.Phase.DONE if failure is None else JobState.Phase.FAILED,
            "now": clock.now(),
            "milliseconds": round((monotonic() - began) * 1000),
            "result": (failure if failure is not None else "" if retval is None else str(retval))[:RESULT_LENGTH],
        },
    )
