"""The Celery application: what must happen is a row in PostgreSQL, a task only makes it happen sooner."""

import logging.config
import os
from contextlib import ExitStack
from typing import Any

from celery import Celery, Task
from celery.signals import (
    before_task_publish,
    setup_logging,
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_process_shutdown,
)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "iafactory.settings")

# A task hears that its time is up while there is time left to say so.
SOFT_SHARE = 0.9


class LimitedTask(Task):  # type: ignore[misc, type-arg, unused-ignore]
    """A task that gets `SoftTimeLimitExceeded` at nine tenths of its time limit, and so fails with its reason noted."""

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Derive the soft limit when the task is registered."""
        bound = super().bind(app)
        if cls.time_limit is not None and cls.soft_time_limit is None:
            cls.soft_time_limit = int(cls.time_limit * SOFT_SHARE)
        return bound


app = Celery("iafactory", task_cls=LimitedTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(
    [
        "billing.ledger",
        "billing.accounts",
        "billing.abuse",
        "billing.invoices",
        "billing.notices",
        "billing.payments",
        "billing.payments.inbox",
        "billing.payments.reconciliation",
        "billing.subscriptions",
        "billing.webhooks",
        "dashboard.alerts",
        "dashboard.impersonation",
        "routing",
    ]
)

_REQUEST_ID = "iafactory_request_id"
# What ends with the tasks that run in this process: their request id and their spans.
_running: dict[str, ExitStack] = {}


@setup_logging.connect
def _log_as_the_settings_say(**kwargs: Any) -> None:
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
    logging.captureWarnings(True)


@before_task_publish.connect
def _pass_request_on(headers: dict[str, Any], **kwargs: Any) -> None:
    """Whoever asks for a task gives it the id of the request, or of the task, that it asks in."""
    from iafactory.common import request_id, tracing

    if request_id.current() != "-":
        headers.setdefault(_REQUEST_ID, request_id.current())
    tracing.pass_on(headers)


@task_prerun.connect
def _begin(task_id: str, task: Any, **kwargs: Any) -> None:
    """A task carries the id of the request that led to it; one that beat asked for is a request of its own."""
    from iafactory.common import request_id, tracing

    stack = _running[task_id] = ExitStack()
    stack.callback(request_id.begin, request_id.current())
    request_id.begin(_header(task, _REQUEST_ID) or task_id)
    carrier = {name: value for name in ("traceparent", "tracestate") if (value := _header(task, name))}
    stack.enter_context(tracing.continued(f"task {task.name}", carrier, task=task.name, task_id=task_id))


def _header(task: Any, name: str) -> str | None:
    """A header of the task's message; of a task run in place it lies one level deeper."""
    value: str | None = task.request.get(name) or (task.request.headers or {}).get(name)
    return value


@task_postrun.connect
def _end(task_id: str, **kwargs: Any) -> None:
    if (stack := _running.pop(task_id, None)) is not None:
        stack.close()


@worker_process_init.connect
def _start_tracing(**kwargs: Any) -> None:
    from iafactory.common.tracing import tracing_start

    tracing_start("worker")


@worker_process_shutdown.connect
def _stop_tracing(**kwargs: Any) -> None:
    from iafactory.common.tracing import tracing_stop

    tracing_stop()
