"""Whether the product's own work is done: schedule, jobs, queues, messages to customers, and what was left lying."""

from copy import copy
from datetime import datetime, timedelta
from typing import Any

from celery.schedules import maybe_schedule
from django.conf import settings
from django.db.models import Q
from django_celery_beat.models import PeriodicTask
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from billing.accounts.models import Membership
from billing.invoices.delivery import invoices_undelivered
from billing.ledger.models import Hold
from billing.payments.models import Refund
from billing.subscriptions.dunning import notices_unsent
from billing.subscriptions.models import Subscription
from billing.webhooks.models import WebhookDelivery, WebhookEndpoint
from dashboard.jobs.models import JobState
from dashboard.jobs.selectors import heartbeat
from iafactory.common.admin import list_url
from iafactory.common.texts import Text

from ..models import AlertDelivery, Level
from ..queues import queue_depths
from .base import Finding, Thresholds

LOOK_TASK = "dashboard.alerts.look"
# After a longer pause of the looks themselves whatever was due meanwhile is late, and about to run.
LOOKS_PAUSED = timedelta(minutes=10)
# An account that nobody can write to gets no mails.
HAS_ADDRESS = ~Q(account__billing_email="") | Q(account__memberships__role=Membership.Role.OWNER)


def scheduled_work(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Whether anybody works the schedule off; judged by web processes and workers too, so that beat need not live."""
    beat = heartbeat(now)
    age = None if beat.at is None else int((now - beat.at).total_seconds())
    if age is not None and age <= thresholds["seconds"]:
        return []
    since = Text("never") if beat.at is None else f"{beat.at:%Y-%m-%d %H:%M:%S} UTC"
    return [
        Finding(
            subject="beat",
            title=Text("Scheduled work stands still"),
            text=Text(
                "It last began: %(since)s. Holds are not closed, nothing is renewed or retried. Start beat and a worker.",
                since=since,
            ),
            level=Level.CRITICAL,
            figures={"seconds": age},
            link=list_url("django_celery_beat.periodictask"),
        )
    ]


def jobs(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Jobs of the schedule that keep failing, or that did not run when they should have."""
    off = set(PeriodicTask.objects.filter(enabled=False).values_list("name", flat=True))
    states = {state.task: state for state in JobState.objects.all()}
    looks = states.get(LOOK_TASK)
    lateness_told = looks is None or looks.succeeded_at is None or now - looks.succeeded_at <= LOOKS_PAUSED
    found = []
    for name, entry in sorted(settings.CELERY_BEAT_SCHEDULE.items()):
        state = states.get(entry["task"])
        if name in off or state is None:
            continue
        well = state.succeeded_at
        failing = timedelta(minutes=thresholds["failing_minutes"])
        if state.state == JobState.Phase.FAILED and (well is None or now - well > failing):
            title, step = Text("Job %(job)s fails", job=name), 2
        elif lateness_told and _overdue(entry["schedule"], state, now) > timedelta(minutes=thresholds["late_minutes"]):
            title, step = Text("Job %(job)s is late", job=name), 1
        else:
            continue
        last = f"{well:%Y-%m-%d %H:%M} UTC" if well else Text("never")
        found.append(
            Finding(
                subject=name,
                title=title,
                text=Text("It last ended well: %(last)s. %(text)s", last=last, text=state.result if step == 2 else ""),
                step=step,
                figures={"runs": state.runs, "failures": state.failures},
                link=list_url("django_celery_beat.periodictask", q=name),
            )
        )
    return found


def _overdue(entry: Any, state: JobState, now: datetime) -> timedelta:
    """How long before `now` the run after the last good one should have begun."""
    if state.succeeded_at is None:
        return timedelta(0)
    # The settings' own schedule is beat's as well.
    schedule = copy(maybe_schedule(entry))
    schedule.nowfun = lambda: now
    left: timedelta = schedule.remaining_estimate(state.succeeded_at)
    return -left


def queues(thresholds: Thresholds, now: datetime) -> list[Finding] | None:
    """Tasks waiting for workers, and bookings waiting in web processes."""
    try:
        tasks = get_redis_connection("default").llen(settings.CELERY_TASK_DEFAULT_QUEUE)
        bookings = queue_depths(now=now)
    except (RedisError, OSError):
        return None
    found = []
    if tasks > thresholds["tasks"]:
        found.append(
            Finding(
                subject="tasks",
                title=Text("%(count)s task waits for a worker", "%(count)s tasks wait for a worker", count=tasks),
                text=Text("Start more workers, and see which tasks take so long."),
                figures={"tasks": tasks},
                link=list_url("django_celery_beat.periodictask"),
            )
        )
    if bookings > thresholds["bookings"]:
        found.append(
            Finding(
                subject="bookings",
                title=Text("%(count)s booking waits for PostgreSQL", "%(count)s bookings wait for PostgreSQL", count=bookings),
                text=Text("PostgreSQL does not answer or is too slow; with a full queue new calls are refused."),
                level=Level.CRITICAL,
                figures={"bookings": bookings},
                link=list_url("billing.hold"),
            )
        )
    return found


def customer_webhooks(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Endpoints of customers that take nothing, and messages that we do not get sent."""
    since = now - timedelta(hours=thresholds["failing_hours"])
    failing = WebhookEndpoint.objects.filter(
        Q(is_enabled=True, failing_since__lte=since)
        | Q(disabled_by=WebhookEndpoint.DisabledBy.SYSTEM, disabled_at__gt=now - timedelta(days=1))
    ).count()
    found = []
    if failing >= thresholds["endpoints"]:
        found.append(
            Finding(
                subject="endpoints",
                title=Text(
                    "%(count)s endpoint of customers takes nothing",
                    "%(count)s endpoints of customers take nothing",
                    count=failing,
                ),
                text=Text("One is its owner's matter; many at once may be ours."),
                figures={"endpoints": failing},
                link=list_url("billing.webhookendpoint"),
            )
        )
    overdue = WebhookDelivery.objects.filter(
        state=WebhookDelivery.State.PENDING,
        next_attempt_at__lte=now - timedelta(minutes=thresholds["overdue_minutes"]),
        endpoint__is_enabled=True,
    ).count()
    if overdue >= thresholds["overdue"]:
        found.append(
            Finding(
                subject="sending",
                title=Text(
                    "%(count)s message to customers is overdue", "%(count)s messages to customers are overdue", count=overdue
                ),
                text=Text("Workers do not keep up with sending."),
                figures={"messages": overdue},
                link=list_url("billing.webhookdelivery", state__exact=WebhookDelivery.State.PENDING),
            )
        )
    return found


def left_undone(thresholds: Thresholds, now: datetime) -> list[Finding]:
    """Rows that sweepers should have worked long ago, and what was given up."""
    late = now - timedelta(minutes=thresholds["minutes"])
    day = now - timedelta(days=1)
    failed = AlertDelivery.objects.filter(
        state=AlertDelivery.State.FAILED, finished_at__gt=day, target__is_enabled=True
    ).exclude(occasion=AlertDelivery.Occasion.TEST)
    stuck = Refund.objects.filter(
        state__in=(Refund.State.REQUESTED, Refund.State.PENDING),
        requested_at__lte=now - timedelta(days=thresholds["refund_days"]),
    )
    holds = Hold.objects.filter(expires_at__lte=now - timedelta(minutes=2)).count()
    renewals = Subscription.objects.filter(state__in=Subscription.LIVE).exclude(last_error="").count()
    reminders = notices_unsent(now=late).count()
    invoices = invoices_undelivered(now=late).filter(HAS_ADDRESS).distinct().count()
    refunds, alerts = stuck.count(), failed.count()
    counts = (
        (
            "holds",
            holds,
            Text("%(count)s hold outlives its expiry", "%(count)s holds outlive their expiry", count=holds),
            list_url("billing.hold"),
        ),
        (
            "renewals",
            renewals,
            Text("%(count)s renewal fails", "%(count)s renewals fail", count=renewals),
            list_url("billing.subscription", state__exact=Subscription.State.ACTIVE),
        ),
        (
            "reminders",
            reminders,
            Text("%(count)s reminder was not mailed", "%(count)s reminders were not mailed", count=reminders),
            list_url("billing.dunningnotice"),
        ),
        (
            "invoices",
            invoices,
            Text("%(count)s invoice was not mailed", "%(count)s invoices were not mailed", count=invoices),
            list_url("billing.invoice"),
        ),
        (
            "refunds",
            refunds,
            Text("%(count)s refund is stuck", "%(count)s refunds are stuck", count=refunds),
            list_url("billing.refund", state__exact=Refund.State.PENDING),
        ),
        (
            "alerts",
            alerts,
            Text("%(count)s alert could not be delivered", "%(count)s alerts could not be delivered", count=alerts),
            list_url("dashboard.alertdelivery", state__exact=AlertDelivery.State.FAILED),
        ),
    )
    return [
        Finding(subject=subject, title=title, figures={"count": count}, link=link)
        for subject, count, title, link in counts
        if count
    ]
