"""`GET /metrics`: what the processes counted, and what the database says at this moment."""

import hmac
from collections.abc import Iterable, Iterator
from datetime import datetime
from ipaddress import ip_address, ip_network

from django.conf import settings
from django.db.models import Count, Q, Sum
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET
from django_redis import get_redis_connection
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from billing.ledger.models import BooksVerification, Hold
from iafactory.common import clock
from iafactory.common.client_address import request_client_address
from iafactory.common.metrics import exposition

from .alerts.selectors import alert_figures
from .jobs.models import JobState
from .jobs.selectors import heartbeat


class DatabaseCollector(Collector):
    """Figures that are rows, not events: read when asked."""

    def collect(self) -> Iterable[Metric]:
        now = clock.now()
        holds = Hold.objects.aggregate(
            total=Count("pk"), overdue=Count("pk", filter=Q(expires_at__lte=now)), credits=Sum("credits")
        )
        yield GaugeMetricFamily("iafactory_holds_open", "Calls and services under way.", value=holds["total"])
        yield GaugeMetricFamily("iafactory_holds_overdue", "Holds past their expiry.", value=holds["overdue"])
        yield GaugeMetricFamily("iafactory_credits_held", "Credits pinned by holds.", value=float(holds["credits"] or 0))
        yield from self._books()
        yield from self._jobs()
        beat = heartbeat(now)
        age = (now - beat.at).total_seconds() if beat.at is not None else -1
        yield GaugeMetricFamily("iafactory_beat_age_seconds", "Since scheduled work last began; -1 never.", value=age)
        yield from self._queues()
        yield from self._alerts(now)

    def _alerts(self, now: datetime) -> Iterator[Metric]:
        figures = alert_figures(now=now)
        alerts = GaugeMetricFamily("iafactory_alerts_open", "Open alerts.", labels=["level"])
        for level, count in figures.by_level.items():
            alerts.add_metric([level], count)
        yield alerts
        yield GaugeMetricFamily("iafactory_alert_deliveries_waiting", "Alerts waiting to be sent.", value=figures.waiting)
        failed = "Alerts that no target took, of the last day."
        yield GaugeMetricFamily("iafactory_alert_deliveries_failed", failed, value=figures.failed)

    def _books(self) -> Iterator[Metric]:
        last = BooksVerification.objects.order_by("-started_at").values_list("passed", "finished_at").first()
        if last is not None:
            passed, at = last
            yield GaugeMetricFamily("iafactory_books_verified", "1 when the last verification passed.", value=int(passed))
            yield GaugeMetricFamily("iafactory_books_verified_at", "When it ended, epoch seconds.", value=at.timestamp())

    def _jobs(self) -> Iterator[Metric]:
        succeeded = GaugeMetricFamily("iafactory_job_succeeded_at", "When a job last ended well.", labels=["task"])
        seconds = GaugeMetricFamily("iafactory_job_seconds", "Length of a job's last run.", labels=["task"])
        failures = GaugeMetricFamily("iafactory_job_failures", "Runs of a job that failed, ever.", labels=["task"])
        for job in JobState.objects.all():
            if job.succeeded_at is not None:
                succeeded.add_metric([job.task], job.succeeded_at.timestamp())
            if job.milliseconds is not None:
                seconds.add_metric([job.task], job.milliseconds / 1000)
            failures.add_metric([job.task], job.failures)
        yield from (succeeded, seconds, failures)

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("iafactory_task_queue_depth", "Tasks waiting for a worker.", labels=["queue"])
        queue = settings.CELERY_TASK_DEFAULT_QUEUE
        try:
            depth.add_metric([queue], get_redis_connection("default").llen(queue))
        except (RedisError, OSError):
            return
        yield depth


def _allowed(request: HttpRequest) -> bool:
    """Whether the scraper stands in a network of `METRICS_NETWORKS` or knows `METRICS_TOKEN`."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if (
        settings.METRICS_TOKEN
        and scheme.lower() == "bearer"
        and hmac.compare_digest(token.encode(), settings.METRICS_TOKEN.encode())
    ):
        return True
    try:
        address = ip_address(request_client_address(request.META))
    except ValueError:
        return False
    return any(address in ip_network(network) for network in settings.METRICS_NETWORKS)


@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format; 404 for everybody else."""
    if not _allowed(request):
        return HttpResponse(status=404)
    return HttpResponse(exposition([DatabaseCollector()]), content_type=CONTENT_TYPE_LATEST)
