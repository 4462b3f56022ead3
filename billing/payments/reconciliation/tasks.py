"""The nightly comparison with gateways; each task may run late, twice and at once."""

from celery import shared_task

from billing.accounts.services import task_enqueue
from iafactory.common.task_retries import AGAIN_SOON

from . import comparing


@shared_task(name="billing.payments.reconcile", time_limit=120, **AGAIN_SOON)
def reconcile() -> int:
    """Plan every day that is over and hand it over."""
    comparing.days_plan()
    return _hand_over()


@shared_task(name="billing.payments.reconcile_waiting", time_limit=120)
def reconcile_waiting() -> int:
    """Hand over the days that wait to be compared, each to a task of its own; returns how many."""
    return _hand_over()


def _hand_over() -> int:
    due = comparing.reconciliations_due()
    for reconciliation_id in due:
        task_enqueue("billing.payments.reconciliation_run", str(reconciliation_id))
    return len(due)


@shared_task(name="billing.payments.reconciliation_run", time_limit=1500)
def reconciliation_run(reconciliation_id: str) -> None:
    """Compare one gateway's day. A gateway that does not answer is asked again later."""
    comparing.reconciliation_run(reconciliation_id=reconciliation_id)
